// The clock's promises (I5, I11) and its text form.
#include "core/hlc.h"

#include "unit/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <thread>
#include <vector>

namespace mrsync
{
namespace
{

TEST(ClockTest, TakesPhysicalTimeWhenItIsAhead)
{
	std::atomic<int64_t> word{100};
	Clock clock(word);
	Stamp stamp = clock.stamp([] { return int64_t{200}; }, false);
	EXPECT_EQ(stamp.hlc.value, 200);
	EXPECT_FALSE(stamp.isOverride);
	EXPECT_EQ(clock.last().value, 200);
}

TEST(ClockTest, CountsOnWhenPhysicalTimeIsBehindOrEqual)
{
	for (int64_t now : {100, 99, 0, -5})
	{
		std::atomic<int64_t> word{100};
		Stamp stamp = Clock(word).stamp([now] { return now; }, false);
		EXPECT_EQ(stamp.hlc.value, 101);
		EXPECT_TRUE(stamp.isOverride);
	}
}

TEST(ClockTest, ForcedOverrideChangesTheFlagOnly)
{
	std::atomic<int64_t> word{100};
	Stamp stamp = Clock(word).stamp([] { return int64_t{200}; }, true);
	EXPECT_EQ(stamp.hlc.value, 200);
	EXPECT_TRUE(stamp.isOverride);
}

TEST(ClockTest, AdoptRaisesAndNeverLowers)
{
	std::atomic<int64_t> word{100};
	Clock clock(word);
	clock.adopt(Hlc{50});
	EXPECT_EQ(clock.last().value, 100);
	clock.adopt(Hlc{150});
	EXPECT_EQ(clock.last().value, 150);
	EXPECT_GT(clock.stamp([] { return int64_t{120}; }, false).hlc.value, 150);
}

// Everybody may ask for it, as often as they like: a million questions in a second must not push the clock into the next.
TEST(ClockTest, NowFollowsTimeAndNeverCounts)
{
	std::atomic<int64_t> word{100};
	Clock clock(word);
	for (int i = 0; i < 1000; ++i)
		EXPECT_EQ(clock.now([] { return int64_t{90}; }).value, 100);
	EXPECT_EQ(clock.last().value, 100);
	for (int i = 0; i < 1000; ++i)
		EXPECT_EQ(clock.now([] { return int64_t{200}; }).value, 200);
	// whoever commits at that moment needs no override, whoever commits after it is not below
	Stamp stamp = clock.stamp([] { return int64_t{200}; }, false);
	EXPECT_EQ(stamp.hlc.value, 200);
	EXPECT_FALSE(stamp.isOverride);
	EXPECT_GT(clock.stamp([] { return int64_t{50}; }, false).hlc.value, 200);
	EXPECT_EQ(clock.now([] { return int64_t{60}; }), clock.last());
}

TEST(ClockTest, StaysMonotonicWhileTimeSteps)
{
	test::Random random(1);
	std::atomic<int64_t> word{0};
	Clock clock(word);
	int64_t now = 1'000'000;
	Hlc last;
	for (int i = 0; i < 100'000; ++i)
	{
		now += random.oneIn(50) ? random.between(-300'000'000, 300'000'000) : random.between(0, 3);
		if (random.oneIn(20))
		{
			Hlc remote{now + random.between(-1000, 1000)};
			clock.adopt(remote);
			last = std::max(last, remote);
		}
		Stamp stamp = clock.stamp([now] { return now; }, false);
		ASSERT_GT(stamp.hlc, last);
		ASSERT_EQ(stamp.isOverride, stamp.hlc.value != now);
		last = stamp.hlc;
	}
}

TEST(ClockTest, ThreadsNeverShareAStamp)
{
	constexpr int threads = 4;
	constexpr int perThread = 20'000;
	std::atomic<int64_t> word{0};
	std::atomic<int64_t> time{1000};
	std::vector<std::vector<Hlc>> stamps(threads);
	{
		std::vector<std::jthread> running;
		for (int t = 0; t < threads; ++t)
			running.emplace_back(
			    [&, t]
			    {
				    Clock clock(word);
				    for (int i = 0; i < perThread; ++i)
				    {
					    if (i % 100 == t)
						    clock.adopt(Hlc{time.load() + 50});
					    // Time goes on, repeats itself, and now and then falls back.
					    auto physical = [&] { return time.fetch_add(i % 1000 == 0 ? -500 : i % 3); };
					    stamps[static_cast<size_t>(t)].push_back(clock.stamp(physical, false).hlc);
				    }
			    });
	}
	std::vector<Hlc> all;
	for (const std::vector<Hlc> &own : stamps)
	{
		EXPECT_TRUE(std::is_sorted(own.begin(), own.end()));
		all.insert(all.end(), own.begin(), own.end());
	}
	std::sort(all.begin(), all.end());
	EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
}

TEST(HlcTextTest, KnownStamps)
{
	EXPECT_EQ(toText(Hlc{0}), "2000-01-01 00:00:00.000000Z");
	EXPECT_EQ(toText(Hlc{-1}), "1999-12-31 23:59:59.999999Z");
	EXPECT_EQ(toText(Hlc{kHlcMin}), "0001-01-01 00:00:00.000000Z");
	EXPECT_EQ(toText(Hlc{kHlcMax}), "294276-12-31 23:59:59.999999Z");
	EXPECT_EQ(toText(Hlc{951782400000000 - 946684800000000}), "2000-02-29 00:00:00.000000Z");
	EXPECT_EQ(toText(Hlc{1795421460123456 - 946684800000000}), "2026-11-23 08:11:00.123456Z");
	EXPECT_EQ(toText(Hlc{253402300800000000 - 946684800000000}), "10000-01-01 00:00:00.000000Z");
	EXPECT_EQ(toText(Hlc{std::numeric_limits<int64_t>::min()}), "-9223372036854775808");
	EXPECT_EQ(toText(Hlc{std::numeric_limits<int64_t>::max()}), "9223372036854775807");
}

TEST(HlcTextTest, EveryStampSurvivesItsText)
{
	test::Random random(2);
	for (int64_t edge : {kHlcMin, int64_t{0}, kHlcMax})
		for (int64_t i = -100'000; i <= 100'000; i += 97)
		{
			Hlc hlc{std::clamp(edge == kHlcMin   ? edge + std::max<int64_t>(i, 0)
			                   : edge == kHlcMax ? edge + std::min<int64_t>(i, 0)
			                                     : edge + i,
			                   kHlcMin, kHlcMax)};
			ASSERT_EQ(parseHlc(toText(hlc)), hlc);
		}
	for (int i = 0; i < 100'000; ++i)
	{
		Hlc hlc{random.between(kHlcMin, kHlcMax)};
		ASSERT_EQ(parseHlc(toText(hlc)), hlc) << toText(hlc);
		ASSERT_EQ(parseHlc(std::to_string(hlc.value)), hlc);
	}
	for (int64_t day = 0; day < 800 * 366; ++day) // every day of two eras
	{
		Hlc hlc{day * 86'400'000'000};
		ASSERT_EQ(parseHlc(toText(hlc)), hlc);
		ASSERT_LT(toText(Hlc{hlc.value - 1}), toText(hlc));
	}
}

TEST(HlcTextTest, ReadsTheFormsThatPeopleWrite)
{
	Hlc expected{1795421460500000 - 946684800000000};
	for (const char *text : {"2026-11-23 08:11:00.500000Z", "2026-11-23T08:11:00.5Z", "2026-11-23 08:11:00.50Z"})
		EXPECT_EQ(parseHlc(text), expected) << text;
	EXPECT_EQ(parseHlc("2026-11-23 08:11:00Z"), Hlc{expected.value - 500000});
	EXPECT_EQ(parseHlc("-17"), Hlc{-17});
}

TEST(HlcTextTest, RefusesTheRest)
{
	for (const char *text : {"",
	                         " ",
	                         ":",
	                         "now",
	                         "2026-11-23",
	                         "2026-11-23 08:11:00",
	                         "2026-11-23 08:11:00.Z",
	                         "2026-11-23 08:11:00.1234567Z",
	                         "2026-11-23  08:11:00Z",
	                         " 2026-11-23 08:11:00Z",
	                         "2026-11-23 08:11:00Z ",
	                         "2026-11-23 08:11:00ZZ",
	                         "2026-13-01 00:00:00Z",
	                         "2026-00-01 00:00:00Z",
	                         "2026-02-29 00:00:00Z",
	                         "2024-02-30 00:00:00Z",
	                         "2026-01-32 00:00:00Z",
	                         "2026-01-00 00:00:00Z",
	                         "2026-01-01 24:00:00Z",
	                         "2026-01-01 00:60:00Z",
	                         "2026-01-01 00:00:60Z",
	                         "0000-01-01 00:00:00Z",
	                         "-001-01-01 00:00:00Z",
	                         "002026-01-01 00:00:00Z",
	                         "294277-01-01 00:00:00Z",
	                         "999999-01-01 00:00:00Z",
	                         "2026-1-01 00:00:00Z",
	                         "2026/01/01 00:00:00Z",
	                         "2026-01-01 00:00:00+00",
	                         "9223372036854775807",
	                         "-9223372036854775808",
	                         "99999999999999999999",
	                         "1.5",
	                         "0x10",
	                         "+5",
	                         "--5",
	                         "12 ",
	                         "12Z"})
		EXPECT_FALSE(parseHlc(text)) << text;
}

TEST(HlcTextTest, IsTotal)
{
	test::Random random(3);
	constexpr std::string_view alphabet = "0123456789-: T.Zz+";
	std::string mutated;
	for (int i = 0; i < 300'000; ++i)
	{
		mutated = "2026-11-23 08:11:00.123456Z";
		for (uint64_t edits = 1 + random.below(4); edits > 0; --edits)
			mutated[random.below(mutated.size())] =
			    random.oneIn(3) ? static_cast<char>(random.bits()) : alphabet[random.below(alphabet.size())];
		mutated.resize(random.below(mutated.size() + 4), '0');
		if (std::optional<Hlc> hlc = parseHlc(mutated))
		{
			ASSERT_GE(hlc->value, kHlcMin);
			ASSERT_LE(hlc->value, kHlcMax);
			ASSERT_EQ(parseHlc(toText(*hlc)), hlc);
		}
	}
}

} // namespace
} // namespace mrsync
