// mrsync's own relations by name.
#pragma once

#include "pg/server.h"

namespace mrsync
{

// The oid of a table or index of schema mrsync, or InvalidOid. May ereport: call it under the guard.
Oid catalogRelation(const char *name);

// Whether this very table is in mrsync.replicated_table; a partition never is. May ereport: call it under the guard.
bool isReplicated(Oid relation);

// The replication slot of a region's database.
void slotName(Oid database, char (&name)[NAMEDATALEN]);

} // namespace mrsync
