// The launcher: one per server, sees to it that every region has its coordinator. Regions whose database is gone are
// forgotten.
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "worker/worker.h"

#include <algorithm>
#include <cstring>

extern "C"
{
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/wait_event.h"

PGDLLEXPORT void mrsync_launcher_main(Datum argument);
PGDLLEXPORT void mrsync_agree_main(Datum argument);
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

// The durable file of a standby, or of a backup, is as old as the copy that was made of it: it may lack regions, or name some
// that are none any more.
void agreeWithCatalog()
{
	std::vector<KnownRegion> listed;
	for (int i = 0; RegionShared *region = regionAt(i); ++i)
		if (OidIsValid(region->database))
			listed.push_back({region->database, region->region, region->group});
	pgCall([] { StartTransactionCommand(); });
	std::vector<KnownRegion> known = knownRegions(); // after the list: whoever is in it has committed before
	std::erase_if(known, [](const KnownRegion &region) { return pgCall([&] { return get_database_name(region.database) == nullptr; }); });
	pgCall([] { CommitTransactionCommand(); });
	auto isIn = [](const std::vector<KnownRegion> &list, const KnownRegion &region) { return std::ranges::find(list, region) != list.end(); };
	for (const KnownRegion &region : listed)
		if (!isIn(known, region))
			regionForget(region.database);
	for (const KnownRegion &region : known)
		if (!isIn(listed, region))
			regionRegister(region.database, region.region, region.group, false);
}

// A process without a database cannot read the catalog of origins. Nothing: there is no database to connect to.
Oid anyDatabase()
{
	return pgCall(
		[]
		{
			StartTransactionCommand();
			Relation rel = table_open(DatabaseRelationId, AccessShareLock);
			SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
			Oid found = InvalidOid;
			while (HeapTuple tuple = systable_getnext(scan))
			{
				auto *database = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
				// a template last: somebody may be copying it; one whose DROP DATABASE was cut short takes no connections
				if (database->datallowconn && database->datconnlimit >= -1 && (!OidIsValid(found) || !database->datistemplate))
					found = database->oid;
			}
			systable_endscan(scan);
			table_close(rel, AccessShareLock);
			CommitTransactionCommand();
			return found;
		});
}

void agreeFirst()
{
	Oid database = anyDatabase();
	if (!OidIsValid(database))
		return;
	pgCall(
		[database]
		{
			BackgroundWorker worker;
			memset(&worker, 0, sizeof worker);
			worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
			worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
			worker.bgw_restart_time = BGW_NEVER_RESTART;
			worker.bgw_notify_pid = MyProcPid;
			worker.bgw_main_arg = ObjectIdGetDatum(database);
			strlcpy(worker.bgw_library_name, "mrsync", sizeof worker.bgw_library_name);
			strlcpy(worker.bgw_function_name, "mrsync_agree_main", sizeof worker.bgw_function_name);
			strlcpy(worker.bgw_name, "mrsync launcher's start", sizeof worker.bgw_name);
			strlcpy(worker.bgw_type, "mrsync launcher's start", sizeof worker.bgw_type);
			BackgroundWorkerHandle *handle;
			if (RegisterDynamicBackgroundWorker(&worker, &handle))
				WaitForBackgroundWorkerShutdown(handle);
			else
				ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED), errmsg("mrsync launcher: no background worker is left"),
							  errdetail("Whether this server's list of regions is as old as its databases is not known."),
							  errhint("Raise max_worker_processes in postgresql.conf and restart the server.")));
		});
}

void run()
{
	agreeFirst();
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

void mrsync_agree_main(Datum database)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database), InvalidOid, 0);
	mrsync::enter([] { mrsync::agreeWithCatalog(); });
}
