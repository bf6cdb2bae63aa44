// Stamps that commit timestamps do not say, and where they are written down.
//
// Mostly PRE_COMMIT knows that the commit timestamp will not be the stamp, and mrsync.hlc_override says it as part of the
// transaction. But PostgreSQL takes the commit timestamp a little later. If the clock goes back between the two, only
// COMMIT sees it: such a late stamp stands in shared memory until the coordinator has written it down, and the extractor
// sends nothing of its transaction before that. A crash in between loses it, here and in the topic alike.
// Until COMMIT has looked, the stamp stands in the slot of its process; so nobody takes such a timestamp for a stamp.
// Relied on by: I5, I11.
#pragma once

#include "pg/shmem.h"

namespace mrsync
{

// In PRE_COMMIT: one row for the transaction and for each of its subtransactions (a row's xmin may be one of theirs).
void overrideWrite(RegionShared *region, TransactionId top, Hlc hlc);

// The stamp written down for a transaction or subtransaction, if any. snapshot: null for "committed now".
std::optional<Hlc> overrideOf(RegionShared *region, TransactionId xid, Snapshot snapshot);

// ---- late stamps

// Before the commit record: if the commit timestamp turns out to be `bound` or less, the transaction's stamp is `stamp`.
void stampAnnounce(TransactionId top, TransactionId lastChild, Hlc bound, Hlc stamp);
// At the transaction's end, also when it aborts. Nothing can fail.
void stampWithdraw();

// At COMMIT, when it did turn out so: of the transaction and its subtransactions. Nothing can fail; may wait for the
// coordinator where very many are late.
void lateStampAdd(RegionShared *region, TransactionId top, const TransactionId *children, int childCount, Hlc stamp);

// The stamp of a transaction with this commit timestamp, while it is written down nowhere but in shared memory.
std::optional<Hlc> lateStampOf(RegionShared *region, TransactionId top, Hlc committed);

// Before a row's version is read: its writer has looked at its commit timestamp. May ereport.
void stampSettled(TransactionId xmin);

// The coordinator's part.
struct LateStamp
{
	TransactionId xid;
	Hlc hlc;
};
std::vector<LateStamp> lateStamps(RegionShared *region);
void lateStampForget(RegionShared *region, TransactionId xid); // written down durably

} // namespace mrsync
