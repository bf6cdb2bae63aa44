// The prover's large cases: a seed makes a list of steps; a step that cannot be taken is passed over. So a list from which steps
// are left out is a list, too, and what fails is told without the steps that it fails without.
#include "sim/fold_table.h"
#include "sim/history.h"
#include "sim/prover.h"
#include "unit/random.h"

#include <algorithm>
#include <deque>
#include <memory>

namespace mrsync::sim
{

namespace
{

constexpr const char *kNames[] = {"ap", "eu", "sa", "us", "za"};
constexpr const char *kAdded = "z"; // the column that is added on the way
constexpr const char *kDefault = "100";
constexpr uint64_t kGivesNothingUp = 1; // of Step::pick

struct Step
{
	enum Kind
	{
		Write,   // in region: to row, and to the next one if `other`
		Receive, // in region, from other
		Repeat,  // in region, one that was applied there
		Prune,   // in region
		Prepare, // in region, for the next rule
		Choose,  // its stamp, in region
		Tell,    // region, of it
		Alter,   // region's table
		Hear,    // in region, of the next merge that other has given up
		Resend,  // region gets again what other has
		Settle,  // all: everything arrives, and time goes on
	} kind;
	size_t region = 0;
	size_t other = 0;
	size_t row = 0;
	Act act = Act::Touch;
	int64_t ahead = 0; // the stamp lies at least this far above the region's clock
	uint64_t pick = 0;
};

struct Plan
{
	size_t regions;
	size_t rows;
	const FoldStrategy *strategy;
	std::vector<MergeRule> rules; // the first from the beginning, the others rolled out
	bool alters;
	uint64_t givesUp; // a merge in so many, and not at kGivesNothingUp; 0: none
	std::vector<RowState> first;
	std::vector<Step> steps;
	std::vector<int64_t> behind; // the clocks of the regions, behind their stamps
};

Plan planOf(uint64_t seed)
{
	test::Random random(seed);
	Plan plan{};
	plan.regions = 4 + random.below(2);
	plan.rows = 1 + random.below(3);
	const std::vector<FoldStrategy> &strategies = foldStrategies();
	plan.strategy = &strategies[random.below(strategies.size())];
	plan.rules.push_back(random.oneIn(2) ? plan.strategy->rule : MergeRule{});
	size_t rollouts = random.below(3);
	for (size_t i = 0; i < rollouts; ++i)
		plan.rules.push_back(plan.rules.back().merges() ? MergeRule{} : plan.strategy->rule);
	if (!rollouts && !plan.rules.back().merges())
		plan.rules.back() = plan.strategy->rule;
	// What a function on the row is shown of a column that was not there yet is its caller's to say.
	plan.alters = plan.strategy->rule.rowFunction.empty() && random.oneIn(3);
	if (plan.alters)
		for (MergeRule &rule : plan.rules)
			if (rule.merges())
				rule.functions[kAdded] = "counter";
	for (size_t row = 0; row < plan.rows; ++row)
		plan.first.push_back(random.oneIn(4) ? RowState() : RowState(firstRow(*plan.strategy)));
	plan.givesUp = random.oneIn(2) ? 2 + random.below(8) : 0;
	size_t steps = 20 + random.below(120);
	uint64_t writes = 2 + random.below(4); // a step in so many
	int64_t drift = random.oneIn(2) ? 3 : 40;
	for (size_t i = 0; i < steps; ++i)
	{
		Step step{};
		step.region = random.below(plan.regions);
		step.other = random.below(plan.regions);
		step.row = random.below(plan.rows);
		step.act = static_cast<Act>(random.below(kActs));
		step.ahead = static_cast<int64_t>(random.below(static_cast<uint64_t>(drift)));
		step.pick = random.bits();
		if (random.oneIn(writes))
			step.kind = Step::Write;
		else if (random.oneIn(6))
			step.kind = Step::Repeat;
		else if (random.oneIn(6))
			step.kind = Step::Prune;
		else if (random.oneIn(12))
			step.kind = static_cast<Step::Kind>(Step::Prepare + random.below(4));
		else if (random.oneIn(6))
			step.kind = Step::Hear;
		else if (random.oneIn(10))
			step.kind = Step::Settle;
		else if (random.oneIn(10))
			step.kind = Step::Resend;
		else
			step.kind = Step::Receive;
		plan.steps.push_back(step);
	}
	// Each rollout, and what the tables get, has a part of the time to itself.
	std::vector<std::pair<size_t, Step>> besides;
	auto somewhere = [&](size_t from, size_t to) { return from + random.below(to - from + 1); };
	for (size_t rollout = 0; rollout < rollouts; ++rollout)
	{
		size_t from = steps * rollout / rollouts, to = steps * (rollout + 1) / rollouts;
		size_t chosen = somewhere(from, (from + to) / 2);
		besides.push_back({chosen, {Step::Choose, random.below(plan.regions)}});
		for (size_t region = 0; region < plan.regions; ++region)
		{
			besides.insert(besides.begin(), {somewhere(from, chosen), {Step::Prepare, region}});
			besides.push_back({somewhere(chosen, to), {Step::Tell, region}});
		}
	}
	for (size_t region = 0; region < plan.regions; ++region)
		besides.push_back({somewhere(0, steps / 2), {Step::Alter, region}});
	std::stable_sort(besides.begin(), besides.end(), [](const auto &x, const auto &y) { return x.first < y.first; });
	while (!besides.empty())
	{
		plan.steps.insert(plan.steps.begin() + static_cast<long>(besides.back().first), besides.back().second);
		besides.pop_back();
	}
	for (size_t region = 0; region < plan.regions; ++region)
		plan.behind.push_back(random.oneIn(2) ? 0 : static_cast<int64_t>(random.below(100)));
	return plan;
}

// The regions, their links, and all that was written.
class Replay
{
public:
	Replay(const Plan &plan, FoldBreak broken, std::vector<std::string> *story) : plan_(plan), broken_(broken), story_(story), known_{plan.rules.front()}
	{
		check(*plan.strategy, merges_);
		if (plan.alters)
			merges_.defaults = {{kAdded, kDefault}};
		for (size_t region = 0; region < plan.regions; ++region)
		{
			std::vector<std::string> columns{"x", "y", "n"};
			std::rotate(columns.begin(), columns.begin() + static_cast<long>(region % 3), columns.end());
			sites_.emplace_back(columns, plan.first, plan.rules.front(), merges_, broken, plan.behind[region]);
		}
		received_.assign(plan.regions, std::vector<size_t>(plan.regions, 0));
		writes_.resize(plan.regions);
		brought_.assign(plan.regions, std::vector<std::set<Version>>(plan.rows));
		told_.assign(plan.regions, 1);
		altered_.assign(plan.regions, false);
		givenUp_.resize(plan.regions);
		heard_.assign(plan.regions, std::vector<size_t>(plan.regions, 0));
	}

