// The event triggers that keep replicated tables as they have to be, whatever commands change them.
#include "api/api.h"
#include "api/rewrite.h"
#include "api/table.h"
#include "pg/merge_fitness.h"

extern "C"
{
#include "commands/event_trigger.h"

PG_FUNCTION_INFO_V1(mrsync_ddl_end);
PG_FUNCTION_INFO_V1(mrsync_sql_drop);
}

namespace mrsync::api
{

namespace
{

void requireEventTrigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function is an event trigger of mrsync's");
}

// Refuses the command at hand when it leaves a replicated table unfit.
void requireFit(Oid root)
{
	try
	{
		tableCheck(root);
	}
	catch (const Refused &refused)
	{
		std::string name = tableName(root);
		throw PgError(refused.sqlState(), "this would make it impossible to replicate " + name)
			.detail(refused.detail())
			.hint("Change it in a single ALTER TABLE that leaves the table fit for replication, or take it out first: "
				  "SELECT mrsync.table_remove('" +
				  name + "');");
	}
}

// Refuses an index that would make rows exclude each other of which some may be merged.
void requireStillMergeable(Oid root)
{
	if (*spi::query("SELECT EXISTS (SELECT FROM mrsync.merge_function WHERE relation = $1::oid AND strategy IN ('column_last_writer_wins', "
					"'merge_function') AND status NOT IN ('superseded', 'withdrawn'))",
					{oidText(root)})[0][0] == "f")
		return;
	const std::string name = tableName(root);
	try
	{
		requireRuleFits(MergePlace{root, name, std::nullopt}, kColumnLastWriterWins);
	}
	catch (const PgError &error)
	{
		throw PgError(error.sqlState(), "this would make it impossible to merge conflicts on " + name)
			.detail(error.detail())
			.hint("End the rule first, and wait for that: SELECT mrsync.merge_strategy_set('" + name +
				  "', 'last_writer_wins', column_name) FROM mrsync.merge_function WHERE status = 'active' AND table_name = '" + name + "'; or make an ordinary index.");
	}
}

// After whatever makes or changes tables: a replicated table has to stay fit for it, its new partitions become so.
void ddlEnd()
{
	rewritesEnd();
	AsSuperuser rights;
	spi::Rows rows = spi::query(
		"SELECT DISTINCT t.relation::oid FROM pg_catalog.pg_event_trigger_ddl_commands() d "
		"JOIN mrsync.replicated_table t ON t.relation = d.objid "
		"OR t.relation IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(d.objid)) "
		"OR t.relation IN (SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = d.objid) "
		"WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass "
		"AND d.object_type IN ('table', 'foreign table')");
	for (const spi::Row &row : rows)
	{
		Oid root = toOid(row[0]);
		requireFit(root);
		tableSync(root);
	}
	for (const spi::Row &row :
		 spi::query("SELECT DISTINCT t.relation::oid FROM pg_catalog.pg_event_trigger_ddl_commands() d LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = d.objid "
					"CROSS JOIN LATERAL (SELECT coalesce(i.indrelid, d.objid) UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(coalesce(i.indrelid, "
					"d.objid))) changed (relation) JOIN mrsync.replicated_table t ON t.relation = changed.relation AND t.keeps_history WHERE d.classid = "
					"'pg_catalog.pg_class'::pg_catalog.regclass AND d.object_type IN ('table', 'index')"))
		requireStillMergeable(toOid(row[0]));
}

// A dropped table leaves replication by itself; its oid may be given to another one.
void droppedTablesForget()
{
	spi::Rows rows =
		spi::query("SELECT DISTINCT f.relation::oid FROM pg_catalog.pg_event_trigger_dropped_objects() d "
				   "JOIN mrsync.former_identity f ON f.relation = d.objid "
				   "WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0");
	for (const spi::Row &row : rows)
	{
		spi::execute("DELETE FROM mrsync.replicated_table WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.former_identity WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.tombstone WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.row_aside WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.row_history WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.row_entry WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.base_marker WHERE relation = $1::oid", {row[0]});
	}
	if (!rows.empty())
		wakeAtCommit();
}

// A table can lose a column, its primary key or a trigger by a command that does not name it: DROP TYPE … CASCADE. What
// is written to it from then on could not be sent, and would stop everything behind it.
void sqlDrop()
{
	AsSuperuser rights;
	droppedTablesForget();
	spi::Rows rows = spi::query(
		"SELECT t.relation::oid, pg_catalog.min(pg_catalog.quote_ident(d.address_names[3])) "
		"FILTER (WHERE d.object_type = 'trigger') "
		"FROM pg_catalog.pg_event_trigger_dropped_objects() d "
		"CROSS JOIN LATERAL (SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', d.address_names[1], "
		" d.address_names[2]))) l (relation) "
		"CROSS JOIN LATERAL (SELECT l.relation UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(l.relation)) a "
		"JOIN mrsync.replicated_table t ON t.relation = a.relation "
		"WHERE d.object_type IN ('table column', 'table constraint') "
		"OR d.object_type = 'trigger' AND d.original AND pg_catalog.starts_with(d.address_names[3], 'mrsync_') "
		"GROUP BY t.relation");
	for (const spi::Row &row : rows)
	{
		Oid root = toOid(row[0]);
		requireFit(root);
		if (row[1])
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "trigger " + *row[1] + " must stay")
				.detail("It remembers what is deleted from " + tableName(root) + ", which is replicated by mrsync.")
				.hint(removeFirst(tableName(root)));
	}
	// Nothing hangs on a hash operator class, as the primary key does on that of its index: so every table is looked at.
	for (const spi::Row &row :
		 spi::query("SELECT t.relation::oid FROM mrsync.replicated_table t WHERE EXISTS (SELECT FROM "
					"pg_catalog.pg_event_trigger_dropped_objects() d WHERE d.object_type IN ('operator class', 'operator family')) "
					"ORDER BY t.relation"))
		requireFit(toOid(row[0]));
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_ddl_end(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireEventTrigger(fcinfo);
			ddlEnd();
		});
	return PointerGetDatum(nullptr);
}

Datum mrsync_sql_drop(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireEventTrigger(fcinfo);
			sqlDrop();
		});
	return PointerGetDatum(nullptr);
}
