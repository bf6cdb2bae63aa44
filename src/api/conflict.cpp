// conflict_redecide: somebody names the side that a logged conflict should have had as its winner.
//
// That is an ordinary write of the caller's session, with the caller's rights and triggers: stamped anew, above whatever this
// region knows of the row (I11), and sent like any other. What it overwrites it has seen, so no region calls it a conflict.
// The images in the log were written under fixed settings, and are read under them; the write itself runs under the session's own, as
// its triggers expect.
#include "api/api.h"
#include "api/table.h"

#include "core/codec.h"
#include "pg/fixed_settings.h"

extern "C"
{
#include "executor/spi.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(mrsync_conflict_redecide);
}

namespace mrsync::api
{

namespace
{

std::string quoted(const std::string &identifier)
{
	return pgCall([&] { return quote_identifier(identifier.c_str()); });
}

// The values of a row, or of its key, as parameters of a statement.
struct Parameters
{
	std::vector<Oid> types;
	std::vector<Datum> values;
	std::vector<char> nulls;

	// Returns its name in the statement. Under fixed settings.
	std::string add(Oid type, int32 typmod, const std::optional<std::string> &text)
	{
		types.push_back(type);
		nulls.push_back(text ? ' ' : 'n');
		values.push_back(pgCall( // a domain's input function checks NULL, too
			[&]
			{
				Oid function, parameter;
				getTypeInputInfo(type, &function, &parameter);
				return OidInputFunctionCall(function, text ? const_cast<char *>(text->c_str()) : nullptr, parameter, typmod);
			}));
		return "$" + std::to_string(types.size());
	}
};

struct Statement
{
	std::string sql;
	Parameters parameters;
};

// A deletion, or an update and an insertion of which either does. Without a statement: there is nothing to do.
struct Writes
{
	Statement remove, update, insert;
};

// Returns how many rows it wrote. With `mustHold`, each of them has to return true.
uint64_t run(const Statement &statement, bool *mustHold = nullptr)
{
	return pgCall(
		[&]() -> uint64_t
		{
			const Parameters &parameters = statement.parameters;
			if (SPI_connect() != SPI_OK_CONNECT)
				elog(ERROR, "SPI_connect failed");
			int result = SPI_execute_with_args(statement.sql.c_str(), static_cast<int>(parameters.types.size()),
											   const_cast<Oid *>(parameters.types.data()),
											   const_cast<Datum *>(parameters.values.data()), parameters.nulls.data(), false, 0);
			if (result < 0)
				elog(ERROR, "SPI failed (%s): %s", SPI_result_code_string(result), statement.sql.c_str());
			uint64_t processed = SPI_processed;
			for (uint64_t row = 0; mustHold && SPI_tuptable && row < processed; ++row)
			{
				bool isNull;
				*mustHold &= DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isNull));
			}
			SPI_finish();
			return processed;
		});
}

Image imageFrom(const std::string &json)
{
	std::variant<Image, DecodeError> decoded = decodeImage(json);
	if (auto *error = std::get_if<DecodeError>(&decoded))
		throw PgError(ERRCODE_DATA_CORRUPTED, "an image in mrsync.conflict_log is not that of a row").detail(error->message);
	return std::get<Image>(std::move(decoded));
}

struct TableColumn
{
	std::string name;
	Oid type;
	int32 typmod;
	bool isGenerated;
	bool isAlways;					  // GENERATED ALWAYS AS IDENTITY: SQL refuses to update it to a value
	std::optional<std::string> equal; // of a column of the primary key: the operator by which keys are compared
};

std::vector<TableColumn> columnsOf(Oid relation)
{
	std::vector<TableColumn> columns;
	for (const spi::Row &row : spi::query(
			 "SELECT a.attname, a.atttypid, a.atttypmod, a.attgenerated <> '', a.attidentity = 'a', k.operator FROM pg_attribute a LEFT JOIN "
			 "(SELECT c.attnum, format('OPERATOR(%I.%s)', n.nspname, o.oprname) AS operator FROM pg_index i "
			 "CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) c(attnum, opclass) JOIN pg_opclass f ON f.oid = c.opclass "
			 "JOIN pg_amop m ON m.amopfamily = f.opcfamily AND m.amoplefttype = f.opcintype AND m.amoprighttype = f.opcintype AND "
			 "m.amopstrategy = 3 JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace "
			 "WHERE i.indrelid = $1::oid AND i.indisprimary) k USING (attnum) "
			 "WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
			 {oidText(relation)}))
		columns.push_back({*row[0], toOid(row[1]), static_cast<int32>(std::stol(*row[2])), *row[3] == "t", *row[4] == "t",
						   row[5]});
	return columns;
}

const TableColumn &columnOf(const std::vector<TableColumn> &columns, const std::string &name, const std::string &table)
{
	for (const TableColumn &column : columns)
		if (column.name == name)
			return column;
	throw PgError(ERRCODE_UNDEFINED_COLUMN, "column " + quoted(name) + " of " + table + " does not exist any more")
		.detail("The row in mrsync.conflict_log has it.")
		.hint("Take the values that you want from there, and write the row yourself.");
}

void append(std::string &list, const char *separator, const std::string &text)
{
	list += (list.empty() ? "" : separator) + text;
}

// WHERE …, by the equality of the primary key's types.
std::string whereKey(const Image &pk, const std::vector<TableColumn> &columns, const std::string &table, Parameters &parameters)
{
	std::string where;
	for (const Column &value : pk)
	{
		const TableColumn &column = columnOf(columns, value.name, table);
		if (!column.equal)
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						  "column " + quoted(value.name) + " is not in the primary key of " + table + " any more")
				.detail("The row in mrsync.conflict_log has the key " + encodeImage(pk) + ".")
				.hint("Take the values that you want from mrsync.conflict_log, and write the row yourself.");
		append(where, " AND ",
			   quoted(value.name) + " " + *column.equal + " " + parameters.add(column.type, column.typmod, value.value));
	}
	return " WHERE " + where;
}

