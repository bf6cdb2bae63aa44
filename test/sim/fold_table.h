// The table of the prover: its columns, what is done to a row of it, the strategies that it may have, and what a row of it has to
// be in the end. The last is written down a second time here, plainly: nothing of core/fold.cpp is in it.
#pragma once

#include "core/fold.h"
#include "unit/merges.h"

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace mrsync::sim
{

// x holds what the strategy says, y a word, n a number.
enum class Holds
{
	Word,
	Set,
	Text,
	Document,
	Real,
};

struct FoldStrategy
{
	const char *name;
	Holds x;
	MergeRule rule;
	bool checked = false; // CHECK (n % 7 <> 0)
	bool tells = false;	  // of each row by what steps it came about
};
const std::vector<FoldStrategy> &foldStrategies();
void check(const FoldStrategy &strategy, test::Merges &merges);

enum class Act
{
	Insert,
	WriteX,
	WriteY,
	WriteXY,
	Delete,
	Replace, // DELETE and INSERT in one transaction
	Count,   // n goes up
	Touch,   // UPDATE that changes nothing
	Same,    // x becomes what every Same makes of it
	Back,    // x becomes what it was at first
	Null,    // x becomes NULL
};
constexpr size_t kActs = 11;
constexpr size_t kMainActs = 7; // up to Count

Image firstRow(const FoldStrategy &strategy);
// What the act does to the row, as its number-th: nothing if it cannot be done to such a row.
std::vector<HistoryEvent> actOn(const RowState &row, Act act, int number, const FoldStrategy &strategy, const Version &version);

// By column; nothing: no row.
using PlainRow = std::optional<std::map<std::string, std::optional<std::string>>>;
PlainRow plain(const RowState &row);
// The fold of the events, given in any order. Columns that events do not have keep their values, or have their defaults. givenUp: events
// for which no function gives anything.
PlainRow plainFold(const RowState &first, std::vector<HistoryEvent> events, const std::vector<MergeRule> &rules, MergeCalls &calls,
				   const Image &defaults = {}, const std::set<Version> &givenUp = {});

std::string words(const PlainRow &row);
std::string words(const RowState &row);
std::string words(const HistoryEvent &event);

} // namespace mrsync::sim
