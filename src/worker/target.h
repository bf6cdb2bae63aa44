// A table as the applier writes it: its columns, its key, the saved plans, and the hold on one row.
//
// Rows are found and held by an index scan that waits for writers in progress (I12), and written through SPI as the
// table's owner in a security-restricted context (I9).
#pragma once

#include "pg/key.h"
#include "pg/rowversion.h"
#include "pg/server.h"

#include "core/resolver.h"
#include "worker/loser.h"
#include "worker/merger.h"

#include <memory>
#include <set>
#include <unordered_map>

extern "C"
{
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "storage/lock.h"
}

namespace mrsync
{

// A unique index or the index of an exclusion constraint.
struct RivalIndex
{
	Oid index;
	std::string name;
	bool isPrimary;
	IndexInfo *info;
	std::string nullable; // the last of its columns that may be NULL; "": none
};

// A row in the table that excludes another one.
struct Rival
{
	ItemPointerData tid;
	TransactionId xmin;
	RowVersion version;
	std::string pk;
	uint64_t keyHash;
	std::string keyName;	// as heldKeyName
	std::vector<size_t> by; // which of the target's rival indexes
	std::string constraint; // their names; several: separated by commas, in alphabetical order
	bool sameKey;			// it has the same primary key
	Image image;
};

// A row held FOR NO KEY UPDATE by this transaction.
struct HeldRow
{
	bool found;
	ItemPointerData tid;
	TransactionId xmin;
};

// Who is writing a table, or its partitions, besides this process.
struct TableWriter
{
	int pid;
	VirtualTransactionId transaction;
};
std::vector<TableWriter> writersOf(Oid relation); // throws PgError

class Target
{
public:
	Oid relation;
	Oid root; // the table that was added; the relation itself, or an ancestor
	std::string name;
	bool isPartitioned = false;
	bool hasInsertTriggers = false; // that fire for what is replicated, too
	bool isAdded = false;
	Hlc base; // of table_add: this region's rows from before were there in all regions
	std::unique_ptr<Merger> merger; // where histories are kept; null: elsewhere, the last writer's image is the row
	std::unique_ptr<Loser> loser;	// where rows may exclude others, and are not merged

	~Target();
	Target() = default;
	Target(const Target &) = delete;
	Target &operator=(const Target &) = delete;

	// Every call below is made inside a transaction with SPI connected.

	// The partition that a key belongs to. Throws PgError when there is none.
	Oid partitionFor(const Image &pk);

	// Finds and holds the row with this key, waiting for transactions in progress that touch it.
	HeldRow hold(const Image &pk);
	// Whether equal keys have equal texts.
	bool keyIsText() const;
	// What all regions call a key.
	std::string keyName(const Image &pk);

	// Of the row held last, and of the key given to hold().
	RowVersion version(RegionShared *region, const HeldRow &held);
	// Of the row held last: its image as events show it.
	Image heldImage();
	// Of the key given to hold() last.
	uint64_t heldKeyHash();
	bool heldKeyEquals(const std::string &pkText);
	bool keysEqual(const std::string &pkText, const std::string &other);
	// Its keyName; pkText: its text here.
	std::string heldKeyName(const std::string &pkText);

	// Throws PgError: this table has not got all columns of an image.
	void requireColumns(const Image &row) const;

	// ---- writing (writes.cpp)

	// False: the key is there by now, nothing was written.
	bool insert(const Image &row);
	void update(const HeldRow &held, const Image &row);
	void remove(const HeldRow &held);
	// Takes a row out of the table without any trigger noticing, or anything being remembered of it.
	void takeOut(const ItemPointerData &tid);
	// Deletes the rows whose version is below; or equal, if that is said.
	void removeOlder(const Version &version, bool orEqual);

	// Waits until the transactions that are writing the table now, and only those, have ended.
	void waitForWriters();

	// ---- histories, of the key given to hold() last (row_history.cpp); where there is a merger

	int historyCount(); // up to two; those that are being deleted do not count
	// mine: the version that entries of this transaction will have. Until the next call.
	History &history(const std::string &pkText, const Version &mine);
	// Those of this version that other local transactions have written down; where the base is not below it, none are known.
	std::vector<HistoryEvent> othersEvents(const std::string &pkText, const Version &version);
	// What an event did.
	void addHistory(const std::string &pkText, const RowState &before, const RowState &after);
	// atMost: the version is not known, but its stamp is not above this.
	void addHistoryBase(const std::string &pkText, const Version &version, const std::optional<Hlc> &atMost, const RowState &state);
	// Of the row with this key, which is not held: entries up to this stamp become a base, or nothing where no others are left. False:
	// somebody else is at it, or is adding one to a history of which nothing would be left; the transaction is to be aborted.
	bool forgetHistory(const Image &pk, Hlc upTo);
	// The row held last was written again by this transaction, and keeps the version that it had.
	void keepVersion(const Version &version, const std::string &pkText);

