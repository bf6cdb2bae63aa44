// Watermarks: what is promised, what of it holds, and what every region is past.
#include "core/watermark.h"

#include "unit/random.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <vector>

namespace mrsync
{
namespace
{

// ---- watermarkOf

TEST(WatermarkTest, IsBelowTheClockAndEveryBound)
{
	EXPECT_EQ(watermarkOf(Hlc{100}, std::nullopt), Hlc{99});
	EXPECT_EQ(watermarkOf(Hlc{100}, Hlc{40}), Hlc{39});
	EXPECT_EQ(watermarkOf(Hlc{100}, Hlc{100}), Hlc{99});
	EXPECT_EQ(watermarkOf(Hlc{100}, Hlc{120}), Hlc{99}); // published after the clock was read
}

// The protocol step by step, in every interleaving of one committer with one reader: what has not written its commit record
// when the reader ends is stamped above.
TEST(WatermarkTest, HoldsWheneverTheReaderComes)
{
	constexpr int kSteps = 8;
	for (int64_t physical : {50, 130, 5000}) // behind the clock, between two readings of it, ahead
		for (int readClock = 0; readClock <= kSteps; ++readClock)
			for (int readBound = readClock; readBound <= kSteps; ++readBound)
				for (int readWal = readBound; readWal <= kSteps; ++readWal)
				{
					std::atomic<int64_t> word{100};
					Clock clock(word);
					std::optional<Hlc> bound;
					Hlc forBound;
					Hlc stamp;
					bool committed = false;
					Hlc seenClock;
					std::optional<Hlc> seenBound;
					bool seenCommit = false;
					for (int step = 0; step <= kSteps; ++step)
					{
						if (step == readClock)
							seenClock = clock.last();
						if (step == readBound)
							seenBound = bound;
						if (step == readWal)
							seenCommit = committed;
						switch (step)
						{
						case 1:
							forBound = clock.last();
							break;
						case 3:
							bound = forBound;
							break;
						case 5:
							stamp = clock.stamp([&] { return physical; }, false).hlc;
							break;
						case 6:
							committed = true;
							break;
						case 7:
							bound.reset();
							break;
						default:
							clock.adopt(Hlc{120 + 20 * step}); // somebody else's
						}
					}
					if (seenCommit)
						continue;
					EXPECT_GT(stamp, watermarkOf(seenClock, seenBound))
						<< physical << ": clock at " << readClock << ", bound at " << readBound << ", WAL at " << readWal;
				}
}

// ---- Promises

TEST(PromisesTest, HoldOnceTheirSequenceIsApplied)
{
	Promises promises;
	EXPECT_EQ(promises.reached(1000), Hlc{});
	promises.add(10, Hlc{100});
	promises.add(20, Hlc{200});
	EXPECT_EQ(promises.reached(9), Hlc{});
	EXPECT_EQ(promises.reached(10), Hlc{100});
	EXPECT_EQ(promises.reached(19), Hlc{100});
	EXPECT_EQ(promises.reached(25), Hlc{200});
	EXPECT_EQ(promises.reached(25), Hlc{200});
}

TEST(PromisesTest, OfARegionThatHasCommittedNothingHoldAtOnce)
{
	Promises promises;
	promises.add(0, Hlc{100});
	EXPECT_EQ(promises.reached(0), Hlc{100});
}

TEST(PromisesTest, OfAnIdleRegionRise)
{
	Promises promises;
	promises.add(10, Hlc{100});
	promises.add(10, Hlc{200});
	promises.add(10, Hlc{300});
	EXPECT_EQ(promises.reached(9), Hlc{});
	EXPECT_EQ(promises.reached(10), Hlc{300});
	promises.add(10, Hlc{400});
	EXPECT_EQ(promises.reached(10), Hlc{400});
}

TEST(PromisesTest, AreNotTakenBackByOlderOnes)
{
	Promises promises;
	promises.add(20, Hlc{200});
	promises.add(10, Hlc{100}); // read again, late
	EXPECT_EQ(promises.reached(15), Hlc{});
	EXPECT_EQ(promises.reached(20), Hlc{200});
	promises.add(20, Hlc{150});
	EXPECT_EQ(promises.reached(30), Hlc{200});
}

// A starting extractor says an older sequence; a higher watermark beside it is worth more than what was promised before.
TEST(PromisesTest, AHigherOneOfALowerSequenceReplacesWhatItOutdoes)
{
	Promises promises;
	promises.add(10, Hlc{100});
	promises.add(30, Hlc{200});
	promises.add(20, Hlc{300});
	EXPECT_EQ(promises.reached(10), Hlc{100});
	EXPECT_EQ(promises.reached(20), Hlc{300});
}

// Never more than was promised, and in the end all of it, however many are pending.
TEST(PromisesTest, ManyPendingOnesOnlyMakeLargerSteps)
{
	for (uint64_t seed = 1; seed <= 200; ++seed)
	{
		test::Random random(seed);
		Promises promises;
		std::map<uint64_t, Hlc> all; // by sequence, the highest
		uint64_t sequence = 0;
		uint64_t applied = 0;
		Hlc watermark;
		Hlc before;
		for (int i = 0; i < 500; ++i)
		{
			if (!random.oneIn(3))
				sequence += random.below(10);
			watermark.value += random.between(1, 50);
			promises.add(sequence, watermark);
			all[sequence] = watermark;
			if (random.oneIn(static_cast<uint64_t>(seed)))
				applied = applied + random.below(sequence - applied + 1);
			Hlc reached = promises.reached(applied);
			auto beyond = all.upper_bound(applied);
			Hlc allowed = beyond == all.begin() ? Hlc{} : std::prev(beyond)->second;
			ASSERT_LE(reached, allowed) << "seed " << seed;
			ASSERT_GE(reached, before) << "seed " << seed;
			before = reached;
		}
		ASSERT_EQ(promises.reached(sequence), watermark) << "seed " << seed;
	}
}

TEST(PromisesTest, AreHeldDownByParkedEvents)
{
	EXPECT_EQ(belowParked(Hlc{100}, std::nullopt), Hlc{100});
	EXPECT_EQ(belowParked(Hlc{100}, Hlc{60}), Hlc{59});
	EXPECT_EQ(belowParked(Hlc{100}, Hlc{100}), Hlc{99});
	EXPECT_EQ(belowParked(Hlc{100}, Hlc{101}), Hlc{100});
}

// ---- StablePoint

class StablePointTest : public testing::Test
{
protected:
	void say(const std::string &region, const std::string &origin, int64_t watermark, int64_t saidAt)
	{
		known_[{region, origin}] = RegionWatermark{region, origin, Hlc{watermark}, Hlc{saidAt}};
	}
	void sayAll(int64_t watermark, int64_t saidAt)
	{
		for (const auto &region : regions_)
			for (const auto &origin : regions_)
				say(region, origin, watermark, saidAt);
	}
	void observe()
	{
		std::vector<RegionWatermark> pairs;
		for (const auto &region : regions_)
			for (const auto &origin : regions_)
			{
				auto known = known_.find({region, origin});
				pairs.push_back(known != known_.end() ? known->second : RegionWatermark{region, origin, std::nullopt, {}});
			}
		stable_.observe(pairs);
	}

