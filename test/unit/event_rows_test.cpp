// Which event of a transaction made a version of a row, told from what is kept of the transaction (core/event_rows.h).
//
// The story behind it: an entry of the conflict log lacked the id of an event whose transaction had several, since by the time of the
// conflict only the row was there that it had written.
#include "core/event_rows.h"

#include <gtest/gtest.h>

namespace mrsync
{

namespace
{

constexpr Hlc kHlc{800000000000000};
constexpr uint64_t kLsn = 0x16B3748;

ChangeEvent eventAt(uint64_t index, const char *table, std::optional<Image> pk)
{
	ChangeEvent event;
	event.id = eventId(kHlc, "us", kLsn, index);
	event.table = table;
	event.pk = std::move(pk);
	event.operation = event.pk ? Operation::Update : Operation::Truncate;
	return event;
}

Image key(const char *id) { return {{"id", id}}; }

} // namespace

TEST(EventRowsTest, NothingOfOneEvent)
{
	EventRows rows;
	rows.add(eventAt(0, "public.t", key("1")));
	EXPECT_EQ(rows.bytes(), "");
	rows.clear();
	EXPECT_EQ(rows.bytes(), "");
}

TEST(EventRowsTest, TheLastOnTheRow)
{
	EventRows rows;
	for (int round = 0; round < 2; ++round) // it is used again
	{
		rows.clear();
		uint64_t index = 5; // what went elsewhere came before
		const Uuid first = eventAt(index, "", {}).id;
		for (const char *id : {"1", "2", "1", "3"})
			rows.add(eventAt(index++, "public.t", key(id)));
		rows.add(eventAt(index++, "public.other", key("1")));
		const std::string bytes = rows.bytes();
		auto at = [&](uint64_t count) { return eventAt(5 + count, "", {}).id; };
		EXPECT_EQ(bytes.size(), 40u);
		EXPECT_EQ(rows.tables(), (std::set<std::string>{"public.t", "public.other"}));
		EXPECT_EQ(lastEventOn(first, bytes, "public.t", key("1"), false), at(2));
		EXPECT_EQ(lastEventOn(first, bytes, "public.t", key("2"), true), at(1));
		EXPECT_EQ(lastEventOn(first, bytes, "public.other", key("1"), false), at(4));
		EXPECT_EQ(lastEventOn(first, bytes, "public.t", key("4"), false), std::nullopt);
		EXPECT_EQ(lastEventOn(first, bytes, "public.t", key("1.0"), false), std::nullopt);
	}
}

TEST(EventRowsTest, ATruncationIsOnAllRowsThatItLeftNothingOf)
{
	EventRows rows;
	rows.add(eventAt(0, "public.t", key("1")));
	rows.add(eventAt(1, "public.t", std::nullopt));
	rows.add(eventAt(2, "public.t", key("2")));
	const Uuid first = eventAt(0, "", {}).id;
	EXPECT_EQ(lastEventOn(first, rows.bytes(), "public.t", key("1"), true), eventAt(1, "", {}).id);
	EXPECT_EQ(lastEventOn(first, rows.bytes(), "public.t", key("9"), true), eventAt(1, "", {}).id);
	EXPECT_EQ(lastEventOn(first, rows.bytes(), "public.t", key("2"), false), eventAt(2, "", {}).id);
	EXPECT_EQ(lastEventOn(first, rows.bytes(), "public.t", key("9"), false), std::nullopt);
}

TEST(EventRowsTest, TheOrderOfTheKeysColumnsMakesNoDifference)
{
	EventRows rows;
	rows.add(eventAt(0, "public.t", Image{{"b", "1"}, {"a", "2"}}));
	rows.add(eventAt(1, "public.t", Image{{"b", "2"}, {"a", "1"}}));
	EXPECT_EQ(lastEventOn(eventAt(0, "", {}).id, rows.bytes(), "public.t", Image{{"a", "2"}, {"b", "1"}}, false), eventAt(0, "", {}).id);
}

TEST(EventRowsTest, NothingWhereItCouldNotBeTold)
{
	EventRows apart; // an event between them went to another topic
	apart.add(eventAt(0, "public.t", key("1")));
	apart.add(eventAt(2, "public.t", key("2")));
	EXPECT_EQ(apart.bytes(), "");
	EventRows many;
	for (uint64_t i = 0; i <= EventRows::kMost; ++i)
	{
		if (i == EventRows::kMost)
		{
			EXPECT_EQ(many.bytes().size(), 8 * EventRows::kMost);
		}
		many.add(eventAt(i, "public.t", key("1")));
	}
	EXPECT_EQ(many.bytes(), "");
}

// Ids are made of a sum, which an index beyond its bits carries on in.
TEST(EventRowsTest, IdsBehind)
{
	for (uint64_t lsn : {kLsn, ~uint64_t{0}})
		for (uint64_t index : {uint64_t{0}, uint64_t{7}, (uint64_t{1} << 26) - 1})
			for (uint64_t count : {uint64_t{0}, uint64_t{1}, uint64_t{255}, uint64_t{1} << 26})
				EXPECT_EQ(eventIdBehind(eventId(kHlc, "us", lsn, index), count), eventId(kHlc, "us", lsn, index + count));
}

} // namespace mrsync