	// All steps, and then whatever is missing until all have everything.
	ProverTotals run()
	{
		for (const Step &step : plan_.steps)
			take(step);
		for (size_t rule = 1; rule < plan_.rules.size(); ++rule)
		{
			everywhere(Step::Prepare);
			take({Step::Choose});
			everywhere(Step::Tell);
		}
		if (plan_.alters)
			everywhere(Step::Alter);
		for (size_t from = 0; from < plan_.regions; ++from)
			while (receivesFrom(from))
				;
		for (size_t from = 0; from < plan_.regions; ++from)
			for (size_t region = 0; region < plan_.regions; ++region)
				while (take({Step::Hear, region, from}))
					;
		everywhere(Step::Prune);
		return {1, 1, steps_};
	}

private:
	void everywhere(Step::Kind kind)
	{
		for (size_t region = 0; region < plan_.regions; ++region)
			take({kind, region});
	}

	bool receivesFrom(size_t from)
	{
		bool any = false;
		for (size_t region = 0; region < plan_.regions; ++region)
			any = take({.kind = Step::Receive, .region = region, .other = from, .pick = kGivesNothingUp}) || any;
		return any;
	}

	bool take(const Step &step)
	{
		FoldSite &site = sites_[step.region];
		std::string what;
		if (!act(step, site, what))
			return false;
		++steps_;
		if (story_)
			story_->push_back(std::string(kNames[step.region]) + what);
		for (size_t row = 0; row < plan_.rows; ++row)
			compare(step.region, row);
		return true;
	}

