#include "pg/clock.h"

#include "pg/bounds.h"
#include "pg/catalog.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"

#include <algorithm>

extern "C"
{
#include "access/commit_ts.h"
#include "access/transam.h"
#include "catalog/indexing.h"
#include "utils/fmgroids.h"
#include "utils/xid8.h"
}

namespace mrsync
{

namespace
{

bool applierMode = false;
XLogRecPtr lastCommitSeen = InvalidXLogRecPtr;

// A commit's timestamp is taken a little after its stamp; the ceiling must cover it.
constexpr int64_t kCommitMargin = USECS_PER_SEC;

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

void preCommit()
{
	if (applierMode)
		return;
	RegionShared *region = myRegion();
	TransactionId xid = GetTopTransactionIdIfAny();
	if (!region || !TransactionIdIsValid(xid) || XactLastRecEnd == InvalidXLogRecPtr)
		return;
	bool foreign = replorigin_session_origin != InvalidRepOriginId;
	boundPublish(region);
	Clock clock(region->clock);
	Stamp stamp = clock.stamp(GetCurrentTimestamp, guc::forceOverride || foreign);
	ceilingEnsure(region, Hlc{std::max<int64_t>(stamp.hlc.value, GetCurrentTimestamp() + kCommitMargin)});
	if (stamp.isOverride)
		overrideWrite(region, xid, stamp.hlc);
}

// Interrupts are held and nothing may fail here.
void committed()
{
	if (XactLastCommitEnd == lastCommitSeen)
		return; // wrote nothing
	lastCommitSeen = XactLastCommitEnd;
	RegionShared *region = applierMode ? nullptr : myRegion();
	if (!region)
		return;
	Clock(region->clock).adopt(Hlc{GetCurrentTransactionStopTimestamp()});
	uint64_t end = region->lastCommitEnd.load();
	while (end < lastCommitSeen && !region->lastCommitEnd.compare_exchange_weak(end, lastCommitSeen))
	{
	}
	workerWake(region->extractorLatch);
}

void onXact(XactEvent event, void *)
{
	if (event == XACT_EVENT_PRE_COMMIT)
		enter([] { preCommit(); });
	else if (event == XACT_EVENT_COMMIT)
	{
		committed();
		boundClear();
	}
	else if (event == XACT_EVENT_ABORT)
		boundClear();
}

} // namespace

void clockInit() { RegisterXactCallback(onXact, nullptr); }

void clockApplierMode(bool on) { applierMode = on; }

Hlc clockTick(RegionShared *region)
{
	Hlc hlc = Clock(region->clock).stamp(GetCurrentTimestamp, false).hlc;
	ceilingEnsure(region, hlc);
	return hlc;
}

void clockAdopt(RegionShared *region, Hlc hlc)
{
	if (region->clock.load() >= hlc.value)
		return;
	ceilingEnsure(region, hlc);
	Clock(region->clock).adopt(hlc);
}

FullTransactionId fullXid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32 epoch = EpochFromFullTransactionId(next);
	if (xid > XidFromFullTransactionId(next))
		--epoch; // every xid that is asked about lies in the past
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}

std::optional<Hlc> overrideOf(TransactionId xid, Snapshot snapshot)
{
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

XidVersion versionOf(RegionShared *region, TransactionId xmin)
{
	XidVersion version{Hlc{0}, "", false};
	TimestampTz timestamp = 0;
	RepOriginId origin = InvalidRepOriginId;
	bool known = pgCall(
		[&]() -> bool
		{
			if (TransactionIdIsCurrentTransactionId(xmin))
			{
				version.mine = true;
				return false;
			}
			return TransactionIdIsNormal(xmin) && TransactionIdGetCommitTsData(xmin, &timestamp, &origin);
		});
	if (version.mine)
		return version;
	if (const char *peer = known ? originRegion(region, origin) : nullptr)
		return XidVersion{Hlc{timestamp}, peer, false};
	if (region->filter.mayContain(xmin))
		if (std::optional<Hlc> hlc = overrideOf(xmin, nullptr))
			return XidVersion{*hlc, region->region, false};
	if (known)
		version = XidVersion{Hlc{timestamp}, region->region, false};
	return version;
}

void overrideFilterLoad(RegionShared *region)
{
	if (region->filter.loaded.load())
		return;
	for (const spi::Row &row : spi::query("SELECT xid::text FROM mrsync.hlc_override"))
		region->filter.add(static_cast<uint32_t>(std::stoull(*row[0])));
	region->filter.loaded.store(true);
}

} // namespace mrsync
