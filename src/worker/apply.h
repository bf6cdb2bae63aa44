// Applies one event inside the transaction at hand: occupy the key, then decide, then write (I12).
//
// Asks the resolver and executes its answer; logs the conflict if there is one. An expected outcome is never an
// exception; what is thrown means that this event could not be applied, and the (sub)transaction is to be aborted.
#pragma once

#include "core/event.h"
#include "core/resolver.h"
#include "pg/shmem.h"
#include "worker/aside.h"
#include "worker/target.h"

namespace mrsync
{

class Apply
{
public:
	// Whence an event comes. If not from the topic, the rest of its transaction was applied before, in another local one; a
	// row that carries its very version was written by an earlier event of it, since the later ones on that row wait.
	enum class From
	{
		Topic,
		Parked,
		Aside, // not the event itself, but the row that it made
	};

	explicit Apply(RegionShared *region) : region_(region) {}

	// Between transactions; after the rollback of a subtransaction.
	void sweep();
	void locksGone();
	// seen: of the event's transaction.
	void event(const ChangeEvent &event, const SeenVector &seen, From from = From::Topic);

	// ---- rows held aside

	// In a transaction with its version: it is placed anew. False: somebody has done that.
	bool release(const std::string &id);
	// In a transaction with this version, at its end: what was held aside during it, and is free now.
	void releaseOwn(const Version &version);
	// In a transaction, without waiting for anybody: is it to be placed anew?
	bool isReleasable(const std::string &id);
	// Has anything become free since this was asked last?
	bool takeFreed() { return aside_.takeFreed(); }

	// The table that was added, of which this name is that or a partition. Throws PgError: no such table here, or not added.
	Oid rootOf(const std::string &table);
	// What all events on one row of a table have in common here; none where the event is not on a row. Throws PgError.
	std::optional<std::string> rowName(const ChangeEvent &event);

private:
	enum class Room
	{
		Made,
		Aside, // there is none: the row is held aside
		Again, // something has changed meanwhile
	};
	void row(const ChangeEvent &event, const SeenVector &seen);
	Room makeRoom(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText,
				  const HeldRow &held, const std::optional<AsideKey> &aside, const std::vector<Rival> &rivals);
	void freed(Target &target);
	void truncate(const ChangeEvent &event);
	void requireTurn(Target &target, const ChangeEvent &event);
	void relate(LocalState &local, const Target &target, const ChangeEvent &event, const SeenVector &seen) const;
	bool mayBeOnItsWay(const ChangeEvent &event, const SeenVector &seen) const;
	LocalState deleted(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText);
	void log(Target &target, const ChangeEvent &event, const std::string &pkText, const LocalState &local,
			 const Decision &decision, const std::optional<Image> &localImage);
	void logExclusion(Target &target, const ChangeEvent &event, const std::string &pkText, const Rival &rival,
					  const Version &rivalVersion, ConflictType type);

	RegionShared *region_;
	From from_ = From::Topic;
	TargetCache targets_;
	Aside aside_;
};

} // namespace mrsync
