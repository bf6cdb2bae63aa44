#include "worker/pruner.h"

#include "pg/guard.h"
#include "pg/spi.h"

#include <algorithm>

namespace mrsync
{

namespace
{

constexpr int64_t kObserveInterval = USECS_PER_SEC;
constexpr int64_t kPassInterval = 2 * USECS_PER_SEC;
constexpr int64_t kPassShare = 20;		   // of the time, a pass takes at most one part in so many
constexpr int64_t kPagesAtOnce = 64;	   // some thousand rows
constexpr int64_t kFailurePause = 60 * USECS_PER_SEC;

struct Table
{
	const char *name;
	const char *superfluous; // of a row t; $1: what is prunable
};

constexpr Table kTables[] = {
	{"mrsync.tombstone", "mrsync.version_below(t.xmin, $1::mrsync.hlc, '')"},
	{"mrsync.hlc_override", "t.hlc OPERATOR(mrsync.<) $1::mrsync.hlc AND coalesce(pg_xact_commit_timestamp(t.xid::xid)::mrsync.hlc "
							"OPERATOR(mrsync.<) $1::mrsync.hlc, true)"},
};

std::string tidOf(int64_t page) { return "(" + std::to_string(page) + ",0)"; }

} // namespace

void Pruner::load()
{
	spi::Rows rows = spi::query("SELECT pruned_up_to::bigint FROM mrsync.pruning");
	if (!rows.empty() && region_->prunedUpTo.load() < std::stoll(*rows[0][0]))
		region_->prunedUpTo.store(std::stoll(*rows[0][0]));
}

bool Pruner::step()
{
	TimestampTz now = GetCurrentTimestamp();
	if (now < observedAt_ || now - observedAt_ >= kObserveInterval)
	{
		observedAt_ = now;
		observe();
	}
	try
	{
		return prune();
	}
	catch (const PgError &error)
	{
		pass_.reset();
		nextPassAt_ = now + kFailurePause;
		pgCall([&, text = error.message().c_str()] { ereport(LOG, (errmsg("could not prune below the stable point: %s", text))); });
		return false;
	}
}

void Pruner::observe()
{
	std::vector<RegionWatermark> pairs;
	WorkerTransaction transaction;
	for (const spi::Row &row : spi::query("SELECT region_id, origin_region, watermark::bigint, coalesce(said_at::bigint, 0) "
										  "FROM mrsync.watermark"))
		pairs.push_back(RegionWatermark{*row[0], *row[1], row[2] ? std::optional(Hlc{std::stoll(*row[2])}) : std::nullopt,
										Hlc{std::stoll(*row[3])}});
	transaction.commit();
	stable_.observe(pairs);
	region_->stablePoint.store(stable_.value().value_or(Hlc{}).value);
}

bool Pruner::prune()
{
	TimestampTz now = GetCurrentTimestamp();
	if (!pass_)
	{
		bool isTime = now >= nextPassAt_ || nextPassAt_ - now > kFailurePause; // physical time may step back
		if (!isTime || stable_.prunable() <= passed_)
			return false;
		pass_ = Pass{stable_.prunable(), 0, 0, now};
	}
	const Table &table = kTables[pass_->table];
	std::string name = table.name;
	std::string where = " t WHERE t.ctid >= $2::tid AND t.ctid < $3::tid AND " + std::string(table.superfluous);
	std::string find = "SELECT EXISTS (SELECT FROM " + name + where + "), pg_relation_size('" + name +
					   "') / current_setting('block_size')::bigint";
	std::string from = tidOf(pass_->page), to = tidOf(pass_->page + kPagesAtOnce), upTo = toText(pass_->upTo);

	WorkerTransaction looking;
	spi::Rows found = spi::query(find.c_str(), {upTo, from, to});
	looking.commit();
	if (*found[0][0] == "t")
	{
		announce(pass_->upTo);
		WorkerTransaction removing;
		spi::execute(("DELETE FROM " + name + where).c_str(), {upTo, from, to});
		removing.commit();
	}
	pass_->page += kPagesAtOnce;
	if (pass_->page < std::stoll(*found[0][1]))
		return true;
	pass_->page = 0;
	if (++pass_->table < static_cast<int>(std::size(kTables)))
		return true;
	passed_ = pass_->upTo;
	int64_t took = std::max<int64_t>(0, now - pass_->startedAt);
	nextPassAt_ = now + std::clamp(kPassShare * took, kPassInterval, kFailurePause);
	pass_.reset();
	return false;
}

// Before the first row that it speaks of goes.
void Pruner::announce(Hlc upTo)
{
	if (region_->prunedUpTo.load() >= upTo.value)
		return;
	WorkerTransaction transaction;
	spi::execute("INSERT INTO mrsync.pruning AS p (pruned_up_to) VALUES ($1::mrsync.hlc) ON CONFLICT (one) DO UPDATE SET "
				 "pruned_up_to = greatest(p.pruned_up_to, excluded.pruned_up_to)",
				 {toText(upTo)});
	transaction.commit();
	region_->prunedUpTo.store(upTo.value);
}

} // namespace mrsync
