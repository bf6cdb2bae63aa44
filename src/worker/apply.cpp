#include "worker/apply.h"

#include "core/codec.h"
#include "core/ids.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/spi.h"
#include "worker/parking.h"
#include "worker/tombstones.h"

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
}

void Apply::locksGone()
{
	targets_.locksGone();
	aside_.locksGone();
}

void Apply::event(const ChangeEvent &event, const SeenVector &seen, From from)
{
	from_ = from;
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

void Apply::relate(LocalState &local, const Target &target, const ChangeEvent &event, const SeenVector &seen) const
{
	const Version &version = local.version;
	const Version incoming{event.hlc, event.region};
	if (from_ != From::Topic && version == incoming)
		local.sameTransaction = true;
	bool isBase = version.region == region_->region && version.hlc < target.base && version < incoming;
	if (version.hlc.value == 0 || version.region == event.region || isBase)
	{
		// its own earlier write; one older than anything that is known; or a row from before the table was replicated
		local.seenByIncoming = true;
		return;
	}
	auto entry = seen.find(version.region);
	local.seenByIncoming = entry != seen.end() && version.hlc <= entry->second.hlc;
	if (local.seenByIncoming || version.region == region_->region || version < incoming)
		return;
	// A third region's version that wins: had its writer seen the event? Then nothing is in conflict.
	spi::Rows rows = spi::query("SELECT seen FROM mrsync.applied_event WHERE region_id = $1 AND hlc OPERATOR(mrsync.=) $2::mrsync.hlc",
								{version.region, toText(version.hlc)});
	for (const spi::Row &row : rows)
	{
		auto decoded = row[0] ? decodeSeen(*row[0]) : std::variant<SeenVector, DecodeError>(SeenVector{});
		if (auto *vector = std::get_if<SeenVector>(&decoded))
		{
			auto of = vector->find(event.region);
			local.sawIncoming |= of != vector->end() && of->second.sequence >= event.tx.sequence;
		}
	}
}

// The event changes a row of which nothing is here. Its region had applied more of a third region than we have: the
// row's beginning is still to come on another link, and is no conflict when it does (sawIncoming).
bool Apply::mayBeOnItsWay(const ChangeEvent &event, const SeenVector &seen) const
{
	spi::Rows rows = spi::query("SELECT l.source_region, coalesce(p.sequence, 0) FROM mrsync.replication_link l LEFT JOIN "
								"mrsync.link_position p ON p.source_region = l.source_region WHERE l.target_region = $1 AND "
								"l.status <> 'decommissioned'",
								{std::string(region_->region)});
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
		relate(local, target, event, seen);
	}
	else if (deletion.mine)
	{
		local.kind = LocalKind::Tombstone;
		local.sameTransaction = true;
	}
	return local;
}

void Apply::row(const ChangeEvent &event, const SeenVector &seen)
{
	if (!event.pk || (event.operation == Operation::Delete ? !event.before : !event.after))
		throw PgError(ERRCODE_DATA_CORRUPTED, "the event has no key or no image");
	Target *target = &targets_.byName(event.table);
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
		HeldRow held = target->hold(*event.pk);
		if (from_ == From::Parked)
			requireTurn(*target, event);
		// Where the row is in the table as well, somebody has inserted it since: what is aside is older.
		std::optional<AsideKey> aside;
		if (excludes)
			aside = aside_.find(*target, target->heldKeyHash(), pkText);
		if (held.found)
		{
			XidVersion version = versionOf(region_, held.xmin);
			local.kind = LocalKind::Live;
			local.sameTransaction = version.mine;
			if (!version.mine)
			{
				local.version = Version{version.hlc, version.region};
				relate(local, *target, event, seen);
			}
		}
		else
		{
			if (looksFirst || aside)
				local = deleted(*target, event, seen, pkText);
			if (aside && (local.kind == LocalKind::Absent || local.version < aside->version))
			{
				local = LocalState{LocalKind::Aside, aside->version};
				relate(local, *target, event, seen);
				local.sameTransaction = aside->version == incoming;
			}
		}
		if (local.kind == LocalKind::Absent && event.operation != Operation::Insert)
			local.seenByIncoming = mayBeOnItsWay(event, seen);

		Decision decision = resolve(local, event.operation, incoming);
		if (from_ == From::Aside)
			decision.conflict = ConflictType::None; // said when the row was held aside, or when what it meets now came
		std::optional<Image> localImage;
		if (decision.conflict != ConflictType::None && held.found)
			localImage = target->heldImage();
		else if (decision.conflict != ConflictType::None && local.kind == LocalKind::Aside)
			localImage = aside_.image(aside->id);

		bool writes = decision.action == Action::Insert || decision.action == Action::Overwrite;
		// what it excludes is what it has excluded so far
		bool keepsPlace = !excludes || (decision.action == Action::Overwrite && !target->changesExclusion(*event.after));
		std::vector<Rival> rivals;
		if (writes && !keepsPlace)
			rivals = target->rivals(*event.after, held);
		if (!rivals.empty() || (aside && decision.action != Action::Keep))
		{
			Room room = Room::Again;
			if (aside_.own(target->root) && (looksFirst || held.found))
				room = makeRoom(*target, event, seen, pkText, held, aside, rivals);
			looksFirst = true;
			if (room == Room::Again)
			{
				if (++changes > kMostAttempts)
					throw PgError(ERRCODE_T_R_SERIALIZATION_FAILURE,
								  "rows of " + target->name + " that exclude another one keep changing");
				--attempt;
				continue;
			}
			if (room == Room::Aside)
			{
				if (decision.conflict != ConflictType::None)
					log(*target, event, pkText, local, decision, localImage);
				return;
			}
		}

		bool isGone = false; // what was in the table
		switch (decision.action)
		{
		case Action::Insert:
			if (!target->insert(*event.after))
			{
				if (excludes) // there is no room to be had for it by now
					freed(*target);
				continue; // somebody was faster: there is a row now
			}
			{
				// The key is ours from here on. Whoever deleted it before has committed by now: look once more.
				LocalState before = deleted(*target, event, seen, pkText);
				if (before.kind == LocalKind::Tombstone && !before.sameTransaction)
				{
					decision = resolve(before, event.operation, incoming);
					local = before;
					if (decision.action != Action::Insert)
					{
						target->takeOut(target->hold(*event.pk).tid);
						isGone = true;
					}
				}
			}
			break;
		case Action::Overwrite:
			target->update(held, *event.after);
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
		}
		if (aside && (decision.action != Action::Keep || from_ == From::Aside))
			aside_.drop(*aside);
		if (excludes && isGone && !(keepsPlace && decision.action == Action::Overwrite))
			freed(*target);
		if (decision.conflict != ConflictType::None)
			log(*target, event, pkText, local, decision, localImage);
		return;
	}
}

