#include "worker/apply.h"

#include "core/codec.h"
#include "core/gap.h"
#include "core/mutant.h"
#include "core/watermark.h"
#include "pg/guard.h"
#include "pg/rowhistory.h"
#include "pg/spi.h"
#include "worker/parking.h"
#include "worker/tombstones.h"

#include <algorithm>
#include <utility>

namespace mrsync
{

namespace
{

// A key that comes and goes under our hands does so a few times, not for ever.
constexpr int kMostAttempts = 20;

} // namespace

void Apply::sweep()
{
	targets_.sweep();
	aside_.locksGone();
	shadows_.transactionBegins();
	if (std::exchange(hasLogged_, false))
		logged_.reset();
}

void Apply::locksGone()
{
	shadows_.eventUndone();
	targets_.locksGone();
	aside_.locksGone();
}

void Apply::event(const ChangeEvent &event, const SeenVector &seen, From from)
{
	from_ = from;
	shadows_.eventBegins();
	if (event.table == kResendTable)
	{
		resendMark(event);
		return;
	}
	switch (event.operation)
	{
	case Operation::Insert:
	case Operation::Update:
	case Operation::Delete:
		row(event, seen);
		return;
	case Operation::Truncate:
		truncate(event);
		return;
	case Operation::Ddl:
		break;
	}
	throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED,
				  std::string("this version of mrsync cannot apply ") + toText(event.operation) + " events");
}

Oid Apply::rootOf(const std::string &table) { return targets_.byName(table).root; }

bool Apply::keysAreTexts(const std::set<std::string> &tables)
{
	return std::all_of(tables.begin(), tables.end(), [&](const std::string &table) { return targets_.byName(table).keyIsText(); });
}

std::optional<std::string> Apply::rowName(const ChangeEvent &event)
{
	if (!event.pk)
		return std::nullopt;
	return targets_.byName(event.table).keyName(*event.pk);
}

// Where a key has several texts, its row may have been another one for those who parked the transaction's events: the table
// was not known here.
void Apply::requireTurn(Target &target, const ChangeEvent &event)
{
	if (target.keyIsText())
		return;
	for (const std::string &pkText : parkedBefore(event))
		if (target.heldKeyEquals(pkText))
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						  "an earlier event of the same transaction and row is parked");
}

// What had been seen by a transaction of this version that was applied here, and its sequence; nothing where there is none. The bounds of
// its id say in which partition it is.
spi::Rows Apply::applied(const Version &version) const
{
	static spi::Statement *const statement =
		new spi::Statement("SELECT seen, sequence FROM mrsync.applied_event WHERE region_id = $1 AND hlc OPERATOR(mrsync.=) $2::mrsync.hlc AND event_id >= "
						   "$3::uuid AND event_id < $4::uuid");
	return statement->query({version.region, toText(version.hlc), toText(eventIdFrom(version.hlc)), toText(eventIdFrom(Hlc{version.hlc.value + 1000}))});
}

// Stamped below what was seen of its region, but committed after it. Of this region's own commits the sequences are not kept: whoever has
// seen less than them meets them at home.
bool Apply::isBehind(const Version &version, const SeenEntry &seen) const
{
	if (version.hlc == seen.hlc || version.region == region_->region)
		return false;
	const PeerShared *peer = peerShared(region_, version.region, false);
	const int64_t from = peer ? peer->orderKnownFrom.load() : 0;
	if (from != 0 && version.hlc.value > from && seen.hlc.value - version.hlc.value > peer->mostOvertaken.load())
		return false; // mostly
	const spi::Rows rows = applied(version);
	return rows.size() == 1 && std::stoull(*rows[0][1]) > seen.sequence;
}

