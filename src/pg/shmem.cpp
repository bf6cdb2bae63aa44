#include "pg/shmem.h"

#include "pg/bounds.h"
#include "pg/guard.h"
#include "pg/guc.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

extern "C"
{
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/shmem.h"
}

namespace mrsync
{

namespace
{

// The durable file: which databases are regions, and below which stamp their clocks never start.
// Relative to the data directory, which is every server process's working directory.
constexpr char kClockFile[] = "mrsync.clock";
constexpr uint32_t kFileMagic = 0x6d727301;
constexpr int64_t kCeilingAhead = 5 * USECS_PER_SEC;
// A clock ahead of physical time moves a microsecond per commit. Little, because every crash starts it at the ceiling.
constexpr int64_t kCeilingAheadOfDrift = 100 * 1000;

struct FileEntry
{
	Oid database;
	uint32_t reserved;
	char region[kRegionIdLength];
	char group[kRegionIdLength];
	int64_t ceiling;
};

struct FileHeader
{
	uint32_t magic;
	uint32_t count;
	pg_crc32c crc; // of the entries
	uint32_t reserved;
};

struct Shared
{
	LWLock *lock;
	std::atomic<Latch *> launcherLatch;
	int capacity;
	RegionShared regions[FLEXIBLE_ARRAY_MEMBER];
};

Shared *shared = nullptr;
StampSlot *slots = nullptr; // one for each process that can have transactions
shmem_request_hook_type previousRequestHook = nullptr;
shmem_startup_hook_type previousStartupHook = nullptr;

Size sharedSize() { return add_size(offsetof(Shared, regions), mul_size(sizeof(RegionShared), guc::maxRegions)); }

Size slotsSize() { return mul_size(sizeof(StampSlot), MaxBackends); }

void regionClear(RegionShared *region)
{
	std::memset(static_cast<void *>(region), 0, sizeof *region);
	ConditionVariableInit(&region->acks);
}

// But for its database, by which others find it.
void regionFill(RegionShared *region, const char *name, const char *group, int64_t clock, int64_t ceiling)
{
	regionClear(region);
	strlcpy(region->region, name, sizeof region->region);
	strlcpy(region->group, group, sizeof region->group);
	region->clock.store(clock);
	region->ceiling.store(ceiling);
}

void requestHook()
{
	if (previousRequestHook)
		previousRequestHook();
	RequestAddinShmemSpace(sharedSize());
	RequestAddinShmemSpace(boundsShmemSize());
	RequestAddinShmemSpace(slotsSize());
	RequestNamedLWLockTranche("mrsync", 1);
}

// In the postmaster: a damaged file stops the start, since a clock that starts too low silently loses writes.
void fileRead()
{
	int fd = open(kClockFile, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
	{
		if (errno == ENOENT)
			return;
		ereport(FATAL, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", kClockFile)));
	}
	FileHeader header;
	static FileEntry entries[64];
	bool good = read(fd, &header, sizeof header) == static_cast<ssize_t>(sizeof header) && header.magic == kFileMagic &&
				header.count <= lengthof(entries);
	if (good)
	{
		ssize_t size = static_cast<ssize_t>(header.count * sizeof(FileEntry));
		good = read(fd, entries, size) == size;
		pg_crc32c crc;
		INIT_CRC32C(crc);
		COMP_CRC32C(crc, entries, static_cast<size_t>(size));
		FIN_CRC32C(crc);
		good = good && EQ_CRC32C(crc, header.crc);
	}
	close(fd);
	if (!good)
		ereport(FATAL, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("file \"%s\" is damaged", kClockFile),
						errdetail("It says below which stamp the clocks of this server's regions must not start."),
						errhint("Restore it from a backup of this data directory.")));
	if (static_cast<int>(header.count) > shared->capacity)
		ereport(FATAL, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("this server has %u mrsync regions, but mrsync.max_regions is %d", header.count,
							   shared->capacity),
						errhint("Set mrsync.max_regions to at least %u.", header.count)));
	for (uint32_t i = 0; i < header.count; ++i)
	{
		const FileEntry &entry = entries[i];
		regionFill(&shared->regions[i], entry.region, entry.group, entry.ceiling, entry.ceiling);
		shared->regions[i].database = entry.database;
	}
}

void startupHook()
{
	if (previousStartupHook)
		previousStartupHook();
	bool found;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = static_cast<Shared *>(ShmemInitStruct("mrsync", sharedSize(), &found));
	if (!found)
	{
		shared->lock = &GetNamedLWLockTranche("mrsync")->lock;
		shared->launcherLatch.store(nullptr);
		shared->capacity = guc::maxRegions;
		for (int i = 0; i < shared->capacity; ++i)
			regionClear(&shared->regions[i]);
		fileRead();
	}
	boundsShmemInit();
	slots = static_cast<StampSlot *>(ShmemInitStruct("mrsync stamps", slotsSize(), &found));
	if (!found)
		std::memset(static_cast<void *>(slots), 0, slotsSize());
	LWLockRelease(AddinShmemInitLock);
}

// With the lock held. `changed` is written with this database and ceiling in place of its own.
void fileWrite(const RegionShared *changed, Oid database, int64_t ceiling)
{
	pgCall(
		[&]
		{
			FileHeader header{};
			FileEntry entries[64] = {};
			for (int i = 0; i < shared->capacity; ++i)
			{
				const RegionShared &region = shared->regions[i];
				Oid of = &region == changed ? database : region.database;
				if (!OidIsValid(of))
					continue;
				FileEntry &entry = entries[header.count++];
				entry.database = of;
				memcpy(entry.region, region.region, sizeof entry.region);
				memcpy(entry.group, region.group, sizeof entry.group);
				entry.ceiling = &region == changed ? ceiling : region.ceiling.load();
			}
			size_t size = header.count * sizeof(FileEntry);
			header.magic = kFileMagic;
			INIT_CRC32C(header.crc);
			COMP_CRC32C(header.crc, entries, size);
			FIN_CRC32C(header.crc);

			char temporary[64];
			snprintf(temporary, sizeof temporary, "%s.tmp", kClockFile);
			int fd = OpenTransientFile(temporary, O_RDWR | O_CREAT | O_TRUNC);
			if (fd < 0)
				ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", temporary)));
			if (write(fd, &header, sizeof header) != static_cast<ssize_t>(sizeof header) ||
				write(fd, entries, size) != static_cast<ssize_t>(size))
			{
				if (errno == 0)
					errno = ENOSPC;
				ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", temporary)));
			}
			if (pg_fsync(fd) != 0)
				ereport(ERROR, (errcode_for_file_access(), errmsg("could not fsync file \"%s\": %m", temporary)));
			CloseTransientFile(fd);
			durable_rename(temporary, kClockFile, ERROR);
		});
}

// Lets the lock go whatever happens; LWLockRelease cannot fail for a lock that is held.
class LockHold
{
public:
	LockHold() { pgCall([] { LWLockAcquire(shared->lock, LW_EXCLUSIVE); }); }
	~LockHold() { LWLockRelease(shared->lock); }
	LockHold(const LockHold &) = delete;
	LockHold &operator=(const LockHold &) = delete;
};

uint64_t filterBit(uint32_t xid, int which)
{
	uint64_t mixed = (xid + 1) * (which ? 0x9E3779B97F4A7C15ull : 0xC2B2AE3D27D4EB4Full);
	return (mixed >> 40) & (kFilterWords * 64 - 1);
}

} // namespace

void XidFilter::add(uint32_t xid)
{
	for (int which = 0; which < 2; ++which)
	{
		uint64_t bit = filterBit(xid, which);
		words[bit / 64].fetch_or(1ull << (bit % 64));
	}
}

bool XidFilter::mayContain(uint32_t xid) const
{
	if (!loaded.load())
		return true;
	for (int which = 0; which < 2; ++which)
	{
		uint64_t bit = filterBit(xid, which);
		if (!(words[bit / 64].load() & (1ull << (bit % 64))))
			return false;
	}
	return true;
}

const char *toText(WorkerKind kind)
{
	switch (kind)
	{
	case WorkerKind::None:
		return "none";
	case WorkerKind::Coordinator:
		return "coordinator";
	case WorkerKind::Extractor:
		return "extractor";
	case WorkerKind::Applier:
		return "applier";
	}
	return "?";
}

void shmemInit()
{
	previousRequestHook = shmem_request_hook;
	shmem_request_hook = requestHook;
	previousStartupHook = shmem_startup_hook;
	shmem_startup_hook = startupHook;
}

bool shmemReady() { return shared != nullptr; }

void shmemRequire()
{
	if (!shmemReady())
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "mrsync is not loaded at server start")
			.detail("Its shared memory does not exist, so no database of this server can be a region.")
			.hint("SELECT * FROM mrsync.settings_check() says which line postgresql.conf needs; then restart the server.");
}

