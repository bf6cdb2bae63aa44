// Waiting for replication. wait_for_peers: until every active peer has applied what this region had committed before the call.
// wait_for: until this region has applied all that is stamped at or below an hlc, from every active link.
//
// wait_for_peers goes in three steps: the extractor has decoded up to the newest commit record; the sequence that it has then
// produced is the goal; every target of an active outgoing link has acknowledged that sequence on its control topic.
// wait_for looks at the applied watermark of each source, which its link's applier raises (worker/watermark.h). To have applied
// an event with a higher stamp would not do: commits overtake each other by stamp.
// merge_function_wait: until every region says that it decides conflicts by a rule (worker/rollout.h).
#include "api/api.h"

#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/history.h"

extern "C"
{
#include "storage/ipc.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(mrsync_wait_for_peers);
PG_FUNCTION_INFO_V1(mrsync_wait_for);
PG_FUNCTION_INFO_V1(mrsync_merge_function_wait);
}

namespace mrsync::api
{

namespace
{

constexpr long kRecheckMs = 1000; // links may be paused or created while we wait

// Whom this process is counted as a waiter of; for the exit of a terminated session, which unwinds no stack.
RegionShared *waitingFor = nullptr;
bool exitRegistered = false;

void stopWaiting()
{
	if (waitingFor)
		waitingFor->waiters.fetch_sub(1);
	waitingFor = nullptr;
}

class Waiting
{
public:
	explicit Waiting(RegionShared *region)
	{
		pgCall(
			[&]
			{
				if (!exitRegistered)
					before_shmem_exit([](int, Datum) { stopWaiting(); }, Datum(0));
				exitRegistered = true;
				ConditionVariablePrepareToSleep(&region->acks);
			});
		region->waiters.fetch_add(1);
		waitingFor = region;
	}
	~Waiting()
	{
		stopWaiting();
		ConditionVariableCancelSleep();
	}
	Waiting(const Waiting &) = delete;
	Waiting &operator=(const Waiting &) = delete;
};

WorkerShared *extractorOf(RegionShared *region)
{
	for (WorkerShared &worker : region->workers)
		if (worker.kind == WorkerKind::Extractor)
			return &worker;
	return nullptr;
}

// After lock_timeout's: what was waited for did not come in time. Not 57014, which PL/pgSQL's OTHERS does not catch.
[[noreturn]] void timedOut(const std::string &message, const std::string &detail, const std::string &hint)
{
	throw PgError(ERRCODE_LOCK_NOT_AVAILABLE, message + " within the timeout").detail(detail).hint(hint);
}

constexpr char kNotByPeers[] = "peers have not applied everything";

struct Deadline
{
	int64_t at; // steadyNow()

	explicit Deadline(const Interval *timeout)
	{
		int64_t left = pgCall(
			[&]
			{
				TimestampTz now = GetCurrentTimestamp();
				return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
															   IntervalPGetDatum(timeout))) -
					   now;
			});
		at = steadyNow() + left;
		if (left < 0)
			throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "timeout must not be negative")
				.hint("Give an interval like '30 s'.");
	}

	// Milliseconds left, at most kRecheckMs; 0: none.
	long left() const
	{
		int64_t now = steadyNow();
		if (now >= at)
			return 0;
		int64_t ms = (at - now + 999) / 1000;
		return ms < kRecheckMs ? static_cast<long>(ms) : kRecheckMs;
	}
};

void sleepForAck(RegionShared *region, long ms)
{
	pgCall(
		[&]
		{
			(void)ConditionVariableTimedSleep(&region->acks, ms, PG_WAIT_EXTENSION);
			CHECK_FOR_INTERRUPTS();
		});
}

// The peers that have not acknowledged this sequence, in words; "" when there is none. A sequence is a timeline (16 bits)
// and a position in its WAL, so that the difference of two is in bytes.
std::string behindOf(uint64_t goal)
{
	spi::Rows rows = spi::query(
		"SELECT pg_catalog.string_agg(pg_catalog.format('\"%s\" (%s)', l.target_region, CASE "
		"WHEN p.acked_sequence > 0 THEN pg_catalog.format('has applied what was committed here until %s; the newest commit is "
		"%s of WAL further on', coalesce(a.committed_at::text, 'a time that is not known'), "
		"pg_catalog.pg_size_pretty((g.goal & g.position) - (p.acked_sequence & g.position))) "
		"ELSE 'has not acknowledged anything yet' END), ', ' ORDER BY l.target_region) "
		"FROM (SELECT $1::bigint, (1::bigint << 48) - 1) g (goal, position) CROSS JOIN mrsync.replication_link l "
		"JOIN mrsync.region r ON r.region_id = l.source_region AND r.is_local "
		"LEFT JOIN mrsync.peer_stat() p ON p.region_id = l.target_region "
		"LEFT JOIN mrsync.acknowledgement a ON a.region_id = l.target_region AND a.source_region = l.source_region "
		"WHERE l.status = 'active' AND coalesce(p.acked_sequence, 0) < g.goal",
		{std::to_string(goal)});
	return rows[0][0].value_or("");
}

