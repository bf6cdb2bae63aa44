// Registering rules for conflicts, promoting, withdrawing and rolling them back. What is registered is a row of mrsync.merge_definition; the
// coordinators do the rest (worker/rollout.h).
//
// One session registers at a time: what may stand beside what is judged by what is there. The coordinator waits for none of
// these transactions, however long they stay open.
#include "api/api.h"
#include "api/table.h"

#include "core/ids.h"
#include "pg/clock.h"
#include "pg/fixed_settings.h"
#include "pg/merge_fitness.h"

#include <cstring>

extern "C"
{
PG_FUNCTION_INFO_V1(mrsync_merge_function_register);
PG_FUNCTION_INFO_V1(mrsync_merge_strategy_set);
PG_FUNCTION_INFO_V1(mrsync_loser_function_register);
PG_FUNCTION_INFO_V1(mrsync_loser_strategy_set);
PG_FUNCTION_INFO_V1(mrsync_merge_function_promote);
PG_FUNCTION_INFO_V1(mrsync_merge_function_withdraw);
PG_FUNCTION_INFO_V1(mrsync_merge_function_rollback);
}

namespace mrsync::api
{

namespace
{

constexpr size_t kLongestSource = 256 * 1024; // as the table says

struct Rule
{
	MergePlace place;
	std::string strategy;
	std::optional<std::string> function;
	std::optional<FunctionSource> source;
};

std::string literal(const std::string &text)
{
	std::string quoted = "'";
	for (char c : text)
		quoted += c == '\'' ? "''" : std::string(1, c);
	return quoted + "'";
}

// A merge function on whole rows stands alone: of a column that both merge, neither would have the say.
void requireAlone(const Rule &rule)
{
	const bool ofRows = !rule.place.column && rule.strategy == kMergeFunction;
	if (!rule.place.column && !ofRows)
		return; // it replaces one of whole rows, and goes with those of columns
	spi::Rows rows = spi::query("SELECT column_name, status FROM mrsync.merge_function WHERE table_name = $1 AND status IN ('preparing', 'active') "
								"AND rollout <> 'shadow' AND strategy = 'merge_function' AND (column_name IS NOT NULL) = $2::boolean ORDER BY status, column_name",
								{rule.place.table, ofRows ? "true" : "false"});
	if (rows.empty())
		return;
	const bool isActive = rows[0][1] == "active";
	const std::string of = ofRows ? "column \"" + *rows[0][0] + "\"" : "whole rows";
	throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, ofRows ? "single columns of table " + rule.place.table + " have merge functions"
																  : "whole rows of table " + rule.place.table + " have a merge function")
		.detail("There is one of " + of + (isActive ? ", which is active." : ", which is being prepared.") +
				" A merge function on whole rows decides all columns.")
		.hint(isActive ? "End it first: SELECT mrsync.merge_strategy_set(" + literal(rule.place.table) + ", 'last_writer_wins'" +
							  (ofRows ? ", " + literal(*rows[0][0]) : "") + ");"
					   : "mrsync.merge_function_withdraw() gives it up; SELECT * FROM mrsync.merge_function shows its definition_id.");
}

// The same function cannot be two: regions decide late events by earlier versions of a rule, too.
void requireUnchanged(const Rule &rule)
{
	if (!rule.source)
		return;
	spi::Rows rows = spi::query("SELECT version, table_name FROM mrsync.merge_definition WHERE function = $1 AND status <> 'withdrawn' AND "
								"checksum IS DISTINCT FROM $2 ORDER BY registered_at DESC",
								{rule.function, rule.source->checksum});
	if (!rows.empty())
		throw PgError(ERRCODE_DUPLICATE_FUNCTION, "function " + *rule.function + " is not the one that was registered before")
			.detail("Version " + *rows[0][0] + " of a rule of table " + *rows[0][1] + " is a function of this name with another body. Late events are "
					"decided by earlier versions, too, so a registered function stays as it is.")
			.hint("Create the new version under a name of its own, and register that.");
}

// Regions that are away hold the rule back; for those who would rather know now.
void requireHeard()
{
	spi::Rows rows = spi::query("SELECT pg_catalog.string_agg(r.region_id, ', ' ORDER BY r.region_id) FROM mrsync.region r LEFT JOIN mrsync.peer_stat() p ON "
								"p.region_id = r.region_id WHERE NOT r.is_local AND (p.heartbeat_at > pg_catalog.clock_timestamp() - interval '30 s') IS NOT TRUE");
	if (rows[0][0])
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rule cannot become active at once")
			.detail("Every region has to be prepared for it first, and nothing was heard for 30 s of: " + *rows[0][0] + ".")
			.hint("rollout => 'staged' waits for them.");
}

void lockRules() { spi::query("SELECT pg_catalog.pg_advisory_xact_lock(1836217209, 3)"); }

std::string registerRule(const Rule &rule, const std::string &rollout)
{
	RegionShared *region = requireRegion();
	AsSuperuser rights;
	lockRules();
	if (rollout != "shadow")
		requireAlone(rule);
	if (rollout == "immediate")
		requireHeard();
	requireUnchanged(rule);
	spi::Rows rows = spi::query(
		"INSERT INTO mrsync.merge_definition (region_id, definition_id, hlc, table_name, column_name, version, strategy, function, source, "
		"checksum, status, rollout, registered_at) SELECT $1, pg_catalog.gen_random_uuid(), $2::mrsync.hlc, $3, $4, coalesce((SELECT max(d.version) FROM "
		"mrsync.merge_definition d WHERE d.table_name = $3 AND d.column_name IS NOT DISTINCT FROM $4 AND d.of_losers = $10::boolean), 0) + 1, $5, $6, $7, $8, "
		"'preparing', $9, "
		"pg_catalog.clock_timestamp() RETURNING definition_id",
		{std::string(region->region), toText(clockTick(region)), rule.place.table, rule.place.column, rule.strategy, rule.function,
		 rule.source ? spi::Value(rule.source->text) : std::nullopt, rule.source ? spi::Value(rule.source->checksum) : std::nullopt, rollout,
		 isOfLosers(rule.strategy) ? "t" : "f"});
	wakeAtCommit();
	return *rows[0][0];
}

// Checked with the caller's rights.
Rule ruleFor(Oid relation, const std::optional<std::string> &column, const std::string &strategy)
{
	requireRegion();
	requireOwner(relation);
	Rule rule{{relation, tableName(relation), column}, strategy, std::nullopt, std::nullopt};
	requireRuleFits(rule.place, strategy);
	return rule;
}

std::string functionRegister(Rule rule, Oid function, const std::string &rollout)
{
	requireFunctionFits(rule.place, rule.strategy, function);
	rule.function = functionName(function);
	rule.source = functionSource(function);
	if (rule.source && rule.source->text.size() > kLongestSource)
		throw PgError(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the source of " + *rule.function + " is too large to be sent to the other regions")
			.detail("It has " + std::to_string(rule.source->text.size()) + " bytes; at most " + std::to_string(kLongestSource) + " are sent.")
			.hint("Put the larger part of it into functions that it calls, and create these in every region.");
	return registerRule(rule, rollout);
}

std::string mergeFunctionRegister(Oid relation, Oid function, const std::optional<std::string> &column, const std::string &rollout)
{
	if (rollout != "staged" && rollout != "immediate" && rollout != "shadow")
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "unknown rollout \"" + rollout + "\"")
			.hint("Use 'staged' (active when all regions are prepared), 'immediate' (the same; an error where a region is away), or 'shadow' (run beside the "
				  "rule that decides).");
	return functionRegister(ruleFor(relation, column, kMergeFunction), function, rollout);
}

std::string mergeStrategySet(Oid relation, const std::string &strategy, const std::optional<std::string> &column)
{
	if (strategy != kLastWriterWins && strategy != kColumnLastWriterWins)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "unknown strategy \"" + strategy + "\"")
			.hint("Use 'last_writer_wins' or 'column_last_writer_wins'; mrsync.merge_function_register() is for merge functions.");
	return registerRule(ruleFor(relation, column, strategy), "staged");
}

