#include "core/document.h"

#include "core/json.h"
#include "core/merge.h"

#include <algorithm>
#include <set>

namespace mrsync
{
namespace
{

using Kind = Document::Kind;

// Without the zeros that say nothing: 1.50 and 1.5, 2.0 and 2 are the same.
std::string_view valueOf(std::string_view number)
{
	if (number.find('.') == std::string_view::npos)
		return number;
	size_t end = number.find_last_not_of('0');
	return number.substr(0, number[end] == '.' ? end : end + 1);
}

void append(const Document &document, bool asWritten, std::string &out)
{
	bool first = true;
	auto separate = [&] { out += first ? "" : ","; first = false; };
	switch (document.kind)
	{
		case Kind::Null:
			out += "null";
			break;
		case Kind::False:
			out += "false";
			break;
		case Kind::True:
			out += "true";
			break;
		case Kind::Number:
			out += asWritten ? document.text : valueOf(document.text);
			break;
		case Kind::String:
			putJsonString(out, document.text);
			break;
		case Kind::Array:
			out += '[';
			for (const Document &item : document.items)
			{
				separate();
				append(item, asWritten, out);
			}
			out += ']';
			break;
		case Kind::Object:
			out += '{';
			for (const auto &[key, member] : document.members)
			{
				separate();
				putJsonString(out, key);
				out += ':';
				append(member, asWritten, out);
			}
			out += '}';
			break;
	}
}

bool same(Place x, Place y) { return x && y ? *x == *y : x == y; }

Place memberOf(Place place, const std::string &key)
{
	if (!place || place->kind != Kind::Object)
		return nullptr;
	auto found = place->members.find(key);
	return found == place->members.end() ? nullptr : &found->second;
}

// What is there, is of this kind.
bool all(Kind kind, std::initializer_list<Place> places)
{
	return std::all_of(places.begin(), places.end(), [&](Place place) { return !place || place->kind == kind; });
}

Document mergeArrays(Place ancestor, Place a, Place b)
{
	std::map<std::string, uint32_t> numbers;
	auto number = [&](Place array)
	{
		std::vector<uint32_t> elements;
		if (array)
			for (const Document &item : array->items)
			{
				std::string name;
				append(item, false, name);
				elements.push_back(numbers.try_emplace(std::move(name), numbers.size()).first->second);
			}
		return elements;
	};
	Document result{Kind::Array, {}, {}, {}};
	for (SetElement element : mergeSet(number(ancestor), number(a), number(b)))
		result.items.push_back((element.ofB ? b : a)->items[element.index]);
	return result;
}

using Rules = std::vector<const DocumentRule *>; // whose path leads here, or further on

class Merger
{
public:
	explicit Merger(const Shift &shift) : shift_(shift) {}

	std::optional<Document> merge(Place ancestor, Place a, Place b, const Rules &rules, size_t depth) const
	{
		auto copy = [](Place place) { return place ? std::optional<Document>(*place) : std::nullopt; };
		if (same(ancestor, b))
			return copy(a);
		if (same(ancestor, a))
			return copy(b);
		if (!a && !b)
			return std::nullopt;
		auto ruled = [&](DocumentRule::Kind kind)
		{ return std::any_of(rules.begin(), rules.end(), [&](const DocumentRule *rule) { return rule->path.size() == depth && rule->kind == kind; }); };
		if (ruled(DocumentRule::Kind::Counter) && all(Kind::Number, {ancestor, a, b}))
		{
			auto count = [](Place place) { return place ? place->text : "0"; };
			return Document{Kind::Number, shift_(count(ancestor), count(a), count(b)), {}, {}};
		}
		if (ruled(DocumentRule::Kind::Set) && all(Kind::Array, {ancestor, a, b}))
			return mergeArrays(ancestor, a, b);
		if (!a || !b || !all(Kind::Object, {a, b}))
			return copy(b);
		return mergeMembers(ancestor, *a, *b, rules, depth);
	}

private:
	Document mergeMembers(Place ancestor, const Document &a, const Document &b, const Rules &rules, size_t depth) const
	{
		std::set<std::string> keys;
		for (const Document *side : {&a, &b})
			for (const auto &[key, member] : side->members)
				keys.insert(key);
		Document result{Kind::Object, {}, {}, {}};
		for (const std::string &key : keys)
		{
			Rules below;
			for (const DocumentRule *rule : rules)
				if (rule->path.size() > depth && (rule->path[depth] == "*" || rule->path[depth] == key))
					below.push_back(rule);
			if (std::optional<Document> member = merge(memberOf(ancestor, key), memberOf(&a, key), memberOf(&b, key), below, depth + 1))
				result.members.emplace(key, std::move(*member));
		}
		return result;
	}

	const Shift &shift_;
};

} // namespace

bool operator==(const Document &x, const Document &y)
{
	if (x.kind != y.kind)
		return false;
	if (x.kind == Kind::Number)
		return valueOf(x.text) == valueOf(y.text);
	return x.text == y.text && x.items == y.items && x.members == y.members;
}

std::string toJson(const Document &document)
{
	std::string text;
	append(document, true, text);
	return text;
}

std::optional<std::vector<std::string>> parsePointer(std::string_view pointer)
{
	std::vector<std::string> keys;
	for (size_t i = 0; i < pointer.size(); ++i)
	{
		if (pointer[i] == '/')
		{
			keys.emplace_back();
			continue;
		}
		if (keys.empty())
			return std::nullopt;
		if (pointer[i] != '~')
		{
			keys.back() += pointer[i];
			continue;
		}
		if (++i == pointer.size() || (pointer[i] != '0' && pointer[i] != '1'))
			return std::nullopt;
		keys.back() += pointer[i] == '0' ? '~' : '/';
	}
	return keys;
}

std::optional<Document> mergeDocument(Place ancestor, Place a, Place b, const std::vector<DocumentRule> &rules, const Shift &shift)
{
	Rules all;
	for (const DocumentRule &rule : rules)
		all.push_back(&rule);
	return Merger(shift).merge(ancestor, a, b, all, 0);
}

} // namespace mrsync
