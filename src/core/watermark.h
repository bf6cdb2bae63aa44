// Watermarks. A region's watermark W is a promise: every event of it that is still to come is stamped above W. Commit order
// is not stamp order, so to have seen a stamp does not mean to be past it; only a watermark says that.
//
//   source      watermarkOf: from the clock, and the bounds of those who are about to commit
//   receiver    Promises: a watermark counts here once everything that it does not speak of has been applied; belowParked
//   everybody   StablePoint: what every region is past, with the events of every region. What has been decided up to there
//               is decided everywhere, so the memory that the deciding needs can go (tombstones, overrides)
//
// Relied on by: wait_for, pruning (I1, I3).
#pragma once

#include "core/hlc.h"
#include "core/resolver.h"

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace mrsync
{

// clock: read first. lowestBound: of the bounds that were set when they were read, after it. Every bound is a clock reading
// from before its transaction took its stamp.
//
// Why whatever has not written its commit record by then is stamped at or above the lower of the two: its bound was either
// seen, then its stamp, taken from a clock at or above the bound, is above that; or it was not set yet, then the clock that
// it stamps from was read after ours, and clocks do not go back. (Cleared again it would have its commit record.) A stamp that
// is written down is that stamp; one that is the commit timestamp lies behind it, unless physical time steps back between
// the two. Subtransactions share the stamp of theirs.
Hlc watermarkOf(Hlc clock, std::optional<Hlc> lowestBound);

// What a source has promised, and how much of it holds at a receiver.
class Promises
{
public:
	// Every event of the source above this sequence is stamped above the watermark. A later promise never takes back.
	void add(uint64_t sequence, Hlc watermark);

	// The highest watermark of those who speak of nothing beyond this sequence; zero: none. Everything up to the sequence has
	// been applied, so there is nothing at or below the watermark that has not.
	Hlc reached(uint64_t applied);

private:
	struct Promise
	{
		uint64_t sequence;
		Hlc watermark;
	};
	std::vector<Promise> pending_; // ascending in both
	Hlc reached_;
};

// An event that was received and could not be applied is still to come: nothing from it on is reached.
Hlc belowParked(Hlc reached, std::optional<Hlc> oldestParked);

// How far `region` is past the events of `origin`. Of its own events: what it promises.
struct RegionWatermark
{
	std::string region;
	std::string origin;
	std::optional<Hlc> watermark; // none: it has not said anything yet
	Hlc saidAt;					  // stamp, by the clock of `region`, of saying so
};

class StablePoint
{
public:
	// What is known of every pair of known regions.
	void observe(const std::vector<RegionWatermark> &pairs);

	// The lowest of all. None: a pair is missing, or there is one region only, which knows nothing of others' pasts. Never goes
	// back as long as the regions are the same.
	std::optional<Hlc> value() const { return value_; }

	// What is stamped below has been applied everywhere, and besides, every event still to come has seen it: so that not
	// even whether something is a conflict depends on remembering it. For that, an earlier stable point is taken, and waited
	// until the stable point has passed the stamps at which the regions said that they were there: who had not seen
	// it when he committed, is stamped below these. Zero: nothing.
	Hlc prunable() const { return prunable_; }

private:
	struct Round
	{
		Hlc stable;
		Hlc saidAt; // the highest of those who said so
	};
	std::set<std::string> regions_;
	std::optional<Hlc> value_;
	std::optional<Round> round_;
	Hlc prunable_;
};

// Whether an event can be decided at a region that has forgotten deletions and stamps up to `prunedUpTo`. Only an event that
// broke a promise, such as one of a region that joined with a clock behind, comes that late. localIsOwn: the version was
// written at this region, so its stamp may have been forgotten, and what is read instead is not exact.
bool canDecide(const LocalState &local, bool localIsOwn, Hlc event, Hlc prunedUpTo);

} // namespace mrsync