void Apply::relate(LocalState &local, const Target &target, const ChangeEvent &event, const SeenVector &seen) const
{
	const Version &version = local.version;
	const Version incoming{event.hlc, event.region};
	if (from_ != From::Topic && version == incoming)
		local.sameTransaction = true;
	if (event.tx.resent)
	{
		// It says how a row was in the end, not that somebody wrote it now: in conflict with nothing. A transaction that
		// deleted the row and wrote it again has left a tombstone of the same version.
		local.seenByIncoming = true;
		if (local.kind == LocalKind::Tombstone && version == incoming && event.operation == Operation::Insert)
			local.sameTransaction = true;
		return;
	}
	bool isBase = version.region == region_->region && version.hlc < target.base && version < incoming;
	if (version.region.empty() || version.region == event.region || isBase)
	{
		// its own earlier write; one older than anything that is known, or than anything that is still on its way; or a row
		// from before the table was replicated
		local.seenByIncoming = true;
		return;
	}
	if (Hlc pruned{region_->prunedUpTo.load()}; version.hlc <= pruned && event.hlc > pruned)
	{
		// Every event still to come has seen what could be pruned; and where the stamp was pruned, what is read instead may
		// lie beyond the one that it has seen.
		local.seenByIncoming = true;
		return;
	}
	auto entry = seen.find(version.region);
	local.seenByIncoming = entry != seen.end() && version.hlc <= entry->second.hlc && (!isBehind(version, entry->second) || mutated("seen_by_hlc"));
	if (local.seenByIncoming || version < incoming)
		return;
	// A third region's version that wins, or one of ours that was taken back: had its writer seen the event? Then nothing is
	// in conflict. (What was written here has seen what had been applied here, and that does not come again.)
	for (const spi::Row &row : applied(version))
	{
		auto decoded = row[0] ? decodeSeen(*row[0]) : std::variant<SeenVector, DecodeError>(SeenVector{});
		if (auto *vector = std::get_if<SeenVector>(&decoded))
		{
			auto of = vector->find(event.region);
			local.sawIncoming |= of != vector->end() && of->second.sequence >= event.tx.sequence;
		}
	}
}

// Throws when what would decide has been forgotten. To be asked after the tombstones: what is not found there any more has been
// announced by prunedUpTo.
void Apply::requireMemory(const LocalState &local, const ChangeEvent &event) const
{
	Hlc pruned{region_->prunedUpTo.load()};
	if (!canDecide(local, local.version.region == region_->region, event.hlc, pruned))
		throw forgotten(event);
}

PgError Apply::forgotten(const ChangeEvent &event) const
{
	Hlc pruned{region_->prunedUpTo.load()};
	return PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the event comes after what would decide it was forgotten")
		.detail("It is stamped " + toText(event.hlc) + ", by region " + event.region + "; which rows were deleted is not known any more "
				"up to " + toText(pruned) + ", since all regions known then had said that they were past it.")
		.hint("A region that writes before it has caught up with the group, with a clock that is behind, sends such events. Write the row "
			  "anew in that region, or delete it there; then mrsync.apply_error_discard().");
}

// The event changes a row of which nothing is here. Its region had applied more of a third region than we have, or of ours,
// if that was set back: the row's beginning is still to come, and is no conflict when it does (sawIncoming).
bool Apply::mayBeOnItsWay(const ChangeEvent &event, const SeenVector &seen) const
{
	bool isKnown = region_->historyKnown.load(); // before it is asked what is to be taken back
	spi::Rows rows = spi::query("SELECT l.source_region, coalesce(p.sequence, 0) FROM mrsync.replication_link l LEFT JOIN "
								"mrsync.link_position p ON p.source_region = l.source_region WHERE l.target_region = $1 AND "
								"l.status <> 'decommissioned' UNION ALL SELECT $1, sequence FROM mrsync.link_position WHERE "
								"source_region = $1 UNION ALL SELECT $1, sequence FROM mrsync.extractor_position WHERE NOT $2::boolean",
								{std::string(region_->region), isKnown ? "true" : "false"});
	for (const spi::Row &row : rows)
	{
		auto entry = *row[0] == event.region ? seen.end() : seen.find(*row[0]);
		if (entry != seen.end() && std::stoull(*row[1]) < entry->second.sequence)
			return true;
	}
	return false;
}

