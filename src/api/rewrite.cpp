// Versions outlive a rewrite of their table.
//
// ALTER TABLE with a new column type, a volatile default or another access method writes every row anew, and every row has
// the altering transaction's xmin then: all would look as if they had been written here, now. So before it begins, the
// event trigger ON table_rewrite writes down the version of each row that could still meet an older event, and one marker
// for all others. CLUSTER and VACUUM FULL keep each row's xmin.
//
// What the same transaction writes after the rewrite bears the same xmin, too, and is new: it gets entries of its own when
// the transaction ends.
// Relied on by: I1, I11.
#include "api/api.h"

#include "api/rewrite.h"
#include "core/mutant.h"
#include "pg/fixed_settings.h"
#include "pg/rowversion.h"
#include "pg/utility.h"

#include <unordered_map>

extern "C"
{
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/tupdesc_details.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_index.h"
#include "commands/event_trigger.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/fmgroids.h"

PG_FUNCTION_INFO_V1(mrsync_table_rewrite);
}

namespace mrsync::api
{

namespace
{

constexpr size_t kMostVersions = 100000; // remembered while a table is read

// A rewrite of this transaction. In TopTransactionContext.
struct Rewrite
{
	Oid relation;
	TransactionId xid;
	CommandId later; // commands from this one on write rows anew; invalid while the ALTER TABLE is running
	Rewrite *next;
};
Rewrite *rewrites = nullptr;

// ---------------------------------------------------------------------------------------------------------------------
// The table as it was before the command. Its rows are still so, but the catalogs are not: both may ereport.
// ---------------------------------------------------------------------------------------------------------------------
TupleDesc formerDesc(Oid relation, Snapshot before)
{
	Relation attributes = table_open(AttributeRelationId, AccessShareLock);
	ScanKeyData keys[2];
	ScanKeyInit(&keys[0], Anum_pg_attribute_attrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	ScanKeyInit(&keys[1], Anum_pg_attribute_attnum, BTGreaterStrategyNumber, F_INT2GT, Int16GetDatum(0));
	SysScanDesc scan = systable_beginscan(attributes, AttributeRelidNumIndexId, true, before, 2, keys);
	List *tuples = NIL;
	while (HeapTuple tuple = systable_getnext(scan))
		tuples = lappend(tuples, heap_copytuple(tuple));
	systable_endscan(scan);
	TupleDesc desc = CreateTemplateTupleDesc(list_length(tuples));
	ListCell *cell;
	foreach (cell, tuples)
	{
		auto *tuple = static_cast<HeapTuple>(lfirst(cell));
		auto *attribute = reinterpret_cast<Form_pg_attribute>(GETSTRUCT(tuple));
		version::setAttribute(desc, attribute);
		bool isNull;
		Datum missing = heap_getattr(tuple, Anum_pg_attribute_attmissingval, RelationGetDescr(attributes), &isNull);
		if (isNull)
			continue;
		// added without a rewrite: older rows do not have it
		if (!desc->constr)
			desc->constr = static_cast<TupleConstr *>(palloc0(sizeof(TupleConstr)));
		if (!desc->constr->missing)
			desc->constr->missing = static_cast<AttrMissing *>(palloc0(sizeof(AttrMissing) * desc->natts));
		int one = 1;
		bool isMissingNull;
		AttrMissing &value = desc->constr->missing[attribute->attnum - 1];
		value.am_value = array_get_element(missing, 1, &one, -1, attribute->attlen, attribute->attbyval, attribute->attalign, &isMissingNull);
		value.am_present = true;
	}
	table_close(attributes, AccessShareLock);
	return desc;
}

const KeyInfo *formerKey(Relation relation, TupleDesc desc, Snapshot before)
{
	const KeyInfo *key = nullptr;
	Relation indexes = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData of;
	ScanKeyInit(&of, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RelationGetRelid(relation)));
	SysScanDesc scan = systable_beginscan(indexes, IndexIndrelidIndexId, true, before, 1, &of);
	while (HeapTuple tuple = systable_getnext(scan))
	{
		auto *index = reinterpret_cast<Form_pg_index>(GETSTRUCT(tuple));
		if (!index->indisprimary)
			continue;
		bool isNull;
		Datum collations = heap_getattr(tuple, Anum_pg_index_indcollation, RelationGetDescr(indexes), &isNull);
		key = keyInfoMake(relation, desc, index, reinterpret_cast<oidvector *>(DatumGetPointer(collations))->values, CurrentMemoryContext);
	}
	systable_endscan(scan);
	table_close(indexes, AccessShareLock);
	return key;
}

// The key's types stay, since the trigger mrsync_key depends on its columns; but it can become one of other columns.
void requireSameKey(Relation relation, const KeyInfo &former)
{
	const KeyInfo &now = keyInfo(relation);
	bool same = now.count == former.count;
	for (int i = 0; same && i < now.count; ++i)
		same = now.columns[i].attnum == former.columns[i].attnum;
	if (same)
		return;
	throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED, std::string("the primary key of the replicated table \"") + RelationGetRelationName(relation) +
													 "\" cannot become another one by a command that rewrites the table")
		.detail("Who wrote which row and when is written down by its key.")
		.hint("Use two ALTER TABLE commands.");
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading the table
// ---------------------------------------------------------------------------------------------------------------------
class TableReader
{
public:
	TableReader(Relation table, TupleDesc desc)
	{
		pgCall(
			[&]
			{
				snapshot_ = RegisterSnapshot(GetLatestSnapshot());
				// from the beginning, whoever else reads it
				scan_ = table_beginscan_strat(table, snapshot_, 0, nullptr, true, false);
				row_ = MakeSingleTupleTableSlot(desc, table_slot_callbacks(table));
				perRow_ = AllocSetContextCreate(CurrentMemoryContext, "mrsync rewrite", ALLOCSET_DEFAULT_SIZES);
			});
	}
	// Not closed after an error: the abort does it.
	void close()
	{
		pgCall(
			[&]
			{
				ExecDropSingleTupleTableSlot(row_);
				table_endscan(scan_);
				UnregisterSnapshot(snapshot_);
				MemoryContextDelete(perRow_);
			});
	}

