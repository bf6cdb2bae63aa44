// What mrsync.conflict_log holds goes to all regions, so that each has all entries: tells this region's on the control topic, and
// puts those of the others into the log.
//
// In the coordinator, a bounded part at a time, in transactions of its own: those of appliers, in which entries are made, are not
// decoded. What an applier made or added to is in mrsync.conflict_untold. An entry that was told is not told again by who
// receives it, unless that knows an event_id which it lacks.
//
// Two regions' entries of one conflict are joined (joinEntries), and the order in which that happens makes no difference; nor does how
// often. So duplicates, and topics that are read again, add nothing; but for what was deleted from the log by hand since.
#pragma once

#include "worker/worker.h"

#include <map>

namespace mrsync
{

// Behind INSERT INTO mrsync.conflict_log AS c … in SQL: what becomes of an entry that is there already.
std::string joinEntries();

// SQL: the type of a conflict on one row by its images; inserts: whether one side is known to be an INSERT.
std::string conflictTypeBy(const std::string &imageA, const std::string &imageB, const std::string &inserts);

class ConflictReports
{
public:
	explicit ConflictReports(Worker &worker) : worker_(worker) {}

	// True when there is more at once. A failure is for the log: it is tried again.
	bool step();

private:
	struct Work
	{
		bool take, tell, name;
	};
	Work look() const;
	bool tell();
	bool take();
	bool applied();
	std::string region() const { return worker_.region->region; }

	Worker &worker_;
	int64_t at_ = 0; // steadyNow(), of the next look
	std::map<std::string, Hlc> appliedUpTo_; // by peer: what it has written up to here was looked for in mrsync.applied_event
};

} // namespace mrsync
