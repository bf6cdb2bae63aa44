// Bounds: below what each backend is going to commit, while it does. They are what makes a watermark a promise (core/watermark.h).
//
// One place in shared memory per backend, so that a commit writes to no line of memory that another one reads or writes: one
// store before its stamp, one after its commit record. Whoever stamps a local transaction publishes first: PRE_COMMIT, and
// COMMIT PREPARED (pg/twophase.cpp). Appliers do not: what they commit are no events of this region.
#pragma once

#include "pg/shmem.h"

namespace mrsync
{

// What this backend commits from now on is stamped above the clock as it is. To be called before the clock is read for the stamp.
void boundPublish(RegionShared *region);

// At XACT_EVENT_COMMIT, once lastCommitEnd covers the commit record, and at XACT_EVENT_ABORT; the end of a process aborts
// its transaction, too.
void boundClear();

// The lowest of the bounds that are set in this database.
std::optional<Hlc> boundsLowest(Oid database);

// For shmem.cpp.
Size boundsShmemSize();
void boundsShmemInit();

} // namespace mrsync
