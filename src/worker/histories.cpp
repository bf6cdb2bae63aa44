#include "worker/histories.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/spi.h"
#include "worker/parking.h"
#include "worker/pruner.h"

#include <algorithm>

namespace mrsync
{

namespace
{

constexpr int64_t kInterval = USECS_PER_SEC;
constexpr int64_t kShare = 10; // of the time, this takes at most one part in so many
constexpr int64_t kMost = USECS_PER_SEC / 10; // at once: events wait as long
constexpr size_t kMostKeys = 10000; // listed at once, any: some may have to stay
constexpr char kLockMs[] = "SET LOCAL lock_timeout = '100ms'"; // events wait as long

Oid toOid(const spi::Value &value) { return static_cast<Oid>(std::stoul(*value)); }

std::optional<Image> keyOf(const std::string &json)
{
	auto pk = decodeImage(json);
	return std::holds_alternative<Image>(pk) ? std::optional(std::get<Image>(std::move(pk))) : std::nullopt;
}

} // namespace

long Histories::run()
{
	int64_t now = steadyNow();
	int64_t last = worker_.region->historiesKeptAt.load();
	if (now < at_ || now - last < kInterval || !worker_.region->historiesKeptAt.compare_exchange_strong(last, now))
		return kInterval / 1000;
	try
	{
		foldByNewRules();
		forget();
	}
	catch (const PgError &error)
	{
		if (!isRetryable(error))
			complain(error);
	}
	at_ = now + std::max(kInterval, kShare * (steadyNow() - now));
	return (at_ - steadyNow()) / 1000 + 1;
}

// Once for each text, at most ten of them.
void Histories::complain(const PgError &error)
{
	constexpr size_t kMostTexts = 10;
	if (complaints_.size() >= kMostTexts || !complaints_.insert(error.message()).second)
		return;
	pgCall([&, text = error.message().c_str(), detail = error.detail().c_str()]
		   { ereport(LOG, (errmsg("could not look after the history of a row: %s", text), *detail ? errdetail("%s", detail) : 0)); });
}

// Until that is done, nothing is forgotten from its stamp on.
void Histories::foldByNewRules()
{
	std::vector<NewRule> rules = inTransaction(
		[]
		{
			std::vector<NewRule> found;
			for (const spi::Row &row : spi::query("SELECT d.id, t.relation, d.table_name, d.row_pk FROM (SELECT definition_id, table_name, activation, "
												  "NULL::jsonb FROM mrsync.merge_definition WHERE activation IS NOT NULL UNION ALL SELECT "
												  "failure_id, table_name, event_hlc, row_pk FROM mrsync.merge_failure WHERE is_shared) d (id, table_name, "
												  "since, row_pk) LEFT JOIN (SELECT r.relation::oid, "
												  "format('%I.%I', n.nspname, c.relname) FROM mrsync.replicated_table r JOIN pg_class c ON c.oid = r.relation "
												  "JOIN pg_namespace n ON n.oid = c.relnamespace) t (relation, name) ON t.name = d.table_name WHERE NOT "
												  "EXISTS (SELECT FROM mrsync.merge_folded f WHERE f.id = d.id) ORDER BY d.since"))
				found.push_back({*row[0], row[1] ? toOid(row[1]) : InvalidOid, *row[2], row[3] ? keyOf(*row[3]) : std::nullopt});
			return found;
		});
	for (const NewRule &rule : rules)
	{
		if (!isReadByAll(rule))
			continue;
		if (!foldAll(rule))
			continue;
		inTransaction([&] { spi::execute("INSERT INTO mrsync.merge_folded VALUES ($1::uuid) ON CONFLICT DO NOTHING", {rule.definition}); });
		unaware_.erase(rule.definition);
	}
}

// Who locks the table from now on reads its rules first (Target::locked). Who has it locked may write by the old ones.
bool Histories::isReadByAll(const NewRule &rule)
{
	auto [known, isNew] = unaware_.try_emplace(rule.definition);
	std::vector<VirtualTransactionId> &unaware = known->second;
	inTransaction(
		[&]
		{
			if (isNew)
				for (const TableWriter &writer : writersOf(rule.root))
					for (const WorkerShared &worker : worker_.region->workers)
						if (worker.kind == WorkerKind::Applier && writer.pid == worker.pid)
							unaware.push_back(writer.transaction);
			std::erase_if(unaware, [](const VirtualTransactionId &transaction) { return pgCall([&] { return VirtualXactLock(transaction, false); }); });
		});
	return unaware.empty();
}

// False: there is more to do. A row that somebody has locked is tried again later; one that cannot be folded is for the log, and stays as
// it is.
bool Histories::foldAll(const NewRule &rule)
{
	auto [known, isNew] = unfolded_.try_emplace(rule.definition);
	std::vector<Image> &keys = known->second;
	if (isNew)
		keys = rule.pk && OidIsValid(rule.root) ? std::vector<Image>{*rule.pk} : inTransaction([&] { return historiesOf(rule.root); });
	std::vector<Image> locked;
	const int64_t end = steadyNow() + kMost;
	while (!keys.empty() && steadyNow() < end)
	{
		Image pk = std::move(keys.back());
		keys.pop_back();
		try
		{
			replay_.begin();
			spi::execute(kLockMs);
			std::optional<Version> version = replay_.apply().refold(rule.root, pk, Version{Hlc{INT64_MAX}, ""});
			if (version)
			{
				if (rule.pk)
					replay_.apply().logGivenUp(rule.root, rule.table, pk);
				replay_.as(version->region);
				replay_.commit(InvalidXLogRecPtr, version->hlc);
			}
			else
				replay_.abort();
		}
		catch (const PgError &error)
		{
			replay_.abort();
			const bool isEndless = error.sqlState() == ERRCODE_STATEMENT_TOO_COMPLEX; // here; it is tried until it is given up somewhere
			if (isEndless || isRetryable(error))
				locked.push_back(std::move(pk));
			if (isEndless || !isRetryable(error))
				complain(error);
		}
	}
	keys.insert(keys.begin(), std::make_move_iterator(locked.begin()), std::make_move_iterator(locked.end()));
	if (!keys.empty())
		return false;
	unfolded_.erase(known);
	return true;
}

void Histories::forget()
{
	if (forgettable_.empty())
		listForgettable();
	const int64_t end = steadyNow() + kMost;
	while (!forgettable_.empty() && steadyNow() < end)
	{
		const auto [root, pk] = std::move(forgettable_.back());
		forgettable_.pop_back();
		try
		{
			replay_.sweep();
			WorkerTransaction transaction;
			pgCall([] { SPI_connect(); }); // merge functions have plans
			bool isForgotten = replay_.apply().forgetHistory(root, pk, forgettableUpTo_);
			pgCall([] { SPI_finish(); });
			if (isForgotten)
				transaction.commit();
		}
		catch (const PgError &error)
		{
			if (!isRetryable(error))
				complain(error);
		}
	}
	if (forgettable_.empty() && isAllListed_)
		forgotten_ = std::max(forgotten_, forgettableUpTo_);
}

// What comes below the stable point later than this is found the next time.
void Histories::listForgettable()
{
	Hlc upTo{worker_.region->prunable.load()};
	forgettable_ = inTransaction(
		[&]
		{
			std::vector<std::pair<Oid, Image>> found;
			spi::Rows open = spi::query("SELECT min(d.since::bigint) FROM (SELECT definition_id, activation FROM mrsync.merge_definition WHERE activation IS NOT "
										"NULL UNION ALL SELECT failure_id, event_hlc FROM mrsync.merge_failure WHERE is_shared) d (id, since) WHERE NOT EXISTS (SELECT "
										"FROM mrsync.merge_folded f WHERE f.id = d.id)");
			if (open[0][0])
				upTo = std::min(upTo, Hlc{std::stoll(*open[0][0]) - 1});
			if (upTo <= forgotten_) // a region is away: the histories may be long by now
				return found;
			for (const spi::Row &row : spi::query("SELECT * FROM (SELECT DISTINCT h.relation::oid, h.row_pk::text FROM mrsync.row_history h CROSS JOIN LATERAL "
												  "mrsync.row_version(h.tableoid, h.ctid, h.xmin) v WHERE CASE WHEN h.is_base THEN h.hlc OPERATOR(mrsync.<=) $1::mrsync.hlc AND "
												  "NOT EXISTS (SELECT FROM mrsync.row_history o WHERE o.relation = h.relation AND o.key_hash = h.key_hash AND NOT "
												  "o.is_base) ELSE v.hlc OPERATOR(mrsync.<=) $1::mrsync.hlc END) k ORDER BY random() LIMIT $2::bigint",
												  {toText(upTo), std::to_string(kMostKeys)}))
				if (std::optional<Image> pk = keyOf(*row[1]))
					found.emplace_back(toOid(row[0]), std::move(*pk));
			return found;
		});
	forgettableUpTo_ = upTo;
	isAllListed_ = forgettable_.size() < kMostKeys;
	if (!forgettable_.empty())
		announcePruned(worker_.region, upTo);
}

} // namespace mrsync
