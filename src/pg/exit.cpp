#include "pg/exit.h"

#include "pg/server.h"

#include <cstdlib>
#include <unistd.h>

namespace mrsync
{

namespace
{
int exitCode = 0;
}

void exitWithoutLibraries()
{
	static bool arranged = false;
	if (arranged)
		return;
	arranged = true;
	// exit() runs the newest handler first, and OpenSSL registers its own when it is first used, whenever that is: so ours is
	// registered at the last moment, by one of proc_exit()'s callbacks. The other callbacks have run when exit() is called.
	on_proc_exit(
		[](int code, Datum)
		{
			exitCode = code;
			atexit([] { _exit(exitCode); });
		},
		0);
}

} // namespace mrsync
