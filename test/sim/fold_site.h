// One region's rows under merge rules, as its applier keeps them: each the row that is in the table, its version, and a history.
//
// What is written here is above all that was seen here, and goes into the table as it is. What arrives above a row's version
// is one more step of its fold; what arrives below is put in its place, and the row is folded anew.
#pragma once

#include "core/fold.h"

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace mrsync::sim
{

// Each leaves out one rule; see docs/merges.md. The prover has to notice.
enum class FoldBreak
{
	None,
	ArrivalOrder,    // what comes later is folded later
	LateUnfolded,    // a late event is put in its place, and the row is left as it is
	LateVersion,     // a late event's version becomes the row's
	LateDelete,      // a late DELETE deletes
	StampAlone,      // of two events with one stamp the later arrival counts as the later one
	Repeated,        // repetitions count
	OwnUnrecorded,   // what is written here is not in the history
	NoBase,          // a history begins with no row
	PruneAbove,      // histories are forgotten up to this region's own clock
	PruneUntold,     // they are forgotten up to the stable point, though a rule is about to begin below it
	RuleByArrival,   // a new rule holds for what arrives from now on, whatever its stamp
	RuleNotBack,     // it holds by stamp, but what had been applied before it was known stays as it is
	RuleUnprepared,  // its stamp is chosen though a region does not keep histories yet
	HistoriesLeft,   // histories that are not kept any more are there when they are kept again
	GivenUpAlone,    // a merge that did not come to an end in one region is given up by that region alone
	GivenUpLate,     // what it has applied counts before it is known what it has given up
	GivenUpLeft,     // rows that are there stay as they are
	GivenUpBelow,    // it gives up what it had merged before, too
	ResentRows,      // a resend sends rows as they are, and not the events that they are made of
	ResentTwice,     // what came by a resend counts again when it comes as it was sent first
	ResentRowCounts, // a row that is sent again behind its events counts as a later write of theirs
	StampsForgotten, // below the stable point stamps are forgotten where the commit timestamp is another one, though histories are there still
};

struct FoldBreakInfo
{
	FoldBreak value;
	const char *name;
};

constexpr FoldBreakInfo kFoldBreaks[] = {
	{FoldBreak::ArrivalOrder, "fold-arrival-order"},
	{FoldBreak::LateUnfolded, "fold-late-unfolded"},
	{FoldBreak::LateVersion, "fold-late-version"},
	{FoldBreak::LateDelete, "fold-late-delete"},
	{FoldBreak::StampAlone, "fold-stamp-alone"},
	{FoldBreak::Repeated, "fold-repeated"},
	{FoldBreak::OwnUnrecorded, "fold-own-unrecorded"},
	{FoldBreak::NoBase, "fold-no-base"},
	{FoldBreak::PruneAbove, "fold-prune-above"},
	{FoldBreak::PruneUntold, "fold-prune-untold"},
	{FoldBreak::RuleByArrival, "fold-rule-by-arrival"},
	{FoldBreak::RuleNotBack, "fold-rule-not-back"},
	{FoldBreak::RuleUnprepared, "fold-rule-unprepared"},
	{FoldBreak::HistoriesLeft, "fold-histories-left"},
	{FoldBreak::GivenUpAlone, "fold-given-up-alone"},
	{FoldBreak::GivenUpLate, "fold-given-up-late"},
	{FoldBreak::GivenUpLeft, "fold-given-up-left"},
	{FoldBreak::GivenUpBelow, "fold-given-up-below"},
	{FoldBreak::ResentRows, "fold-resent-rows"},
	{FoldBreak::ResentTwice, "fold-resent-twice"},
	{FoldBreak::ResentRowCounts, "fold-resent-row-counts"},
	{FoldBreak::StampsForgotten, "fold-stamps-forgotten"},
};

struct RowEvent
{
	size_t row = 0;
	HistoryEvent event;
};

struct FoldTransaction
{
	size_t region = 0;
	uint64_t sequence = 0;
	Version version;
	std::vector<RowEvent> events;
};

class FoldSite
{
public:
	// columns: of its table, in its order. All regions have these rows at first, written before all. behind: its physical clock, behind the stamps
	// that it gives: so far below are the commit timestamps of what is written here.
	FoldSite(std::vector<std::string> columns, const std::vector<RowState> &rows, MergeRule rule, MergeCalls &calls, FoldBreak broken, int64_t behind = 0);

	const RowState &row(size_t row) const { return rows_[row].state; }
	Hlc clock() const { return clock_; }
	void adopt(Hlc stamp) { clock_ = std::max(clock_, stamp); }

	void write(const FoldTransaction &transaction); // its events' before images are the rows that are here
	void receive(const FoldTransaction &transaction);
	// What another region sends again: the events that its rows are made of, as far as it remembers them, and the rows.
	void receiveAgain(const FoldSite &other);
	bool keepsHistories() const { return prepared_ || rules_->merges(); }

	// A rule that begins at a stamp which is chosen later, when all regions have prepared; to be heard of here later still.
	void prepare();
	bool isPrepared() const { return prepared_.has_value(); }
	void activate(MergeRule rule);

	// For this event on the row no merge function gives anything, here or elsewhere.
	void giveUp(size_t row, const Version &event);

	// All events up to here are applied here. Stamps are forgotten, and, by another process, histories: then or later.
	void prune(Hlc stable, bool histories = true);

	// The table gets one column more, with its default.
	void addColumn(Column column);

private:
	struct Row
	{
		RowState state;
		Version version;
		std::optional<mrsync::History> history; // while it is kept; none: what the row is
		std::set<Version> givenUp;
	};
	// The merge functions, but for what is given up.
	class Calls : public MergeCalls
	{
	public:
		Calls(MergeCalls &calls, const Row &row) : calls_(calls), row_(row) {}
		void step(const Version &event) override { isGivenUp_ = row_.givenUp.contains(event); }
		std::optional<Value> merge(const std::string &function, const std::string &column, const Value &ancestor, const Value &a, const Value &b) override
		{
			return isGivenUp_ ? std::nullopt : calls_.merge(function, column, ancestor, a, b);
		}
		std::optional<Value> empty(const std::string &function, const std::string &column) override { return calls_.empty(function, column); }
		std::optional<Image> mergeRow(const std::string &function, const RowState &ancestor, const RowState &a, const Image &b) override
		{
			return isGivenUp_ ? std::nullopt : calls_.mergeRow(function, ancestor, a, b);
		}
		std::optional<Value> added(const std::string &column) override { return calls_.added(column); }
		bool isValid(const Image &row) override { return calls_.isValid(row); }

	private:
		MergeCalls &calls_;
		const Row &row_;
		bool isGivenUp_ = false;
	};

	mrsync::History &historyOf(Row &row) const;
	void store(Row &row, const RowState &state) const;
	void apply(Row &row, const HistoryEvent &event);
	static size_t countOf(const Row &row, const Version &version); // in its history
	void takeState(Row &row, const Version &version, const RowState &state);
	void takeEvent(Row &row, const HistoryEvent &event, size_t step);
	void refold(Row &row);
	void forgetStamps(Row &row, Hlc stable) const;

	// shared, as the prover copies a site at each step
	std::shared_ptr<const std::vector<std::string>> columns_;
	std::shared_ptr<const std::vector<MergeRule>> known_;
	std::shared_ptr<const MergeRules> rules_;
	Image added_;
	std::vector<Row> rows_;
	MergeCalls *calls_;
	FoldBreak broken_;
	int64_t behind_;
	Hlc clock_, pruned_;
	std::optional<Hlc> prepared_; // when it began to keep histories for a rule that it has not heard of
	std::set<std::pair<size_t, uint64_t>> applied_;
	std::set<Version> own_; // whose stamps are known beside their commit timestamps
};

} // namespace mrsync::sim
