// What a seed decides, the faults, and the checks of what is left when all is quiet (I1, I2, I5).
#include "sim/world.h"

#include "sim/region.h"

#include <algorithm>
#include <set>

namespace mrsync::sim
{
namespace
{

constexpr int64_t kDrainLimit = 4 * 60 * kMinute; // far beyond the largest skew that is waited for

Plan planOf(uint64_t seed, const Options &options)
{
	test::Random random(seed * 2 + 1);
	auto pick = [&random](std::initializer_list<int64_t> choices)
	{ return choices.begin()[random.below(choices.size())]; };
	Plan plan{};
	plan.regions = options.regions.value_or(static_cast<int>(random.between(2, 4)));
	plan.rows = static_cast<int>(random.between(1, 6));
	plan.transactions = static_cast<int>(random.between(5, 30));
	plan.duration = pick({kSecond, 10 * kSecond, kMinute});
	plan.granularity = pick({1, 1, kMillisecond, kSecond});
	plan.maxClockSkew = pick({kMinute, 5 * kMinute, 60 * kMinute, 60 * kMinute});
	plan.networkDelay = pick({kMillisecond, 50 * kMillisecond, 3 * kSecond});
	plan.pollInterval = pick({5 * kMillisecond, 100 * kMillisecond, kSecond});
	plan.statementTime = pick({0, kMillisecond, 50 * kMillisecond, kSecond});
	plan.window = static_cast<uint64_t>(pick({1, 4, 30}));
	plan.faults = static_cast<int>(random.between(0, 4));
	plan.forceOverride = random.oneIn(4);
	return plan;
}

class World
{
public:
	World(uint64_t seed, const Options &options)
	    : context_(planOf(seed, options), options.broken, seed), forgetful_(seed * 2 + 7)
	{
		for (int i = 0; i < context_.plan.regions; ++i)
			regions_.push_back(std::make_unique<Region>(context_, i));
	}

	Totals run()
	{
		for (auto &region : regions_)
		{
			region->stepClock(someOffset());
			region->start();
			planWrites(*region);
			planFaults(*region);
		}
		repeat([this] { context_.kafka.outage(context_.upTo(20 * kSecond)); });
		planForgetting();

		while (context_.scheduler.now() < context_.plan.duration)
			context_.scheduler.runNext();
		drain();
		settle();
		checkEffects();
		checkRows();
		context_.history.checkCausality();

		Totals totals;
		totals.events = context_.history.events();
		for (auto &region : regions_)
		{
			totals.transactions += context_.history.of(region->index()).size();
			totals.records += context_.kafka.topic(region->index()).size();
		}
		return totals;
	}

private:
	// In steps of the coarsest clock, so that clocks of two regions may agree.
	int64_t someOffset() { return context_.random.oneIn(3) ? 0 : context_.random.between(-300, 300) * kSecond; }

	// Some times within the plan's duration, rarely none, never more than the plan's number of faults.
	void repeat(const std::function<void()> &fault)
	{
		for (int64_t count = context_.upTo(context_.plan.faults); count > 0; --count)
			context_.scheduler.after(context_.upTo(context_.plan.duration), fault);
	}

	void planWrites(Region &region)
	{
		for (int i = 0; i < context_.plan.transactions; ++i)
			context_.scheduler.after(context_.upTo(context_.plan.duration), [this, &region] { write(region); });
	}

	void write(Region &region)
	{
		if (region.isUp())
			region.write();
		else
			context_.scheduler.after(kSecond, [this, &region] { write(region); });
	}

	void planFaults(Region &region)
	{
		repeat([this, &region] { region.stepClock(someOffset()); });
		repeat(
		    [this, &region]
		    {
			    if (!region.isUp())
				    return;
			    region.crash();
			    if (context_.random.oneIn(2))
				    region.stepClock(someOffset());
			    context_.scheduler.after(context_.upTo(5 * kSecond), [&region] { region.start(); });
		    });
		repeat(
		    [this, &region]
		    {
			    region.extractor().stop();
			    context_.scheduler.after(context_.upTo(2 * kSecond),
			                             [&region]
			                             {
				                             if (region.isUp() && !region.extractor().isRunning())
					                             region.extractor().start();
			                             });
		    });
		for (auto &applier : region.appliers())
		{
			Applier *link = applier.get();
			repeat([this, link] { link->pause(context_.upTo(20 * kSecond)); });
			if (context_.random.oneIn(4)) // created anew: it reads everything again, and only event ids tell
				repeat(
				    [&region, link]
				    {
					    region.database().links[static_cast<size_t>(link->source())] = {};
					    if (region.isUp())
						    link->start();
				    });
		}
	}

