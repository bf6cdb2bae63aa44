// The fold of one row: what a row is after all events on it, in the order of (hlc, region), whichever came first.
//
// A step of the fold makes the next state of the last one and one event. Last writer wins takes the event's image. A merge keeps
// what came before beside what the event changed: `state := merge(before, state, after)`, by column or of the whole row.
// A row of a table with merges has a history: its latest events, and the state that they were folded onto, the base.
// An event that arrives late is put in its place, and what comes after it is folded anew. Nothing is asked of a merge
// function but that it is one: three values give one result.
//
// Whether there is a row at all is the last event's to say, under any rule. The merge functions themselves are the caller's.
#pragma once

#include "core/event.h"
#include "core/resolver.h"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mrsync
{

// What becomes of a column that an event and what it had not seen both write.
enum class ColumnRule
{
	LastWriter,	 // the event's value
	LastChange,	 // the event's value where the event changed it, else what is there
	Merge,		 // the function's result
};

inline constexpr const char *kLastWriter = "last_writer_wins"; // of a column: ColumnRule::LastWriter
inline constexpr const char *kLastChange = "column_last_writer_wins"; // ColumnRule::LastChange

// How conflicts on a table are decided from one stamp on.
struct MergeRule
{
	Hlc from; // events from here on, up to the next rule's
	ColumnRule columns = ColumnRule::LastWriter; // those not named below
	std::map<std::string, std::string> functions; // column to merge function; or to one of the two words below
	std::string rowFunction;					  // on the whole row, and then there is nothing else; "": none

	bool merges() const; // something else than last writer wins
	bool calls() const;	 // a function
	bool operator==(const MergeRule &) const = default;
};

// All rules of a table, in the order of their stamps. Before the first: last writer wins.
class MergeRules
{
public:
	MergeRules() = default;
	explicit MergeRules(std::vector<MergeRule> rules);
	const MergeRule &at(Hlc hlc) const;
	bool merges() const; // any of them

private:
	std::vector<MergeRule> rules_;
};

using RowState = std::optional<Image>; // nothing: no row

// The merge functions. A call that fails gives nothing: then the event's value is taken.
class MergeCalls
{
public:
	using Value = std::optional<std::string>; // of a column; nothing: NULL
	virtual ~MergeCalls() = default;
	// What is called next is for this event.
	virtual void step(const Version &) {}
	virtual std::optional<Value> merge(const std::string &function, const std::string &column, const Value &ancestor,
									   const Value &a, const Value &b) = 0;
	// What a value is to the function where there is no row: a counter is 0. Nothing: it has none, the event's value is taken.
	virtual std::optional<Value> empty(const std::string &function, const std::string &column) = 0;
	// The images may lack columns that were added later.
	virtual std::optional<Image> mergeRow(const std::string &function, const RowState &ancestor, const RowState &a, const Image &b) = 0;
	// What a column that was added later is in images that lack it: its default, the same in every region. Nothing: that is not
	// known, and the event's value is taken.
	virtual std::optional<Value> added(const std::string &) { return std::nullopt; }
	// Whether the table takes such a row. If not, the event's image is taken.
	virtual bool isValid(const Image &row) = 0;
};

// What an event did to the row. Two of one version belong to one transaction, and are in its order.
struct HistoryEvent
{
	Version version;
	RowState before;
	RowState after; // nothing: a DELETE
	bool operator==(const HistoryEvent &) const = default;
};

// Columns are found by name. One that the event's image lacks stays as it is. So the result may have columns that were dropped
// since, which are to be left out, and lack some that were added, which are their defaults, whatever is in the table.
RowState foldStep(const RowState &state, const HistoryEvent &event, const MergeRule &rule, MergeCalls &calls);

class History
{
public:
	// Nothing is known of the row from before its first event: then it was what that event found.
	History() = default;
	// The row as all events up to this version left it.
	History(Version version, RowState state) : baseVersion_(std::move(version)), base_(std::move(state)), isBaseKnown_(true) {}

	// Behind all that are not above it. One that is not above the base has had no effect on it, or is in it: false, nothing is done.
	bool insert(HistoryEvent event);
	// The row was deleted by this version's transaction, with its table perhaps: what is below has no effect. What that transaction
	// did to the row is in the history, before and after.
	void deleted(const Version &version);
	// Of the last event, or the base.
	const Version &version() const { return events_.empty() ? baseVersion_ : events_.back().version; }
	// What is in front of an event that was put in since is not folded again: the rules are those of the last time, but for
	// rulesChanged().
	const RowState &fold(const MergeRules &rules, MergeCalls &calls);
	void rulesChanged() { folded_.clear(); }
	// Once it is folded: the row that the event at this place met, and what it made of it.
	const RowState &met(size_t place) const;
	const RowState &made(size_t place) const { return folded_[place]; }
	// What is not above this stamp becomes part of the base: nothing comes any more that belongs before it.
	void forget(const Hlc &upTo, const MergeRules &rules, MergeCalls &calls);

	const Version &baseVersion() const { return baseVersion_; }
	const RowState &base() const { return isBaseKnown_ || events_.empty() ? base_ : events_.front().before; }
	const std::vector<HistoryEvent> &events() const { return events_; }

private:
	Version baseVersion_;
	RowState base_;
	bool isBaseKnown_ = false;
	std::vector<HistoryEvent> events_;
	std::vector<RowState> folded_; // after the first events; not all of them
};

} // namespace mrsync