	bool act(const Step &step, FoldSite &site, std::string &what)
	{
		size_t region = step.region;
		switch (step.kind)
		{
			case Step::Write:
				return write(step, site, what);
			case Step::Receive:
			{
				size_t &next = received_[region][step.other];
				if (step.other == region || next == writes_[step.other].size())
					return false;
				const FoldTransaction &transaction = writes_[step.other][next];
				bool hasAdded = std::any_of(transaction.events.begin(), transaction.events.end(),
											[](const RowEvent &event) { return event.event.after && test::valueOf(*event.event.after, kAdded); });
				if (hasAdded && !altered_[region])
					return false; // it is parked until the column is there, and the link with it here
				what = " gets " + nameOf(transaction);
				giveUp(step, site, transaction, what);
				++next;
				site.receive(transaction);
				return true;
			}
			case Step::Repeat:
			{
				const std::vector<FoldTransaction> &writes = writes_[step.other];
				size_t applied = step.other == region ? writes.size() : received_[region][step.other];
				if (applied == 0)
					return false;
				const FoldTransaction &transaction = writes[step.pick % applied];
				site.receive(transaction);
				what = " gets again " + nameOf(transaction);
				return true;
			}
			case Step::Prune:
			{
				Hlc stable = stablePoint(region);
				bool histories = step.pick % 2 == 0;
				site.prune(stable, histories);
				what = " forgets up to the stable point, " + std::to_string(stable.value) + (histories ? "" : ", but for histories");
				return true;
			}
			case Step::Prepare:
				// for one rule after the other
				if (site.isPrepared() || told_[region] != known_.size() || known_.size() == plan_.rules.size())
					return false;
				site.prepare();
				what = " prepares for a new rule";
				return true;
			case Step::Choose:
			{
				bool ready = broken_ == FoldBreak::RuleUnprepared || std::all_of(sites_.begin(), sites_.end(), [](const FoldSite &site) { return site.isPrepared(); });
				bool allTold = std::all_of(told_.begin(), told_.end(), [&](size_t told) { return told == known_.size(); });
				if (!ready || !allTold || known_.size() == plan_.rules.size())
					return false;
				for (const FoldSite &prepared : sites_)
					if (broken_ != FoldBreak::RuleUnprepared)
						site.adopt(prepared.clock()); // at the latest from when it prepared
				MergeRule rule = plan_.rules[known_.size()];
				rule.from = Hlc{site.clock().value + 1 + step.ahead};
				what = " chooses the stamp " + std::to_string(rule.from.value) + " for the new rule" + (rule.merges() ? "" : ", last writer wins");
				known_.push_back(rule);
				return true;
			}
			case Step::Tell:
				if (told_[region] == known_.size())
					return false;
				site.activate(known_[told_[region]++]);
				what = " hears from where on the new rule holds";
				return true;
			case Step::Alter:
				if (!plan_.alters || altered_[region])
					return false;
				altered_[region] = true;
				site.addColumn({kAdded, kDefault});
				what = " adds a column with a default";
				return true;
			case Step::Resend:
			{
				const FoldSite &other = sites_[step.other];
				if (step.other == region || !other.keepsHistories() || !site.keepsHistories() || told_[region] != told_[step.other] ||
					altered_[region] != altered_[step.other])
					return false;
				site.receiveAgain(other);
				for (size_t row = 0; row < plan_.rows; ++row)
					for (const HistoryEvent &event : eventsAt(step.other, row))
						brought_[region][row].insert(event.version);
				what = " gets again what " + std::string(kNames[step.other]) + " has";
				return true;
			}
			case Step::Settle:
				for (size_t from = 0; from < plan_.regions; ++from)
					while (receivesFrom(from))
						;
				for (FoldSite &any : sites_)
					for (const FoldSite &other : sites_)
						any.adopt(other.clock());
				what = " is one of all whose clocks go on";
				return true;
			case Step::Hear:
			{
				size_t &next = heard_[region][step.other];
				if (step.other == region || next == givenUp_[step.other].size())
					return false;
				const GivenUp &said = givenUp_[step.other][next++];
				if (broken_ != FoldBreak::GivenUpAlone)
					site.giveUp(said.row, said.event);
				what = " hears that " + std::string(kNames[step.other]) + " has given up the merge of row " + std::to_string(said.row + 1) + " at " + toText(said.event);
				return true;
			}
		}
		return false;
	}

