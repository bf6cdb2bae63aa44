// Apply: rows of tables with merge rules: written as the fold of their events (core/fold.h).
#include "worker/apply.h"

#include "core/codec.h"
#include "core/mutant.h"
#include "pg/spi.h"
#include "worker/subtransaction.h"
#include "worker/tombstones.h"

#include <algorithm>

namespace mrsync
{

// What the event makes of a row that is below it. A merge is in order whenever the event is: the row is the fold of all before.
Image Apply::mergedRow(Target &target, const ChangeEvent &event, const RowState &state)
{
	Merger &merger = *target.merger;
	const HistoryEvent step{Version{event.hlc, event.region}, merger.normal(event.before), merger.normal(event.after)};
	if (event.tx.resent && event.tx.step == 0)
		return *step.after; // it is how the row was in the end
	target.requireColumns(*step.after);
	const RowState merged = foldStep(state, step, merger.rules().at(event.hlc), merger);
	if (!merger.shadows().empty())
		shadows_.compare(merger, encodeImage(*event.pk), state, step, merged);
	return merger.asTable(*merged);
}

// Puts the event into the history of its row; where others have come before it that are behind it, folds them anew.
// found: the row as it was, if there was one.
void Apply::remember(Target &target, const ChangeEvent &event, const std::string &pkText, const HeldRow &held, const RowState &found,
					 const LocalState &local, const Decision &decision)
{
	Merger &merger = *target.merger;
	const Version incoming{event.hlc, event.region};
	const RowState after = merger.normal(event.after);
	const bool isLate = decision.action == Action::Keep;
	if (isLate && local.kind != LocalKind::Live)
		return; // whatever it did, there is no row after it
	if (event.tx.resent && event.tx.step == 0)
	{
		// What is late, and not among the events that were sent before it, is from before there was a rule: all that came before it is gone.
		const bool isBase = !isLate || (!merger.rules().at(event.hlc).merges() && target.historyCount() > 0 &&
										target.history(pkText, incoming).baseVersion() < incoming && target.othersEvents(pkText, incoming).empty());
		if (isBase)
			target.addHistoryBase(pkText, incoming, std::nullopt, after);
		if (isBase && isLate)
			fold(target, pkText, held, *found, local.version, incoming);
		return;
	}
	if (isLate && merger.rules().at(event.hlc).merges() && event.hlc.value <= region_->prunedUpTo.load())
		throw forgotten(event);
	if (isLate && target.historyCount() == 0)
		return; // what is here is from before histories were kept: the last writer has won
	if (isLate && isRemembered(target, event, pkText))
		return;
	if (isLate && after)
		target.requireColumns(*after);
	target.addHistory(pkText, merger.normal(event.before), after);
	// after that: somebody may be forgetting what there was
	if ((found || local.kind == LocalKind::Tombstone) && !local.sameTransaction && target.historyCount() < 2)
		target.addHistoryBase(pkText, local.version, local.atMost, found);
	if (isLate && !mutated("late_unfolded"))
		fold(target, pkText, held, *found, local.version, incoming);
}

// What a resend has brought is in the history already when it comes as it was sent first; and the reverse. From there it comes step by
// step, from the topic a whole transaction at a time.
bool Apply::isRemembered(Target &target, const ChangeEvent &event, const std::string &pkText)
{
	const HistoryEvent is{Version{event.hlc, event.region}, target.merger->normal(event.before), target.merger->normal(event.after)};
	const std::vector<HistoryEvent> known = target.othersEvents(pkText, is.version);
	if (event.tx.resent)
		return known.size() >= event.tx.step;
	if (from_ == From::Parked) // some of its transaction's may have been applied then
		return std::find(known.begin(), known.end(), is) != known.end();
	return !known.empty();
}

// Folds the row held anew; it keeps its version.
void Apply::fold(Target &target, const std::string &pkText, const HeldRow &held, const Image &found, const Version &version, const Version &mine)
{
	Merger &merger = *target.merger;
	History *history = &target.history(pkText, mine);
	// What was deleted when no history was kept yet, or truncated with the whole table, is in no history.
	Deletion deletion = newestDeletion(region_, target, pkText);
	if (deletion.atMost && mine.hlc <= *deletion.atMost)
		throw undecided(target, mine, unknownUpTo(*deletion.atMost), held.xmin);
	std::optional<History> rest;
	if (deletion.mine)
		deletion.version = std::max(deletion.version, mine);
	if ((deletion.found || deletion.mine) && history->baseVersion() < deletion.version)
	{
		rest = *history;
		rest->deleted(deletion.version);
		history = &*rest;
	}
	const RowState &folded = history->fold(merger.rules(), merger);
	shadows_.compare(merger, pkText, *history, mine);
	if (!folded)
		throw PgError(ERRCODE_DATA_CORRUPTED, "the history of a row of " + target.name + " says that it was deleted, and it was not")
			.hint("Write the row again, in any region, as it should be; then mrsync.apply_error_discard().");
	const Image state = merger.asTable(*folded);
	if (state == found)
		return;
	target.update(held, state);
	target.keepVersion(version, pkText);
}

void Apply::shareFailures()
{
	for (const MergeFailure &failure : targets_.takeFailures())
		share(region_, failure);
}

Target &Apply::leafOf(Oid root, const Image &pk)
{
	Target &target = targets_.byOid(root);
	return target.isPartitioned ? targets_.byOid(target.partitionFor(pk)) : target;
}

// A partition may have been dropped, or detached, whose rows have histories.
bool Apply::hasLeaf(Oid root, const Image &pk)
{
	Target &target = targets_.byOid(root);
	if (!target.isPartitioned)
		return true;
	std::optional<PgError> failure = inSubtransaction([&] { target.partitionFor(pk); });
	if (failure && failure->sqlState() != ERRCODE_CHECK_VIOLATION) // anything else says nothing of partitions
		throw *failure;
	return !failure;
}

std::optional<Version> Apply::refold(Oid root, const Image &pk, const Version &mine)
{
	if (!hasLeaf(root, pk))
		return std::nullopt;
	Target &target = leafOf(root, pk);
	HeldRow held = target.hold(pk);
	if (!held.found || !target.merger)
		return std::nullopt;
	RowVersion version = target.version(region_, held);
	if (version.mine || version.atMost)
		return std::nullopt; // an event of this transaction has folded it; nothing is known of it
	Version kept{version.hlc, version.region};
	const std::string pkText = encodeImage(pk);
	target.merger->row(pkText, target.heldKeyName(pkText), mine);
	fold(target, pkText, held, target.merger->normal(target.heldImage()), kept, mine);
	return kept;
}

bool Apply::forgetHistory(Oid root, const Image &pk, Hlc upTo)
{
	if (hasLeaf(root, pk))
	{
		Target &target = leafOf(root, pk);
		return !target.merger || target.forgetHistory(pk, upTo);
	}
	// It may be attached again, and what is newer be met by a late event then.
	spi::execute("DELETE FROM mrsync.row_history h WHERE relation = $1::oid AND row_pk::text = $2 AND NOT EXISTS (SELECT FROM mrsync.row_history o CROSS JOIN "
				 "LATERAL mrsync.row_version(o.tableoid, o.ctid, o.xmin) v WHERE o.relation = h.relation AND o.key_hash = h.key_hash AND NOT o.is_base AND v.hlc "
				 "OPERATOR(mrsync.>) $3::mrsync.hlc)",
				 {std::to_string(root), encodeImage(pk), toText(upTo)});
	return true;
}

} // namespace mrsync
