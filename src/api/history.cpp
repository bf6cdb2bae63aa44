// The histories of rows: beginning to keep them, and the trigger that writes users' changes down (mrsync.row_history).
//
// The trigger runs in users' foreground transactions, without SPI, and needs no privilege of theirs. What an applier writes is
// not its business: that writes down the event that it applies, which may be another change than the one it makes.
// On a table that is not replicated it does nothing, for the reasons that tombstone.cpp gives.
// Relied on by: the applier's folds of late events (I1).
#include "api/api.h"
#include "api/table.h"

#include "core/codec.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/fixed_settings.h"
#include "pg/key.h"
#include "pg/rowhistory.h"

extern "C"
{
#include "commands/trigger.h"
#include "executor/tuptable.h"

PG_FUNCTION_INFO_V1(mrsync_row_history_begin);
PG_FUNCTION_INFO_V1(mrsync_row_history_write);
}

namespace mrsync::api
{

namespace
{

void begin(Oid relation)
{
	requireSuperuser("row_history_begin()");
	requireRegion();
	lockTree(relation);
	if (spi::execute("UPDATE mrsync.replicated_table SET keeps_history = true WHERE relation = $1::oid", {oidText(relation)}) == 0)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table " + tableName(relation) + " is not replicated")
			.hint("Call mrsync.table_add('" + tableName(relation) + "') first.");
	tableSync(relation);
}

// A row as the trigger gets it.
struct Row
{
	TupleTableSlot *slot;
	Datum keyValues[INDEX_MAX_KEYS];
	const char *keyTexts[INDEX_MAX_KEYS];
	const char **texts; // of all columns
};

// May ereport; under fixed settings.
void read(Row &row, const KeyInfo &key)
{
	TupleDesc desc = row.slot->tts_tupleDescriptor;
	slot_getallattrs(row.slot);
	row.texts = static_cast<const char **>(palloc0(sizeof(char *) * desc->natts));
	for (int i = 0; i < desc->natts; ++i)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		if (attribute->attisdropped || row.slot->tts_isnull[i])
			continue;
		Oid function;
		bool isVarlena;
		getTypeOutputInfo(attribute->atttypid, &function, &isVarlena);
		row.texts[i] = OidOutputFunctionCall(function, row.slot->tts_values[i]);
	}
	for (int i = 0; i < key.count; ++i)
		row.keyValues[i] = row.slot->tts_values[key.columns[i].attnum - 1];
	keyOutput(key, row.keyValues, row.keyTexts);
}

std::string imageText(const Row &row)
{
	TupleDesc desc = row.slot->tts_tupleDescriptor;
	Image image;
	for (int i = 0; i < desc->natts; ++i)
		if (!TupleDescAttr(desc, i)->attisdropped)
			image.push_back({NameStr(TupleDescAttr(desc, i)->attname),
							 row.texts[i] ? std::optional<std::string>(row.texts[i]) : std::nullopt});
	return encodeImage(image);
}

// One event; null where there is no row.
void write(const KeyInfo &key, const Row *before, const Row *after)
{
	const Row &named = after ? *after : *before;
	Image keyColumns = keyImage(key);
	std::string pk = keyText(keyColumns, named.keyTexts);
	std::string beforeText = before ? imageText(*before) : "", afterText = after ? imageText(*after) : "";
	HistoryKey row{&key, named.keyValues, 0, pk.c_str()};
	bool isFirst = pgCall(
		[&, from = before ? beforeText.c_str() : nullptr, to = after ? afterText.c_str() : nullptr]
		{
			row.hash = keyHash(key, named.keyValues);
			historyAdd(row, from, to);
			return from && historyCount(row) < 2;
		});
	if (!isFirst)
		return;
	TransactionId xmin = pgCall(
		[&]
		{
			bool isNull;
			return DatumGetTransactionId(slot_getsysattr(before->slot, MinTransactionIdAttributeNumber, &isNull));
		});
	RowVersion version = versionOfRow(requireRegion(), key, before->keyValues, xmin);
	pgCall([&, from = beforeText.c_str()] { historyAddBase(row, version.hlc, version.atMost ? nullptr : version.region, from); });
}

// AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW
void writeDown(TriggerData *trigger)
{
	const bool isUpdate = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event), isInsert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "a trigger of mrsync's is defined for another event")
			.hint("Take the table out with mrsync.table_remove() and add it again.");
	if (clockIsApplierMode())
		return;
	Row before{isInsert ? nullptr : trigger->tg_trigslot, {}, {}, nullptr};
	Row after{isInsert ? trigger->tg_trigslot : isUpdate ? trigger->tg_newslot : nullptr, {}, {}, nullptr};
	const KeyInfo *key = nullptr;
	bool sameKey = false;
	bool isOurs = pgCall(
		[&]
		{
			key = &keyInfoUnguarded(trigger->tg_relation);
			if (!key->isReplicated)
				return false;
			int nestLevel = fixedSettingsBegin();
			for (Row *row : {&before, &after})
				if (row->slot)
					read(*row, *key);
			fixedSettingsEnd(nestLevel);
			sameKey = isUpdate && keyEqual(*key, before.keyValues, after.keyValues);
			return true;
		});
	if (!isOurs)
		return;
	if (sameKey)
		return write(*key, &before, &after);
	// to another key: a DELETE and an INSERT
	if (before.slot)
		write(*key, &before, nullptr);
	if (after.slot)
		write(*key, nullptr, &after);
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_row_history_begin(PG_FUNCTION_ARGS)
{
	enter([&] { begin(PG_GETARG_OID(0)); });
	PG_RETURN_VOID();
}

Datum mrsync_row_history_write(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			if (!CALLED_AS_TRIGGER(fcinfo))
				throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function is a trigger of mrsync's")
					.hint("It is made where it belongs when a merge rule is rolled out.");
			writeDown(reinterpret_cast<TriggerData *>(fcinfo->context));
		});
	return PointerGetDatum(nullptr);
}