	// A merge that this event makes necessary does not come to an end: of the event, or of one behind it. It is said before the event counts as
	// applied.
	void giveUp(const Step &step, FoldSite &site, const FoldTransaction &transaction, std::string &what)
	{
		if (plan_.givesUp == 0 || step.pick % plan_.givesUp != 0)
			return;
		const RowEvent &of = transaction.events[step.pick / plan_.givesUp % transaction.events.size()];
		std::vector<Version> merged{of.event.version};
		for (const HistoryEvent &event : eventsAt(step.region, of.row))
			if (broken_ == FoldBreak::GivenUpBelow ? event.version < of.event.version : event.version > of.event.version)
				merged.push_back(event.version);
		const Version event = merged[step.pick / 64 % merged.size()];
		givenUp_[step.region].push_back({of.row, event, received_[step.region]});
		site.giveUp(of.row, event);
		what += ", and gives up the merge of row " + std::to_string(of.row + 1) + " at " + toText(event);
	}

	static std::string toText(const Version &version) { return std::to_string(version.hlc.value) + " of " + version.region; }

	bool write(const Step &step, FoldSite &site, std::string &what)
	{
		size_t sequence = writes_[step.region].size() + 1;
		FoldTransaction transaction{step.region, sequence, {Hlc{site.clock().value + 1 + step.ahead}, kNames[step.region]}, {}};
		int number = static_cast<int>(step.region * 10 + sequence % 10);
		std::vector<size_t> rows{step.row};
		if (step.pick % 4 == 0 && plan_.rows > 1)
			rows.push_back((step.row + 1) % plan_.rows);
		for (size_t row : rows)
			for (HistoryEvent &event : actOn(site.row(row), step.act, number, *plan_.strategy, transaction.version))
			{
				if (altered_[step.region] && event.after)
					writeAdded(event, step.pick % 3 == 0 && mayWriteAdded());
				transaction.events.push_back({row, std::move(event)});
			}
		if (transaction.events.empty())
			return false;
		site.write(transaction);
		what = " at " + std::to_string(transaction.version.hlc.value) + " writes " + nameOf(transaction) + ":";
		for (const RowEvent &event : transaction.events)
			what += " row " + std::to_string(event.row + 1) + " " + words(event.event);
		writes_[step.region].push_back(std::move(transaction));
		return true;
	}

	// The application writes the column when it is there everywhere. Where the last writer may win, nothing that lacks it may be under
	// way, either: of a late write of the column below such an event nothing would be kept.
	bool mayWriteAdded() const
	{
		bool may = std::all_of(altered_.begin(), altered_.end(), [](bool altered) { return altered; });
		if (std::all_of(plan_.rules.begin(), plan_.rules.end(), [](const MergeRule &rule) { return rule.merges(); }))
			return may;
		for (size_t from = 0; from < plan_.regions; ++from)
			for (size_t to = 0; to < plan_.regions; ++to)
				for (size_t i = received_[to][from]; from != to && i < writes_[from].size(); ++i)
					for (const RowEvent &event : writes_[from][i].events)
						may = may && (!event.event.after || test::valueOf(*event.event.after, kAdded));
		return may;
	}

	static void writeAdded(HistoryEvent &event, bool counts)
	{
		for (Column &column : *event.after)
			if (column.name == kAdded)
			{
				if (counts)
					column.value = std::to_string(std::stol(*column.value) + 1);
				return;
			}
		event.after->push_back({kAdded, kDefault}); // inserted
	}

	std::string nameOf(const FoldTransaction &transaction) const { return std::string(kNames[transaction.region]) + std::to_string(transaction.sequence); }

	// All regions have what is up to here, and none writes below any more: what it writes is above its clock. As far as a region knows that: what
	// another one says of what it has applied comes behind what it has given up before.
	Hlc stablePoint(size_t region) const
	{
		Hlc stable = sites_[0].clock();
		for (const FoldSite &site : sites_)
			stable = std::min(stable, site.clock());
		for (size_t from = 0; from < plan_.regions; ++from)
			for (size_t to = 0; to < plan_.regions; ++to)
				if (size_t next = appliedAsKnown(region, to)[from]; from != to && next < writes_[from].size())
					stable = std::min(stable, Hlc{writes_[from][next].version.hlc.value - 1});
		return stable;
	}