// What is here where there is no row.
LocalState Apply::deleted(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText)
{
	LocalState local;
	Deletion deletion = newestDeletion(region_, target, pkText);
	if (deletion.found && (!deletion.mine || deletion.version > Version{event.hlc, event.region}))
	{
		local.kind = LocalKind::Tombstone;
		local.version = deletion.version;
		if (!deletion.mine)
			local.atMost = deletion.atMost;
		relate(local, target, event, seen);
	}
	else if (deletion.mine)
	{
		local.kind = LocalKind::Tombstone;
		local.sameTransaction = true;
	}
	return local;
}

LocalState Apply::unknownUpTo(Hlc hlc)
{
	LocalState unknown;
	unknown.kind = LocalKind::Live;
	unknown.atMost = hlc;
	return unknown;
}

PgError Apply::undecided(const Target &target, const Version &event, const LocalState &local, TransactionId writer) const
{
	bool isLive = local.kind == LocalKind::Live;
	std::string what = isLive ? "The row was written by transaction " + std::to_string(writer)
							  : std::string("The row was deleted, or the table truncated, by a transaction");
	return PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				   "it is not known whether the event or what it found in " + target.name + " is newer")
		.detail(what + " whose commit timestamp this server does not have any more (track_commit_timestamp was off since, or it is frozen, or "
					   "the server was promoted). It is not newer than " +
				toText(*local.atMost) + "; the event is stamped " + toText(event.hlc) + ".")
		.hint(std::string(isLive && target.merger ? "Delete the row and insert it again, in one transaction, in any region, as it should be" // what else is known of it no longer counts
						  : isLive				  ? "Write the row again, in any region, as it should be"
								 : "Insert the row, in any region, as it should be, or insert it and delete it again") +
			  ": then the event is the older one, and goes by itself.");
}

