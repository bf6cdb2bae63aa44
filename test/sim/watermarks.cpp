#include "sim/watermarks.h"

#include "sim/region.h"

#include <algorithm>

namespace mrsync::sim
{

void Watermarks::start()
{
	stable_ = StablePoint();
	turn(++life_);
}

void Watermarks::turn(uint64_t life)
{
	if (life != life_ || !region_.isUp())
		return;
	say();
	read();
	prune();
	context_.scheduler.after(context_.aside.between(300, 2000) * kMillisecond, [this, life] { turn(life); });
}

// Rows of one transaction: once they are committed they arrive, whatever becomes of the region.
void Watermarks::say()
{
	std::vector<Statement> statements;
	Hlc now = region_.tick();
	std::optional<Hlc> bound = context_.breaks(Break::NoBounds) ? std::nullopt : region_.lowestBound();
	const std::vector<Transaction> &wal = context_.history.of(region_.index());
	statements.push_back({region_.index(), watermarkOf(now, bound), wal.empty() ? 0 : wal.back().sequence, now});
	for (int source = 0; source < context_.plan.regions; ++source)
		if (source != region_.index())
			statements.push_back({source, region_.database().applied[static_cast<size_t>(source)], 0, now});
	for (const Statement &statement : statements)
		region_.database().statements[{region_.index(), statement.origin}] = statement;
	region_.flush(); // they are read from the WAL, so what they speak of is on the disk, too

	int64_t time = context_.scheduler.now();
	int64_t delay = context_.aside.between(0, context_.plan.networkDelay) + context_.kafka.unavailableFor();
	lastLanding_ = std::max(lastLanding_, time + delay);
	context_.scheduler.after(lastLanding_ - time,
	                         [this, statements]
	                         {
		                         std::vector<Statement> &topic = context_.kafka.control(region_.index());
		                         topic.insert(topic.end(), statements.begin(), statements.end());
	                         });
}

void Watermarks::read()
{
	Database &database = region_.database();
	for (int peer = 0; peer < context_.plan.regions; ++peer)
	{
		const std::vector<Statement> &topic = context_.kafka.control(peer);
		for (size_t &at = database.controlRead[static_cast<size_t>(peer)]; peer != region_.index() && at < topic.size(); ++at)
			database.statements[{peer, topic[at].origin}] = topic[at];
	}
}

void Watermarks::prune()
{
	std::vector<RegionWatermark> pairs;
	for (int region = 0; region < context_.plan.regions; ++region)
		for (int origin = 0; origin < context_.plan.regions; ++origin)
		{
			RegionWatermark pair{std::to_string(region), std::to_string(origin), std::nullopt, {}};
			auto known = region_.database().statements.find({region, origin});
			if (known != region_.database().statements.end() && known->second.watermark.value != 0)
			{
				pair.watermark = known->second.watermark;
				pair.saidAt = known->second.saidAt;
			}
			pairs.push_back(std::move(pair));
		}
	stable_.observe(pairs);
	Hlc upTo = stable_.prunable();
	if (context_.breaks(Break::PruneEarly))
		upTo = region_.tick();
	else if (context_.breaks(Break::PruneAtStable))
		upTo = stable_.value().value_or(Hlc{});
	region_.database().store.prune(upTo);
}

} // namespace mrsync::sim