	bool next()
	{
		return pgCall(
			[&]
			{
				CHECK_FOR_INTERRUPTS();
				MemoryContextReset(perRow_);
				return table_scan_getnextslot(scan_, ForwardScanDirection, row_);
			});
	}

	TupleTableSlot *row() const { return row_; }
	MemoryContext perRow() const { return perRow_; }
	TransactionId xmin() const
	{
		bool isNull;
		return DatumGetTransactionId(slot_getsysattr(row_, MinTransactionIdAttributeNumber, &isNull));
	}

private:
	Snapshot snapshot_;
	TableScanDesc scan_;
	TupleTableSlot *row_;
	MemoryContext perRow_;
};

struct RowKey
{
	Datum values[INDEX_MAX_KEYS];
	uint64_t hash;
	const char *texts[INDEX_MAX_KEYS];
};

// May ereport; under fixed settings.
void rowKey(const KeyInfo &key, TupleTableSlot *row, RowKey &result)
{
	for (int i = 0; i < key.count; ++i)
	{
		bool isNull;
		result.values[i] = slot_getattr(row, key.columns[i].attnum, &isNull);
		if (isNull)
			elog(ERROR, "primary key column \"%s\" is null", NameStr(key.columns[i].name));
	}
	result.hash = keyHash(key, result.values);
	keyOutput(key, result.values, result.texts);
}

// The rows that this transaction has written since the rewrite, which are as desc and key say.
void keepLaterWrites(RegionShared *region, const Rewrite &rewrite, Relation table, TupleDesc desc, const KeyInfo &key)
{
	Image image = keyImage(key);
	RowEntryWriter writer{};
	int settings = 0;
	pgCall(
		[&]
		{
			settings = fixedSettingsBegin();
			writer.open(region, rewrite.relation, rewrite.xid);
		});
	TableReader reader(table, desc);
	while (reader.next())
	{
		if (reader.xmin() != rewrite.xid)
			continue;
		MemoryContext former = MemoryContextSwitchTo(reader.perRow());
		RowKey row;
		bool isLater = pgCall(
			[&]
			{
				bool copied;
				HeapTuple tuple = ExecFetchSlotHeapTuple(reader.row(), false, &copied);
				if (HeapTupleHeaderGetCmin(tuple->t_data) < rewrite.later)
					return false;
				rowKey(key, reader.row(), row);
				return true;
			});
		if (isLater)
		{
			std::string text = keyText(image, row.texts);
			pgCall([&] { writer.replaceByOwn(key, row.values, row.hash, text.c_str()); });
		}
		MemoryContextSwitchTo(former);
	}
	reader.close();
	pgCall(
		[&]
		{
			writer.close();
			fixedSettingsEnd(settings);
			CommandCounterIncrement();
		});
}

// False: nothing was written since, or its subtransaction was rolled back.
bool hasLaterWrites(const Rewrite &rewrite)
{
	return pgCall(
		[&]
		{
			CommandCounterIncrement(); // counts only after writes
			return rewrite.later != InvalidCommandId && GetCurrentCommandId(false) != rewrite.later &&
				   TransactionIdIsCurrentTransactionId(rewrite.xid);
		});
}

void beforeEnd()
{
	RegionShared *region = myRegion();
	for (Rewrite *rewrite = rewrites; region && rewrite; rewrite = rewrite->next)
	{
		if (!hasLaterWrites(*rewrite))
			continue;
		Relation table = pgCall([&] { return try_table_open(rewrite->relation, AccessShareLock); });
		if (!table)
			continue;
		keepLaterWrites(region, *rewrite, table, RelationGetDescr(table), keyInfo(table));
		pgCall([&] { table_close(table, NoLock); });
	}
}

void onXact(XactEvent event, void *)
{
	switch (event)
	{
	case XACT_EVENT_PRE_COMMIT:
	case XACT_EVENT_PRE_PREPARE:
		if (rewrites)
			enter([] { beforeEnd(); });
		break;
	case XACT_EVENT_COMMIT:
	case XACT_EVENT_PREPARE:
	case XACT_EVENT_ABORT:
		rewrites = nullptr;
		break;
	default:
		break;
	}
}

void remember(Oid relation, TransactionId xid)
{
	pgCall(
		[&]
		{
			static bool registered = false;
			if (!registered)
				RegisterXactCallback(onXact, nullptr);
			registered = true;
			for (Rewrite *known = rewrites; known; known = known->next)
				if (known->relation == relation && known->xid == xid)
				{
					known->later = InvalidCommandId; // what that one wrote is rewritten, too
					return;
				}
			auto *rewrite = static_cast<Rewrite *>(MemoryContextAlloc(TopTransactionContext, sizeof(Rewrite)));
			*rewrite = {relation, xid, InvalidCommandId, rewrites};
			rewrites = rewrite;
		});
}

bool isReplicatedTable(Oid relation)
{
	return !spi::query("SELECT FROM mrsync.replicated_table WHERE relation OPERATOR(pg_catalog.=) $1::pg_catalog.oid OR relation "
					   "OPERATOR(pg_catalog.=) ANY (SELECT relid FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass))",
					   {std::to_string(relation)})
				.empty();
}

// Rows that exclude each other are compared by their versions at any time: there, each row keeps its own.
Hlc markerFor(RegionShared *region, Oid relation)
{
	bool excludes = !spi::query("SELECT FROM pg_catalog.pg_index WHERE indrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid AND "
								"(indisunique OR indisexclusion) AND NOT indisprimary",
								{std::to_string(relation)})
						 .empty();
	return excludes ? Hlc{} : Hlc{region->prunable.load()};
}

// What the row is to say after the rewrite; kind None: the marker says enough.
class Versions
{
public:
	Versions(RegionShared *region, TransactionId xid, Hlc marker) : region_(region), xid_(xid), marker_{marker} {}

