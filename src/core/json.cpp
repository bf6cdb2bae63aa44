// A scanner over the text, and what the members of an object are made of.
#include "core/json.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace mrsync
{
namespace
{

constexpr std::array<bool, 256> makeTable(bool (*holds)(size_t))
{
	std::array<bool, 256> table{};
	for (size_t c = 0; c < table.size(); ++c)
		table[c] = holds(c);
	return table;
}

// Bytes that a string cannot contain as they are, and bytes that a reader has to look at.
constexpr auto kEscaped = makeTable([](size_t c) { return c < 0x20 || c == '"' || c == '\\'; });
constexpr auto kSpecial = makeTable([](size_t c) { return c < 0x20 || c == '"' || c == '\\' || c >= 0x80; });

uint8_t byteAt(const char *at)
{
	return static_cast<uint8_t>(*at);
}

bool isDigit(char c)
{
	return c >= '0' && c <= '9';
}

void putEscape(std::string &out, char c)
{
	switch (c)
	{
	case '"':
		out += "\\\"";
		return;
	case '\\':
		out += "\\\\";
		return;
	case '\b':
		out += "\\b";
		return;
	case '\f':
		out += "\\f";
		return;
	case '\n':
		out += "\\n";
		return;
	case '\r':
		out += "\\r";
		return;
	case '\t':
		out += "\\t";
		return;
	default:
		out += "\\u00";
		out += "0123456789abcdef"[static_cast<uint8_t>(c) >> 4];
		out += "0123456789abcdef"[static_cast<uint8_t>(c) & 15];
	}
}

// The value of four hex digits; -1 when they are not.
int hex4(const char *at)
{
	int value = 0;
	for (int i = 0; i < 4; ++i)
	{
		char c = at[i];
		int digit = isDigit(c)             ? c - '0'
		            : c >= 'a' && c <= 'f' ? c - 'a' + 10
		            : c >= 'A' && c <= 'F' ? c - 'A' + 10
		                                   : -1;
		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

bool isHighSurrogate(int unit)
{
	return unit >= 0xD800 && unit <= 0xDBFF;
}

bool isLowSurrogate(int unit)
{
	return unit >= 0xDC00 && unit <= 0xDFFF;
}

void putUtf8(std::string &out, uint32_t c)
{
	auto put = [&out](uint32_t byte) { out += static_cast<char>(byte); };
	if (c < 0x80)
		put(c);
	else if (c < 0x800)
	{
		put(0xC0 | c >> 6);
		put(0x80 | (c & 0x3F));
	}
	else if (c < 0x10000)
	{
		put(0xE0 | c >> 12);
		put(0x80 | (c >> 6 & 0x3F));
		put(0x80 | (c & 0x3F));
	}
	else
	{
		put(0xF0 | c >> 18);
		put(0x80 | (c >> 12 & 0x3F));
		put(0x80 | (c >> 6 & 0x3F));
		put(0x80 | (c & 0x3F));
	}
}

class Scanner
{
public:
	explicit Scanner(std::string_view text) : begin_(text.data()), at_(begin_), end_(begin_ + text.size()) {}

	[[noreturn]] void fail(const char *what) const
	{
		throw JsonError{std::string(what) + " at byte " + std::to_string(at_ - begin_)};
	}

	void space()
	{
		while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r'))
			++at_;
	}

	bool atEnd() const { return at_ == end_; }

	// Takes c when it is next.
	bool take(char c)
	{
		if (at_ == end_ || *at_ != c)
			return false;
		++at_;
		return true;
	}

	// A string, between its quotes.
	std::string_view string()
	{
		if (!take('"'))
			fail("a string expected");
		const char *first = at_;
		for (;;)
		{
			while (at_ != end_ && !kSpecial[byteAt(at_)])
				++at_;
			if (at_ == end_)
				fail("a string without end");
			if (*at_ == '"')
				return {first, static_cast<size_t>(at_++ - first)};
			if (*at_ == '\\')
				escape();
			else if (byteAt(at_) < 0x20)
				fail("a control character in a string");
			else
				utf8();
		}
	}

	// The separators of an object's or array's elements, told apart by `first`. True while there is one more.
	bool more(char close, bool first)
	{
		space();
		if (take(close))
			return false;
		if (!first)
		{
			if (!take(','))
				fail("a comma or the end of an object or array expected");
			space();
		}
		return true;
	}

	void colon()
	{
		space();
		if (!take(':'))
			fail("a colon expected");
		space();
	}

	JsonValue value(int depth)
	{
		if (at_ == end_)
			fail("a value expected");
		const char *first = at_;
		JsonKind kind;
		switch (*at_)
		{
		case '"':
			return {JsonKind::String, string()};
		case '{':
			kind = JsonKind::Object;
			nested('}', depth);
			break;
		case '[':
			kind = JsonKind::Array;
			nested(']', depth);
			break;
		case 't':
			kind = JsonKind::Boolean;
			word("true");
			break;
		case 'f':
			kind = JsonKind::Boolean;
			word("false");
			break;
		case 'n':
			kind = JsonKind::Null;
			word("null");
			break;
		default:
			kind = number();
		}
		return {kind, {first, static_cast<size_t>(at_ - first)}};
	}

private:
	void nested(char close, int depth)
	{
		if (depth >= kJsonDepth)
			fail("nested too deeply");
		++at_;
		for (bool first = true; more(close, first); first = false)
		{
			if (close == '}')
			{
				string();
				colon();
			}
			value(depth + 1);
		}
	}

	void word(std::string_view expected)
	{
		if (!std::string_view(at_, static_cast<size_t>(end_ - at_)).starts_with(expected))
			fail("a value expected");
		at_ += expected.size();
	}

	void digits()
	{
		if (at_ == end_ || !isDigit(*at_))
			fail("a digit expected");
		while (at_ != end_ && isDigit(*at_))
			++at_;
	}

	JsonKind number()
	{
		JsonKind kind = JsonKind::Integer;
		bool negative = take('-');
		if (at_ == end_ || !isDigit(*at_))
			fail(negative ? "a digit expected" : "a value expected");
		if (!take('0')) // a leading zero stands alone
			digits();
		if (take('.'))
		{
			kind = JsonKind::Real;
			digits();
		}
		if (take('e') || take('E'))
		{
			kind = JsonKind::Real;
			if (!take('+'))
				take('-');
			digits();
		}
		return kind;
	}

	void escape()
	{
		if (end_ - at_ < 2)
			fail("a string without end");
		switch (at_[1])
		{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			at_ += 2;
			return;
		case 'u':
			break;
		default:
			fail("an unknown escape");
		}
		int unit = unicodeEscape();
		if (unit == 0)
			fail("U+0000, which text cannot hold,");
		if (isLowSurrogate(unit))
			fail("half of a surrogate pair");
		if (isHighSurrogate(unit) && !isLowSurrogate(unicodeEscape()))
			fail("half of a surrogate pair");
	}

	// One \uXXXX; -1 when there is none.
	int unicodeEscape()
	{
		if (end_ - at_ < 6 || at_[0] != '\\' || at_[1] != 'u')
			return -1;
		int unit = hex4(at_ + 2);
		if (unit < 0)
			fail("four hex digits expected");
		at_ += 6;
		return unit;
	}

	// One character beyond ASCII, as RFC 3629 draws the line: shortest form, no surrogates, up to U+10FFFF.
	void utf8()
	{
		uint8_t lead = byteAt(at_);
		int tail = lead >= 0xC2 && lead <= 0xDF ? 1 : (lead & 0xF0) == 0xE0 ? 2 : lead >= 0xF0 && lead <= 0xF4 ? 3 : 0;
		if (tail == 0 || end_ - at_ <= tail)
			fail("invalid UTF-8");
		uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
		uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
		if (byteAt(at_ + 1) < low || byteAt(at_ + 1) > high)
			fail("invalid UTF-8");
		for (int i = 2; i <= tail; ++i)
			if ((byteAt(at_ + i) & 0xC0) != 0x80)
				fail("invalid UTF-8");
		at_ += tail + 1;
	}

	const char *begin_;
	const char *at_;
	const char *end_;
};

// Undoes the escapes of a string that was scanned before.
std::string unescape(std::string_view text)
{
	size_t at = text.find('\\');
	if (at == std::string_view::npos)
		return std::string(text);

	std::string out;
	out.reserve(text.size());
	size_t run = 0;
	for (; at != std::string_view::npos; at = text.find('\\', run))
	{
		out.append(text, run, at - run);
		char c = text[at + 1];
		run = at + 2;
		if (c == 'u')
		{
			int unit = hex4(text.data() + run);
			run += 4;
			uint32_t point = static_cast<uint32_t>(unit);
			if (isHighSurrogate(unit))
			{
				uint32_t low = static_cast<uint32_t>(hex4(text.data() + run + 2));
				point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
				run += 6;
			}
			putUtf8(out, point);
		}
		else
			out += c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
	}
	out.append(text, run);
	return out;
}

bool hasDuplicates(const std::vector<JsonMember> &members)
{
	constexpr size_t few = 24; // up to here comparing all pairs is the cheaper way
	if (members.size() <= few)
	{
		for (size_t i = 1; i < members.size(); ++i)
			for (size_t j = 0; j < i; ++j)
				if (members[i].key == members[j].key)
					return true;
		return false;
	}
	std::vector<std::string_view> keys;
	keys.reserve(members.size());
	for (const JsonMember &member : members)
		keys.push_back(member.key);
	std::sort(keys.begin(), keys.end());
	return std::adjacent_find(keys.begin(), keys.end()) != keys.end();
}

template <typename Integer> std::optional<Integer> numberOf(std::string_view text)
{
	Integer number = 0;
	auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
	if (error != std::errc() || end != text.data() + text.size())
		return std::nullopt;
	return number;
}

} // namespace

void putJsonString(std::string &out, std::string_view text)
{
	out += '"';
	const char *run = text.data(); // what needs no escape is copied in runs
	const char *end = run + text.size();
	for (const char *at = run; at != end; ++at)
	{
		if (!kEscaped[byteAt(at)])
			continue;
		out.append(run, at);
		putEscape(out, *at);
		run = at + 1;
	}
	out.append(run, end);
	out += '"';
}

const char *toText(JsonKind kind)
{
	switch (kind)
	{
	case JsonKind::Object:
		return "an object";
	case JsonKind::Array:
		return "an array";
	case JsonKind::String:
		return "a string";
	case JsonKind::Integer:
		return "an integer";
	case JsonKind::Real:
		return "a number with fraction or exponent";
	case JsonKind::Boolean:
		return "a boolean";
	case JsonKind::Null:
		return "null";
	}
	return "unknown"; // not a member of the enum: a caller's cast
}

std::vector<JsonMember> parseJsonObject(std::string_view text)
{
	Scanner scan(text);
	scan.space();
	if (!scan.take('{'))
		scan.fail("an object expected");
	std::vector<JsonMember> members;
	members.reserve(12);
	for (bool first = true; scan.more('}', first); first = false)
	{
		std::string_view key = scan.string();
		scan.colon();
		members.push_back({unescape(key), scan.value(1)});
	}
	scan.space();
	if (!scan.atEnd())
		scan.fail("text behind the closing brace");
	if (hasDuplicates(members))
		throw JsonError{"a key occurs twice in an object"};
	return members;
}

std::string stringOf(const JsonValue &string)
{
	return unescape(string.text);
}

std::optional<int64_t> integerOf(const JsonValue &integer)
{
	return numberOf<int64_t>(integer.text);
}

std::optional<uint64_t> unsignedOf(const JsonValue &integer)
{
	return numberOf<uint64_t>(integer.text);
}

} // namespace mrsync
