// A JSON document as a tree, and its three-way merge. Equality is jsonb's: keys have no order, numbers compare by value.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mrsync
{

// Deepest nesting that is merged. A number of our own: what the server's stack allows may differ from region to region.
constexpr int kDocumentDepth = 1000;

struct Document
{
	enum class Kind
	{
		Null,
		False,
		True,
		Number, // text: decimal, without an exponent
		String, // text: UTF-8
		Array,	// items
		Object, // members
	};
	Kind kind = Kind::Null;
	std::string text;
	std::vector<Document> items;
	std::map<std::string, Document> members;
};
bool operator==(const Document &x, const Document &y);
std::string toJson(const Document &document); // equal documents may differ in the zeros at the end of numbers

// What is merged otherwise than by key: a place in the document, and how. Applies where all that is there is of that kind.
struct DocumentRule
{
	enum class Kind
	{
		Counter, // numbers
		Set,	 // arrays
	};
	std::vector<std::string> path; // keys from the outside in; "*": any. Arrays are not gone into
	Kind kind = Kind::Counter;
};

// The keys of a JSON Pointer (RFC 6901); nullopt: it is none.
std::optional<std::vector<std::string>> parsePointer(std::string_view pointer);

// a + (b - ancestor) in decimal numbers of any size.
using Shift = std::function<std::string(const std::string &ancestor, const std::string &a, const std::string &b)>;

// One state of a place: null where there is nothing.
using Place = const Document *;

// What a and b made of the ancestor: objects key by key, at any depth; counters and sets by rule; of anything else that both
// changed, b's. A key that b removed is gone, also if a changed something below it. Nothing: there is nothing left.
std::optional<Document> mergeDocument(Place ancestor, Place a, Place b, const std::vector<DocumentRule> &rules, const Shift &shift);

} // namespace mrsync
