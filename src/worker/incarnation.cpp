#include "worker/incarnation.h"

#include "pg/guard.h"
#include "pg/spi.h"

#include <string>

namespace mrsync
{

int64_t openIncarnation(int64_t atLeast)
{
	spi::Rows rows = spi::query("UPDATE mrsync.extractor_position SET incarnation = greatest(incarnation + 1, (extract(epoch FROM "
								"clock_timestamp()) * 1000000)::bigint, $1::bigint) RETURNING incarnation",
								{std::to_string(atLeast)});
	if (rows.empty())
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the region's catalog rows are missing");
	return std::stoll(*rows[0][0]);
}

} // namespace mrsync
