#include "sim/prover.h"

#include "sim/fold_table.h"
#include "sim/history.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

namespace mrsync::sim
{

namespace
{

constexpr size_t kRegions = 3;
constexpr size_t kMostEvents = 3;
constexpr const char *kNames[kRegions] = {"ap", "eu", "us"};
const std::vector<std::string> kColumns[kRegions] = {{"x", "y", "n"}, {"x", "y", "n"}, {"n", "y", "x"}};

using Mask = unsigned; // of the case's transactions, in the order of their versions

struct Done
{
	size_t region;
	Act act;
	int64_t stamp;
	Mask seen = 0; // when it was written, the region's own among them
	bool told = false; // of the new rule, when it was written
	FoldTransaction transaction; // the act's outcome
};

// What is the same for every way through it.
struct Case
{
	const FoldStrategy *strategy;
	RowState first;
	MergeRule rule;
	std::optional<MergeRule> next; // rolled out on the way
	std::vector<Done> done;
};

struct Step
{
	enum Kind
	{
		Write,
		Receive,
		Repeat,
		Prune,
		Prepare,
		Tell,
	} kind;
	size_t event = 0;
	Hlc stable;
};

struct Failure
{
	size_t region;
	std::vector<Step> way;
	bool prunes; // after each step
	std::string what;
};

class Prover
{
public:
	Prover(FoldBreak broken, bool all) : broken_(broken), withAll_(all) {}

	ProverTotals run()
	{
		for (size_t events = 1; events <= kMostEvents; ++events)
			for (const FoldStrategy &strategy : foldStrategies())
			{
				check(strategy, merges_);
				for (bool exists : {true, false})
				{
					setUp(strategy, exists, events);
					chooseEvents(events);
					rollOut(strategy, exists, events);
				}
			}
		return totals_;
	}

private:
	// What a way may have besides the events.
	struct Extras
	{
		int repeats = 0;
		int prunes = 0;
		bool pruneAlways = false; // after each step
	};

	void setUp(const FoldStrategy &strategy, bool exists, size_t events)
	{
		case_ = {&strategy, exists ? RowState(firstRow(strategy)) : std::nullopt, strategy.rule, std::nullopt, {}};
		// three of the rarer acts are left to the seeds
		acts_.clear();
		for (size_t act = 0; act < (events < kMostEvents ? kActs : kMainActs); ++act)
			acts_.push_back(static_cast<Act>(act));
	}

	// The rule comes where there was none, or goes again: from an event's stamp on, or from between two.
	void rollOut(const FoldStrategy &strategy, bool exists, size_t events)
	{
		if (!strategy.rule.merges())
			return;
		bool isShortened = events == kMostEvents && !withAll_;
		if (isShortened && !strategy.tells)
			return;
		setUp(strategy, exists, events);
		if (isShortened)
			acts_ = {Act::Insert, Act::WriteX, Act::Delete, Act::Replace};
		else if (!withAll_ && !strategy.tells)
			acts_.resize(kMainActs);
		for (bool comes : {true, false})
			for (size_t behind = 0; behind < events; ++behind)
				for (int64_t distance : {0, 5})
				{
					if (distance > 0 && !withAll_ && (isShortened || !strategy.tells))
						continue;
					case_.rule = comes ? MergeRule{} : strategy.rule;
					case_.next = comes ? strategy.rule : MergeRule{};
					case_.next->from = Hlc{stampOf(behind) - distance};
					chooseEvents(events);
				}
	}

	static int64_t stampOf(size_t event) { return 10 * (static_cast<int64_t>(event) + 1); }