// What another server has sent may be above the goal: it says nothing of what was committed here.
void requireThisServer(RegionShared *region)
{
	std::string peer = followsAnother(region, History::read().numberOf(pgCall([] { return version::flushedUpTo(nullptr); })));
	if (!peer.empty())
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, kNotByPeers)
			.detail("Another server sends in this one's place: region \"" + peer + "\" has applied a transaction of this region that this "
					"server does not have.")
			.hint("Stop one of the two for good. To go on with this one, restart it then.");
}

void waitForPeers(const Interval *timeout)
{
	RegionShared *region = requireRegion();
	Deadline deadline(timeout);
	uint64_t target = region->lastCommitEnd.load();
	if (target == 0)
		target = pgCall([] { return version::flushedUpTo(nullptr); });
	uint64_t goal = 0;
	{
		Waiting waiting(region);
		// A starting extractor first takes decodedEnd back, then says an older sequence: hence the second look.
		do
		{
			while (region->decodedEnd.load() < target)
			{
				workerWake(region->extractorLatch);
				long left = deadline.left();
				if (left == 0)
					timedOut(kNotByPeers, "The extractor of this region has not sent everything yet.",
							 "SELECT * FROM mrsync.worker_status shows what it waits for.");
				sleepForAck(region, left);
			}
			if (WorkerShared *extractor = extractorOf(region))
				goal = extractor->sequence.load();
		} while (region->decodedEnd.load() < target);
		for (;;)
		{
			std::string behind = behindOf(goal);
			if (behind.empty())
			{
				requireThisServer(region);
				return;
			}
			// until the next look at the catalog, or an acknowledgement
			long left = deadline.left();
			if (left == 0)
				timedOut(kNotByPeers, "Behind are: " + behind + ".",
						 "SELECT * FROM mrsync.link_status says why. A link that is paused at its target has to be resumed "
						 "there; mrsync.link_remove() here stops waiting for that peer.");
			sleepForAck(region, left);
		}
	}
}

std::vector<std::string> activeSources()
{
	std::vector<std::string> sources;
	for (const spi::Row &row : spi::query("SELECT l.source_region FROM mrsync.replication_link l JOIN mrsync.region r ON r.region_id = "
										  "l.target_region AND r.is_local WHERE l.status IN ('active', 'degraded') ORDER BY 1"))
		sources.push_back(*row[0]);
	return sources;
}

Hlc appliedWatermark(RegionShared *region, const std::string &source)
{
	const PeerShared *peer = peerShared(region, source, false);
	return Hlc{peer ? peer->appliedWatermark.load() : 0};
}

// The sources of which not everything up to this stamp has been applied, in words; "" when there is none.
std::string behindOf(RegionShared *region, const std::vector<std::string> &sources, Hlc goal)
{
	const bool isKnown = region->historyKnown.load(); // before it is asked what is to be taken back
	const bool takesBack = region->takingBack.load();
	std::string behind;
	if (takesBack || !isKnown)
		behind = "\"" + std::string(region->region) + "\" itself (" +
				 (takesBack ? "it was set back, and takes back what it lacks"
							: "since the server's start it has not been found out whether its topics hold what it lacks") + ")";
	for (const std::string &source : sources)
	{
		Hlc applied = appliedWatermark(region, source);
		if (applied >= goal)
			continue;
		behind += behind.empty() ? "" : ", ";
		behind += "\"" + source + "\" (" +
				  (applied.value == 0 ? "has not said how far it is" : "has been applied up to " + toText(applied)) + ")";
	}
	return behind;
}