std::string loserStrategySet(Oid relation, const std::string &strategy)
{
	if (strategy != kHoldAside && strategy != kSetNull)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "unknown strategy \"" + strategy + "\"")
			.hint("Use 'hold_aside' or 'set_null'; mrsync.loser_function_register() is for functions.");
	return registerRule(ruleFor(relation, std::nullopt, strategy), "staged");
}

struct Registered
{
	std::string region, rollout, status; // as the view has it
	Oid relation;						 // none: the table is gone, or not replicated any more
	Rule rule;
};

// What the caller may change.
Registered registeredRule(const std::string &id, const char *function)
{
	spi::Rows rows;
	{
		AsSuperuser rights;
		rows = spi::query("SELECT d.region_id, d.rollout, f.status, f.relation::oid, d.table_name, d.column_name, d.strategy, d.function, d.source, d.checksum "
						  "FROM mrsync.merge_definition d JOIN mrsync.merge_function f ON f.definition_id = d.definition_id WHERE d.definition_id = $1::uuid",
						  {id});
	}
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "there is no rule with definition_id " + id)
			.hint("SELECT * FROM mrsync.merge_function lists them.");
	const spi::Row &row = rows[0];
	const Oid relation = row[3] ? toOid(row[3]) : InvalidOid;
	if (row[3])
		requireOwner(relation);
	else
		requireSuperuser(function);
	return {*row[0], *row[1], *row[2], relation,
			{{relation, *row[4], row[5]}, *row[6], row[7], row[8] ? std::optional(FunctionSource{*row[8], *row[9]}) : std::nullopt}};
}

