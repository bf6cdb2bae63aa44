// The SQL type mrsync.hlc, and the clock as SQL sees it.
#include "core/hlc.h"

#include "api/api.h"
#include "pg/clock.h"

extern "C"
{
#include "libpq/pqformat.h"

PG_FUNCTION_INFO_V1(mrsync_hlc_in);
PG_FUNCTION_INFO_V1(mrsync_hlc_out);
PG_FUNCTION_INFO_V1(mrsync_hlc_recv);
PG_FUNCTION_INFO_V1(mrsync_hlc_send);
PG_FUNCTION_INFO_V1(mrsync_current_hlc);
PG_FUNCTION_INFO_V1(mrsync_stable_point);
}

using namespace mrsync;

Datum mrsync_hlc_in(PG_FUNCTION_ARGS)
{
	const char *text = PG_GETARG_CSTRING(0);
	return enter(
		[&]
		{
			std::optional<Hlc> hlc = parseHlc(text);
			if (!hlc)
				throw PgError(ERRCODE_INVALID_TEXT_REPRESENTATION,
							  std::string("invalid input syntax for type mrsync.hlc: \"") + text + "\"")
					.hint("Write it like 2026-11-23 08:11:00.123456Z, or as an integer of microseconds since 2000-01-01 "
						  "UTC.");
			return Int64GetDatum(hlc->value);
		});
}

Datum mrsync_hlc_out(PG_FUNCTION_ARGS)
{
	int64 value = PG_GETARG_INT64(0);
	return enter(
		[&]
		{
			std::string text = toText(Hlc{value});
			return pgCall([&] { return CStringGetDatum(pnstrdup(text.data(), text.size())); });
		});
}

Datum mrsync_hlc_recv(PG_FUNCTION_ARGS)
{
	auto *buffer = reinterpret_cast<StringInfo>(PG_GETARG_POINTER(0));
	return enter(
		[&]
		{
			int64 value = pgCall([&] { return pq_getmsgint64(buffer); });
			if (value < kHlcMin || value > kHlcMax)
				throw PgError(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "mrsync.hlc out of range");
			return Int64GetDatum(value);
		});
}

Datum mrsync_hlc_send(PG_FUNCTION_ARGS)
{
	int64 value = PG_GETARG_INT64(0);
	return enter(
		[&]
		{
			return pgCall(
				[&]
				{
					StringInfoData buffer;
					pq_begintypsend(&buffer);
					pq_sendint64(&buffer, value);
					return PointerGetDatum(pq_endtypsend(&buffer));
				});
		});
}

Datum mrsync_current_hlc(PG_FUNCTION_ARGS)
{
	(void)fcinfo;
	return enter(
		[&]
		{
			return Int64GetDatum(clockNow(api::requireRegion()).value);
		});
}

Datum mrsync_stable_point(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			int64_t stable = api::requireRegion()->stablePoint.load();
			fcinfo->isnull = stable == 0;
			return Int64GetDatum(stable);
		});
}
