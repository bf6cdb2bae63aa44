// Apply: what it writes into the conflict log (mrsync.conflict_log).
#include "worker/apply.h"

#include "core/codec.h"
#include "core/ids.h"
#include "core/mutant.h"
#include "pg/spi.h"
#include "worker/conflict_reports.h"

#include <algorithm>

namespace mrsync
{

constexpr size_t kMostSides = 32; // of the entries of one row, that an event is compared with

// SQL: makes an entry, or joins it to what is known of the conflict; then the other regions are to be told.
static std::string entryStatement(const std::string &values)
{
	return "WITH changed AS (INSERT INTO mrsync.conflict_log AS c (conflict_id, conflict_type, table_name, row_pk, event_id_a, event_id_b, region_a, region_b, "
		   "hlc_a, hlc_b, image_a, image_b, result, resolution_strategy, winner_region, winner_event_id, constraint_name, other_pk, rule_activation, given_up) VALUES (" +
		   values + ")" + joinEntries() + " RETURNING c.conflict_id) INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM changed";
}

// SQL: of the entries that the statement changes, the other regions are to be told.
static std::string untold(const std::string &update)
{
	return "WITH changed AS (" + update + " RETURNING c.conflict_id) INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM changed";
}

// What the rule makes of the event and what it met, of these two alone: so it is the same wherever they meet, whatever else the
// row holds. here: becomes the row as that other one had it.
Apply::Merged Apply::mergedPair(Target &target, const ChangeEvent &event, const std::string &pkText, const Version &other,
								std::optional<Image> &here)
{
	const HistoryEvent lost{{event.hlc, event.region}, target.merger->normal(event.before), target.merger->normal(event.after)};
	return mergedPair(target, pkText, lost.version, other, &lost, here);
}

// lost: the incoming one, should it be in no history since it has lost to a deletion.
Apply::Merged Apply::mergedPair(Target &target, const std::string &pkText, const Version &incoming, const Version &other, const HistoryEvent *lost,
								std::optional<Image> &here)
{
	Merger &merger = *target.merger;
	const MergeRule &rule = merger.rules().at(std::max(incoming, other).hlc);
	if (!rule.merges())
		return Merged{kLastWriter, std::nullopt, rule.from};
	History pair;
	bool hasIncoming = false, hasOther = false;
	const History &history = target.history(pkText, incoming);
	for (const HistoryEvent &step : history.events())
		if (step.version == incoming || step.version == other)
		{
			if (step.version == other)
				here = step.after;
			(step.version == other ? hasOther : hasIncoming) = true;
			pair.insert(step);
		}
	if (!hasOther)
		return Merged{kLastWriter, std::nullopt, Hlc(), false}; // it is from before histories were kept
	if (!hasIncoming && lost)
		pair.insert(*lost);
	const bool isWhole = hasIncoming && history.baseVersion() != incoming && history.baseVersion() != other;
	const uint64_t before = merger.givenUp();
	RowState result = pair.fold(merger.rules(), merger);
	return Merged{rule.calls() ? "merge_function" : kLastChange, std::move(result), rule.from, isWhole, merger.givenUp() - before};
}

void Apply::logGivenUp(Oid root, const std::string &table, const Image &pk)
{
	Target &target = leafOf(root, pk);
	const std::string pkText = encodeImage(pk);
	target.merger->row(pkText, target.keyName(pk), Version{Hlc{INT64_MAX}, ""});
	static spi::Statement *const entries =
		new spi::Statement("SELECT conflict_id, hlc_a::bigint, region_a, hlc_b::bigint, region_b FROM mrsync.conflict_log c WHERE jsonb_hash_extended(c.row_pk, 0) = "
						   "jsonb_hash_extended($1::jsonb, 0) AND row_pk = $1::jsonb AND table_name = $2 AND other_pk IS NULL AND resolution_strategy = 'merge_function'");
	for (const spi::Row &row : entries->query({pkText, table}))
	{
		std::optional<Image> image;
		const Merged merged = mergedPair(target, pkText, Version{Hlc{std::stoll(*row[3])}, *row[4]}, Version{Hlc{std::stoll(*row[1])}, *row[2]}, nullptr, image);
		if (merged.isKnown)
			spi::execute(untold("UPDATE mrsync.conflict_log c SET result = $2::jsonb, given_up = $3::integer WHERE conflict_id = $1::uuid AND given_up < $3::integer").c_str(),
						 {row[0], merged.result ? spi::Value(encodeImage(*merged.result)) : std::nullopt, std::to_string(merged.givenUp)});
	}
}

// An event and what it has met, or would have met if that were still the row's version. localId: of the latter's event, where it is known.
void Apply::logPair(Target &target, const ChangeEvent &event, const std::string &pkText, const LocalState &local,
					const Decision &decision, const spi::Value &localId, const std::optional<Image> &localImage, const Merged &merged)
{
	using spi::Value;
	struct Side
	{
		Value eventId, region, hlc, image;
	};
	// Where there are rules, found and received images are to be the same: without what is generated.
	auto imageText = [&](const std::optional<Image> &image) -> Value
	{ return !image ? std::nullopt : Value(encodeImage(target.merger ? target.merger->normal(*image) : *image)); };
	Side incoming{toText(event.id), event.region, toText(event.hlc), imageText(event.after)};
	Side here{localId, std::nullopt, std::nullopt, imageText(localImage)};
	const Version &version = local.version;
	if (local.kind != LocalKind::Absent)
	{
		here.region = version.region;
		here.hlc = toText(version.hlc);
	}
	const Side &a = decision.incomingWins ? here : incoming;
	const Side &b = decision.incomingWins ? incoming : here;
	Uuid id = conflictId(event.table, target.heldKeyName(pkText), event.hlc, event.region, version.hlc, version.region);
	static spi::Statement *const statement = new spi::Statement(
		entryStatement("$1::uuid, $2, $3, $4::jsonb, $5::uuid, $6::uuid, $7, $8, $9::mrsync.hlc, $10::mrsync.hlc, $11::jsonb, $12::jsonb, $13::jsonb, $14, "
					   "$8, $6::uuid, NULL, NULL, $15::mrsync.hlc, $16::integer"));
	statement->execute({toText(id), toText(decision.conflict), event.table, pkText, a.eventId, b.eventId, a.region, b.region, a.hlc, b.hlc, a.image, b.image,
						merged.isMerge() ? imageText(merged.result) : b.image, merged.strategy,
						merged.since.value != 0 ? Value(toText(merged.since)) : std::nullopt, std::to_string(merged.givenUp)});
}

void Apply::log(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText, const LocalState &local,
				const Decision &decision, const std::optional<Image> &localImage)
{
	std::optional<Image> image = localImage;
	const Merged merged = target.merger ? mergedPair(target, event, pkText, local.version, image) : Merged();
	logPair(target, event, pkText, local, decision, std::nullopt, image, merged);
	if (!mutated("met_only"))
		logUnmet(target, event, seen, pkText, local.version);
}

// What the row's version has replaced, or what has lost to it, may be in conflict with the event, too: it is looked for in the log, among
// what events to come may not have seen. Those that have not come here themselves are left, since it is not known what they had seen. A
// row that has many already is left with those that meet, so that a hot row does not get an entry for each pair of its writes.
void Apply::logUnmet(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText, const Version &met)
{
	if (!target.keyIsText())
		return; // entries are found by the text of their key
	auto side = [](const std::string &of)
	{
		return "SELECT hlc_" + of + " AS hlc, region_" + of + " AS region, image_" + of + " AS image, event_id_" + of + " AS id, table_name FROM mrsync.conflict_log WHERE jsonb_hash_extended(" +
			   (of == "a" ? "row_pk" : "coalesce(other_pk, row_pk)") + ", 0) = jsonb_hash_extended($1::jsonb, 0) AND hlc_" + of +
			   " OPERATOR(mrsync.>) $2::mrsync.hlc AND row_pk = $1::jsonb AND other_pk IS NULL";
	};
	static spi::Statement *const logged = new spi::Statement("SELECT hlc::bigint, region, image, id FROM ((" + side("a") + " LIMIT $4::bigint) UNION ALL (" + side("b") +
															 " LIMIT $4::bigint)) x WHERE table_name = $3 ORDER BY id DESC NULLS LAST, image DESC NULLS LAST");
	const Version incoming{event.hlc, event.region};
	std::map<Version, spi::Row> others;
	for (spi::Row &row : logged->query({pkText, toText(Hlc{region_->prunedUpTo.load()}), event.table, std::to_string(kMostSides + 1)}))
		others.emplace(Version{Hlc{std::stoll(*row[0])}, *row[1]}, std::move(row));
	others.erase(met);
	others.erase(incoming);
	if (others.size() >= kMostSides)
		return;
	for (const auto &[version, row] : others)
	{
		LocalState other;
		other.kind = row[2] ? LocalKind::Live : LocalKind::Tombstone;
		other.version = version;
		relate(other, target, event, seen);
		const Decision decision = resolve(other, event.operation, incoming);
		if (decision.conflict == ConflictType::None || (version.region != region_->region && applied(version).empty()))
			continue;
		std::optional<Image> image;
		if (row[2])
			image = std::get<Image>(decodeImage(*row[2]));
		const Merged merged = target.merger ? mergedPair(target, event, pkText, version, image) : Merged();
		if (merged.isKnown)
			logPair(target, event, pkText, other, decision, row[3], image, merged);
	}
}

// A transaction stands in the log with its last event on the row, on either side and in every region. Where one of its events has
// met a deletion, or has deleted what was not there, nothing holds the key against users: the next one may meet a row. So it is not
// only the entry of log() that an event concerns.
void Apply::nameLast(Target &target, const ChangeEvent &event, const std::string &pkText, bool isLogged)
{
	const size_t slot = (target.heldKeyHash() ^ target.root) % logged_.size();
	const bool isKnown = logged_[slot] || from_ == From::Parked; // tried again, each event is in a local transaction of its own
	const std::optional<Image> after = event.after && target.merger ? target.merger->normal(event.after) : event.after;
	const spi::Value image = after ? spi::Value(encodeImage(*after)) : std::nullopt;
	auto ofSide = [](const char *side, const char *key) // and of an earlier event of the same version
	{
		return " WHERE jsonb_hash_extended(" + std::string(key) + ", 0) = jsonb_hash_extended($1::jsonb, 0) AND hlc_" + side +
			   " OPERATOR(mrsync.=) $3::mrsync.hlc AND row_pk = $1::jsonb AND table_name = $2 AND region_" + side + " = $4 AND event_id_" + side +
			   " < $5::uuid AND other_pk IS NULL";
	};
	const spi::Value inserts = event.operation == Operation::Insert ? "t" : "f";
	static spi::Statement *const lost = new spi::Statement(untold("UPDATE mrsync.conflict_log c SET event_id_a = $5::uuid, image_a = $6::jsonb, conflict_type = " +
																  conflictTypeBy("$6", "c.image_b", "($7::boolean OR c.conflict_type = 'insert_exists')") + ofSide("a", "c.row_pk")));
	static spi::Statement *const won =
		new spi::Statement("SELECT conflict_id, hlc_a::bigint, region_a FROM mrsync.conflict_log c" + ofSide("b", "coalesce(c.other_pk, c.row_pk)"));
	static spi::Statement *const renamed =
		new spi::Statement(untold("UPDATE mrsync.conflict_log c SET event_id_b = $4::uuid, winner_event_id = $4::uuid, image_b = $5::jsonb, result = $2::jsonb, given_up = "
								  "$3::integer, conflict_type = " +
								  conflictTypeBy("c.image_a", "$5", "($6::boolean OR c.conflict_type = 'insert_exists')") + " WHERE conflict_id = $1::uuid"));
	if (isKnown && !mutated("first_named"))
		lost->execute({pkText, event.table, toText(event.hlc), event.region, toText(event.id), image, inserts});
	if (isKnown)
		for (const spi::Row &row : won->query({pkText, event.table, toText(event.hlc), event.region, toText(event.id)}))
		{
			std::optional<Image> other;
			Merged merged;
			if (target.merger)
				merged = mergedPair(target, event, pkText, row[1] ? Version{Hlc{std::stoll(*row[1])}, row[2].value_or("")} : Version{}, other);
			const spi::Value result = !merged.isMerge() ? image : merged.result ? spi::Value(encodeImage(*merged.result)) : std::nullopt;
			renamed->execute({row[0], result, std::to_string(merged.givenUp), toText(event.id), image, inserts});
		}
	if (isLogged)
		logged_[slot] = hasLogged_ = true;
}

// Two rows that exclude each other: side a is the one that is held aside.
void Apply::logExclusion(Target &target, const ChangeEvent &event, const std::string &pkText, const Rival &rival,
						 const Image &rivalImage, const Version &rivalVersion, ConflictType type)
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
	Side here{std::nullopt, rival.pk, rival.keyName, rivalVersion, encodeImage(rivalImage)};
	bool incomingWins = here.version < incoming.version;
	const Side &a = incomingWins ? here : incoming;
	const Side &b = incomingWins ? incoming : here;
	Uuid id = conflictId(event.table, a.name + '\n' + b.name, a.version.hlc, a.version.region, b.version.hlc, b.version.region);
	spi::execute(entryStatement("$1::uuid, $2, $3, $4::jsonb, $5::uuid, $6::uuid, $7, $8, $9::mrsync.hlc, $10::mrsync.hlc, $11::jsonb, $12::jsonb, $12::jsonb, "
								"'last_writer_wins', $8, $6::uuid, $13, $14::jsonb, NULL, 0")
					 .c_str(),
				 {toText(id), toText(type), event.table, a.pk, a.eventId, b.eventId, a.version.region, b.version.region,
				  toText(a.version.hlc), toText(b.version.hlc), a.image, b.image, rival.constraint, b.pk});
}

} // namespace mrsync
