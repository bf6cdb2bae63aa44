// Versions of rows as SQL sees them: row_version for people, version_below for the applier's TRUNCATE, event_on_row for the log of conflicts.
#include "api/api.h"

#include "core/codec.h"
#include "core/event_rows.h"
#include "core/resolver.h"
#include "pg/rowversion.h"

extern "C"
{
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "executor/tuptable.h"
#include "utils/acl.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(mrsync_event_on_row);
PG_FUNCTION_INFO_V1(mrsync_version_below);
PG_FUNCTION_INFO_V1(mrsync_row_version);
}

namespace mrsync::api
{

namespace
{

// A row by its system columns. The table is only opened where it has to tell the key.
RowVersion versionAt(RegionShared *region, Oid table, ItemPointer tid, TransactionId xmin)
{
	if (!mayHaveEntries(region, xmin))
		return versionOfXid(region, xmin);
	Relation rel = nullptr;
	Datum values[INDEX_MAX_KEYS];
	TupleTableSlot *row = nullptr;
	const KeyInfo *key = nullptr;
	pgCall(
		[&]
		{
			AclResult allowed = pg_class_aclcheck(table, GetUserId(), ACL_SELECT);
			if (allowed != ACLCHECK_OK)
				aclcheck_error(allowed, OBJECT_TABLE, get_rel_name(table));
			rel = table_open(table, AccessShareLock);
			if (!OidIsValid(version::primaryKeyIndex(rel)))
				return; // not replicated, mrsync.tombstone for one: no entries
			key = &keyInfoUnguarded(rel);
			row = table_slot_create(rel, nullptr);
			if (!table_tuple_fetch_row_version(rel, tid, SnapshotAny, row))
				ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("table \"%s\" has no such row", RelationGetRelationName(rel)),
								errhint("Give tableoid, ctid and xmin of one row.")));
			for (int i = 0; i < key->count; ++i)
			{
				bool isNull;
				values[i] = slot_getattr(row, key->columns[i].attnum, &isNull);
			}
		});
	RowVersion version = key ? versionOfRow(region, *key, values, xmin) : versionOfXid(region, xmin);
	pgCall(
		[&]
		{
			if (row)
				ExecDropSingleTupleTableSlot(row);
			table_close(rel, AccessShareLock);
		});
	return version;
}

RowVersion versionArgument(FunctionCallInfo fcinfo)
{
	return versionAt(requireRegion(), PG_GETARG_OID(0), reinterpret_cast<ItemPointer>(PG_GETARG_POINTER(1)), PG_GETARG_TRANSACTIONID(2));
}

bool versionBelow(FunctionCallInfo fcinfo)
{
	RowVersion version = versionArgument(fcinfo);
	if (version.mine)
		return true; // what this transaction wrote before counts as older than what it does now
	Version other{Hlc{PG_GETARG_INT64(3)}, textArgument(fcinfo, 4, "region_id")};
	if (!version.atMost)
		return Version{version.hlc, version.region} < other;
	if (version.hlc < other.hlc)
		return true;
	throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the version of a row is not known any more")
		.detail("The row was written by transaction " + std::to_string(PG_GETARG_TRANSACTIONID(2)) +
				", whose commit timestamp this server does not have any more; it is not newer than " + toText(version.hlc) +
				", so it cannot be told whether it is older than " + toText(other.hlc) + ".")
		.hint("Write the row again: then it has a version that is known.");
}

Datum rowVersion(FunctionCallInfo fcinfo)
{
	RowVersion version = versionArgument(fcinfo);
	return pgCall(
		[&]
		{
			TupleDesc desc;
			if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
				elog(ERROR, "return type must be a row type");
			bool isRegion = !version.mine && !version.atMost && version.region[0] != '\0';
			Datum values[3] = {Int64GetDatum(version.hlc.value), isRegion ? CStringGetTextDatum(version.region) : Datum(0),
							   BoolGetDatum(!version.atMost)};
			bool nulls[3] = {version.mine, !isRegion, version.mine};
			return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
		});
}

// Nothing: that is not known.
std::optional<Uuid> eventOnRow(FunctionCallInfo fcinfo)
{
	for (int n : {0, 1, 3, 4, 5})
		if (PG_ARGISNULL(n))
			return std::nullopt;
	Uuid first, last;
	memcpy(first.bytes.data(), PG_GETARG_UUID_P(0)->data, UUID_LEN);
	memcpy(last.bytes.data(), PG_GETARG_UUID_P(1)->data, UUID_LEN);
	if (first == last)
		return first;
	if (PG_ARGISNULL(2))
		return std::nullopt;
	const bytea *rows = pgCall([&] { return PG_GETARG_BYTEA_PP(2); });
	const std::string table = textArgument(fcinfo, 3, "table_name");
	const std::string json = pgCall([&]() -> const char * { return DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(4))); });
	auto pk = decodeImage(json);
	if (auto *error = std::get_if<DecodeError>(&pk))
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "row_pk is not the key of a row: " + error->message)
			.hint("A key is an object of column names and values as text, as in mrsync.conflict_log.row_pk.");
	return lastEventOn(first, {VARDATA_ANY(rows), VARSIZE_ANY_EXHDR(rows)}, table, std::get<Image>(pk), PG_GETARG_BOOL(5));
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;

Datum mrsync_event_on_row(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			const std::optional<Uuid> id = api::eventOnRow(fcinfo);
			if (!id)
				PG_RETURN_NULL();
			return pgCall(
				[&]
				{
					auto *datum = static_cast<pg_uuid_t *>(palloc(sizeof(pg_uuid_t)));
					memcpy(datum->data, id->bytes.data(), UUID_LEN);
					return UUIDPGetDatum(datum);
				});
		});
}

Datum mrsync_version_below(PG_FUNCTION_ARGS)
{
	return enter([&] { return BoolGetDatum(api::versionBelow(fcinfo)); });
}

Datum mrsync_row_version(PG_FUNCTION_ARGS)
{
	return enter([&] { return api::rowVersion(fcinfo); });
}