// Only that region changes the row, so that there is one order of its changes.
void requireRegisteredHere(const Registered &registered, const std::string &function)
{
	if (registered.region != requireRegion()->region)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rule was registered in region \"" + registered.region + "\"")
			.hint("Call mrsync." + function + "() there.");
}

// False: its status is another one by now.
bool setStatus(const std::string &id, const Registered &registered, const char *status, const char *rollout)
{
	if (spi::execute("UPDATE mrsync.merge_definition d SET status = $2, rollout = coalesce($3, d.rollout), hlc = greatest($4::mrsync.hlc::bigint, d.hlc::bigint "
					 "+ 1)::mrsync.hlc WHERE definition_id = $1::uuid AND status IN ('preparing', 'shadow')",
					 {id, status, rollout ? spi::Value(rollout) : std::nullopt, toText(clockTick(requireRegion()))}) == 0)
		return false;
	if (OidIsValid(registered.relation))
		invalidateTree(registered.relation);
	wakeAtCommit();
	return true;
}

// On its way into force as if it had been registered as 'staged': the coordinator activates it.
void functionPromote(const std::string &id)
{
	requireRegion();
	lockRules();
	const Registered registered = registeredRule(id, "merge_function_promote");
	requireRegisteredHere(registered, "merge_function_promote");
	if (registered.status == "withdrawn" || registered.status == "superseded")
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rule is " + registered.status)
			.hint("Register the function again.");
	if (registered.rollout != "shadow")
	{
		notice(NOTICE, "the rule is no shadow: it is " + registered.status);
		return;
	}
	AsSuperuser rights;
	requireAlone(registered.rule);
	if (!setStatus(id, registered, "preparing", "staged"))
		throw PgError(ERRCODE_T_R_SERIALIZATION_FAILURE, "the rule was changed at the same moment").hint("SELECT * FROM mrsync.merge_function shows how it stands.");
}

void functionWithdraw(const std::string &id)
{
	requireRegion();
	Registered registered = registeredRule(id, "merge_function_withdraw");
	requireRegisteredHere(registered, "merge_function_withdraw");
	AsSuperuser rights;
	if (setStatus(id, registered, "withdrawn", nullptr))
		return;
	if (spi::query("SELECT status FROM mrsync.merge_definition WHERE definition_id = $1::uuid", {id})[0][0] == "withdrawn")
	{
		notice(NOTICE, "the rule is withdrawn already");
		return;
	}
	throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rule is active: conflicts have been decided by it")
		.hint("mrsync.merge_function_rollback(" + literal(id) + ") has what was before it decide again, from another stamp on.");
}

