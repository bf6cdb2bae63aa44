// Sees to it that on a deadlock it is the applier that yields, never the user (I4).
//
// PostgreSQL looks for a deadlock once per wait, deadlock_timeout after the wait began. A short deadlock_timeout makes
// the applier the victim when it is the last to wait. When it was there first, it has looked already: the user, who
// closes the circle, would look next and be cancelled. So an applier that waits looks again and again.
#pragma once

namespace mrsync
{

// Once per process; makes the first look short, too.
void deadlockWatchInit();

// From the beginning of a transaction that takes users' locks to its end.
void deadlockWatchStart();
void deadlockWatchStop();

} // namespace mrsync
