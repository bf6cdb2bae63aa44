// Test-only: leaves out one rule of the design on purpose, so that the test which guards it can be seen to fail.
//
// Exists in a build with MRSYNC_MUTANTS only, which test/t/30_mutants.t makes and runs beside the real one; in every
// other build a constant that leaves no trace. The environment variable MRSYNC_MUTANT names the rule that is left out;
// test/t/30_mutants.t lists them with the invariant that each breaks.
#pragma once

#ifdef MRSYNC_MUTANTS
#include <cstdlib>
#include <cstring>
#endif

namespace mrsync
{

#ifdef MRSYNC_MUTANTS
inline bool mutated(const char *name)
{
	static const char *const chosen = std::getenv("MRSYNC_MUTANT");
	return chosen && std::strcmp(chosen, name) == 0;
}
#else
constexpr bool mutated(const char *) { return false; }
#endif

} // namespace mrsync