// What decided before this rule did, in a new version. Of a column without a rule of its own that was the whole table's strategy.
std::string functionRollback(const std::string &id)
{
	requireRegion();
	const Registered registered = registeredRule(id, "merge_function_rollback");
	if (registered.status != "active")
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rule is not active: it is " + registered.status)
			.hint(registered.status == "preparing" || registered.status == "shadow"
					  ? "mrsync.merge_function_withdraw() gives it up."
					  : "SELECT * FROM mrsync.merge_function WHERE status = 'active' shows the rules that are.");
	Rule former{registered.rule.place, isOfLosers(registered.rule.strategy) ? kHoldAside : kLastWriterWins, std::nullopt, std::nullopt};
	{
		AsSuperuser rights;
		spi::Rows rows = spi::query(
			"WITH before AS (SELECT d.*, d.column_name IS NOT DISTINCT FROM o.column_name AS is_own FROM mrsync.merge_definition o JOIN mrsync.merge_definition d ON "
			"d.table_name = o.table_name AND d.of_losers = o.of_losers AND (d.activation::bigint, d.definition_id) < (o.activation::bigint, o.definition_id) WHERE o.definition_id = $1::uuid) "
			"SELECT strategy, function, source, checksum FROM before b WHERE is_own AND NOT EXISTS (SELECT FROM before r WHERE r.column_name IS NULL AND "
			"r.function IS NOT NULL AND (r.activation::bigint, r.definition_id) > (b.activation::bigint, b.definition_id)) OR column_name IS NULL AND function IS "
			"NULL ORDER BY is_own DESC, activation::bigint DESC, definition_id DESC LIMIT 1",
			{id});
		if (!rows.empty())
			former = {former.place, *rows[0][0], rows[0][1], rows[0][2] ? std::optional(FunctionSource{*rows[0][2], *rows[0][3]}) : std::nullopt};
	}
	requireRuleFits(former.place, former.strategy);
	return registerRule(former, "staged");
}

std::optional<std::string> columnArgument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return std::nullopt;
	return std::string(NameStr(*PG_GETARG_NAME(n)));
}

// The id that f returns. Under settings that are the same in all regions: names and sources are compared.
template <typename F> Datum registered(F &&f)
{
	int level = pgCall([] { return fixedSettingsBegin(); });
	const Uuid uuid = *parseUuid(f());
	pgCall([&] { fixedSettingsEnd(level); });
	return pgCall(
		[&]
		{
			auto *result = static_cast<uint8_t *>(palloc(sizeof uuid.bytes));
			memcpy(result, uuid.bytes.data(), sizeof uuid.bytes);
			return PointerGetDatum(result);
		});
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_merge_function_register(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			requireArgument(fcinfo, 0, "relation");
			requireArgument(fcinfo, 1, "function");
			return registered([&]
							  { return mergeFunctionRegister(PG_GETARG_OID(0), PG_GETARG_OID(1), columnArgument(fcinfo, 2), textArgument(fcinfo, 3, "rollout")); });
		});
}

Datum mrsync_merge_strategy_set(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			requireArgument(fcinfo, 0, "relation");
			return registered([&] { return mergeStrategySet(PG_GETARG_OID(0), textArgument(fcinfo, 1, "strategy"), columnArgument(fcinfo, 2)); });
		});
}

Datum mrsync_loser_function_register(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			requireArgument(fcinfo, 0, "relation");
			requireArgument(fcinfo, 1, "function");
			return registered([&] { return functionRegister(ruleFor(PG_GETARG_OID(0), std::nullopt, kLoserFunction), PG_GETARG_OID(1), "staged"); });
		});
}

Datum mrsync_loser_strategy_set(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			requireArgument(fcinfo, 0, "relation");
			return registered([&] { return loserStrategySet(PG_GETARG_OID(0), textArgument(fcinfo, 1, "strategy")); });
		});
}

Datum mrsync_merge_function_promote(PG_FUNCTION_ARGS)
{
	enter([&] { functionPromote(uuidArgument(fcinfo, 0, "definition_id")); });
	return Datum(0);
}

Datum mrsync_merge_function_rollback(PG_FUNCTION_ARGS)
{
	return enter([&] { return registered([&] { return functionRollback(uuidArgument(fcinfo, 0, "definition_id")); }); });
}

Datum mrsync_merge_function_withdraw(PG_FUNCTION_ARGS)
{
	enter([&] { functionWithdraw(uuidArgument(fcinfo, 0, "definition_id")); });
	return Datum(0);
}
