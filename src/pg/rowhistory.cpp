#include "pg/rowhistory.h"

#include "pg/catalog.h"

#include <cstring>

extern "C"
{
#include "access/heapam.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/sequence.h"
#include "utils/fmgroids.h"
}

namespace mrsync
{

namespace
{

enum HistoryColumn // of mrsync.row_history
{
	ColumnRelation = 1,
	ColumnKeyHash,
	ColumnEntry,
	ColumnKey,
	ColumnIsBase,
	ColumnHlc,
	ColumnRegion,
	ColumnBefore,
	ColumnAfter,
	ColumnCount = ColumnAfter,
};

Oid known(const char *name)
{
	Oid oid = catalogRelation(name);
	if (!OidIsValid(oid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"mrsync.%s\" does not exist", name),
						errhint("If mrsync was dropped, drop this table's trigger mrsync_history, too.")));
	return oid;
}

struct Entry
{
	bool isBase;
	Hlc hlc;
	const char *region;
	const char *before;
	const char *after;
};

void add(const HistoryKey &row, const Entry &entry)
{
	Relation table = table_open(known("row_history"), RowExclusiveLock);
	auto text = [](const char *value) { return value ? CStringGetTextDatum(value) : Datum(0); };
	Datum values[ColumnCount] = {ObjectIdGetDatum(row.key->root),
							 UInt64GetDatum(row.hash),
							 Int64GetDatum(nextval_internal(known("row_history_entry"), false)),
							 text(row.text),
							 BoolGetDatum(entry.isBase),
							 Int64GetDatum(entry.hlc.value),
							 text(entry.region),
							 text(entry.before),
							 text(entry.after)};
	bool nulls[ColumnCount] = {};
	nulls[ColumnHlc - 1] = !entry.isBase;
	nulls[ColumnRegion - 1] = !entry.region;
	nulls[ColumnBefore - 1] = !entry.before;
	nulls[ColumnAfter - 1] = !entry.after;
	HeapTuple tuple = heap_form_tuple(RelationGetDescr(table), values, nulls);
	CatalogTupleInsert(table, tuple);
	heap_freetuple(tuple);
	table_close(table, RowExclusiveLock);
	CommandCounterIncrement();
}

// Different keys may have one hash, and one key several texts.
bool isOf(const HistoryKey &row, HeapTuple tuple, TupleDesc desc)
{
	bool isNull;
	char *other = TextDatumGetCString(heap_getattr(tuple, ColumnKey, desc, &isNull));
	if (strcmp(other, row.text) == 0)
		return true;
	Datum values[INDEX_MAX_KEYS];
	keyFromText(*row.key, other, values);
	return keyEqual(*row.key, row.values, values);
}

} // namespace

bool keepsHistory(Relation relation)
{
	for (int i = 0; relation->trigdesc && i < relation->trigdesc->numtriggers; ++i)
		if (strcmp(relation->trigdesc->triggers[i].tgname, "mrsync_history") == 0)
			return true;
	return false;
}

void historyAdd(const HistoryKey &row, const char *before, const char *after)
{
	add(row, Entry{false, Hlc{}, nullptr, before, after});
}

void historyAddBase(const HistoryKey &row, Hlc hlc, const char *region, const char *state)
{
	add(row, Entry{true, hlc, region, nullptr, state});
}

void historyForgetOwn(Oid root)
{
	Relation table = table_open(known("row_history"), RowExclusiveLock);
	ScanKeyData key;
	ScanKeyInit(&key, ColumnRelation, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(root));
	SysScanDesc scan = systable_beginscan(table, known("row_history_key"), true, nullptr, 1, &key);
	while (HeapTuple tuple = systable_getnext(scan))
	{
		bool isNull;
		if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) &&
			!DatumGetBool(heap_getattr(tuple, ColumnIsBase, RelationGetDescr(table), &isNull)))
			CatalogTupleDelete(table, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(table, RowExclusiveLock);
	CommandCounterIncrement();
}

int historyCount(const HistoryKey &row)
{
	Relation table = table_open(known("row_history"), AccessShareLock);
	TupleDesc desc = RelationGetDescr(table);
	SnapshotData dirty;
	InitDirtySnapshot(dirty);
	ScanKeyData keys[2];
	ScanKeyInit(&keys[0], ColumnRelation, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(row.key->root));
	ScanKeyInit(&keys[1], ColumnKeyHash, BTEqualStrategyNumber, F_INT8EQ, UInt64GetDatum(row.hash));
	SysScanDesc scan = systable_beginscan(table, known("row_history_key"), true, &dirty, 2, keys);
	int found = 0;
	while (found < 2)
	{
		HeapTuple tuple = systable_getnext(scan);
		if (!tuple)
			break;
		if (!TransactionIdIsValid(dirty.xmax))
			found += isOf(row, tuple, desc);
	}
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	return found;
}

List *historyRead(const HistoryKey &row, Snapshot snapshot)
{
	Relation table = table_open(known("row_history"), AccessShareLock);
	Relation index = index_open(known("row_history_key"), AccessShareLock);
	TupleDesc desc = RelationGetDescr(table);
	ScanKeyData keys[2];
	ScanKeyInit(&keys[0], ColumnRelation, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(row.key->root));
	ScanKeyInit(&keys[1], ColumnKeyHash, BTEqualStrategyNumber, F_INT8EQ, UInt64GetDatum(row.hash));
	SysScanDesc scan = systable_beginscan_ordered(table, index, snapshot, 2, keys);
	List *entries = NIL;
	while (HeapTuple tuple = systable_getnext_ordered(scan, ForwardScanDirection))
	{
		if (!isOf(row, tuple, desc))
			continue;
		auto textOf = [&](HistoryColumn column) -> const char *
		{
			bool isNull;
			Datum value = heap_getattr(tuple, column, desc, &isNull);
			return isNull ? nullptr : TextDatumGetCString(value);
		};
		bool isNull;
		auto *entry = static_cast<HistoryEntry *>(palloc(sizeof(HistoryEntry)));
		entry->xmin = HeapTupleHeaderGetXmin(tuple->t_data);
		entry->isBase = DatumGetBool(heap_getattr(tuple, ColumnIsBase, desc, &isNull));
		Datum hlc = heap_getattr(tuple, ColumnHlc, desc, &isNull);
		entry->hlc = Hlc{isNull ? 0 : DatumGetInt64(hlc)};
		entry->region = textOf(ColumnRegion);
		entry->before = textOf(ColumnBefore);
		entry->after = textOf(ColumnAfter);
		entries = lappend(entries, entry);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return entries;
}

} // namespace mrsync
