// wait_for_peers: waits until every active peer has applied what this region had committed before the call.
//
// Three steps: the extractor has decoded up to the newest commit record; the sequence that it has then produced is the
// goal; every target of an active outgoing link has acknowledged that sequence on its control topic.
#include "api/api.h"

#include "pg/clock.h"

extern "C"
{
#include "storage/ipc.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(mrsync_wait_for_peers);
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
[[noreturn]] void timedOut(const std::string &detail, const std::string &hint)
{
	throw PgError(ERRCODE_LOCK_NOT_AVAILABLE, "peers have not applied everything within the timeout")
		.detail(detail)
		.hint(hint);
}

struct Deadline
{
	int64_t at; // steadyNow()

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

void waitForPeers(const Interval *timeout)
{
	RegionShared *region = requireRegion();
	int64_t left = pgCall(
		[&]
		{
			TimestampTz now = GetCurrentTimestamp();
			return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
														   IntervalPGetDatum(timeout))) -
				   now;
		});
	Deadline deadline{steadyNow() + left};
	if (left < 0)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "timeout must not be negative")
			.hint("Give an interval like '30 s'.");
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
					timedOut("The extractor of this region has not sent everything yet.",
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
				return;
			// until the next look at the catalog, or an acknowledgement
			long left = deadline.left();
			if (left == 0)
				timedOut("Behind are: " + behind + ".",
						 "SELECT * FROM mrsync.link_status says why. A link that is paused at its target has to be resumed "
						 "there; mrsync.link_remove() here stops waiting for that peer.");
			sleepForAck(region, left);
		}
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