void Apply::row(const ChangeEvent &event, const SeenVector &seen)
{
	const bool resent = event.tx.resent.has_value();
	if (!event.pk || (event.operation == Operation::Delete ? !event.before && !resent : !event.after))
		throw PgError(ERRCODE_DATA_CORRUPTED, "the event has no key or no image");
	Target *target = &targets_.byName(event.table);
	// All regions were past its stamp when something was pruned here: whatever there is now, or is not, has come after it.
	if (resent && event.hlc.value <= region_->prunedUpTo.load())
		return;
	if (target->isPartitioned)
		target = &targets_.byOid(target->partitionFor(*event.pk));
	const Version incoming{event.hlc, event.region};
	const std::string pkText = encodeImage(*event.pk);
	const bool excludes = target->excludes();
	if (excludes)
		aside_.share(target->root);
	// An INSERT looks for deletions afterwards. Before, too, where it may fail for ever but for a deletion since, and where
	// something would have been done already for a row that is taken back: a trigger's work, other rows held aside.
	bool looksFirst = event.operation != Operation::Insert || from_ != From::Topic || target->hasInsertTriggers;

	for (int attempt = 1, changes = 0;; ++attempt)
	{
		if (attempt > kMostAttempts)
			throw PgError(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
						  "a trigger of " + target->name + " kept a row from being inserted");
		LocalState local;
		bool looked = false; // for tombstones
		HeldRow held = target->hold(*event.pk);
		if (from_ == From::Parked)
			requireTurn(*target, event);
		// Where the row is in the table as well, somebody has inserted it since: what is aside is older.
		std::optional<AsideKey> aside;
		if (excludes)
			aside = aside_.find(*target, target->heldKeyHash(), pkText);
		if (held.found)
		{
			RowVersion version = target->version(region_, held);
			local.kind = LocalKind::Live;
			// Sent again, a merged row comes behind the events that made it. They are here, and perhaps others that its sender lacks.
			const bool isMade = version.mine && resent && event.tx.step == 0 && target->merger && !mutated("resend_row_counts");
			local.sameTransaction = version.mine && !isMade;
			if (isMade)
				local.version = incoming;
			else if (!version.mine)
			{
				// one that is forgotten, but surely from before table_add: older than every event
				if (version.atMost && version.hlc > target->base)
					local.atMost = version.hlc;
				else if (!version.atMost)
					local.version = Version{version.hlc, version.region};
				relate(local, *target, event, seen);
			}
		}
		else
		{
			looked = looksFirst || aside;
			if (looked)
				local = deleted(*target, event, seen, pkText);
			if (aside && (local.kind == LocalKind::Absent || (!local.atMost && local.version < aside->version)))
			{
				local = LocalState{};
				local.kind = LocalKind::Aside;
				local.version = aside->version;
				relate(local, *target, event, seen);
				// of a transaction that deleted the row and wrote it again both are sent again, in any order
				local.sameTransaction = aside->version == incoming && !(resent && event.operation == Operation::Delete);
			}
		}
		if ((held.found || looked) && from_ != From::Aside)
			requireMemory(local, event);
		if (local.kind == LocalKind::Absent && event.operation != Operation::Insert)
			local.seenByIncoming = resent || mayBeOnItsWay(event, seen);

		Decision decision = resolve(local, event.operation, incoming);
		if (from_ == From::Aside)
			decision.conflict = ConflictType::None; // said when the row was held aside, or when what it meets now came
		std::optional<Image> localImage;
		if (decision.conflict != ConflictType::None && aside && aside->version == local.version) // as it was written
			localImage = aside_.image(aside->id);
		else if (decision.conflict != ConflictType::None && held.found)
			localImage = target->heldImage();

		bool writes = decision.action == Action::Insert || decision.action == Action::Overwrite;
		// what it excludes is what it has excluded so far
		bool keepsPlace = !excludes || (decision.action == Action::Overwrite && !target->changesExclusion(*event.after));
		std::vector<Rival> rivals;
		if (writes && !keepsPlace)
			rivals = target->rivals(*event.after, held);
		Place place;
		if (!rivals.empty() || (aside && decision.action != Action::Keep))
		{
			place.room = Room::Again;
			if (aside_.own(target->root) && (looksFirst || held.found))
				place = makeRoom(*target, event, seen, pkText, held, aside, rivals);
			looksFirst = true;
			if (place.room == Room::Again)
			{
				if (++changes > kMostAttempts)
					throw PgError(ERRCODE_T_R_SERIALIZATION_FAILURE,
								  "rows of " + target->name + " that exclude another one keep changing");
				--attempt;
				continue;
			}
			if (place.room == Room::Aside)
			{
				if (decision.conflict != ConflictType::None)
					log(*target, event, seen, pkText, local, decision, localImage);
				return;
			}
		}

		const Image *image = place.placed ? &*place.placed->made : event.after ? &*event.after : nullptr;
		const bool merges = target->merger != nullptr;
		if (merges)
			target->merger->row(pkText, target->heldKeyName(pkText), incoming);
		const bool wasAbsent = local.kind == LocalKind::Absent;
		const RowState found = merges && held.found ? RowState(target->merger->normal(target->heldImage())) : std::nullopt;
		bool isGone = false; // what was in the table
		switch (decision.action)
		{
		case Action::Insert:
			if (!target->insert(merges ? mergedRow(*target, event, wasAbsent ? target->merger->normal(event.before) : std::nullopt) : *image))
			{
				if (excludes) // there is no room to be had for it by now
					freed(*target);
				continue; // somebody was faster: there is a row now
			}
			{
				// The key is ours from here on. Whoever deleted it before has committed by now: look once more.
				LocalState before = deleted(*target, event, seen, pkText);
				if (from_ != From::Aside) // had its time, and was kept with what may concern it (worker/pruner.cpp)
					requireMemory(before, event);
				if (before.kind == LocalKind::Tombstone && !before.sameTransaction && !mutated("look_before"))
				{
					decision = resolve(before, event.operation, incoming);
					local = before;
					if (decision.action == Action::Undecided)
						throw undecided(*target, incoming, before, held.xmin);
					if (decision.action != Action::Insert)
					{
						target->takeOut(target->hold(*event.pk).tid);
						isGone = true;
					}
					else if (merges && wasAbsent && event.before) // deleted meanwhile
						target->update(target->hold(*event.pk), mergedRow(*target, event, std::nullopt));
				}
			}
			break;
		case Action::Overwrite:
			target->update(held, merges ? mergedRow(*target, event, found) : *image);
			isGone = true;
			break;
		case Action::Delete:
			target->remove(held);
			isGone = true;
			break;
		case Action::RememberDelete:
			rememberDeletion(*target, pkText);
			if (target->hold(*event.pk).found)
				continue; // inserted meanwhile, by somebody who did not see this deletion
			break;
		case Action::Keep:
			break;
		case Action::Undecided:
			throw undecided(*target, incoming, local, held.xmin);
		}
		if (merges && from_ != From::Aside)
			remember(*target, event, pkText, held, found, local, decision);
		if (place.placed && (decision.action == Action::Insert || decision.action == Action::Overwrite))
			aside_.put(*target, aside, place.placed->entry(*event.after));
		else if (aside && (decision.action != Action::Keep || from_ == From::Aside))
			aside_.drop(*aside);
		if (excludes && isGone && !(keepsPlace && decision.action == Action::Overwrite))
			freed(*target);
		if (decision.conflict != ConflictType::None)
			log(*target, event, seen, pkText, local, decision, localImage);
		const bool isLogged = decision.conflict != ConflictType::None;
		if (from_ != From::Aside && (hasLogged_ || isLogged || from_ == From::Parked))
			nameLast(*target, event, pkText, isLogged);
		return;
	}
}

