// Merges of single values: what users expect, and what every merge keeps, over all small cases.
#include "core/document.h"
#include "core/merge.h"

#include "unit/merges.h"
#include "unit/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

namespace mrsync
{
namespace
{

using test::Random;

// ---- counters

using Number = std::optional<int64_t>;
constexpr int64_t kLowest = std::numeric_limits<int64_t>::min(), kHighest = std::numeric_limits<int64_t>::max();

Number counted(Number ancestor, Number a, Number b) { return mergeCounter(ancestor, a, b, kLowest, kHighest).value; }

TEST(MergeCounter, addsWhatBothSidesAdded)
{
	EXPECT_EQ(counted(10, 12, 15), 17);
	EXPECT_EQ(counted(10, 8, 15), 13);
	EXPECT_EQ(counted(10, 15, 15), 20) << "the same addition twice is two additions";
	EXPECT_EQ(counted({}, 5, 7), 12) << "inserted on both sides";
	EXPECT_EQ(counted({}, {}, 7), 7);
	EXPECT_EQ(counted(10, {}, 15), 5) << "set to NULL is taken away";
	EXPECT_EQ(counted(10, 15, {}), 5);
	EXPECT_EQ(counted(10, {}, {}), Number()) << "both set it to NULL";
	EXPECT_EQ(counted(10, 10, {}), Number());
	EXPECT_EQ(counted(10, {}, 10), Number());
}

TEST(MergeCounter, saysWhatDoesNotFit)
{
	EXPECT_FALSE(mergeCounter(Number(0), Number(100), Number(100), -128, 127).fits);
	EXPECT_FALSE(mergeCounter(Number(0), Number(-100), Number(-100), -128, 127).fits);
	EXPECT_TRUE(mergeCounter(Number(0), Number(100), Number(27), -128, 127).fits);
	EXPECT_FALSE(mergeCounter(Number(0), Number(kHighest), Number(1), kLowest, kHighest).fits);
	EXPECT_EQ(counted(kLowest, kLowest + 1, kHighest), Number()) << "the addition alone is wider than the type";
	EXPECT_EQ(counted(kHighest, kHighest - 5, kLowest + 5), kLowest);
	EXPECT_EQ(counted(kLowest, kHighest, kLowest), kHighest);
}

TEST(MergeCounter, anyOrderOfManyAdditionsEndsWithTheirSum)
{
	// Each event adds something to a counter that its region saw at some time; so the fold of all is the sum of all.
	Random random(7);
	for (int round = 0; round < 200; ++round)
	{
		std::vector<std::pair<int64_t, int64_t>> events; // before, after
		int64_t sum = 100;
		for (int i = 0; i < 6; ++i)
		{
			int64_t before = static_cast<int64_t>(random.below(1000)), added = static_cast<int64_t>(random.below(50)) - 25;
			events.emplace_back(before, before + added);
			sum += added;
		}
		std::sort(events.begin(), events.end());
		do
		{
			Number state = 100;
			for (auto [before, after] : events)
				state = counted(before, state, after);
			ASSERT_EQ(state, sum) << "round " << round;
		} while (std::next_permutation(events.begin(), events.end()));
	}
}

TEST(MergeCounter, floatingPoint)
{
	constexpr double highest = std::numeric_limits<double>::max(), infinity = std::numeric_limits<double>::infinity();
	auto count = [](std::optional<double> ancestor, std::optional<double> a, std::optional<double> b) { return mergeCounter(ancestor, a, b, -highest, highest); };
	EXPECT_EQ(count(1.5, 2.0, 2.25).value, 2.75);
	EXPECT_EQ(count({}, 2.0, 2.25).value, 4.25);
	EXPECT_EQ(count(1.0, infinity, 2.0).value, 2.0);
	EXPECT_EQ(count(1.0, 2.0, infinity).value, infinity);
	EXPECT_TRUE(std::isnan(*count(1.0, 2.0, std::nan("")).value));
	EXPECT_FALSE(count(0.0, highest, highest).fits);
	EXPECT_EQ(count(0.1, 0.1, 0.3).value, 0.3) << "what one side alone changed is not recomputed";
}

// ---- sets

using Elements = std::vector<uint32_t>;

Elements united(const Elements &ancestor, const Elements &a, const Elements &b)
{
	Elements result;
	for (SetElement element : mergeSet(ancestor, a, b))
		result.push_back((element.ofB ? b : a)[element.index]);
	return result;
}

TEST(MergeSet, keepsWhatBothMeant)
{
	EXPECT_EQ(united({1, 2}, {1, 2, 3}, {2, 4}), (Elements{2, 3, 4}));
	EXPECT_EQ(united({}, {1, 2}, {2, 3}), (Elements{1, 2, 3}));
	EXPECT_EQ(united({1}, {}, {1, 2}), (Elements{2})) << "what a removed stays removed";
	EXPECT_EQ(united({1}, {}, {}), Elements{});
	EXPECT_EQ(united({1, 2}, {2, 1}, {1, 2, 3}), (Elements{2, 1, 3})) << "in a's order";
	EXPECT_EQ(united({}, {1, 1, 2}, {3, 3}), (Elements{1, 2, 3})) << "each once";
}

TEST(MergeSet, allSmallOnes)
{
	// All subsets of four elements: an element is in the result as it is on the side that changed it.
	auto subset = [](unsigned bits)
	{
		Elements elements;
		for (uint32_t i = 0; i < 4; ++i)
			if (bits & 1u << i)
				elements.push_back(i);
		return elements;
	};
	for (unsigned ancestor = 0; ancestor < 16; ++ancestor)
		for (unsigned a = 0; a < 16; ++a)
			for (unsigned b = 0; b < 16; ++b)
			{
				Elements result = united(subset(ancestor), subset(a), subset(b));
				std::sort(result.begin(), result.end());
				// bit by bit: b's where b changed it, else a's
				ASSERT_EQ(result, subset((b & (b ^ ancestor)) | (a & ~(b ^ ancestor)))) << ancestor << ' ' << a << ' ' << b;
			}
}

// ---- texts

TEST(MergeText, examples)
{
	EXPECT_EQ(mergeText("one\ntwo\nthree", "One\ntwo\nthree", "one\ntwo\nthree\nfour"), "One\ntwo\nthree\nfour");
	EXPECT_EQ(mergeText("a\nb\nc\n", "a\nB\nc\n", "a\nb\nC\n"), "a\nB\nC\n") << "lines side by side are different lines";
	EXPECT_EQ(mergeText("a\nb", "a\nb\nof a", "a\nb\nof b"), "a\nb\nof a\nof b") << "both append";
	EXPECT_EQ(mergeText("a\nb\n", "a\nb\nof a\n", "a\nb\nof b\n"), "a\nb\nof a\nof b\n");
	EXPECT_EQ(mergeText("a\nb", "a\nb\nsame", "a\nb\nsame"), "a\nb\nsame") << "the same is appended once";
	EXPECT_EQ(mergeText("a\nb\nc", "a\nof a\nc", "a\nof b\nc"), "a\nof b\nc") << "the same line: b's";
	EXPECT_EQ(mergeText("a\nb\nc\nd", "a\nd", "a\nb\nC\nd"), "a\nb\nC\nd") << "removed by a, changed by b";
	EXPECT_EQ(mergeText("a\nb\nc\nd", "a\nb\nC\nd", "a\nd"), "a\nd") << "and the other way round";
	EXPECT_EQ(mergeText("a\nb\nc", "b\nc", "a\nb"), "b") << "each removes another line";
	EXPECT_EQ(mergeText("", "of a", "of b"), "of b");
	EXPECT_EQ(mergeText("x", "", "x\ny"), "\ny") << "the line is emptied, and another one appended";
	EXPECT_EQ(mergeText("a\nb\nc\n", "a\nb\nc", "A\nb\nc\n"), "A\nb\nc") << "the line feed at the end is a change, too";
	EXPECT_EQ(mergeText("a\r\nb", "a\r\nb\r\nc", "A\r\nb"), "A\r\nb\r\nc");
}

TEST(MergeText, paragraphs)
{
	std::string ancestor, a, b, both;
	for (int i = 0; i < 200; ++i)
	{
		std::string line = "line " + std::to_string(i % 17) + "\n"; // many are equal
		bool ofA = i % 40 == 10, ofB = i % 40 == 30;
		ancestor += line;
		a += ofA ? "changed by a\n" : line;
		b += ofB ? "changed by b\n" : line;
		both += ofA ? "changed by a\n" : ofB ? "changed by b\n" : line;
	}
	EXPECT_EQ(mergeText(ancestor, a, b), both);
}

std::string randomText(Random &random, size_t lines)
{
	std::string text;
	for (size_t n = random.below(lines + 1); n > 0; --n)
		text += static_cast<char>('a' + random.below(3)), text += n > 1 ? "\n" : "";
	return text;
}

TEST(MergeText, whatOneSideChangedIsTakenAndTheSameTwiceIsOnce)
{
	Random random(11);
	for (int round = 0; round < 20000; ++round)
	{
		std::string x = randomText(random, 8), y = randomText(random, 8);
		ASSERT_EQ(mergeText(x, x, y), y);
		ASSERT_EQ(mergeText(x, y, x), y);
		ASSERT_EQ(mergeText(x, y, y), y) << "ancestor " << x;
	}
}

TEST(MergeText, linesThatOneSideAloneTouchedSurvive)
{
	// Every line is its own: then it is plain what each side meant. A line that one side removed and the other left alone is gone;
	// a line that nobody removed stays, in its order; an inserted line is there unless it lies in what the other side replaced.
	Random random(13);
	for (int round = 0; round < 20000; ++round)
	{
		std::vector<std::string> lines;
		for (size_t n = 1 + random.below(8); n > 0; --n)
			lines.push_back("line " + std::to_string(n));
		auto edited = [&](const char *who, std::set<std::string> &removed, std::vector<std::string> &inserted)
		{
			std::string text;
			for (const std::string &line : lines)
			{
				if (random.below(4) == 0)
				{
					inserted.push_back(std::string(who) + std::to_string(inserted.size()));
					text += inserted.back() + "\n";
				}
				if (random.below(4) == 0)
					removed.insert(line);
				else
					text += line + "\n";
			}
			return text;
		};
		std::string ancestor;
		for (const std::string &line : lines)
			ancestor += line + "\n";
		std::set<std::string> removedByA, removedByB;
		std::vector<std::string> insertedByA, insertedByB;
		std::string a = edited("a", removedByA, insertedByA), b = edited("b", removedByB, insertedByB);
		std::string merged = "\n" + mergeText(ancestor, a, b);
		size_t from = 0;
		for (const std::string &line : lines)
		{
			size_t at = merged.find("\n" + line + "\n");
			if (!removedByA.contains(line) && !removedByB.contains(line))
			{
				ASSERT_NE(at, std::string::npos) << line << " of\n" << ancestor << "a\n" << a << "b\n" << b << "merged\n" << merged;
				ASSERT_GE(at, from);
				from = at;
			}
			else if (removedByB.contains(line) && removedByA.contains(line))
			{
				ASSERT_EQ(at, std::string::npos);
			}
		}
		for (const std::string &line : insertedByB)
			ASSERT_NE(merged.find("\n" + line + "\n"), std::string::npos) << "what the later writer wrote is there";
		for (const std::string &line : insertedByA)
			ASSERT_TRUE(!removedByA.empty() || !removedByB.empty() || merged.find("\n" + line + "\n") != std::string::npos)
				<< "nothing was removed, so nothing overlaps";
	}
}

TEST(MergeText, veryLargeOnesAreMergedInOneHunk)
{
	std::string ancestor = "first\n", a = "first\n", b = "FIRST\n", other;
	for (int i = 0; i < 3000; ++i)
	{
		ancestor += "old " + std::to_string(i) + "\n";
		other += "new " + std::to_string(i) + "\n";
	}
	a += other + "last\n";
	b += ancestor.substr(6) + "last\n";
	ancestor += "last\n";
	EXPECT_EQ(mergeText(ancestor, a, b), "FIRST\n" + other + "last\n");
}

// ---- documents

std::string merged(std::string_view ancestor, std::string_view a, std::string_view b, const std::vector<DocumentRule> &rules = {})
{
	auto read = [](std::string_view text) { return text.empty() ? std::nullopt : std::optional(test::DocumentParser(text).value()); };
	std::optional<Document> documents[] = {read(ancestor), read(a), read(b)};
	auto place = [&](int n) { return documents[n] ? &*documents[n] : nullptr; };
	Shift shift = [](const std::string &before, const std::string &state, const std::string &after)
	{ return std::to_string(std::stol(state) + std::stol(after) - std::stol(before)); };
	std::optional<Document> result = mergeDocument(place(0), place(1), place(2), rules, shift);
	if (!result)
		return "nothing";
	return test::textOf(*result);
}

TEST(MergeDocument, keyByKey)
{
	EXPECT_EQ(merged("{a:1,b:1}", "{a:2,b:1}", "{a:1,b:1,c:3}"), "{a:2,b:1,c:3}");
	EXPECT_EQ(merged("{a:{x:1,y:1}}", "{a:{x:2,y:1}}", "{a:{x:1,y:2}}"), "{a:{x:2,y:2}}");
	EXPECT_EQ(merged("{a:1}", "{a:2}", "{a:3}"), "{a:3}") << "b's";
	EXPECT_EQ(merged("{a:1,b:1}", "{b:1}", "{a:1,b:2}"), "{b:2}") << "a removed a key";
	EXPECT_EQ(merged("{a:1,b:1}", "{a:1}", "{a:1,b:2}"), "{a:1,b:2}") << "a removed what b changed";
	EXPECT_EQ(merged("{a:1,b:1}", "{a:1,b:2}", "{a:1}"), "{a:1}") << "b removed what a changed";
	EXPECT_EQ(merged("{a:{x:1}}", "{a:{x:2}}", "{}"), "{}");
	EXPECT_EQ(merged("{a:[1]}", "{a:[1,2]}", "{a:[1,3]}"), "{a:[1,3]}") << "an array is one value";
	EXPECT_EQ(merged("{a:1}", "{a:null}", "{a:1,b:1}"), "{a:null,b:1}") << "null is a value";
	EXPECT_EQ(merged("", "{a:1}", "{b:1}"), "{a:1,b:1}") << "inserted on both sides";
	EXPECT_EQ(merged("", "{k:{a:1}}", "{k:{b:1}}"), "{k:{a:1,b:1}}");
	EXPECT_EQ(merged("5", "{a:1}", "{b:1}"), "{a:1,b:1}");
	EXPECT_EQ(merged("{a:1}", "x", "{a:2}"), "{a:2}");
	EXPECT_EQ(merged("{a:1}", "", "{a:2}"), "{a:2}");
	EXPECT_EQ(merged("{a:1}", "{a:2}", ""), "nothing");
	EXPECT_EQ(merged("{a:1}", "", ""), "nothing");
	EXPECT_EQ(merged("{a:1.50,b:1}", "{a:2,b:1}", "{a:1.5,b:2}"), "{a:2,b:2}") << "from 1.50 to 1.5 is no change";
}

TEST(MergeDocument, countersAndSetsInside)
{
	std::vector<DocumentRule> rules{{{"n"}, DocumentRule::Kind::Counter}, {{"*", "n"}, DocumentRule::Kind::Counter}, {{"tags"}, DocumentRule::Kind::Set}};
	EXPECT_EQ(merged("{n:1}", "{n:3}", "{n:2}", rules), "{n:4}");
	EXPECT_EQ(merged("{x:{n:1}}", "{x:{n:3}}", "{x:{n:2}}", rules), "{x:{n:4}}");
	EXPECT_EQ(merged("{}", "{n:3}", "{n:2}", rules), "{n:5}");
	EXPECT_EQ(merged("{n:1}", "{}", "{n:3}", rules), "{n:2}");
	EXPECT_EQ(merged("{n:1}", "{}", "{x:1}", rules), "{x:1}");
	EXPECT_EQ(merged("{n:1,y:1}", "{}", "{y:2}", rules), "{y:2}") << "removed by both";
	EXPECT_EQ(merged("{n:1}", "{n:text}", "{n:2}", rules), "{n:2}") << "no number: as without a rule";
	EXPECT_EQ(merged("{tags:[a,b]}", "{tags:[a,b,c]}", "{tags:[b,d]}", rules), "{tags:[b,c,d]}");
	EXPECT_EQ(merged("{tags:[{x:1.0}]}", "{tags:[{x:1.0},2]}", "{tags:[{x:1}]}", rules), "{tags:[{x:1.0},2]}") << "elements compare by value";
	EXPECT_EQ(merged("{tags:[a]}", "{tags:[a,b]}", "{}", rules), "{tags:[b]}") << "all removed, b added";
	EXPECT_EQ(merged("[a]", "[a,b]", "[c]", {{{}, DocumentRule::Kind::Set}}), "[b,c]") << "the document itself";
	EXPECT_EQ(merged("{n:{n:1}}", "{n:{n:2}}", "{n:{n:2}}", rules), "{n:{n:3}}");
}

TEST(MergeDocument, pointers)
{
	using Path = std::vector<std::string>;
	EXPECT_EQ(parsePointer(""), Path());
	EXPECT_EQ(parsePointer("/a/b"), (Path{"a", "b"}));
	EXPECT_EQ(parsePointer("/a~1b/c~0d/~01"), (Path{"a/b", "c~d", "~1"}));
	EXPECT_EQ(parsePointer("/"), (Path{""}));
	for (const char *no : {"a", "a/b", "/~", "/~2", "/a~"})
		EXPECT_EQ(parsePointer(no), std::nullopt) << no;
}

} // namespace
} // namespace mrsync
