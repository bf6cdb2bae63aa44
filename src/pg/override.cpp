#include "pg/override.h"

#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"

extern "C"
{
#include "catalog/indexing.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/xid8.h"
}

namespace mrsync
{

namespace
{

constexpr TransactionId kClaimed = BootstrapTransactionId; // no transaction of a region has this id
constexpr int kMostWaits = 10000;						   // of a millisecond, for a place among the late stamps

std::optional<Hlc> lateStampInTable(const RegionShared *region, TransactionId xid)
{
	if (region->lateCount.load() == 0)
		return std::nullopt;
	for (const LateStampShared &place : region->late)
	{
		if (place.xid.load() != xid)
			continue;
		Hlc hlc{place.hlc.load()};
		if (place.xid.load() == xid)
			return hlc;
	}
	return std::nullopt;
}

// False: there was no place, for long.
bool lateStampPut(RegionShared *region, TransactionId xid, Hlc stamp)
{
	region->filter.add(xid);
	region->lateCount.fetch_add(1);
	for (int wait = 0; wait < kMostWaits; ++wait)
	{
		for (LateStampShared &place : region->late)
		{
			uint32_t free = InvalidTransactionId;
			if (!place.xid.compare_exchange_strong(free, kClaimed))
				continue;
			place.hlc.store(stamp.value);
			place.xid.store(xid);
			workerWake(region->coordinatorLatch);
			return true;
		}
		workerWake(region->coordinatorLatch);
		pg_usleep(1000);
	}
	region->lateCount.fetch_sub(1);
	return false;
}

} // namespace

void overrideWrite(RegionShared *region, TransactionId top, Hlc hlc)
{
	pgCall(
		[&]
		{
			Oid table = catalogRelation("hlc_override");
			if (!OidIsValid(table))
				return; // the extension is being dropped by this very transaction, or was
			TransactionId *children;
			int count = xactGetCommittedChildren(&children);
			Relation rel = table_open(table, RowExclusiveLock);
			CatalogIndexState indexes = CatalogOpenIndexes(rel);
			for (int i = -1; i < count; ++i)
			{
				TransactionId xid = i < 0 ? top : children[i];
				Datum values[2] = {FullTransactionIdGetDatum(fullXid(xid)), Int64GetDatum(hlc.value)};
				bool nulls[2] = {false, false};
				HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
				region->filter.add(xid);
				CatalogTupleInsertWithInfo(rel, tuple, indexes);
				heap_freetuple(tuple);
			}
			CatalogCloseIndexes(indexes);
			table_close(rel, RowExclusiveLock);
		});
}

std::optional<Hlc> overrideOf(RegionShared *region, TransactionId xid, Snapshot snapshot)
{
	if (!region->filter.mayContain(xid))
		return std::nullopt;
	if (std::optional<Hlc> late = lateStampInTable(region, xid))
		return late;
	int64 value = pgCall(
		[&]() -> int64
		{
			Oid table = catalogRelation("hlc_override");
			if (!OidIsValid(table))
				return 0;
			Relation rel = table_open(table, AccessShareLock);
			ScanKeyData key;
			ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_XID8EQ, FullTransactionIdGetDatum(fullXid(xid)));
			SysScanDesc scan = systable_beginscan(rel, catalogRelation("hlc_override_pkey"), true, snapshot, 1, &key);
			int64 found = 0;
			if (HeapTuple tuple = systable_getnext(scan))
			{
				bool isNull;
				found = DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isNull));
			}
			systable_endscan(scan);
			table_close(rel, AccessShareLock);
			return found;
		});
	if (value == 0)
		return std::nullopt;
	return Hlc{value};
}

void stampAnnounce(TransactionId top, TransactionId lastChild, Hlc bound, Hlc stamp)
{
	StampSlot &slot = myStampSlot();
	slot.bound.store(bound.value);
	slot.stamp.store(stamp.value);
	slot.last.store(lastChild);
	slot.top.store(top); // last: whoever finds it, finds the rest
}

void stampWithdraw()
{
	StampSlot &slot = myStampSlot();
	if (slot.top.load() != InvalidTransactionId)
		slot.top.store(InvalidTransactionId);
}

void lateStampAdd(RegionShared *region, TransactionId top, const TransactionId *children, int childCount, Hlc stamp)
{
	for (int i = -1; i < childCount; ++i)
		if (!lateStampPut(region, i < 0 ? top : children[i], stamp))
		{
			ereport(WARNING, (errmsg("the stamp of transaction %u could not be written down", top),
							  errdetail("The clock has gone back while it committed, and the coordinator of this region does not run. "
										"Its rows may lose in other regions to what they have replaced here."),
							  errhint("Write these rows again.")));
			return;
		}
}

std::optional<Hlc> lateStampOf(RegionShared *region, TransactionId top, Hlc committed)
{
	// in the order of their writer: the slot is given up only when the stamp stands in the table
	for (const StampSlot &slot : stampSlots())
	{
		if (slot.top.load() != top)
			continue;
		Hlc bound{slot.bound.load()};
		Hlc stamp{slot.stamp.load()};
		if (slot.top.load() == top && committed <= bound)
			return stamp;
	}
	return lateStampInTable(region, top);
}

void stampSettled(TransactionId xmin)
{
	for (const StampSlot &slot : stampSlots())
	{
		TransactionId top = slot.top.load();
		if (!TransactionIdIsValid(top) || TransactionIdPrecedes(xmin, top) || TransactionIdFollows(xmin, slot.last.load()))
			continue;
		// A transaction's locks go after COMMIT has looked; those of a prepared one a little before. An id between the two
		// that is of another transaction is one of the past: nothing is waited for.
		XactLockTableWait(xmin, nullptr, nullptr, XLTW_None);
		while (xmin == top && slot.top.load() == top)
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(100);
		}
	}
}

std::vector<LateStamp> lateStamps(RegionShared *region)
{
	std::vector<LateStamp> found;
	if (region->lateCount.load() == 0)
		return found;
	for (const LateStampShared &place : region->late)
		if (TransactionId xid = place.xid.load(); xid != InvalidTransactionId && xid != kClaimed)
			found.push_back({xid, Hlc{place.hlc.load()}});
	return found;
}

void lateStampForget(RegionShared *region, TransactionId xid)
{
	for (LateStampShared &place : region->late)
		if (place.xid.load() == xid)
		{
			place.xid.store(InvalidTransactionId);
			region->lateCount.fetch_sub(1);
		}
}

} // namespace mrsync
