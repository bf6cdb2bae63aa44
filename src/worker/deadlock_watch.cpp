#include "worker/deadlock_watch.h"

#include "pg/server.h"

#include <algorithm>

extern "C"
{
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/timeout.h"
}

namespace mrsync
{

namespace
{

TimeoutId watch = MAX_TIMEOUTS;
int everyMs = 100;

} // namespace

void deadlockWatchInit()
{
	// well before any session of this server looks for itself
	everyMs = std::clamp(DeadlockTimeout / 4, 10, 100);
	SetConfigOption("deadlock_timeout", "10ms", PGC_SUSET, PGC_S_OVERRIDE);
	// would say "still waiting" at each look
	SetConfigOption("log_lock_waits", "off", PGC_SUSET, PGC_S_OVERRIDE);
	// What the server's own timeout does: marks that a look is due, and wakes the process, which looks if it is waiting
	// for a lock. Safe in a signal handler, and without effect when it is not waiting.
	watch = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
}

void deadlockWatchStart()
{
	enable_timeout_every(watch, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), everyMs), everyMs);
}

void deadlockWatchStop() { disable_timeout(watch, false); }

} // namespace mrsync
