// The clock of this session's region: stamping local commits.
//
// A local transaction's stamp is its commit timestamp whenever that is ahead of the region's clock: PRE_COMMIT advances
// the clock, COMMIT advances it to the actual timestamp, and nothing is written. When physical time is behind the clock,
// or the transaction runs under a foreign replication origin, PRE_COMMIT takes the next stamp of the clock and writes it
// down (pg/override.h). Prepared transactions: pg/twophase.h.
// Relied on by: I5, I11; the resolver's comparison of versions in every region.
#pragma once

#include "pg/shmem.h"

namespace mrsync
{

// A commit's timestamp is taken a little after its stamp; the ceiling must cover it.
constexpr int64_t kCommitMargin = USECS_PER_SEC;

// Called by _PG_init.
void clockInit();

// The file with the clock's ceiling is older than the database where the server was a standby, or was restored from a backup
// that took long. Then the database itself says where the clock has to start. Once, before the first stamp; inside a
// transaction. Throws PgError.
void clockRecall(RegionShared *region);

// The applier's transactions carry their source's stamp: they are not stamped here.
void clockApplierMode(bool on);
bool clockIsApplierMode();

// A new stamp, above every stamp given or adopted before.
Hlc clockTick(RegionShared *region);

// What this session has committed or seen is stamped at or below; for everybody to ask, as often as they like.
Hlc clockNow(RegionShared *region);

// Raises the clock above a stamp that has come from elsewhere, durably.
void clockAdopt(RegionShared *region, Hlc hlc);

// Microseconds of a clock that nobody sets: for how long something takes or is to be waited for, never for when it was.
int64_t steadyNow();

// A transaction id that lies in the past, with its epoch.
FullTransactionId fullXid(TransactionId xid);

} // namespace mrsync
