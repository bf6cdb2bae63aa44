// The applier's view of mrsync.tombstone: the newest deletion of a key, and writing one where there is no row to delete.
#pragma once

#include "worker/target.h"

#include "core/resolver.h"

namespace mrsync
{

struct Deletion
{
	bool found = false; // by another transaction
	Version version;	// the newest of those whose version is known
	std::optional<Hlc> atMost; // the bound of the others
	bool mine = false;	// this transaction wrote one, too
};

// Of the key that target.hold() was given last; waits for deletions in progress (I12). Truncations count.
Deletion newestDeletion(RegionShared *region, Target &target, const std::string &pkText);

// Whether a truncation of the relation with this version, or a later one, is known. Waits for those in progress.
bool wasTruncated(RegionShared *region, Oid relation, const Version &version);

void rememberDeletion(Target &target, const std::string &pkText);
void rememberTruncation(Oid relation);

} // namespace mrsync