	// ---- rows that exclude each other (rivals.cpp)

	// Is there anything besides the primary key that excludes rows?
	bool excludes() const { return !rivalIndexes_.empty(); }
	// Would writing this over the row held last change what that row excludes?
	bool changesExclusion(const Image &row);
	// The rows that exclude this one, but for the one held. Waits for writers in progress.
	std::vector<Rival> rivals(const Image &row, const HeldRow &held);
	// The same without waiting for anybody or locking anything, for a look; also the row with the same primary key.
	std::vector<Rival> rivalsNow(const Image &row);
	// False: it is not there any more, or is another one by now.
	bool lock(const Rival &rival);
	const RivalIndex &rivalIndex(size_t position) const { return rivalIndexes_[position]; }
	std::string namesOf(const std::set<size_t> &positions) const; // as Rival::constraint

private:
	friend class TargetCache;
	void describe(Relation relation);
	void describeRivals(Relation relation);
	std::vector<Rival> findRivals(const Image &row, const HeldRow *held, bool waits);
	Image imageOf(TupleTableSlot *slot);
	struct HistoryRow // of mrsync.row_history
	{
		int64_t id;
		bool isBase;
		std::optional<Version> version; // none: this transaction's
		bool isExact;					// else the version is not known, but not above its stamp
		RowState before;
		RowState after;
	};
	// What is known of a history, which grows at its end alone, but for what is forgotten.
	struct KnownHistory
	{
		History history;
		std::optional<Hlc> baseAtMost;		// the base's version is not known, but its stamp is not above this
		Version ended;						// of the newest deletion: what was before it need not be known
		size_t count = 0;					// entries in it
		size_t size = 0;					// of their images, in bytes
		int64_t last = 0;					// the newest of them
		std::set<int64_t> pending;			// and those of a transaction that had not ended
		std::optional<Version> pendingVersion;
	};
	std::vector<HistoryRow> historyRows(const std::string &pkText, int64_t behind, size_t &count);
	PgError historyForgotten(const char *what) const;
	bool readFurther(KnownHistory &known, std::vector<HistoryRow> rows, size_t count, const Version &mine) const;
	template <typename F> auto withHistoryKey(const std::string &pkText, F &&f);
	void locked();
	Relation openFor(const Image &pk);
	void plansFor(const Image &row);
	bool differsFromHeld(const TargetColumn &column, const std::optional<std::string> &text);
	void updateAnyColumn(const Image &row);
	void execute(SPIPlanPtr plan, Datum *values, char *nulls, int expected, uint64_t &processed);
	const TargetColumn *column(const std::string &name) const;

	bool valid_ = false;
	uint64_t lockedIn_ = 0;
	Oid owner_ = InvalidOid;
	MemoryContext context_ = nullptr;
	std::vector<TargetColumn> columns_;
	TupleTableSlot *searchSlot_ = nullptr;
	TupleTableSlot *foundSlot_ = nullptr; // of the row held last; no longer than its event
	const TupleTableSlotOps *foundSlotKind_ = nullptr;
	Datum *keyValues_ = nullptr;
	std::unordered_map<std::string, KnownHistory> histories_; // by the row's keyName
	size_t historySize_ = 0;								  // of their images, in bytes
	std::vector<RivalIndex> rivalIndexes_; // empty, or all of them and the primary key's
	// plans for images with exactly these columns
	std::vector<std::string> planColumns_;
	std::vector<const TargetColumn *> insertColumns_; // per image column; null: generated, not written
	SPIPlanPtr insertPlan_ = nullptr;
	SPIPlanPtr updatePlan_ = nullptr;
	SPIPlanPtr removePlan_ = nullptr;
	SPIPlanPtr removeOlderPlan_ = nullptr;
};

// The keys of all rows of a table that have a history.
std::vector<Image> historiesOf(Oid root);

class TargetCache
{
public:
	explicit TargetCache(RegionShared *region);
	// By the name that events carry. Throws PgError: no such table here, or not added here.
	Target &byName(const std::string &name);
	Target &byOid(Oid relation);
	// Of merges, to be shared.
	std::vector<MergeFailure> takeFailures();
	// Between transactions: drops what has become invalid.
	void sweep();
	// After the rollback of a subtransaction.
	void locksGone();

private:
	RegionShared *region_;
	std::unordered_map<std::string, Oid> names_;
	std::unordered_map<Oid, std::unique_ptr<Target>> targets_;
};

} // namespace mrsync
