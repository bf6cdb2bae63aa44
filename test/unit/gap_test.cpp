// Behind a gap: which resends mend it, and which do not. What a reader takes for mended it never misses again (I8).
#include "core/gap.h"

#include <gtest/gtest.h>

#include <vector>

namespace mrsync
{
namespace
{

using Gate = TransactionGate::Verdict;

Envelope record(uint64_t sequence, uint64_t previous, int64_t incarnation = 5)
{
	Envelope tx;
	tx.incarnation = incarnation;
	tx.sequence = sequence;
	tx.previous = previous;
	tx.last = true;
	return tx;
}

Uuid named(uint8_t name)
{
	Uuid id;
	id.bytes[0] = name;
	return id;
}

ResendMark mark(uint8_t name, uint64_t parts, uint64_t covers = 100, int64_t from = 0, uint64_t after = 0)
{
	return {named(name), Hlc{from}, after, covers, parts};
}

// A reader that has applied up to 10 meets 60, which follows 50.
class GapTest : public testing::Test
{
protected:
	GapWatch watch{record(60, 50), 10};

	Gate meet(const Envelope &tx)
	{
		Gate verdict = watch.judge(tx);
		if (verdict != Gate::Ignore && tx.last)
		{
			if (tx.resent)
				watch.applied(*tx.resent);
			watch.complete(tx);
		}
		return verdict;
	}
	Gate meetPart(uint64_t sequence, uint64_t previous, uint8_t resend, uint64_t part, int64_t incarnation = 5)
	{
		Envelope tx = record(sequence, previous, incarnation);
		tx.resent = ResentPart{named(resend), part};
		return meet(tx);
	}
};

TEST_F(GapTest, NothingMendsItByItself)
{
	EXPECT_EQ(watch.sequence(), 50u);
	EXPECT_EQ(meet(record(60, 50)), Gate::Begin);
	EXPECT_EQ(meet(record(70, 60)), Gate::Begin);
	EXPECT_FALSE(watch.mends(mark(1, 1)));
}

TEST_F(GapTest, AWholeResendDoes)
{
	meet(record(60, 50));
	meetPart(70, 60, 1, 1);
	meet(record(80, 70)); // others write between its parts
	EXPECT_FALSE(watch.mends(mark(1, 2)));
	meetPart(90, 80, 1, 2);
	EXPECT_TRUE(watch.mends(mark(1, 2)));
	EXPECT_FALSE(watch.mends(mark(2, 2)));
	EXPECT_FALSE(watch.mends(mark(1, 3)));
}

TEST_F(GapTest, OfARegionWithoutRowsThereAreNoParts)
{
	meet(record(60, 50));
	EXPECT_TRUE(watch.mends(mark(1, 0)));
}

TEST_F(GapTest, WhatWasLeftOutMayBeWhatIsMissing)
{
	meetPart(60, 50, 1, 1);
	EXPECT_FALSE(watch.mends(mark(1, 1, 100, 1)));
	EXPECT_FALSE(watch.mends(mark(1, 1, 100, -1)));
}

TEST_F(GapTest, AResendThatBeganBeforeTheGapsEndDoesNot)
{
	meetPart(60, 50, 1, 1);
	EXPECT_FALSE(watch.mends(mark(1, 1, 49)));
	EXPECT_TRUE(watch.mends(mark(1, 1, 50)));
}

TEST_F(GapTest, ItsFirstPartsWereInTheGap)
{
	meetPart(60, 50, 1, 2);
	meetPart(70, 60, 1, 3);
	EXPECT_FALSE(watch.mends(mark(1, 3)));
}

TEST_F(GapTest, AnotherGapAmidItsParts)
{
	meetPart(60, 50, 1, 1);
	EXPECT_EQ(meetPart(90, 80, 1, 3), Gate::Begin); // with part 2 between
	EXPECT_FALSE(watch.mends(mark(1, 3)));
	// a part repeated by its number alone is none
	EXPECT_EQ(watch.sequence(), 50u);
	meetPart(100, 90, 2, 1);
	EXPECT_TRUE(watch.mends(mark(2, 1)));
}

TEST_F(GapTest, AGapAmidAResendThatGoesOn)
{
	meetPart(60, 50, 1, 1);
	meetPart(90, 80, 1, 2); // something else was between: it may have been anything
	EXPECT_FALSE(watch.mends(mark(1, 2)));
}

// What the source had promised when it had sent up to 10 or less, everything that is missing lies above.
TEST_F(GapTest, OneThatLeavesOutWhatWasBeforeTheGap)
{
	meetPart(60, 50, 1, 1);
	EXPECT_FALSE(watch.mends(mark(1, 1, 100, 7)));
	EXPECT_FALSE(watch.mends(mark(1, 1, 100, 7, 11)));
	EXPECT_TRUE(watch.mends(mark(1, 1, 100, 7, 10)));
	EXPECT_FALSE(watch.mends(mark(1, 1, 49, 7, 10)));
}

TEST_F(GapTest, OneThatWasCutShortIsForgottenByTheNext)
{
	meetPart(60, 50, 1, 1);
	meetPart(70, 60, 2, 1);
	meetPart(80, 70, 2, 2);
	EXPECT_FALSE(watch.mends(mark(1, 1)));
	EXPECT_TRUE(watch.mends(mark(2, 2)));
}

TEST_F(GapTest, RepeatedPartsCountOnce)
{
	meetPart(60, 50, 1, 1);
	EXPECT_EQ(meetPart(60, 50, 1, 1, 6), Gate::Ignore); // sent again by the next incarnation
	meetPart(70, 60, 1, 2, 6);
	EXPECT_EQ(meetPart(80, 70, 1, 3, 5), Gate::Ignore); // a dead one's
	EXPECT_TRUE(watch.mends(mark(1, 2)));
}

// The record behind the gap is in the middle of a transaction: that one is lost, too.
TEST_F(GapTest, ATransactionWithoutItsBeginning)
{
	Envelope middle = record(60, 50);
	middle.position = 3;
	watch = GapWatch(middle, 10);
	EXPECT_EQ(watch.sequence(), 60u);
	EXPECT_EQ(watch.judge(middle), Gate::Ignore);
	meetPart(70, 60, 1, 1);
	EXPECT_FALSE(watch.mends(mark(1, 1, 59)));
	EXPECT_TRUE(watch.mends(mark(1, 1, 60)));
}

TEST_F(GapTest, ATransactionWithoutItsMiddleIsAnotherGap)
{
	meetPart(60, 50, 1, 1);
	Envelope first = record(70, 60);
	first.last = false;
	EXPECT_EQ(watch.judge(first), Gate::Begin);
	Envelope third = record(70, 60);
	third.position = 3;
	EXPECT_EQ(watch.judge(third), Gate::Ignore);
	meetPart(80, 70, 1, 2);
	EXPECT_FALSE(watch.mends(mark(1, 2)));
}

TEST(ResendMarkTest, IsReadFromARow)
{
	ChangeEvent event;
	EXPECT_TRUE(std::holds_alternative<std::string>(resendMark(event)));
	event.after = Image{{"region_id", "us"}, {"resend_id", "019aafa6-1234-7abc-8def-0123456789ab"},
						{"from_hlc", "2000-01-01 00:00:00.000000Z"}, {"after_sequence", "55"}, {"covers", "77"}, {"parts", "3"}};
	auto read = resendMark(event);
	ASSERT_TRUE(std::holds_alternative<ResendMark>(read));
	EXPECT_EQ(std::get<ResendMark>(read).after, 55u);
	EXPECT_EQ(std::get<ResendMark>(read).covers, 77u);
	EXPECT_EQ(std::get<ResendMark>(read).parts, 3u);
	EXPECT_EQ(std::get<ResendMark>(read).from, Hlc{0});
	for (Column &column : *event.after)
	{
		if (column.name == "region_id")
			continue;
		std::optional<std::string> good = column.value;
		for (const char *bad : {"", "x", "-1", "1x"})
		{
			column.value = bad;
			bool isStamp = column.name == "from_hlc" && std::string_view(bad) == "-1";
			EXPECT_EQ(std::holds_alternative<std::string>(resendMark(event)), !isStamp) << column.name << bad;
		}
		column.value.reset();
		EXPECT_TRUE(std::holds_alternative<std::string>(resendMark(event)));
		column.value = good;
	}
}

} // namespace
} // namespace mrsync
