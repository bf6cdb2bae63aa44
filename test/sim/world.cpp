// What a seed decides, the faults, and the checks of what is left when all is quiet (I1, I2, I5).
#include "sim/world.h"

#include "sim/region.h"

#include "core/codec.h"

#include <algorithm>
#include <map>
#include <set>

namespace mrsync::sim
{
namespace
{

constexpr int kSettleRounds = 1000;
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
	plan.uniques = random.oneIn(2) ? 0 : static_cast<int>(random.between(1, 4));
	if (plan.uniques > 0)
		plan.rows += 3;
	plan.losses = random.oneIn(4);
	plan.setBacks = random.oneIn(3);
	plan.forgets = random.oneIn(2);
	plan.losses |= options.timeline == Timeline::Losses || options.timeline == Timeline::Both;
	plan.setBacks |= options.timeline == Timeline::SetBacks || options.timeline == Timeline::Both;
	// Rows that exclude each other are compared by their versions, and a resend leaves out what has none: then users have to write
	// such rows anew before anything else can be checked.
	plan.forgets &= !plan.losses && !plan.setBacks && plan.uniques == 0;
	plan.loser = static_cast<Loser>(random.below(3));
	return plan;
}

class World
{
public:
	World(uint64_t seed, const Options &options) : context_(planOf(seed, options), options.broken, seed)
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
			if (context_.plan.losses)
				planLosses(*region);
			if (context_.plan.forgets)
				for (int64_t count = context_.later.between(0, 2); count > 0; --count)
					later([&region] { region->forgetVersions(); });
			if (context_.plan.setBacks)
				planSetBacks(*region);
		}
		repeat([this] { context_.kafka.outage(context_.upTo(20 * kSecond)); });

		while (context_.scheduler.now() < context_.plan.duration)
			context_.scheduler.runNext();
		drain();
		checkEffects();
		checkRows();
		settle();
		context_.history.checkCausality();

