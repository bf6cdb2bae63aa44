#include "worker/merge_failure.h"

#include "core/ids.h"
#include "pg/clock.h"
#include "pg/spi.h"
#include "worker/rollout.h"
#include "worker/worker.h"

namespace mrsync
{

namespace
{

// Of a value; more of it would be in nobody's way to see what failed.
constexpr const char *kMostCharacters = "1000";

uint64_t insert(const RegionShared *region, const MergeFailure &failure, bool isShared, const Hlc &stamp)
{
	return spi::execute(
		"INSERT INTO mrsync.merge_failure AS f (region_id, failure_id, hlc, table_name, row_pk, column_name, event_hlc, event_region, function, sqlstate, "
		"message, ancestor, a, b, is_shared, failed_at) VALUES ($1, $2::uuid, $3::mrsync.hlc, $4, $5::jsonb, $6, $7::mrsync.hlc, $8, $9, $10, left($11, "
		"$16::integer), left($12, $16::integer), left($13, $16::integer), left($14, $16::integer), $15::boolean, clock_timestamp()) ON CONFLICT (failure_id) DO "
		"UPDATE SET region_id = excluded.region_id, hlc = excluded.hlc, function = excluded.function, sqlstate = excluded.sqlstate, message = "
		"excluded.message, ancestor = excluded.ancestor, a = excluded.a, b = excluded.b, is_shared = true, failed_at = excluded.failed_at WHERE "
		"excluded.is_shared AND NOT f.is_shared",
		{std::string(region->region), mergeFailureId(failure.table, failure.keyName, failure.rule.empty() ? failure.column : failure.rule, failure.event),
		 toText(stamp), failure.table, failure.pkText,
		 failure.column.empty() ? spi::Value() : failure.column, toText(failure.event.hlc), failure.event.region,
		 failure.function.empty() ? spi::Value() : failure.function, failure.error.sqlStateText(), failure.error.message(), failure.ancestor, failure.a, failure.b,
		 isShared ? "t" : "f", kMostCharacters});
}

} // namespace

std::string mergeFailureId(const std::string &table, const std::string &keyName, const std::string &of, const Version &event)
{
	return toText(stepId(table, keyName, of, event.hlc, event.region));
}

std::set<std::string> sharedMergeFailures(const std::string &table)
{
	std::set<std::string> ids;
	for (const spi::Row &row : spi::query("SELECT failure_id FROM mrsync.merge_failure WHERE table_name = $1 AND is_shared", {table}))
		ids.insert(*row[0]);
	return ids;
}

void writeDown(const RegionShared *region, const MergeFailure &failure) { insert(region, failure, false, failure.event.hlc); }

void share(RegionShared *region, const MergeFailure &failure)
{
	inTransaction(
		[&]
		{
			insert(region, failure, true, clockTick(region));
			mergeRulesChanged(failure.table);
		});
	pgCall(
		[function = failure.function.empty() ? "a constraint" : failure.function.c_str(), table = failure.table.c_str(), key = failure.pkText.c_str(),
		 why = failure.error.message().c_str(), isOfLosers = !failure.rule.empty()]
		{
			ereport(LOG, (errmsg("a conflict in table %s is decided without %s: %s", table, function, why),
						  errdetail(isOfLosers ? "The row %s is held aside, in every region."
											   : "Of the row %s the later writer's values are taken, in every region.",
									key),
						  errhint("SELECT * FROM mrsync.merge_failure")));
		});
}

} // namespace mrsync