	std::vector<std::string> regions_{"us", "eu", "ap"};
	std::map<std::pair<std::string, std::string>, RegionWatermark> known_;
	StablePoint stable_;
};

TEST_F(StablePointTest, IsTheLowestOfAll)
{
	observe();
	EXPECT_EQ(stable_.value(), std::nullopt);
	sayAll(100, 110);
	say("ap", "eu", 70, 110);
	observe();
	EXPECT_EQ(stable_.value(), Hlc{70});
	say("ap", "eu", 100, 120);
	observe();
	EXPECT_EQ(stable_.value(), Hlc{100});
}

TEST_F(StablePointTest, IsNotThereWhileAPairIsUnknown)
{
	sayAll(100, 110);
	known_.erase({"eu", "ap"});
	observe();
	EXPECT_EQ(stable_.value(), std::nullopt);
	EXPECT_EQ(stable_.prunable(), Hlc{});
}

TEST_F(StablePointTest, OfOneRegionAloneIsNotThere)
{
	regions_ = {"us"};
	sayAll(100, 110);
	observe();
	EXPECT_EQ(stable_.value(), std::nullopt);
}

TEST_F(StablePointTest, DoesNotGoBackWithTheSameRegions)
{
	sayAll(100, 110);
	observe();
	say("us", "eu", 80, 120); // an event that came too late is parked
	observe();
	EXPECT_EQ(stable_.value(), Hlc{100});
	sayAll(130, 140);
	observe();
	EXPECT_EQ(stable_.value(), Hlc{130});
}

TEST_F(StablePointTest, BeginsAnewWithOtherRegions)
{
	sayAll(100, 110);
	observe();
	regions_.push_back("sa");
	observe();
	EXPECT_EQ(stable_.value(), std::nullopt);
	sayAll(90, 120); // the new one is behind
	observe();
	EXPECT_EQ(stable_.value(), Hlc{90});
	regions_.pop_back();
	sayAll(130, 140);
	observe();
	EXPECT_EQ(stable_.value(), Hlc{130});
}

// What is below the stable point is applied everywhere; who had not seen it when he committed may still be on his way, but is
// stamped below the moment at which his region said that it had applied it.
TEST_F(StablePointTest, WhatHasBeenSeenByAllThatIsStillToComeCanBePruned)
{
	sayAll(100, 150);
	say("eu", "us", 100, 180);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{});
	sayAll(170, 200);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{});
	sayAll(180, 220);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{100});
	sayAll(219, 240);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{100});
	sayAll(220, 250);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{180});
}

