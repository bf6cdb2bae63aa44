// Merge functions that are run beside what decides, to be looked at before they are promoted: mrsync.merge_difference,
// mrsync.merge_comparison.
//
// Whatever becomes of a shadow, the row is what it is without: its failures, also the end of its time, are caught and written down. It is
// asked once for each event at most; where that is late, in the first merge that comes of it.
#pragma once

#include "worker/merger.h"

namespace mrsync
{

class Shadows
{
public:
	// The event has met this state, and the rules made this of it.
	void compare(Merger &merger, const std::string &pkText, const RowState &state, const HistoryEvent &event, const RowState &result);
	// The history has been folded anew from this version on.
	void compare(Merger &merger, const std::string &pkText, const History &history, const Version &from);

	void transactionBegins();
	void eventBegins();
	void eventUndone() { ofEvent_.clear(); }
	// At the end of the transaction: its counts. Other appliers may wait for its commit from then on.
	void write();

private:
	struct Counts
	{
		int64_t compared = 0;
		int64_t differing = 0;
		int64_t failed = 0;
	};
	// True: it was asked.
	bool isCompared(const MergeShadow &shadow, Merger &merger, const std::string &pkText, const RowState &state, const HistoryEvent &event, const RowState &result);

	std::map<std::string, Counts> ofEvent_, ofTransaction_; // by definition
	std::map<std::string, int64_t> restsUntil_;				// steadyNow()
};

} // namespace mrsync
