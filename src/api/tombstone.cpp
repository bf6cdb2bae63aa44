// The triggers that remember deletes, on every replicated table (table.cpp creates them).
//
// They run in users' foreground transactions: no SPI, no snapshot of their own, one heap insert and one index entry per
// deleted row, straight into mrsync.tombstone. A user needs no privilege on anything of mrsync's for that. The rows are
// written without their contents in the logical part of the WAL: no decoder wants them.
// On a table that is not replicated they do nothing: such are in a database restored from a dump; and any user can make a
// trigger of tombstone_row(), since making a partition of a replicated table is just that.
// Relied on by: the applier, which decides late events of deleted rows by their tombstones (I1), also under the replica
// role (the triggers are ENABLE ALWAYS).
#include "pg/catalog.h"
#include "pg/fixed_settings.h"
#include "pg/key.h"
#include "pg/rowhistory.h"

#include <algorithm>

extern "C"
{
#include "access/heapam.h"
#include "catalog/indexing.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(mrsync_tombstone_delete);
PG_FUNCTION_INFO_V1(mrsync_tombstone_row);
PG_FUNCTION_INFO_V1(mrsync_tombstone_truncate);
}

namespace mrsync
{

namespace
{

// An index entry still to be made.
struct Entry
{
	int64_t hash; // signed, as the index orders it
	ItemPointerData tuple;
};

// Writes tombstones of one relation. All its functions may ereport: under the guard. Not closed after an error: the
// abort does it. Index entries are made in batches in the order of their hashes: hashes are random, and one by one each
// would touch another page of the index, which costs more than all the rest.
struct Writer
{
	static constexpr int kBatch = 32768;
	static constexpr int kFirstBatch = 64;

	Oid relation; // whose keys
	Relation table;
	CatalogIndexState indexes;
	CommandId command;
	Entry *entries;
	int count;
	int capacity;

	void open(Oid of)
	{
		Oid oid = catalogRelation("tombstone");
		if (!OidIsValid(oid))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table mrsync.tombstone does not exist"),
							errhint("If mrsync was dropped, drop this table's triggers mrsync_delete, mrsync_key and "
									"mrsync_truncate, too.")));
		relation = of;
		table = table_open(oid, RowExclusiveLock);
		indexes = CatalogOpenIndexes(table);
		command = GetCurrentCommandId(true);
		capacity = kFirstBatch;
		entries = static_cast<Entry *>(palloc(sizeof(Entry) * capacity));
		count = 0;
	}

	// hash and text null: a truncation
	void write(const uint64_t *hash, const char *text, size_t textLength)
	{
		Datum values[3] = {ObjectIdGetDatum(relation), 0, 0};
		bool nulls[3] = {false, hash == nullptr, text == nullptr};
		if (hash)
			values[1] = UInt64GetDatum(*hash);
		if (text)
			values[2] = PointerGetDatum(cstring_to_text_with_len(text, static_cast<int>(textLength)));
		HeapTuple tuple = heap_form_tuple(RelationGetDescr(table), values, nulls);
		heap_insert(table, tuple, command, HEAP_INSERT_NO_LOGICAL, nullptr);
		if (!hash)
		{
			index(nullptr, &tuple->t_self);
			return;
		}
		if (count == capacity && capacity == kBatch)
			flush();
		else if (count == capacity)
		{
			capacity = std::min(capacity * 8, kBatch);
			entries = static_cast<Entry *>(repalloc(entries, sizeof(Entry) * capacity));
		}
		entries[count++] = Entry{static_cast<int64_t>(*hash), tuple->t_self};
	}

	void close()
	{
		flush();
		pfree(entries);
		CatalogCloseIndexes(indexes);
		table_close(table, RowExclusiveLock);
	}

private:
	void flush()
	{
		std::sort(entries, entries + count, [](const Entry &a, const Entry &b) { return a.hash < b.hash; });
		for (int i = 0; i < count; ++i)
			index(&entries[i].hash, &entries[i].tuple);
		count = 0;
	}

	void index(const int64_t *hash, ItemPointer tuple)
	{
		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < indexes->ri_NumIndices; ++i)
		{
			IndexInfo *info = indexes->ri_IndexRelationInfo[i];
			if (!info->ii_ReadyForInserts)
				continue;
			Datum values[INDEX_MAX_KEYS];
			bool nulls[INDEX_MAX_KEYS];
			for (int k = 0; k < info->ii_NumIndexAttrs; ++k)
			{
				AttrNumber attribute = info->ii_IndexAttrNumbers[k];
				if (attribute != 1 && attribute != 2)
					elog(ERROR, "unexpected index on mrsync.tombstone");
				nulls[k] = attribute == 2 && !hash;
				values[k] = attribute == 1 ? ObjectIdGetDatum(relation) : hash ? Int64GetDatum(*hash) : Datum(0);
			}
			index_insert(indexes->ri_IndexRelationDescs[i], values, nulls, tuple, table, UNIQUE_CHECK_NO, false, info);
		}
	}
};
static_assert(std::is_trivially_destructible_v<Writer>);

TriggerData *triggerData(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function is a trigger of mrsync's")
			.hint("mrsync.table_add() creates it where it belongs.");
	return reinterpret_cast<TriggerData *>(fcinfo->context);
}

void wrongTrigger()
{
	throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "a trigger of mrsync's is defined for another event")
		.hint("Take the table out with mrsync.table_remove() and add it again.");
}

