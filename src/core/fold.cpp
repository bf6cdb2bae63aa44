#include "core/fold.h"

#include <algorithm>

namespace mrsync
{

namespace
{

using Value = MergeCalls::Value;

// Images of one table mostly have their columns at the same places.
const Value *valueIn(const RowState &row, size_t place, const std::string &column)
{
	if (!row)
		return nullptr;
	if (place < row->size() && (*row)[place].name == column)
		return &(*row)[place].value;
	for (const Column &candidate : *row)
		if (candidate.name == column)
			return &candidate.value;
	return nullptr;
}

// As above, and of a column that was added later its default.
const Value *valueIn(const RowState &row, size_t place, const std::string &column, std::optional<Value> &added, MergeCalls &calls)
{
	const Value *value = valueIn(row, place, column);
	if (row && !value)
		if (added = calls.added(column); added)
			value = &*added;
	return value;
}

// By name, as regions may have their columns in different orders. A column that the writer's table does not have makes no
// difference: he saw all that he could see.
bool sawAll(const RowState &before, const RowState &state, MergeCalls &calls)
{
	if (!before || !state)
		return !before && !state;
	std::optional<Value> added;
	for (size_t place = 0; place < before->size(); ++place)
		if (const Value *value = valueIn(state, place, (*before)[place].name, added, calls); value && *value != (*before)[place].value)
			return false;
	return true;
}

// An event written before a column was added says nothing of it: it stays as it is.
Image completed(Image row, const RowState &state)
{
	if (!state)
		return row;
	const RowState written = std::move(row);
	Image whole = *written;
	for (size_t place = 0; place < state->size(); ++place)
		if (!valueIn(written, place, (*state)[place].name))
			whole.push_back((*state)[place]);
	return whole;
}

// No value in `state`: there is no row. None in `before`: there was none.
Value mergeColumn(const Value *state, const Value *before, const Column &after, const std::string &function, MergeCalls &calls)
{
	if (function == kLastWriter)
		return after.value;
	std::optional<Value> empty;
	if (!state)
	{
		if (function != kLastChange)
			empty = calls.empty(function, after.name);
		if (!empty)
			return after.value;
		state = &*empty;
	}
	if (before && after.value == *before)
		return *state;
	if ((before && *state == *before) || function == kLastChange)
		return after.value;
	return calls.merge(function, after.name, before ? *before : Value{}, *state, after.value).value_or(after.value);
}

} // namespace

bool MergeRule::calls() const
{
	return !rowFunction.empty() || std::any_of(functions.begin(), functions.end(), [](const auto &column) { return column.second != kLastWriter && column.second != kLastChange; });
}

bool MergeRule::merges() const
{
	return columns != ColumnRule::LastWriter || !rowFunction.empty() ||
		   std::any_of(functions.begin(), functions.end(), [](const auto &column) { return column.second != kLastWriter; });
}

MergeRules::MergeRules(std::vector<MergeRule> rules) : rules_(std::move(rules))
{
	std::stable_sort(rules_.begin(), rules_.end(), [](const MergeRule &x, const MergeRule &y) { return x.from < y.from; });
}

const MergeRule &MergeRules::at(Hlc hlc) const
{
	static const MergeRule *const lastWriter = new MergeRule;
	auto after = std::upper_bound(rules_.begin(), rules_.end(), hlc, [](Hlc at, const MergeRule &rule) { return at < rule.from; });
	return after == rules_.begin() ? *lastWriter : *std::prev(after);
}

bool MergeRules::merges() const
{
	return std::any_of(rules_.begin(), rules_.end(), [](const MergeRule &rule) { return rule.merges(); });
}

RowState foldStep(const RowState &state, const HistoryEvent &event, const MergeRule &rule, MergeCalls &calls)
{
	if (!event.after)
		return std::nullopt;
	Image written = completed(*event.after, state);
	// Who writes what he saw goes by nobody's rule.
	if (!rule.merges() || sawAll(event.before, state, calls))
		return written;
	calls.step(event.version);
	if (!rule.rowFunction.empty())
	{
		std::optional<Image> merged = calls.mergeRow(rule.rowFunction, event.before, state, written);
		return merged && calls.isValid(*merged) ? std::move(*merged) : std::move(written);
	}
	Image merged = written;
	for (size_t place = 0; place < event.after->size(); ++place)
	{
		Column &column = merged[place];
		std::optional<Value> addedToState, addedToBefore;
		const Value *was = valueIn(state, place, column.name, addedToState, calls);
		const Value *before = valueIn(event.before, place, column.name, addedToBefore, calls);
		if ((state && !was) || (event.before && !before))
			continue;
		auto function = rule.functions.find(column.name);
		if (function != rule.functions.end())
			column.value = mergeColumn(was, before, column, function->second, calls);
		else if (rule.columns == ColumnRule::LastChange && was && before && column.value == *before)
			column.value = *was;
	}
	return calls.isValid(merged) ? std::move(merged) : std::move(written);
}

bool History::insert(HistoryEvent event)
{
	if (event.version <= baseVersion_)
		return false;
	auto behind = std::upper_bound(events_.begin(), events_.end(), event.version,
								   [](const Version &version, const HistoryEvent &other) { return version < other.version; });
	folded_.resize(std::min(folded_.size(), static_cast<size_t>(behind - events_.begin())));
	events_.insert(behind, std::move(event));
	return true;
}

void History::deleted(const Version &version)
{
	std::erase_if(events_, [&](const HistoryEvent &event) { return event.version < version; });
	baseVersion_ = version;
	base_.reset();
	isBaseKnown_ = true;
	folded_.clear();
}

const RowState &History::fold(const MergeRules &rules, MergeCalls &calls)
{
	while (folded_.size() < events_.size())
	{
		const HistoryEvent &event = events_[folded_.size()];
		folded_.push_back(foldStep(met(folded_.size()), event, rules.at(event.version.hlc), calls));
	}
	return events_.empty() ? base_ : folded_.back();
}

const RowState &History::met(size_t place) const
{
	static const RowState *const nothing = new RowState;
	if (place == 0)
		return base();
	// An INSERT behind a row that its own transaction had left: a TRUNCATE came in between.
	const bool isAnew = !events_[place].before && events_[place - 1].version == events_[place].version;
	return isAnew ? *nothing : folded_[place - 1];
}

void History::forget(const Hlc &upTo, const MergeRules &rules, MergeCalls &calls)
{
	auto end = std::find_if(events_.begin(), events_.end(), [&](const HistoryEvent &event) { return event.version.hlc > upTo; });
	if (end == events_.begin())
		return;
	fold(rules, calls);
	const auto count = end - events_.begin();
	base_ = folded_[static_cast<size_t>(count) - 1];
	isBaseKnown_ = true;
	baseVersion_ = std::prev(end)->version;
	folded_.erase(folded_.begin(), folded_.begin() + count);
	events_.erase(events_.begin(), end);
}

} // namespace mrsync
