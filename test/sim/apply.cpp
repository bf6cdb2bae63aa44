// Deciding and writing, in the order of I12.
#include "sim/apply.h"

#include "sim/region.h"

#include <algorithm>

namespace mrsync::sim
{

// For those who write the transaction's rows; for a truncation, besides, for everybody who wrote before its stamp was
// in the clock.
bool Apply::mustWait(const std::vector<ChangeEvent> &events, const std::vector<uint64_t> &writers) const
{
	for (const ChangeEvent &event : events)
	{
		if (event.operation == Operation::Ddl || event.table != kTable)
			continue;
		if (event.operation != Operation::Truncate)
		{
			int key = keyOf(*event.pk);
			if (region_.isLocked(key))
				return true;
			if (event.after && region_.isInTheWay(key, contentOf(*event.after)))
				return true;
			continue;
		}
		for (uint64_t writer : writers)
			if (region_.isOpen(writer))
				return true;
		for (const auto &[key, content] : region_.database().store.rows(LocalKind::Live))
			if (region_.isLocked(key))
				return true;
	}
	return false;
}

void Apply::transaction(int source, const std::vector<ChangeEvent> &events, const WriterPtr &writer)
{
	std::vector<Parked> &parked = region_.database().parked;
	const size_t before = parked.size();
	for (const ChangeEvent &one : events)
	{
		if (one.operation == Operation::Ddl)
			continue; // has no effect on rows
		if (region_.wasApplied(one.id) && !context_.breaks(Break::NoDedup))
			continue;
		bool waits = std::any_of(parked.begin() + static_cast<std::ptrdiff_t>(before), parked.end(),
		                         [&](const Parked &earlier) { return waitsFor(one, earlier.events.front()); });
		if (waits || !event(one, writer))
			parked.push_back({source, {one}, writer, context_.scheduler.now() + kSecond, true});
		region_.recordApplied(one.id);
	}
	region_.releaseAside();
}

// Of one transaction: they share a version, so their order decides.
bool Apply::waitsFor(const ChangeEvent &event, const ChangeEvent &parked)
{
	return !event.pk || !parked.pk || keyOf(*event.pk) == keyOf(*parked.pk);
}

bool Apply::again(const ChangeEvent &one, const WriterPtr &writer)
{
	for (const Parked &earlier : region_.database().parked)
		if (earlier.isRest && earlier.writer == writer && earlier.events.front().id < one.id && waitsFor(one, earlier.events.front()))
			return false;
	return event(one, writer);
}

void Apply::resent(const std::vector<ChangeEvent> &events)
{
	for (const ChangeEvent &one : events)
	{
		if (one.operation == Operation::Ddl)
			continue;
		// All regions were past its stamp when something was pruned here: whatever there is now, or is not, has come after it.
		if (one.hlc <= region_.database().store.prunedUpTo() && !context_.breaks(Break::ResentPruned))
			continue;
		const Version version{one.hlc, one.region};
		const Transaction &real = context_.history.find(version);
		event(one, std::make_shared<const Writer>(Writer{version, real.sequence, real.seen, false}));
	}
	region_.releaseAside();
}

bool Apply::event(const ChangeEvent &event, const WriterPtr &writer)
{
	return event.operation == Operation::Truncate ? truncation(writer) : row(event, writer);
}

// Has the one seen what the other wrote?
bool Apply::saw(const Writer &later, const Writer &earlier) const
{
	auto entry = later.seen.find(earlier.version.region);
	if (entry == later.seen.end())
		return false;
	if (context_.breaks(Break::SeenByHlc))
		return entry->second.hlc >= earlier.version.hlc;
	return entry->second.sequence >= earlier.sequence;
}

// What was pruned would not have mattered: neither who wins, nor whether it is a conflict.
void Apply::requireUnforgotten(int key, const Writer &incoming) const
{
	for (const WriterPtr &writer : region_.database().store.forgotten(key))
	{
		std::string what = region_.name() + ": row " + std::to_string(key) + ": " + incoming.version.region + " " +
		                   toText(incoming.version.hlc) + " meets a deletion that was forgotten, of " + writer->version.region + " " +
		                   toText(writer->version.hlc);
		if (incoming.version < writer->version)
			throw CheckFailed("W", what + ", and is older");
		// A region that was set back writes without having seen again what it had acknowledged. Whether that is a conflict
		// can be told only there.
		bool mayNotHaveSeen = !incoming.isExact || context_.history.find(incoming.version).relapsed;
		if (incoming.version.region != writer->version.region && !saw(incoming, *writer) && !mayNotHaveSeen)
			throw CheckFailed("I3", what + ", and had not seen it");
	}
}

Decision Apply::decide(int key, const std::optional<Row> &row, Operation op, const WriterPtr &by) const
{
	const Writer &incoming = *by;
	requireUnforgotten(key, incoming);
	LocalState local;
	if (row)
	{
		static const Writer nobody;
		const Writer &writer = row->known ? *row->known : nobody;
		local.kind = row->kind;
		local.version = writer.version;
		local.sameTransaction = row->writer == by;
		// A transaction that truncated, and wrote the row again: sent again, the two come in any order.
		if (!incoming.isExact && op == Operation::Insert && row->kind == LocalKind::Tombstone && writer.version == incoming.version)
			local.sameTransaction = true;
		if (!context_.breaks(Break::GuessForgotten))
			local.atMost = row->atMost;
		local.seenByIncoming = !row->known || saw(incoming, writer);
		local.sawIncoming = !context_.breaks(Break::OneSidedSeen) && saw(writer, incoming);
	}
	Decision decision = resolve(local, op, incoming.version);
	bool tie = row && local.version.hlc == incoming.version.hlc;
	if (context_.breaks(Break::ArrivalWins) || (context_.breaks(Break::NoTiebreak) && tie))
	{
		LocalState older = local;
		older.version = {};
		older.atMost.reset();
		decision = resolve(older, op, incoming.version);
	}
	if (row && !row->atMost && !local.sameTransaction)
		context_.history.verdict(key, local.version, incoming.version, decision, incoming.isExact && row->writer->isExact);
	return decision;
}

bool Apply::row(const ChangeEvent &event, const WriterPtr &writer)
{
	Store &store = region_.database().store;
	int key = keyOf(*event.pk);
	switch (decide(key, store.find(key), event.operation, writer).action)
	{
	case Action::Insert:
	case Action::Overwrite:
		store.place(key, contentOf(*event.after), writer, region_.rule());
		break;
	case Action::Delete:
	case Action::RememberDelete:
		remove(key, writer);
		break;
	case Action::Keep:
		break;
	case Action::Undecided:
		if (store.isKnown(key))
			throw CheckFailed("I1", region_.name() + ": undecided, though every version is known");
		return false;
	}
	return true;
}

bool Apply::truncation(const WriterPtr &writer)
{
	Store &store = region_.database().store;
	std::vector<int> older;
	for (LocalKind kind : {LocalKind::Live, LocalKind::Aside})
		for (const auto &[key, content] : store.rows(kind))
		{
			Decision decision = decide(key, store.find(key), Operation::Truncate, writer);
			if (decision.action == Action::Undecided)
				return false;
			if (decision.incomingWins)
				older.push_back(key);
		}
	for (int key : older)
		remove(key, writer);
	if (!context_.breaks(Break::NoTombstone))
		store.rememberTruncation(writer);
	return true;
}

void Apply::remove(int key, const WriterPtr &writer)
{
	if (context_.breaks(Break::NoTombstone))
		region_.database().store.forget(key);
	else
		region_.database().store.remove(key, writer);
}

} // namespace mrsync::sim
