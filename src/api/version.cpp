// Versions of rows as SQL sees them.
#include "api/api.h"

#include "core/resolver.h"
#include "pg/clock.h"

extern "C"
{
PG_FUNCTION_INFO_V1(mrsync_version_below);
}

using namespace mrsync;

Datum mrsync_version_below(PG_FUNCTION_ARGS)
{
	TransactionId xmin = PG_GETARG_TRANSACTIONID(0);
	Hlc hlc{PG_GETARG_INT64(1)};
	Datum regionArgument = PG_GETARG_DATUM(2);
	return enter(
		[&]
		{
			RegionShared *region = api::requireRegion();
			const char *other = pgCall([&] { return TextDatumGetCString(regionArgument); });
			XidVersion version = versionOf(region, xmin);
			// what this transaction wrote before counts as older than what it does now
			bool below = version.mine || Version{version.hlc, version.region} < Version{hlc, other};
			return BoolGetDatum(below);
		});
}
