// The clock of this session's region: stamping local commits, and reading stamps back.
//
// A local transaction's stamp is its commit timestamp whenever that is ahead of the region's clock: PRE_COMMIT advances
// the clock, COMMIT advances it to the actual timestamp, and nothing is written. When physical time is behind the clock,
// or the transaction runs under a foreign replication origin, PRE_COMMIT takes the next stamp of the clock and writes it
// to mrsync.hlc_override, one row for every xid of the transaction (a row's xmin may be a subtransaction's).
// Relied on by: I5, I11; the resolver's comparison of versions in every region.
#pragma once

#include "pg/shmem.h"

namespace mrsync
{

// Called by _PG_init.
void clockInit();

// The applier's transactions carry their source's stamp: they are not stamped here.
void clockApplierMode(bool on);

// A new stamp, above every stamp given or adopted before.
Hlc clockTick(RegionShared *region);

// What this session has committed or seen is stamped at or below; for everybody to ask, as often as they like.
Hlc clockNow(RegionShared *region);

// Raises the clock above a stamp that has come from elsewhere, durably.
void clockAdopt(RegionShared *region, Hlc hlc);

// The stamp written down for a transaction, if any. snapshot: null for "committed now".
std::optional<Hlc> overrideOf(TransactionId xid, Snapshot snapshot);

// Who wrote what carries this xmin, and when.
struct XidVersion
{
	Hlc hlc;			// zero: not known any more, that is older than everything that is
	const char *region; // "" with hlc zero; points into shared memory
	bool mine;			// by the current transaction
};
XidVersion versionOf(RegionShared *region, TransactionId xmin);

// Loads the filter of overrides after a server start. Inside a transaction.
void overrideFilterLoad(RegionShared *region);

FullTransactionId fullXid(TransactionId xid);

} // namespace mrsync
