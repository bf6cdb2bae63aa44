// mrsync's own relations by name.
#pragma once

#include "pg/server.h"

namespace mrsync
{

// The oid of a table or index of schema mrsync, or InvalidOid. May ereport: call it under the guard.
Oid catalogRelation(const char *name);

// The replication slot of a region's database.
void slotName(Oid database, char (&name)[NAMEDATALEN]);

enum class SlotState
{
	Free,
	InUse,
	Missing,
	Invalidated, // WAL that it needs is gone
};
SlotState slotState(const char *name); // may ereport, too

} // namespace mrsync
