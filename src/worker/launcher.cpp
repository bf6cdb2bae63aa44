// The launcher: one per server, sees to it that every region has its coordinator. Regions whose database is gone are
// forgotten.
#include "pg/clock.h"
#include "pg/guard.h"
#include "worker/worker.h"

#include <cstring>

extern "C"
{
#include "commands/dbcommands.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/wait_event.h"

PGDLLEXPORT void mrsync_launcher_main(Datum argument);
}

namespace mrsync
{

namespace
{

constexpr int64_t kRestartPause = 2 * USECS_PER_SEC;

struct Watched
{
	Oid database = InvalidOid;
	BackgroundWorkerHandle *handle = nullptr;
	int64_t startedAt = 0; // steadyNow()
};

bool databaseExists(Oid database)
{
	return pgCall(
		[&]
		{
			StartTransactionCommand();
			bool exists = get_database_name(database) != nullptr;
			CommitTransactionCommand();
			return exists;
		});
}

void watch(Watched &watched, RegionShared *region)
{
	Oid database = region->database;
	if (watched.database != database)
		watched = Watched{database, nullptr, 0};
	if (!OidIsValid(database))
		return;
	if (watched.handle)
	{
		pid_t pid;
		BgwHandleStatus status = GetBackgroundWorkerPid(watched.handle, &pid);
		if (status == BGWH_STARTED || status == BGWH_NOT_YET_STARTED)
			return;
		pfree(watched.handle);
		watched.handle = nullptr;
		if (region->database != database)
			return;
		++region->workers[kCoordinatorPlace].restarts;
	}
	if (steadyNow() - watched.startedAt < kRestartPause || region->workers[kCoordinatorPlace].pid != 0)
		return;
	if (!databaseExists(database))
	{
		regionForget(database);
		return;
	}
	WorkerArguments arguments{};
	arguments.database = database;
	arguments.kind = WorkerKind::Coordinator;
	arguments.place = kCoordinatorPlace;
	region->workers[kCoordinatorPlace].kind = WorkerKind::Coordinator;
	watched.startedAt = steadyNow();
	watched.handle = workerStart(arguments);
}

void run()
{
	launcherLatchSet();
	static Watched watched[64];
	for (;;)
	{
		for (int i = 0; i < 64 && regionAt(i); ++i)
			watch(watched[i], regionAt(i));
		pgCall(
			[]
			{
				WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000, PG_WAIT_EXTENSION);
				ResetLatch(MyLatch);
				CHECK_FOR_INTERRUPTS();
				if (ConfigReloadPending)
				{
					ConfigReloadPending = false;
					ProcessConfigFile(PGC_SIGHUP);
				}
			});
	}
}

} // namespace

void launcherRegister()
{
	BackgroundWorker worker;
	memset(&worker, 0, sizeof worker);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "mrsync", sizeof worker.bgw_library_name);
	strlcpy(worker.bgw_function_name, "mrsync_launcher_main", sizeof worker.bgw_function_name);
	strlcpy(worker.bgw_name, "mrsync launcher", sizeof worker.bgw_name);
	strlcpy(worker.bgw_type, "mrsync launcher", sizeof worker.bgw_type);
	RegisterBackgroundWorker(&worker);
}

} // namespace mrsync

void mrsync_launcher_main(Datum)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(nullptr, nullptr, 0); // shared catalogs only
	mrsync::enter([] { mrsync::run(); });
}
