#include "worker/replay.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "worker/deadlock_watch.h"
#include "worker/parking.h"

extern "C"
{
#include "commands/trigger.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "replication/origin.h"
}

namespace mrsync
{

bool Replay::isRetryable(const PgError &error)
{
	int state = error.sqlState();
	int category = ERRCODE_TO_CATEGORY(state);
	return category == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||	// 40: deadlock, serialization
		   category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||		// 53: disk, memory, connections
		   category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) ||					// 58: I/O
		   category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||		// 57: canceled by somebody
		   state == ERRCODE_LOCK_NOT_AVAILABLE || state == ERRCODE_READ_ONLY_SQL_TRANSACTION;
}

Replay::Replay(Worker &worker, RepOriginId link) : worker_(worker), link_(link), apply_(worker.region)
{
	pgCall(
		[&]
		{
			auto set = [](const char *name, const char *value)
			{ SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE); };
			set("session_replication_role", "replica");
			set("synchronous_commit", "off");
			set("plan_cache_mode", "force_generic_plan");
			deadlockWatchInit();
			version::setupOriginSession(link_);
			eventContext_ = AllocSetContextCreate(TopMemoryContext, "mrsync event", ALLOCSET_DEFAULT_SIZES);
		});
}

void Replay::begin()
{
	clockApplierMode(true);
	parkedRows_.clear();
	unknown_.clear();
	pgCall(
		[&]
		{
			replorigin_session_origin = link_;
			SetCurrentStatementStartTimestamp();
			StartTransactionCommand();
			deadlockWatchStart();
			PushActiveSnapshot(GetTransactionSnapshot());
			if (SPI_connect() != SPI_OK_CONNECT)
				elog(ERROR, "SPI_connect failed");
			MemoryContextSwitchTo(eventContext_);
			// a deferred trigger would run at commit, as a superuser instead of as the table's owner
			ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);
			AfterTriggerSetState(immediate);
		});
	apply_.sweep();
}

void Replay::as(const std::string &region)
{
	RepOriginId origin = originOf(worker_.region, region);
	if (origin == InvalidRepOriginId)
		unknown_ = region;
	else
		replorigin_session_origin = origin;
}

void Replay::requireRegion() const
{
	if (!unknown_.empty())
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "region " + unknown_ + ", which wrote this version of a row, is not known here")
			.hint("Call mrsync.region_connect('" + unknown_ + "') here; the event is tried again by itself.");
}

void Replay::event(const ChangeEvent &event, const SeenVector &seen, bool parks)
{
	if (parks)
		applyOrPark(event, seen);
	else
	{
		requireRegion();
		apply_.event(event, seen);
	}
	MemoryContextReset(eventContext_);
}

void Replay::parked(const ChangeEvent &event)
{
	requireRegion();
	apply_.event(event, event.tx.seen.value_or(SeenVector{}), true);
}

void Replay::commit(uint64_t sequence, Hlc hlc)
{
	pgCall(
		[&]
		{
			SPI_finish();
			PopActiveSnapshot();
			// only now: an abort before would have moved the origin (PostgreSQL 16 and later)
			replorigin_session_origin_lsn = sequence;
			replorigin_session_origin_timestamp = hlc.value;
			CommitTransactionCommand();
			deadlockWatchStop();
			replorigin_session_origin_lsn = InvalidXLogRecPtr;
			replorigin_session_origin_timestamp = 0;
			replorigin_session_origin = InvalidRepOriginId;
			MemoryContextReset(eventContext_);
		});
	clockApplierMode(false);
}

void Replay::abort()
{
	deadlockWatchStop();
	replorigin_session_origin_lsn = InvalidXLogRecPtr;
	replorigin_session_origin_timestamp = 0;
	AbortCurrentTransaction();
	replorigin_session_origin = InvalidRepOriginId;
	clockApplierMode(false);
	MemoryContextReset(eventContext_);
}

void Replay::applyOrPark(const ChangeEvent &event, const SeenVector &seen)
{
	// The order of a transaction's events on one row must hold: behind a parked one the others wait, too.
	std::string row = event.table + (event.pk ? encodeImage(*event.pk) : "");
	if (auto earlier = event.pk ? parkedRows_.find(row) : parkedRows_.end(); earlier != parkedRows_.end())
	{
		park(worker_.peer, event, seen,
			 PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					 "an earlier event of the same transaction and row is parked"),
			 earlier->second);
		earlier->second = toText(event.id);
		worker_.shared->parked.fetch_add(1, std::memory_order_relaxed);
		return;
	}
	ResourceOwner owner = CurrentResourceOwner;
	pgCall([] { BeginInternalSubTransaction(nullptr); });
	MemoryContextSwitchTo(eventContext_);
	try
	{
		requireRegion();
		apply_.event(event, seen);
		pgCall([] { ReleaseCurrentSubTransaction(); });
		MemoryContextSwitchTo(eventContext_);
		CurrentResourceOwner = owner;
		return;
	}
	catch (const PgError &error)
	{
		pgCall([] { RollbackAndReleaseCurrentSubTransaction(); });
		apply_.locksGone();
		MemoryContextSwitchTo(eventContext_);
		CurrentResourceOwner = owner;
		if (isRetryable(error))
			throw;
		park(worker_.peer, event, seen, error, std::nullopt);
		parkedRows_.emplace(std::move(row), toText(event.id));
	}
	worker_.shared->parked.fetch_add(1, std::memory_order_relaxed);
}

} // namespace mrsync
