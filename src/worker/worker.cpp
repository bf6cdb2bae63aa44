#include "worker/worker.h"

#include "pg/clock.h"
#include "pg/exit.h"
#include "pg/fixed_settings.h"
#include "pg/guard.h"
#include "pg/guc.h"

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

extern "C"
{
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/ps_status.h"
#include "utils/wait_event.h"

PGDLLEXPORT void mrsync_worker_main(Datum argument);
}

namespace mrsync
{

namespace
{

WorkerShared *myPlace = nullptr;

void onExit(int, Datum)
{
	LWLockAcquire(shmemLock(), LW_EXCLUSIVE);
	myPlace->latch.store(nullptr);
	myPlace->pid = 0;
	myPlace->state[0] = '\0'; // it waits for nothing any more; what counts from now on is its last error
	myPlace->degraded = false;
	myPlace->endedAt = GetCurrentTimestamp();
	myPlace->caughtUp.store(false);
	LWLockRelease(shmemLock());
}

// The error has to be in the table before the process is gone.
void rememberError(const guard::Report &report)
{
	if (!myPlace)
		return;
	LWLockAcquire(shmemLock(), LW_EXCLUSIVE);
	snprintf(myPlace->lastError, sizeof myPlace->lastError, "%s%s%s%s%s", report.message, report.detail[0] ? " — " : "",
			 report.detail, report.hint[0] ? " — " : "", report.hint);
	myPlace->lastErrorAt = GetCurrentTimestamp();
	LWLockRelease(shmemLock());
}

void runBody(Worker &worker, WorkerKind kind)
{
	switch (kind)
	{
	case WorkerKind::Coordinator:
		coordinatorRun(worker);
		return;
	case WorkerKind::Extractor:
		extractorRun(worker);
		return;
	case WorkerKind::Applier:
		applierRun(worker);
		return;
	case WorkerKind::None:
		break;
	}
	throw PgError(ERRCODE_INTERNAL_ERROR, "unknown kind of worker");
}

PgError noRegion() { return PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "this database is no region any more"); }

} // namespace

Worker &Worker::create(const WorkerArguments &arguments)
{
	static Worker *worker = new Worker; // for the life of the process; no destructor may run at exit
	worker->region = regionByDatabase(arguments.database);
	if (!worker->region)
		throw noRegion();
	worker->shared = &worker->region->workers[arguments.place];
	worker->peer = arguments.peer;
	if (pipe2(worker->wakePipe_, O_NONBLOCK | O_CLOEXEC) != 0)
		throw PgError(ERRCODE_SYSTEM_ERROR, std::string("could not create a pipe: ") + strerror(errno));
	const bool isRegion = pgCall(
		[&]
		{
			WorkerShared *place = worker->shared;
			LWLockAcquire(shmemLock(), LW_EXCLUSIVE);
			if (worker->region->database != arguments.database) // given back meanwhile: nobody would end this process
			{
				LWLockRelease(shmemLock());
				return false;
			}
			place->pid = MyProcPid;
			place->startedAt = GetCurrentTimestamp();
			place->state[0] = '\0';
			place->degraded = false;
			place->caughtUp.store(false);
			place->takenAt.store(0);
			place->kafkaOptions = kafkaOptionsStamp();
			place->latch.store(MyLatch);
			LWLockRelease(shmemLock());
			myPlace = place;
			before_shmem_exit(onExit, 0);
			worker->waitSet_ = version::createWaitEventSet(3);
			AddWaitEventToSet(worker->waitSet_, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
			AddWaitEventToSet(worker->waitSet_, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
			AddWaitEventToSet(worker->waitSet_, WL_SOCKET_READABLE, worker->wakePipe_[0], nullptr, nullptr);
			return true;
		});
	if (!isRegion)
		throw noRegion();
	return *worker;
}

void Worker::wait(long timeoutMs)
{
	pgCall(
		[&]
		{
			CHECK_FOR_INTERRUPTS();
			WaitEvent events[3];
			int count = WaitEventSetWait(waitSet_, timeoutMs, events, lengthof(events), PG_WAIT_EXTENSION);
			for (int i = 0; i < count; ++i)
				if (events[i].events & WL_LATCH_SET)
					ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		});
	char drain[256];
	while (read(wakePipe_[0], drain, sizeof drain) == static_cast<ssize_t>(sizeof drain))
	{
	}
}

uint64_t kafkaOptionsStamp() { return std::hash<std::string_view>{}(guc::kafkaOptions); }

void Worker::reloadSettings()
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	pgCall([] { ProcessConfigFile(PGC_SIGHUP); });
}

void Worker::describe(const std::string &text, bool isDegraded)
{
	if (text == lastState_ && isDegraded == lastDegraded_)
		return;
	lastState_ = text;
	lastDegraded_ = isDegraded;
	pgCall(
		[&]
		{
			LWLockAcquire(shmemLock(), LW_EXCLUSIVE);
			strlcpy(shared->state, text.c_str(), sizeof shared->state);
			shared->degraded = isDegraded;
			shared->stateAt = GetCurrentTimestamp();
			LWLockRelease(shmemLock());
		});
}

namespace
{

// Said where somebody looks for the worker, and once in the log. It is tried again and again.
void noneLeft(WorkerShared &place, const char *name)
{
	const char *text = "no background worker is left — Raise max_worker_processes in postgresql.conf and restart the server.";
	LWLockAcquire(shmemLock(), LW_EXCLUSIVE);
	bool said = std::strcmp(place.lastError, text) == 0;
	strlcpy(place.lastError, text, sizeof place.lastError);
	place.lastErrorAt = GetCurrentTimestamp();
	LWLockRelease(shmemLock());
	if (!said)
		ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED), errmsg("%s: no background worker is left", name),
					  errhint("Raise max_worker_processes in postgresql.conf and restart the server.")));
}

} // namespace