TEST_F(StablePointTest, WhatWasPrunableStaysSo)
{
	sayAll(100, 110);
	observe();
	sayAll(120, 130);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{100});
	regions_.push_back("sa");
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{100});
	sayAll(50, 60);
	observe();
	sayAll(70, 80);
	observe();
	EXPECT_EQ(stable_.prunable(), Hlc{100});
}

// ---- canDecide

LocalState local(LocalKind kind, int64_t hlc = 0)
{
	LocalState state;
	state.kind = kind;
	state.version.hlc = Hlc{hlc};
	return state;
}

TEST(CanDecideTest, WhatIsNotLateAlways)
{
	for (LocalKind kind : {LocalKind::Absent, LocalKind::Live, LocalKind::Tombstone})
		for (bool own : {false, true})
		{
			EXPECT_TRUE(canDecide(local(kind, 50), own, Hlc{101}, Hlc{100}));
			EXPECT_TRUE(canDecide(local(kind, 50), own, Hlc{1}, Hlc{}));
		}
}

TEST(CanDecideTest, ALateEventOnlyByWhatIsKnownExactly)
{
	EXPECT_FALSE(canDecide(local(LocalKind::Absent), false, Hlc{100}, Hlc{100})); // a deletion above it may be forgotten
	EXPECT_FALSE(canDecide(local(LocalKind::Tombstone, 80), false, Hlc{90}, Hlc{100})); // so may a newer one
	EXPECT_TRUE(canDecide(local(LocalKind::Tombstone, 101), true, Hlc{90}, Hlc{100}));
	EXPECT_TRUE(canDecide(local(LocalKind::Live, 80), false, Hlc{90}, Hlc{100}));
	EXPECT_FALSE(canDecide(local(LocalKind::Live, 80), true, Hlc{90}, Hlc{100})); // its stamp may have been another
	EXPECT_TRUE(canDecide(local(LocalKind::Live, 101), true, Hlc{90}, Hlc{100}));
	LocalState mine = local(LocalKind::Absent);
	mine.sameTransaction = true;
	EXPECT_TRUE(canDecide(mine, true, Hlc{90}, Hlc{100}));
}

} // namespace
} // namespace mrsync