	// Events in the order of their versions, regions in the order in which they come up: their names mean nothing but in a tie.
	void chooseEvents(size_t count)
	{
		std::vector<Done> &done = case_.done;
		if (done.size() == count)
			return takeAllWays();
		size_t regions = 1;
		for (const Done &earlier : done)
			regions = std::max(regions, std::min(earlier.region + 2, kRegions));
		for (size_t region = 0; region < regions; ++region)
			for (bool tied : {false, true})
			{
				if (tied && (done.empty() || done.back().region >= region))
					continue;
				int64_t stamp = tied ? done.back().stamp : stampOf(done.size());
				for (Mask seen = 0; seen < 1u << done.size(); ++seen)
					for (bool told : {false, true})
						if (canHaveSeen(region, stamp, seen, told))
							for (Act act : acts_)
							{
								done.push_back({region, act, stamp, seen, told, {}});
								if (perform())
									chooseEvents(count);
								done.pop_back();
							}
			}
	}

	// All of its own and what those had seen, of each other region a beginning, and only what is below its stamp.
	bool canHaveSeen(size_t region, int64_t stamp, Mask seen, bool told) const
	{
		if (told && !(case_.next && case_.next->from.value < stamp))
			return false;
		bool misses[kRegions] = {};
		for (size_t i = 0; i < case_.done.size(); ++i)
		{
			const Done &done = case_.done[i];
			bool isSeen = seen >> i & 1;
			if (done.region == region && (!isSeen || (done.seen & ~seen) || (done.told && !told)))
				return false;
			if (isSeen && (misses[done.region] || done.stamp >= stamp))
				return false;
			misses[done.region] = misses[done.region] || !isSeen;
		}
		return true;
	}

	FoldSite siteOf(size_t region) { return FoldSite(kColumns[region], {case_.first}, case_.rule, merges_, broken_); }

	// The last event's images, as its region makes them when the others come there in the order of their versions.
	bool perform()
	{
		Done &last = case_.done.back();
		size_t number = case_.done.size();
		FoldSite site = siteOf(last.region);
		if (case_.next)
			site.prepare();
		Mask applied = 0;
		bool told = false;
		for (Done &own : case_.done)
		{
			if (own.region != last.region)
				continue;
			for (size_t i = 0; i < number; ++i)
				if ((own.seen & ~applied) >> i & 1)
					site.receive(case_.done[i].transaction);
			if (own.told && !told)
				site.activate(*case_.next);
			told = own.told;
			if (&own != &last)
				site.write(own.transaction);
			applied |= own.seen | 1u << (&own - case_.done.data());
		}
		last.transaction = {last.region, number, {Hlc{last.stamp}, kNames[last.region]}, {}};
		for (HistoryEvent &event : actOn(site.row(0), last.act, static_cast<int>(number), *case_.strategy, last.transaction.version))
			last.transaction.events.push_back({0, std::move(event)});
		return !last.transaction.events.empty();
	}

	void takeAllWays()
	{
		++totals_.cases;
		for (auto &folds : folds_)
			folds.fill(std::nullopt);
		all_ = (1u << case_.done.size()) - 1;
		bool few = case_.done.size() < kMostEvents;
		Mask writers = 0;
		for (const Done &done : case_.done)
			writers |= 1u << done.region;
		for (region_ = 0; region_ < kRegions; ++region_)
		{
			// of those that only receive, one: the one with its columns in another order
			if (!(writers >> region_ & 1) && region_ + 1 < kRegions)
				continue;
			FoldSite site = siteOf(region_);
			if (!case_.next || (few && (withAll_ || case_.strategy->tells)))
			{
				goOn(site, 0, false, {1, 0, false});
				goOn(site, 0, false, {0, 1, false});
			}
			else
				goOn(site, 0, false, {});
			goOn(site, 0, false, {0, 0, true});
		}
		checkMeaning();
		if (failure_)
			throw CheckFailed("I1", story());
	}

