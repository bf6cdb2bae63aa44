#include "worker/rollout.h"

#include "pg/clock.h"
#include "pg/spi.h"
#include "worker/as_owner.h"
#include "worker/time_limit.h"

#include <algorithm>

extern "C"
{
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/condition_variable.h"
#include "tcop/tcopprot.h"
#include "utils/inval.h"
}

namespace mrsync
{

namespace
{

constexpr int64_t kLookInterval = USECS_PER_SEC;
constexpr int64_t kRetryPause = 5 * USECS_PER_SEC;
// A topic keeps a day at least (kafka/admin.cpp).
constexpr int64_t kSayAgain = 6 * USECS_PER_HOUR;
constexpr int64_t kSayAgainInterval = 600 * USECS_PER_SEC;
constexpr int kTrialMs = 2000; // heartbeats wait as long
constexpr char kLockMs[] = "SET LOCAL lock_timeout = '200ms'"; // behind us, a table's writers would wait as long

constexpr std::string_view kReplacing = "CREATE OR REPLACE FUNCTION ";

// The language, if the text is one statement that makes a function and nothing else; "": it is not.
std::string languageOf(const std::string &source)
{
	return pgCall(
		[&]() -> const char *
		{
			List *statements = pg_parse_query(source.c_str());
			if (list_length(statements) != 1)
				return "";
			Node *statement = linitial_node(RawStmt, statements)->stmt;
			if (!IsA(statement, CreateFunctionStmt) || reinterpret_cast<CreateFunctionStmt *>(statement)->is_procedure)
				return "";
			ListCell *cell;
			foreach (cell, reinterpret_cast<CreateFunctionStmt *>(statement)->options)
			{
				auto *option = lfirst_node(DefElem, cell);
				if (strcmp(option->defname, "language") == 0)
					return strVal(option->arg);
			}
			return "sql";
		});
}

std::optional<Oid> functionBySignature(const std::string &function)
{
	spi::Rows rows = spi::query("SELECT pg_catalog.to_regprocedure($1)::oid", {function});
	if (!rows[0][0])
		return std::nullopt;
	return static_cast<Oid>(std::stoul(*rows[0][0]));
}

} // namespace

void mergeRulesChanged(const std::string &table)
{
	for (const spi::Row &row : spi::query("SELECT p.relid::oid FROM mrsync.replicated_table r JOIN pg_class c ON c.oid = r.relation JOIN pg_namespace n ON "
										  "n.oid = c.relnamespace CROSS JOIN LATERAL (SELECT r.relation UNION SELECT relid FROM "
										  "pg_partition_tree(r.relation)) p (relid) WHERE format('%I.%I', n.nspname, c.relname) = $1",
										  {table}))
		pgCall([relation = static_cast<Oid>(std::stoul(*row[0]))] { CacheInvalidateRelcacheByRelid(relation); });
}

bool Rollout::step(bool isNews, bool mayActivate)
{
	int64_t now = steadyNow();
	if (!isNews && now - lookedAt_ < kLookInterval)
		return false;
	lookedAt_ = now;
	sayAgain();
	bool isMore = false, isUntold = false;
	for (const Definition &definition : read())
	{
		if (isDue(definition))
		{
			prepare(definition); // one at a time: heartbeats wait
			isMore = true;
			break;
		}
		if (mayActivate && definition.isOurs && (definition.isComplete || mutated("activates_alone")))
			isMore |= definition.isShadow ? beginShadow(definition) : activate(definition);
		isUntold |= definition.isUntold;
	}
	if (isUntold)
		tellKnown();
	if (isMore)
		lookedAt_ = 0;
	return isMore;
}

std::vector<Rollout::Definition> Rollout::read()
{
	WorkerTransaction transaction;
	std::vector<Definition> definitions;
	// By name, compared as it is written: what comes from a topic need not be a name.
	for (const spi::Row &row : spi::query(
			 "SELECT d.definition_id, d.hlc, d.strategy, d.function, d.checksum, t.relation, t.owner, d.table_name, d.column_name, d.status = "
			 "'preparing' AND d.region_id = $1, NOT EXISTS (SELECT FROM mrsync.region g WHERE NOT EXISTS (SELECT FROM "
			 "mrsync.merge_acknowledgement o WHERE o.definition_id = d.definition_id AND o.region_id = g.region_id AND o.prepared)), d.status = "
			 "'active' AND coalesce(a.prepared AND NOT a.knows_activation, false), t.added_at, d.rollout = 'shadow', d.status <> 'preparing' AND "
			 "a.definition_id IS NOT NULL FROM mrsync.merge_definition d LEFT JOIN (SELECT r.relation::oid, c.relowner, format('%I.%I', n.nspname, "
			 "c.relname), r.added_at FROM mrsync.replicated_table r JOIN pg_class c ON c.oid = r.relation JOIN pg_namespace n ON n.oid = c.relnamespace) t (relation, owner, name, added_at) ON t.name = d.table_name LEFT JOIN mrsync.merge_acknowledgement a ON "
			 "a.definition_id = d.definition_id AND a.region_id = $1 WHERE d.status <> 'withdrawn' ORDER BY d.registered_at, d.definition_id",
			 {std::string(region_->region)}))
	{
		auto oid = [&](int n) { return row[n] ? static_cast<Oid>(std::stoul(*row[n])) : InvalidOid; };
		definitions.push_back(Definition{*row[0], *row[1], *row[2], row[3].value_or(""), row[4], MergePlace{oid(5), *row[7], row[8]}, oid(6),
										 row[9] == "t", row[10] == "t", row[11] == "t", row[12].value_or(""), row[13] == "t", row[14] == "t"});
	}
	transaction.commit();
	return definitions;
}

bool Rollout::isDue(const Definition &definition) const
{
	auto tried = tried_.find(definition.id);
	if (tried == tried_.end() || tried->second.relation != definition.place.relation || definition.addedAt != tried->second.addedAt)
		return true;
	if (steadyNow() - tried->second.at >= kRetryPause && (!tried->second.isPrepared || (!definition.function.empty() && tried->second.functions != functionChanges())))
		return true;
	return !tried->second.isPrepared && tried->second.stamp != definition.stamp;
}

void Rollout::prepare(const Definition &definition)
{
	const uint64_t functions = functionChanges();
	std::optional<PgError> failure;
	try
	{
		if (!definition.function.empty())
			provide(definition);
		inspect(definition);
		if (definition.strategy != kLastWriterWins && !isOfLosers(definition.strategy))
			beginHistory(definition);
	}
	catch (const PgError &error)
	{
		failure = error;
	}
	acknowledge(definition, failure);
	tried_[definition.id] = Tried{definition.place.relation, definition.addedAt, definition.stamp, !failure, steadyNow(), functions};
}

// The function is there, and is the one that is meant.
void Rollout::provide(const Definition &definition)
{
	WorkerTransaction transaction;
	std::optional<Oid> known = functionBySignature(definition.function);
	if (!known)
		create(definition);
	else
		requireRegistered(*known, definition.function, definition.checksum);
	transaction.commit();
}

void Rollout::create(const Definition &definition)
{
	spi::Rows rows = spi::query("SELECT source FROM mrsync.merge_definition WHERE definition_id = $1::uuid AND source IS NOT NULL", {definition.id});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_FUNCTION, "function " + definition.function + " does not exist here")
			.detail("It belongs to an extension where it was registered, so it is not sent.")
			.hint("Create that extension here.");
	if (!OidIsValid(definition.place.relation))
		return; // with whose rights is not known; what is missing is said by inspect()
	std::string source = *rows[0][0];
	const std::string language = languageOf(source);
	if (!source.starts_with(kReplacing) || language.empty())
		throw PgError(ERRCODE_INVALID_FUNCTION_DEFINITION, "the source of function " + definition.function + " is not a statement that makes a function")
			.hint("Withdraw the rule, and register the function again.");
	if (*spi::query("SELECT coalesce((SELECT lanpltrusted FROM pg_language WHERE lanname = $1), true)", {language})[0][0] != "t")
		throw PgError(ERRCODE_INSUFFICIENT_PRIVILEGE, "function " + definition.function + " is not made here: language " + language + " is not trusted")
			.detail("What comes from another region may not do what PostgreSQL keeps for superusers.")
			.hint("Create the function here, as it is in the other region.");
	source.replace(0, kReplacing.size(), "CREATE FUNCTION "); // what is here stays
	spi::execute(kLockMs);
	{
		TimeLimit limit(kTrialMs);
		AsOwner rights(definition.owner);
		spi::execute(source.c_str());
	}
	std::optional<Oid> made = functionBySignature(definition.function);
	std::optional<FunctionSource> is = made ? functionSource(*made) : std::nullopt;
	if (!is || is->checksum != definition.checksum)
		throw PgError(ERRCODE_INVALID_FUNCTION_DEFINITION, "the source of function " + definition.function + " makes another function here")
			.hint("Create the function here, as it is in the other region, or withdraw the rule.");
}

