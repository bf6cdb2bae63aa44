#include "pg/merge_fitness.h"

#include "pg/catalog.h"
#include "pg/guard.h"
#include "pg/spi.h"

extern "C"
{
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "parser/parse_coerce.h"
#include "utils/inval.h"
#include "utils/syscache.h"
}

namespace mrsync
{

namespace
{

std::string oidText(Oid oid) { return std::to_string(oid); }
Oid toOid(const spi::Value &value) { return static_cast<Oid>(std::stoul(*value)); }

void requireReplicated(const MergePlace &place)
{
	if (OidIsValid(place.relation) && pgCall([&] { return isReplicated(place.relation); }))
		return;
	throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table " + place.table + " is not replicated")
		.detail("Rules for conflicts are for tables whose changes are sent; a partition has those of its whole table.")
		.hint("SELECT mrsync.table_add('" + place.table + "'); SELECT * FROM mrsync.replicated_table lists the tables that are.");
}

void requireColumn(const MergePlace &place)
{
	spi::Rows rows = spi::query("SELECT a.attgenerated <> '', a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) FROM pg_catalog.pg_attribute a "
								"JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisprimary "
								"WHERE a.attrelid = $1::oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
								{oidText(place.relation), place.column});
	const std::string name = "column \"" + *place.column + "\" of table " + place.table;
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_COLUMN, name + " does not exist").hint("\\d " + place.table + " lists its columns.");
	if (rows[0][1] == "t")
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, name + " cannot have a rule for conflicts")
			.detail("It is part of the primary key, by which regions know a row: it never differs between two versions of it.")
			.hint("Choose a column that is not part of the key.");
	if (rows[0][0] == "t")
		throw PgError(ERRCODE_GENERATED_ALWAYS, name + " cannot have a rule for conflicts")
			.detail("It is generated: made of other columns whenever its row is written.")
			.hint("Give those columns a rule.");
}

// A merge makes rows that nobody has written, which could exclude others.
void requireNoOtherKeys(const MergePlace &place)
{
	spi::Rows rows = spi::query("SELECT i.indexrelid::regclass FROM pg_catalog.pg_index i WHERE NOT i.indisprimary AND (i.indisunique OR "
								"i.indisexclusion) AND (i.indrelid = $1::oid OR i.indrelid IN (SELECT relid FROM "
								"pg_catalog.pg_partition_tree($1::oid))) ORDER BY i.indexrelid",
								{oidText(place.relation)});
	if (rows.empty())
		return;
	throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED, "conflicts on table " + place.table + " cannot be merged")
		.detail(*rows[0][0] + " makes rows exclude each other; together with merges that is not supported yet.")
		.hint("Drop it, or make it an ordinary index; last_writer_wins works with it.");
}

// Some key besides the primary one has a column, or an expression, that may be NULL.
void requireNullableKey(const MergePlace &place)
{
	spi::Rows rows = spi::query("SELECT pg_catalog.string_agg(DISTINCT c.relname, ', ' ORDER BY c.relname), pg_catalog.bool_or(k.attnum = 0 OR NOT (a.attnotnull OR "
								"a.attgenerated <> '' OR k.attnum = ANY (p.indkey))) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN "
								"pg_catalog.pg_index p ON p.indrelid = i.indrelid AND p.indisprimary CROSS JOIN LATERAL pg_catalog.unnest(i.indkey[0:i.indnkeyatts - "
								"1]) k (attnum) LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE NOT i.indisprimary AND "
								"(i.indisunique OR i.indisexclusion) AND (i.indrelid = $1::oid OR i.indrelid IN (SELECT relid FROM "
								"pg_catalog.pg_partition_tree($1::oid)))",
								{oidText(place.relation)});
	if (rows[0][1] != "f") // where there are none they may come
		return;
	throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "no key by which rows of table " + place.table + " exclude each other may be NULL")
		.detail("All columns of " + *rows[0][0] + " are NOT NULL, generated, or part of the primary key.")
		.hint("Give the loser another key by a function: mrsync.loser_function_register(); or ALTER TABLE … ALTER COLUMN … DROP NOT NULL, in every region.");
}

// What a value of the wanted type can be handed over as, and back, in its text form.
bool fits(Oid wanted, Oid argument, bool isRow)
{
	return pgCall(
		[&]
		{
			if (argument == wanted)
				return true;
			if (isRow)
				return false;
			Oid base = getBaseType(wanted);
			if (argument == base || (argument == TEXTOID && base == VARCHAROID))
				return true;
			return IsPolymorphicType(argument) && IsBinaryCoercible(base, argument);
		});
}

} // namespace

bool isOfLosers(const std::string &strategy) { return strategy == kHoldAside || strategy == kSetNull || strategy == kLoserFunction; }

void requireRuleFits(const MergePlace &place, const std::string &strategy)
{
	requireReplicated(place);
	if (place.column)
		requireColumn(place);
	if (strategy == kSetNull)
		requireNullableKey(place);
	else if (strategy != kLastWriterWins && !isOfLosers(strategy))
		requireNoOtherKeys(place);
}

