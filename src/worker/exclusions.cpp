// Apply: rows that exclude each other. Where one is placed, what it takes out of the table, and what comes in when it leaves
// (core/exclusion.h).
#include "worker/apply.h"

#include "core/codec.h"
#include "core/mutant.h"
#include "pg/guard.h"

namespace mrsync
{

std::vector<Claim> Apply::claimsOf(const Target &target, const Claim &claim, const std::vector<Rival> &rivals) const
{
	std::vector<Claim> claims;
	for (const Rival &rival : rivals)
	{
		const RowVersion &version = rival.version;
		Version of{version.hlc, version.region};
		if (version.mine)
			of = claim.version;
		else if (version.atMost && version.hlc > target.base)
			throw undecided(target, claim.version, unknownUpTo(version.hlc), rival.xmin);
		else if (version.atMost) // from before table_add; but whoever is held aside has a version
			of = Version{Hlc{1}, region_->region};
		claims.push_back(Claim{std::move(of), rival.pk});
	}
	return claims;
}

// Of the pairs of which neither had seen the other. Not winsAll: those that are lower stay, but for the sake of others.
void Apply::logExclusions(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText, const Claim &claim,
						  const std::vector<Rival> &rivals, const std::vector<Claim> &claims, bool winsAll)
{
	ConflictType type = rivals.size() > 1                       ? ConflictType::MultipleUniqueConflicts
						: event.operation == Operation::Insert ? ConflictType::InsertExists
															   : ConflictType::UpdateExists;
	for (size_t i = 0; i < rivals.size(); ++i)
	{
		if (!winsAll && claims[i] < claim)
			continue;
		LocalState rival;
		rival.kind = LocalKind::Live;
		rival.version = claims[i].version;
		relate(rival, target, event, seen);
		if (rival.seenByIncoming || rival.sawIncoming || claims[i].version == claim.version)
			continue;
		std::optional<AsideKey> placed = placedAs(target, rivals[i], claims[i].version);
		logExclusion(target, event, pkText, rivals[i], placed ? aside_.image(placed->id) : rivals[i].image, claims[i].version, type);
	}
}

// Where the table has a row in another form: as it was written it is held aside.
std::optional<AsideKey> Apply::placedAs(Target &target, const Rival &rival, const Version &version)
{
	std::optional<AsideKey> aside = aside_.find(target, rival.keyHash, rival.pk);
	return aside && aside->isPlaced && aside->version == version ? aside : std::nullopt;
}

// They leave the table, and are held aside; where there is a rule for losers, they are seen to next.
void Apply::evict(Target &target, const Claim &by, const std::vector<Rival> &rivals, const std::vector<Claim> &claims)
{
	const uint64_t keyHash = target.heldKeyHash();
	const std::optional<Image> nothing;
	for (size_t i = 0; i < rivals.size(); ++i)
	{
		const Rival &rival = rivals[i];
		target.takeOut(rival.tid);
		aside_.freed(target.root, &rival.keyHash);
		if (std::optional<AsideKey> placed = placedAs(target, rival, claims[i].version); placed && !mutated("evicts_made"))
		{
			aside_.evicted(*placed);
			continue;
		}
		aside_.put(target, aside_.find(target, rival.keyHash, rival.pk), {claims[i], rival.keyHash, rival.image, by, keyHash, rival.constraint, nothing, false, ""});
		if (target.loser && !target.loser->rule().empty())
			aside_.due(target, rival.keyHash);
	}
}

// Whatever excludes the row that is to be written leaves the table; or that one does not enter it, or does in another form.
Apply::Place Apply::makeRoom(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText,
							 const HeldRow &held, const std::optional<AsideKey> &aside, const std::vector<Rival> &rivals)
{
	const Claim claim{Version{event.hlc, event.region}, pkText};
	const std::vector<Claim> claims = claimsOf(target, claim, rivals);
	const Placement placement = place(claim, claims);
	if (placement.inTable)
	{
		for (const Rival &rival : rivals)
			if (!target.lock(rival))
				return {Room::Again, {}};
		logExclusions(target, event, seen, pkText, claim, rivals, claims, true);
		evict(target, claim, rivals, claims);
		return {};
	}

	const Rival &holder = rivals[placement.holder];
	Placed placed{claim, claims[placement.holder], target.heldKeyHash(), holder.keyHash, holder.constraint, {}};
	std::string why;
	if (target.loser && !target.loser->rule().empty())
	{
		std::set<size_t> by;
		for (size_t i = 0; i < rivals.size(); ++i)
			if (claims[i] > claim)
				by.insert(rivals[i].by.begin(), rivals[i].by.end());
		std::vector<const RivalIndex *> indexes;
		for (size_t position : by)
			indexes.push_back(&target.rivalIndex(position));
		Loser::Made made = target.loser->make({pkText, target.heldKeyName(pkText), claim.version, *event.after}, indexes);
		placed.constraint = target.namesOf(by);
		placed.made = std::move(made.image);
		why = std::move(made.why);
	}
	std::vector<Rival> others; // whom that excludes
	std::vector<Claim> theirs;
	if (placed.made)
	{
		others = target.rivals(*placed.made, held);
		theirs = claimsOf(target, claim, others);
	}
	const bool isPlaced = placed.made && place(claim, theirs).inTable;
	if (isPlaced)
		for (const Rival &rival : others)
			if (!target.lock(rival))
				return {Room::Again, {}};
	logExclusions(target, event, seen, pkText, claim, rivals, claims, false);
	if (isPlaced)
	{
		logExclusions(target, event, seen, pkText, claim, others, theirs, true);
		evict(target, claim, others, theirs);
		return {Room::Made, std::move(placed)};
	}
	if (held.found)
	{
		target.takeOut(held.tid);
		aside_.freed(target.root, &placed.keyHash);
	}
	aside_.put(target, aside, {claim, placed.keyHash, *event.after, placed.holder, placed.holderHash, placed.constraint, placed.made, false, why});
	return {Room::Aside, {}};
}

// The row with the key that target.hold() was given last has left the table, or excludes others than it did.
void Apply::freed(Target &target)
{
	uint64_t hash = target.heldKeyHash();
	aside_.freed(target.root, &hash);
}

bool Apply::release(const std::string &id)
{
	std::optional<AsideRow> row = asideRead(id);
	if (!row)
		return false;
	aside_.own(row->root);
	row = asideRead(id); // as it was left by who was waited for
	if (!row || !row->isDue)
		return false;
	const Target &target = targets_.byOid(row->root);
	if (!target.isAdded)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table " + target.name + " is not added in this region")
			.hint("Call mrsync.table_add('" + target.name + "') here; the row is tried again by itself.");
	ChangeEvent event;
	event.region = row->version.region;
	event.hlc = row->version.hlc;
	event.table = target.name;
	event.pk = std::move(row->pk);
	event.after = std::move(row->image);
	event.tx.sequence = row->sequence;
	this->event(event, row->seen, From::Aside);
	return true;
}

void Apply::releaseOwn(const Version &version)
{
	while (std::optional<AsideDue> due = asideDue(version))
		release(due->id);
}

bool Apply::isReleasable(const std::string &id)
{
	std::optional<AsideRow> row = asideRead(id);
	if (!row)
		return false;
	Target *target = &targets_.byOid(row->root);
	if (target->isPartitioned)
		target = &targets_.byOid(target->partitionFor(row->pk));
	const Claim claim{row->version, encodeImage(row->pk)};
	bool isThere = false, isWritten = false; // in its table: as it was placed; by somebody since
	auto higher = [&](const Image &image)	 // by which of the indexes they exclude it
	{
		std::set<size_t> by;
		for (const Rival &rival : target->rivalsNow(image))
		{
			const Version version{rival.version.hlc, rival.version.region};
			if (rival.sameKey)
				(row->isPlaced && !rival.version.atMost && version == row->version ? isThere : isWritten) = true;
			// one that is not known counts as older: the attempt says what is wrong
			else if (!rival.version.atMost && Claim{version, rival.pk} > claim)
				by.insert(rival.by.begin(), rival.by.end());
		}
		return by;
	};
	const std::set<size_t> by = higher(row->image);
	if (by.empty() || isWritten || isThere != row->isPlaced)
		return true;
	const Loser *loser = target->loser.get();
	const std::string &rule = loser ? loser->rule() : std::string();
	if (rule.empty() || rule != row->rule)
		return rule != row->rule;
	if (row->constraint != target->namesOf(by))
		return true;
	if (!row->made)
		return false;
	if (loser->isGivenUp(target->keyName(row->pk), row->version))
		return true;
	return higher(*row->made).empty() != row->isPlaced;
}

} // namespace mrsync