// What must hold holds; and the function takes what it will be given.
void Rollout::inspect(const Definition &definition)
{
	WorkerTransaction transaction;
	spi::execute(kLockMs);
	requireRuleFits(definition.place, definition.strategy);
	if (!definition.function.empty())
	{
		std::optional<Oid> function = functionBySignature(definition.function);
		if (!function)
			throw PgError(ERRCODE_UNDEFINED_FUNCTION, "function " + definition.function + " does not exist here");
		requireFunctionFits(definition.place, definition.strategy, *function, definition.isTried);
		if (!definition.isTried)
			tryOut(definition, *function);
	}
	transaction.commit();
}

// What is in force is not tried again: values that it fails on are told when it does.
void Rollout::tryOut(const Definition &definition, Oid function)
{
	const spi::Row row = spi::query("SELECT format('%I.%I', n.nspname, p.proname), quote_ident($3), format_type(CASE WHEN t.typtype = 'p' THEN "
									"a.atttypid ELSE t.oid END, -1) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_type t ON t.oid = "
									"p.prorettype LEFT JOIN pg_attribute a ON a.attrelid = $2::oid AND a.attname = $3 WHERE p.oid = $1::oid",
									{std::to_string(function), std::to_string(definition.place.relation), definition.place.column})[0];
	const std::string &name = *row[0], &type = *row[2];
	const std::string null = "NULL::" + type, value = "one.v::" + type;
	const bool isOne = isOfLosers(definition.strategy);
	const std::string withNulls = "SELECT " + name + "(" + null + (isOne ? "" : ", " + null + ", " + null) + ")";
	const std::string withRow = "SELECT " + name + "(" + value + (isOne ? "" : ", " + value + ", " + value) + ") FROM (SELECT " +
								(row[1] ? "mrsync_row." + *row[1] : "mrsync_row") + " FROM " + definition.place.table +
								" mrsync_row LIMIT 1) one (v)";
	try
	{
		TimeLimit limit(kTrialMs);
		AsOwner rights(definition.owner);
		spi::execute(withNulls.c_str());
		spi::execute(withRow.c_str());
	}
	catch (const PgError &error)
	{
		const int state = error.sqlState();
		if (state == ERRCODE_UNDEFINED_OBJECT || state == ERRCODE_UNDEFINED_FUNCTION || state == ERRCODE_UNDEFINED_TABLE || state == ERRCODE_UNDEFINED_COLUMN)
			throw PgError(state, error.message())
				.detail(error.detail())
				.hint("Functions run under search_path = pg_catalog: name what it uses with its schema, in every region; or write it as RETURN … or BEGIN "
					  "ATOMIC.");
		throw;
	}
}

