#include "worker/apply.h"

#include "core/codec.h"
#include "core/gap.h"
#include "core/ids.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/spi.h"
#include "worker/tombstones.h"

namespace mrsync
{

namespace
{

// A key that comes and goes under our hands does so a few times, not for ever.
constexpr int kMostAttempts = 20;

} // namespace

void Apply::event(const ChangeEvent &event, const SeenVector &seen, bool retried)
{
	retried_ = retried;
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

void Apply::relate(LocalState &local, const Target &target, const ChangeEvent &event, const SeenVector &seen) const
{
	const Version &version = local.version;
	const Version incoming{event.hlc, event.region};
	if (retried_ && version == incoming)
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
	const bool resent = event.tx.resent.has_value();
	if (!event.pk || (event.operation == Operation::Delete ? !event.before && !resent : !event.after))
		throw PgError(ERRCODE_DATA_CORRUPTED, "the event has no key or no image");
	Target *target = &targets_.byName(event.table);
	if (target->isPartitioned)
		target = &targets_.byOid(target->partitionFor(*event.pk));
	const Version incoming{event.hlc, event.region};
	const std::string pkText = encodeImage(*event.pk);

	for (int attempt = 1;; ++attempt)
	{
		if (attempt > kMostAttempts)
			throw PgError(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
						  "a trigger of " + target->name + " kept a row from being inserted");
		LocalState local;
		HeldRow held = target->hold(*event.pk);
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
		else if (event.operation != Operation::Insert || retried_ || target->hasInsertTriggers)
			// An INSERT looks afterwards. Before, too, where it may fail for ever but for a deletion since, and where a
			// trigger would have done its work already for a row that is taken back.
			local = deleted(*target, event, seen, pkText);
		if (local.kind == LocalKind::Absent && event.operation != Operation::Insert)
			local.seenByIncoming = resent || mayBeOnItsWay(event, seen);

		Decision decision = resolve(local, event.operation, incoming);
		std::optional<Image> localImage;
		if (decision.conflict != ConflictType::None && held.found)
			localImage = target->heldImage();

		switch (decision.action)
		{
		case Action::Insert:
			if (!target->insert(*event.after))
				continue; // somebody was faster: there is a row now
			{
				// The key is ours from here on. Whoever deleted it before has committed by now: look once more.
				LocalState before = deleted(*target, event, seen, pkText);
				if (before.kind == LocalKind::Tombstone && !before.sameTransaction)
				{
					decision = resolve(before, event.operation, incoming);
					local = before;
					if (decision.action != Action::Insert)
						target->takeBack(target->hold(*event.pk));
				}
			}
			break;
		case Action::Overwrite:
			target->update(held, *event.after);
			break;
		case Action::Delete:
			target->remove(held);
			break;
		case Action::RememberDelete:
			rememberDeletion(*target, pkText);
			if (target->hold(*event.pk).found)
				continue; // inserted meanwhile, by somebody who did not see this deletion
			break;
		case Action::Keep:
			break;
		}
		if (decision.conflict != ConflictType::None)
			log(*target, event, pkText, local, decision, localImage);
		return;
	}
}

void Apply::truncate(const ChangeEvent &event)
{
	Target &target = targets_.byName(event.table);
	if (event.tx.resent && wasTruncated(region_, target.relation, Version{event.hlc, event.region}))
		return;
	// First the mark: other appliers that insert from now on find it. Who wrote before has not seen the truncation, and
	// may be stamped below it. New writes of users are stamped above it.
	rememberTruncation(target.relation);
	target.waitForWriters();
	target.removeOlder(event.hlc, event.region);
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

} // namespace mrsync
