// Identities: valid by RFC 9562, the same everywhere, ordered within a transaction (dedup keeps ranges), unique.
#include "core/ids.h"

#include "unit/random.h"

#include <gtest/gtest.h>

#include <set>
#include <unordered_set>
#include <vector>

namespace mrsync
{
namespace
{

constexpr Hlc kSomeTime{1795421460123456 - 946684800000000}; // 2026-11-23 08:11:00.123456Z

TEST(UuidTest, TextGoesBothWays)
{
	std::string text = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
	std::optional<Uuid> uuid = parseUuid(text);
	ASSERT_TRUE(uuid);
	EXPECT_EQ(uuid->bytes[0], 0x6b);
	EXPECT_EQ(uuid->bytes[15], 0xc8);
	EXPECT_EQ(toText(*uuid), text);
	EXPECT_EQ(parseUuid("6BA7B810-9DAD-11D1-80B4-00C04FD430C8"), uuid);
}

TEST(UuidTest, RefusesWhatIsNoUuid)
{
	for (const char *text : {"", "6ba7b810-9dad-11d1-80b4-00c04fd430c", "6ba7b810-9dad-11d1-80b4-00c04fd430c80",
	                         "6ba7b810x9dad-11d1-80b4-00c04fd430c8", "6ba7b8109-dad-11d1-80b4-00c04fd430c8",
	                         "6ba7b810-9dad-11d1-80b4-00c04fd430cg", "{6ba7b810-9dad-11d1-80b4-00c04fd430}",
	                         "6ba7b8109dad11d180b400c04fd430c8", "------------------------------------"})
		EXPECT_FALSE(parseUuid(text)) << text;
}

// RFC 9562, appendix A.4; and the well-known example of Python's uuid module.
TEST(NameIdTest, KnownVectors)
{
	Uuid dns = *parseUuid("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
	EXPECT_EQ(toText(nameId(dns, "www.example.com")), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
	EXPECT_EQ(toText(nameId(dns, "python.org")), "886313e1-3b8a-5372-9b90-0c9aee199e5d");
}

// These are stored in databases and topics: whoever changes them breaks running groups.
TEST(NameIdTest, OurIdsDoNotChange)
{
	EXPECT_EQ(toText(linkId("shop", "eu", "us")), "424eeac4-2a07-564b-afff-727f3814a42f");
	EXPECT_EQ(toText(conflictId("public.t", "{\"id\":\"1\"}", Hlc{1}, "eu", Hlc{2}, "us")),
	          "eefdf91c-5ddb-564e-80ca-ced93f27d8cf");
	EXPECT_EQ(toText(stepId("public.t", "{\"id\":\"1\"}", "v", Hlc{1}, "eu")), "6af1583a-475a-55c0-9394-d4da7a616804");
	EXPECT_EQ(toText(eventId(kSomeTime, "eu", 0x16B3748, 0)), "01a20775-569b-7608-b800-b59ba4000000");
}

TEST(LinkIdTest, HasADirectionAndNoAmbiguity)
{
	std::set<Uuid> ids;
	ids.insert(linkId("g", "a", "b"));
	ids.insert(linkId("g", "b", "a"));
	ids.insert(linkId("h", "a", "b"));
	ids.insert(linkId("ga", "", "b"));
	ids.insert(linkId("g", "ab", ""));
	ids.insert(linkId("g", "", "ab"));
	EXPECT_EQ(ids.size(), 6u);
}

TEST(ConflictIdTest, DoesNotDependOnTheSide)
{
	auto id = [](int64_t a, const char *regionA, int64_t b, const char *regionB)
	{ return conflictId("public.t", "{\"id\":\"1\"}", Hlc{a}, regionA, Hlc{b}, regionB); };
	EXPECT_EQ(id(1, "eu", 2, "us"), id(2, "us", 1, "eu"));
	EXPECT_EQ(id(1, "eu", 1, "us"), id(1, "us", 1, "eu"));
	EXPECT_NE(id(1, "eu", 2, "us"), id(2, "eu", 1, "us"));
	EXPECT_NE(id(1, "eu", 2, "us"), conflictId("public.u", "{\"id\":\"1\"}", Hlc{1}, "eu", Hlc{2}, "us"));
	EXPECT_NE(id(1, "eu", 2, "us"), conflictId("public.t", "{\"id\":\"2\"}", Hlc{1}, "eu", Hlc{2}, "us"));
}

TEST(StepIdTest, EachColumnOfEachEventHasOne)
{
	std::set<Uuid> ids;
	ids.insert(stepId("t", "1", "v", Hlc{1}, "eu"));
	ids.insert(stepId("u", "1", "v", Hlc{1}, "eu"));
	ids.insert(stepId("t", "2", "v", Hlc{1}, "eu"));
	ids.insert(stepId("t", "1", "w", Hlc{1}, "eu"));
	ids.insert(stepId("t", "1", "", Hlc{1}, "eu"));
	ids.insert(stepId("t", "1", "v", Hlc{2}, "eu"));
	ids.insert(stepId("t", "1", "v", Hlc{1}, "us"));
	EXPECT_EQ(ids.size(), 7u);
}

TEST(EventIdTest, IsAVersion7OfItsTime)
{
	test::Random random(1);
	for (int i = 0; i < 10'000; ++i)
	{
		Hlc hlc{random.between(0, 8'000'000'000'000'000)};
		Uuid id = eventId(hlc, "eu", random.bits(), random.below(1u << 30));
		ASSERT_EQ(id.bytes[6] >> 4, 7);
		ASSERT_EQ(id.bytes[8] >> 6, 2);
		uint64_t millis = 0;
		for (size_t byte = 0; byte < 6; ++byte)
			millis = millis << 8 | id.bytes[byte];
		ASSERT_EQ(millis, static_cast<uint64_t>(hlc.value / 1000 + 946684800000));
	}
}

TEST(EventIdTest, RoundsTimeDownBefore2000Too)
{
	EXPECT_EQ(eventId(Hlc{-1}, "eu", 8, 0), eventId(Hlc{-1000}, "eu", 8, 0));
	EXPECT_LT(eventId(Hlc{-1}, "eu", 8, 0), eventId(Hlc{0}, "eu", 8, 0));
}

TEST(EventIdTest, IsOrderedWithinATransaction)
{
	constexpr uint64_t wrap = uint64_t{1} << 26;
	for (uint64_t lsn :
	     {uint64_t{0}, uint64_t{0x16B3748}, uint64_t{0xFFFFFFFF} & ~uint64_t{7}, uint64_t{0x1234'0000'0008}})
	{
		Uuid last = eventId(kSomeTime, "eu", lsn, 0);
		for (uint64_t index :
		     {uint64_t{1}, uint64_t{2}, uint64_t{255}, uint64_t{256}, wrap - 1, wrap, wrap + 1, 2 * wrap})
		{
			Uuid id = eventId(kSomeTime, "eu", lsn, index);
			ASSERT_LT(last, id) << lsn << " " << index;
			last = id;
		}
	}
}

// Regions that commit in the same milliseconds, at LSNs as close as a commit record allows and as far as 64 GB.
TEST(EventIdTest, IsUniqueOverSimulatedCommits)
{
	test::Random random(2);
	std::unordered_set<std::string> ids;
	size_t made = 0;
	for (const char *region :
	     {"eu", "us", "ap", "a region whose name is longer than the sixty-four bytes of the cache, and more"})
	{
		uint64_t lsn = 0x1000000;
		for (int commit = 0; commit < 5'000; ++commit)
		{
			lsn += random.oneIn(100) ? random.below(uint64_t{1} << 20) * 8 : 40;
			Hlc hlc{kSomeTime.value + commit / 50 * 100};
			for (uint64_t index = 0, count = 1 + random.below(8); index < count; ++index, ++made)
				ids.insert(toText(eventId(hlc, region, lsn, index)));
		}
	}
	EXPECT_EQ(ids.size(), made);
}

TEST(EventIdTest, DoesNotDependOnWhichRegionWasAskedForBefore)
{
	std::vector<std::string> regions{"eu", "us", "eu1", "", std::string(64, 'x'), std::string(65, 'x'), "e"};
	std::vector<Uuid> first;
	for (const std::string &region : regions)
		first.push_back(eventId(kSomeTime, region, 8, 0));
	test::Random random(3);
	for (int i = 0; i < 1'000; ++i)
	{
		size_t pick = random.below(regions.size());
		ASSERT_EQ(eventId(kSomeTime, regions[pick], 8, 0), first[pick]);
	}
}

} // namespace
// Records of transactions are looked for among those of a millisecond.
TEST(EventIdTest, ThoseOfAMillisecondLieBetweenItsEnds)
{
	for (int64_t at : {int64_t{800000000000000}, int64_t{800000000000999}, int64_t{-1}, int64_t{-1000}})
		for (const char *region : {"a", "us", "zz"})
			for (uint64_t lsn : {uint64_t{0}, ~uint64_t{0}})
			{
				const Uuid id = eventId(Hlc{at}, region, lsn, 7);
				EXPECT_LE(eventIdFrom(Hlc{at}), id);
				EXPECT_LT(id, eventIdFrom(Hlc{at + 1000}));
			}
}

} // namespace mrsync
