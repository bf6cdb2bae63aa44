// The JSON reader and writer, held against jansson: whatever jansson refuses we refuse, and the other way round, and
// both read the same.
#include "core/json.h"

#include "unit/random.h"

#include <gtest/gtest.h>
#include <jansson.h>

#include <memory>

namespace mrsync
{
namespace
{

bool accepts(std::string_view text)
{
	try
	{
		parseJsonObject(text);
		return true;
	}
	catch (const JsonError &)
	{
		return false;
	}
}

using JanssonPtr = std::unique_ptr<json_t, decltype(&json_decref)>;

JanssonPtr jansson(std::string_view text)
{
	return JanssonPtr(json_loadb(text.data(), text.size(), JSON_REJECT_DUPLICATES, nullptr), json_decref);
}

TEST(JsonTest, ReadsMembersInOrder)
{
	std::vector<JsonMember> members =
	    parseJsonObject(R"( { "z" : 1 , "a":"x\"y", "m":{"q":[1,{}]},"n":null,"t":true,"r":-1.5e3 } )");
	ASSERT_EQ(members.size(), 6u);
	EXPECT_EQ(members[0].key, "z");
	EXPECT_EQ(members[0].value.kind, JsonKind::Integer);
	EXPECT_EQ(integerOf(members[0].value), 1);
	EXPECT_EQ(stringOf(members[1].value), "x\"y");
	EXPECT_EQ(members[2].value.kind, JsonKind::Object);
	EXPECT_EQ(members[2].value.text, R"({"q":[1,{}]})");
	EXPECT_EQ(members[3].value.kind, JsonKind::Null);
	EXPECT_EQ(members[4].value.kind, JsonKind::Boolean);
	EXPECT_EQ(members[5].value.kind, JsonKind::Real);
	EXPECT_TRUE(parseJsonObject("{}").empty());
}

TEST(JsonTest, UndoesEscapes)
{
	std::vector<JsonMember> members =
	    parseJsonObject(R"({"\u006bey":"\"\\\/\b\f\n\r\t\u0001\u00e9\u20ac\ud83d\ude00x"})");
	EXPECT_EQ(members[0].key, "key");
	EXPECT_EQ(stringOf(members[0].value), "\"\\/\b\f\n\r\t\x01\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80x");
}

TEST(JsonTest, RefusesWhatIsNoObject)
{
	for (const char *text : {"",
	                         " ",
	                         "null",
	                         "[]",
	                         "1",
	                         "\"a\"",
	                         "{",
	                         "}",
	                         "{}}",
	                         "{} x",
	                         "{a:1}",
	                         "{\"a\"}",
	                         "{\"a\":}",
	                         "{\"a\":1,}",
	                         "{,\"a\":1}",
	                         "{\"a\":1 \"b\":2}",
	                         "{\"a\":01}",
	                         "{\"a\":-}",
	                         "{\"a\":1.}",
	                         "{\"a\":.5}",
	                         "{\"a\":1e}",
	                         "{\"a\":+1}",
	                         "{\"a\":0x1}",
	                         "{\"a\":NaN}",
	                         "{\"a\":nul}",
	                         "{\"a\":tru}",
	                         "{\"a\":\"}",
	                         "{\"a\":\"\\\"}",
	                         "{\"a\":\"\\x\"}",
	                         "{\"a\":\"\\u12\"}",
	                         "{\"a\":\"\\u12g4\"}",
	                         "{\"a\":\"\\u0000\"}",
	                         "{\"a\":\"\\ud800\"}",
	                         "{\"a\":\"\\udc00\"}",
	                         "{\"a\":\"\\ud800\\u0041\"}",
	                         "{\"a\":\"\\ud800x\"}",
	                         "{\"a\":\"\n\"}",
	                         "{\"a\":[1,]}",
	                         "{\"a\":[1 2]}",
	                         "{\"a\":[}",
	                         "{\"a\":1,\"a\":2}",
	                         "{\"a\":1,\"\\u0061\":2}",
	                         "{'a':1}",
	                         "{\"a\":1}\x01"})
	{
		EXPECT_FALSE(accepts(text)) << text;
		EXPECT_TRUE(jansson(text) == nullptr || !json_is_object(jansson(text).get())) << text;
	}
	EXPECT_FALSE(accepts(std::string_view("{\"a\":\"\0\"}", 9)));
	EXPECT_FALSE(accepts(std::string_view("{}\0", 3)));
}