void Apply::truncate(const ChangeEvent &event)
{
	Target &target = targets_.byName(event.table);
	const Version version{event.hlc, event.region};
	if (event.tx.resent && (event.hlc.value <= region_->prunedUpTo.load() || wasTruncated(region_, target.relation, version)))
		return; // as in row()
	requireMemory(LocalState{}, event);
	// First the mark: other appliers that insert from now on find it. Who wrote before has not seen the truncation, and
	// may be stamped below it. New writes of users are stamped above it.
	rememberTruncation(target.relation);
	target.waitForWriters();
	// Tried again, what has its very version is older, too: its transaction's later events wait for it.
	target.removeOlder(version, from_ == From::Parked);
	aside_.share(target.root);
	for (const auto &[row, pk] : aside_.upTo(target.root, version)) // its transaction's later events are not there yet, but for those sent again
		if (event.tx.resent && row.version == version)
			continue;
		else if (target.relation == target.root || targets_.byOid(target.root).partitionFor(pk) == target.relation)
			aside_.drop(row);
	aside_.freed(target.root, nullptr);
	// What is newer than the truncation stays, without what it was merged with from before.
	if (!target.merger && !target.isPartitioned)
		return;
	if (target.relation == target.root)
		pgCall([root = target.root] { historyForgetOwn(root); });
	for (const Image &pk : historiesOf(target.root))
		if (target.relation == target.root || (hasLeaf(target.root, pk) && targets_.byOid(target.root).partitionFor(pk) == target.relation))
			refold(target.root, pk, version);
}

// The end of a resend: for whoever looks, since the rows have come before it.
void Apply::resendMark(const ChangeEvent &event)
{
	if (!event.after || event.operation != Operation::Insert)
		throw PgError(ERRCODE_DATA_CORRUPTED, "the end of a resend has no row");
	spi::execute("INSERT INTO mrsync.resend SELECT * FROM pg_catalog.jsonb_populate_record(NULL::mrsync.resend, $1::jsonb) r "
				 "WHERE r.region_id = $2 ON CONFLICT DO NOTHING",
				 {encodeImage(*event.after), event.region});
}

} // namespace mrsync
