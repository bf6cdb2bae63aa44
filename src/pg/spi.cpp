#include "pg/spi.h"

extern "C"
{
#include "catalog/pg_type.h"
#include "executor/spi.h"
}

namespace mrsync::spi
{

namespace
{

uint64_t run(const char *sql, std::initializer_list<Value> parameters, Rows *rows)
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
			int result = SPI_execute_with_args(sql, count, types, values, nulls, false, 0);
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
	run(sql, parameters, &rows);
	return rows;
}

uint64_t execute(const char *sql, std::initializer_list<Value> parameters) { return run(sql, parameters, nullptr); }

} // namespace mrsync::spi