TEST(JsonTest, RefusesInvalidUtf8)
{
	for (const char *text :
	     {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x20", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
	      "\xEF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"})
		EXPECT_FALSE(accepts(std::string("{\"a\":\"") + text + "\"}")) << testing::PrintToString(text);
	for (const char *text : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
	                         "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
		EXPECT_TRUE(accepts(std::string("{\"a\":\"") + text + "\"}")) << testing::PrintToString(text);
}

TEST(JsonTest, DepthHasALimit)
{
	auto nested = [](int depth)
	{
		std::string text = "{\"a\":";
		text.append(static_cast<size_t>(depth), '[');
		text.append(static_cast<size_t>(depth), ']');
		return text + "}";
	};
	EXPECT_TRUE(accepts(nested(kJsonDepth - 1)));
	EXPECT_FALSE(accepts(nested(kJsonDepth)));
	EXPECT_FALSE(accepts(nested(1'000'000)));
	EXPECT_FALSE(accepts("{\"a\":" + std::string(1'000'000, '[')));
}

TEST(JsonTest, FindsADuplicateAmongManyKeys)
{
	for (int count : {2, 24, 25, 300})
	{
		std::string text = "{";
		for (int i = 0; i < count; ++i)
			text += "\"k" + std::to_string(i) + "\":1,";
		EXPECT_TRUE(accepts(text + "\"k\":2}"));
		EXPECT_FALSE(accepts(text + "\"k" + std::to_string(count / 2) + "\":2}"));
	}
}

TEST(JsonTest, NumbersSayWhenTheyDoNotFit)
{
	auto value = [](const char *text) { return JsonValue{JsonKind::Integer, text}; };
	EXPECT_EQ(integerOf(value("9223372036854775807")), INT64_MAX);
	EXPECT_EQ(integerOf(value("-9223372036854775808")), INT64_MIN);
	EXPECT_FALSE(integerOf(value("9223372036854775808")));
	EXPECT_EQ(unsignedOf(value("18446744073709551615")), UINT64_MAX);
	EXPECT_FALSE(unsignedOf(value("18446744073709551616")));
	EXPECT_FALSE(unsignedOf(value("-1")));
}

TEST(JsonTest, WritesWhatJanssonReads)
{
	test::Random random(1);
	const std::string_view pieces[] = {
	    "a",         "\"", "\\", "/", "\n", "\x01", "\x1F", "\x7F", "\xC3\xA9", "\xE2\x80\xA8", "\xF0\x9F\x98\x80",
	    "plain text"};
	for (int i = 0; i < 20'000; ++i)
	{
		std::string value;
		for (uint64_t n = random.below(12); n > 0; --n)
			value += pieces[random.below(std::size(pieces))];
		std::string text = "{\"a\":";
		putJsonString(text, value);
		text += "}";
		JanssonPtr read = jansson(text);
		ASSERT_TRUE(read);
		const json_t *string = json_object_get(read.get(), "a");
		ASSERT_EQ(std::string(json_string_value(string), json_string_length(string)), value);
		ASSERT_EQ(stringOf(parseJsonObject(text)[0].value), value);
	}
}

TEST(JsonTest, LineSeparatorsStayAsTheyAre)
{
	std::string out;
	putJsonString(out, "\xE2\x80\xA8\x7F\x01\x1F\t");
	EXPECT_EQ(out, "\"\xE2\x80\xA8\x7F\\u0001\\u001f\\t\"");
}

// Both readers on bytes that are nearly JSON. jansson refuses numbers too large for it, which we leave to the reader of
// the number, and duplicates in objects nested deeper than we look at; the alphabet avoids both.
TEST(JsonTest, AgreesWithJanssonOnMutatedText)
{
	test::Random random(2);
	const std::string original =
	    R"({"key":"v\u00e9\n\"","b":[1,-2.5e3,true,false,null,{"c":{}}],"d":{"e":"\ud83d\ude00"},"f":0,"g":"é"})";
	constexpr std::string_view alphabet = "{}[]\":,\\u0123dD8ceE+-.tfnrl/ \xC3\xA9\x80\x01";
	size_t accepted = 0;
	for (int i = 0; i < 200'000; ++i)
	{
		std::string text = original;
		for (uint64_t edits = 1 + random.below(3); edits > 0; --edits)
		{
			size_t at = random.below(text.size());
			char c = alphabet[random.below(alphabet.size())];
			switch (random.below(3))
			{
			case 0:
				text[at] = c;
				break;
			case 1:
				text.insert(at, 1, c);
				break;
			default:
				text.erase(at, 1);
			}
		}
		JanssonPtr theirs = jansson(text);
		bool theyAccept = theirs != nullptr && json_is_object(theirs.get());
		ASSERT_EQ(accepts(text), theyAccept) << text;
		accepted += theyAccept;
		if (!theyAccept)
			continue;
		std::vector<JsonMember> ours = parseJsonObject(text);
		ASSERT_EQ(ours.size(), json_object_size(theirs.get()));
		for (const JsonMember &member : ours)
		{
			const json_t *value = json_object_get(theirs.get(), member.key.c_str());
			ASSERT_TRUE(value) << text;
			if (member.value.kind == JsonKind::String)
			{
				ASSERT_TRUE(json_is_string(value));
				ASSERT_EQ(stringOf(member.value), std::string(json_string_value(value), json_string_length(value)));
			}
		}
	}
	EXPECT_GT(accepted, 1'000u);
}

} // namespace
} // namespace mrsync
