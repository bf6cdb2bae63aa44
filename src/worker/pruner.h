// The stable point, and what becomes superfluous below it: tombstones, and the overrides of stamps.
//
// In the coordinator. Deletes in small transactions of its own, with no lock that anybody waits for: triggers and PRE_COMMIT
// only insert. What is announced as pruned (RegionShared.prunedUpTo, mrsync.pruning) is durable before anything goes, so that
// an event which comes after all is not decided by half a memory (core/watermark.h, canDecide).
//
// An override may go as soon as nobody needs to know that the stamp was another than the commit timestamp: when both are below
// what is prunable, every event still to come is above both, and has seen the transaction. Where the timestamp is above, as
// that of another tool may be by years, the row's version would read too high: it stays until then.
// Decoding that transaction again, after a crash, still finds the stamp: hlc_override is a user catalog table, whose deleted
// rows no vacuum removes before the slots' catalog_xmin has passed the deleting transaction, which is younger than the commit
// that any slot still has before it; and begin_cb looks with SnapshotAny.
#pragma once

#include "core/watermark.h"
#include "worker/worker.h"

namespace mrsync
{

class Pruner
{
public:
	explicit Pruner(Worker &worker) : worker_(worker), region_(worker.region) {}

	// What was announced before. Inside a transaction.
	void load();
	// Now and then looks at the stable point, and removes a part of what is below it. True when there is more at once. A failure
	// is for the log; nothing depends on when the past goes.
	bool step();

private:
	struct Pass // over both tables, some pages at a time
	{
		Hlc upTo;
		int table = 0;
		int64_t page = 0;
		TimestampTz startedAt;
	};
	void observe();
	bool prune();
	void announce(Hlc upTo);

	Worker &worker_;
	RegionShared *region_;
	StablePoint stable_;
	TimestampTz observedAt_ = 0;
	std::optional<Pass> pass_;
	Hlc passed_; // up to here everything was looked at
	TimestampTz nextPassAt_ = 0;
};

} // namespace mrsync