	// Commit timestamps get lost: in every third world, and with dice of its own.
	void planForgetting()
	{
		if (!forgetful_.oneIn(3))
			return;
		for (auto &region : regions_)
			for (int64_t count = forgetful_.between(0, 2); count > 0; --count)
				context_.scheduler.after(forgetful_.between(0, context_.plan.duration),
				                         [this, index = region->index()]
				                         { regions_[static_cast<size_t>(index)]->forgetVersions(); });
	}

	// What could not be decided waits until somebody writes these rows anew. A truncation waits for all of them.
	void settle()
	{
		for (int round = 0; round < 100; ++round)
		{
			bool any = false;
			for (auto &region : regions_)
			{
				for (auto &applier : region->appliers())
					applier->retryParked();
				std::set<int> keys;
				for (const Parked &parked : region->database().parked)
					if (parked.event.pk)
						keys.insert(keyOf(*parked.event.pk));
					else
						for (const auto &[key, value] : region->database().store.liveRows())
							keys.insert(key);
				any |= !region->database().parked.empty();
				for (int key : keys)
					region->writeAnew(key);
			}
			if (!any)
				return;
			drain();
		}
		throw CheckFailed("I1", "parked events remain, whatever is written");
	}

	bool isDrained() const
	{
		return std::all_of(regions_.begin(), regions_.end(),
		                   [](const std::unique_ptr<Region> &region)
		                   {
			                   return region->isUp() && region->openTransactions().empty() &&
			                          region->extractor().isDrained() &&
			                          std::all_of(region->appliers().begin(), region->appliers().end(),
			                                      [](const auto &applier) { return applier->isDrained(); });
		                   });
	}

	void drain()
	{
		// Until the last late write has begun, and then until everything has arrived.
		int64_t quiet = context_.scheduler.now() + 30 * kSecond;
		int64_t limit = context_.scheduler.now() + kDrainLimit;
		for (int64_t next = quiet; context_.scheduler.now() < quiet || !isDrained(); next += kSecond)
		{
			if (next > limit)
				throw CheckFailed("I2", "not everything arrived: " + states());
			while (context_.scheduler.now() < next)
				context_.scheduler.runNext();
		}
	}

	std::string states() const
	{
		std::string text;
		for (auto &region : regions_)
			for (auto &applier : region->appliers())
				if (!applier->isDrained())
					text += applier->state() + "; ";
		return text;
	}

	// I2: each region applied each event of the others exactly once, and none of its own.
	void checkEffects() const
	{
		for (auto &region : regions_)
		{
			std::vector<Uuid> committed;
			for (auto &other : regions_)
				if (other != region)
					for (const Transaction &tx : context_.history.of(other->index()))
						for (const ChangeEvent &event : tx.events)
							committed.push_back(event.id);
			std::vector<Uuid> applied = region->applied();
			std::sort(committed.begin(), committed.end());
			std::sort(applied.begin(), applied.end());
			if (applied != committed)
				throw CheckFailed("I2", region->name() + " applied " + std::to_string(applied.size()) +
				                            " events, the others committed " + std::to_string(committed.size()));
		}
	}

	// I1: every region holds what the plain fold says.
	void checkRows()
	{
		std::map<int, std::string> expected = context_.history.fold(context_.plan.rows);
		auto describe = [](const std::map<int, std::string> &rows)
		{
			std::string text;
			for (const auto &[key, value] : rows)
				text += " " + std::to_string(key) + "=" + value;
			return text;
		};
		for (auto &region : regions_)
			if (std::map<int, std::string> rows = region->database().store.liveRows(); rows != expected)
				throw CheckFailed("I1",
				                  region->name() + " holds" + describe(rows) + "; the fold is" + describe(expected));
	}

	Context context_;
	test::Random forgetful_;
	std::vector<std::unique_ptr<Region>> regions_;
};

} // namespace

Totals runSeed(uint64_t seed, const Options &options)
{
	return World(seed, options).run();
}

} // namespace mrsync::sim
