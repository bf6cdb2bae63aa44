// apply_error_retry and apply_error_discard: what becomes of parked events.
//
// A retry is only asked for here; the applier of the event's source does it, in the way and with the rights of any other.
#include "api/api.h"

extern "C"
{
PG_FUNCTION_INFO_V1(mrsync_apply_error_retry);
PG_FUNCTION_INFO_V1(mrsync_apply_error_discard);
}

namespace mrsync::api
{

namespace
{

[[noreturn]] void unknown(const std::string &id)
{
	throw PgError(ERRCODE_UNDEFINED_OBJECT, "apply error " + id + " does not exist")
		.detail("Its event may have been applied in the meantime.")
		.hint("SELECT error_id, table_name, message FROM mrsync.apply_error lists those that exist.");
}

int64_t retry(const std::optional<std::string> &id)
{
	requireRegion();
	AsSuperuser rights;
	uint64_t count = spi::execute("UPDATE mrsync.apply_error SET retry_at = clock_timestamp() "
								  "WHERE $1 IS NULL OR error_id = $1::bigint",
								  {id});
	if (id && count == 0)
		unknown(*id);
	wakeAtCommit();
	return static_cast<int64_t>(count);
}

void discard(const std::string &id)
{
	requireRegion();
	AsSuperuser rights;
	if (spi::execute("DELETE FROM mrsync.apply_error WHERE error_id = $1::bigint", {id}) == 0)
		unknown(id);
	wakeAtCommit();
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_apply_error_retry(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			std::optional<std::string> id;
			if (!PG_ARGISNULL(0))
				id = std::to_string(PG_GETARG_INT64(0));
			return Int64GetDatum(retry(id));
		});
}

Datum mrsync_apply_error_discard(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireArgument(fcinfo, 0, "error_id");
			discard(std::to_string(PG_GETARG_INT64(0)));
		});
	return Datum(0);
}
