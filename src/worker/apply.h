// Applies one event inside the transaction at hand: occupy the key, then decide, then write (I12).
//
// Asks the resolver and executes its answer; logs the conflict if there is one. An expected outcome is never an
// exception; what is thrown means that this event could not be applied, and the (sub)transaction is to be aborted.
#pragma once

#include "core/event.h"
#include "core/resolver.h"
#include "pg/shmem.h"
#include "worker/target.h"

namespace mrsync
{

class Apply
{
public:
	explicit Apply(RegionShared *region) : region_(region) {}

	// Between transactions; after the rollback of a subtransaction.
	void sweep() { targets_.sweep(); }
	void locksGone() { targets_.locksGone(); }
	// seen: of the event's transaction. retried: the rest of its transaction was applied before, in another local one; a
	// row that carries its very version was written by an earlier event of it, since the later ones on that row wait.
	void event(const ChangeEvent &event, const SeenVector &seen, bool retried = false);

private:
	void row(const ChangeEvent &event, const SeenVector &seen);
	void resendMark(const ChangeEvent &event);
	void truncate(const ChangeEvent &event);
	void relate(LocalState &local, const Target &target, const ChangeEvent &event, const SeenVector &seen) const;
	bool mayBeOnItsWay(const ChangeEvent &event, const SeenVector &seen) const;
	LocalState deleted(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText);
	void log(Target &target, const ChangeEvent &event, const std::string &pkText, const LocalState &local,
			 const Decision &decision, const std::optional<Image> &localImage);

	RegionShared *region_;
	bool retried_ = false;
	TargetCache targets_;
};

} // namespace mrsync
