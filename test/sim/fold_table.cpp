#include "sim/fold_table.h"

#include <algorithm>
#include <tuple>

namespace mrsync::sim
{

namespace
{

using Value = MergeCalls::Value;

const char *firstX(Holds holds)
{
	switch (holds)
	{
		case Holds::Word:
			return "x0";
		case Holds::Set:
			return "a,b";
		case Holds::Text:
			return "one\ntwo\nthree";
		case Holds::Document:
			return "{n:1,tags:[a],who:w0}";
		case Holds::Real:
			return "0.5";
	}
	return "";
}

std::string changedX(Holds holds, const std::string &x, int number)
{
	std::string name = std::to_string(number);
	switch (holds)
	{
		case Holds::Word:
			break;
		case Holds::Set:
		{
			test::Set set = test::setOf(x);
			if (number % 2 == 0 && !set.empty())
				set.erase(set.begin());
			set.push_back("e" + name);
			return test::textOf(set);
		}
		case Holds::Text:
		{
			size_t end = std::min(x.find('\n'), x.size());
			if (number % 3 == 0)
				return x + "\nline " + name;
			return number % 3 == 1 ? "first " + name + x.substr(end) : x.substr(std::min(end + 1, x.size()));
		}
		case Holds::Document:
		{
			if (x.front() != '{')
				break;
			Document document = test::DocumentParser(x).value();
			Document &count = document.members["n"];
			count = {Document::Kind::Number, std::to_string(count.kind == Document::Kind::Number ? std::stol(count.text) + number : number), {}, {}};
			if (number % 2 == 0)
				document.members.erase("who");
			else
				document.members["who"] = {Document::Kind::String, "w" + name, {}, {}};
			Document &tags = document.members["tags"];
			tags.kind = Document::Kind::Array;
			tags.items.push_back({Document::Kind::String, "t" + name, {}, {}});
			return test::textOf(document);
		}
		case Holds::Real:
			return test::textOf(std::strtod(x.c_str(), nullptr) + number / 4.0);
	}
	return "x" + name;
}

std::optional<int64_t> numberOf(const Value &value)
{
	int64_t number = 0;
	if (!value || value->empty() || std::from_chars(value->data(), value->data() + value->size(), number).ptr != value->data() + value->size())
		return std::nullopt;
	return number;
}

bool isSeventh(const Image &row)
{
	const Value *n = test::valueOf(row, "n");
	std::optional<int64_t> number = n ? numberOf(*n) : std::nullopt;
	return number && *number % 7 == 0;
}

void count(Image &row, int number, bool checked)
{
	for (Column &column : row)
		if (column.name == "n")
			column.value = std::to_string(numberOf(column.value).value_or(0) + number);
	if (checked && isSeventh(row))
		count(row, 1, true);
}

Value &at(Image &row, const char *name)
{
	return std::find_if(row.begin(), row.end(), [&](const Column &column) { return column.name == name; })->value;
}

Image inserted(const FoldStrategy &strategy, int number)
{
	Image row{{"x", changedX(strategy.x, firstX(strategy.x), number)}, {"y", "y" + std::to_string(number)}, {"n", "0"}};
	count(row, number, strategy.checked);
	return row;
}

} // namespace

const std::vector<FoldStrategy> &foldStrategies()
{
	auto rule = [](ColumnRule columns, std::map<std::string, std::string> functions, std::string rowFunction = "")
	{ return MergeRule{{}, columns, std::move(functions), std::move(rowFunction)}; };
	constexpr ColumnRule kRow = ColumnRule::LastWriter, kColumn = ColumnRule::LastChange;
	static const auto *strategies = new std::vector<FoldStrategy>{
		{"last writer wins", Holds::Word, rule(kRow, {}), false},
		{"each column's last writer wins", Holds::Word, rule(kColumn, {}), false},
		{"n by merge_counter", Holds::Word, rule(kRow, {{"n", "counter"}}), false},
		{"n by merge_counter, of other columns each one's last writer wins", Holds::Word, rule(kColumn, {{"n", "counter"}}), false},
		{"n by merge_counter, CHECK (n % 7 <> 0)", Holds::Word, rule(kColumn, {{"n", "counter"}}), true},
		{"x by merge_counter of double precision", Holds::Real, rule(kColumn, {{"x", "real"}}), false},
		{"x by merge_set", Holds::Set, rule(kColumn, {{"x", "set"}}), false},
		{"x by merge_text", Holds::Text, rule(kRow, {{"x", "text"}}), false},
		{"x by merge_json", Holds::Document, rule(kColumn, {{"x", "document"}}), false},
		{"x by a function that is neither commutative nor associative", Holds::Word, rule(kColumn, {{"x", "f"}}), false, true},
		{"x by a function that gives nothing at times", Holds::Word, rule(kRow, {{"x", "sometimes"}, {"n", "counter"}}), true},
		{"the row by a function that is neither commutative nor associative", Holds::Word, rule(kRow, {}, "f"), false, true},
		{"the row by a function that gives nothing at times", Holds::Word, rule(kRow, {}, "sometimes"), false},
	};
	return *strategies;
}

void check(const FoldStrategy &strategy, test::Merges &merges)
{
	merges.check = [checked = strategy.checked](const Image &row) { return !checked || !isSeventh(row); };
}

Image firstRow(const FoldStrategy &strategy) { return {{"x", firstX(strategy.x)}, {"y", "y0"}, {"n", "10"}}; }

std::vector<HistoryEvent> actOn(const RowState &row, Act act, int number, const FoldStrategy &strategy, const Version &version)
{
	if ((act == Act::Insert) == row.has_value())
		return {};
	if (act == Act::Insert)
		return {{version, std::nullopt, inserted(strategy, number)}};
	if (act == Act::Delete)
		return {{version, row, std::nullopt}};
	if (act == Act::Replace)
		return {{version, row, std::nullopt}, {version, std::nullopt, inserted(strategy, number)}};
	Image after = *row;
	Value &x = at(after, "x");
	if (act == Act::WriteX || act == Act::WriteXY)
		x = changedX(strategy.x, x.value_or(firstX(strategy.x)), number);
	if (act == Act::WriteY || act == Act::WriteXY)
		at(after, "y") = "y" + std::to_string(number);
	if (act == Act::Count)
		count(after, number, strategy.checked);
	if (act == Act::Same)
		x = changedX(strategy.x, firstX(strategy.x), 9);
	if (act == Act::Back)
		x = firstX(strategy.x);
	if (act == Act::Null)
		x.reset();
	return {{version, row, std::move(after)}};
}

PlainRow plain(const RowState &row)
{
	if (!row)
		return std::nullopt;
	PlainRow columns(std::in_place);
	for (const Column &column : *row)
		(*columns)[column.name] = column.value;
	return columns;
}

PlainRow plainFold(const RowState &first, std::vector<HistoryEvent> events, const std::vector<MergeRule> &rules, MergeCalls &calls,
				   const Image &defaults, const std::set<Version> &givenUp)
{
	auto image = [](const PlainRow &row)
	{
		RowState columns;
		if (row)
		{
			columns.emplace();
			for (const auto &[name, value] : *row)
				columns->push_back({name, value});
		}
		return columns;
	};
	auto order = [](const HistoryEvent &event) { return std::tie(event.version.hlc.value, event.version.region); };
	std::stable_sort(events.begin(), events.end(), [&](const HistoryEvent &e, const HistoryEvent &f) { return order(e) < order(f); });
	PlainRow state = plain(first);
	if (state)
		for (const Column &column : defaults)
			state->emplace(column.name, column.value);
	for (const HistoryEvent &event : events)
	{
		if (!event.after)
		{
			state.reset();
			continue;
		}
		const MergeRule *rule = nullptr;
		for (const MergeRule &candidate : rules)
			if (candidate.from <= event.version.hlc && (!rule || rule->from <= candidate.from))
				rule = &candidate;
		const PlainRow before = plain(event.before);
		const PlainRow written = plain(event.after);
		PlainRow after = written;
		for (const auto &[name, value] : state ? *state : *plain(defaults))
			after->emplace(name, value);
		bool sawAll = state.has_value() == before.has_value();
		if (state && before)
			for (const auto &[name, value] : *before)
				sawAll = sawAll && state->at(name) == value;
		if (sawAll || !rule)
		{
			state = after;
			continue;
		}
		PlainRow next = after;
		const bool isGivenUp = givenUp.contains(event.version);
		if (!rule->rowFunction.empty() && !isGivenUp)
			next = plain(calls.mergeRow(rule->rowFunction, image(before), image(state), *image(after)));
		else if (rule->rowFunction.empty())
			for (const auto &[name, value] : *written)
			{
				const Value *seen = before ? &before->at(name) : nullptr;
				bool changed = !seen || *seen != value;
				if (!rule->functions.contains(name))
				{
					if (rule->columns == ColumnRule::LastChange && !changed && state)
						(*next)[name] = state->at(name);
					continue;
				}
				const std::string &function = rule->functions.at(name);
				std::optional<Value> others = state ? state->at(name) : calls.empty(function, name);
				if (!others)
					continue;
				bool changedByOthers = !seen || *seen != *others;
				if (!changed)
					(*next)[name] = *others;
				else if (changedByOthers)
					(*next)[name] = isGivenUp ? value : calls.merge(function, name, seen ? *seen : Value(), *others, value).value_or(value);
			}
		state = next && calls.isValid(*image(next)) ? next : after;
	}
	return state;
}

std::string words(const PlainRow &row)
{
	if (!row)
		return "no row";
	std::string text;
	for (const char *name : {"x", "y", "n", "z"})
		if (auto column = row->find(name); column != row->end())
			text += (text.empty() ? "" : " ") + column->first + "=" + column->second.value_or("NULL");
	std::replace(text.begin(), text.end(), '\n', '/');
	return text;
}

std::string words(const RowState &row) { return words(plain(row)); }

std::string words(const HistoryEvent &event)
{
	const char *verb = !event.after ? "DELETE" : event.before ? "UPDATE" : "INSERT";
	return std::string(verb) + " (" + words(event.before) + " -> " + words(event.after) + ")";
}

} // namespace mrsync::sim
