#include "sim/fold_site.h"

#include <algorithm>

namespace mrsync::sim
{

namespace
{

const Column *columnOf(const Image &row, const std::string &name)
{
	for (const Column &column : row)
		if (column.name == name)
			return &column;
	return nullptr;
}

} // namespace

FoldSite::FoldSite(std::vector<std::string> columns, const std::vector<RowState> &rows, MergeRule rule, MergeCalls &calls, FoldBreak broken, int64_t behind)
	: columns_(std::make_shared<std::vector<std::string>>(std::move(columns))), known_(std::make_shared<std::vector<MergeRule>>(1, std::move(rule))),
	  rules_(std::make_shared<MergeRules>(*known_)), calls_(&calls), broken_(broken), behind_(behind)
{
	for (const RowState &state : rows)
	{
		Row &row = rows_.emplace_back();
		store(row, state);
	}
}

mrsync::History &FoldSite::historyOf(Row &row) const
{
	if (!row.history)
		row.history.emplace(row.version, broken_ == FoldBreak::NoBase ? RowState() : row.state);
	return *row.history;
}

// In the table's own order of columns; one that the state lacks gets its default.
void FoldSite::store(Row &row, const RowState &state) const
{
	if (!state)
	{
		row.state.reset();
		return;
	}
	Image stored;
	for (const std::string &name : *columns_)
	{
		const Column *column = columnOf(*state, name);
		if (!column)
			column = columnOf(added_, name);
		if (column)
			stored.push_back(*column);
	}
	row.state = std::move(stored);
}

void FoldSite::write(const FoldTransaction &transaction)
{
	adopt(transaction.version.hlc);
	if (behind_ > 0)
		own_.insert(transaction.version);
	for (const RowEvent &written : transaction.events)
	{
		Row &row = rows_[written.row];
		if (keepsHistories() && broken_ != FoldBreak::OwnUnrecorded)
			historyOf(row).insert(written.event);
		store(row, written.event.after);
		row.version = transaction.version;
	}
	applied_.emplace(transaction.region, transaction.sequence);
}

void FoldSite::receive(const FoldTransaction &transaction)
{
	if (!applied_.emplace(transaction.region, transaction.sequence).second && broken_ != FoldBreak::Repeated)
		return;
	adopt(transaction.version.hlc);
	std::set<size_t> had; // by a resend
	for (const RowEvent &event : transaction.events)
		if (const Row &row = rows_[event.row]; row.version == transaction.version || countOf(row, transaction.version) > 0)
			had.insert(event.row);
	for (const RowEvent &event : transaction.events)
		if (!had.contains(event.row) || broken_ == FoldBreak::ResentTwice || broken_ == FoldBreak::Repeated)
			apply(rows_[event.row], event.event);
}

void FoldSite::receiveAgain(const FoldSite &other)
{
	for (size_t i = 0; i < rows_.size(); ++i)
	{
		Row &row = rows_[i];
		const Row &theirs = other.rows_[i];
		adopt(theirs.version.hlc);
		if (theirs.history && broken_ != FoldBreak::ResentRows)
		{
			if (theirs.history->base())
				takeState(row, theirs.history->baseVersion(), theirs.history->base());
			size_t step = 0;
			Version last;
			for (const HistoryEvent &event : theirs.history->events())
			{
				step = event.version == last ? step + 1 : 1;
				last = event.version;
				takeEvent(row, event, step);
			}
		}
		takeState(row, theirs.version, theirs.state);
	}
}

size_t FoldSite::countOf(const Row &row, const Version &version)
{
	size_t count = 0;
	if (row.history)
		for (const HistoryEvent &event : row.history->events())
			count += event.version == version;
	return count;
}

void FoldSite::takeState(Row &row, const Version &version, const RowState &state)
{
	if (version.hlc <= pruned_)
		return;
	if (version > row.version || (version == row.version && broken_ == FoldBreak::ResentRowCounts))
	{
		store(row, state);
		row.version = version;
		if (keepsHistories())
			row.history.emplace(version, row.state);
		return;
	}
	// from before there was a rule: whatever came before it is gone
	if (!keepsHistories() || rules_->at(version.hlc).merges() || historyOf(row).baseVersion() >= version || countOf(row, version) > 0)
		return;
	mrsync::History history(version, state);
	for (const HistoryEvent &event : row.history->events())
		history.insert(event);
	row.history = std::move(history);
	refold(row);
}

void FoldSite::takeEvent(Row &row, const HistoryEvent &event, size_t step)
{
	if (event.version.hlc <= pruned_)
		return;
	if (event.version > row.version)
		return apply(row, event);
	if (!keepsHistories() || countOf(row, event.version) >= step || !historyOf(row).insert(event))
		return;
	Calls calls(*calls_, row);
	store(row, row.history->fold(*rules_, calls));
}

void FoldSite::apply(Row &row, const HistoryEvent &event)
{
	// the row's own version: an earlier event of this transaction
	bool inOrder = event.version >= row.version || broken_ == FoldBreak::ArrivalOrder ||
				   (broken_ == FoldBreak::StampAlone && event.version.hlc == row.version.hlc);
	mrsync::History *history = keepsHistories() ? &historyOf(row) : nullptr;
	bool placed = history && history->insert(event);
	Calls calls(*calls_, row);
	if (inOrder)
	{
		store(row, foldStep(row.state, event, rules_->at(event.version.hlc), calls));
		row.version = std::max(row.version, event.version);
		return;
	}
	if (placed && broken_ != FoldBreak::LateUnfolded)
		store(row, history->fold(*rules_, calls));
	if (broken_ == FoldBreak::LateDelete && !event.after)
		row.state.reset();
	if (broken_ == FoldBreak::LateVersion)
		row.version = event.version;
}

void FoldSite::prepare() { prepared_ = clock_; }

void FoldSite::activate(MergeRule rule)
{
	adopt(rule.from);
	Hlc from = rule.from;
	if (broken_ == FoldBreak::RuleByArrival)
		rule.from = {};
	std::vector<MergeRule> known = *known_;
	known.push_back(std::move(rule));
	rules_ = std::make_shared<MergeRules>(known);
	for (Row &row : rows_)
		if (row.history)
			row.history->rulesChanged();
	known_ = std::make_shared<std::vector<MergeRule>>(std::move(known));
	prepared_.reset();
	if (!keepsHistories() && broken_ != FoldBreak::HistoriesLeft)
		for (Row &row : rows_)
			row.history.reset(); // from now on they would have gaps
	if (broken_ == FoldBreak::RuleByArrival || broken_ == FoldBreak::RuleNotBack)
		return;
	for (Row &row : rows_)
		if (row.history && row.version.hlc >= from)
			refold(row);
}

void FoldSite::refold(Row &row)
{
	Calls calls(*calls_, row);
	store(row, row.history->fold(*rules_, calls));
}

void FoldSite::giveUp(size_t index, const Version &event)
{
	Row &row = rows_[index];
	if (!row.givenUp.insert(event).second || !row.history || broken_ == FoldBreak::GivenUpLeft)
		return;
	row.history->rulesChanged();
	refold(row);
}

// They are kept as long as an entry of a history is there whose version they are.
void FoldSite::forgetStamps(Row &row, Hlc stable) const
{
	if (!row.history || broken_ != FoldBreak::StampsForgotten)
		return;
	mrsync::History history(row.history->baseVersion(), row.history->base());
	for (HistoryEvent event : row.history->events())
	{
		if (event.version.hlc <= stable && own_.contains(event.version))
			event.version.hlc.value -= behind_;
		history.insert(std::move(event));
	}
	row.history = std::move(history);
}

void FoldSite::prune(Hlc stable, bool histories)
{
	if (broken_ == FoldBreak::PruneAbove)
		stable = clock_;
	if (prepared_ && broken_ != FoldBreak::PruneUntold)
		stable = std::min(stable, *prepared_); // the rule begins above
	pruned_ = std::max(pruned_, stable);
	for (Row &row : rows_)
	{
		Calls calls(*calls_, row);
		forgetStamps(row, stable);
		if (row.history && histories)
			row.history->forget(stable, *rules_, calls);
		if (row.history && row.history->events().empty())
			row.history.reset();
		if (!row.state && row.version.hlc <= stable) // the tombstone
			row.version = {};
	}
}

void FoldSite::addColumn(Column column)
{
	std::vector<std::string> columns = *columns_;
	columns.push_back(column.name);
	columns_ = std::make_shared<std::vector<std::string>>(std::move(columns));
	for (Row &row : rows_)
		if (row.state)
			row.state->push_back(column);
	added_.push_back(std::move(column));
}

} // namespace mrsync::sim
