#include "worker/pruner.h"

#include "core/mutant.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
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
constexpr int64_t kConflictInterval = 2 * USECS_PER_SEC;
constexpr uint64_t kConflictsAtOnce = 1000;

struct Table
{
	const char *name;
	const char *superfluous; // of a row t; $1: what is prunable, $4, $5: what Pass says of overrides
};

constexpr Table kTables[] = {
	// A row held aside that a local deletion of its key has done away with goes when an applier looks; until then, the deletion stays.
	{"mrsync.tombstone", "(mrsync.row_version(t.tableoid, t.ctid, t.xmin)).hlc OPERATOR(mrsync.<) $1::mrsync.hlc AND NOT EXISTS (SELECT FROM mrsync.row_aside a WHERE "
						 "a.relation = coalesce(pg_partition_root(t.relation), t.relation) AND (t.key_hash IS NULL OR t.key_hash = "
						 "a.key_hash)) AND NOT (t.key_hash IS NULL AND EXISTS (SELECT FROM mrsync.row_history h WHERE h.relation = "
						 "coalesce(pg_partition_root(t.relation), t.relation)))"},
	// Of rows that exclude each other the version decides at any time, also long after both are below the stable point.
	{"mrsync.hlc_override", "t.hlc OPERATOR(mrsync.<) $1::mrsync.hlc AND ($4 IS NULL OR age(t.xid::xid) > age($4::xid)) AND NOT $5::boolean AND "
							"coalesce(pg_xact_commit_timestamp(t.xid::xid)::mrsync.hlc "
							"OPERATOR(mrsync.<) $1::mrsync.hlc, true) AND NOT EXISTS (SELECT FROM mrsync.replicated_table r "
							"JOIN pg_index i ON i.indrelid = r.relation WHERE (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary)"},
};

// Entries of a row's history are in the order of their versions as long as they are there, also below the stable point: the oldest
// transaction that has one. And a TRUNCATE that is remembered because of such entries is compared with rows of any age.
constexpr char kHistories[] = "SELECT (SELECT xmin FROM mrsync.row_history WHERE NOT is_base ORDER BY age(xmin) DESC LIMIT 1), EXISTS (SELECT FROM mrsync.tombstone t "
							  "WHERE t.key_hash IS NULL AND EXISTS (SELECT FROM mrsync.row_history h WHERE h.relation = coalesce(pg_partition_root(t.relation), "
							  "t.relation)))";

std::string tidOf(int64_t page) { return "(" + std::to_string(page) + ",0)"; }

} // namespace

void announcePruned(RegionShared *region, Hlc upTo)
{
	if (region->prunedUpTo.load() >= upTo.value)
		return;
	WorkerTransaction transaction;
	spi::execute("INSERT INTO mrsync.pruning AS p (pruned_up_to) VALUES ($1::mrsync.hlc) ON CONFLICT (one) DO UPDATE SET "
				 "pruned_up_to = greatest(p.pruned_up_to, excluded.pruned_up_to)",
				 {toText(upTo)});
	transaction.commit();
	int64_t known = region->prunedUpTo.load();
	while (known < upTo.value && !region->prunedUpTo.compare_exchange_weak(known, upTo.value))
		;
}

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
	bool more = false;
	try
	{
		more = prune();
	}
	catch (const PgError &error)
	{
		pass_.reset();
		nextPassAt_ = now + kFailurePause;
		pgCall([&, text = error.message().c_str()] { ereport(LOG, (errmsg("could not prune below the stable point: %s", text))); });
	}
	try
	{
		more |= pruneConflicts();
	}
	catch (const PgError &error)
	{
		conflictsAt_ = steadyNow() + kFailurePause;
		pgCall([&, text = error.message().c_str()] { ereport(LOG, (errmsg("could not prune mrsync.conflict_log: %s", text))); });
	}
	return more;
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
	region_->prunable.store(stable_.prunable().value);
}

bool Pruner::prune()
{
	TimestampTz now = GetCurrentTimestamp();
	if (!pass_)
	{
		bool isTime = now >= nextPassAt_ || nextPassAt_ - now > kFailurePause; // physical time may step back
		if (!isTime || stable_.prunable() <= passed_)
			return false;
		WorkerTransaction transaction;
		const spi::Row histories = spi::query(kHistories)[0];
		transaction.commit();
		pass_ = Pass{stable_.prunable(), mutated("forgets_overrides") ? std::nullopt : histories[0], *histories[1] == "t", 0, 0, now};
	}
	const Table &table = kTables[pass_->table];
	std::string name = table.name;
	std::string where = " t WHERE t.ctid >= $2::tid AND t.ctid < $3::tid AND " + std::string(table.superfluous);
	std::string find = "SELECT EXISTS (SELECT FROM " + name + where + "), pg_relation_size('" + name +
					   "') / current_setting('block_size')::bigint";
	std::string from = tidOf(pass_->page), to = tidOf(pass_->page + kPagesAtOnce), upTo = toText(pass_->upTo);
	const char *keepsOverrides = pass_->keepsOverrides ? "t" : "f";

	WorkerTransaction looking;
	spi::Rows found = spi::query(find.c_str(), {upTo, from, to, pass_->overridesFrom, keepsOverrides});
	looking.commit();
	if (*found[0][0] == "t")
	{
		announcePruned(region_, pass_->upTo);
		WorkerTransaction removing;
		spi::execute(("DELETE FROM " + name + where).c_str(), {upTo, from, to, pass_->overridesFrom, keepsOverrides});
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

// Nobody is waited for: this process sends the heartbeats, and the log may be locked by whoever works on it.
bool Pruner::pruneConflicts()
{
	if (guc::conflictLogRetentionSeconds <= 0 || steadyNow() < conflictsAt_)
		return false;
	WorkerTransaction transaction;
	spi::execute("LOCK TABLE mrsync.conflict_log IN ROW EXCLUSIVE MODE NOWAIT");
	uint64_t count = spi::execute("DELETE FROM mrsync.conflict_log WHERE conflict_id IN (SELECT conflict_id FROM mrsync.conflict_log "
								  "WHERE resolved_at < now() - make_interval(secs => $1::double precision) "
								  "ORDER BY resolved_at LIMIT $2::bigint FOR UPDATE SKIP LOCKED)",
								  {std::to_string(guc::conflictLogRetentionSeconds), std::to_string(kConflictsAtOnce)});
	// Those that every region holds to have to be known as long as an event may arrive that they are about.
	spi::execute("DELETE FROM mrsync.merge_failure WHERE failure_id IN (SELECT failure_id FROM mrsync.merge_failure WHERE failed_at < now() - "
				 "make_interval(secs => $1::double precision) AND hlc OPERATOR(mrsync.<) $3::mrsync.hlc ORDER BY failed_at LIMIT $2::bigint FOR UPDATE "
				 "SKIP LOCKED)",
				 {std::to_string(guc::conflictLogRetentionSeconds), std::to_string(kConflictsAtOnce), toText(stable_.prunable())});
	transaction.commit();
	bool more = count == kConflictsAtOnce;
	if (!more)
		conflictsAt_ = steadyNow() + kConflictInterval;
	return more;
}

} // namespace mrsync
