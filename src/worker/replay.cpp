#include "worker/replay.h"

#include "pg/clock.h"
#include "pg/guard.h"
#include "worker/deadlock_watch.h"

extern "C"
{
#include "commands/trigger.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "replication/origin.h"
#include "storage/pmsignal.h"
}

namespace mrsync
{

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
	apply_.shareFailures();
	clockApplierMode(true);
	pgCall(
		[&]
		{
			if (!PostmasterIsAlive())
				proc_exit(1); // as wherever it waits; but it may be busy for long, and a server cannot start before it has ended
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
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "region " + region + ", which wrote this version of a row, is not known here")
			.hint("Call mrsync.region_connect('" + region + "') here; it is tried again by itself.");
	replorigin_session_origin = origin;
}

void Replay::event(const ChangeEvent &event, const SeenVector &seen, Apply::From from)
{
	apply_.event(event, seen, from);
	MemoryContextReset(eventContext_);
}

void Replay::commit(uint64_t sequence, Hlc hlc)
{
	apply_.writeComparisons();
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

} // namespace mrsync