Writes writesFor(Oid relation, const Image &pk, const std::optional<Image> &image)
{
	const std::string table = tableName(relation);
	const std::vector<TableColumn> columns = columnsOf(relation);
	Writes writes;
	if (!image)
	{
		std::string where = whereKey(pk, columns, table, writes.remove.parameters);
		writes.remove.sql = "DELETE FROM " + table + where;
		return writes;
	}
	Parameters values;
	std::string names, parameters, assignments, unchanged, key;
	for (const Column &value : *image)
	{
		const TableColumn &column = columnOf(columns, value.name, table);
		if (column.isGenerated)
			continue;
		std::string parameter = values.add(column.type, column.typmod, value.value);
		append(names, ", ", quoted(column.name));
		append(parameters, ", ", parameter);
		if (column.isAlways) // a number, and not NULL
			append(unchanged, " AND ", quoted(column.name) + " OPERATOR(pg_catalog.=) " + parameter);
		else
			append(assignments, ", ", quoted(column.name) + " = " + parameter);
	}
	for (const TableColumn &column : columns)
		if (column.equal)
			append(key, ", ", quoted(column.name));
	writes.insert = {"INSERT INTO " + table + " (" + names + ") OVERRIDING SYSTEM VALUE VALUES (" + parameters +
						 ") ON CONFLICT (" + key + ") DO NOTHING",
					 values};
	if (assignments.empty())
		return writes;
	std::string where = whereKey(pk, columns, table, values);
	writes.update = {"UPDATE " + table + " SET " + assignments + where + " RETURNING " +
						 (unchanged.empty() ? "true" : unchanged),
					 values};
	return writes;
}

bool update(const Statement &statement)
{
	bool unchanged = true;
	if (statement.sql.empty() || run(statement, &unchanged) == 0)
		return false;
	if (!unchanged)
		throw PgError(ERRCODE_GENERATED_ALWAYS, "the sides of this conflict differ in a column that is GENERATED ALWAYS AS IDENTITY")
			.detail("SQL does not update such a column to a value.")
			.hint("Delete the row, then decide again: it is inserted then.");
	return true;
}

const char *perform(const Writes &writes)
{
	if (!writes.remove.sql.empty())
		return run(writes.remove) ? "deleted" : "nothing";
	if (update(writes.update))
		return "updated";
	if (run(writes.insert))
		return "inserted";
	return update(writes.update) ? "updated" : "nothing"; // inserted by somebody else meanwhile
}

Writes prepare(const std::string &id, const std::string &side)
{
	spi::Rows found = spi::query("SELECT table_name, row_pk, region_a, image_a, image_b, constraint_name, other_pk "
								 "FROM mrsync.conflict_log WHERE conflict_id = $1::uuid",
								 {id});
	if (found.empty())
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "conflict " + id + " is not in mrsync.conflict_log")
			.detail("Within moments all regions have the same entries; each keeps them for mrsync.conflict_log_retention.")
			.hint("SELECT conflict_id, table_name, row_pk FROM mrsync.conflict_log lists those that are.");
	const spi::Row &row = found[0];
	const std::string &name = *row[0], &pk = *row[1];
	if (row[5])
		throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED, "conflict " + id + " is one of two rows that exclude each other")
			.detail("By " + *row[5] + ", row " + pk + " of " + name + " and row " + row[6].value_or("") + " cannot both be in the table.")
			.hint("Change or delete the row that is in the table: then the one in mrsync.row_aside comes in by itself.");
	if (side == "a" && !row[2])
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "conflict " + id + " has no side a")
			.detail("Neither a row nor the memory of one was here when side b came.")
			.hint("To have no row, delete it. Or decide for side b.");
	spi::Rows relation = spi::query("SELECT to_regclass($1)::oid", {name});
	if (!relation[0][0])
		throw PgError(ERRCODE_UNDEFINED_TABLE, "table " + name + " does not exist any more")
			.detail("Conflict " + id + " is of a row of it.")
			.hint("If it was renamed, take the values that you want from mrsync.conflict_log, and write the row yourself.");
	if (spi::query("SELECT FROM mrsync.replicated_table WHERE relation = $1::oid", {*relation[0][0]}).empty())
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table " + name + " is not replicated any more")
			.detail("What is written to it stays in this region.")
			.hint("Add it with mrsync.table_add(), or write the row yourself.");
	const spi::Value &image = row[side == "a" ? 3 : 4];
	return writesFor(toOid(relation[0][0]), imageFrom(pk), image ? std::optional(imageFrom(*image)) : std::nullopt);
}

const char *redecide(const std::string &id, const std::string &side)
{
	requireRegion();
	if (side != "a" && side != "b")
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "a conflict has no side \"" + side + "\"")
			.detail("Side b is the one with the higher stamp, side a the other.")
			.hint("The sides are 'a' and 'b', as in image_a and image_b.");
	int level = pgCall([] { return fixedSettingsBegin(); });
	Writes writes = prepare(id, side);
	pgCall([&] { fixedSettingsEnd(level); });
	return perform(writes);
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_conflict_redecide(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			std::string id = uuidArgument(fcinfo, 0, "conflict_id");
			const char *done = redecide(id, textArgument(fcinfo, 1, "side"));
			return pgCall([&] { return PointerGetDatum(cstring_to_text(done)); });
		});
}