void requireFunctionFits(const MergePlace &place, const std::string &strategy, Oid function, bool isInForce)
{
	const bool ofLosers = isOfLosers(strategy);
	const std::string name = functionName(function);
	spi::Rows rows = spi::query(
		"SELECT p.prokind, p.proretset, p.provolatile, n.nspname LIKE 'pg\\_temp\\_%', "
		"p.provariadic = 0 AND p.pronargs = $4::int AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) t WHERE t <> p.prorettype), "
		"p.prorettype, w.type, pg_catalog.format_type(w.type, -1), "
		"pg_catalog.has_function_privilege(c.relowner, p.oid, 'EXECUTE'), pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)), "
		"pg_catalog.pg_get_function_arguments(p.oid), pg_catalog.pg_get_function_result(p.oid) "
		"FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_class c ON c.oid = $2::oid "
		"CROSS JOIN LATERAL (SELECT CASE WHEN $3 IS NULL THEN c.reltype ELSE (SELECT a.atttypid FROM pg_catalog.pg_attribute a "
		"WHERE a.attrelid = c.oid AND a.attname = $3) END) w (type) WHERE p.oid = $1::oid",
		{oidText(function), oidText(place.relation), place.column, ofLosers ? "1" : "3"});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_TABLE, "table " + place.table + " does not exist any more");
	const spi::Row &row = rows[0];
	const std::string &type = *row[7];
	const std::string form = (ofLosers ? "(loser " + type : "(ancestor " + type + ", a " + type + ", b " + type) + ") RETURNS " + type;
	const std::string what = ofLosers ? "a function for rows that others exclude" : "a merge function";
	const char kind = (*row[0])[0];
	if (kind != PROKIND_FUNCTION || row[1] == "t")
		throw PgError(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be " + what)
			.detail(std::string("It is ") + (kind == PROKIND_PROCEDURE	 ? "a procedure"
											 : kind == PROKIND_AGGREGATE ? "an aggregate"
											 : kind == PROKIND_WINDOW	 ? "a window function"
																		 : "a function that returns a set") + ".")
			.hint("Give an ordinary function " + form + ".");
	if (row[3] == "t")
		throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be " + what)
			.detail("It is in a temporary schema, and goes with its session.")
			.hint("Create it in a schema of your own.");
	if (row[4] != "t" || (!isInForce && !fits(toOid(row[6]), toOid(row[5]), !place.column)))
		throw PgError(ERRCODE_INVALID_FUNCTION_DEFINITION,
					  name + " does not fit " + (place.column ? "column \"" + *place.column + "\" of table " : "the rows of table ") + place.table)
			.detail("It is (" + row[10].value_or("") + ") RETURNS " + row[11].value_or("nothing") + ".")
			.hint(ofLosers ? "It is given the row and returns it with another key: " + form + "." : "A merge function makes one value of three: " + form + ".");
	if (row[2] != "i")
		throw PgError(ERRCODE_INVALID_FUNCTION_DEFINITION, name + " is not IMMUTABLE")
			.detail("It must have the same result in every region, at any time.")
			.hint("If it depends on its arguments alone: ALTER FUNCTION " + name + " IMMUTABLE;");
	if (row[8] != "t")
		throw PgError(ERRCODE_INSUFFICIENT_PRIVILEGE, "the owner of table " + place.table + " may not call " + name)
			.detail("Changes of other regions are merged and written with the rights of the table's owner.")
			.hint("GRANT EXECUTE ON FUNCTION " + name + " TO " + *row[9] + ";");
}

std::string functionName(Oid function)
{
	spi::Rows rows = spi::query("SELECT pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, (SELECT pg_catalog.string_agg("
								"pg_catalog.format_type(a.type, NULL), ',' ORDER BY a.n) FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY a (type, n))) "
								"FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = $1::oid",
								{oidText(function)});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_FUNCTION, "function with OID " + oidText(function) + " does not exist")
			.hint("It may have been dropped a moment ago.");
	return *rows[0][0];
}

std::optional<FunctionSource> functionSource(Oid function)
{
	spi::Rows rows = spi::query(
		"SELECT d.text, pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(d.text, 'UTF8')), 'hex') "
		"FROM pg_catalog.pg_proc p CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_functiondef(p.oid)) d (text) "
		"WHERE p.oid = $1::oid AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = "
		"'pg_catalog.pg_proc'::pg_catalog.regclass AND e.objid = p.oid AND e.deptype = 'e')",
		{oidText(function)});
	if (rows.empty())
		return std::nullopt;
	return FunctionSource{*rows[0][0], *rows[0][1]};
}

void requireRegistered(Oid function, const std::string &name, const std::optional<std::string> &checksum)
{
	if (!checksum)
		return;
	std::optional<FunctionSource> source = functionSource(function);
	if (!source || source->checksum != *checksum)
		throw PgError(ERRCODE_DUPLICATE_FUNCTION, "function " + name + " is another one here")
			.detail("Its definition differs from what was registered.")
			.hint("Drop or rename it here, and it is made as it was registered; another version is registered under a name of its own.");
}

uint64_t functionChanges()
{
	static uint64_t changes = 1;
	[[maybe_unused]] static const bool isWatched = []
	{
		pgCall([] { CacheRegisterSyscacheCallback(PROCOID, [](Datum, int, uint32) { ++changes; }, 0); });
		return true;
	}();
	return changes;
}

} // namespace mrsync
