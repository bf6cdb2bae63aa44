#include "pg/rowversion.h"

#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/horizon.h"
#include "pg/override.h"
#include "pg/spi.h"

#include <cstring>

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

enum EntryColumn // of mrsync.row_entry
{
	EntryRelation = 1,
	EntryKeyHash,
	EntryKey,
	EntryXid,
	EntryHlc,
	EntryRegion,
	EntryColumns = EntryRegion,
};

enum MarkerColumn // of mrsync.base_marker
{
	MarkerRelation = 1,
	MarkerXid,
	MarkerHlc,
	MarkerColumns = MarkerHlc,
};

Relation openKnown(const char *name, LOCKMODE lock)
{
	Oid oid = catalogRelation(name);
	if (!OidIsValid(oid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"mrsync.%s\" does not exist", name)));
	return table_open(oid, lock);
}

bool sameKey(const KeyInfo &key, const Datum *values, const char *text)
{
	Datum other[INDEX_MAX_KEYS];
	keyFromText(key, text, other);
	return keyEqual(key, values, other);
}

// Calls found with the tuple of the row's entry, if there is one: committed, or of an earlier command of this transaction.
template <typename Found> bool findEntry(Relation rel, const KeyInfo &key, const Datum *values, uint64_t hash, FullTransactionId xid, Found &&found)
{
	TupleDesc desc = RelationGetDescr(rel);
	ScanKeyData keys[2];
	ScanKeyInit(&keys[0], EntryRelation, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(key.relation));
	ScanKeyInit(&keys[1], EntryKeyHash, BTEqualStrategyNumber, F_INT8EQ, UInt64GetDatum(hash));
	SysScanDesc scan = systable_beginscan(rel, catalogRelation("row_entry_key"), true, nullptr, 2, keys);
	bool is = false;
	while (HeapTuple tuple = systable_getnext(scan))
	{
		bool isNull;
		if (!FullTransactionIdEquals(DatumGetFullTransactionId(heap_getattr(tuple, EntryXid, desc, &isNull)), xid) ||
			!sameKey(key, values, TextDatumGetCString(heap_getattr(tuple, EntryKey, desc, &isNull))))
			continue;
		found(tuple);
		is = true;
		break;
	}
	systable_endscan(scan);
	return is;
}

