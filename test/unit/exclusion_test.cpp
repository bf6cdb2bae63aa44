// Rows that exclude each other, exhaustively: small sets of events on rows with one and two unique columns, in all orders
// of arrival, end with the same table and the same rows held aside (I13).
//
// The board below is what the applier does, on one page: fold each row by the resolver, place it by place(), try what a
// row has held again when that row changes. `Release::Later` leaves the last to a timer, which comes when all is there.
// Whoever does not fit may be made to fit: without the values that others have, or with such as a function gives it.
#include "core/exclusion.h"

#include "unit/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <vector>

namespace mrsync
{
namespace
{

constexpr size_t kRows = 3;
using Values = std::array<int, 2>; // of the unique columns; 0: NULL, which excludes nothing

struct Event
{
	size_t row = 0;
	Operation op = Operation::Insert; // or Delete
	Version version;
	Values values{};
};

struct Row
{
	LocalKind kind = LocalKind::Absent;
	Version version;
	Values values{};
	std::optional<Values> made; // in the table with these
	const Values &placed() const { return made ? *made : values; }
	bool operator==(const Row &) const = default;
};
using Rows = std::array<Row, kRows>;

using Columns = std::array<bool, 2>;

Columns excluding(const Values &a, const Values &b)
{
	Columns columns{};
	for (size_t column = 0; column < a.size(); ++column)
		columns[column] = a[column] != 0 && a[column] == b[column];
	return columns;
}

bool excludes(const Values &a, const Values &b) { return excluding(a, b) != Columns{}; }

enum class Loser
{
	IsHeldAside,
	IsSetNull,
	IsNumbered, // a value goes to the next, which others may have
};
constexpr Loser kLosers[] = {Loser::IsHeldAside, Loser::IsSetNull, Loser::IsNumbered};

// What a row becomes of which others have the values in these columns.
std::optional<Values> makeFit(Loser loser, Values values, const Columns &columns)
{
	if (loser == Loser::IsHeldAside)
		return std::nullopt;
	for (size_t column = 0; column < values.size(); ++column)
		if (loser == Loser::IsNumbered && values[column] != 0)
			++values[column];
		else if (columns[column])
			values[column] = 0;
	return values;
}

Claim claimOf(const Rows &rows, size_t row) { return {rows[row].version, std::to_string(row)}; }

enum class Release
{
	AtOnce,
	Later,
};

class Board
{
public:
	Board(Loser loser, Release release) : loser_(loser), release_(release) {}

	void apply(const Event &event)
	{
		Row &row = rows_[event.row];
		Decision decision = resolve(LocalState{row.kind, row.version, false, false, false, {}}, event.op, event.version);
		if (decision.action == Action::Keep)
			return;
		Row former = row;
		row = Row{LocalKind::Tombstone, event.version, event.values, {}};
		if (event.op == Operation::Delete)
			row.values = {};
		else
			put(event.row);
		if (former.kind == LocalKind::Live)
			freed(former);
		checkTable();
	}

	// The timer, in the order that makes the most work.
	void settle()
	{
		for (bool again = true; again;)
		{
			again = false;
			for (size_t row : losers())
				if (outcome(row) != rows_[row])
				{
					put(row);
					again = true;
					break;
				}
		}
		checkTable();
		checkLosers();
	}

	const Rows &rows() const { return rows_; }

private:
	std::vector<size_t> rivals(const Values &values, size_t row) const
	{
		std::vector<size_t> found;
		for (size_t other = 0; other < kRows; ++other)
			if (other != row && rows_[other].kind == LocalKind::Live && excludes(rows_[other].placed(), values))
				found.push_back(other);
		return found;
	}

	// Rows that are not in the table as they were written, the lowest first.
	std::vector<size_t> losers() const
	{
		std::vector<size_t> found;
		for (size_t row = 0; row < kRows; ++row)
			if (rows_[row].kind == LocalKind::Aside || rows_[row].made)
				found.push_back(row);
		std::sort(found.begin(), found.end(),
		          [this](size_t a, size_t b) { return claimOf(rows_, a) < claimOf(rows_, b); });
		return found;
	}

	bool fits(size_t row, const Values &values) const
	{
		std::vector<Claim> claims;
		for (size_t rival : rivals(values, row))
			claims.push_back(claimOf(rows_, rival));
		return place(claimOf(rows_, row), claims).inTable;
	}

