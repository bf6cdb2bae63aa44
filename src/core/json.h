// JSON as far as events need it: strings written quickly, objects read strictly.
//
// Reading makes no tree. An object becomes the list of its members, each a slice of the text that has been checked to
// be JSON; an inner object is read from its slice in the same way. It is total: any bytes give members or a refusal.
// Refused besides broken syntax: invalid UTF-8, lone surrogates, U+0000 (PostgreSQL's text cannot hold it), a key that
// occurs twice, nesting beyond kJsonDepth, anything behind the closing brace.
// (jansson took 14 us for an event that this reads in 3; the tests hold the two against each other.)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mrsync
{

// Appends text as a JSON string. The text is valid UTF-8.
void putJsonString(std::string &out, std::string_view text);

enum class JsonKind
{
	Object,
	Array,
	String,
	Integer, // a number without fraction and exponent, of any size
	Real,
	Boolean,
	Null,
};
const char *toText(JsonKind kind); // "an object", ...: for messages

struct JsonValue
{
	JsonKind kind = JsonKind::Null;
	std::string_view text; // as written; of a string what is between the quotes
};

struct JsonMember
{
	std::string key;
	JsonValue value;
};

// Thrown by parseJsonObject: what is wrong, in ASCII.
struct JsonError
{
	std::string message;
};

constexpr int kJsonDepth = 64;

// The members in the order of the text. The slices live as long as the text does.
std::vector<JsonMember> parseJsonObject(std::string_view text);

std::string stringOf(const JsonValue &string);                // with its escapes undone
std::optional<int64_t> integerOf(const JsonValue &integer);   // empty: does not fit
std::optional<uint64_t> unsignedOf(const JsonValue &integer); // empty: does not fit

} // namespace mrsync