std::optional<Hlc> baseMarkerOf(Oid relation, FullTransactionId xid)
{
	Relation rel = openKnown("base_marker", AccessShareLock);
	ScanKeyData keys[2];
	ScanKeyInit(&keys[0], MarkerRelation, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	ScanKeyInit(&keys[1], MarkerXid, BTEqualStrategyNumber, F_XID8EQ, FullTransactionIdGetDatum(xid));
	SysScanDesc scan = systable_beginscan(rel, catalogRelation("base_marker_pkey"), true, nullptr, 2, keys);
	std::optional<Hlc> hlc;
	if (HeapTuple tuple = systable_getnext(scan))
	{
		bool isNull;
		hlc = Hlc{DatumGetInt64(heap_getattr(tuple, MarkerHlc, RelationGetDescr(rel), &isNull))};
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return hlc;
}

// Those of transactions in progress, too: one that was prepared before a restart commits without adding them again. Its
// entries stand beside a marker.
void markersLoad(RegionShared *region)
{
	Relation rel = openKnown("base_marker", AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, SnapshotAny, 0, nullptr);
	while (HeapTuple tuple = systable_getnext(scan))
	{
		bool isNull;
		FullTransactionId xid = DatumGetFullTransactionId(heap_getattr(tuple, MarkerXid, RelationGetDescr(rel), &isNull));
		region->filter.add(XidFromFullTransactionId(xid));
		region->hasEntries.store(true);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

} // namespace

bool mayHaveEntries(const RegionShared *region, TransactionId xmin)
{
	return (region->hasEntries.load() || !region->filter.loaded.load()) && region->filter.mayContain(xmin);
}

RowVersion versionOfXid(RegionShared *region, TransactionId xmin)
{
	TimestampTz timestamp = 0;
	RepOriginId origin = InvalidRepOriginId;
	bool mine = false;
	bool known = pgCall(
		[&]() -> bool
		{
			mine = TransactionIdIsCurrentTransactionId(xmin);
			if (mine)
				return false;
			stampSettled(xmin);
			return TransactionIdIsNormal(xmin) && TransactionIdGetCommitTsData(xmin, &timestamp, &origin);
		});
	if (mine)
		return {Hlc{}, "", true, false};
	if (const char *peer = known ? originRegion(region, origin) : nullptr)
		return {Hlc{timestamp}, peer, false, false};
	if (std::optional<Hlc> hlc = overrideOf(region, xmin, nullptr))
		return {*hlc, region->region, false, false};
	if (known)
		return {Hlc{timestamp}, region->region, false, false};
	return {horizonOf(region, xmin), "", false, true};
}

RowVersion versionOfRow(RegionShared *region, const KeyInfo &key, const Datum *values, TransactionId xmin)
{
	if (mayHaveEntries(region, xmin))
	{
		RowEntry entry = pgCall([&] { return rowEntryOf(key, values, xmin); });
		// A rewrite in this very transaction leaves its marker for others.
		if (entry.kind == RowEntry::Base && TransactionIdIsCurrentTransactionId(xmin))
			entry.kind = RowEntry::None;
		switch (entry.kind)
		{
		case RowEntry::Base:
			return {Hlc{entry.hlc.value + 1}, "", false, false}; // below whatever bears the next stamp, above all that bear this one
		case RowEntry::Version:
			return {entry.hlc, entry.region ? entry.region : "", false, !entry.region};
		case RowEntry::Own:
		case RowEntry::None:
			break;
		}
	}
	return versionOfXid(region, xmin);
}

void versionFilterLoad(RegionShared *region)
{
	if (region->filter.loaded.load())
		return;
	for (const spi::Row &row : spi::query("SELECT xid FROM mrsync.hlc_override"))
		region->filter.add(static_cast<uint32_t>(std::stoull(*row[0])));
	for (const spi::Row &row : spi::query("SELECT DISTINCT xid FROM mrsync.row_entry"))
	{
		region->filter.add(static_cast<uint32_t>(std::stoull(*row[0])));
		region->hasEntries.store(true);
	}
	pgCall([&] { markersLoad(region); });
	region->filter.loaded.store(true);
}

void rowEntriesPrune(RegionShared *region)
{
	int64_t stable = region->prunable.load();
	if (stable == 0 || !region->hasEntries.load())
		return;
	// Where rows exclude each other, each keeps its version (api/rewrite.cpp). Elsewhere an entry goes with its marker's rise
	// above it; those that are their transaction's own, by what the horizon says of that.
	spi::execute("WITH gone AS (DELETE FROM mrsync.row_entry WHERE relation OPERATOR(pg_catalog.<>) ALL (SELECT indrelid FROM "
				 "pg_catalog.pg_index WHERE (indisunique OR indisexclusion) AND NOT indisprimary) AND (hlc OPERATOR(mrsync.<=) $1::pg_catalog.int8::mrsync.hlc OR hlc IS NULL "
				 "AND xid OPERATOR(pg_catalog.<) (SELECT h.xid FROM mrsync.horizon h WHERE h.hlc OPERATOR(mrsync.<=) "
				 "$1::pg_catalog.int8::mrsync.hlc ORDER BY h.xid DESC LIMIT 1)) RETURNING relation, xid) "
				 "UPDATE mrsync.base_marker m SET hlc = $1::pg_catalog.int8::mrsync.hlc FROM (SELECT DISTINCT relation, xid FROM gone) g "
				 "WHERE m.relation OPERATOR(pg_catalog.=) g.relation AND m.xid OPERATOR(pg_catalog.=) g.xid",
				 {std::to_string(stable)});
}

RowEntry rowEntryOf(const KeyInfo &key, const Datum *values, TransactionId xmin)
{
	RowEntry entry{RowEntry::None, Hlc{}, nullptr};
	FullTransactionId xid = fullXid(xmin);
	Relation rel = openKnown("row_entry", AccessShareLock);
	findEntry(rel, key, values, keyHash(key, values), xid,
			  [&](HeapTuple tuple)
			  {
				  bool isNull;
				  Datum hlc = heap_getattr(tuple, EntryHlc, RelationGetDescr(rel), &isNull);
				  entry.kind = isNull ? RowEntry::Own : RowEntry::Version;
				  entry.hlc = Hlc{isNull ? 0 : DatumGetInt64(hlc)};
				  Datum region = heap_getattr(tuple, EntryRegion, RelationGetDescr(rel), &isNull);
				  entry.region = isNull ? nullptr : TextDatumGetCString(region);
			  });
	table_close(rel, AccessShareLock);
	if (entry.kind == RowEntry::None)
		if (std::optional<Hlc> base = baseMarkerOf(key.relation, xid))
			entry = {RowEntry::Base, *base, nullptr};
	return entry;
}

void RowEntryWriter::open(RegionShared *region, Oid of, TransactionId by)
{
	relation = of;
	xid = by;
	table = openKnown("row_entry", RowExclusiveLock);
	indexes = CatalogOpenIndexes(table);
	region->filter.add(by);
	region->hasEntries.store(true);
}

void RowEntryWriter::write(const RowEntry &entry, uint64_t hash, const char *keyText)
{
	Datum values[EntryColumns] = {ObjectIdGetDatum(relation),
								  UInt64GetDatum(hash),
								  CStringGetTextDatum(keyText),
								  FullTransactionIdGetDatum(fullXid(xid)),
								  Int64GetDatum(entry.hlc.value),
								  entry.region ? CStringGetTextDatum(entry.region) : Datum(0)};
	bool nulls[EntryColumns] = {};
	nulls[EntryHlc - 1] = entry.kind == RowEntry::Own;
	nulls[EntryRegion - 1] = !entry.region;
	HeapTuple tuple = heap_form_tuple(RelationGetDescr(table), values, nulls);
	CatalogTupleInsertWithInfo(table, tuple, indexes);
	heap_freetuple(tuple);
}

void RowEntryWriter::replaceByOwn(const KeyInfo &key, const Datum *values, uint64_t hash, const char *keyText)
{
	findEntry(table, key, values, hash, fullXid(xid), [&](HeapTuple tuple) { CatalogTupleDelete(table, &tuple->t_self); });
	write({RowEntry::Own, Hlc{}, nullptr}, hash, keyText);
}

void RowEntryWriter::close()
{
	CatalogCloseIndexes(indexes);
	table_close(table, RowExclusiveLock);
}

bool baseMarkerWrite(RegionShared *region, Oid relation, TransactionId xid, Hlc hlc)
{
	region->filter.add(xid);
	region->hasEntries.store(true);
	if (baseMarkerOf(relation, fullXid(xid)))
		return false;
	Relation rel = openKnown("base_marker", RowExclusiveLock);
	Datum values[MarkerColumns] = {ObjectIdGetDatum(relation), FullTransactionIdGetDatum(fullXid(xid)), Int64GetDatum(hlc.value)};
	bool nulls[MarkerColumns] = {};
	HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
	return true;
}

} // namespace mrsync
