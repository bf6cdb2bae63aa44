#include "worker/watermark.h"

#include "pg/bounds.h"
#include "pg/clock.h"
#include "pg/spi.h"

#include <algorithm>

namespace mrsync
{

namespace
{

constexpr int64_t kLookAgain = USECS_PER_SEC; // for parked events that somebody discarded

} // namespace

void OwnWatermark::take()
{
	// What is taken back is stamped below what is committed now.
	if (candidate_ || region_->takingBack.load())
		return;
	Candidate candidate{};
	candidate.produced = produced();
	clockTick(region_);
	// In this order. A bound that is cleared by now has raised lastCommitEnd before.
	Hlc clock{region_->clock.load()};
	std::optional<Hlc> bound = boundsLowest(MyDatabaseId);
	candidate.committedUpTo = region_->lastCommitEnd.load();
	candidate.watermark = watermarkOf(clock, bound);
	candidate_ = candidate;
	region_->watermarkNeeds.store(candidate.committedUpTo);
}

bool OwnWatermark::settle()
{
	if (candidate_ && region_->takingBack.load())
	{
		region_->watermarkNeeds.store(0);
		candidate_.reset();
	}
	if (!candidate_ || region_->decodedEnd.load() < candidate_->committedUpTo)
		return false;
	uint64_t newest = produced();
	// A starting extractor first takes decodedEnd back, then says an older sequence: hence the second look.
	if (region_->decodedEnd.load() < candidate_->committedUpTo)
		return false;
	value_ = std::max(value_, candidate_->watermark);
	sequence_ = std::max(sequence_, newest);
	covered_ = std::max(covered_, candidate_->produced);
	region_->watermarkNeeds.store(0);
	candidate_.reset();
	return true;
}

bool OwnWatermark::isBehind() const { return produced() > covered_; }

LinkWatermark::LinkWatermark(Worker &worker) : worker_(worker), peer_(peerShared(worker.region, worker.peer, true))
{
	if (!peer_)
		throw PgError(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "a region can have at most 64 peers");
}

void LinkWatermark::load()
{
	spi::Rows rows = spi::query("SELECT watermark::bigint FROM mrsync.acknowledgement WHERE region_id = $1 AND source_region = $2 "
								"AND watermark IS NOT NULL",
								{std::string(worker_.region->region), worker_.peer});
	if (!rows.empty())
		value_ = Hlc{std::stoll(*rows[0][0])};
	if (peer_->appliedWatermark.load() < value_.value)
		peer_->appliedWatermark.store(value_.value);
	parkedCount_ = worker_.shared->parked.load();
}

void LinkWatermark::advance(uint64_t applied)
{
	Hlc watermark{peer_->watermark.load()};
	uint64_t head = peer_->headSequence.load();
	if (watermark > offered_)
	{
		promises_.add(head, watermark);
		offered_ = watermark;
	}
	Hlc reached = promises_.reached(applied);
	if (reached <= value_)
		return;
	if (uint64_t parked = worker_.shared->parked.load(); parked != parkedCount_)
	{
		parkedCount_ = parked;
		mayBeParked_ = true;
		lookedAt_ = 0;
	}
	if (mayBeParked_)
	{
		TimestampTz now = GetCurrentTimestamp();
		if (reached > lookedFor_ || now < lookedAt_ || now - lookedAt_ > kLookAgain)
		{
			lookForParked();
			lookedFor_ = reached;
			lookedAt_ = now;
		}
		reached = belowParked(reached, oldestParked_);
		if (reached <= value_)
			return;
	}
	value_ = reached;
	peer_->appliedWatermark.store(value_.value);
	if (worker_.region->waiters.load() > 0)
		pgCall([&] { ConditionVariableBroadcast(&worker_.region->acks); });
}

void LinkWatermark::lookForParked()
{
	WorkerTransaction transaction;
	spi::Rows rows = spi::query("SELECT mrsync.min(hlc)::bigint FROM mrsync.apply_error WHERE source_region = $1", {worker_.peer});
	transaction.commit();
	oldestParked_ = rows[0][0] ? std::optional(Hlc{std::stoll(*rows[0][0])}) : std::nullopt;
	mayBeParked_ = oldestParked_.has_value();
}

} // namespace mrsync