// It locks the table; not again for each rule, nor at each start.
void Rollout::beginHistory(const Definition &definition)
{
	WorkerTransaction transaction;
	spi::execute(kLockMs);
	spi::query("SELECT mrsync.row_history_begin(relation) FROM mrsync.replicated_table WHERE relation = $1::oid AND NOT keeps_history",
			   {std::to_string(definition.place.relation)});
	transaction.commit();
}

void Rollout::acknowledge(const Definition &definition, const std::optional<PgError> &failure)
{
	spi::Value state, message, hint;
	if (failure)
	{
		state = failure->sqlStateText();
		message = failure->message() + (failure->detail().empty() ? "" : " — " + failure->detail());
		if (!failure->hint().empty())
			hint = failure->hint();
	}
	WorkerTransaction transaction;
	spi::execute("INSERT INTO mrsync.merge_acknowledgement AS a (region_id, definition_id, hlc, prepared, sqlstate, message, hint, acknowledged_at) "
				 "VALUES ($1, $2::uuid, $3::mrsync.hlc, $4 IS NULL, $4, left($5, 1000), left($6, 1000), clock_timestamp()) ON CONFLICT (definition_id, region_id) "
				 "DO UPDATE SET hlc = excluded.hlc, prepared = excluded.prepared, sqlstate = excluded.sqlstate, message = excluded.message, hint = "
				 "excluded.hint, acknowledged_at = excluded.acknowledged_at WHERE (a.prepared, a.sqlstate, a.message, a.hint) IS DISTINCT FROM "
				 "(excluded.prepared, excluded.sqlstate, excluded.message, excluded.hint)",
				 {std::string(region_->region), definition.id, toText(clockTick(region_)), state, message, hint});
	transaction.commit();
}

