// The arithmetic of promises: small, and wrong in ways that nobody notices for days. So it is here, where it can be tested.
#include "core/watermark.h"

#include "core/mutant.h"

#include <algorithm>

namespace mrsync
{
namespace
{

// A link that is hours behind gathers promises all the time. Fewer of them only mean larger steps.
constexpr size_t kMostPending = 64;

} // namespace

Hlc watermarkOf(Hlc clock, std::optional<Hlc> lowestBound)
{
	if (mutated("no_bounds"))
		return Hlc{clock.value - 1};
	return Hlc{std::min(clock, lowestBound.value_or(clock)).value - 1};
}

void Promises::add(uint64_t sequence, Hlc watermark)
{
	if (watermark <= (pending_.empty() ? reached_ : pending_.back().watermark))
		return;
	while (!pending_.empty() && pending_.back().sequence >= sequence)
		pending_.pop_back();
	pending_.push_back({sequence, watermark});
	if (pending_.size() <= kMostPending)
		return;
	size_t kept = 0;
	for (size_t i = pending_.size() % 2 ? 0 : 1; i < pending_.size(); i += 2) // the newest is among them
		pending_[kept++] = pending_[i];
	pending_.resize(kept);
}

Hlc Promises::reached(uint64_t applied)
{
	auto beyond = std::find_if(pending_.begin(), pending_.end(),
							   [applied](const Promise &promise) { return promise.sequence > applied; });
	if (beyond != pending_.begin())
		reached_ = std::prev(beyond)->watermark;
	pending_.erase(pending_.begin(), beyond);
	return reached_;
}

Hlc belowParked(Hlc reached, std::optional<Hlc> oldestParked)
{
	return oldestParked ? std::min(reached, Hlc{oldestParked->value - 1}) : reached;
}

void StablePoint::observe(const std::vector<RegionWatermark> &pairs)
{
	std::set<std::string> regions;
	std::optional<Hlc> lowest;
	Hlc saidAt;
	bool complete = true;
	for (const RegionWatermark &pair : pairs)
	{
		regions.insert(pair.region);
		complete = complete && pair.watermark;
		if (pair.watermark)
			lowest = std::min(*pair.watermark, lowest.value_or(*pair.watermark));
		saidAt = std::max(saidAt, pair.saidAt);
	}
	if (regions != regions_ || !complete || regions.size() < 2)
	{
		regions_ = std::move(regions);
		value_.reset();
		round_.reset();
		if (!complete || regions_.size() < 2)
			return;
	}
	value_ = std::max(value_.value_or(*lowest), *lowest);
	if (round_ && *value_ >= round_->saidAt)
	{
		prunable_ = std::max(prunable_, round_->stable);
		round_.reset();
	}
	if (!round_)
		round_ = Round{*value_, saidAt};
}

bool canDecide(const LocalState &local, bool localIsOwn, Hlc event, Hlc prunedUpTo)
{
	if (event > prunedUpTo || local.sameTransaction)
		return true;
	if (local.kind == LocalKind::Absent)
		return false;
	if (local.version.hlc > prunedUpTo)
		return true; // newer than the event whatever else there was
	return local.kind == LocalKind::Live && !localIsOwn;
}

} // namespace mrsync
