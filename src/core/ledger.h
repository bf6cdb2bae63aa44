// Bookkeeping on both ends of a topic: what is acknowledged, and what comes next.
#pragma once

#include "core/event.h"

#include <array>
#include <cstdint>
#include <deque>

namespace mrsync
{

// A record that begins an incarnation in both topics, and is nothing else: to every reader one that it knows, of a higher
// incarnation. Behind it nothing older counts any more, so whoever sends it knows for certain what had been sent before.
// committedAt: now, by physical time.
constexpr char kFenceTable[] = "mrsync.fence";
ChangeEvent fence(const std::string &region, int64_t incarnation, int64_t committedAt);

// Producer side. Confirms a WAL position only when every record before it is acknowledged (I2, I8).
// A region writes two topics; acknowledgements are in order within a topic, not across the two.
class AckLedger
{
public:
	enum Topic
	{
		Data = 0,
		Control = 1
	};

	void sent(Topic topic) { ++sent_[topic]; }
	void acked(Topic topic) { ++acked_[topic]; }

	// A transaction is complete: once all that was sent so far is acknowledged, endLsn may be confirmed.
	// sequence: of the data transaction that ended here, or of the last one before.
	void commit(uint64_t endLsn, uint64_t sequence);

	struct Confirmed
	{
		uint64_t endLsn = 0;
		uint64_t sequence = 0;
	};
	// The newest boundary all of whose records are acknowledged; drops the boundaries up to it.
	Confirmed confirm();

	bool drained() const { return sent_ == acked_; }
	uint64_t inFlight() const { return (sent_[0] - acked_[0]) + (sent_[1] - acked_[1]); }

private:
	struct Boundary
	{
		std::array<uint64_t, 2> sent;
		Confirmed at;
	};
	std::array<uint64_t, 2> sent_{};
	std::array<uint64_t, 2> acked_{};
	std::deque<Boundary> boundaries_;
	Confirmed confirmed_;
};

// Consumer side: the chain of sequences of one source region. Why it needs no fence: ledger.cpp.
class SequenceChain
{
public:
	SequenceChain(int64_t incarnation, uint64_t sequence) : incarnation_(incarnation), sequence_(sequence) {}

	enum class Verdict
	{
		Next,	   // apply it
		Duplicate, // applied before: ignore
		Stale,	   // a dead producer's late record: ignore
		Gap,	   // something between is missing: stop, loudly
	};

	// Of a record, before its transaction is complete. Raises the incarnation. A record of a newer incarnation means
	// that an unfinished transaction of the older one will never be finished: the caller drops it.
	Verdict judge(const Envelope &tx);

	void applied(uint64_t sequence) { sequence_ = sequence; }
	int64_t incarnation() const { return incarnation_; }
	uint64_t sequence() const { return sequence_; } // of the last transaction applied; 0: none yet

private:
	int64_t incarnation_;
	uint64_t sequence_;
};

// Gathers records into whole transactions: position 1, 2, … last. Only the bookkeeping; the caller keeps the events.
class TransactionGate
{
public:
	enum class Verdict
	{
		Begin,	  // first record of a transaction: drop what was gathered before, then keep this one
		Continue, // keep it
		Ignore,	  // a repeated record of the transaction being gathered, or the tail of one whose beginning was ignored
		Broken,	  // a record is missing in the middle
	};
	Verdict judge(const Envelope &tx);

private:
	int64_t incarnation_ = 0;
	uint64_t sequence_ = 0;
	uint32_t position_ = 0; // of the last record kept; 0: outside of a transaction
	uint64_t completed_ = 0; // sequence of the last transaction gathered to its end
};

} // namespace mrsync
