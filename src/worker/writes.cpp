// Target: how its rows are written: the plans, made for the columns of the images at hand, and their execution as the table's
// owner.
#include "worker/as_owner.h"
#include "worker/target.h"

#include "pg/executor.h"
#include "pg/guard.h"
#include "pg/spi.h"

#include <cstring>

extern "C"
{
#include "access/heapam.h"
#include "catalog/pg_type.h"
}

namespace mrsync
{

namespace
{

std::string quoted(const std::string &identifier)
{
	return pgCall([&] { return quote_identifier(identifier.c_str()); });
}

// The values of a row for its plan; with room for one more parameter.
struct Parameters
{
	Datum *values;
	char *nulls;
};

Parameters parametersOf(const Image &row, const std::vector<const TargetColumn *> &columns)
{
	return pgCall(
		[&]
		{
			Parameters parameters;
			parameters.values = static_cast<Datum *>(palloc0(sizeof(Datum) * (row.size() + 1)));
			parameters.nulls = static_cast<char *>(palloc(row.size() + 2));
			for (size_t i = 0; i < row.size(); ++i)
			{
				const TargetColumn *column = columns[i];
				const std::optional<std::string> &text = row[i].value;
				parameters.nulls[i] = text && column ? ' ' : 'n';
				if (column) // a domain's input function checks NULL, too
					parameters.values[i] =
						InputFunctionCall(const_cast<FmgrInfo *>(&column->input),
										  text ? const_cast<char *>(text->c_str()) : nullptr, column->inputParameter,
										  column->typmod);
			}
			parameters.nulls[row.size()] = ' ';
			parameters.nulls[row.size() + 1] = '\0';
			return parameters;
		});
}

} // namespace

void Target::requireColumns(const Image &row) const
{
	for (const Column &value : row)
		if (!column(value.name))
			throw PgError(ERRCODE_UNDEFINED_COLUMN, "column " + quoted(value.name) + " of " + name + " does not exist in this region")
				.hint("Add the column here; the event is tried again by itself. If it was dropped on purpose: "
					  "mrsync.apply_error_discard().");
}

void Target::plansFor(const Image &row)
{
	bool same = insertPlan_ && planColumns_.size() == row.size();
	for (size_t i = 0; same && i < row.size(); ++i)
		same = planColumns_[i] == row[i].name;
	if (same)
		return;
	for (SPIPlanPtr *plan : {&insertPlan_, &updatePlan_})
	{
		if (*plan)
			SPI_freeplan(*plan);
		*plan = nullptr;
	}
	planColumns_.clear();
	insertColumns_.clear();
	requireColumns(row);

	std::string names, parameters, assignments, conflict;
	std::vector<Oid> types;
	for (const Column &value : row)
	{
		const TargetColumn *column = this->column(value.name);
		insertColumns_.push_back(column->isGenerated ? nullptr : column);
		planColumns_.push_back(value.name);
		types.push_back(column->type);
		if (column->isGenerated)
			continue;
		std::string parameter = "$" + std::to_string(types.size());
		names += (names.empty() ? "" : ", ") + quoted(value.name);
		parameters += (parameters.empty() ? "" : ", ") + parameter;
		if (!column->isFixedKey && !column->isAlways)
			assignments += (assignments.empty() ? "" : ", ") + quoted(value.name) + " = " + parameter;
	}
	Relation rel = pgCall([&] { return table_open(relation, NoLock); });
	const KeyInfo &key = keyInfo(rel);
	for (int i = 0; i < key.count; ++i)
		conflict += (i ? ", " : "") + quoted(NameStr(key.columns[i].name));
	pgCall([&] { table_close(rel, NoLock); });
	AsOwner owner(owner_);
	std::vector<Oid> updateTypes = types;
	updateTypes.push_back(TIDOID);
	// a table of nothing but its key: the row is rewritten as it is, for its version
	if (assignments.empty())
		assignments = quoted(NameStr(key.columns[0].name)) + " = " + quoted(NameStr(key.columns[0].name));
	updatePlan_ = spi::prepare("UPDATE ONLY " + name + " SET " + assignments + " WHERE ctid = $" +
							  std::to_string(updateTypes.size()),
						  updateTypes);
	// last: while it is missing, both are made anew
	insertPlan_ = spi::prepare("INSERT INTO " + name + " (" + names + ") OVERRIDING SYSTEM VALUE VALUES (" + parameters +
							  ") ON CONFLICT (" + conflict + ") DO NOTHING",
						  types);
}

void Target::execute(SPIPlanPtr plan, Datum *values, char *nulls, int expected, uint64_t &processed)
{
	processed = pgCall(
		[&]() -> uint64_t
		{
			// SPI leaves its own context behind as the current one: what is allocated after it would stay until commit
			MemoryContext context = CurrentMemoryContext;
			int result = SPI_execute_plan(plan, values, nulls, false, 0);
			MemoryContextSwitchTo(context);
			if (result != expected)
				elog(ERROR, "SPI failed on %s: %s", name.c_str(), SPI_result_code_string(result));
			return SPI_processed;
		});
}

bool Target::insert(const Image &row)
{
	plansFor(row);
	AsOwner owner(owner_);
	Parameters parameters = parametersOf(row, insertColumns_);
	uint64_t processed;
	execute(insertPlan_, parameters.values, parameters.nulls, SPI_OK_INSERT, processed);
	return processed == 1;
}

bool Target::differsFromHeld(const TargetColumn &column, const std::optional<std::string> &text)
{
	return pgCall(
		[&]
		{
			bool isNull;
			Datum value = slot_getattr(foundSlot_, column.attnum, &isNull);
			if (isNull || !text)
				return isNull != !text;
			return *text != OutputFunctionCall(const_cast<FmgrInfo *>(&column.output), value);
		});
}

// Without SQL, which would refuse a column that is GENERATED ALWAYS AS IDENTITY. Such a column differs only where its
// user set it to DEFAULT, or where two regions inserted the same key.
void Target::updateAnyColumn(const Image &row)
{
	AsOwner owner(owner_);
	Parameters parameters = parametersOf(row, insertColumns_);
	pgCall(
		[&]
		{
			Relation rel = table_open(relation, RowExclusiveLock);
			ResultRelInfo *info;
			EState *estate = executorOf(rel, info);
			estate->es_output_cid = GetCurrentCommandId(true);
			ExecOpenIndices(info, false);
			EPQState epq;
			version::initEvalPlanQual(&epq, estate);
			TupleTableSlot *slot = ExecInitExtraTupleSlot(estate, RelationGetDescr(rel), table_slot_callbacks(rel));
			slot_getallattrs(foundSlot_);
			ExecClearTuple(slot);
			memcpy(slot->tts_values, foundSlot_->tts_values, sizeof(Datum) * slot->tts_tupleDescriptor->natts);
			memcpy(slot->tts_isnull, foundSlot_->tts_isnull, slot->tts_tupleDescriptor->natts);
			for (size_t i = 0; i < row.size(); ++i)
				if (const TargetColumn *column = insertColumns_[i])
				{
					slot->tts_values[column->attnum - 1] = parameters.values[i];
					slot->tts_isnull[column->attnum - 1] = parameters.nulls[i] == 'n';
				}
			ExecStoreVirtualTuple(slot);
			AfterTriggerBeginQuery();
			ExecSimpleRelationUpdate(info, estate, &epq, foundSlot_, slot);
			AfterTriggerEndQuery(estate);
			ExecCloseIndices(info);
			EvalPlanQualEnd(&epq);
			ExecResetTupleTable(estate->es_tupleTable, false);
			FreeExecutorState(estate);
			table_close(rel, NoLock);
			CommandCounterIncrement();
		});
}

void Target::update(const HeldRow &held, const Image &row)
{
	plansFor(row);
	for (size_t i = 0; i < row.size(); ++i)
		if (insertColumns_[i] && insertColumns_[i]->isAlways && differsFromHeld(*insertColumns_[i], row[i].value))
			return updateAnyColumn(row);
	AsOwner owner(owner_);
	Parameters parameters = parametersOf(row, insertColumns_);
	ItemPointerData tid = held.tid;
	parameters.values[row.size()] = PointerGetDatum(&tid);
	uint64_t processed;
	execute(updatePlan_, parameters.values, parameters.nulls, SPI_OK_UPDATE, processed);
	if (processed != 1)
		throw PgError(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION, "a trigger of " + name + " kept a row from being updated");
}

void Target::remove(const HeldRow &held)
{
	if (!removePlan_)
		removePlan_ = spi::prepare("DELETE FROM ONLY " + name + " WHERE ctid = $1", {TIDOID});
	AsOwner owner(owner_);
	ItemPointerData tid = held.tid;
	Datum value = PointerGetDatum(&tid);
	uint64_t processed;
	execute(removePlan_, &value, nullptr, SPI_OK_DELETE, processed);
	if (processed != 1)
		throw PgError(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION, "a trigger of " + name + " kept a row from being deleted");
}

void Target::takeOut(const ItemPointerData &tid)
{
	pgCall(
		[&]
		{
			Relation rel = table_open(relation, RowExclusiveLock);
			simple_heap_delete(rel, const_cast<ItemPointerData *>(&tid));
			table_close(rel, NoLock);
			CommandCounterIncrement();
		});
}

void Target::removeOlder(const Version &version, bool orEqual)
{
	if (!removeOlderPlan_)
		removeOlderPlan_ =
			spi::prepare("DELETE FROM " + name + " AS t WHERE mrsync.version_below(t.tableoid, t.ctid, t.xmin, $1::mrsync.hlc, $2)", {INT8OID, TEXTOID});
	AsOwner owner(owner_);
	// a region's name holds nothing as low as a space: no version lies between the two
	std::string region = version.region + (orEqual ? " " : "");
	Datum values[2] = {Int64GetDatum(version.hlc.value), pgCall([&] { return CStringGetTextDatum(region.c_str()); })};
	uint64_t processed;
	execute(removeOlderPlan_, values, nullptr, SPI_OK_DELETE, processed);
}

} // namespace mrsync
