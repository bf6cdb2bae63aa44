// What the processes of one server share about its regions: plain data in shared memory.
//
// One RegionShared per database that is a region. Its clock is the ground of I5 and I11, its lastCommitEnd and
// extractorLatch are how a commit wakes the extractor without waiting for it (I4).
// A region enters by regionRegister (region_init, at commit) or from the durable file at server start, so that the first
// writer after a restart meets a clock that has not gone back.
#pragma once

#include "pg/server.h"

#include "core/hlc.h"

extern "C"
{
#include "storage/condition_variable.h"
}

namespace mrsync
{

constexpr int kRegionIdLength = 64; // with the terminating zero
constexpr int kMaxPeers = 64;
constexpr int kMaxWorkers = kMaxPeers + 2;
constexpr uint32_t kFilterWords = 16384; // 2^20 bits

// An exact set would need pruning in step with the table; a filter only ever errs towards one index probe too many.
struct OverrideFilter
{
	std::atomic<bool> loaded; // every override of the table is in; until then every xid may have one
	std::atomic<uint64_t> words[kFilterWords];

	void add(uint32_t xid);
	bool mayContain(uint32_t xid) const;
};

constexpr uint32_t kFreedOrigin = PG_UINT16_MAX + 1; // beyond every RepOriginId

// A replication origin under which rows that other regions wrote are written here. The region itself has one, too: for
// rows of its own that come back to it, and for what only its own extractor is to believe (resend).
struct OriginShared
{
	std::atomic<uint32_t> origin; // RepOriginId; kFreedOrigin: free again; 0: free, as are all behind it. Written last.
	char region[kRegionIdLength];
};

struct PeerShared // what a peer told us on its control topic
{
	char region[kRegionIdLength];			  // "" : free
	std::atomic<uint64_t> ackedSequence;	  // of ours, applied there
	std::atomic<uint64_t> headSequence;		  // its own newest transaction in its topic, by its heartbeat
	std::atomic<int64_t> heartbeatAt;		  // when we received it (our physical clock)
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
	std::atomic<uint64_t> transactions;
	std::atomic<uint64_t> events;
	std::atomic<uint64_t> parked;		   // applier: events parked since start
	std::atomic<bool> caughtUp;			   // applier: at the end of the topic
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
	std::atomic<uint64_t> ackedSequence; // the broker holds our transactions up to here; heartbeats say so
	std::atomic<Latch *> extractorLatch; // set at commit; null: no extractor
	std::atomic<Latch *> coordinatorLatch;
	ConditionVariable acks; // broadcast when a peer acknowledged, or decodedEnd moved while someone waits
	std::atomic<uint32_t> waiters; // sessions in wait_for_peers
	OriginShared origins[kMaxPeers + 1];
	PeerShared peers[kMaxPeers];
	WorkerShared workers[kMaxWorkers];
	OverrideFilter filter;
};
static_assert(std::is_trivially_destructible_v<RegionShared>);
static_assert(std::atomic<int64_t>::is_always_lock_free && std::atomic<Latch *>::is_always_lock_free);

// Called by _PG_init while shared_preload_libraries are loaded.
void shmemInit();
// False when the library was not preloaded: nothing but the pure functions works then.
bool shmemReady();

// The region of this session's database, or null. Cheap: cached in the process.
RegionShared *myRegion();
RegionShared *regionByDatabase(Oid database);
// The n-th place, free ones included; null beyond the end. For the launcher.
RegionShared *regionAt(int index);
LWLock *shmemLock(); // guards the texts, and the coming and going of regions and workers

// Makes a database a region, durably. Throws PgError when all places are taken (mrsync.max_regions).
RegionShared *regionRegister(Oid database, const std::string &region, const std::string &group);
// The opposite; the place becomes free, durably.
void regionForget(Oid database);

// Makes it certain that after any crash the clock starts at `atLeast` or above. Costs an fsync when it is not so yet,
// and then reaches further: five seconds from now, or a tenth of a second from a clock that is ahead of time; so that it
// is rare. Throws PgError when the file cannot be written.
void ceilingEnsure(RegionShared *region, Hlc atLeast);

// Which origin stands for which peer, as committed in mrsync.region: never told by a transaction that may roll back, for
// the next region_connect gets the same id. A wrong name here gives rows a wrong version, and regions other winners.
void originsSet(RegionShared *region, const std::map<RepOriginId, std::string> &peers); // all of them; others are forgotten
void originRegister(RegionShared *region, RepOriginId origin, const std::string &peer); // one
const char *originRegion(const RegionShared *region, RepOriginId origin); // null: not ours; good for a moment
RepOriginId originOf(const RegionShared *region, std::string_view peer);	 // InvalidRepOriginId: not known here

PeerShared *peerShared(RegionShared *region, const std::string &peer, bool create); // null: unknown, or no place

void launcherLatchSet();			  // registers MyLatch as the launcher's
void launcherWake();
void workerWake(std::atomic<Latch *> &latch);

} // namespace mrsync