RegionShared *regionByDatabase(Oid database)
{
	if (!shared || !OidIsValid(database))
		return nullptr;
	for (int i = 0; i < shared->capacity; ++i)
		if (shared->regions[i].database == database)
			return &shared->regions[i];
	return nullptr;
}

RegionShared *myRegion() { return regionByDatabase(MyDatabaseId); }

RegionShared *regionAt(int index)
{
	return shared && index < shared->capacity ? &shared->regions[index] : nullptr;
}

std::span<StampSlot> stampSlots() { return {slots, static_cast<size_t>(MaxBackends)}; }

StampSlot &myStampSlot() { return slots[version::procNumber()]; }

LWLock *shmemLock() { return shared->lock; }

RegionShared *regionRegister(Oid database, const std::string &name, const std::string &group, bool isNew)
{
	LockHold hold;
	if (RegionShared *known = regionByDatabase(database))
		return known;
	RegionShared *region = regionFree();
	int64_t now = GetCurrentTimestamp();
	regionFill(region, name.c_str(), group.c_str(), now, now + kCeilingAhead);
	region->filter.loaded.store(isNew);
	fileWrite(region, database, now + kCeilingAhead);
	region->database = database; // only now: were the file not written, it would be half a region
	return region;
}

RegionShared *regionFree()
{
	for (int i = 0; i < shared->capacity; ++i)
		if (!OidIsValid(shared->regions[i].database))
			return &shared->regions[i];
	throw PgError(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "this server has no place for another mrsync region")
		.detail("mrsync.max_regions is " + std::to_string(shared->capacity) + ".")
		.hint("Raise mrsync.max_regions in postgresql.conf and restart the server.");
}

