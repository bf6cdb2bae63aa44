// Bookkeeping on both ends of a topic. Every verdict here is a pure function of what came before: the simulation
// (test/sim) runs the same code that the workers run.
#include "core/ledger.h"

#include "core/mutant.h"

namespace mrsync
{

ChangeEvent fence(const std::string &region, int64_t incarnation, int64_t committedAt)
{
	ChangeEvent event;
	event.region = region;
	event.table = kFenceTable;
	event.operation = Operation::Insert;
	event.pk = Image{{"region_id", region}};
	event.after = event.pk;
	event.committedAt = committedAt;
	event.hlc = Hlc{committedAt};
	event.tx.incarnation = incarnation;
	event.tx.position = 2; // no transaction begins with it; and 0 is below every sequence
	event.tx.last = true;
	event.id = eventId(event.hlc, region, 0, static_cast<uint64_t>(incarnation));
	return event;
}

void AckLedger::commit(uint64_t endLsn, uint64_t sequence)
{
	Confirmed at{endLsn, sequence};
	// Nothing was sent since the boundary before: the two are acknowledged together. Without this an idle region
	// whose WAL is all other databases' would collect a boundary per commit while Kafka is down.
	if (!boundaries_.empty() && boundaries_.back().sent == sent_)
		boundaries_.back().at = at;
	else
		boundaries_.push_back({sent_, at});
}

AckLedger::Confirmed AckLedger::confirm()
{
	while (!boundaries_.empty())
	{
		const Boundary &oldest = boundaries_.front();
		if ((acked_[Data] < oldest.sent[Data] || acked_[Control] < oldest.sent[Control]) && !mutated("early_confirm"))
			break;
		confirmed_ = oldest.at;
		boundaries_.pop_front();
	}
	return confirmed_;
}

// Incarnations. Each start of a source's extractor is one, with a number above all before; every record says which one
// sent it. Nothing has to stand in a topic between two of them (a fence does after each start of the server, for the region's
// own sake: worker/set_back.h):
// (1) What an incarnation sends is the region's transactions in order and whole, from a boundary on. Of that, the topic
//     holds a beginning, in its order and without holes (idempotent producer): a dead one's last records may land late,
//     or never.
// (2) Everything before that boundary had been acknowledged to lower incarnations while they lived. So it stands in the
//     topic before the first record of this one; and at its place none of it was behind a record of a higher one than
//     the one that sent it, for those had not begun.
// So a reader that, from its first record of an incarnation on, ignores all of lower ones, has read everything before
// the boundary by then (2), and reads everything behind it from this incarnation, or from a higher one for which the
// same is true (1). What lower ones land late is a repetition of that, or its unfinished beginning.
// Before its first record nobody is to be kept off: what lands late goes on, in order, where its incarnation was.
// A reader that starts again at its position knows the incarnation of what it applied last. Were a record of a higher
// one before the position, that transaction would have been ignored.
SequenceChain::Verdict SequenceChain::judge(const Envelope &tx)
{
	if (tx.incarnation < incarnation_ && !mutated("dead_speak"))
		return Verdict::Stale;
	incarnation_ = tx.incarnation;
	if (tx.sequence <= sequence_)
		return Verdict::Duplicate;
	// A region's first transaction has no predecessor (0). A topic that begins with another one has lost its head.
	if (tx.previous > sequence_ && !mutated("skip_gaps"))
		return Verdict::Gap;
	return Verdict::Next;
}

// Which records of a topic can be seen here, and why each verdict is the safe one:
// - Of an incarnation below the newest: a dead producer's late batch. All of it comes again. Ignore.
// - Position 1 of anything but the transaction being gathered: Begin, even of a transaction gathered to its end
//   before. To gather twice is harmless, for SequenceChain knows what was applied; to ignore what a reader came back
//   for would lose it. What was gathered and never ended is dropped: a newer incarnation sends it again, and if it does
//   not, the chain reports the gap, since that transaction was never applied.
// - The transaction being gathered, at or before the last position kept: a repetition. Ignore. One further on:
//   Continue. Any other: Broken.
// - Position above 1 of another transaction, so its beginning is not here. If the transaction is the one that was
//   completed last, or older, this is the tail of a repetition: Ignore. Otherwise a record is missing: Broken. A newer
//   incarnation is no excuse: a producer starts with whole transactions.
// A reader that goes back in the topic without a new incarnation starts with a new gate.
TransactionGate::Verdict TransactionGate::judge(const Envelope &tx)
{
	if (tx.incarnation < incarnation_ && !mutated("dead_speak"))
		return Verdict::Ignore;
	if (tx.position == 0)
		return Verdict::Broken;

	bool gathering = position_ != 0 && tx.incarnation == incarnation_ && tx.sequence == sequence_;
	if (gathering && tx.position <= position_)
		return Verdict::Ignore;
	if (gathering ? tx.position != position_ + 1 : tx.position != 1)
		return !gathering && tx.sequence <= completed_ ? Verdict::Ignore : Verdict::Broken;

	incarnation_ = tx.incarnation;
	sequence_ = tx.sequence;
	position_ = tx.last ? 0 : tx.position;
	if (tx.last)
		completed_ = tx.sequence;
	return gathering ? Verdict::Continue : Verdict::Begin;
}

} // namespace mrsync
