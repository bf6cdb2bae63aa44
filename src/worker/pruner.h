// The stable point, and what becomes superfluous below it: tombstones, and the overrides of stamps. And what
// mrsync.conflict_log has kept long enough, by mrsync.conflict_log_retention.
//
// In the coordinator. Deletes in small transactions of its own, with no lock that anybody waits for: triggers and PRE_COMMIT
// only insert. What is announced as pruned (RegionShared.prunedUpTo, mrsync.pruning) is durable before anything goes, so that
// an event which comes after all is not decided by half a memory (core/watermark.h, canDecide).
//
// An override may go as soon as nobody needs to know that the stamp was another than the commit timestamp: when both are below
// what is prunable, every event still to come is above both, and has seen the transaction. Where the timestamp is above, as
// that of another tool may be by years, the row's version would read too high: it stays until then.
// Rows that exclude each other are compared at any time: while a replicated table has unique keys beside its primary one, or
// exclusion constraints, no override goes.
// An entry of a row's history has its transaction's version, and what is older than another one hangs on it as long as both are there,
// or a late event is: overrides of transactions that have entries stay, and those of later ones. While a TRUNCATE is remembered for the sake of
// histories, all stay: rows are compared with it.
// Decoding that transaction again, after a crash, still finds the stamp: hlc_override is a user catalog table, whose deleted
// rows no vacuum removes before the slots' catalog_xmin has passed the deleting transaction, which is younger than the commit
// that any slot still has before it; and begin_cb looks with SnapshotAny.
#pragma once

#include "core/watermark.h"
#include "worker/worker.h"

namespace mrsync
{

// Says durably that what is stamped up to here may be forgotten, before the first row that it speaks of goes. In a transaction of
// its own. Throws PgError.
void announcePruned(RegionShared *region, Hlc upTo);

class Pruner
{
public:
	explicit Pruner(Worker &worker) : worker_(worker), region_(worker.region) {}

	// What was announced before. Inside a transaction.
	void load();
	// Now and then looks at the stable point, and removes a part of what is below it, and of the old conflicts. True when there is
	// more at once. A failure is for the log; nothing depends on when the past goes.
	bool step();

private:
	struct Pass // over both tables, some pages at a time
	{
		Hlc upTo;
		std::optional<std::string> overridesFrom; // a transaction: those of this one and later ones are needed
		bool keepsOverrides;					  // all of them are
		int table = 0;
		int64_t page = 0;
		TimestampTz startedAt;
	};
	void observe();
	bool prune();
	bool pruneConflicts();

	Worker &worker_;
	RegionShared *region_;
	StablePoint stable_;
	TimestampTz observedAt_ = 0;
	std::optional<Pass> pass_;
	Hlc passed_; // up to here everything was looked at
	TimestampTz nextPassAt_ = 0;
	int64_t conflictsAt_ = 0; // steadyNow(): when the log of conflicts is looked at next
};

} // namespace mrsync
