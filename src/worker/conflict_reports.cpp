#include "worker/conflict_reports.h"

#include "core/mutant.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/parking.h"

namespace mrsync
{

namespace
{

constexpr int64_t kInterval = USECS_PER_SEC / 5;
constexpr int64_t kFailurePause = USECS_PER_SEC;
constexpr char kEntriesAtOnce[] = "100";
constexpr char kSidesAtOnce[] = "500";
constexpr char kBytesAtOnce[] = "1000000"; // of images, as they are stored; one entry in any case
constexpr char kLockMs[] = "SET LOCAL lock_timeout = '20ms'"; // heartbeats wait as long; and appliers hold what they have logged
#define COLUMNS                                                                                                                                \
	"conflict_id, conflict_type, table_name, row_pk, event_id_a, event_id_b, region_a, region_b, hlc_a, hlc_b, image_a, image_b, "              \
	"resolution_strategy, winner_region, winner_event_id, resolved_at, constraint_name, other_pk, rule_activation, given_up"

// SQL: the last event on a row of the transaction of t, a record in mrsync.applied_event; isGone: it left no row.
std::string eventOf(const std::string &table, const std::string &pk, const std::string &isGone)
{
	return "mrsync.event_on_row(t.event_id, t.last_event_id, t.event_rows, " + table + ", " + pk + ", " + isGone + ")";
}

// The key of the row that a side of c is about.
const char *keyOf(char side) { return side == 'a' ? "c.row_pk" : "coalesce(c.other_pk, c.row_pk)"; }

// SQL: gives one side of entries its event_id where it has none, and another entry of that row tells it, or the transaction was applied
// here. Entries of rows that those of $1 are about.
std::string completion(char side)
{
	auto sibling = [](char of, const std::string &version)
	{
		const std::string key = keyOf(of);
		return "c.hlc_" + std::string(1, of) + " OPERATOR(mrsync.=) " + version + ".hlc AND jsonb_hash_extended(" + key + ", 0) = jsonb_hash_extended(" + version +
			   ".pk, 0) AND " + key + " = " + version + ".pk AND c.region_" + of + " = " + version + ".region AND c.table_name = " + version + ".table_name";
	};
	auto found = [&](char of)
	{
		return "(SELECT c.event_id_" + std::string(1, of) + " FROM mrsync.conflict_log c WHERE " + sibling(of, "s") + " AND c.event_id_" + of +
			   " IS NOT NULL ORDER BY 1 DESC LIMIT 1)";
	};
	// num_nulls, lest it be read by conflict_log_unnamed_…, which has many for a while
	return "WITH e AS (SELECT * FROM mrsync.conflict_log WHERE conflict_id = ANY ($1::uuid[])), s AS (SELECT DISTINCT table_name, row_pk AS pk, hlc_a AS hlc, "
		   "region_a AS region, event_id_a AS id, image_a IS NULL AS is_gone FROM e WHERE hlc_a IS NOT NULL UNION SELECT table_name, coalesce(other_pk, row_pk), "
		   "hlc_b, region_b, event_id_b, image_b IS NULL FROM e), k AS MATERIALIZED (SELECT s.table_name, s.pk, s.hlc, s.region, coalesce(s.id, " +
		   found('a') + ", " + found('b') + ", (SELECT " + eventOf("s.table_name", "s.pk", "s.is_gone") +
		   " FROM mrsync.applied_event t WHERE t.region_id = s.region AND t.hlc OPERATOR(mrsync.=) s.hlc LIMIT 1)) AS id FROM s), completed AS (UPDATE "
		   "mrsync.conflict_log c SET " +
		   (side == 'a' ? "event_id_a = k.id" : "event_id_b = k.id, winner_event_id = k.id") + " FROM k WHERE k.id IS NOT NULL AND num_nulls(c.event_id_" + side +
		   ") = 1 AND " + sibling(side, "k") + " RETURNING c.conflict_id) INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM completed";
}

// SQL: of which entries that can be told, and what, of what region $1 has written above $2, up to $3, by its transactions that were applied here.
std::string nameable(char side)
{
	const std::string x(1, side);
	return "SELECT count(*), array_agg(conflict_id), array_agg(id) FROM (SELECT * FROM (SELECT c.conflict_id, " +
		   eventOf("c.table_name", keyOf(side), "c.image_" + x + " IS NULL") +
		   " AS id FROM mrsync.conflict_log c JOIN mrsync.applied_event t ON t.region_id = $1 AND t.hlc OPERATOR(mrsync.=) c.hlc_" + x + " WHERE c.hlc_" + x +
		   " OPERATOR(mrsync.>) $2::mrsync.hlc AND c.hlc_" + x + " OPERATOR(mrsync.<=) $3::mrsync.hlc AND c.region_" + x + " = $1 AND c.event_id_" + x +
		   " IS NULL OFFSET 0) n WHERE n.id IS NOT NULL LIMIT $4::bigint) x";
}

// SQL: gives a side of these entries these ids.
std::string naming(char side)
{
	return std::string("WITH named AS (UPDATE mrsync.conflict_log c SET ") + (side == 'a' ? "event_id_a" : "winner_event_id = k.id, event_id_b") +
		   " = k.id FROM unnest($1::uuid[], $2::uuid[]) k (conflict_id, id) WHERE k.conflict_id = c.conflict_id AND num_nulls(c.event_id_" + side +
		   ") = 1 RETURNING c.conflict_id) INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM named";
}

std::string arrayOf(const spi::Rows &ids)
{
	std::string array;
	for (const spi::Row &row : ids)
		array += (array.empty() ? "{" : ",") + *row[0];
	return array + "}";
}

void complete(const std::string &ids)
{
	static spi::Statement *const statements[] = {new spi::Statement(completion('a')), new spi::Statement(completion('b'))};
	for (spi::Statement *statement : statements)
		statement->execute({ids});
}

} // namespace

std::string conflictTypeBy(const std::string &imageA, const std::string &imageB, const std::string &inserts)
{
	return "CASE WHEN c.hlc_a IS NULL THEN c.conflict_type WHEN " + imageA + " IS NULL AND " + imageB + " IS NULL THEN 'delete_missing' WHEN " + imageB +
		   " IS NULL THEN 'delete_origin_differs' WHEN " + imageA + " IS NULL THEN 'update_deleted' WHEN " + inserts +
		   " THEN 'insert_exists' ELSE 'update_origin_differs' END";
}

// A side is as who knows its event has it; of several of one transaction the last counts; should it be known with several images, the greatest
// text. The rule that was activated last decides, and the most merges given up: who decided otherwise had not heard of it. What is left is a matter of how things
// met: the first by name.
std::string joinEntries()
{
	auto known = [](const std::string &of, const std::string &side)
	{
		return "(coalesce(" + of + ".event_id_" + side + ", '00000000-0000-0000-0000-000000000000'), coalesce(" + of + ".image_" + side +
			   "::text COLLATE \"C\", ''))";
	};
	auto isNewer = [&](const std::string &side) { return known("excluded", side) + " > " + known("c", side); };
	auto isLower = [](const std::string &column) { return "excluded." + column + "::text COLLATE \"C\" < c." + column + "::text"; };
	auto lower = [&](const std::string &column) { return "CASE WHEN " + isLower(column) + " THEN excluded." + column + " ELSE c." + column + " END"; };
	const std::string isNewA = isNewer("a"), isNewB = isNewer("b");
	auto basis = [](const std::string &of) { return "(coalesce(" + of + ".rule_activation::bigint, 0), " + of + ".given_up)"; };
	const std::string isBetter = basis("excluded") + " > " + basis("c");
	const std::string decides = isBetter + " OR " + basis("excluded") + " = " + basis("c") + " AND (" + isNewA + " OR " + isNewB + ")";
	auto better = [&](const std::string &when, const std::string &column) { return "CASE WHEN " + when + " THEN excluded." + column + " ELSE c." + column + " END"; };
	// Of two rows: a row that is tried again (worker/releases.h) does not know any more what it was; several rivals may be there in one region only.
	auto rank = [](const std::string &type) { return "array_position('{insert_exists,update_exists,multiple_unique_conflicts}'::text[], " + type + ")"; };
	const std::string typeOfTwo = better(rank("excluded.conflict_type") + " > " + rank("c.conflict_type"), "conflict_type");
	const std::string imageA = better(isNewA, "image_a"), imageB = better(isNewB, "image_b"), strategy = better(decides, "resolution_strategy");
	const std::string type = "CASE WHEN c.constraint_name IS NULL THEN " + conflictTypeBy(imageA, imageB, "'insert_exists' IN (c.conflict_type, excluded.conflict_type)") +
							 " ELSE " + typeOfTwo + " END";
	return " ON CONFLICT (conflict_id) DO UPDATE SET event_id_a = greatest(c.event_id_a, excluded.event_id_a), event_id_b = greatest(c.event_id_b, "
		   "excluded.event_id_b), winner_event_id = greatest(c.event_id_b, excluded.event_id_b), image_a = " +
		   imageA + ", image_b = " + imageB + ", conflict_type = " + type + ", result = CASE WHEN " + strategy + " = 'last_writer_wins' THEN " + imageB + " ELSE " +
		   better(decides, "result") + " END, resolution_strategy = " + strategy + ", rule_activation = " + better(decides, "rule_activation") +
		   ", given_up = " + better(decides, "given_up") + ", row_pk = " +
		   lower("row_pk") + ", other_pk = " + lower("other_pk") + ", constraint_name = " + lower("constraint_name") + " WHERE " + isNewA + " OR " + isNewB + " OR " +
		   isBetter + " OR " + type + " <> c.conflict_type OR " + isLower("row_pk") + " OR " + isLower("other_pk") + " OR " +
		   isLower("constraint_name");
}

// What there is to do; mostly nothing, five times a second.
ConflictReports::Work ConflictReports::look() const
{
	static spi::Statement *const statement = new spi::Statement(
		"SELECT EXISTS (SELECT FROM mrsync.conflict_report), EXISTS (SELECT FROM mrsync.conflict_untold), EXISTS (SELECT FROM mrsync.conflict_log WHERE event_id_b IS "
		"NULL) OR EXISTS (SELECT FROM mrsync.conflict_log WHERE event_id_a IS NULL AND hlc_a IS NOT NULL)");
	WorkerTransaction transaction;
	spi::execute(kLockMs);
	const spi::Rows rows = statement->query();
	transaction.commit();
	return {rows[0][0] == "t", rows[0][1] == "t", rows[0][2] == "t"};
}

bool ConflictReports::step()
{
	if (steadyNow() < at_)
		return false;
	bool more = false, hasFailed = false;
	auto attempt = [&](auto &&part) // what one of them fails at does not keep the others
	{
		try
		{
			more |= part();
		}
		catch (const PgError &error)
		{
			hasFailed = true;
			if (!isRetryable(error)) // an applier that logs, or somebody who works on the log, is not waited for
				pgCall([&, text = error.message().c_str()] { ereport(LOG, (errmsg("could not exchange entries of mrsync.conflict_log: %s", text))); });
		}
	};
	Work work{};
	attempt(
		[&]
		{
			work = look();
			return false;
		});
	attempt([&] { return work.take && take(); });
	attempt([&] { return work.name && applied(); });
	attempt([&] { return work.tell && tell(); });
	more &= !hasFailed;
	if (!more)
		at_ = steadyNow() + (hasFailed ? kFailurePause : kInterval);
	return more;
}

// A report may come before the events that it is about. What is stamped up to the watermark has been applied by now.
bool ConflictReports::applied()
{
	struct Side
	{
		spi::Statement find, name;
	};
	static Side *const sides[] = {new Side{spi::Statement(nameable('a')), spi::Statement(naming('a'))},
								  new Side{spi::Statement(nameable('b')), spi::Statement(naming('b'))}};
	bool more = false;
	for (PeerShared &peer : worker_.region->peers)
	{
		const Hlc upTo{peer.appliedWatermark.load()};
		if (!*peer.region)
			continue;
		Hlc &from = appliedUpTo_[peer.region];
		if (upTo <= from)
			continue;
		WorkerTransaction transaction;
		spi::execute(kLockMs);
		bool isAll = true;
		for (Side *side : sides)
		{
			const spi::Row found = side->find.query({std::string(peer.region), toText(from), toText(upTo), kSidesAtOnce})[0];
			if (found[1])
				side->name.execute({found[1], found[2]});
			isAll &= found[0] != kSidesAtOnce;
		}
		transaction.commit();
		if (isAll)
			from = upTo;
		more |= !isAll;
	}
	return more;
}

bool ConflictReports::tell()
{
	static spi::Statement *const some =
		new spi::Statement("DELETE FROM mrsync.conflict_untold WHERE ctid = ANY (ARRAY(SELECT q.at FROM (SELECT u.at, coalesce(sum(coalesce(pg_column_size(c.image_a), 0) + "
						   "coalesce(pg_column_size(c.image_b), 0)) OVER (ORDER BY u.at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before FROM (SELECT ctid AS "
						   "at, conflict_id FROM mrsync.conflict_untold LIMIT $1::bigint) u LEFT JOIN mrsync.conflict_log c USING (conflict_id)) q WHERE q.before < "
						   "$2::bigint)) RETURNING conflict_id");
	static spi::Statement *const report = new spi::Statement("INSERT INTO mrsync.conflict_report (region_id, " COLUMNS ", result) SELECT $1, " COLUMNS
															 ", CASE WHEN resolution_strategy <> 'last_writer_wins' THEN result END FROM mrsync.conflict_log WHERE "
															 "conflict_id = ANY ($2::uuid[])");
	WorkerTransaction transaction;
	spi::execute(kLockMs);
	const spi::Rows ids = some->query({kEntriesAtOnce, kBytesAtOnce});
	if (ids.empty())
		return false;
	const std::string array = arrayOf(ids);
	complete(array);
	if (!mutated("tells_nothing"))
		report->execute({region(), array});
	spi::execute("DELETE FROM mrsync.conflict_report WHERE region_id = $1", {region()});
	transaction.commit();
	return true;
}

// Those of one region, so that no conflict is among them twice. What is older than the log goes back is left out.
bool ConflictReports::take()
{
	static spi::Statement *const taken =
		new spi::Statement("WITH r AS (DELETE FROM mrsync.conflict_report WHERE region_id = $1 AND conflict_id IN (SELECT conflict_id FROM mrsync.conflict_report "
						   "WHERE region_id = $1 ORDER BY conflict_id LIMIT $2::bigint) RETURNING *) INSERT INTO mrsync.conflict_log AS c (" COLUMNS ", result) SELECT "
						   COLUMNS ", CASE WHEN resolution_strategy = 'last_writer_wins' THEN image_b ELSE result END FROM (SELECT * FROM r WHERE $3::double "
						   "precision <= 0 OR resolved_at >= now() - make_interval(secs => $3::double precision) ORDER BY conflict_id) r" +
						   joinEntries() + " RETURNING c.conflict_id");
	WorkerTransaction transaction;
	const spi::Rows source = spi::query("SELECT region_id FROM mrsync.conflict_report LIMIT 1");
	if (source.empty())
		return false;
	spi::execute(kLockMs);
	const spi::Rows ids = taken->query({source[0][0], kEntriesAtOnce, std::to_string(guc::conflictLogRetentionSeconds)});
	if (!ids.empty())
		complete(arrayOf(ids));
	transaction.commit();
	return true;
}

} // namespace mrsync