	RowEntry after(const KeyInfo &key, const Datum *values, TransactionId xmin)
	{
		if (mayHaveEntries(region_, xmin))
		{
			RowEntry entry = pgCall([&] { return rowEntryOf(key, values, xmin); });
			if (entry.kind == RowEntry::Base || (entry.kind != RowEntry::None && xmin == xid_))
				return {RowEntry::None, Hlc{}, nullptr}; // as before
			if (entry.kind == RowEntry::Version)
				return above(entry);
			if (entry.kind == RowEntry::Own && TransactionIdIsCurrentTransactionId(xmin))
				return entry;
		}
		auto known = byXmin_.find(xmin);
		if (known != byXmin_.end())
			return known->second;
		if (byXmin_.size() >= kMostVersions)
			byXmin_.clear();
		return byXmin_[xmin] = ofXmin(xmin);
	}

private:
	RowEntry above(const RowEntry &entry) const { return entry.hlc > marker_ ? entry : RowEntry{RowEntry::None, Hlc{}, nullptr}; }

	RowEntry ofXmin(TransactionId xmin) const
	{
		RowVersion version = versionOfXid(region_, xmin);
		if (version.mine)
			return {RowEntry::Own, Hlc{}, nullptr};
		return above({RowEntry::Version, version.hlc, version.atMost ? nullptr : version.region});
	}

