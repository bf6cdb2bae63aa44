// A merge function that gave no result for an event, or a result that its table does not take: the event's own values are taken.
//
// Most fail by what they were given, and so in every region; that is written down. Whether one comes to an end in time, or within the
// depth of the stack, can differ between regions and moments. So the first region in which one does not says so (isShared), on its
// control topic, before it acknowledges the event; from then on it holds in all regions, for this event and column, whatever
// they had come to before: they fold the row anew, and forget nothing of it until they have (worker/histories.cpp).
#pragma once

#include "core/fold.h"
#include "pg/guard.h"
#include "pg/shmem.h"

#include <set>

namespace mrsync
{

struct MergeFailure
{
	std::string table; // as events name it
	std::string pkText, keyName;
	std::string column; // "": the row
	std::string rule;	// of losers (worker/loser.h): its definition_id; "": of merges, whichever it was
	Version event;
	std::string function; // "": a constraint of the table
	MergeCalls::Value ancestor, a, b;
	PgError error;
};

// The same in every region. of: the column, or the rule.
std::string mergeFailureId(const std::string &table, const std::string &keyName, const std::string &of, const Version &event);

// Those of a table that hold in all regions. Throws PgError, as all below.
std::set<std::string> sharedMergeFailures(const std::string &table);

// In the transaction at hand.
void writeDown(const RegionShared *region, const MergeFailure &failure);
// In a transaction of its own, which commits before anything is told of the event.
void share(RegionShared *region, const MergeFailure &failure);

} // namespace mrsync
