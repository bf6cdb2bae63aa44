#include "worker/user_function.h"

#include "core/mutant.h"
#include "pg/executor.h"

#include <cstring>
#include <utility>

extern "C"
{
#include "executor/nodeModifyTable.h"
}

namespace mrsync
{

namespace
{

const TargetColumn *columnOf(const std::vector<TargetColumn> &columns, const std::string &name)
{
	for (const TargetColumn &column : columns)
		if (column.name == name)
			return &column;
	return nullptr;
}

} // namespace

bool isOfValues(const PgError &error)
{
	switch (ERRCODE_TO_CATEGORY(error.sqlState()))
	{
	case ERRCODE_DATA_EXCEPTION:
	case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION: // a row that the table does not take
	case ERRCODE_EXTERNAL_ROUTINE_EXCEPTION:
	case ERRCODE_SQL_ROUTINE_EXCEPTION:
	case ERRCODE_PLPGSQL_ERROR:
		return true;
	default:
		return false;
	}
}

RegisteredCall::RegisteredCall(std::string function, spi::Value checksum, std::string whose)
	: function_(std::move(function)), whose_(std::move(whose)), checksum_(std::move(checksum))
{
}

RegisteredCall::~RegisteredCall() { forget(); }

void RegisteredCall::forget()
{
	if (plan_)
		SPI_freeplan(std::exchange(plan_, nullptr)); // does not ereport
}

// The name to call it by.
std::string RegisteredCall::confirm()
{
	const uint64_t changes = functionChanges();
	try
	{
		const spi::Row row = spi::query("SELECT format('%I.%I', n.nspname, p.proname), p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE "
										"p.oid = $1::regprocedure",
										{function_})
								 .at(0);
		if (!mutated("replaced_decides"))
			requireRegistered(static_cast<Oid>(std::stoul(*row[1])), function_, checksum_);
		seen_ = changes;
		return *row[0];
	}
	catch (const PgError &error)
	{
		if (error.sqlState() == ERRCODE_DUPLICATE_FUNCTION)
			throw;
		throw PgError(error.sqlState(), whose_ + ": " + error.message())
			.hint("Create it here as it is in the other regions; the event is tried again by itself.");
	}
}

HeapTuple callPlan(SPIPlanPtr plan, Datum *values, const char *nulls, TupleDesc &desc)
{
	MemoryContext context = CurrentMemoryContext;
	int result = SPI_execute_plan(plan, values, nulls, true, 1);
	MemoryContextSwitchTo(context);
	if (result != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "SPI failed on a function: %s", SPI_result_code_string(result));
	desc = SPI_tuptable->tupdesc;
	return SPI_tuptable->vals[0];
}

std::vector<const char *> textsOf(const std::vector<TargetColumn> &columns, const Image &row)
{
	std::vector<const char *> texts(columns.size());
	for (const Column &value : row)
		if (const TargetColumn *of = columnOf(columns, value.name); of && value.value)
			texts[static_cast<size_t>(of - columns.data())] = value.value->c_str();
	return texts;
}

Image withTexts(const std::vector<TargetColumn> &columns, const Image &given, const std::vector<const char *> &texts)
{
	Image result;
	for (const Column &value : given)
	{
		const TargetColumn *of = columnOf(columns, value.name);
		if (!of || of->isKey) // which row it is, is not the function's to say
			result.push_back(value);
		else if (const char *text = texts[static_cast<size_t>(of - columns.data())])
			result.push_back({value.name, std::string(text)});
		else
			result.push_back({value.name, std::nullopt});
	}
	return result;
}

Datum rowDatum(const std::vector<TargetColumn> &columns, TupleDesc desc, const char *const *texts)
{
	Datum *values = static_cast<Datum *>(palloc0(sizeof(Datum) * desc->natts));
	bool *nulls = static_cast<bool *>(palloc(desc->natts));
	memset(nulls, true, desc->natts);
	for (size_t i = 0; i < columns.size(); ++i)
	{
		const TargetColumn &of = columns[i];
		int place = SPI_fnumber(desc, of.name.c_str()) - 1; // a partition may have its columns in another order
		if (of.isGenerated || place < 0)
			continue;
		values[place] = InputFunctionCall(const_cast<FmgrInfo *>(&of.input), const_cast<char *>(texts[i]), of.inputParameter, of.typmod);
		nulls[place] = !texts[i];
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

void rowTexts(const std::vector<TargetColumn> &columns, Datum row, const char **texts)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	for (size_t i = 0; i < columns.size(); ++i)
	{
		bool isNull;
		Datum value = GetAttributeByName(header, columns[i].name.c_str(), &isNull);
		texts[i] = isNull ? nullptr : OutputFunctionCall(const_cast<FmgrInfo *>(&columns[i].output), value);
	}
}

void checkRow(Oid relation, const std::vector<TargetColumn> &columns, const char **texts)
{
	Relation rel = table_open(relation, NoLock);
	ResultRelInfo *info;
	EState *estate = executorOf(rel, info);
	TupleTableSlot *slot = ExecInitExtraTupleSlot(estate, RelationGetDescr(rel), &TTSOpsVirtual);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	for (size_t i = 0; i < columns.size(); ++i)
	{
		const TargetColumn &of = columns[i];
		if (of.isGenerated)
			continue;
		slot->tts_values[of.attnum - 1] =
			InputFunctionCall(const_cast<FmgrInfo *>(&of.input), const_cast<char *>(texts[i]), of.inputParameter, of.typmod);
		slot->tts_isnull[of.attnum - 1] = !texts[i];
	}
	ExecStoreVirtualTuple(slot);
	if (TupleConstr *constraints = RelationGetDescr(rel)->constr)
	{
		if (constraints->has_generated_stored)
			ExecComputeStoredGenerated(info, estate, slot, CMD_UPDATE);
		ExecConstraints(info, slot, estate);
	}
	for (size_t i = 0; i < columns.size(); ++i)
		if (columns[i].isGenerated)
		{
			bool isNull;
			Datum value = slot_getattr(slot, columns[i].attnum, &isNull);
			texts[i] = isNull ? nullptr : OutputFunctionCall(const_cast<FmgrInfo *>(&columns[i].output), value);
		}
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

} // namespace mrsync
