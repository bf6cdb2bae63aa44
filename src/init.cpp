// The library's table of contents: what is set up when the server, or a session, loads mrsync.
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/shmem.h"
#include "pg/utility.h"
#include "worker/worker.h"

extern "C"
{
PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);
}

void _PG_init(void)
{
	mrsync::enter(
		[]
		{
			if (!process_shared_preload_libraries_in_progress)
				return; // only the pure functions work: no shared memory, no settings, no workers
			mrsync::pgCall([] { mrsync::guc::define(); });
			mrsync::shmemInit();
			mrsync::clockInit();
			mrsync::utilityInit();
			mrsync::launcherRegister();
		});
}
