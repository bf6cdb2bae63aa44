// A local transaction that stands for one of another region: it bears that region's replication origin, and the stamp of
// what it applies as its commit timestamp. So the version of every row it writes is found from its xmin ever after.
//
// Transactions with different stamps never share one: they would share one version.
#pragma once

#include "worker/apply.h"
#include "worker/worker.h"

#include <string>
#include <unordered_map>

namespace mrsync
{

class Replay
{
public:
	// The session becomes that of this link's origin.
	Replay(Worker &worker, RepOriginId link);
	Replay(const Replay &) = delete;
	Replay &operator=(const Replay &) = delete;

	void begin();
	// Whose version what is written from now on has. One that is not known here makes every event fail.
	void as(const std::string &region);
	// One event. parks: one that cannot be applied is put into mrsync.apply_error, and so are those behind it on its row.
	void event(const ChangeEvent &event, const SeenVector &seen, bool parks);
	// One that was parked before.
	void parked(const ChangeEvent &event);
	// sequence: of the link's source; 0 where it says nothing of how far that has been applied.
	void commit(uint64_t sequence, Hlc hlc);
	void abort();

	// Errors that say "not now", not "never".
	static bool isRetryable(const PgError &error);
	// Between transactions.
	void sweep() { apply_.sweep(); }

private:
	void applyOrPark(const ChangeEvent &event, const SeenVector &seen);
	void requireRegion() const;

	Worker &worker_;
	RepOriginId link_;
	Apply apply_;
	MemoryContext eventContext_ = nullptr;
	std::string unknown_; // the region of as(), where it is not known
	// of this transaction: the event_id of the last one parked on a row
	std::unordered_map<std::string, std::string> parkedRows_;
};

} // namespace mrsync
