// ChangeEvent <-> JSON: nothing is lost, nothing crashes, and a refusal says what was wrong (I6, I9).
#include "core/codec.h"

#include "unit/random.h"

#include <gtest/gtest.h>
#include <jansson.h>

namespace mrsync
{
namespace
{

std::string encoded(const ChangeEvent &event)
{
	std::string out;
	encode(event, out);
	return out;
}

std::string errorOf(std::string_view json)
{
	auto result = decode(json);
	return std::holds_alternative<DecodeError>(result) ? std::get<DecodeError>(result).message : "accepted";
}

ChangeEvent sample()
{
	ChangeEvent event;
	event.hlc = *parseHlc("2026-11-23 08:11:00.123456Z");
	event.committedAt = event.hlc.value - 1000;
	event.id = *parseUuid("019aafa6-1234-7abc-8def-0123456789ab");
	event.region = "eu";
	event.table = "public.accounts";
	event.pk = Image{{"id", "1"}};
	event.operation = Operation::Update;
	event.before = Image{{"id", "1"}, {"name", std::nullopt}};
	event.after = Image{{"id", "1"}, {"name", "Zoë \"quoted\"\n"}};
	event.tx = {3, 42, 41, 0x1'016B3748, 745, 2, 1, false, SeenVector{{"us", {9, event.hlc}}}, {}};
	return event;
}

std::string randomText(test::Random &random)
{
	const std::string_view pieces[] = {"a",
	                                   "B",
	                                   "0",
	                                   " ",
	                                   "\"",
	                                   "\\",
	                                   "/",
	                                   "\n",
	                                   "\t",
	                                   "\x01",
	                                   "\x7F",
	                                   "\xC3\xA9",
	                                   "\xE2\x80\xA8",
	                                   "\xEF\xBF\xBF",
	                                   "\xF0\x9F\x98\x80",
	                                   "{}",
	                                   "null"};
	std::string text;
	for (uint64_t n = random.below(10); n > 0; --n)
		text += pieces[random.below(std::size(pieces))];
	return text;
}

Image randomImage(test::Random &random)
{
	Image image;
	uint64_t columns = random.oneIn(50) ? 300 : random.below(6);
	for (uint64_t i = 0; i < columns; ++i)
	{
		// Names in no order, each once.
		std::string name = randomText(random) + std::to_string(i);
		image.push_back({name, random.oneIn(5) ? std::nullopt : std::optional(randomText(random))});
	}
	return image;
}

ChangeEvent randomEvent(test::Random &random)
{
	auto maybe = [&]() -> std::optional<Image>
	{ return random.oneIn(3) ? std::nullopt : std::optional(randomImage(random)); };
	ChangeEvent event;
	for (uint8_t &byte : event.id.bytes)
		byte = static_cast<uint8_t>(random.bits());
	event.region = randomText(random) + "r";
	event.table = randomText(random) + "t";
	event.operation = static_cast<Operation>(random.below(5));
	bool row = event.operation <= Operation::Delete;
	bool writes = event.operation <= Operation::Update;
	event.pk = row ? std::optional(randomImage(random)) : maybe();
	event.before = maybe();
	event.after = writes ? std::optional(randomImage(random)) : maybe();
	event.committedAt = random.between(kHlcMin, kHlcMax);
	event.hlc = Hlc{random.between(kHlcMin, kHlcMax)};
	uint64_t shift = random.below(64);
	event.tx.incarnation = static_cast<int64_t>(random.bits() >> 1 >> shift);
	event.tx.sequence = random.bits() >> shift;
	event.tx.previous = random.bits() >> shift;
	event.tx.commitLsn = random.bits() >> shift;
	event.tx.xid = random.bits() >> shift;
	event.tx.schemaVersion = static_cast<int64_t>(random.bits() >> 1 >> shift);
	event.tx.position = static_cast<uint32_t>(random.between(1, UINT32_MAX));
	event.tx.last = random.oneIn(2);
	if (random.oneIn(2))
	{
		event.tx.seen.emplace();
		for (uint64_t n = random.below(4); n > 0; --n)
			event.tx.seen->emplace(randomText(random),
			                       SeenEntry{random.bits() >> shift, Hlc{random.between(kHlcMin, kHlcMax)}});
	}
	if (random.oneIn(3))
	{
		event.tx.resent = ResentPart{event.id, (random.bits() >> shift >> 1) + 1};
		event.tx.step = static_cast<uint32_t>(random.below(3));
	}
	return event;
}

// What consumers outside see (docs/events.md). Whoever changes it breaks them.
TEST(CodecTest, TheFormIsTheDocumentedOne)
{
	EXPECT_EQ(encoded(sample()),
	          R"({"event_id":"019aafa6-1234-7abc-8def-0123456789ab","region_id":"eu","table_name":"public.accounts",)"
	          R"("row_pk":{"id":"1"},"operation":"UPDATE","before_image":{"id":"1","name":null},)"
	          R"("after_image":{"id":"1","name":"Zoë \"quoted\"\n"},"committed_at":"2026-11-23 08:11:00.122456Z",)"
	          R"("hlc_timestamp":"2026-11-23 08:11:00.123456Z","transaction":{"version":1,"incarnation":3,)"
	          R"("sequence":42,"previous":41,"lsn":"1/16B3748","xid":745,"schema_version":2,"position":1,)"
	          R"("seen":{"us":{"sequence":9,"hlc":"2026-11-23 08:11:00.123456Z"}},"last":false}})");
	ChangeEvent again = sample();
	again.tx.resent = ResentPart{again.id, 7};
	EXPECT_NE(encoded(again).find(R"("position":1,"resend":{"id":"019aafa6-1234-7abc-8def-0123456789ab","part":7},"seen":{)"),
	          std::string::npos);
	again.tx.step = 2;
	EXPECT_NE(encoded(again).find(R"("part":7,"step":2},"seen":{)"), std::string::npos);
}

TEST(CodecTest, EveryEventSurvives)
{
	test::Random random(1);
	for (int i = 0; i < 5'000; ++i)
	{
		ChangeEvent event = randomEvent(random);
		std::string json = encoded(event);
		auto result = decode(json);
		ASSERT_TRUE(std::holds_alternative<ChangeEvent>(result)) << errorOf(json) << "\n" << json;
		ASSERT_EQ(std::get<ChangeEvent>(result), event) << json;
		ASSERT_EQ(encoded(std::get<ChangeEvent>(result)), json);
		ASSERT_EQ(json.find('\n'), std::string::npos); // one line
	}
}

// Any other reader understands it too.
TEST(CodecTest, JanssonReadsEveryEvent)
{
	test::Random random(2);
	for (int i = 0; i < 1'000; ++i)
	{
		ChangeEvent event = randomEvent(random);
		event.tx.sequence &= INT64_MAX; // jansson's integers are signed
		event.tx.previous &= INT64_MAX;
		event.tx.xid &= INT64_MAX;
		if (event.tx.resent)
			event.tx.resent->part &= INT64_MAX;
		if (event.tx.seen)
			for (auto &[region, entry] : *event.tx.seen)
				entry.sequence &= INT64_MAX;
		std::string json = encoded(event);
		json_error_t error;
		json_t *root = json_loadb(json.data(), json.size(), JSON_REJECT_DUPLICATES, &error);
		ASSERT_TRUE(root) << error.text << "\n" << json;
		json_decref(root);
	}
}

TEST(CodecTest, ImagesKeepTheirOrder)
{
	Image image;
	for (int i = 0; i < 300; ++i)
		image.push_back({"c" + std::to_string(i * 7919 % 300), std::to_string(i)});
	auto result = decodeImage(encodeImage(image));
	ASSERT_TRUE(std::holds_alternative<Image>(result));
	EXPECT_EQ(std::get<Image>(result), image);
	EXPECT_EQ(encodeImage({}), "{}");
	EXPECT_EQ(encodeImage({{"id", "1"}, {"name", std::nullopt}}), R"({"id":"1","name":null})");
}

TEST(CodecTest, SeenGoesBothWays)
{
	SeenVector seen{{"eu", {9, Hlc{5}}}, {"us", {UINT64_MAX, Hlc{kHlcMax}}}};
	auto result = decodeSeen(encodeSeen(seen));
	ASSERT_TRUE(std::holds_alternative<SeenVector>(result));
	EXPECT_EQ(std::get<SeenVector>(result), seen);
	EXPECT_EQ(encodeSeen({}), "{}");
	EXPECT_EQ(std::get<DecodeError>(decodeSeen(R"({"eu":{"sequence":-1,"hlc":"5"}})")).message,
	          "seen.eu.sequence: out of range: \"-1\"");
	EXPECT_EQ(std::get<DecodeError>(decodeSeen(R"({"eu":5})")).message,
	          "seen.eu: an object expected, an integer found");
}

TEST(CodecTest, MarkLastSettlesTheEnd)
{
	ChangeEvent event = sample();
	std::string open = encoded(event);
	event.tx.last = true;
	std::string closed = encoded(event);
	markLast(open);
	EXPECT_EQ(open, closed);
	markLast(open);
	EXPECT_EQ(open, closed);
}

TEST(CodecTest, UnknownKeysAreIgnored)
{
	std::string json = encoded(sample());
	json.insert(1, R"("later":{"deep":[1,{"x":null}]},)");
	json.insert(json.size() - 2, R"(,"also":1.5)");
	auto result = decode(json);
	ASSERT_TRUE(std::holds_alternative<ChangeEvent>(result)) << errorOf(json);
	EXPECT_EQ(std::get<ChangeEvent>(result), sample());
}

// Replaces the first occurrence.
std::string with(std::string json, std::string_view from, std::string_view to)
{
	size_t at = json.find(from);
	EXPECT_NE(at, std::string::npos) << from;
	return json.replace(at, from.size(), to);
}

TEST(CodecTest, ARefusalNamesTheFieldAndTheFault)
{
	const std::string good = encoded(sample());
	auto refusal = [&](std::string_view from, std::string_view to) { return errorOf(with(good, from, to)); };

	EXPECT_EQ(errorOf(""), "event: an object expected at byte 0");
	EXPECT_EQ(errorOf("[]"), "event: an object expected at byte 0");
	EXPECT_EQ(errorOf("{}"), "transaction: missing");
	EXPECT_EQ(errorOf(good + "x"), "event: text behind the closing brace at byte " + std::to_string(good.size()));
	EXPECT_EQ(refusal("\"version\":1", "\"version\":2"),
	          "transaction.version: this mrsync reads version 1, the event has version 2");
	EXPECT_EQ(refusal("\"version\":1", "\"version\":\"1\""),
	          "transaction.version: an integer expected, a string found");
	EXPECT_EQ(refusal("\"event_id\":\"0", "\"event_id\":\"x"),
	          "event_id: not a UUID: \"x19aafa6-1234-7abc-8def-0123456789ab\"");
	EXPECT_EQ(refusal("\"eu\"", "\"\""), "region_id: empty");
	EXPECT_EQ(refusal("\"eu\"", "null"), "region_id: a string expected, null found");
	EXPECT_EQ(refusal("\"table_name\"", "\"tablename\""), "table_name: missing");
	EXPECT_EQ(refusal("{\"id\":\"1\"}", "null"), "row_pk: null, but the operation is UPDATE");
	EXPECT_EQ(refusal("{\"id\":\"1\"}", "{\"id\":1}"), "row_pk.\"id\": a string or null expected, an integer found");
	EXPECT_EQ(refusal("{\"id\":\"1\"}", "[]"), "row_pk: an object expected, an array found");
	EXPECT_EQ(refusal("\"name\":null", "\"id\":null"), "before_image: a key occurs twice in an object");
	EXPECT_EQ(refusal("\"UPDATE\"", "\"UPSERT\""), "operation: unknown: \"UPSERT\"");
	EXPECT_EQ(refusal("08:11:00.122456Z", "08:61:00Z"),
	          "committed_at: not a timestamp in UTC: \"2026-11-23 08:61:00Z\"");
	EXPECT_EQ(refusal("\"sequence\":42", "\"sequence\":-1"), "transaction.sequence: out of range: \"-1\"");
	EXPECT_EQ(refusal("\"sequence\":42", "\"sequence\":1e3"),
	          "transaction.sequence: an integer expected, a number with fraction or exponent found");
	EXPECT_EQ(refusal("\"position\":1", "\"position\":0"), "transaction.position: out of range: \"0\"");
	EXPECT_EQ(refusal("\"position\":1", "\"position\":4294967296"),
	          "transaction.position: out of range: \"4294967296\"");
	EXPECT_EQ(refusal("1/16B3748", "1-16B3748"), "transaction.lsn: not an LSN: \"1-16B3748\"");
	EXPECT_EQ(refusal("1/16B3748", "1/"), "transaction.lsn: not an LSN: \"1/\"");
	EXPECT_EQ(refusal("1/16B3748", "1/116B37480"), "transaction.lsn: not an LSN: \"1/116B37480\"");
	EXPECT_EQ(refusal("{\"us\":", "{\"us\":null,\"ap\":"), "transaction.seen.us: an object expected, null found");
	EXPECT_EQ(refusal("\"seen\":", "\"resend\":{\"id\":\"1\",\"part\":1},\"seen\":"), "transaction.resend.id: not a UUID: \"1\"");
	EXPECT_EQ(refusal("\"seen\":", "\"resend\":{\"id\":\"019aafa6-1234-7abc-8def-0123456789ab\",\"part\":0},\"seen\":"),
	          "transaction.resend.part: out of range: \"0\"");
	EXPECT_EQ(refusal("\"last\":false", "\"last\":0"), "transaction.last: a boolean expected, an integer found");
}

TEST(CodecTest, ALongRefusalIsCutBetweenCharacters)
{
	std::string json = with(encoded(sample()), "\"UPDATE\"", "\"" + std::string(63, 'x') + "ééé\"");
	EXPECT_EQ(errorOf(json), "operation: unknown: \"" + std::string(63, 'x') + "\"...");
}

TEST(CodecTest, EveryOperationAsksForWhatItNeeds)
{
	for (Operation op : {Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate, Operation::Ddl})
	{
		ChangeEvent event = sample();
		event.operation = op;
		bool row = op <= Operation::Delete;
		bool writes = op <= Operation::Update;
		event.pk.reset();
		EXPECT_EQ(errorOf(encoded(event)) == "accepted", !row);
		event.pk = Image{{"id", "1"}};
		event.after.reset();
		EXPECT_EQ(errorOf(encoded(event)) == "accepted", !writes);
		event.before.reset();
		event.after = Image{};
		EXPECT_EQ(errorOf(encoded(event)), "accepted");
		EXPECT_EQ(parseOperation(toText(op)), op);
	}
}

// Whatever arrives: an event that survives another round, or a refusal that is valid UTF-8 and not empty.
void expectTotal(const std::string &json)
{
	auto result = decode(json);
	if (const auto *event = std::get_if<ChangeEvent>(&result))
	{
		auto again = decode(encoded(*event));
		ASSERT_TRUE(std::holds_alternative<ChangeEvent>(again)) << json;
		ASSERT_EQ(std::get<ChangeEvent>(again), *event) << json;
		return;
	}
	const std::string &message = std::get<DecodeError>(result).message;
	ASSERT_FALSE(message.empty());
	json_t *text = json_stringn(message.data(), message.size());
	ASSERT_TRUE(text != nullptr) << "not UTF-8: " << testing::PrintToString(message);
	json_decref(text);
}

TEST(CodecTotalityTest, RandomBytes)
{
	test::Random random(3);
	for (int i = 0; i < 50'000; ++i)
	{
		std::string json(random.below(80), '\0');
		for (char &c : json)
			c = static_cast<char>(random.bits());
		expectTotal(json);
		expectTotal("{" + json + "}");
	}
}

TEST(CodecTotalityTest, TruncatedEvents)
{
	const std::string good = encoded(sample());
	for (size_t length = 0; length < good.size(); ++length)
	{
		ASSERT_NE(errorOf(good.substr(0, length)), "accepted");
		expectTotal(good.substr(0, length));
		expectTotal(good.substr(length));
	}
}

TEST(CodecTotalityTest, MutatedEvents)
{
	test::Random random(4);
	constexpr std::string_view alphabet = "{}[]\":,\\u0e-9tnZ/ ";
	for (int i = 0; i < 60'000; ++i)
	{
		std::string json = encoded(random.oneIn(10) ? randomEvent(random) : sample());
		for (uint64_t edits = 1 + random.below(3); edits > 0 && !json.empty(); --edits)
		{
			size_t at = random.below(json.size());
			switch (random.below(5))
			{
			case 0:
				json[at] = static_cast<char>(random.bits());
				break;
			case 1:
				json[at] = alphabet[random.below(alphabet.size())];
				break;
			case 2:
				json.erase(at, 1 + random.below(20));
				break;
			case 3:
				json.insert(at, json.substr(random.below(json.size()), random.below(40)));
				break;
			default:
				json.insert(at, std::to_string(random.bits()));
			}
		}
		expectTotal(json);
	}
}

} // namespace
} // namespace mrsync