// Whatever excludes the row that is to be written leaves the table, or that one does not enter it.
Apply::Room Apply::makeRoom(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText,
							const HeldRow &held, const std::optional<AsideKey> &aside, const std::vector<Rival> &rivals)
{
	const Claim claim{Version{event.hlc, event.region}, pkText};
	std::vector<Claim> claims;
	for (const Rival &rival : rivals)
	{
		XidVersion version = versionOf(region_, rival.xmin);
		Version of{version.hlc, version.region};
		if (version.mine)
			of = claim.version;
		else if (version.hlc.value == 0) // older than all that is known; but whoever is held aside has a version
			of = Version{Hlc{1}, region_->region};
		claims.push_back(Claim{std::move(of), rival.pk});
	}
	const Placement placement = place(claim, claims);
	if (placement.inTable)
		for (const Rival &rival : rivals)
			if (!target.lock(rival))
				return Room::Again;

	ConflictType type = rivals.size() > 1                       ? ConflictType::MultipleUniqueConflicts
						: event.operation == Operation::Insert ? ConflictType::InsertExists
															   : ConflictType::UpdateExists;
	const uint64_t keyHash = target.heldKeyHash();
	for (size_t i = 0; i < rivals.size(); ++i)
	{
		if (!placement.inTable && claims[i] < claim)
			continue; // it stays, but for the sake of others
		LocalState rival{LocalKind::Live, claims[i].version};
		relate(rival, target, event, seen);
		if (!rival.seenByIncoming && !rival.sawIncoming && claims[i].version != claim.version)
			logExclusion(target, event, pkText, rivals[i], claims[i].version, type);
	}
	if (placement.inTable)
	{
		for (size_t i = 0; i < rivals.size(); ++i)
		{
			const Rival &rival = rivals[i];
			target.takeOut(rival.tid);
			aside_.freed(target.root, &rival.keyHash);
			aside_.put(target, aside_.find(target, rival.keyHash, rival.pk),
					   {claims[i], rival.keyHash, rival.image, claim, keyHash, rival.constraint});
		}
		return Room::Made;
	}
	if (held.found)
	{
		target.takeOut(held.tid);
		aside_.freed(target.root, &keyHash);
	}
	const Rival &holder = rivals[placement.holder];
	aside_.put(target, aside, {claim, keyHash, *event.after, claims[placement.holder], holder.keyHash, holder.constraint});
	return Room::Aside;
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
	bool isHeld = false;
	for (const Rival &rival : target->rivalsNow(row->image))
	{
		if (rival.sameKey)
			return true;
		XidVersion version = versionOf(region_, rival.xmin);
		isHeld |= Claim{Version{version.hlc, version.region}, rival.pk} > claim;
	}
	return !isHeld;
}

