// Which tables can be replicated, and why the others cannot.
#include "api/table.h"

#include "pg/key.h"

extern "C"
{
#include "catalog/pg_class.h"
}

namespace mrsync::api
{

void refuse(int sqlState, const std::string &message, const std::string &detail, const std::string &hint)
{
	throw Refused(PgError(sqlState, message).detail(detail).hint(hint));
}

std::string tableName(Oid relation)
{
	spi::Rows rows = spi::query("SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c "
								"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid",
								{oidText(relation)});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_TABLE, "relation with OID " + oidText(relation) + " does not exist")
			.hint("It may have been dropped a moment ago.");
	return *rows[0][0];
}

namespace
{

const char *kindName(char kind)
{
	switch (kind)
	{
	case RELKIND_VIEW:
		return "a view";
	case RELKIND_MATVIEW:
		return "a materialized view";
	case RELKIND_SEQUENCE:
		return "a sequence";
	case RELKIND_FOREIGN_TABLE:
		return "a foreign table";
	case RELKIND_INDEX:
	case RELKIND_PARTITIONED_INDEX:
		return "an index";
	case RELKIND_COMPOSITE_TYPE:
		return "a composite type";
	default:
		return "not a table";
	}
}

} // namespace

void tableCheckKind(Oid relation, const std::string &name)
{
	spi::Rows rows = spi::query(
		"SELECT c.relkind, n.nspname IN ('pg_catalog', 'pg_toast', 'information_schema') OR c.oid < 16384, "
		"n.nspname = 'mrsync', c.relispartition, "
		"NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), "
		"c.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid), "
		"(SELECT pg_catalog.format('%I.%I', rn.nspname, r.relname) FROM pg_catalog.pg_class r "
		" JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE r.oid = pg_catalog.pg_partition_root(c.oid)) "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid",
		{oidText(relation)});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_TABLE, "relation with OID " + oidText(relation) + " does not exist");
	const spi::Row &row = rows[0];
	char kind = (*row[0])[0];
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", std::string("It is ") + kindName(kind) + ".",
			   "Only tables and partitioned tables are replicated.");
	if (row[1] == "t")
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", "It is a system catalog.",
			   "Only tables of your own are replicated.");
	if (row[2] == "t")
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", "It is a table of mrsync's own.",
			   "Only tables of your own are replicated.");
	if (row[3] == "t")
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated by itself",
			   "It is a partition of " + row[6].value_or("another table") + ".",
			   "Add that table: it stands for all its partitions.");
	if (row[4] == "t")
		refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated", "It inherits from another table.",
			   "Use declarative partitioning, or separate tables.");
	if (row[5] == "t")
		refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated", "Other tables inherit from it.",
			   "Use declarative partitioning, or separate tables.");
}

namespace
{

void checkMembers(Oid relation, const std::string &name)
{
	spi::Rows rows = spi::query(
		"SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind, c.relpersistence, "
		"c.relforcerowsecurity FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
		"WHERE c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)) ORDER BY c.oid",
		{oidText(relation)});
	for (const spi::Row &row : rows)
	{
		std::string it = toOid(row[0]) == relation ? "It" : "Its partition " + *row[1];
		char kind = (*row[2])[0];
		char persistence = (*row[3])[0];
		if (kind == RELKIND_FOREIGN_TABLE)
			refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", it + " is a foreign table.",
				   "Detach that partition first.");
		if (persistence == RELPERSISTENCE_TEMP)
			refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", it + " is temporary.",
				   "Make it a permanent table.");
		if (persistence == RELPERSISTENCE_UNLOGGED)
			refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated",
				   it + " is unlogged: its changes are not in the WAL, which is what is replicated.",
				   "ALTER TABLE " + *row[1] + " SET LOGGED;");
		if (row[4] == "t")
			refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated",
				   it + " has FORCE ROW LEVEL SECURITY: changes of other regions are written as the table's owner, whom "
						"the policies would stop.",
				   "ALTER TABLE " + *row[1] + " NO FORCE ROW LEVEL SECURITY;");
	}
}

void checkKey(Oid relation, const std::string &name)
{
	spi::Rows rows = spi::query("SELECT indexrelid, indimmediate, indisvalid FROM pg_catalog.pg_index "
								"WHERE indrelid = $1::oid AND indisprimary",
								{oidText(relation)});
	if (rows.empty())
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, name + " cannot be replicated",
			   "It has no primary key, by which regions know a row.", "ALTER TABLE " + name + " ADD PRIMARY KEY (…);");
	if (rows[0][1] != "t")
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, name + " cannot be replicated",
			   "Its primary key is DEFERRABLE: two rows may have the same key for a while.",
			   "Make the primary key NOT DEFERRABLE.");
	if (rows[0][2] != "t")
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, name + " cannot be replicated",
			   "The index of its primary key is not valid.", "Give every partition the primary key, or rebuild the index.");
	spi::Rows columns =
		spi::query("SELECT a.attname, a.atttypid, a.attcollation, pg_catalog.format_type(a.atttypid, a.atttypmod) "
				   "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a "
				   "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) "
				   "WHERE i.indexrelid = $1::oid ORDER BY a.attnum",
				   {rows[0][0]});
	for (const spi::Row &column : columns)
	{
		Oid type = toOid(column[1]);
		Oid collation = toOid(column[2]);
		if (const char *problem = pgCall([&] { return keyTypeProblem(type, collation); }))
			refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated",
				   "Column \"" + *column[0] + "\" (" + *column[3] + ") of its primary key: " + problem + ".",
				   "Choose another type or collation, or another primary key.");
	}
}

} // namespace

void tableCheck(Oid relation)
{
	std::string name = tableName(relation);
	tableCheckKind(relation, name);
	checkMembers(relation, name);
	checkKey(relation, name);
}

} // namespace mrsync::api
