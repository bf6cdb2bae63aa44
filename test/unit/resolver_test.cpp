// The resolver, exhaustively: every local state, operation, order of versions and knowledge; and the theorem itself,
// that the fold does not depend on the order of arrival (I1, I3).
#include "core/resolver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

namespace mrsync
{
namespace
{

constexpr Operation kOperations[] = {Operation::Insert, Operation::Update, Operation::Delete};
constexpr LocalKind kKinds[] = {LocalKind::Absent, LocalKind::Live, LocalKind::Tombstone, LocalKind::Aside};

Decision resolveWith(LocalKind kind, Version local, Operation op, Version incoming, bool sameTransaction = false,
                     bool seenByIncoming = false, bool sawIncoming = false)
{
	return resolve({kind, std::move(local), sameTransaction, seenByIncoming, sawIncoming, std::nullopt}, op, incoming);
}

const Version kLow{{100}, "b"};
const Version kHigh{{200}, "a"};

struct Expected
{
	LocalKind kind;
	Operation op;
	Action wins;  // when the incoming event is the later one
	Action loses; // when it is the earlier one
	ConflictType wonConflict;
	ConflictType lostConflict;
};

// The whole table, as docs/conflicts.md shows it.
const Expected kTable[] = {
    {LocalKind::Absent, Operation::Insert, Action::Insert, Action::Insert, ConflictType::None, ConflictType::None},
    {LocalKind::Absent, Operation::Update, Action::Insert, Action::Insert, ConflictType::UpdateMissing, ConflictType::UpdateMissing},
    {LocalKind::Absent, Operation::Delete, Action::RememberDelete, Action::RememberDelete, ConflictType::DeleteMissing, ConflictType::DeleteMissing},
    {LocalKind::Live, Operation::Insert, Action::Overwrite, Action::Keep, ConflictType::InsertExists, ConflictType::InsertExists},
    {LocalKind::Live, Operation::Update, Action::Overwrite, Action::Keep, ConflictType::UpdateOriginDiffers, ConflictType::UpdateOriginDiffers},
    {LocalKind::Live, Operation::Delete, Action::Delete, Action::Keep, ConflictType::DeleteOriginDiffers, ConflictType::UpdateDeleted},
    {LocalKind::Tombstone, Operation::Insert, Action::Insert, Action::Keep, ConflictType::UpdateDeleted, ConflictType::DeleteOriginDiffers},
    {LocalKind::Tombstone, Operation::Update, Action::Insert, Action::Keep, ConflictType::UpdateDeleted, ConflictType::DeleteOriginDiffers},
    {LocalKind::Tombstone, Operation::Delete, Action::RememberDelete, Action::Keep, ConflictType::DeleteMissing, ConflictType::DeleteMissing},
    {LocalKind::Aside, Operation::Insert, Action::Insert, Action::Keep, ConflictType::InsertExists, ConflictType::InsertExists},
    {LocalKind::Aside, Operation::Update, Action::Insert, Action::Keep, ConflictType::UpdateOriginDiffers, ConflictType::UpdateOriginDiffers},
    {LocalKind::Aside, Operation::Delete, Action::RememberDelete, Action::Keep, ConflictType::DeleteOriginDiffers, ConflictType::UpdateDeleted},
};

TEST(ResolverTest, ConcurrentEventsFollowTheTable)
{
	for (const Expected &row : kTable)
	{
		bool absent = row.kind == LocalKind::Absent;
		EXPECT_EQ(resolveWith(row.kind, kLow, row.op, kHigh), (Decision{row.wins, row.wonConflict, true}));
		EXPECT_EQ(resolveWith(row.kind, kHigh, row.op, kLow), (Decision{row.loses, row.lostConflict, absent}));
	}
}

TEST(ResolverTest, AConflictHasOneNameWhicheverSideComes)
{
	for (Operation one : kOperations)
		for (Operation other : kOperations)
		{
			if ((one == Operation::Insert) != (other == Operation::Insert) && one != Operation::Delete && other != Operation::Delete)
				continue; // how a row came to be cannot be seen: the log joins the two names
			auto left = [](Operation op) { return op == Operation::Delete ? LocalKind::Tombstone : LocalKind::Live; };
			EXPECT_EQ(resolveWith(left(one), kLow, other, kHigh).conflict, resolveWith(left(other), kHigh, one, kLow).conflict);
		}
}

TEST(ResolverTest, KnowledgeEndsTheConflictAndChangesNothingElse)
{
	for (const Expected &row : kTable)
		for (bool incomingIsLater : {false, true})
			for (int flags = 1; flags < 4; ++flags)
			{
				const Version &local = incomingIsLater ? kLow : kHigh;
				const Version &incoming = incomingIsLater ? kHigh : kLow;
				Decision informed = resolveWith(row.kind, local, row.op, incoming, false, flags & 1, flags & 2);
				Decision blind = resolveWith(row.kind, local, row.op, incoming);
				EXPECT_EQ(informed.conflict, ConflictType::None);
				EXPECT_EQ(informed.action, blind.action);
				EXPECT_EQ(informed.incomingWins, blind.incomingWins);
			}
}

TEST(ResolverTest, EventsOfOneRegionAreNeverInConflict)
{
	for (LocalKind kind : {LocalKind::Live, LocalKind::Tombstone, LocalKind::Aside})
		for (Operation op : kOperations)
			for (int64_t local : {100, 300})
				EXPECT_EQ(resolveWith(kind, {{local}, "a"}, op, {{200}, "a"}).conflict, ConflictType::None);
}

TEST(ResolverTest, AnAbsentRowHasNoRegion)
{
	// The version of an absent row means nothing, even if it happens to name the incoming region.
	EXPECT_EQ(resolveWith(LocalKind::Absent, {{100}, "a"}, Operation::Update, {{200}, "a"}).conflict,
	          ConflictType::UpdateMissing);
}

TEST(ResolverTest, ALaterEventOfTheSameTransactionAlwaysApplies)
{
	for (LocalKind kind : kKinds)
		for (Operation op : kOperations)
		{
			Decision decision = resolveWith(kind, kLow, op, kLow, true);
			EXPECT_TRUE(decision.incomingWins);
			EXPECT_NE(decision.action, Action::Keep);
			EXPECT_EQ(decision.conflict, ConflictType::None);
		}
}

TEST(ResolverTest, TheSameVersionAgainChangesNothing)
{
	for (LocalKind kind : {LocalKind::Live, LocalKind::Tombstone, LocalKind::Aside})
		for (Operation op : kOperations)
			EXPECT_EQ(resolveWith(kind, kLow, op, kLow), (Decision{Action::Keep, ConflictType::None, false}));
}

TEST(ResolverTest, RegionsBreakTiesBytewise)
{
	// In a locale's order "B" follows "a", and "é" stands before "z".
	const std::vector<std::string> inOrder{"A", "B", "a", "b", "z", "\xC3\xA9"};
	for (size_t i = 0; i < inOrder.size(); ++i)
		for (size_t j = 0; j < inOrder.size(); ++j)
			EXPECT_EQ(
			    resolveWith(LocalKind::Live, {{5}, inOrder[i]}, Operation::Update, {{5}, inOrder[j]}).incomingWins,
			    i < j);
}

TEST(ResolverTest, ATruncationIsADelete)
{
	for (LocalKind kind : kKinds)
		for (bool incomingIsLater : {false, true})
		{
			const Version &local = incomingIsLater ? kLow : kHigh;
			const Version &incoming = incomingIsLater ? kHigh : kLow;
			EXPECT_EQ(resolveWith(kind, local, Operation::Truncate, incoming),
			          resolveWith(kind, local, Operation::Delete, incoming));
		}
}

TEST(ResolverTest, BothSidesAgreeOnTheWinner)
{
	for (int64_t a : {1, 2, 3})
		for (int64_t b : {1, 2, 3})
			for (const char *regionA : {"eu", "us"})
				for (const char *regionB : {"eu", "us"})
				{
					Version first{{a}, regionA};
					Version second{{b}, regionB};
					if (first == second)
						continue;
					bool secondWins = resolveWith(LocalKind::Live, first, Operation::Update, second).incomingWins;
					bool firstWins = resolveWith(LocalKind::Live, second, Operation::Update, first).incomingWins;
					EXPECT_NE(firstWins, secondWins);
				}
}

// Whatever the version really is between what is known of it: the answer is the one that it would give, or none.
TEST(ResolverTest, AForgottenVersionIsNeverGuessed)
{
	std::vector<Version> versions{{}};
	for (int64_t hlc : {1, 2, 3, 4})
		for (const char *region : {"a", "b"})
			versions.push_back({{hlc}, region});
	int undecided = 0;
	for (LocalKind kind : {LocalKind::Live, LocalKind::Tombstone})
		for (Operation op : {Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate})
			for (const Version &known : versions)
				for (int64_t atMost : {0, 1, 2, 3, 4})
					for (const Version &incoming : versions)
						for (int flags = 0; flags < 4; ++flags)
						{
							if (known.hlc.value > atMost || incoming.hlc.value == 0)
								continue;
							LocalState forgotten{kind, known, false, (flags & 1) != 0, (flags & 2) != 0, Hlc{atMost}};
							Decision decision = resolve(forgotten, op, incoming);
							bool canTell = incoming <= known || incoming.hlc.value > atMost;
							ASSERT_EQ(decision.action != Action::Undecided, canTell);
							if (!canTell)
							{
								ASSERT_EQ(decision, (Decision{Action::Undecided, ConflictType::None, false}));
								++undecided;
								continue;
							}
							for (const Version &truth : versions)
							{
								if (truth < known || truth.hlc.value > atMost)
									continue;
								Decision informed = resolveWith(kind, truth, op, incoming);
								ASSERT_EQ(decision.action, informed.action);
								ASSERT_EQ(decision.incomingWins, informed.incomingWins);
							}
						}
	EXPECT_GT(undecided, 0);
}

TEST(ResolverTest, WhatThisTransactionWroteIsNotForgotten)
{
	for (LocalKind kind : kKinds)
		for (Operation op : kOperations)
		{
			LocalState own{kind, {}, true, false, false, Hlc{300}};
			EXPECT_EQ(resolve(own, op, kLow), resolveWith(kind, {}, op, kLow, true));
		}
}

TEST(ResolverTest, WhereNothingIsNothingIsForgotten)
{
	for (Operation op : kOperations)
	{
		LocalState absent{LocalKind::Absent, {}, false, false, false, Hlc{300}};
		EXPECT_EQ(resolve(absent, op, kLow), resolveWith(LocalKind::Absent, {}, op, kLow));
	}
}

TEST(ConflictTypeTest, NamesAreThoseOfPostgres)
{
	std::set<std::string> names;
	for (ConflictType type :
	     {ConflictType::None, ConflictType::InsertExists, ConflictType::UpdateOriginDiffers, ConflictType::UpdateExists,
	      ConflictType::UpdateMissing, ConflictType::UpdateDeleted, ConflictType::DeleteOriginDiffers,
	      ConflictType::DeleteMissing, ConflictType::MultipleUniqueConflicts})
		names.insert(toText(type));
	EXPECT_EQ(names, (std::set<std::string>{"none", "insert_exists", "update_origin_differs", "update_exists",
	                                        "update_missing", "update_deleted", "delete_origin_differs",
	                                        "delete_missing", "multiple_unique_conflicts"}));
}

// ---- the fold

// A row as the applier keeps it: an image is the number of the event that wrote it.
struct Row
{
	LocalKind kind = LocalKind::Absent;
	Version version;
	int image = -1;
	bool operator==(const Row &) const = default;
};

struct RowEvent
{
	Operation op;
	Version version;
	int number;
};
using RowTransaction = std::vector<RowEvent>;

void apply(Row &row, const RowTransaction &transaction)
{
	bool own = false;
	for (const RowEvent &event : transaction)
	{
		Decision decision = resolveWith(row.kind, row.version, event.op, event.version, own);
		if (decision.action == Action::Keep)
			continue;
		own = true;
		row.version = event.version;
		bool deletes = decision.action == Action::Delete || decision.action == Action::RememberDelete;
		row.kind = deletes ? LocalKind::Tombstone : LocalKind::Live;
		row.image = deletes ? -1 : event.number;
	}
}

// All orders of arrival end alike, and like the last event of the order (hlc, region, event).
void expectConvergence(const std::vector<RowTransaction> &transactions, const std::vector<size_t> &deliveries)
{
	const RowTransaction &winner = *std::max_element(transactions.begin(), transactions.end(),
	                                                 [](const RowTransaction &a, const RowTransaction &b)
	                                                 { return a.front().version < b.front().version; });
	bool deleted = winner.back().op == Operation::Delete;
	Row expected{deleted ? LocalKind::Tombstone : LocalKind::Live, winner.back().version,
	             deleted ? -1 : winner.back().number};

	std::vector<size_t> order = deliveries;
	std::sort(order.begin(), order.end());
	do
	{
		Row row;
		for (size_t index : order)
			apply(row, transactions[index]);
		ASSERT_EQ(row, expected);
	} while (std::next_permutation(order.begin(), order.end()));
}

// Calls visit with every list of `length` numbers below `base`.
template <typename Visit> void forEachChoice(size_t length, size_t base, Visit visit)
{
	std::vector<size_t> choice(length);
	for (;;)
	{
		visit(choice);
		size_t i = 0;
		while (i < length && ++choice[i] == base)
			choice[i++] = 0;
		if (i == length)
			return;
	}
}

// Stamps with and without ties: all different; all the same; two and three.
int64_t stampOf(size_t pattern, size_t event)
{
	constexpr int64_t stamps[3][5] = {{1, 2, 3, 4, 5}, {7, 7, 7, 7, 7}, {4, 9, 4, 9, 4}};
	return stamps[pattern][event];
}

const char *const kRegions[] = {"a", "b", "c", "d", "e"};

TEST(FoldTest, AllPermutationsOfUpToFiveEventsConverge)
{
	for (size_t count = 1; count <= 5; ++count)
		for (size_t pattern = 0; pattern < 3; ++pattern)
			forEachChoice(
			    count, 3,
			    [&](const std::vector<size_t> &ops)
			    {
				    std::vector<RowTransaction> transactions;
				    for (size_t i = 0; i < count; ++i)
					    transactions.push_back(
					        {{kOperations[ops[i]], {{stampOf(pattern, i)}, kRegions[i]}, static_cast<int>(i)}});
				    std::vector<size_t> deliveries(count);
				    std::iota(deliveries.begin(), deliveries.end(), 0);
				    expectConvergence(transactions, deliveries);
			    });
}

// Without the dedup table a repeated event would still not change the row.
TEST(FoldTest, DuplicatesDoNotChangeTheFold)
{
	for (size_t pattern = 0; pattern < 3; ++pattern)
		forEachChoice(3, 3,
		              [&](const std::vector<size_t> &ops)
		              {
			              std::vector<RowTransaction> transactions;
			              for (size_t i = 0; i < 3; ++i)
				              transactions.push_back(
				                  {{kOperations[ops[i]], {{stampOf(pattern, i)}, kRegions[i]}, static_cast<int>(i)}});
			              expectConvergence(transactions, {0, 1, 2, 0, 1});
			              expectConvergence(transactions, {0, 1, 2, 2, 1, 2});
		              });
}

// Three transactions of two events on the same row each: delete and reinsert, insert and delete, and so on.
TEST(FoldTest, TransactionsOfSeveralEventsConverge)
{
	for (size_t pattern = 0; pattern < 3; ++pattern)
		forEachChoice(6, 3,
		              [&](const std::vector<size_t> &ops)
		              {
			              std::vector<RowTransaction> transactions;
			              for (size_t i = 0; i < 3; ++i)
			              {
				              Version version{{stampOf(pattern, i)}, kRegions[i]};
				              int number = static_cast<int>(2 * i);
				              transactions.push_back({{kOperations[ops[2 * i]], version, number},
				                                      {kOperations[ops[2 * i + 1]], version, number + 1}});
			              }
			              expectConvergence(transactions, {0, 1, 2});
		              });
}

} // namespace
} // namespace mrsync
