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
	int64_t incarnation = region_.extractor().incarnation();
	std::optional<Hlc> bound = context_.breaks(Break::NoBounds) ? std::nullopt : region_.lowestBound();
	// Of a region that was set back, the promise speaks of what stands behind the hole.
	if (region_.recovery().hasLooked())
		statements.push_back({region_.index(), watermarkOf(now, bound), region_.extractor().newest(), now, incarnation});
	for (int source = 0; source < context_.plan.regions; ++source)
		if (source != region_.index())
			statements.push_back({source, region_.database().applied[static_cast<size_t>(source)], 0, now, incarnation});
	for (const Statement &statement : statements)
		region_.database().statements[{region_.index(), statement.origin}] = statement;
	region_.flush(); // they are read from the WAL, so what they speak of is on the disk, too
	send(std::move(statements));
}

void Watermarks::fence()
{
	send({{region_.index(), Hlc{}, 0, Hlc{}, region_.extractor().incarnation()}});
}

void Watermarks::send(std::vector<Statement> statements)
{
	int64_t time = context_.scheduler.now();
	int64_t delay = context_.aside.between(0, context_.plan.networkDelay) + context_.kafka.unavailableFor();
	lastLanding_ = std::max(lastLanding_, time + delay);
	context_.scheduler.after(lastLanding_ - time,
	                         [this, statements, restored = region_.restored()]
	                         {
		                         // with the WAL of a region that was set back they may be gone
		                         if (restored != region_.restored() && context_.later.oneIn(2))
			                         return;
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
		{
			int64_t &newest = database.controlIncarnation[static_cast<size_t>(peer)];
			if (topic[at].incarnation < newest)
				continue;
			newest = topic[at].incarnation;
			if (Statement &known = database.statements[{peer, topic[at].origin}]; known.saidAt < topic[at].saidAt)
				known = topic[at];
		}
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
