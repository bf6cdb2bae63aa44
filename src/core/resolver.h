// The resolver: what becomes of one incoming event, given what is here. No PostgreSQL, no Kafka, no time.
//
// The row's state is the fold of its events in the order (hlc, region, event). Last writer wins keeps the last event of
// the fold; so whichever of two events arrives first, the same one stays (I1, I3). The applier occupies the key before
// it asks (I12), executes the answer, and logs the conflict if there is one.
#pragma once

#include "core/event.h"

#include <optional>
#include <string>

namespace mrsync
{

// The version of a row or of a delete. Regions compare bytewise, never by locale.
struct Version
{
	Hlc hlc;
	std::string region;
	auto operator<=>(const Version &) const = default;
};

enum class LocalKind
{
	Absent,	   // no row, no memory of one
	Live,	   // a row
	Tombstone, // no row, and the memory of its deletion (or of a truncation)
	Aside,	   // a row that is not in the table, because another one excludes it (core/exclusion.h)
};

struct LocalState
{
	LocalKind kind = LocalKind::Absent;
	Version version;			// of the row or tombstone; of no meaning when absent
	bool sameTransaction = false; // written by an earlier event of the transaction being applied
	bool seenByIncoming = false;  // the incoming event's region had applied it before (its `seen`), or wrote it itself
	bool sawIncoming = false;	  // its writer had applied the incoming event before
	// Set where the version is not known any more: it is not below `version`, which may be zero, and its stamp is not above this.
	std::optional<Hlc> atMost;
};

// Named as PostgreSQL 18 names them.
enum class ConflictType
{
	None,
	InsertExists,
	UpdateOriginDiffers,
	UpdateExists,
	UpdateMissing,
	UpdateDeleted,
	DeleteOriginDiffers,
	DeleteMissing,
	MultipleUniqueConflicts,
};
const char *toText(ConflictType type); // "insert_exists", ...; "none"

enum class Action
{
	Insert,			// no row in the table: write the after image
	Overwrite,		// there is a row: replace it by the after image
	Delete,			// there is a row: delete it
	RememberDelete, // no row in the table: write a tombstone, so that an older event that comes later does not resurrect it
	Keep,			// what is here stays
	Undecided,		// who wins hangs on a version that is not known any more: nothing is written, the event has to wait
};

struct Decision
{
	Action action = Action::Keep;
	ConflictType conflict = ConflictType::None; // None: sequential, nothing to log
	bool incomingWins = false;
	bool operator==(const Decision &) const = default;
};

// op: Insert, Update or Delete (a key change is a Delete and an Insert; a truncation is decided row by row as Delete).
Decision resolve(const LocalState &local, Operation op, const Version &incoming);

} // namespace mrsync
