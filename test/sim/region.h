// A region: one PostgreSQL with the real clock, local writers, an extractor, an applier for each peer, and crashes.
#pragma once

#include "sim/applier.h"
#include "sim/context.h"
#include "sim/database.h"
#include "sim/extractor.h"

#include "core/hlc.h"

#include <atomic>
#include <list>
#include <memory>
#include <set>
#include <unordered_set>
#include <vector>

namespace mrsync::sim
{

class Region
{
public:
	Region(Context &context, int index);

	void start();
	void crash();
	bool isUp() const { return up_; }
	int index() const { return index_; }
	const std::string &name() const { return name_; }

	// A local transaction begins, runs its statements and will commit a little later.
	void write();

	// The machine's clock steps to this distance from true time.
	void stepClock(int64_t offset) { offset_ = offset; }

	// ---- for the applier, in the order of I12

	bool isBeyondSkew(Hlc hlc) const;
	void adopt(Hlc hlc);
	bool isLocked(int key) const;
	bool isTaken(int unique) const; // by a writer in progress: given to a row, or taken from one
	bool isOpen(uint64_t transaction) const;
	std::vector<uint64_t> openTransactions() const;
	Database &database() { return database_; }
	bool wasApplied(const Uuid &event) const { return appliedIds_.contains(event); }
	void recordApplied(const Uuid &event);
	void commitApplied();
	Store::Rule rule() const;
	// Rows held aside whose holder has left come in, if nobody is in the way.
	void releaseAside();

	Extractor &extractor() { return extractor_; }
	std::vector<std::unique_ptr<Applier>> &appliers() { return appliers_; }
	const std::vector<Uuid> &applied() const { return applied_; }

private:
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
	ChangeEvent eventOf(const Statement &statement, const Writer &writer, size_t index, uint64_t previous) const;
	void flush();

	struct UuidHash
	{
		size_t operator()(const Uuid &uuid) const;
	};

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
	uint64_t lsn_ = 0x1000;
	uint64_t values_ = 0;

	Extractor extractor_;
	std::vector<std::unique_ptr<Applier>> appliers_;
};

} // namespace mrsync::sim
