#include "pg/horizon.h"

#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/spi.h"

extern "C"
{
#include "access/transam.h"
#include "utils/fmgroids.h"
#include "utils/xid8.h"
}

namespace mrsync
{

void horizonSample(RegionShared *region)
{
	// first which have ended, then the clock
	spi::Rows oldest = spi::query("SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())");
	Hlc clock = region ? clockTick(region) : Hlc{GetCurrentTimestamp()};
	// Not ON CONFLICT: under REPEATABLE READ it fails where the coordinator has just taken the same sample. The clock never
	// stands at one stamp twice, so two samples of one id do not collide.
	spi::execute("INSERT INTO mrsync.horizon (xid, hlc) SELECT $1::pg_catalog.xid8, $2::mrsync.hlc "
				 "WHERE NOT EXISTS (SELECT FROM mrsync.horizon WHERE xid OPERATOR(pg_catalog.=) $1::pg_catalog.xid8)",
				 {oldest[0][0], toText(clock)});
}

void horizonPrune(RegionShared *region)
{
	if (int64_t stable = region->prunable.load())
		spi::execute("DELETE FROM mrsync.horizon WHERE hlc OPERATOR(mrsync.<) (SELECT mrsync.max(hlc) FROM mrsync.horizon WHERE hlc "
					 "OPERATOR(mrsync.<=) $1::pg_catalog.int8::mrsync.hlc)",
					 {std::to_string(stable)});
	spi::execute("DELETE FROM mrsync.horizon WHERE xid IN (SELECT xid FROM (SELECT xid, pg_catalog.row_number() OVER (ORDER BY xid) AS i, "
				 "pg_catalog.count(*) OVER () AS n FROM mrsync.horizon) s WHERE n > 4000 AND i < n / 2 AND i % 2 = 0)");
}

Hlc horizonOf(RegionShared *region, TransactionId xmin)
{
	// a xmin of no transaction (FrozenTransactionId) is below all
	uint64 xid = TransactionIdIsNormal(xmin) ? U64FromFullTransactionId(fullXid(xmin)) : 0;
	int64 bound = pgCall(
		[&]() -> int64
		{
			Relation rel = table_open(catalogRelation("horizon"), AccessShareLock);
			Relation index = index_open(catalogRelation("horizon_pkey"), AccessShareLock);
			ScanKeyData key;
			ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_XID8GT, UInt64GetDatum(xid));
			SysScanDesc scan = systable_beginscan_ordered(rel, index, nullptr, 1, &key);
			HeapTuple tuple = systable_getnext_ordered(scan, ForwardScanDirection);
			bool isNull;
			int64 found = tuple ? DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isNull)) : 0;
			systable_endscan_ordered(scan);
			index_close(index, AccessShareLock);
			table_close(rel, AccessShareLock);
			return found;
		});
	return Hlc{bound != 0 ? bound : region->clock.load()};
}

} // namespace mrsync
