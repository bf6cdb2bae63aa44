// A local transaction that stands for one of another region: it bears that region's replication origin, and the stamp of
// what it applies as its commit timestamp. So the version of every row it writes is found from its xmin ever after.
//
// Transactions with different stamps never share one: they would share one version.
#pragma once

#include "worker/apply.h"
#include "worker/worker.h"

#include <string>

namespace mrsync
{

class Replay
{
public:
	// The session becomes that of this link's origin, which keeps nothing there but what commit() says.
	Replay(Worker &worker, RepOriginId link);
	Replay(const Replay &) = delete;
	Replay &operator=(const Replay &) = delete;

	// Of the link's source, until as() says otherwise.
	void begin();
	// Whose version what is written from now on has. Throws PgError: that region is not known here.
	void as(const std::string &region);
	void event(const ChangeEvent &event, const SeenVector &seen, Apply::From from = Apply::From::Topic);
	// sequence: of the link's source; 0 where it says nothing of how far that has been applied.
	void commit(uint64_t sequence, Hlc hlc);
	void abort();

	// Between transactions.
	void sweep() { apply_.sweep(); }
	Apply &apply() { return apply_; }
	MemoryContext eventContext() const { return eventContext_; }

private:
	Worker &worker_;
	RepOriginId link_;
	Apply apply_;
	MemoryContext eventContext_ = nullptr;
};

} // namespace mrsync
