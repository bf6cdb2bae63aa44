// The step of the fold. Two separate questions: who wins (versions alone, so the same in every region), and whether
// there is anything to report (a conflict is two events of which neither had seen the other).
#include "core/resolver.h"

#include "core/mutant.h"

namespace mrsync
{
namespace
{

// By the sides' outcomes, not by which of the two came: the same wherever they meet.
ConflictType conflictOf(LocalKind local, bool deletes, bool updates, bool incomingWins)
{
	if (local == LocalKind::Absent)
		return deletes ? ConflictType::DeleteMissing : updates ? ConflictType::UpdateMissing : ConflictType::None;
	const bool deleted = local == LocalKind::Tombstone;
	if (deletes && deleted)
		return ConflictType::DeleteMissing;
	if (!deletes && !deleted)
		return updates ? ConflictType::UpdateOriginDiffers : ConflictType::InsertExists;
	return deletes == incomingWins ? ConflictType::DeleteOriginDiffers : ConflictType::UpdateDeleted;
}

Action actionOf(LocalKind local, bool deletes)
{
	if (local == LocalKind::Live)
		return deletes ? Action::Delete : Action::Overwrite;
	return deletes ? Action::RememberDelete : Action::Insert;
}

} // namespace

const char *toText(ConflictType type)
{
	switch (type)
	{
	case ConflictType::None:
		return "none";
	case ConflictType::InsertExists:
		return "insert_exists";
	case ConflictType::UpdateOriginDiffers:
		return "update_origin_differs";
	case ConflictType::UpdateExists:
		return "update_exists";
	case ConflictType::UpdateMissing:
		return "update_missing";
	case ConflictType::UpdateDeleted:
		return "update_deleted";
	case ConflictType::DeleteOriginDiffers:
		return "delete_origin_differs";
	case ConflictType::DeleteMissing:
		return "delete_missing";
	case ConflictType::MultipleUniqueConflicts:
		return "multiple_unique_conflicts";
	}
	return "unknown"; // not a member of the enum: a caller's cast
}

Decision resolve(const LocalState &local, Operation op, const Version &incoming)
{
	bool deletes = op == Operation::Delete || op == Operation::Truncate;
	bool absent = local.kind == LocalKind::Absent;

	Decision decision;
	if (local.atMost && !absent && !local.sameTransaction && local.version < incoming && incoming.hlc <= *local.atMost && !mutated("guesses"))
	{
		decision.action = Action::Undecided;
		return decision;
	}
	// Within a transaction the events' own order decides, for they share one version. Across transactions an equal
	// version is the same transaction once more, and whatever it did to this row is done.
	decision.incomingWins =
		local.sameTransaction || absent || local.version < incoming || mutated("arrival_wins");
	decision.action = decision.incomingWins ? actionOf(local.kind, deletes) : Action::Keep;

	bool sameRegion = !absent && local.version.region == incoming.region;
	if (!local.sameTransaction && !local.seenByIncoming && !local.sawIncoming && !sameRegion)
		decision.conflict = conflictOf(local.kind, deletes, op == Operation::Update, decision.incomingWins);
	return decision;
}

} // namespace mrsync
