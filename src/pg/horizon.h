// The horizon: how new, at most, something is whose commit timestamp is not known any more.
//
// PostgreSQL forgets commit timestamps when it freezes, when track_commit_timestamp is turned off, at a promotion. What is
// left is the order of transaction ids. mrsync.horizon holds samples: below this id every transaction had ended when the
// region's clock stood there. So a version by an id below a sample's is not above the sample's clock.
// Relied on by: the applier, which never guesses (I1).
#pragma once

#include "pg/shmem.h"

namespace mrsync
{

// Adds a sample. region: null while the database is only about to become one. Inside a transaction. Throws PgError.
void horizonSample(RegionShared *region);

// Drops samples that nothing needs: all but the newest below the stable point, and every second one of the older half
// when there are very many. What remains is still a bound, a coarser one. Inside a transaction. Throws PgError.
void horizonPrune(RegionShared *region);

// The bound. Throws PgError.
Hlc horizonOf(RegionShared *region, TransactionId xmin);

} // namespace mrsync