	// What becomes of a row, the others being as they are.
	Row outcome(size_t row) const
	{
		Row result{LocalKind::Live, rows_[row].version, rows_[row].values, {}};
		if (fits(row, result.values))
			return result;
		Columns columns{};
		for (size_t rival : rivals(result.values, row))
			if (Columns by = excluding(rows_[rival].placed(), result.values); claimOf(rows_, rival) > claimOf(rows_, row))
				for (size_t i = 0; i < columns.size(); ++i)
					columns[i] |= by[i];
		result.made = makeFit(loser_, result.values, columns);
		if (!result.made || !fits(row, *result.made))
			return Row{LocalKind::Aside, result.version, result.values, {}};
		return result;
	}

	void put(size_t row)
	{
		const Row former = rows_[row];
		rows_[row] = outcome(row);
		std::vector<Row> gone;
		if (former.kind == LocalKind::Live && former != rows_[row])
			gone.push_back(former);
		if (rows_[row].kind == LocalKind::Live)
			for (size_t rival : rivals(rows_[row].placed(), row))
			{
				gone.push_back(rows_[rival]);
				rows_[rival].kind = LocalKind::Aside;
				rows_[rival].made.reset();
				if (release_ == Release::AtOnce)
					evicted_.push_back(rival);
			}
		while (!evicted_.empty())
		{
			size_t rival = evicted_.back();
			evicted_.pop_back();
			put(rival);
		}
		for (const Row &one : gone)
			freed(one);
	}

	// A row has left the table, or is another one now: what it held is tried again, the highest first.
	void freed(const Row &former)
	{
		if (release_ == Release::Later)
			return;
		std::vector<size_t> waiting = losers();
		for (size_t i = waiting.size(); i > 0; --i)
			if (size_t row = waiting[i - 1]; outcome(row) != rows_[row] && former.kind == LocalKind::Live)
				put(row);
	}

	void checkTable() const
	{
		for (size_t row = 0; row < kRows; ++row)
			ASSERT_TRUE(rows_[row].kind != LocalKind::Live || rivals(rows_[row].placed(), row).empty());
		if (release_ == Release::AtOnce)
			checkLosers();
	}

	void checkLosers() const
	{
		for (size_t row : losers())
			ASSERT_TRUE(outcome(row) == rows_[row]);
	}

	Loser loser_;
	Release release_;
	Rows rows_;
	std::vector<size_t> evicted_; // and to be put anew
};

// What must come out: each row's last event; of these, from the highest down, what fits, or is made to fit.
Rows expected(Loser loser, const std::vector<Event> &events)
{
	Rows rows;
	for (const Event &event : events)
		if (Row &row = rows[event.row]; row.kind == LocalKind::Absent || row.version < event.version)
			row = event.op == Operation::Delete ? Row{LocalKind::Tombstone, event.version, {}, {}}
			                                    : Row{LocalKind::Aside, event.version, event.values, {}};
	std::vector<size_t> order(kRows);
	std::iota(order.begin(), order.end(), 0);
	std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return claimOf(rows, a) > claimOf(rows, b); });
	for (size_t row : order)
	{
		if (rows[row].kind != LocalKind::Aside)
			continue;
		auto taken = [&](const Values &values)
		{
			Columns columns{};
			for (size_t i = 0; i < values.size(); ++i)
				for (const Row &other : rows)
					columns[i] |= other.kind == LocalKind::Live && excluding(other.placed(), values)[i];
			return columns;
		};
		Columns columns = taken(rows[row].values);
		if (columns == Columns{})
			rows[row].kind = LocalKind::Live;
		else if (std::optional<Values> made = makeFit(loser, rows[row].values, columns); made && taken(*made) == Columns{})
		{
			rows[row].kind = LocalKind::Live;
			rows[row].made = made;
		}
	}
	return rows;
}

std::string describe(const std::vector<Event> &events)
{
	std::string text;
	for (const Event &event : events)
		text += (event.op == Operation::Delete ? " delete " : " write ") + std::to_string(event.row) + " (" +
		        std::to_string(event.values[0]) + "," + std::to_string(event.values[1]) + ")@" +
		        std::to_string(event.version.hlc.value) + event.version.region;
	return text;
}

void expectSame(Loser loser, const std::vector<Event> &events, const std::vector<size_t> &order, const Rows &rows)
{
	for (Release release : {Release::AtOnce, Release::Later})
	{
		Board board(loser, release);
		for (size_t index : order)
			board.apply(events[index]);
		if (release == Release::Later)
			board.settle();
		if (board.rows() == rows)
			continue;
		std::vector<Event> arrived;
		for (size_t index : order)
			arrived.push_back(events[index]);
		FAIL() << "loser " << static_cast<int>(loser) << ", in this order:" << describe(arrived);
	}
}

