// The incoming side, in the order that the design asks for: verify the chain, gather, wait for skew, adopt, wait for
// writers, decide, write, and all of it at once.
#include "sim/applier.h"

#include "sim/region.h"

#include "core/codec.h"

#include <algorithm>

namespace mrsync::sim
{

void Applier::start()
{
	const LinkPosition &position = region_.database().links[static_cast<size_t>(source_)];
	offset_ = position.offset;
	chain_ = SequenceChain(position.incarnation, position.sequence);
	gate_ = TransactionGate();
	gathered_.clear();
	complete_ = false;
	++life_;
	schedule(context_.upTo(context_.plan.pollInterval));
}

void Applier::pause(int64_t duration)
{
	pausedUntil_ = context_.scheduler.now() + duration;
}

void Applier::schedule(int64_t delay)
{
	context_.scheduler.after(delay, [this, life = life_] { poll(life); });
}

void Applier::poll(uint64_t life)
{
	if (life != life_ || !region_.isUp())
		return;
	int64_t wait = std::max(context_.kafka.unavailableFor(), pausedUntil_ - context_.scheduler.now());
	if (wait > 0)
	{
		schedule(wait);
		return;
	}
	const std::vector<std::string> &topic = context_.kafka.topic(source_);
	for (uint64_t budget = 1 + context_.random.below(20); budget > 0; --budget)
	{
		if (complete_ && tryApply() == Step::Waits)
		{
			bool skewed = region_.isBeyondSkew(gathered_.front().hlc);
			schedule(skewed ? kSecond : 1 + context_.upTo(10 * kMillisecond));
			return;
		}
		if (offset_ == topic.size())
			break;
		read(topic[offset_++]);
	}
	schedule(1 + context_.upTo(context_.plan.pollInterval));
}

void Applier::read(const std::string &record)
{
	auto decoded = decode(record);
	if (const auto *error = std::get_if<DecodeError>(&decoded))
		throw CheckFailed("codec", error->message + ": " + record);
	auto &event = std::get<ChangeEvent>(decoded);
	if (context_.breaks(Break::NoIncarnation))
		event.tx.incarnation = 1;

	switch (chain_.judge(event.tx))
	{
	case SequenceChain::Verdict::Next:
		break;
	case SequenceChain::Verdict::Duplicate:
		if (context_.breaks(Break::NoDedup))
			break;
		return;
	case SequenceChain::Verdict::Stale:
		return;
	case SequenceChain::Verdict::Gap:
		throw CheckFailed("I2", state() + ": a gap before " + record);
	}
	switch (gate_.judge(event.tx))
	{
	case TransactionGate::Verdict::Begin:
		gathered_.clear();
		break;
	case TransactionGate::Verdict::Continue:
		break;
	case TransactionGate::Verdict::Ignore:
		return;
	case TransactionGate::Verdict::Broken:
		throw CheckFailed("I2", state() + ": a record is missing before " + record);
	}
	complete_ = event.tx.last;
	adopted_ = false;
	gathered_.push_back(std::move(event));
}

Applier::Step Applier::tryApply()
{
	const ChangeEvent &first = gathered_.front();
	if (region_.isBeyondSkew(first.hlc))
		return Step::Waits;
	if (!adopted_)
	{
		adopted_ = true;
		if (!context_.breaks(Break::NoAdopt))
			region_.adopt(first.hlc);
		writers_ = region_.openTransactions();
	}
	if (!context_.breaks(Break::NoLock) && mustWait())
		return Step::Waits;

	auto writer = std::make_shared<const Writer>(Writer{{first.hlc, first.region}, first.tx.sequence, *first.tx.seen});
	for (const ChangeEvent &event : gathered_)
	{
		if (event.operation == Operation::Ddl)
			continue; // has no effect on rows
		if (region_.wasApplied(event.id) && !context_.breaks(Break::NoDedup))
			continue;
		if (event.operation == Operation::Truncate)
			applyTruncation(writer);
		else
			applyRow(event, writer);
		region_.recordApplied(event.id);
	}
	chain_.applied(first.tx.sequence);
	complete_ = false;

	Database &database = region_.database();
	database.links[static_cast<size_t>(source_)] = {offset_, chain_.incarnation(), chain_.sequence()};
	SeenEntry &seen = database.seen[first.region];
	seen.sequence = std::max(seen.sequence, first.tx.sequence);
	seen.hlc = std::max(seen.hlc, first.hlc);
	const Transaction &real = context_.history.find(source_, first.tx.sequence);
	for (size_t i = 0; i < database.past.size(); ++i)
		database.past[i] = std::max(database.past[i], real.past[i]);
	size_t ordinal = static_cast<size_t>(&real - context_.history.of(source_).data()) + 1;
	database.past[static_cast<size_t>(source_)] = std::max(database.past[static_cast<size_t>(source_)], ordinal);
	region_.commitApplied();
	return Step::Applied;
}

// For those who write the transaction's rows; for a truncation, besides, for everybody who wrote before its stamp was
// in the clock.
bool Applier::mustWait()
{
	for (const ChangeEvent &event : gathered_)
	{
		if (event.operation == Operation::Ddl)
			continue;
		if (event.operation != Operation::Truncate)
		{
			if (region_.isLocked(keyOf(*event.pk)))
				return true;
			continue;
		}
		for (uint64_t writer : writers_)
			if (region_.isOpen(writer))
				return true;
		for (const auto &[key, value] : region_.database().store.liveRows())
			if (region_.isLocked(key))
				return true;
	}
	return false;
}

Decision Applier::decide(int key, const std::optional<Row> &row, Operation op, const Writer &incoming) const
{
	LocalState local;
	if (row)
	{
		const Writer &writer = *row->writer;
		// Has the one seen what the other wrote?
		auto saw = [&](const Writer &later, const Writer &earlier)
		{
			auto entry = later.seen.find(earlier.version.region);
			if (entry == later.seen.end())
				return false;
			if (context_.breaks(Break::SeenByHlc))
				return entry->second.hlc >= earlier.version.hlc;
			return entry->second.sequence >= earlier.sequence;
		};
		local.kind = row->live ? LocalKind::Live : LocalKind::Tombstone;
		local.version = writer.version;
		local.sameTransaction = writer.version == incoming.version;
		local.seenByIncoming = saw(incoming, writer);
		local.sawIncoming = !context_.breaks(Break::OneSidedSeen) && saw(writer, incoming);
	}
	Decision decision = resolve(local, op, incoming.version);
	bool tie = row && local.version.hlc == incoming.version.hlc;
	if (context_.breaks(Break::ArrivalWins) || (context_.breaks(Break::NoTiebreak) && tie))
	{
		LocalState older = local;
		older.version = {};
		decision = resolve(older, op, incoming.version);
	}
	if (row && !local.sameTransaction)
		context_.history.verdict(key, local.version, incoming.version, decision);
	return decision;
}

void Applier::applyRow(const ChangeEvent &event, const WriterPtr &writer)
{
	Store &store = region_.database().store;
	int key = keyOf(*event.pk);
	switch (decide(key, store.find(key), event.operation, *writer).action)
	{
	case Action::Insert:
	case Action::Overwrite:
		store.put(key, valueOf(*event.after), writer);
		break;
	case Action::Delete:
	case Action::RememberDelete:
		remove(key, writer);
		break;
	case Action::Keep:
		break;
	}
}

void Applier::applyTruncation(const WriterPtr &writer)
{
	Store &store = region_.database().store;
	for (const auto &[key, value] : store.liveRows())
		if (decide(key, store.find(key), Operation::Truncate, *writer).action == Action::Delete)
			remove(key, writer);
	if (!context_.breaks(Break::NoTombstone))
		store.rememberTruncation(writer);
}

void Applier::remove(int key, const WriterPtr &writer)
{
	if (context_.breaks(Break::NoTombstone))
		region_.database().store.forget(key);
	else
		region_.database().store.remove(key, writer);
}

bool Applier::isDrained() const
{
	const std::vector<Transaction> &committed = context_.history.of(source_);
	return committed.empty() || chain_.sequence() == committed.back().sequence;
}

std::string Applier::state() const
{
	return region_.name() + ": the link from " + std::to_string(source_) + " at record " + std::to_string(offset_) +
	       " of " + std::to_string(context_.kafka.topic(source_).size()) + ", applied up to " +
	       std::to_string(chain_.sequence()) + (complete_ ? ", waiting to apply" : "");
}

} // namespace mrsync::sim