void keyOf(const KeyInfo &key, TupleTableSlot *slot, Datum *values)
{
	for (int i = 0; i < key.count; ++i)
	{
		bool isNull;
		values[i] = slot_getattr(slot, key.columns[i].attnum, &isNull);
		if (isNull)
			elog(ERROR, "primary key column \"%s\" is null", NameStr(key.columns[i].name));
	}
}

// AFTER DELETE FOR EACH STATEMENT, with a transition table.
void deleteStatement(TriggerData *trigger)
{
	if (!TRIGGER_FIRED_BY_DELETE(trigger->tg_event) || !TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		!trigger->tg_oldtable)
		wrongTrigger();
	Tuplestorestate *rows = trigger->tg_oldtable;
	const KeyInfo *key = nullptr;
	TupleTableSlot *row = nullptr;
	MemoryContext perRow = nullptr;
	Writer writer{};
	int nestLevel = 0;
	// Read pointer 0 is nobody's: whoever else reads this transition table (a trigger in SQL) allocates his own.
	bool some = pgCall(
		[&]
		{
			tuplestore_select_read_pointer(rows, 0);
			tuplestore_rescan(rows);
			row = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation), &TTSOpsMinimalTuple);
			if (!tuplestore_gettupleslot(rows, true, false, row))
				return false;
			key = &keyInfoUnguarded(trigger->tg_relation);
			return key->isReplicated;
		});
	if (some)
	{
		pgCall(
			[&]
			{
				writer.open(key->root);
				perRow = AllocSetContextCreate(CurrentMemoryContext, "mrsync tombstones", ALLOCSET_DEFAULT_SIZES);
				if (key->settingsSensitive)
					nestLevel = fixedSettingsBegin();
			});
		Image image = keyImage(*key);
		MemoryContext former = MemoryContextSwitchTo(perRow);
		do
		{
			uint64_t hash;
			const char *texts[INDEX_MAX_KEYS];
			pgCall(
				[&]
				{
					CHECK_FOR_INTERRUPTS();
					Datum values[INDEX_MAX_KEYS];
					keyOf(*key, row, values);
					hash = keyHash(*key, values);
					keyOutput(*key, values, texts);
				});
			std::string text = keyText(image, texts);
			some = pgCall(
				[&]
				{
					writer.write(&hash, text.data(), text.size());
					MemoryContextReset(perRow);
					return tuplestore_gettupleslot(rows, true, false, row);
				});
		} while (some);
		MemoryContextSwitchTo(former);
		pgCall(
			[&]
			{
				if (key->settingsSensitive)
					fixedSettingsEnd(nestLevel);
				writer.close();
				MemoryContextDelete(perRow);
			});
	}
	pgCall([&] { ExecDropSingleTupleTableSlot(row); });
}

// AFTER DELETE (of partitioned tables) and AFTER UPDATE (of the key), FOR EACH ROW: the old key is gone.
void oldKeyGone(TriggerData *trigger)
{
	bool isUpdate = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		(!isUpdate && !TRIGGER_FIRED_BY_DELETE(trigger->tg_event)))
		wrongTrigger();
	const KeyInfo *key = nullptr;
	uint64_t hash = 0;
	const char *texts[INDEX_MAX_KEYS];
	bool gone = pgCall(
		[&]
		{
			key = &keyInfoUnguarded(trigger->tg_relation);
			if (!key->isReplicated)
				return false;
			Datum values[INDEX_MAX_KEYS];
			keyOf(*key, trigger->tg_trigslot, values);
			if (isUpdate)
			{
				Datum newValues[INDEX_MAX_KEYS];
				keyOf(*key, trigger->tg_newslot, newValues);
				if (keyEqual(*key, values, newValues))
					return false;
			}
			hash = keyHash(*key, values);
			int nestLevel = key->settingsSensitive ? fixedSettingsBegin() : 0;
			keyOutput(*key, values, texts);
			if (key->settingsSensitive)
				fixedSettingsEnd(nestLevel);
			return true;
		});
	if (!gone)
		return;
	Image image = keyImage(*key);
	std::string text = keyText(image, texts);
	pgCall(
		[&]
		{
			Writer writer{};
			writer.open(key->root);
			writer.write(&hash, text.data(), text.size());
			writer.close();
		});
}

// AFTER TRUNCATE: one row that stands for all keys of the table; of a leaf's truncation, for all keys in the leaf.
void truncated(TriggerData *trigger)
{
	if (!TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		wrongTrigger();
	pgCall(
		[&]
		{
			if (!keyInfoUnguarded(trigger->tg_relation).isReplicated)
				return;
			Writer writer{};
			writer.open(RelationGetRelid(trigger->tg_relation));
			writer.write(nullptr, nullptr, 0);
			writer.close();
			if (keepsHistory(trigger->tg_relation) && keyInfoUnguarded(trigger->tg_relation).root == RelationGetRelid(trigger->tg_relation))
				historyForgetOwn(RelationGetRelid(trigger->tg_relation));
		});
}

} // namespace
} // namespace mrsync

using namespace mrsync;

Datum mrsync_tombstone_delete(PG_FUNCTION_ARGS)
{
	enter([&] { deleteStatement(triggerData(fcinfo)); });
	return PointerGetDatum(nullptr);
}

Datum mrsync_tombstone_row(PG_FUNCTION_ARGS)
{
	enter([&] { oldKeyGone(triggerData(fcinfo)); });
	return PointerGetDatum(nullptr);
}

Datum mrsync_tombstone_truncate(PG_FUNCTION_ARGS)
{
	enter([&] { truncated(triggerData(fcinfo)); });
	return PointerGetDatum(nullptr);
}
