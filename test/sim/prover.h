// Whether the fold of a row with merges hangs on the order of arrival: all small cases, and large ones by seed; docs/testing.md.
//
// A case is what is done to one row, in which of three regions, and which of the others' events each had seen. Then each region
// takes its way: every order in which the events can come there, a repetition, pruning at each moment at which it is allowed, a
// new rule that is prepared and heard of at any moment. What a region does hangs on its own steps alone, so the ways of two
// regions need not be multiplied with each other.
// After each step the row has to be the plain fold of what has come by then: so in the end all regions have the fold of all.
#pragma once

#include "sim/fold_site.h"

#include <cstdint>

namespace mrsync::sim
{

struct ProverTotals
{
	size_t cases = 0;
	size_t ways = 0;
	size_t steps = 0;
};

// One, two and three events, under every strategy. Throws CheckFailed with the first case that fails, told step by step by its
// shortest way. Without `all`, new rules meet three events with the most telling acts and strategies only, so as to take a minute.
ProverTotals proveFold(FoldBreak broken, bool all = false);

// Several rows, transactions and regions, a column that is added, and two rules, one after the other. Throws CheckFailed with
// the seed's steps, without those that it fails without.
ProverTotals proveFoldSeed(uint64_t seed, FoldBreak broken);

} // namespace mrsync::sim