	const std::vector<size_t> &appliedAsKnown(size_t region, size_t other) const
	{
		const size_t next = heard_[region][other];
		const bool hasMore = other != region && next < givenUp_[other].size() && broken_ != FoldBreak::GivenUpLate;
		return hasMore ? givenUp_[other][next].received : received_[other];
	}

	std::vector<HistoryEvent> eventsAt(size_t region, size_t row) const
	{
		std::vector<HistoryEvent> events;
		for (size_t from = 0; from < plan_.regions; ++from)
			for (size_t i = 0; i < writes_[from].size(); ++i)
				for (const RowEvent &event : writes_[from][i].events)
					if (event.row == row && (from == region || i < received_[region][from] || brought_[region][row].contains(event.event.version)))
						events.push_back(event.event);
		return events;
	}

	void compare(size_t region, size_t row)
	{
		std::vector<HistoryEvent> events = eventsAt(region, row);
		std::set<Version> givenUp;
		for (size_t of = 0; of < plan_.regions; ++of)
			for (size_t i = 0; i < (of == region ? givenUp_[of].size() : heard_[region][of]); ++i)
				if (givenUp_[of][i].row == row)
					givenUp.insert(givenUp_[of][i].event);
		std::vector<MergeRule> rules(known_.begin(), known_.begin() + static_cast<long>(told_[region]));
		Image defaults;
		if (altered_[region])
			defaults.push_back({kAdded, kDefault});
		PlainRow is = plain(sites_[region].row(row));
		PlainRow fold = plainFold(plan_.first[row], std::move(events), rules, merges_, defaults, givenUp);
		if (is != fold)
			throw CheckFailed("I1", "in " + std::string(kNames[region]) + " row " + std::to_string(row + 1) + " is (" + words(is) +
										 "), and the fold of what has come there by then is (" + words(fold) + ")");
	}

	const Plan &plan_;
	FoldBreak broken_;
	std::vector<std::string> *story_;
	test::Merges merges_;
	std::vector<FoldSite> sites_;
	std::vector<std::vector<size_t>> received_; // how many, by region and source
	std::vector<std::vector<std::set<Version>>> brought_; // by resends; by region and row
	std::vector<std::vector<FoldTransaction>> writes_;
	std::vector<MergeRule> known_; // whose stamps are chosen
	std::vector<size_t> told_;     // how many of them each region knows
	std::vector<bool> altered_;
	struct GivenUp
	{
		size_t row;
		Version event;
		std::vector<size_t> received; // what the region had received before, by source
	};
	std::vector<std::vector<GivenUp>> givenUp_; // by region
	std::vector<std::vector<size_t>> heard_;	// how many of them, by region and source
	size_t steps_ = 0;
};

bool fails(const Plan &plan, FoldBreak broken)
{
	try
	{
		Replay(plan, broken, nullptr).run();
	}
	catch (const CheckFailed &)
	{
		return true;
	}
	return false;
}

} // namespace

ProverTotals proveFoldSeed(uint64_t seed, FoldBreak broken)
{
	Plan plan = planOf(seed);
	try
	{
		return Replay(plan, broken, nullptr).run();
	}
	catch (const CheckFailed &)
	{
	}
	for (bool shorter = true; shorter;)
	{
		shorter = false;
		for (size_t i = plan.steps.size(); i-- > 0;)
		{
			Plan without = plan;
			without.steps.erase(without.steps.begin() + static_cast<long>(i));
			if (fails(without, broken))
			{
				plan = std::move(without);
				shorter = true;
			}
		}
	}
	std::vector<std::string> story;
	try
	{
		Replay(plan, broken, &story).run();
	}
	catch (const CheckFailed &failure)
	{
		std::string text = failure.what() + std::string("\n  the rule: ") + plan.strategy->name + (plan.rules.front().merges() ? "" : ", not at first");
		for (size_t row = 0; row < plan.rows; ++row)
			text += "\n  row " + std::to_string(row + 1) + " at first, everywhere: (" + words(plan.first[row]) + ")";
		for (const std::string &step : story)
			text += "\n  " + step;
		throw CheckFailed(failure.check, text);
	}
	throw CheckFailed("exception", "the same steps end otherwise");
}

} // namespace mrsync::sim
