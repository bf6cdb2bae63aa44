// What every part of a simulated world shares.
#pragma once

#include "sim/database.h"
#include "sim/kafka.h"
#include "sim/options.h"
#include "sim/scheduler.h"
#include "unit/random.h"

namespace mrsync::sim
{

// What the seed makes of the world. Times in microseconds.
struct Plan
{
	int regions;
	int rows;
	int transactions;    // per region
	int64_t duration;    // of the time in which transactions and faults begin
	int64_t granularity; // of the physical clocks: coarse ones make stamps of two regions equal
	int64_t maxClockSkew;
	int64_t networkDelay;  // at most, for a record to reach the log, and an acknowledgement the producer
	int64_t pollInterval;  // at most, of an applier
	int64_t statementTime; // at most, between a transaction's statements and its stamp, and its stamp and its commit
	uint64_t window;       // records under way
	int faults;            // per kind and region, at most
	bool forceOverride;
	int uniques; // values of the unique column; 0: it is always NULL
	Loser loser; // what becomes of a row whose value another one has
	bool losses;   // topics and slots lose what they hold
	bool forgets;  // commit timestamps get lost
	bool setBacks; // regions come back with an older copy of their database
};

// Their order as bytes is not the order of their numbers.
constexpr const char *kNames[] = {"eu", "us", "ap", "Af", "sa", "\xC3\xA9", "eu2", "EU"};

struct Context
{
	Plan plan;
	Break broken;
	test::Random random;
	test::Random aside; // for watermarks and parked events: they came later, and change nothing else of a seed's world
	test::Random later;  // the same, for losses and for regions that are set back
	Scheduler scheduler;
	Kafka kafka;
	History history;
	std::vector<uint64_t> newest; // by region, the sequence of its newest record that is to be sent

	Context(const Plan &plan, Break broken, uint64_t seed)
	    : plan(plan), broken(broken), random(seed), aside(~seed), later(seed ^ 0x5EED), kafka(scheduler, plan.regions),
	      history(plan.regions), newest(static_cast<size_t>(plan.regions))
	{
	}

	std::string nameOf(int region) const { return kNames[region]; }
	bool breaks(Break which) const { return broken == which; }
	int64_t upTo(int64_t most) { return random.between(0, most); }
};

} // namespace mrsync::sim