std::vector<pid_t> regionForget(Oid database)
{
	std::vector<pid_t> pids;
	LockHold hold;
	RegionShared *region = regionByDatabase(database);
	if (!region)
		return pids;
	for (const WorkerShared &worker : region->workers)
		if (worker.pid != 0)
			pids.push_back(worker.pid);
	region->database = InvalidOid;
	fileWrite(nullptr, InvalidOid, 0);
	return pids;
}

void ceilingEnsure(RegionShared *region, Hlc atLeast)
{
	if (region->ceiling.load() >= atLeast.value)
		return;
	LockHold hold;
	if (region->ceiling.load() >= atLeast.value)
		return;
	int64_t ceiling = std::max<int64_t>(atLeast.value + kCeilingAheadOfDrift, GetCurrentTimestamp() + kCeilingAhead);
	fileWrite(region, region->database, ceiling);
	region->ceiling.store(ceiling);
}

namespace
{

// With the lock held. The name stays as it is: somebody may be reading it.
void originFree(OriginShared &place) { place.origin.store(kFreedOrigin); }

// With the lock held. An id has one region and a region one id, so what says otherwise is of a time that is over. False:
// there is no place for it.
bool originPut(RegionShared *region, RepOriginId origin, const std::string &peer)
{
	bool known = false;
	for (OriginShared &place : region->origins)
	{
		uint32_t id = place.origin.load();
		if (id == InvalidRepOriginId || id == kFreedOrigin)
			continue;
		bool same = peer == place.region;
		if (id == origin && same)
			known = true;
		else if (id == origin || same)
			originFree(place);
	}
	if (known)
		return true;
	OriginShared *best = nullptr; // rather one that never had a name, for the readers of the old one
	for (OriginShared &place : region->origins)
	{
		uint32_t id = place.origin.load();
		if (id == InvalidRepOriginId || (id == kFreedOrigin && !best))
			best = &place;
		if (id == InvalidRepOriginId)
			break;
	}
	if (!best)
		return false;
	strlcpy(best->region, peer.c_str(), sizeof best->region);
	best->origin.store(origin);
	return true;
}

} // namespace

void originRegister(RegionShared *region, RepOriginId origin, const std::string &peer)
{
	LockHold hold;
	if (!originPut(region, origin, peer))
		throw PgError(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
					  "a region can have at most " + std::to_string(kMaxPeers) + " peers");
}

bool originsSet(RegionShared *region, const std::map<RepOriginId, std::string> &peers)
{
	LockHold hold;
	for (OriginShared &place : region->origins)
	{
		uint32_t id = place.origin.load();
		if (id != InvalidRepOriginId && id != kFreedOrigin && peers.count(static_cast<RepOriginId>(id)) == 0)
			originFree(place);
	}
	bool all = true;
	for (const auto &[origin, peer] : peers)
		all &= originPut(region, origin, peer);
	return all;
}

const char *originRegion(const RegionShared *region, RepOriginId origin)
{
	if (origin == InvalidRepOriginId)
		return nullptr;
	for (const OriginShared &place : region->origins)
	{
		uint32_t id = place.origin.load();
		if (id == origin)
			return place.region;
		if (id == InvalidRepOriginId)
			return nullptr;
	}
	return nullptr;
}

RepOriginId originOf(const RegionShared *region, const std::string &of)
{
	for (const OriginShared &place : region->origins)
	{
		uint32_t id = place.origin.load();
		if (id == InvalidRepOriginId)
			break;
		if (id != kFreedOrigin && of == place.region)
			return static_cast<RepOriginId>(id);
	}
	return InvalidRepOriginId;
}

PeerShared *peerShared(RegionShared *region, const std::string &peer, bool create)
{
	for (PeerShared &place : region->peers)
		if (peer == place.region)
			return &place;
	if (!create)
		return nullptr;
	LockHold hold;
	for (PeerShared &place : region->peers)
		if (place.region[0] == '\0')
		{
			strlcpy(place.region, peer.c_str(), sizeof place.region);
			return &place;
		}
	return nullptr;
}

void launcherLatchSet() { shared->launcherLatch.store(MyLatch); }

void launcherWake() { workerWake(shared->launcherLatch); }

void workerWake(std::atomic<Latch *> &latch)
{
	if (Latch *to = latch.load())
		SetLatch(to);
}

} // namespace mrsync