// All sets of `count` events out of `choices` for each row, in all orders of arrival.
void expectConvergence(size_t count, const std::vector<std::pair<Operation, Values>> &choices)
{
	const char *const regions[] = {"b", "a", "c", "d"};
	constexpr int64_t stamps[2][4] = {{1, 2, 3, 4}, {5, 5, 6, 6}}; // without ties, and with
	size_t base = kRows * choices.size();
	size_t sets = 1;
	for (size_t i = 0; i < count; ++i)
		sets *= base;
	for (size_t pattern = 0; pattern < 2; ++pattern)
		for (size_t set = 0; set < sets; ++set)
		{
			std::vector<Event> events;
			size_t rows = 0;
			for (size_t i = 0, rest = set; i < count; ++i, rest /= base)
			{
				const auto &[op, values] = choices[rest % base % choices.size()];
				size_t row = rest % base / choices.size();
				if (row > rows)
					break; // the same as another set, but for the names of rows
				rows = std::max(rows, row + 1);
				events.push_back({row, op, {{stamps[pattern][i]}, regions[i]}, values});
			}
			if (events.size() < count)
				continue;
			for (Loser loser : kLosers)
			{
				const Rows result = expected(loser, events);
				std::vector<size_t> order(count);
				std::iota(order.begin(), order.end(), 0);
				do
					ASSERT_NO_FATAL_FAILURE(expectSame(loser, events, order, result));
				while (std::next_permutation(order.begin(), order.end()));
			}
		}
}

TEST(PlaceTest, TheHighestOfAllRivalsDecides)
{
	const Claim row{{{20}, "us"}, "1"};
	EXPECT_TRUE(place(row, {}).inTable);
	EXPECT_TRUE(place(row, {{{{10}, "us"}, "2"}, {{{19}, "us"}, "3"}}).inTable);
	Placement placement = place(row, {{{{10}, "us"}, "2"}, {{{30}, "eu"}, "3"}, {{{25}, "us"}, "4"}});
	EXPECT_FALSE(placement.inTable);
	EXPECT_EQ(placement.holder, 1u);
}

TEST(PlaceTest, TiesAreBrokenByRegionThenByKey)
{
	EXPECT_TRUE(place({{{20}, "us"}, "1"}, {{{{20}, "eu"}, "2"}}).inTable);
	EXPECT_FALSE(place({{{20}, "eu"}, "1"}, {{{{20}, "us"}, "2"}}).inTable);
	EXPECT_FALSE(place({{{20}, "us"}, "1"}, {{{{20}, "us"}, "2"}}).inTable);
	EXPECT_TRUE(place({{{20}, "us"}, "2"}, {{{{20}, "us"}, "1"}}).inTable);
}

TEST(ExclusionTest, AllOrdersOfFourEventsOnOneUniqueColumn)
{
	expectConvergence(4, {{Operation::Insert, {1, 0}}, {Operation::Insert, {2, 0}}, {Operation::Delete, {}}});
}

TEST(ExclusionTest, AllOrdersOfThreeEventsOnTwoUniqueColumns)
{
	expectConvergence(3, {{Operation::Insert, {1, 1}},
	                      {Operation::Insert, {1, 2}},
	                      {Operation::Insert, {2, 1}},
	                      {Operation::Insert, {2, 2}},
	                      {Operation::Insert, {0, 1}},
	                      {Operation::Delete, {}}});
}

// A row that takes the keys of two others, and one that is let in when it goes, in chains.
TEST(ExclusionTest, AllOrdersOfFourEventsOnTwoUniqueColumns)
{
	expectConvergence(
	    4, {{Operation::Insert, {1, 2}}, {Operation::Insert, {2, 1}}, {Operation::Insert, {1, 3}}, {Operation::Delete, {}}});
}

TEST(ExclusionTest, LongerHistoriesInRandomOrders)
{
	test::Random random(7);
	for (int round = 0; round < 2000; ++round)
	{
		std::vector<Event> events;
		size_t count = 5 + random.below(4);
		for (size_t i = 0; i < count; ++i)
		{
			Version version{{static_cast<int64_t>(i / 2)}, i % 2 ? "a" : "b"};
			Values values{static_cast<int>(random.below(4)), static_cast<int>(random.below(4))};
			events.push_back({random.below(kRows), random.oneIn(4) ? Operation::Delete : Operation::Insert, version, values});
		}
		const Loser loser = kLosers[round % std::size(kLosers)];
		const Rows rows = expected(loser, events);
		std::vector<size_t> order(count);
		std::iota(order.begin(), order.end(), 0);
		for (int shuffle = 0; shuffle < 20; ++shuffle)
		{
			for (size_t i = count; i > 1; --i)
				std::swap(order[i - 1], order[random.below(i)]);
			ASSERT_NO_FATAL_FAILURE(expectSame(loser, events, order, rows));
		}
	}
}

} // namespace
} // namespace mrsync
