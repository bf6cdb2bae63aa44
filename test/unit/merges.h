// Merge functions for tests: the built-in ones, and some of which nothing can be said but that they are functions.
#pragma once

#include "core/document.h"
#include "core/fold.h"
#include "core/merge.h"

#include <cctype>
#include <charconv>
#include <cstdio>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>

namespace mrsync::test
{

// A document of few words: one letter or digit begins a string or a number, [..] arrays, {k:v} objects.
class DocumentParser
{
public:
	explicit DocumentParser(std::string_view text) : text_(text) {}
	Document value()
	{
		char c = text_[at_++];
		Document document;
		if (c == '{' || c == '[')
		{
			document.kind = c == '{' ? Document::Kind::Object : Document::Kind::Array;
			while (text_[at_] != '}' && text_[at_] != ']')
			{
				std::string key;
				if (c == '{')
				{
					while (text_[at_] != ':')
						key += text_[at_++];
					++at_;
					document.members[key] = value();
				}
				else
					document.items.push_back(value());
				if (text_[at_] == ',')
					++at_;
			}
			++at_;
			return document;
		}
		document.text = c;
		while (at_ < text_.size() && (std::isalnum(text_[at_]) || text_[at_] == '.'))
			document.text += text_[at_++];
		document.kind = document.text == "null" ? Document::Kind::Null : std::isdigit(c) || c == '-' ? Document::Kind::Number : Document::Kind::String;
		if (document.kind == Document::Kind::Null)
			document.text.clear();
		return document;
	}

private:
	std::string_view text_;
	size_t at_ = 0;
};

inline std::string textOf(const Document &document)
{
	std::string text = toJson(document);
	std::erase(text, '"');
	return text;
}

using Set = std::vector<std::string>;

inline Set setOf(std::string_view text) // "a,b"
{
	Set elements;
	while (!text.empty())
	{
		size_t end = std::min(text.find(','), text.size());
		elements.emplace_back(text.substr(0, end));
		text.remove_prefix(std::min(end + 1, text.size()));
	}
	return elements;
}

inline std::string textOf(const Set &elements)
{
	std::string text;
	for (const std::string &element : elements)
		text += (text.empty() ? "" : ",") + element;
	return text;
}

inline std::string textOf(double number)
{
	char text[32];
	std::snprintf(text, sizeof(text), "%.17g", number);
	return text;
}

inline const std::optional<std::string> *valueOf(const Image &row, std::string_view column)
{
	for (const Column &candidate : row)
		if (candidate.name == column)
			return &candidate.value;
	return nullptr;
}

class Merges : public MergeCalls
{
public:
	std::function<bool(const Image &)> check = [](const Image &) { return true; }; // the table's
	Image defaults;																   // of columns that were added later

	// counter, real, set, text, document (with counters at /n and sets at /tags): built in.
	// f: says what it was called with. sometimes: f, or nothing. never: nothing.
	std::optional<Value> merge(const std::string &function, const std::string &, const Value &ancestor, const Value &a, const Value &b) override
	{
		if (function == "counter")
			return number<int64_t>(ancestor, a, b, [](int64_t n) { return std::to_string(n); });
		if (function == "real")
			return number<double>(ancestor, a, b, [](double n) { return textOf(n); });
		if (function == "set")
			return set(ancestor, a, b);
		if (function == "text")
			return either(ancestor, a, b, [&] { return !a || !b ? b : mergeText(ancestor.value_or(""), *a, *b); });
		if (function == "document")
			return document(ancestor, a, b);
		std::string said = shortened("f(" + word(ancestor) + "," + word(a) + "," + word(b) + ")");
		if (function == "never" || (function == "sometimes" && hash(said) % 2 == 0))
			return std::nullopt;
		return said;
	}

	std::optional<Value> empty(const std::string &function, const std::string &) override
	{
		if (function == "counter" || function == "real")
			return "0";
		if (function == "set")
			return "";
		if (function == "f")
			return Value();
		return std::nullopt;
	}