	RegionShared *region_;
	TransactionId xid_;
	Hlc marker_;
	std::unordered_map<TransactionId, RowEntry> byXmin_;
};

void tableRewrite()
{
	RegionShared *region = myRegion();
	if (!region)
		return;
	Oid relation = static_cast<Oid>(std::stoul(*spi::query("SELECT pg_catalog.pg_event_trigger_table_rewrite_oid()")[0][0]));
	if (!isReplicatedTable(relation) || mutated("rewrite_forgets"))
		return;
	Relation table = pgCall([&] { return table_open(relation, NoLock); });
	TransactionId xid = pgCall([] { return GetCurrentTransactionId(); });
	TupleDesc desc = nullptr;
	const KeyInfo *key = nullptr;
	pgCall(
		[&]
		{
			Snapshot before = RegisterSnapshot(GetLatestSnapshot());
			before->curcid = alterTableBegan();
			desc = formerDesc(relation, before);
			key = formerKey(table, desc, before);
			UnregisterSnapshot(before);
		});
	if (!key)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "a replicated table has no primary key")
			.hint("Take it out of replication with mrsync.table_remove().");
	requireSameKey(table, *key);
	for (Rewrite *known = rewrites; known; known = known->next)
		if (known->relation == relation && hasLaterWrites(*known))
			keepLaterWrites(region, *known, table, desc, *key);
	remember(relation, xid);

	const Hlc marker = markerFor(region, relation);
	Versions versions(region, xid, marker);
	Image image = keyImage(*key);
	RowEntryWriter writer{};
	int settings = 0;
	pgCall(
		[&]
		{
			settings = fixedSettingsBegin();
			writer.open(region, relation, xid);
		});
	TableReader reader(table, desc);
	while (reader.next())
	{
		MemoryContext former = MemoryContextSwitchTo(reader.perRow());
		RowKey row;
		pgCall([&] { rowKey(*key, reader.row(), row); });
		RowEntry entry = versions.after(*key, row.values, reader.xmin());
		if (entry.kind != RowEntry::None)
		{
			std::string text = keyText(image, row.texts);
			pgCall([&] { writer.write(entry, row.hash, text.c_str()); });
		}
		MemoryContextSwitchTo(former);
	}
	reader.close();
	pgCall(
		[&]
		{
			writer.close();
			fixedSettingsEnd(settings);
			baseMarkerWrite(region, relation, xid, marker);
			table_close(table, NoLock);
		});
}

} // namespace

void rewritesEnd()
{
	if (!rewrites)
		return;
	pgCall(
		[]
		{
			CommandCounterIncrement();
			for (Rewrite *rewrite = rewrites; rewrite; rewrite = rewrite->next)
				if (rewrite->later == InvalidCommandId)
					rewrite->later = GetCurrentCommandId(false);
		});
}

} // namespace mrsync::api

using namespace mrsync;

Datum mrsync_table_rewrite(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
				throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function is an event trigger of mrsync's");
			api::tableRewrite();
		});
	return PointerGetDatum(nullptr);
}