	// All that can come next in this region.
	void goOn(const FoldSite &site, Mask applied, bool told, const Extras &left)
	{
		size_t count = case_.done.size();
		size_t own = 0; // its next write
		while (own < count && (case_.done[own].region != region_ || applied >> own & 1))
			++own;
		bool mayBeTold = case_.next && !told;
		for (size_t i = own; i < count; ++i)
			mayBeTold = mayBeTold && (case_.done[i].region != region_ || case_.done[i].told);
		if (applied == all_ && !mayBeTold)
			++totals_.ways;
		bool missed[kRegions] = {};
		for (size_t i = 0; i < count; ++i)
		{
			const Done &done = case_.done[i];
			if (applied >> i & 1)
			{
				if (left.repeats > 0)
					take(site, {Step::Repeat, i, {}}, applied, told, {left.repeats - 1, left.prunes, left.pruneAlways});
				continue;
			}
			bool comes = i == own ? applied == done.seen && told == done.told
								  : done.region != region_ && !missed[done.region] && (own == count || case_.done[own].seen >> i & 1);
			missed[done.region] = true;
			if (comes)
				take(site, {i == own ? Step::Write : Step::Receive, i, {}}, applied | 1u << i, told, left);
		}
		if (left.prunes > 0 && stableAt(applied).value > 0)
			take(site, {Step::Prune, 0, stableAt(applied)}, applied, told, {left.repeats, left.prunes - 1, left.pruneAlways});
		if (case_.next && !told && !site.isPrepared() && mayPrepare(applied))
			take(site, {Step::Prepare, 0, {}}, applied, told, left);
		if (mayBeTold && site.isPrepared())
			take(site, {Step::Tell, 0, {}}, applied, true, left);
	}

	void take(const FoldSite &from, const Step &step, Mask applied, bool told, const Extras &left)
	{
		if (failure_ && way_.size() + 1 >= failure_->way.size())
			return;
		++totals_.steps;
		way_.push_back(step);
		FoldSite site = from;
		switch (step.kind)
		{
			case Step::Write:
				site.write(case_.done[step.event].transaction);
				break;
			case Step::Receive:
			case Step::Repeat:
				site.receive(case_.done[step.event].transaction);
				break;
			case Step::Prune:
				site.prune(step.stable);
				break;
			case Step::Prepare:
				site.prepare();
				break;
			case Step::Tell:
				site.activate(*case_.next);
				break;
		}
		if (!is(site.row(0), foldOf(applied, told)))
			failure_ = {region_, way_, left.pruneAlways, "the row is (" + words(site.row(0)) + "), and the fold of what has come there by then is (" + words(foldOf(applied, told)) + ")"};
		else
		{
			if (left.pruneAlways)
				site.prune(stableAt(applied));
			goOn(site, applied, told, left);
		}
		way_.pop_back();
	}

	// The stamp is chosen when all have prepared, above all that they had by then.
	bool mayPrepare(Mask applied) const
	{
		for (size_t i = 0; i < case_.done.size(); ++i)
			if (applied >> i & 1 && case_.done[i].stamp >= case_.next->from.value && broken_ != FoldBreak::RuleUnprepared)
				return false;
		return true;
	}

	// What is up to here has come here, and nobody writes below any more. That the others have it, too, the fold does not need.
	Hlc stableAt(Mask applied) const
	{
		int64_t stable = case_.done.back().stamp;
		for (size_t i = 0; i < case_.done.size(); ++i)
			if (!(applied >> i & 1))
				stable = std::min(stable, case_.done[i].stamp - 1);
		return Hlc{stable};
	}

	const PlainRow &foldOf(Mask applied, bool told)
	{
		std::optional<PlainRow> &fold = folds_[told][applied];
		if (!fold)
		{
			std::vector<HistoryEvent> events;
			for (size_t i = 0; i < case_.done.size(); ++i)
				if (applied >> i & 1)
					for (const RowEvent &event : case_.done[i].transaction.events)
						events.push_back(event.event);
			std::vector<MergeRule> rules{case_.rule};
			if (told)
				rules.push_back(*case_.next);
			fold = plainFold(case_.first, std::move(events), rules, merges_);
		}
		return *fold;
	}

	static bool is(const RowState &row, const PlainRow &fold)
	{
		if (!row || !fold)
			return !row && !fold;
		return row->size() == fold->size() && std::all_of(row->begin(), row->end(),
														  [&](const Column &column)
														  {
															  auto found = fold->find(column.name);
															  return found != fold->end() && found->second == column.value;
														  });
	}

