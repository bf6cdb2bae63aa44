// A table as the applier writes it: its columns, its key, the saved plans, and the hold on one row.
//
// Rows are found and held by an index scan that waits for writers in progress (I12), and written through SPI as the
// table's owner in a security-restricted context (I9).
#pragma once

#include "pg/key.h"
#include "pg/rowversion.h"
#include "pg/server.h"

#include "core/event.h"

#include <memory>
#include <unordered_map>

extern "C"
{
#include "executor/spi.h"
#include "executor/tuptable.h"
}

namespace mrsync
{

struct TargetColumn
{
	std::string name;
	AttrNumber attnum;
	Oid type;
	int32 typmod;
	Oid inputParameter;
	FmgrInfo input;
	FmgrInfo output;
	bool isGenerated;
	bool isAlways;	 // GENERATED ALWAYS AS IDENTITY: SQL refuses to update it to a value
	bool isKey;
	bool isFixedKey; // in the key, and of a type whose equal values have equal texts: an UPDATE need not write it
};

// A row held FOR NO KEY UPDATE by this transaction.
struct HeldRow
{
	bool found;
	ItemPointerData tid;
	TransactionId xmin;
};

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

	~Target();
	Target() = default;
	Target(const Target &) = delete;
	Target &operator=(const Target &) = delete;

	// Every call below is made inside a transaction with SPI connected.

	// The partition that a key belongs to. Throws PgError when there is none.
	Oid partitionFor(const Image &pk);

	// Finds and holds the row with this key, waiting for transactions in progress that touch it.
	HeldRow hold(const Image &pk);
	// Of the row held last, and of the key given to hold().
	RowVersion version(RegionShared *region, const HeldRow &held);
	// Of the row held last: its image as events show it.
	Image heldImage();
	// Of the key given to hold() last.
	uint64_t heldKeyHash();
	bool heldKeyEquals(const std::string &pkText);
	// What all regions call that key, whose text is pkText here: equal keys may have different texts (1.0 and 1.00).
	std::string heldKeyName(const std::string &pkText);

	// False: the key is there by now, nothing was written.
	bool insert(const Image &row);
	void update(const HeldRow &held, const Image &row);
	void remove(const HeldRow &held);
	// Takes back a row of this transaction without any trigger noticing.
	void takeBack(const HeldRow &held);
	// Deletes the rows whose version is below.
	void removeOlder(Hlc hlc, const std::string &region);
	// Waits until the transactions that have written the table so far, and only those, have ended.
	void waitForWriters();

private:
	friend class TargetCache;
	void describe(Relation relation);
	void locked();
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
	// plans for images with exactly these columns
	std::vector<std::string> planColumns_;
	std::vector<const TargetColumn *> insertColumns_; // per image column; null: generated, not written
	SPIPlanPtr insertPlan_ = nullptr;
	SPIPlanPtr updatePlan_ = nullptr;
	SPIPlanPtr removePlan_ = nullptr;
	SPIPlanPtr removeOlderPlan_ = nullptr;
};

class TargetCache
{
public:
	TargetCache();
	// By the name that events carry. Throws PgError: no such table here, or not added here.
	Target &byName(const std::string &name);
	Target &byOid(Oid relation);
	// Between transactions: drops what has become invalid.
	void sweep();
	// After the rollback of a subtransaction.
	void locksGone();

private:
	std::unordered_map<std::string, Oid> names_;
	std::unordered_map<Oid, std::unique_ptr<Target>> targets_;
};

} // namespace mrsync
