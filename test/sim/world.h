// One seed, from the first commit to the last check.
#pragma once

#include "sim/options.h"

#include <cstddef>
#include <cstdint>

namespace mrsync::sim
{

struct Totals
{
	size_t transactions = 0;
	size_t events = 0;
	size_t records = 0; // in the topics: more than events by what was sent again
};

// Throws CheckFailed.
Totals runSeed(uint64_t seed, const Options &options);

} // namespace mrsync::sim