// Whoever withdraws it at this moment in an open transaction goes before.
bool Rollout::activate(const Definition &definition)
{
	WorkerTransaction transaction;
	// Above all that any region had committed or applied before it kept histories; and above the rules before it.
	const spi::Value below = spi::query("SELECT greatest((SELECT max(hlc::bigint) FROM mrsync.merge_acknowledgement WHERE definition_id = $1::uuid), "
										"(SELECT max(activation::bigint) FROM mrsync.merge_definition WHERE table_name = $2))",
										{definition.id, definition.place.table})[0][0];
	const std::string stamp = toText(std::max(clockTick(region_), Hlc{below ? std::stoll(*below) + 1 : 0}));
	bool isDone = spi::execute("UPDATE mrsync.merge_definition d SET status = 'active', activation = $2::mrsync.hlc, hlc = $2::mrsync.hlc FROM (SELECT "
							   "definition_id FROM mrsync.merge_definition WHERE definition_id = $1::uuid AND status = 'preparing' FOR UPDATE SKIP LOCKED) "
							   "free WHERE free.definition_id = d.definition_id",
							   {definition.id, stamp}) == 1;
	if (isDone)
		mergeRulesChanged(definition.place.table);
	transaction.commit();
	if (isDone)
		pgCall(
			[of = definition.function.empty() ? definition.strategy.c_str() : definition.function.c_str(), table = definition.place.table.c_str(),
			 from = stamp.c_str(), isOfLosers = isOfLosers(definition.strategy)]
			{
				if (isOfLosers)
					ereport(LOG, (errmsg("what becomes of rows that others exclude from table %s is decided by %s", table, of)));
				else
					ereport(LOG, (errmsg("conflicts on table %s are decided by %s from %s on", table, of, from)));
			});
	return isDone;
}

// From now on it is run beside the rule that decides, in every region as soon as that hears of it. Whoever withdraws or promotes it at
// this moment goes before.
bool Rollout::beginShadow(const Definition &definition)
{
	WorkerTransaction transaction;
	bool isDone = spi::execute("UPDATE mrsync.merge_definition d SET status = 'shadow', hlc = greatest($2::mrsync.hlc::bigint, d.hlc::bigint + 1)::mrsync.hlc "
							   "FROM (SELECT definition_id FROM mrsync.merge_definition WHERE definition_id = $1::uuid AND status = 'preparing' AND "
							   "rollout = 'shadow' FOR UPDATE SKIP LOCKED) free WHERE free.definition_id = d.definition_id",
							   {definition.id, toText(clockTick(region_))}) == 1;
	if (isDone)
		mergeRulesChanged(definition.place.table);
	transaction.commit();
	if (isDone)
		pgCall([&] { ConditionVariableBroadcast(&region_->acks); });
	return isDone;
}

void Rollout::tellKnown()
{
	WorkerTransaction transaction;
	spi::execute("UPDATE mrsync.merge_acknowledgement a SET knows_activation = true, hlc = $2::mrsync.hlc, acknowledged_at = clock_timestamp() FROM "
				 "mrsync.merge_definition d WHERE d.definition_id = a.definition_id AND d.status = 'active' AND a.region_id = $1 AND a.prepared AND NOT "
				 "a.knows_activation",
				 {std::string(region_->region), toText(clockTick(region_))});
	transaction.commit();
	pgCall([&] { ConditionVariableBroadcast(&region_->acks); });
}

// For regions that read our topic from its beginning when what was said first is not in it any more; and all of it after a resend, since
// what makes that necessary may have taken it along.
void Rollout::sayAgain()
{
	int64_t now = steadyNow();
	WorkerTransaction transaction;
	const spi::Value resent = spi::query("SELECT max(finished_at) FROM mrsync.resend WHERE region_id = $1", {std::string(region_->region)})[0][0];
	const bool isAll = resent != resent_;
	if (!isAll && saidAt_ != 0 && now - saidAt_ < kSayAgainInterval)
		return;
	saidAt_ = now;
	resent_ = resent;
	const std::string old = toText(isAll ? clockTick(region_) : Hlc{GetCurrentTimestamp() - kSayAgain});
	if (isAll)
		spi::execute("UPDATE mrsync.merge_failure f SET hlc = f.hlc FROM (SELECT failure_id FROM mrsync.merge_failure WHERE region_id = $1 AND is_shared FOR UPDATE "
					 "SKIP LOCKED) free WHERE free.failure_id = f.failure_id",
					 {std::string(region_->region)});
	spi::execute("UPDATE mrsync.merge_definition d SET hlc = $2::mrsync.hlc FROM (SELECT definition_id FROM mrsync.merge_definition WHERE region_id = $1 "
				 "AND hlc OPERATOR(mrsync.<) $3::mrsync.hlc FOR UPDATE SKIP LOCKED) free WHERE free.definition_id = d.definition_id",
				 {std::string(region_->region), toText(clockTick(region_)), old});
	spi::execute("UPDATE mrsync.merge_acknowledgement SET hlc = $2::mrsync.hlc WHERE region_id = $1 AND hlc OPERATOR(mrsync.<) $3::mrsync.hlc",
				 {std::string(region_->region), toText(clockTick(region_)), old});
	transaction.commit();
}

} // namespace mrsync
