#include "pg/spi.h"

#include "pg/clock.h"

#include <algorithm>
#include <span>
#include <utility>

extern "C"
{
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/guc.h"
}

namespace mrsync::spi
{

namespace
{

// Inside pgCall.
SPIPlanPtr keptPlan(const char *sql, int count, const Oid *types)
{
	SPIPlanPtr plan = SPI_prepare(sql, count, const_cast<Oid *>(types));
	if (!plan || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare (%s): %s", SPI_result_code_string(SPI_result), sql);
	return plan;
}

// plan: where one is kept, which is made if it is not there yet; null: none is.
uint64_t run(const char *sql, std::span<const Value> parameters, Rows *rows, SPIPlanPtr *plan = nullptr)
{
	return pgCall(
		[&]() -> uint64_t
		{
			int count = static_cast<int>(parameters.size());
			if (SPI_connect() != SPI_OK_CONNECT)
				elog(ERROR, "SPI_connect failed");
			auto *types = static_cast<Oid *>(palloc(sizeof(Oid) * (count + 1)));
			auto *values = static_cast<Datum *>(palloc0(sizeof(Datum) * (count + 1)));
			auto *nulls = static_cast<char *>(palloc0(count + 1));
			int i = 0;
			for (const Value &parameter : parameters)
			{
				types[i] = TEXTOID;
				nulls[i] = parameter ? ' ' : 'n';
				if (parameter)
					values[i] = PointerGetDatum(
						cstring_to_text_with_len(parameter->data(), static_cast<int>(parameter->size())));
				++i;
			}
			bool pushed = !ActiveSnapshotSet();
			if (pushed)
				PushActiveSnapshot(GetTransactionSnapshot());
			const int settings = plan ? NewGUCNestLevel() : 0;
			for (const char *other : {"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"})
				if (plan)
					set_config_option(other, "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
			if (plan && !*plan)
				*plan = keptPlan(sql, count, types);
			int result = plan ? SPI_execute_plan(*plan, values, nulls, false, 0) : SPI_execute_with_args(sql, count, types, values, nulls, false, 0);
			if (result < 0)
				elog(ERROR, "SPI failed (%s): %s", SPI_result_code_string(result), sql);
			uint64_t processed = SPI_processed;
			if (rows && SPI_tuptable)
			{
				TupleDesc desc = SPI_tuptable->tupdesc;
				for (uint64 r = 0; r < SPI_tuptable->numvals; ++r)
				{
					rows->emplace_back(desc->natts);
					for (int c = 0; c < desc->natts; ++c)
						if (const char *text = SPI_getvalue(SPI_tuptable->vals[r], desc, c + 1))
							rows->back()[c] = text;
				}
			}
			if (plan)
				AtEOXact_GUC(true, settings);
			SPI_finish();
			if (pushed)
				PopActiveSnapshot();
			return processed;
		});
}

} // namespace

Rows query(const char *sql, std::initializer_list<Value> parameters)
{
	Rows rows;
	run(sql, {parameters.begin(), parameters.size()}, &rows);
	return rows;
}

uint64_t execute(const char *sql, std::initializer_list<Value> parameters)
{
	return run(sql, {parameters.begin(), parameters.size()}, nullptr);
}

uint64_t execute(const char *sql, const std::vector<Value> &parameters) { return run(sql, parameters, nullptr); }

void Statement::renew()
{
	const int64_t now = steadyNow();
	if (plan_ && now - madeAt_ < lifetime_)
		return;
	if (plan_)
	{
		lifetime_ = std::min(2 * lifetime_, kLongestLifetime);
		pgCall([&] { SPI_freeplan(std::exchange(plan_, nullptr)); });
	}
	madeAt_ = now;
}

Rows Statement::query(std::initializer_list<Value> parameters)
{
	renew();
	Rows rows;
	run(sql_.c_str(), {parameters.begin(), parameters.size()}, &rows, &plan_);
	return rows;
}

uint64_t Statement::execute(std::initializer_list<Value> parameters)
{
	renew();
	return run(sql_.c_str(), {parameters.begin(), parameters.size()}, nullptr, &plan_);
}

SPIPlanPtr prepare(const std::string &sql, const std::vector<Oid> &types)
{
	return pgCall(
		[&]
		{
			MemoryContext context = CurrentMemoryContext;
			SPIPlanPtr plan = keptPlan(sql.c_str(), static_cast<int>(types.size()), types.data());
			MemoryContextSwitchTo(context);
			return plan;
		});
}

} // namespace mrsync::spi