	// Of a row that stays: a counter has all that was added, and a column the value of the last event that changed it.
	void checkMeaning()
	{
		const MergeRule &rule = case_.rule;
		if (case_.next || case_.strategy->checked || !case_.first)
			return;
		const bool counts = rule.functions.contains("n");
		int64_t sum = 10;
		std::map<std::string, MergeCalls::Value> last = *plain(case_.first);
		for (const Done &done : case_.done)
		{
			const HistoryEvent &event = done.transaction.events.front().event;
			if (!event.before || !event.after)
				return;
			if (counts)
				sum += std::stol(**test::valueOf(*event.after, "n")) - std::stol(**test::valueOf(*event.before, "n"));
			for (const Column &column : *event.after)
				if (column.value != *test::valueOf(*event.before, column.name))
					last[column.name] = column.value;
		}
		const PlainRow &fold = foldOf(all_, false);
		if (counts && fold->at("n") != std::to_string(sum))
			throw CheckFailed("I2", "n is not 10 and all that was added, " + std::to_string(sum) + story());
		if (rule.columns == ColumnRule::LastChange)
			for (const char *name : {"x", "y"})
				if (!rule.functions.contains(name) && fold->at(name) != last[name])
					throw CheckFailed("I1", std::string(name) + " is not what the last event that changed it made of it" + story());
	}

	std::string story() const
	{
		auto number = [](size_t event) { return std::to_string(event + 1); };
		std::string text;
		if (failure_)
			text = "in " + std::string(kNames[failure_->region]) + " " + failure_->what;
		text += "\n  the rule: " + std::string(case_.strategy->name);
		if (case_.next)
			text += std::string(case_.rule.merges() ? ", up to" : ", from") + " the stamp " + std::to_string(case_.next->from.value) +
					(case_.rule.merges() ? "; then, and before: last writer wins" : " on; before: last writer wins");
		text += "\n  at first, everywhere: (" + words(case_.first) + ")";
		for (size_t i = 0; i < case_.done.size(); ++i)
		{
			const Done &done = case_.done[i];
			std::string seen;
			for (size_t j = 0; j < i; ++j)
				if (done.seen >> j & 1)
					seen += (seen.empty() ? ", having seen " : " and ") + number(j);
			text += "\n  event " + number(i) + ": " + kNames[done.region] + ", at stamp " + std::to_string(done.stamp) + seen;
			for (const RowEvent &event : done.transaction.events)
				text += (&event == done.transaction.events.data() ? ": " : "; ") + words(event.event);
		}
		if (!failure_)
			return text;
		text += "\n  in " + std::string(kNames[failure_->region]);
		if (failure_->prunes)
			text += ", which forgets up to the stable point after each step";
		for (const Step &step : failure_->way)
			switch (step.kind)
			{
				case Step::Write:
					text += ": it writes event " + number(step.event);
					break;
				case Step::Receive:
					text += ": event " + number(step.event) + " comes";
					break;
				case Step::Repeat:
					text += ": event " + number(step.event) + " comes again";
					break;
				case Step::Prune:
					text += ": it forgets up to the stable point, " + std::to_string(step.stable.value);
					break;
				case Step::Prepare:
					text += ": it prepares for a new rule";
					break;
				case Step::Tell:
					text += ": it hears from where on the new rule holds";
					break;
			}
		return text;
	}

	FoldBreak broken_;
	bool withAll_;
	test::Merges merges_;
	std::vector<Act> acts_;
	ProverTotals totals_;
	Case case_;
	Mask all_ = 0;
	size_t region_ = 0; // whose ways are taken
	std::vector<Step> way_;
	std::array<std::array<std::optional<PlainRow>, 1 << kMostEvents>, 2> folds_;
	std::optional<Failure> failure_;
};

} // namespace

ProverTotals proveFold(FoldBreak broken, bool all) { return Prover(broken, all).run(); }

} // namespace mrsync::sim
