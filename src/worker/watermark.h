// The two ends of a watermark (core/watermark.h): what this region promises with its heartbeats, and what holds here of the
// promises of a peer.
#pragma once

#include "core/watermark.h"
#include "worker/worker.h"

#include <optional>
#include <string>

namespace mrsync
{

// In the coordinator. A candidate is taken, and settles when the extractor has decoded what was committed by then: now the
// sequence is known that it speaks of.
class OwnWatermark
{
public:
	explicit OwnWatermark(RegionShared *region) : region_(region) {}

	// The next candidate, unless one is on its way. Raises the clock to physical time: that of an idle region does not move by
	// itself, and what is stamped from now on is above it.
	void take();
	// True: the candidate has settled. While it has not, the extractor sets the coordinator's latch when it may.
	bool settle();

	// The pair that heartbeats carry. Zero: none has settled yet.
	Hlc value() const { return value_; }
	uint64_t sequence() const { return sequence_; }

	// Whether something was produced that the last candidate to settle may not speak of.
	bool isBehind() const;

private:
	struct Candidate
	{
		Hlc watermark;
		uint64_t committedUpTo; // WAL
		uint64_t produced;		// sequence, at that time
	};
	uint64_t produced() const { return region_->workers[kExtractorPlace].sequence.load(); }

	RegionShared *region_;
	std::optional<Candidate> candidate_;
	Hlc value_;
	uint64_t sequence_ = 0;
	uint64_t covered_ = 0; // sequence: up to here the watermark speaks of everything
};

// In the applier of a link.
class LinkWatermark
{
public:
	explicit LinkWatermark(Worker &worker);

	// What was acknowledged before. Inside a transaction.
	void load();
	// Everything up to this sequence of the source is committed here, or parked. Outside of a transaction. Nearly always a few
	// comparisons.
	void advance(uint64_t applied);
	// Zero: none.
	Hlc value() const { return value_; }

private:
	void lookForParked();

	Worker &worker_;
	PeerShared *peer_;
	Promises promises_;
	Hlc offered_; // the last promise taken
	Hlc value_;
	// An event that is parked holds it down. Only this applier parks events of its source; where it has parked none and found
	// none, there is none.
	bool mayBeParked_ = true;
	uint64_t parkedCount_ = 0;
	std::optional<Hlc> oldestParked_;
	Hlc lookedFor_;
	TimestampTz lookedAt_ = 0;
};

} // namespace mrsync