void waitFor(Hlc goal, const Interval *timeout)
{
	RegionShared *region = requireRegion();
	Deadline deadline(timeout);
	int64_t ahead = goal.value - GetCurrentTimestamp();
	if (ahead > static_cast<int64_t>(guc::maxClockSkewSeconds) * USECS_PER_SEC)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "the stamp is too far in the future")
			.detail(toText(goal) + " is " + std::to_string(ahead / USECS_PER_SEC) + " s ahead of this server's clock; "
					"mrsync.max_clock_skew is " + std::to_string(guc::maxClockSkewSeconds) + " s.")
			.hint("Give a stamp that mrsync.current_hlc() returned, in any region.");
	if (behindOf(region, activeSources(), goal).empty())
		return;
	Waiting waiting(region);
	for (;;)
	{
		// links may be paused or created meanwhile
		std::vector<std::string> sources = activeSources();
		TimestampTz lookAgain = GetCurrentTimestamp() + kRecheckMs * 1000;
		do
		{
			std::string behind = behindOf(region, sources, goal);
			if (behind.empty())
				return;
			long left = deadline.left();
			if (left == 0)
				timedOut("what is stamped up to " + toText(goal) + " has not all been applied here", "Behind are: " + behind + ".",
						 "SELECT * FROM mrsync.link_status says why; parked events hold a link back, too.");
			sleepForAck(region, left);
		} while (GetCurrentTimestamp() < lookAgain);
	}
}

// A wait that could only end in its timeout.
void requireVisible(const std::string &id)
{
	if (IsolationUsesXactSnapshot())
		throw PgError(ERRCODE_ACTIVE_SQL_TRANSACTION, "mrsync.merge_function_wait cannot wait in a REPEATABLE READ transaction")
			.detail("It does not see what is committed meanwhile.")
			.hint("Call it in READ COMMITTED.");
	AsSuperuser rights;
	spi::Rows rows = spi::query("SELECT xmin FROM mrsync.merge_definition WHERE definition_id = $1::uuid", {id});
	if (!rows.empty() && TransactionIdIsCurrentTransactionId(static_cast<TransactionId>(std::stoul(*rows[0][0]))))
		throw PgError(ERRCODE_ACTIVE_SQL_TRANSACTION, "the rule was registered or changed by this very transaction")
			.detail("The regions learn of it when that is committed.")
			.hint("Call it after COMMIT.");
}

void waitForRule(const std::string &id, const Interval *timeout)
{
	RegionShared *region = requireRegion();
	Deadline deadline(timeout);
	requireVisible(id);
	Waiting waiting(region);
	for (;;)
	{
		// as the caller may see it
		spi::Rows rows = spi::query("SELECT status, pg_catalog.array_to_string(waiting_for, ', '), coalesce(why, '') FROM mrsync.merge_function "
									"WHERE definition_id = $1::uuid",
									{id});
		if (rows.empty())
			throw PgError(ERRCODE_UNDEFINED_OBJECT, "there is no rule with definition_id " + id + " here")
				.hint("One that was registered in another region arrives in a moment; SELECT * FROM mrsync.merge_function lists those known.");
		if (rows[0][0] == "withdrawn")
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rule was withdrawn before it was active");
		if (rows[0][0] != "preparing" && rows[0][1] == "")
			return;
		const bool isActive = rows[0][0] == "active";
		long left = deadline.left();
		if (left == 0)
			timedOut("the rule is not active in all regions",
					 (isActive ? "It is active; these do not say that they decide by it: " : "It is " + *rows[0][0] + ", and waits for: ") +
						 *rows[0][1] + "." + (rows[0][2] == "" ? "" : " " + *rows[0][2]),
					 std::string("SELECT * FROM mrsync.merge_function shows how it goes on") +
						 (isActive ? "." : "; mrsync.merge_function_withdraw() gives up what is not active yet."));
		sleepForAck(region, left);
	}
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_wait_for_peers(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireArgument(fcinfo, 0, "timeout");
			waitForPeers(PG_GETARG_INTERVAL_P(0));
		});
	return Datum(0);
}

Datum mrsync_wait_for(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireArgument(fcinfo, 0, "hlc");
			requireArgument(fcinfo, 1, "timeout");
			waitFor(Hlc{PG_GETARG_INT64(0)}, PG_GETARG_INTERVAL_P(1));
		});
	return Datum(0);
}

Datum mrsync_merge_function_wait(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			std::string id = uuidArgument(fcinfo, 0, "definition_id");
			requireArgument(fcinfo, 1, "timeout");
			waitForRule(id, PG_GETARG_INTERVAL_P(1));
		});
	return Datum(0);
}
