// A region: one PostgreSQL with the real clock, local writers, an extractor, an applier for each peer, and crashes.
#pragma once

#include "sim/applier.h"
#include "sim/context.h"
#include "sim/database.h"
#include "sim/extractor.h"
#include "sim/recovery.h"
#include "sim/wal.h"
#include "sim/watermarks.h"

#include "core/hlc.h"

#include <atomic>
#include <list>
#include <memory>
#include <set>
#include <unordered_set>
#include <vector>

namespace mrsync::sim
{

// Everything of a region that is on its disk.
struct Disk
{
	Database database;
	Wal wal;
	Slot slot;
	uint64_t lsn;
	Hlc ceiling;
	std::vector<Uuid> applied;
	size_t losses; // of its topic, by then
};

class Region
{
public:
	Region(Context &context, int index);

	void start();
	void crash();
	bool isUp() const { return up_; }
	uint64_t life() const { return life_; }
	uint64_t restored() const { return restored_; } // how often
	int index() const { return index_; }
	const std::string &name() const { return name_; }

	// Nobody writes before the region has looked, unless its clock is ahead of whatever it had said before.
	bool mayWrite() const { return up_ && (recovery_.hasLooked() || physical() > said_.value || context_.breaks(Break::WriteEarly)); }
	// A local transaction begins, runs its statements and will commit a little later.
	void write();
	// A user writes the row anew, which ends what is unknown about it.
	void writeAnew(int key);
	// The commit timestamps of all that was written so far are gone, from the disk, too.
	void forgetVersions();

	Disk copy() const { return {flushed_, wal_, extractor_.slot(), lsn_, ceiling_, flushedApplied(), losses_}; }
	// The disk is an older copy from now on. While it is down.
	void restore(const Disk &disk);

	// Everything that this region has is sent again. done: when it is.
	void resend(Hlc from, std::function<void()> done);

	// What a topic or a slot can lose. False: nobody could give it back.
	bool loseTopic(const std::function<void()> &lose);
	void loseSlot();
	size_t losses() const { return losses_; }

	// The machine's clock steps to this distance from true time.
	void stepClock(int64_t offset) { offset_ = offset; }

	// ---- for the applier, in the order of I12

	bool isBeyondSkew(Hlc hlc) const;
	void adopt(Hlc hlc);
	bool isLocked(int key) const;
	bool isTaken(int unique) const; // by a writer in progress: given to a row, or taken from one
	bool isInTheWay(int key, const Content &content) const;
	bool isOpen(uint64_t transaction) const;
	std::vector<uint64_t> openTransactions() const;
	Database &database() { return database_; }
	bool wasApplied(const Uuid &event) const { return appliedIds_.contains(event); }
	void recordApplied(const Uuid &event);
	void commitApplied();
	Store::Rule rule() const;
	// Rows held aside whose holder has left come in, if nobody is in the way.
	void releaseAside();

	// ---- for what is sent

	uint64_t position() const { return sequenceAt(database_.history, lsn_); }
	// A record of the WAL.
	void log(std::vector<ChangeEvent> events, test::Random &random);
	bool wrote(const Uuid &first) const { return written_.contains(first); }
	bool wrote(const Transaction &transaction) const { return wrote(transaction.events.front().id); }
	bool has(const Transaction &transaction) const;

	// ---- for the watermarks

	Hlc tick(); // a new stamp
	std::optional<Hlc> lowestBound() const;
	void flush();

	Extractor &extractor() { return extractor_; }
	std::vector<std::unique_ptr<Applier>> &appliers() { return appliers_; }
	Applier &own() { return own_; }
	Recovery &recovery() { return recovery_; }
	Watermarks &watermarks() { return watermarks_; }
	bool hasCaughtUp() const; // with what its links can read
	const std::vector<Uuid> &applied() const { return applied_; }

private:
	struct UuidHash
	{
		size_t operator()(const Uuid &uuid) const;
	};

	struct Statement
	{
		Operation op;
		int key;
		std::optional<Content> before;
		std::optional<Content> after;
	};
	struct OpenTransaction
	{
		uint64_t id;
		std::vector<Statement> statements;
		std::set<int> keys; // row locks
		std::set<int> uniques;
		bool locksTable = false;
		CausalPast past;
		std::optional<Hlc> bound; // from shortly before the stamp until the commit
		Stamp stamp;
	};
	// What the statements so far make of the rows, as the transaction itself sees them.
	using Rows = std::map<int, Content>;

	int64_t physical() const;
	void ensureCeiling(Hlc hlc);
	void renewCeiling();
	void runStatement(OpenTransaction &tx, Rows &rows);
	bool lock(OpenTransaction &tx, int key) const;
	bool take(OpenTransaction &tx, const Rows &rows, int unique, int forKey) const;
	void lookAside();
	void commit(std::list<OpenTransaction>::iterator open);
	void writeLocally(const Statement &statement, const WriterPtr &writer);
	void checkDominance(int key, const WriterPtr &writer) const;
	ChangeEvent eventOf(const Statement &statement, Hlc hlc) const;
	const WalRecord &append(std::vector<ChangeEvent> events, test::Random &random);
	void sendAppended();
	std::vector<Uuid> flushedApplied() const;

	Context &context_;
	int index_;
	std::string name_;
	bool up_ = false;
	uint64_t life_ = 0; // counts starts: what a former life had planned does not happen

	int64_t offset_ = 0;
	std::atomic<int64_t> word_{0};
	Clock clock_{word_};
	Hlc ceiling_; // durable

	Database database_;
	Database flushed_;          // what a crash leaves
	std::vector<Uuid> applied_; // every event that took effect here, in order
	std::unordered_set<Uuid, UuidHash> appliedIds_;

	std::list<OpenTransaction> open_;
	uint64_t opened_ = 0;
	uint64_t values_ = 0;

	uint64_t lsn_ = 0x1000;
	Wal wal_;                                    // every record is on the disk at once
	std::unordered_set<Uuid, UuidHash> written_; // the first events of its records
	bool relapsed_ = false;                      // has not seen again what it had acknowledged before it was set back
	Hlc said_;                                   // at least all its stamps, in all its lives
	size_t losses_ = 0;
	uint64_t restored_ = 0;

	Extractor extractor_;
	Watermarks watermarks_;
	Recovery recovery_;
	Applier own_;
	std::vector<std::unique_ptr<Applier>> appliers_;
};

} // namespace mrsync::sim
