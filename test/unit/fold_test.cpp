// The fold of a row with merges, told as what users do; and what is left when a function fails, the table refuses a row, a column
// is missing, or the rules change. That no order of arrival matters is proved in test/sim/prover.h.
#include "core/fold.h"

#include "unit/merges.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace mrsync
{

namespace
{

using Value = MergeCalls::Value;

constexpr ColumnRule kRow = ColumnRule::LastWriter, kColumn = ColumnRule::LastChange;

MergeRule ruleOf(ColumnRule columns, std::map<std::string, std::string> functions = {}, std::string rowFunction = "", int64_t from = 0)
{
	return {Hlc{from}, columns, std::move(functions), std::move(rowFunction)};
}

MergeRules rulesOf(MergeRule rule) { return MergeRules({std::move(rule)}); }

HistoryEvent event(int64_t hlc, RowState before, RowState after, const std::string &region = "eu")
{
	return {{Hlc{hlc}, region}, std::move(before), std::move(after)};
}

// A row whose columns are n, or what is said.
Image row(const std::string &n) { return {{"n", n}}; }
Image row(std::initializer_list<Column> columns) { return columns; }

const RowState kNone;

// A state that a failing test shows.
struct Shown
{
	RowState row;
	bool operator==(const RowState &other) const { return row == other; }
	friend void PrintTo(const Shown &shown, std::ostream *out)
	{
		if (!shown.row)
			*out << "no row";
		else
			for (const Column &column : *shown.row)
				*out << column.name << '=' << column.value.value_or("NULL") << ' ';
	}
};

// The state after the events, which are given in any order, one by one; as the applier keeps it, it is the same.
Shown folded(const RowState &first, std::vector<HistoryEvent> events, const MergeRules &rules, MergeCalls &calls)
{
	std::stable_sort(events.begin(), events.end(), [](const HistoryEvent &e, const HistoryEvent &f) { return e.version < f.version; });
	RowState state = first;
	for (const HistoryEvent &event : events)
		state = foldStep(state, event, rules.at(event.version.hlc), calls);
	std::vector<size_t> order;
	for (size_t i = 0; i < events.size(); ++i)
		order.push_back(i);
	do
	{
		History history({}, first);
		bool possible = true; // events of one transaction come in their order
		for (size_t i = 0; i < order.size(); ++i)
		{
			for (size_t j = 0; j < i; ++j)
				possible = possible && (order[j] < order[i] || events[order[j]].version != events[order[i]].version);
			EXPECT_TRUE(history.insert(events[order[i]]));
		}
		if (possible)
		{
			EXPECT_EQ(Shown{history.fold(rules, calls)}, state);
		}
	} while (std::next_permutation(order.begin(), order.end()));
	return {state};
}

class Fold : public testing::Test
{
protected:
	Shown fold(const RowState &first, std::vector<HistoryEvent> events, const MergeRule &rule)
	{
		return folded(first, std::move(events), rulesOf(rule), calls);
	}
	Shown step(const RowState &state, const HistoryEvent &event, const MergeRule &rule) { return {foldStep(state, event, rule, calls)}; }
	test::Merges calls;
};

// ---- what users do

TEST_F(Fold, lastWriterTakesTheWholeRow)
{
	Image lamp = row({{"name", "Lamp"}, {"price", "20"}});
	Image renamed = row({{"name", "Desk lamp"}, {"price", "20"}}), cheaper = row({{"name", "Lamp"}, {"price", "18"}});
	EXPECT_EQ(fold(lamp, {event(1, lamp, renamed), event(2, lamp, cheaper, "us")}, ruleOf(kRow)), cheaper);
}

TEST_F(Fold, twoColumnsOfARowKeepTheChangesOfBoth)
{
	Image lamp = row({{"name", "Lamp"}, {"price", "20"}});
	Image renamed = row({{"name", "Desk lamp"}, {"price", "20"}}), cheaper = row({{"name", "Lamp"}, {"price", "18"}});
	EXPECT_EQ(fold(lamp, {event(1, lamp, renamed), event(2, lamp, cheaper, "us")}, ruleOf(kColumn)),
			  row({{"name", "Desk lamp"}, {"price", "18"}}));
	Image light = row({{"name", "Light"}, {"price", "20"}});
	EXPECT_EQ(fold(lamp, {event(1, lamp, renamed), event(2, lamp, light, "us"), event(3, lamp, cheaper, "ap")}, ruleOf(kColumn)),
			  row({{"name", "Light"}, {"price", "18"}}))
		<< "who changed the name last, though not the row";
	Image dark = row({{"name", Value()}, {"price", "20"}});
	EXPECT_EQ(fold(lamp, {event(1, lamp, dark), event(2, lamp, cheaper, "us")}, ruleOf(kColumn)), row({{"name", Value()}, {"price", "18"}}))
		<< "NULL is a change, too";
}

TEST_F(Fold, aCounterCountsEverySale)
{
	MergeRule counter = ruleOf(kRow, {{"n", "counter"}});
	EXPECT_EQ(fold(row("100"), {event(1, row("100"), row("98")), event(2, row("100"), row("95"), "us")}, counter), row("93"));
	EXPECT_EQ(fold(row("100"), {event(1, row("100"), row("98")), event(2, row("100"), row("95"), "us"), event(3, row("98"), row("97"), "ap")}, counter),
			  row("92"))
		<< "the third one had seen one of the two";
	EXPECT_EQ(fold(row("100"), {event(1, row("100"), row("99")), event(1, row("99"), row("98")), event(2, row("100"), row("95"), "us")}, counter),
			  row("93"))
		<< "two sales in one transaction";
	EXPECT_EQ(fold(row("100"), {event(1, row("100"), row("99")), event(2, row("100"), row("99"), "us")}, counter), row("98"))
		<< "the same sale twice is two sales";
}

TEST_F(Fold, aCartHasWhatBothPutIn)
{
	auto cart = [](const char *items) { return row({{"items", items}}); };
	EXPECT_EQ(fold(cart("tea,milk"), {event(1, cart("tea,milk"), cart("tea,milk,bread")), event(2, cart("tea,milk"), cart("milk,honey"), "us")},
				   ruleOf(kColumn, {{"items", "set"}})),
			  cart("milk,bread,honey"));
}

TEST_F(Fold, textsAndDocuments)
{
	auto page = [](const char *text, const char *data) { return row({{"text", text}, {"data", data}}); };
	EXPECT_EQ(fold(page("a\nb", "{n:1}"),
				   {event(1, page("a\nb", "{n:1}"), page("A\nb", "{n:3,tags:[x]}")), event(2, page("a\nb", "{n:1}"), page("a\nb\nc", "{n:2,tags:[y]}"), "us")},
				   ruleOf(kRow, {{"text", "text"}, {"data", "document"}})),
			  page("A\nb\nc", "{n:4,tags:[x,y]}"));
}

TEST_F(Fold, deleteAgainstUpdate)
{
	MergeRule counter = ruleOf(kColumn, {{"n", "counter"}});
	Image ten = row({{"n", "10"}, {"name", "Lamp"}}), fifteen = row({{"n", "15"}, {"name", "Lamp"}});
	EXPECT_EQ(fold(ten, {event(1, ten, fifteen), event(2, ten, kNone, "us")}, counter), kNone) << "whether there is a row is the last one's to say";
	EXPECT_EQ(fold(ten, {event(1, ten, kNone), event(2, ten, fifteen, "us")}, counter), row({{"n", "5"}, {"name", "Lamp"}}))
		<< "the ten were deleted, the five added";
	EXPECT_EQ(fold(ten, {event(1, ten, kNone), event(2, ten, fifteen, "us"), event(3, ten, kNone, "ap")}, counter), kNone);
	auto cart = [](const char *items) { return row({{"items", items}}); };
	EXPECT_EQ(fold(cart("tea"), {event(1, cart("tea"), kNone), event(2, cart("tea"), cart("tea,milk"), "us")}, ruleOf(kRow, {{"items", "set"}})), cart("milk"));
	EXPECT_EQ(fold(cart("a"), {event(1, cart("a"), kNone), event(2, cart("a"), cart("a\nb"), "us")}, ruleOf(kRow, {{"items", "text"}})), cart("a\nb"))
		<< "a text is nothing where there is no row: the event's";
}

TEST_F(Fold, aCounterOverDeletionAndNewInsertion)
{
	// There it was deleted at 10, and inserted anew with 0; here 5 were added meanwhile. In whatever order, the 5 stay.
	MergeRule counter = ruleOf(kRow, {{"n", "counter"}});
	HistoryEvent added = event(2, row("10"), row("15"));
	EXPECT_EQ(fold(row("10"), {event(1, row("10"), kNone, "us"), added, event(3, kNone, row("0"), "us")}, counter), row("5"));
	EXPECT_EQ(fold(row("10"), {event(0, row("10"), kNone, "us"), event(1, kNone, row("0"), "us"), added}, counter), row("5"));
	EXPECT_EQ(fold(row("10"), {event(1, row("10"), kNone, "us"), event(1, kNone, row("0"), "us"), added}, counter), row("5")) << "in one transaction";
	EXPECT_EQ(fold(row("10"), {added, event(3, row("10"), kNone, "us"), event(4, kNone, row("0"), "us")}, counter), row("0"))
		<< "but what was added before the deletion was deleted, too";
}

TEST_F(Fold, insertAgainstInsert)
{
	EXPECT_EQ(fold(kNone, {event(1, kNone, row("5")), event(2, kNone, row("7"), "us")}, ruleOf(kRow, {{"n", "counter"}})), row("12"));
	EXPECT_EQ(fold(kNone, {event(1, kNone, row({{"n", "5"}, {"name", "Lamp"}})), event(2, kNone, row({{"n", "7"}, {"name", "Light"}}), "us")}, ruleOf(kColumn)),
			  row({{"n", "7"}, {"name", "Light"}}))
		<< "each column is new in both";
	EXPECT_EQ(fold(kNone, {event(1, kNone, row("a,b")), event(2, kNone, row("b,c"), "us")}, ruleOf(kRow, {{"n", "set"}})), row("a,b,c"));
}

TEST_F(Fold, whoWritesWhatHeSawGoesByNobodysRule)
{
	for (const MergeRule &rule : {ruleOf(kRow, {{"n", "f"}}), ruleOf(kRow, {{"n", "never"}}), ruleOf(kRow, {}, "f")})
	{
		EXPECT_EQ(fold(row("1"), {event(1, row("1"), row("2")), event(2, row("2"), row("3"), "us"), event(3, row("3"), kNone)}, rule), kNone);
		EXPECT_EQ(fold(kNone, {event(1, kNone, row("2")), event(2, row("2"), row("3"), "us")}, rule), row("3"));
	}
}

TEST_F(Fold, aFunctionOfOnesOwnIsAskedInTheOrderOfTheVersions)
{
	// f is neither commutative nor associative: it says what it was called with, (ancestor, state, event)
	std::vector<HistoryEvent> events{event(1, row("o"), row("a")), event(2, row("o"), row("b"), "us"), event(2, row("o"), row("c"), "ap")};
	EXPECT_EQ(fold(row("o"), events, ruleOf(kRow, {{"n", "f"}})), row("f(o,f(o,a,c),b)")) << "of one stamp the regions decide";
	EXPECT_EQ(fold(row("o"), events, ruleOf(kRow, {}, "f")), row("f(o,f(o,a,c),b)")) << "and on the whole row";
	EXPECT_EQ(fold(row("o"), {event(1, row("o"), kNone), event(2, row("o"), row("b"), "us")}, ruleOf(kRow, {{"n", "f"}})), row("f(o,NULL,b)"));
	EXPECT_EQ(fold(row("o"), {event(1, row("o"), kNone), event(2, row("o"), row("b"), "us")}, ruleOf(kRow, {}, "f")), row("f(o,none,b)"));
	EXPECT_EQ(fold(kNone, {event(1, kNone, row("a")), event(2, kNone, row("b"), "us")}, ruleOf(kRow, {}, "f")), row("f(none,a,b)"));
	EXPECT_EQ(fold(row("o"), {event(1, row("o"), row("a")), event(2, row("o"), row("o"), "us")}, ruleOf(kRow, {{"n", "f"}})), row("a"))
		<< "nobody asks it what one side alone changed";
}

// ---- what fails

TEST_F(Fold, aFunctionThatGivesNothingLeavesTheEventsValue)
{
	EXPECT_EQ(fold(row({{"n", "1"}, {"m", "1"}}), {event(1, row({{"n", "1"}, {"m", "1"}}), row({{"n", "2"}, {"m", "2"}})), event(2, row({{"n", "1"}, {"m", "1"}}), row({{"n", "3"}, {"m", "4"}}), "us")},
				   ruleOf(kRow, {{"n", "never"}, {"m", "counter"}})),
			  row({{"n", "3"}, {"m", "5"}}))
		<< "the other columns are merged";
	EXPECT_EQ(fold(row("1"), {event(1, row("1"), row("2")), event(2, row("1"), row("3"), "us")}, ruleOf(kRow, {}, "never")), row("3"));
	std::string most = std::to_string(std::numeric_limits<int64_t>::max());
	EXPECT_EQ(fold(row("0"), {event(1, row("0"), row(most)), event(2, row("0"), row("1"), "us")}, ruleOf(kRow, {{"n", "counter"}})), row("1"))
		<< "a sum that does not fit";
}

TEST_F(Fold, functionsAreToldWhichEventTheyAreAskedFor)
{
	struct Told : test::Merges
	{
		std::vector<Version> of;
		void step(const Version &event) override { of.push_back(event); }
	} told;
	History history(Version{Hlc{1}, "eu"}, row("1"));
	history.insert(event(2, row("1"), row("2")));
	history.insert(event(3, row("1"), row("3"), "us"));
	history.insert(event(4, row("1"), row("4"), "ap"));
	history.fold(rulesOf(ruleOf(kRow, {{"n", "counter"}})), told);
	EXPECT_EQ(told.of, (std::vector<Version>{{Hlc{3}, "us"}, {Hlc{4}, "ap"}})); // nobody is asked for what eu had seen
}

TEST_F(Fold, aRowThatTheTableRefusesLeavesTheEventsRow)
{
	calls.check = [](const Image &row) { return std::stoi(**test::valueOf(row, "n")) >= 0; };
	auto stock = [](const char *n, const char *name) { return row({{"n", n}, {"name", name}}); };
	std::vector<HistoryEvent> events{event(1, stock("10", "Lamp"), stock("3", "Desk lamp")), event(2, stock("10", "Lamp"), stock("4", "Lamp"), "us")};
	EXPECT_EQ(fold(stock("10", "Lamp"), events, ruleOf(kColumn, {{"n", "counter"}})), stock("4", "Lamp")) << "10 - 7 - 6: the whole image is taken";
	events[1] = event(2, stock("10", "Lamp"), stock("8", "Lamp"), "us");
	EXPECT_EQ(fold(stock("10", "Lamp"), events, ruleOf(kColumn, {{"n", "counter"}})), stock("1", "Desk lamp"));
	calls.check = [](const Image &row) { return test::valueOf(row, "n")->value_or("").front() != 'f'; };
	EXPECT_EQ(fold(row("o"), {event(1, row("o"), row("a")), event(2, row("o"), row("b"), "us")}, ruleOf(kRow, {}, "f")), row("b"));
}

// ---- columns

TEST_F(Fold, columnsMayBeInAnotherOrderElsewhere)
{
	// A function on the row is not asked about a row that its writer saw, though his table has its columns the other way round.
	Image here = row({{"x", "1"}, {"y", "2"}}), there = row({{"y", "2"}, {"x", "1"}}), after = row({{"y", "3"}, {"x", "1"}});
	for (const MergeRule &rule : {ruleOf(kRow, {}, "f"), ruleOf(kColumn), ruleOf(kRow, {{"y", "f"}})})
		EXPECT_EQ(step(here, event(2, there, after, "us"), rule), after);
	EXPECT_EQ(step(row({{"x", "5"}, {"y", "2"}}), event(2, there, after, "us"), ruleOf(kColumn, {{"x", "counter"}})),
			  row({{"y", "3"}, {"x", "5"}}));
	EXPECT_EQ(step(row({{"x", "1"}, {"y", "9"}}), event(2, there, row({{"y", "2"}, {"x", "7"}}), "us"), ruleOf(kColumn)),
			  row({{"y", "9"}, {"x", "7"}}));
}

TEST_F(Fold, anAddedColumnStartsWithWhatItsFirstWriterSaw)
{
	// The history began before the column was added, with the default 100: its base does not have it. A counter on it must not
	// begin at 0 here, and at 100 where the history began later.
	MergeRule counter = ruleOf(kColumn, {{"n", "counter"}});
	Image old = row({{"x", "1"}}), full = row({{"x", "1"}, {"n", "100"}});
	auto with = [](const char *x, const char *n) { return row({{"x", x}, {"n", n}}); };
	std::vector<HistoryEvent> events{event(2, full, with("1", "101")), event(3, full, with("1", "105"), "us")};
	for (const Image &base : {old, full})
		EXPECT_EQ(fold(base, events, counter), with("1", "106"));
	events.push_back(event(1, old, row({{"x", "2"}}), "ap")); // from where the column was not added yet; it comes late
	for (const Image &base : {old, full})
		EXPECT_EQ(fold(base, events, counter), with("2", "106"));
	events.back().version.hlc = Hlc{4}; // its clock is ahead
	for (const Image &base : {old, full})
		EXPECT_EQ(fold(base, events, counter), with("2", "106")) << "what it says nothing of stays";
	events.push_back(event(5, full, with("1", "102"), "us"));
	for (const Image &base : {old, full})
		EXPECT_EQ(fold(base, events, counter), with("2", "108")) << "and is counted on from";
}

TEST_F(Fold, anAddedColumnIsItsDefaultWhereTheImagesLackIt)
{
	// Deleted, brought back by an update from where the column was not added yet, inserted where it was. The second step finds it
	// with its default in the table; folded anew from a base without it, it has to be the same.
	calls.defaults = row("100");
	MergeRule counter = ruleOf(kColumn, {{"n", "counter"}});
	Image old = row({{"x", "1"}}), updated = row({{"x", "2"}});
	auto with = [](const char *x, const char *n) { return row({{"x", x}, {"n", n}}); };
	EXPECT_EQ(step(with("2", "100"), event(3, kNone, with("3", "7"), "us"), counter), with("3", "107"));
	EXPECT_EQ(fold(old, {event(1, old, kNone, "us"), event(2, old, updated), event(3, kNone, with("3", "7"), "us")}, counter), with("3", "107"));
	EXPECT_EQ(fold(old, {event(1, with("1", "100"), with("1", "101")), event(2, with("1", "100"), with("2", "100"), "us")}, counter), with("2", "101"));
	EXPECT_EQ(step(old, event(2, with("1", "100"), with("2", "100")), ruleOf(kRow, {}, "f")), with("2", "100")) << "its writer saw all";
	EXPECT_EQ(step(old, event(2, with("1", "50"), with("2", "50")), ruleOf(kColumn)), with("2", "100")) << "and here did not";
}

TEST_F(Fold, aColumnThatTheEventLacksStays)
{
	Image state = row({{"x", "1"}, {"n", "5"}}), before = row({{"x", "1"}}), after = row({{"x", "2"}});
	for (const MergeRule &rule : {ruleOf(kRow), ruleOf(kColumn), ruleOf(kRow, {{"x", "f"}}), ruleOf(kRow, {}, "f")})
		EXPECT_EQ(step(state, event(2, before, after), rule), row({{"x", "2"}, {"n", "5"}})) << "what it did not have makes no difference";
	EXPECT_EQ(step(state, event(2, row({{"x", "0"}}), after), ruleOf(kRow, {}, "f")), row({{"x", "f(0,1,2)"}, {"n", "f(lacking,5,5)"}}))
		<< "a function on the row is shown a whole row";
	EXPECT_EQ(step(kNone, event(2, before, after), ruleOf(kColumn, {{"n", "counter"}})), after);
	EXPECT_EQ(step(state, event(2, kNone, after), ruleOf(kColumn, {{"n", "counter"}})), row({{"x", "2"}, {"n", "5"}}));
}

// ---- rules

TEST(MergeRules, holdFromTheirStampsOn)
{
	MergeRules rules({ruleOf(kColumn, {}, "", 20), ruleOf(kRow, {{"n", "counter"}}, "", 10)});
	EXPECT_EQ(rules.at(Hlc{9}), MergeRule{}) << "before the first: last writer wins";
	EXPECT_EQ(rules.at(Hlc{10}), ruleOf(kRow, {{"n", "counter"}}, "", 10));
	EXPECT_EQ(rules.at(Hlc{19}), ruleOf(kRow, {{"n", "counter"}}, "", 10));
	EXPECT_EQ(rules.at(Hlc{20}), ruleOf(kColumn, {}, "", 20));
	EXPECT_EQ(MergeRules().at(Hlc{5}), MergeRule{});
	EXPECT_TRUE(rules.merges());
	EXPECT_FALSE(MergeRules().merges());
	EXPECT_FALSE(MergeRules({ruleOf(kRow, {}, "", 5)}).merges());
	EXPECT_TRUE(MergeRules({ruleOf(kRow, {}, "f", 5)}).merges());
}

TEST_F(Fold, eachEventGoesByTheRuleOfItsStamp)
{
	MergeRules rules({ruleOf(kRow, {{"n", "counter"}}, "", 20), ruleOf(kRow, {}, "", 40)});
	auto add = [](int64_t hlc, const char *to, const char *region) { return event(hlc, row("10"), row(to), region); };
	EXPECT_EQ(folded(row("10"), {add(18, "11", "eu"), add(19, "12", "us")}, rules, calls), row("12")) << "before: last writer wins";
	EXPECT_EQ(folded(row("10"), {add(19, "11", "eu"), add(20, "12", "us")}, rules, calls), row("13"));
	EXPECT_EQ(folded(row("10"), {add(39, "11", "eu"), add(40, "12", "us")}, rules, calls), row("12")) << "and then again";
	EXPECT_EQ(folded(row("10"), {add(18, "11", "eu"), add(19, "12", "us"), add(20, "14", "ap"), add(41, "15", "us"), add(30, "20", "eu")}, rules, calls), row("15"));
}

// ---- the history

class RowHistory : public Fold
{
protected:
	const MergeRules counter = rulesOf(ruleOf(kRow, {{"n", "counter"}}));
};

TEST_F(RowHistory, aLateEventFindsItsPlace)
{
	History history({Hlc{1}, "eu"}, row("10"));
	EXPECT_EQ(history.version(), (Version{Hlc{1}, "eu"}));
	EXPECT_EQ(Shown{history.fold(counter, calls)}, row("10"));
	ASSERT_TRUE(history.insert(event(30, row("10"), row("13"))));
	ASSERT_TRUE(history.insert(event(20, row("10"), row("12"), "us")));
	ASSERT_TRUE(history.insert(event(20, row("12"), row("14"), "us"))); // of the same transaction
	ASSERT_TRUE(history.insert(event(20, row("10"), row("11"), "ap")));
	EXPECT_EQ(history.version(), (Version{Hlc{30}, "eu"})) << "late ones leave the row its version";
	std::vector<std::string> regions;
	for (const HistoryEvent &event : history.events())
		regions.push_back(event.version.region + **test::valueOf(*event.after, "n"));
	EXPECT_EQ(regions, (std::vector<std::string>{"ap11", "us12", "us14", "eu13"}));
	EXPECT_EQ(Shown{history.fold(counter, calls)}, row("18"));
}

TEST_F(RowHistory, whatIsNotAboveTheBaseIsInIt)
{
	History history({Hlc{20}, "eu"}, row("10"));
	EXPECT_FALSE(history.insert(event(20, row("9"), row("10"))));
	EXPECT_FALSE(history.insert(event(20, row("9"), row("11"), "ap")));
	EXPECT_FALSE(history.insert(event(19, row("9"), row("11"), "us")));
	EXPECT_TRUE(history.events().empty());
	EXPECT_TRUE(history.insert(event(20, row("10"), row("11"), "us"))) << "above by its region";
	EXPECT_EQ(Shown{history.fold(counter, calls)}, row("11"));
}

TEST_F(RowHistory, ofWhichNothingIsKnownBeforeItsFirstEventBeginsWithWhatThatFound)
{
	const MergeRules rules = rulesOf(ruleOf(kRow, {{"n", "counter"}}));
	History history;
	EXPECT_EQ(Shown{history.fold(rules, calls)}, kNone);
	history.insert(event(20, row("10"), row("15")));
	EXPECT_EQ(Shown{history.fold(rules, calls)}, row("15"));
	history.insert(event(10, kNone, row("10"), "us")); // its beginning, by a longer way
	EXPECT_EQ(Shown{history.fold(rules, calls)}, row("15"));
	history.insert(event(15, row("10"), row("17"), "us"));
	EXPECT_EQ(Shown{history.fold(rules, calls)}, row("22"));
}

TEST_F(RowHistory, aDeletionThatIsInNoHistoryEndsWhatIsBelowIt)
{
	const MergeRules rules = rulesOf(ruleOf(kRow, {{"n", "counter"}}));
	History history({}, row("10"));
	history.insert(event(10, row("10"), row("11")));
	history.insert(event(20, row("10"), row("13"), "us"));
	EXPECT_EQ(Shown{history.fold(rules, calls)}, row("14"));
	history.deleted({Hlc{15}, "ap"});
	EXPECT_EQ(Shown{history.fold(rules, calls)}, row("3"));
	EXPECT_FALSE(history.insert(event(12, row("10"), row("12"), "us")));
}

TEST_F(RowHistory, whatATransactionDidAroundItsTruncationIsInItsOrder)
{
	const MergeRules rules = rulesOf(ruleOf(kRow, {{"n", "counter"}}));
	History history({}, row("10"));
	history.insert(event(10, row("10"), row("12"), "us"));
	history.insert(event(20, row("10"), row("11"))); // UPDATE; TRUNCATE; INSERT
	history.insert(event(20, kNone, row("1")));
	history.deleted({Hlc{20}, "eu"});
	EXPECT_EQ(Shown{history.fold(rules, calls)}, row("1"));
}

TEST_F(RowHistory, forgettingChangesNothing)
{
	const std::vector<HistoryEvent> events{event(10, row("10"), row("11"), "ap"), event(20, row("10"), kNone, "us"), event(20, kNone, row("0"), "us"),
										   event(30, row("10"), row("13")),		  event(30, row("10"), row("14"), "us"), event(40, row("13"), kNone, "ap")};
	for (size_t count = 0; count <= events.size(); ++count)
		for (int64_t upTo : {5, 10, 19, 20, 29, 30, 40, 50})
		{
			History history({Hlc{5}, "eu"}, row("10"));
			for (size_t i = 0; i < count; ++i)
				history.insert(events[i]);
			RowState whole = history.fold(counter, calls);
			Version version = history.version();
			history.forget(Hlc{upTo}, counter, calls);
			EXPECT_EQ(Shown{history.fold(counter, calls)}, whole) << count << " events, up to " << upTo;
			EXPECT_EQ(history.version(), version);
			for (const HistoryEvent &kept : history.events())
				EXPECT_GT(kept.version.hlc.value, upTo);
			if (count < events.size() && events[count].version.hlc.value <= upTo)
				continue; // it was above the stable point
			for (size_t i = count; i < events.size(); ++i)
				EXPECT_TRUE(history.insert(events[i]));
			EXPECT_EQ(Shown{history.fold(counter, calls)}, folded(row("10"), events, counter, calls).row) << count << " events, up to " << upTo;
		}
}

TEST_F(RowHistory, aRuleThatIsHeardOfLaterIsFoldedAnewFromItsStampOn)
{
	// 10 was read twice, and 1 and 2 added: under last writer wins one addition was lost. The rule begins in between.
	History history({Hlc{5}, "eu"}, row("10"));
	history.insert(event(10, row("10"), row("11")));
	history.insert(event(20, row("10"), row("12"), "us"));
	EXPECT_EQ(Shown{history.fold(MergeRules(), calls)}, row("12"));
	MergeRules told({ruleOf(kRow, {{"n", "counter"}}, "", 15)});
	history.rulesChanged();
	EXPECT_EQ(Shown{history.fold(told, calls)}, row("13"));
	history.forget(Hlc{14}, told, calls);
	EXPECT_EQ(history.base(), row("11"));
	EXPECT_EQ(history.baseVersion(), (Version{Hlc{10}, "eu"}));
	EXPECT_EQ(Shown{history.fold(told, calls)}, row("13"));
}

} // namespace
} // namespace mrsync