		Totals totals;
		totals.events = context_.history.events();
		for (auto &region : regions_)
		{
			totals.transactions += context_.history.of(region->index()).size();
			totals.records += context_.kafka.topic(region->index()).records.size();
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
		if (region.mayWrite())
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
				                             if (region.isUp() && region.recovery().hasLooked() && !region.extractor().isRunning())
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

	// At some time within the plan's duration.
	void later(const std::function<void()> &fault)
	{
		context_.scheduler.after(context_.later.between(0, context_.plan.duration), fault);
	}

	void planLosses(Region &region)
	{
		for (int64_t count = context_.later.between(0, 2); count > 0; --count)
			later([this, &region] { losses(region); });
	}

	// Readers that are behind, losses, and resends before and after them.
	void losses(Region &region)
	{
		for (auto &other : regions_)
			for (auto &link : other->appliers())
				for (uint64_t pauses = link->source() == region.index() ? context_.later.below(3) : 0; pauses > 0; --pauses)
					soon([this, link = link.get()] { link->pause(context_.later.between(0, 10 * kSecond)); });
		for (uint64_t count = 1 + context_.later.below(3); count > 0; --count)
			soon([this, &region] { lose(region); });
		for (int64_t resends = context_.later.between(0, 4); resends > 0; --resends)
			soon([this, &region] { resend(region, context_.later.oneIn(3)); });
	}

	void soon(const std::function<void()> &fault)
	{
		context_.scheduler.after(context_.later.between(0, std::min(context_.plan.duration, 4 * kSecond)), fault);
	}

	void lose(Region &region)
	{
		Kafka &kafka = context_.kafka;
		int topic = region.index();
		size_t read = kafka.topic(topic).records.size();
		for (auto &other : regions_)
			for (auto &link : other->appliers())
				if (link->source() == topic)
					read = std::min(read, link->offset());
		switch (context_.later.below(4))
		{
		case 0:
			region.loseTopic([&] { kafka.makeAnew(topic); });
			break;
		case 1:
			region.loseSlot();
			break;
		default:
			// what some have read, and others have not
			read = static_cast<size_t>(
			    context_.later.between(static_cast<int64_t>(read), static_cast<int64_t>(kafka.topic(topic).records.size())));
			region.loseTopic([&] { kafka.expire(topic, context_.plan.setBacks ? behindStale(kafka.topic(topic), read) : read); });
		}
	}

	// Here or behind it, so that what comes is of no older incarnation than what was before.
	static size_t behindStale(const Topic &topic, size_t at)
	{
		int64_t newest = 0;
		for (size_t i = 0; i < topic.records.size(); ++i)
		{
			int64_t incarnation = std::get<ChangeEvent>(decode(topic.records[i])).tx.incarnation;
			if (i < at)
				newest = std::max(newest, incarnation);
			else if (incarnation < newest)
				at = i + 1;
		}
		return at;
	}

	// some: of what it has, the part that is newer than all it had written so far, or thereabouts.
	void resend(Region &region, bool some)
	{
		if (region.isUp())
			region.resend(some ? region.database().past[static_cast<size_t>(region.index())] : Hlc{}, [] {});
	}

	// Restored from a backup, or a standby promoted that lacks the last commits.
	void planSetBacks(Region &region)
	{
		if (context_.later.oneIn(2))
			return;
		for (int64_t count = context_.later.between(1, 2); count > 0; --count)
			later(
			    [this, &region]
			    {
				    int64_t left = context_.plan.duration - context_.scheduler.now();
				    int64_t age = context_.later.between(0, context_.later.oneIn(2) ? left : std::min(left, kSecond));
				    context_.scheduler.after(age, [this, &region, disk = region.copy()] { setBack(region, disk); });
			    });
	}

	void setBack(Region &region, const Disk &disk)
	{
		// What the topic has lost since, nobody could give back.
		if (!region.isUp() || disk.losses != region.losses())
			return;
		region.crash();
		region.restore(disk);
		if (context_.later.oneIn(2))
			region.stepClock(someOffset());
		int64_t away = context_.later.oneIn(2) ? 100 * kMillisecond : 5 * kSecond;
		context_.scheduler.after(context_.later.between(0, away),
		                         [this, &region]
		                         {
			                         region.start();
			                         if (context_.plan.losses)
				                         losses(region);
		                         });
	}

	// Somebody looks at the links now and then.
	void mend()
	{
		for (auto &region : regions_)
			for (auto &applier : region->appliers())
				if (Region &source = *regions_[static_cast<size_t>(applier->source())];
				    region->isUp() && applier->isDegraded() && source.extractor().isDrained())
					resend(source, false);
	}

	// What could not be decided waits until somebody writes these rows anew; a truncation waits for all of them.
	void writeAnew()
	{
		for (auto &region : regions_)
		{
			std::set<int> keys;
			for (const Parked &parked : region->database().parked)
				if (const ChangeEvent &event = parked.events.front(); parked.isRest && event.pk)
					keys.insert(keyOf(*event.pk));
				else if (parked.isRest)
					for (const auto &[key, content] : region->database().store.rows(LocalKind::Live))
						keys.insert(key);
			if (region->isUp())
				for (int key : keys)
					region->writeAnew(key);
		}
	}

	bool isDrained() const
	{
		return std::all_of(regions_.begin(), regions_.end(),
		                   [](const std::unique_ptr<Region> &region)
		                   {
			                   return region->isUp() && region->openTransactions().empty() &&
			                          region->recovery().isDone() && region->extractor().isDrained() &&
			                          std::all_of(region->appliers().begin(), region->appliers().end(),
			                                      [](const auto &applier) { return applier->isDrained(); });
		                   });
	}

	void drain()
	{
		// Until the last late write has begun, and then until everything has arrived.
		int64_t quiet = context_.scheduler.now() + 30 * kSecond;
		int64_t look = quiet + 10 * kSecond;
		int64_t limit = context_.scheduler.now() + kDrainLimit;
		auto runUntil = [this](int64_t time)
		{
			while (context_.scheduler.now() < time)
				context_.scheduler.runNext();
		};
		for (int64_t next = quiet; context_.scheduler.now() < quiet || !isDrained(); next += kSecond)
		{
			if (next > limit)
				throw CheckFailed("I2", "not everything arrived: " + states());
			runUntil(next);
			if (next >= look)
			{
				if (context_.plan.losses)
					mend();
				writeAnew();
				look += 2 * (look - quiet);
			}
		}
		runUntil(context_.scheduler.now() + 2 * kSecond); // a look at what is held aside
	}

	// Nothing is remembered for ever. Writes let the clocks meet; otherwise the slow ones' time would have to catch up.
	void settle()
	{
		Hlc written;
		for (auto &region : regions_)
			for (const Transaction &tx : context_.history.of(region->index()))
				written = std::max(written, tx.version.hlc);
		auto remembers = [&](const std::unique_ptr<Region> &region)
		{ return region->database().store.remembersDeletions(written); };
		for (int rounds = 0; std::any_of(regions_.begin(), regions_.end(), remembers); ++rounds)
		{
			if (rounds > kSettleRounds)
				throw CheckFailed("W", "deletions are remembered for ever");
			for (auto &region : regions_)
				region->write();
			for (int64_t next = context_.scheduler.now() + kSecond; context_.scheduler.now() < next;)
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

	// I2: each region applied each event of the others exactly once, and none of its own but what it took back. Those that were
	// lost on the way, and came by a resend, are not counted as events.
	void checkEffects()
	{
		for (auto &region : regions_)
			context_.history.settle(region->index(), [&region](const Transaction &tx) { return region->has(tx); });
		for (auto &region : regions_)
		{
			std::map<Uuid, int> applied;
			for (const Uuid &id : region->applied())
				++applied[id];
			size_t count = applied.size();
			for (auto &other : regions_)
				for (const Transaction &tx : context_.history.of(other->index()))
				{
					const std::vector<SequenceRange> &mended = region->database().mended[static_cast<size_t>(other->index())];
					bool isMended = tx.isHole && !mended.empty();
					for (auto [from, upTo] : mended)
						isMended |= from < tx.sequence && tx.sequence <= upTo;
					bool mayBeApplied = other == region ? !region->wrote(tx) : !tx.lost;
					bool mustBeApplied = mayBeApplied && !tx.lost && (other == region || !isMended);
					for (const ChangeEvent &event : tx.events)
					{
						auto found = applied.find(event.id);
						int times = found == applied.end() ? 0 : found->second;
						if (times < mustBeApplied || times > mayBeApplied)
							throw CheckFailed("I2", region->name() + " applied an event of " + tx.version.region + (tx.lost ? " that was lost" : "") + (isMended ? " that came by a resend" : "") + " stamped " +
							                            toText(tx.version.hlc) + " " + std::to_string(times) + " times");
						count -= found != applied.end();
					}
				}
			if (count != 0)
				throw CheckFailed("I2", region->name() + " applied events that nobody committed");
		}
	}

	// I1: every region holds what the plain fold says. I13: in the table what fits, from the highest version down, and the
	// rest aside.
	void checkRows()
	{
		const std::map<int, Folded> folded = context_.history.fold(context_.plan.rows);
		std::map<int, Content> all, table, aside;
		std::vector<std::pair<Version, int>> order;
		for (const auto &[key, row] : folded)
		{
			all[key] = row.content;
			order.emplace_back(row.version, key);
		}
		std::sort(order.rbegin(), order.rend());
		std::set<int> taken{};
		auto fits = [&](int unique) { return unique == 0 || taken.insert(unique).second; };
		for (const auto &[version, key] : order)
		{
			const Content &content = all[key];
			const std::optional<Content> made = makeFit(context_.plan.loser, content);
			if (fits(content.unique))
				table[key] = content;
			else if (made && fits(made->unique))
				table[key] = *made;
			else
				aside[key] = content;
		}
		auto describe = [](const std::map<int, Content> &rows)
		{
			std::string text;
			for (const auto &[key, content] : rows)
				text += " " + std::to_string(key) + "=" + content.value + "/" + std::to_string(content.unique);
			return text;
		};
		for (auto &region : regions_)
		{
			const Store &store = region->database().store;
			std::map<int, Content> live = store.rows(LocalKind::Live);
			std::map<int, Content> held = store.rows(LocalKind::Aside);
			std::map<int, Content> both = live;
			both.insert(held.begin(), held.end());
			if (both != all)
				throw CheckFailed("I1", region->name() + " holds" + describe(both) + "; the fold is" + describe(all));
			live = store.table();
			if (live != table)
				throw CheckFailed("I13", region->name() + " has in its table" + describe(live) + ", aside" + describe(held) +
				                             "; right is" + describe(table) + ", aside" + describe(aside));
		}
	}

	Context context_;
	std::vector<std::unique_ptr<Region>> regions_;
};

} // namespace

Totals runSeed(uint64_t seed, const Options &options)
{
	return World(seed, options).run();
}

} // namespace mrsync::sim