BackgroundWorkerHandle *workerStart(const WorkerArguments &arguments)
{
	return pgCall(
		[&]() -> BackgroundWorkerHandle *
		{
			BackgroundWorker worker;
			memset(&worker, 0, sizeof worker);
			worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
			worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
			worker.bgw_restart_time = BGW_NEVER_RESTART; // whoever starts it, decides when again
			worker.bgw_notify_pid = MyProcPid;
			strlcpy(worker.bgw_library_name, "mrsync", sizeof worker.bgw_library_name);
			strlcpy(worker.bgw_function_name, "mrsync_worker_main", sizeof worker.bgw_function_name);
			RegionShared *region = regionByDatabase(arguments.database);
			snprintf(worker.bgw_name, sizeof worker.bgw_name, "mrsync %s %s%s%s", region ? region->region : "?",
					 toText(arguments.kind), arguments.peer[0] ? " from " : "", arguments.peer);
			snprintf(worker.bgw_type, sizeof worker.bgw_type, "mrsync %s", toText(arguments.kind));
			static_assert(sizeof arguments <= BGW_EXTRALEN);
			memcpy(worker.bgw_extra, &arguments, sizeof arguments);
			BackgroundWorkerHandle *handle = nullptr;
			MemoryContext former = MemoryContextSwitchTo(TopMemoryContext);
			bool started = RegisterDynamicBackgroundWorker(&worker, &handle);
			MemoryContextSwitchTo(former);
			if (started)
				return handle;
			if (region)
				noneLeft(region->workers[arguments.place], worker.bgw_name);
			return nullptr;
		});
}

WorkerTransaction::WorkerTransaction()
{
	pgCall(
		[]
		{
			SetCurrentStatementStartTimestamp();
			StartTransactionCommand();
			PushActiveSnapshot(GetTransactionSnapshot());
		});
}

WorkerTransaction::~WorkerTransaction()
{
	// AbortCurrentTransaction escalates what it cannot do; there is nothing to translate
	if (open_)
		AbortCurrentTransaction();
}

void WorkerTransaction::commit()
{
	pgCall(
		[]
		{
			PopActiveSnapshot();
			CommitTransactionCommand();
		});
	open_ = false;
}

} // namespace mrsync

void mrsync_worker_main(Datum)
{
	using namespace mrsync;
	WorkerArguments arguments;
	memcpy(&arguments, MyBgworkerEntry->bgw_extra, sizeof arguments);
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(arguments.database, InvalidOid, 0);

	guard::Report report;
	bool failed = true;
	try
	{
		pgCall(
			[]
			{
				fixedSettingsForWorker();
				exitWithoutLibraries();
			});
		runBody(Worker::create(arguments), arguments.kind);
		failed = false;
	}
	catch (const PgError &error)
	{
		report.set(error);
	}
	catch (const std::exception &error)
	{
		report.set(error);
	}
	catch (...)
	{
		report.setUnknown();
	}
	if (failed)
	{
		HOLD_INTERRUPTS();
		rememberError(report);
		ereport(LOG, (errcode(report.sqlState), errmsg("%s: %s", MyBgworkerEntry->bgw_name, report.message),
					  report.detail[0] ? errdetail("%s", report.detail) : 0,
					  report.hint[0] ? errhint("%s", report.hint) : 0,
					  report.context[0] ? errcontext("%s", report.context) : 0));
	}
	proc_exit(failed ? 1 : 0);
}
