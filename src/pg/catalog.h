// mrsync's own relations by name.
#pragma once

#include "pg/server.h"

#include <string>
#include <vector>

namespace mrsync
{

// The oid of a table or index of schema mrsync, or InvalidOid. May ereport: call it under the guard.
Oid catalogRelation(const char *name);

// Whether this very table is in mrsync.replicated_table; a partition never is. May ereport: call it under the guard.
bool isReplicated(Oid relation);

// The replication slot of a region's database.
void slotName(Oid database, char (&name)[NAMEDATALEN]);

// The replication origin under which rows of a region are written in this database. That of the region itself says of which
// group it is, too: so the shared catalogs tell which databases are regions, where the durable file (pg/shmem.h) does not.
std::string originName(Oid database, const std::string &region);
std::string ownOriginName(Oid database, const std::string &region, const std::string &group);

struct KnownRegion
{
	Oid database;
	std::string region;
	std::string group;
	bool operator==(const KnownRegion &) const = default;
};
// Inside a transaction. Throws PgError.
std::vector<KnownRegion> knownRegions();

enum class SlotState
{
	Free,
	InUse,
	Missing,
	Invalidated, // WAL that it needs is gone
};
SlotState slotState(const char *name); // may ereport, too

} // namespace mrsync