	// f: every column says what the row function was called with. sometimes, never: as above.
	std::optional<Image> mergeRow(const std::string &function, const RowState &ancestor, const RowState &a, const Image &b) override
	{
		Image merged = b;
		for (Column &column : merged)
		{
			auto of = [&](const RowState &row)
			{
				if (!row)
					return std::string("none");
				const Value *value = valueOf(*row, column.name);
				return value ? word(*value) : "lacking";
			};
			column.value = shortened("f(" + of(ancestor) + "," + of(a) + "," + of(b) + ")");
			if (function == "never" || (function == "sometimes" && column.name == "x" && hash(*column.value) % 2 == 0))
				return std::nullopt;
		}
		return merged;
	}

	std::optional<Value> added(const std::string &column) override
	{
		const Value *value = valueOf(defaults, column);
		return value ? std::optional<Value>(*value) : std::nullopt;
	}

	bool isValid(const Image &row) override { return check(row); }

	static uint64_t hash(std::string_view text) // the same on every machine
	{
		uint64_t hash = 14695981039346656037u;
		for (char c : text)
			hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
		return hash ^ hash >> 29;
	}

private:
	static std::string word(const Value &value) { return value.value_or("NULL"); }

	static std::string shortened(std::string said)
	{
		return said.size() <= 40 ? said : "#" + std::to_string(hash(said));
	}

	template <typename Merged> static Value either(const Value &ancestor, const Value &a, const Value &b, Merged &&merged)
	{
		switch (taken(ancestor, a, b))
		{
			case Taken::A:
				return a;
			case Taken::B:
				return b;
			case Taken::Merge:
				break;
		}
		return merged();
	}

	template <typename T, typename Write> static std::optional<Value> number(const Value &ancestor, const Value &a, const Value &b, Write &&write)
	{
		auto read = [](const Value &value)
		{
			std::optional<T> n;
			if (value)
				std::from_chars(value->data(), value->data() + value->size(), n.emplace());
			return n;
		};
		Count<T> sum = mergeCounter(read(ancestor), read(a), read(b), std::numeric_limits<T>::lowest(), std::numeric_limits<T>::max());
		if (!sum.fits)
			return std::nullopt;
		return sum.value ? Value(write(*sum.value)) : Value();
	}

	static Value set(const Value &ancestor, const Value &a, const Value &b)
	{
		return either(ancestor, a, b,
					  [&]
					  {
						  std::map<std::string, uint32_t> numbers;
						  const Set elements[] = {setOf(ancestor.value_or("")), setOf(a.value_or("")), setOf(b.value_or(""))};
						  std::vector<uint32_t> numbered[3];
						  for (int side = 0; side < 3; ++side)
							  for (const std::string &element : elements[side])
								  numbered[side].push_back(numbers.try_emplace(element, numbers.size()).first->second);
						  Set merged;
						  for (SetElement element : mergeSet(numbered[0], numbered[1], numbered[2]))
							  merged.push_back(elements[element.ofB ? 2 : 1][element.index]);
						  return Value(textOf(merged));
					  });
	}

	static Value document(const Value &ancestor, const Value &a, const Value &b)
	{
		static const std::vector<DocumentRule> rules{{{"n"}, DocumentRule::Kind::Counter}, {{"tags"}, DocumentRule::Kind::Set}};
		std::optional<Document> documents[3];
		const Value *values[] = {&ancestor, &a, &b};
		for (int side = 0; side < 3; ++side)
			if (*values[side])
				documents[side] = DocumentParser(**values[side]).value();
		auto place = [&](int side) { return documents[side] ? &*documents[side] : nullptr; };
		auto shift = [](const std::string &before, const std::string &state, const std::string &after)
		{ return std::to_string(std::stol(state) + std::stol(after) - std::stol(before)); };
		std::optional<Document> merged = mergeDocument(place(0), place(1), place(2), rules, shift);
		return merged ? Value(textOf(*merged)) : Value();
	}
};

} // namespace mrsync::test
