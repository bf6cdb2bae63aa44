// What the processes of one server share about its regions: plain data in shared memory.
//
// One RegionShared per database that is a region. Its clock is the ground of I5 and I11, its lastCommitEnd and
// extractorLatch are how a commit wakes the extractor without waiting for it (I4).
// A region enters by regionRegister (region_init, at commit) or from the durable file at server start, so that the first
// writer after a restart meets a clock that has not gone back.
#pragma once

#include "pg/server.h"

#include "core/hlc.h"

#include <span>
#include <vector>

extern "C"
{
#include "storage/condition_variable.h"
}

namespace mrsync
{

constexpr int kRegionIdLength = 64; // with the terminating zero
constexpr int kMaxPeers = 64;
constexpr int kMaxWorkers = kMaxPeers + 3; // coordinator, extractor, one that takes back (worker/take_back.h)
constexpr uint32_t kFilterWords = 16384; // 2^20 bits

// The xids of which more is written down than their commit timestamp: overrides, entries and markers of rewritten tables.
// An exact set would need pruning in step with the tables; a filter only ever errs towards one index probe too many.
struct XidFilter
{
	std::atomic<bool> loaded; // all that the tables hold is in; until then every xid may be
	std::atomic<uint64_t> words[kFilterWords];

	void add(uint32_t xid);
	bool mayContain(uint32_t xid) const;
};

constexpr int kMaxLateStamps = 4096;

struct LateStampShared // a stamp that is not written down yet, see pg/override.h
{
	std::atomic<uint32_t> xid; // 0: free. Written last.
	std::atomic<int64_t> hlc;
};

struct StampSlot // of one process: its transaction between stamp and end, see pg/override.h
{
	std::atomic<uint32_t> top; // 0: none. Written last.
	std::atomic<uint32_t> last; // the highest id of its subtransactions, or its own
	std::atomic<int64_t> bound;
	std::atomic<int64_t> stamp;
};

constexpr uint32_t kFreedOrigin = PG_UINT16_MAX + 1; // beyond every RepOriginId

// A replication origin under which rows that other regions wrote are written here. The region itself has one, too: for
// rows of its own that come in again, and for what only its own extractor is to believe (resend).
struct OriginShared
{
	std::atomic<uint32_t> origin; // RepOriginId; kFreedOrigin: free again; 0: free, as are all behind it. Written last.
	char region[kRegionIdLength];
};

struct PeerShared // what a peer told us on its control topic, and how far we are with it
{
	char region[kRegionIdLength];		 // "" : free
	std::atomic<uint64_t> ackedSequence; // of ours, applied there
	// Its own newest transaction, and its watermark: of what lies above the sequence all is stamped above the watermark.
	// Neither goes back, and the sequence is written first: who reads the watermark first, has a pair that is true.
	std::atomic<uint64_t> headSequence;
	std::atomic<int64_t> watermark;
	std::atomic<int64_t> heartbeatAt;	   // when we received them (our physical clock)
	std::atomic<int64_t> appliedWatermark; // of its events there is none at or below it that is not applied here; 0: none
	// Its commits may have overtaken each other by stamp: of those stamped above orderKnownFrom that were applied here, none came so late that
	// one stamped higher by more than mostOvertaken was before it. 0: not known.
	std::atomic<int64_t> orderKnownFrom;
	std::atomic<int64_t> mostOvertaken;
};

enum class WorkerKind : int
{
	None,
	Coordinator,
	Extractor,
	Applier,
};
const char *toText(WorkerKind kind);

struct WorkerShared
{
	WorkerKind kind;
	char peer[kRegionIdLength]; // applier: its source region
	pid_t pid;					// 0: not running
	TimestampTz startedAt;
	TimestampTz endedAt;
	int32_t restarts; // in a row, without a healthy minute between
	char state[1024]; // what it is doing or waiting for, for a person; "" : in order
	bool degraded;	  // the state is one that does not pass by itself
	TimestampTz stateAt;
	char lastError[1024]; // message — detail — hint
	TimestampTz lastErrorAt;
	uint64_t kafkaOptions; // what it was started with, see kafkaOptionsStamp
	// progress, written by the worker without the lock
	std::atomic<uint64_t> sequence; // extractor: last produced; applier: last applied
	std::atomic<int64_t> hlc;		// of that transaction
	std::atomic<int64_t> committedAt; // of that transaction, at its source
	std::atomic<int64_t> progressAt;
	std::atomic<int64_t> takenAt;		   // applier: when the newest transaction was taken in hand, by our clock
	std::atomic<int64_t> takenCommittedAt; // when that was committed, at its source
	std::atomic<uint64_t> transactions;
	std::atomic<uint64_t> events;
	std::atomic<uint64_t> parked;		   // applier: events parked since start
	std::atomic<bool> caughtUp;			   // applier: runs, is at the end of the topic, and has nothing in hand
	std::atomic<Latch *> latch;			   // to wake it; null: not running
};

struct RegionShared
{
	Oid database; // InvalidOid: free
	char region[kRegionIdLength];
	char group[kRegionIdLength];
	std::atomic<int64_t> clock;
	std::atomic<int64_t> ceiling;		 // durable: the clock never starts below it
	std::atomic<uint64_t> lastCommitEnd; // end of the newest commit record of this database
	std::atomic<uint64_t> decodedEnd;	 // the extractor has decoded up to here
	std::atomic<uint64_t> ackedSequence; // the broker holds our transactions up to here
	// Since the server started it was made sure that the topics hold nothing of this region which its database lacks; or it
	// is on record what is to be done (worker/set_back.h).
	std::atomic<bool> historyKnown;
	std::atomic<bool> takingBack; // that is not done yet: so there is no promise of a watermark
	std::atomic<bool> clockRecalled; // see clockRecall
	std::atomic<Latch *> extractorLatch; // set at commit; null: no extractor
	std::atomic<Latch *> coordinatorLatch;
	// What the coordinator waits for the extractor for: to have decoded this far (0: it does not), and to have produced more
	// than was spoken of in the last heartbeat.
	std::atomic<uint64_t> watermarkNeeds;
	std::atomic<uint64_t> heartbeatSequence;
	std::atomic<int64_t> stablePoint; // see core/watermark.h; 0: there is none
	std::atomic<int64_t> prunable;	  // below that nothing is needed any more to decide events, nor to judge conflicts; 0: there is nothing
	std::atomic<int64_t> prunedUpTo;  // durable in mrsync.pruning; raised before anything is pruned
	ConditionVariable acks; // broadcast when a peer acknowledged, or, while someone waits, decodedEnd or appliedWatermark moved
	std::atomic<uint32_t> waiters; // sessions in wait_for_peers and wait_for
	std::atomic<int64_t> asideLookedAt; // when an applier last looked whether rows held aside are free
	std::atomic<int64_t> historiesKeptAt; // when an applier last looked after the histories of rows
	OriginShared origins[kMaxPeers + 1];
	PeerShared peers[kMaxPeers];
	WorkerShared workers[kMaxWorkers];
	XidFilter filter;
	std::atomic<bool> hasEntries;	 // mrsync.row_entry and mrsync.base_marker hold something, perhaps
	std::atomic<uint32_t> lateCount;
	LateStampShared late[kMaxLateStamps];
};
static_assert(std::is_trivially_destructible_v<RegionShared>);
static_assert(std::atomic<int64_t>::is_always_lock_free && std::atomic<Latch *>::is_always_lock_free);

// Called by _PG_init while shared_preload_libraries are loaded.
void shmemInit();
// False when the library was not preloaded: nothing but the pure functions works then.
bool shmemReady();
// Throws PgError (55000) in that case.
void shmemRequire();

// The region of this session's database, or null. Cheap: cached in the process.
RegionShared *myRegion();
RegionShared *regionByDatabase(Oid database);
// The n-th place, free ones included; null beyond the end. For the launcher.
RegionShared *regionAt(int index);
// Of all processes of the server; of this process.
std::span<StampSlot> stampSlots();
StampSlot &myStampSlot();
LWLock *shmemLock(); // guards the texts, and the coming and going of regions and workers

// A place that nobody has, at this moment. Throws PgError when all are taken (mrsync.max_regions).
RegionShared *regionFree();
// Makes a database a region, durably. Throws PgError when all places are taken, or the file cannot be written.
// isNew: nothing is written down yet of its rows' versions.
RegionShared *regionRegister(Oid database, const std::string &region, const std::string &group, bool isNew);
// The opposite; the place becomes free, durably. Returns the pids of the workers that run for it; no more come.
std::vector<pid_t> regionForget(Oid database);

// Makes it certain that after any crash the clock starts at `atLeast` or above. Costs an fsync when it is not so yet,
// and then reaches further: five seconds from now, or a tenth of a second from a clock that is ahead of time; so that it
// is rare. Throws PgError when the file cannot be written.
void ceilingEnsure(RegionShared *region, Hlc atLeast);

// Which origin stands for which peer, as committed in mrsync.region: never told by a transaction that may roll back, for
// the next region_connect gets the same id. A wrong name here gives rows a wrong version, and regions other winners; so an
// applier whose origin has no place must not write, and originRegister throws PgError.
bool originsSet(RegionShared *region, const std::map<RepOriginId, std::string> &peers); // all; false: not all have a place
void originRegister(RegionShared *region, RepOriginId origin, const std::string &peer); // one
const char *originRegion(const RegionShared *region, RepOriginId origin); // null: not ours; good for a moment
RepOriginId originOf(const RegionShared *region, const std::string &of); // InvalidRepOriginId: not known

PeerShared *peerShared(RegionShared *region, const std::string &peer, bool create); // null: unknown, or no place

void launcherLatchSet();			  // registers MyLatch as the launcher's
void launcherWake();
void workerWake(std::atomic<Latch *> &latch);

} // namespace mrsync