void Apply::truncate(const ChangeEvent &event)
{
	Target &target = targets_.byName(event.table);
	const Version version{event.hlc, event.region};
	// First the mark: other appliers that insert from now on find it. Who wrote before has not seen the truncation, and
	// may be stamped below it. New writes of users are stamped above it.
	rememberTruncation(target.relation);
	target.waitForWriters();
	// Tried again, what has its very version is older, too: its transaction's later events wait for it.
	target.removeOlder(version, from_ == From::Parked);
	aside_.share(target.root);
	for (const auto &[row, pk] : aside_.upTo(target.root, version)) // its transaction's later events are not there yet
		if (target.relation == target.root || targets_.byOid(target.root).partitionFor(pk) == target.relation)
			aside_.drop(row);
	aside_.freed(target.root, nullptr);
}

void Apply::log(Target &target, const ChangeEvent &event, const std::string &pkText, const LocalState &local,
				const Decision &decision, const std::optional<Image> &localImage)
{
	using spi::Value;
	struct Side
	{
		Value eventId, region, hlc, image;
	};
	auto imageText = [](const std::optional<Image> &image) -> Value
	{ return image ? Value(encodeImage(*image)) : std::nullopt; };
	Side incoming{toText(event.id), event.region, toText(event.hlc), imageText(event.after)};
	Side here{std::nullopt, std::nullopt, std::nullopt, imageText(localImage)};
	const Version &version = local.version;
	if (local.kind != LocalKind::Absent)
	{
		here.region = version.region;
		here.hlc = toText(version.hlc);
	}
	const Side &a = decision.incomingWins ? here : incoming;
	const Side &b = decision.incomingWins ? incoming : here;
	Uuid id = conflictId(event.table, target.heldKeyName(pkText), event.hlc, event.region, version.hlc, version.region);
	spi::execute("INSERT INTO mrsync.conflict_log (conflict_id, conflict_type, table_name, row_pk, event_id_a, event_id_b, "
				 "region_a, region_b, hlc_a, hlc_b, image_a, image_b, result, resolution_strategy, winner_region, "
				 "winner_event_id) VALUES ($1::uuid, $2, $3, $4::jsonb, $5::uuid, $6::uuid, $7, $8, $9::mrsync.hlc, "
				 "$10::mrsync.hlc, $11::jsonb, $12::jsonb, $12::jsonb, 'last_writer_wins', $8, $6::uuid) "
				 // A losing transaction stands there with its last event on the row, whichever of them were in conflict here.
				 "ON CONFLICT (conflict_id) DO UPDATE SET event_id_a = excluded.event_id_a, image_a = excluded.image_a "
				 "WHERE conflict_log.event_id_a < excluded.event_id_a",
				 {toText(id), toText(decision.conflict), event.table, pkText, a.eventId, b.eventId, a.region, b.region,
				  a.hlc, b.hlc, a.image, b.image});
}

// Two rows that exclude each other: side a is the one that is held aside.
void Apply::logExclusion(Target &target, const ChangeEvent &event, const std::string &pkText, const Rival &rival,
						 const Version &rivalVersion, ConflictType type)
{
	using spi::Value;
	struct Side
	{
		Value eventId;
		std::string pk, name;
		Version version;
		std::string image;
	};
	Side incoming{from_ == From::Aside ? std::nullopt : Value(toText(event.id)), pkText, target.heldKeyName(pkText),
				  Version{event.hlc, event.region}, encodeImage(*event.after)};
	Side here{std::nullopt, rival.pk, rival.keyName, rivalVersion, encodeImage(rival.image)};
	bool incomingWins = here.version < incoming.version;
	const Side &a = incomingWins ? here : incoming;
	const Side &b = incomingWins ? incoming : here;
	Uuid id = conflictId(event.table, a.name + '\n' + b.name, a.version.hlc, a.version.region, b.version.hlc, b.version.region);
	spi::execute("INSERT INTO mrsync.conflict_log (conflict_id, conflict_type, table_name, row_pk, event_id_a, event_id_b, "
				 "region_a, region_b, hlc_a, hlc_b, image_a, image_b, result, resolution_strategy, winner_region, "
				 "winner_event_id, constraint_name, other_pk) VALUES ($1::uuid, $2, $3, $4::jsonb, $5::uuid, $6::uuid, $7, $8, "
				 "$9::mrsync.hlc, $10::mrsync.hlc, $11::jsonb, $12::jsonb, $12::jsonb, 'last_writer_wins', $8, $6::uuid, $13, "
				 "$14::jsonb) ON CONFLICT (conflict_id) DO NOTHING",
				 {toText(id), toText(type), event.table, a.pk, a.eventId, b.eventId, a.version.region, b.version.region,
				  toText(a.version.hlc), toText(b.version.hlc), a.image, b.image, rival.constraint, b.pk});
}

} // namespace mrsync
