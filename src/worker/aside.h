// Rows held aside: rows that are not in their table because another one with a higher version, which is, excludes them
// (core/exclusion.h). Each waits in mrsync.row_aside with its version and whole image, behind its holder. Where a rule for losers
// makes it fit (worker/loser.h) the table has what that makes of it meanwhile, under the same version: it is placed.
//
// Only appliers put rows there or take them away, and only while they own the table's rows aside: a lock that appliers
// know of, and users never meet. Who writes the table without owning them shares them, so that none come or go meanwhile.
// Relied on by: I13; the fold of each row, of whose states one held aside is one.
#pragma once

#include "core/exclusion.h"
#include "worker/target.h"

#include <unordered_map>

namespace mrsync
{

struct AsideKey
{
	std::string id;
	Version version;
	bool isPlaced;
};

struct AsideRow
{
	Oid root;
	Version version;
	Image pk;
	Image image;
	bool isDue;		   // its holder has left
	bool isPlaced;
	std::optional<Image> made; // by this rule, for these constraints
	std::string rule, constraint;
	uint64_t sequence; // of its transaction, and what that had seen; all there are, and nothing, where that is not known
	SeenVector seen;
};

struct AsideDue
{
	std::string id;
	Version version;
};

class Aside
{
public:
	// ---- inside an applier's transaction

	// Before anything of the table is looked at.
	void share(Oid root);
	// False: others may have been waited for, and what was looked at before may have changed. Asked again it is true.
	bool own(Oid root);

	std::optional<AsideKey> find(Target &target, uint64_t keyHash, const std::string &pkText);
	Image image(const std::string &id);

	// Those of a table that are no newer; if there are any, they are owned by then.
	std::vector<std::pair<AsideKey, Image>> upTo(Oid root, const Version &version);

	// The rest owns the rows aside.
	struct Entry
	{
		Claim row;
		uint64_t keyHash;
		const Image &image;
		const Claim &holder;
		uint64_t holderHash;
		const std::string &constraint;
		const std::optional<Image> &made;
		bool isPlaced;
		std::string why; // nothing was made of it; "": there is no rule
	};
	void put(const Target &target, const std::optional<AsideKey> &former, const Entry &entry);
	// One that was placed has been taken out of the table.
	void evicted(const AsideKey &row);
	// What is to become of it is seen to next, by a transaction of its own.
	void due(const Target &target, uint64_t keyHash);
	void drop(const AsideKey &row);

	// Whether it is shared or owned: this key's row has left the table or excludes others than it did, so those behind it
	// are due. nullptr: all rows of the table.
	void freed(Oid root, const uint64_t *keyHash);
	// Was there anything since it was asked last?
	bool takeFreed();

	void locksGone() { states_.clear(); }

private:
	struct State
	{
		bool isOwned;
		bool any;
	};
	State &state(Oid root);
	std::unordered_map<Oid, State> states_; // of this transaction
	bool freed_ = false;
};

// ---- inside any transaction

// Of those whose holder has left: the one with the highest version; of one version only, if it is given.
std::optional<AsideDue> asideDue(const std::optional<Version> &of = std::nullopt);
std::optional<AsideRow> asideRead(const std::string &id);
// Some that wait behind their holders: those with ids above this one. deleted: there is a tombstone above it, or a truncated
// partition that may be its own.
constexpr size_t kAsideLooks = 200;
struct AsideWaiting
{
	std::string id;
	bool deleted;
};
std::vector<AsideWaiting> asideWaiting(const std::string &after);
// Its holder may have left.
void asideIsDue(const std::string &id);
// It could not be written for another reason: it is tried again after that many seconds.
void asideFailed(const std::string &id, const PgError &error, int seconds);

} // namespace mrsync
