// Applies one event inside the transaction at hand: occupy the key, then decide, then write (I12).
//
// Asks the resolver and executes its answer; logs the conflict if there is one. An expected outcome is never an
// exception; what is thrown means that this event could not be applied, and the (sub)transaction is to be aborted.
#pragma once

#include "core/event.h"
#include "core/fold.h"
#include "core/resolver.h"
#include "pg/shmem.h"
#include "pg/spi.h"
#include "worker/aside.h"
#include "worker/shadows.h"
#include "worker/target.h"

#include <bitset>

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

	explicit Apply(RegionShared *region) : region_(region), targets_(region) {}

	// Before a transaction: what the one before has failed with, and every region has to know. Throws PgError.
	void shareFailures();
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

	// At the end of a transaction: what shadows have been seen to do in it.
	void writeComparisons() { shadows_.write(); }

	// A row with a history, anew by the rules as they are. mine: the version that this transaction will have. Returns the version
	// that the row keeps; none where there is no row.
	std::optional<Version> refold(Oid root, const Image &pk, const Version &mine);
	// Forgets the history of a row up to a stamp. False: somebody is writing it; the transaction is to be aborted.
	bool forgetHistory(Oid root, const Image &pk, Hlc upTo);
	// Behind refold(), in its transaction: entries of the row that are in the log with what has been given up since. table: as events name it.
	void logGivenUp(Oid root, const std::string &table, const Image &pk);

	// The table that was added, of which this name is that or a partition. Throws PgError: no such table here, or not added.
	Oid rootOf(const std::string &table);
	// Whether equal keys of all these tables, as events name them, have equal texts. Throws PgError.
	bool keysAreTexts(const std::set<std::string> &tables);
	// What all events on one row of a table have in common here; none where the event is not on a row. Throws PgError.
	std::optional<std::string> rowName(const ChangeEvent &event);

private:
	enum class Room
	{
		Made,
		Aside, // there is none: the row is held aside
		Again, // something has changed meanwhile
	};
	struct Placed // in another form (worker/loser.h)
	{
		Claim row, holder;
		uint64_t keyHash, holderHash;
		std::string constraint;
		std::optional<Image> made;
		Aside::Entry entry(const Image &image) const { return {row, keyHash, image, holder, holderHash, constraint, made, true, ""}; }
	};
	struct Place
	{
		Room room = Room::Made;
		std::optional<Placed> placed;
	};
	void row(const ChangeEvent &event, const SeenVector &seen);
	Image mergedRow(Target &target, const ChangeEvent &event, const RowState &state);
	void remember(Target &target, const ChangeEvent &event, const std::string &pkText, const HeldRow &held, const RowState &found,
				  const LocalState &local, const Decision &decision);
	bool isRemembered(Target &target, const ChangeEvent &event, const std::string &pkText);
	void fold(Target &target, const std::string &pkText, const HeldRow &held, const Image &found, const Version &version, const Version &mine);
	// ---- rows that exclude each other (exclusions.cpp)
	Place makeRoom(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText,
				   const HeldRow &held, const std::optional<AsideKey> &aside, const std::vector<Rival> &rivals);
	std::vector<Claim> claimsOf(const Target &target, const Claim &claim, const std::vector<Rival> &rivals) const;
	void logExclusions(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText, const Claim &claim,
					   const std::vector<Rival> &rivals, const std::vector<Claim> &claims, bool winsAll);
	std::optional<AsideKey> placedAs(Target &target, const Rival &rival, const Version &version);
	void evict(Target &target, const Claim &by, const std::vector<Rival> &rivals, const std::vector<Claim> &claims);
	void freed(Target &target);
	Target &leafOf(Oid root, const Image &pk);
	bool hasLeaf(Oid root, const Image &pk);
	void resendMark(const ChangeEvent &event);
	void truncate(const ChangeEvent &event);
	void requireTurn(Target &target, const ChangeEvent &event);
	spi::Rows applied(const Version &version) const;
	bool isBehind(const Version &version, const SeenEntry &seen) const;
	void relate(LocalState &local, const Target &target, const ChangeEvent &event, const SeenVector &seen) const;
	void requireMemory(const LocalState &local, const ChangeEvent &event) const;
	PgError forgotten(const ChangeEvent &event) const;
	bool mayBeOnItsWay(const ChangeEvent &event, const SeenVector &seen) const;
	LocalState deleted(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText);
	// A row whose version is not known any more.
	static LocalState unknownUpTo(Hlc hlc);
	PgError undecided(const Target &target, const Version &event, const LocalState &local, TransactionId writer) const;
	struct Merged // what the rule makes of two sides
	{
		const char *strategy = kLastWriter; // as the log names it
		RowState result;
		Hlc since; // the rule's; zero: there is none
		bool isKnown = true; // else the history does not have all of both
		uint64_t givenUp = 0; // merges that were to make the result
		bool isMerge() const { return strategy != kLastWriter; }
	};
	Merged mergedPair(Target &target, const ChangeEvent &event, const std::string &pkText, const Version &other, std::optional<Image> &here);
	Merged mergedPair(Target &target, const std::string &pkText, const Version &incoming, const Version &other, const HistoryEvent *lost,
					  std::optional<Image> &here);
	void log(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText, const LocalState &local, const Decision &decision,
			 const std::optional<Image> &localImage);
	void logPair(Target &target, const ChangeEvent &event, const std::string &pkText, const LocalState &local, const Decision &decision,
				 const spi::Value &localId, const std::optional<Image> &localImage, const Merged &merged);
	void logUnmet(Target &target, const ChangeEvent &event, const SeenVector &seen, const std::string &pkText, const Version &met);
	void nameLast(Target &target, const ChangeEvent &event, const std::string &pkText, bool isLogged);
	void logExclusion(Target &target, const ChangeEvent &event, const std::string &pkText, const Rival &rival, const Image &rivalImage,
					  const Version &rivalVersion, ConflictType type);

	RegionShared *region_;
	From from_ = From::Topic;
	TargetCache targets_;
	Aside aside_;
	Shadows shadows_;
	// Rows of which the transaction at hand is in the log, by a hash.
	std::bitset<4096> logged_;
	bool hasLogged_ = false;
};

} // namespace mrsync
