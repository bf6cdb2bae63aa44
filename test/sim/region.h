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

	// The commit timestamps of all that was written so far are gone.
	void forgetVersions();

	// A user writes the row anew, which ends what is unknown about it.
	void writeAnew(int key);

	// The machine's clock steps to this distance from true time.
	void stepClock(int64_t offset) { offset_ = offset; }

	// ---- for the applier, in the order of I12

	bool isBeyondSkew(Hlc hlc) const;
	void adopt(Hlc hlc);
	bool isLocked(int key) const;
	bool isOpen(uint64_t transaction) const;
	std::vector<uint64_t> openTransactions() const;
	Database &database() { return database_; }
	bool wasApplied(const Uuid &event) const { return appliedIds_.contains(event); }
	void recordApplied(const Uuid &event);
	void commitApplied();

	Extractor &extractor() { return extractor_; }
	std::vector<std::unique_ptr<Applier>> &appliers() { return appliers_; }
	const std::vector<Uuid> &applied() const { return applied_; }

private:
	struct Statement
	{
		Operation op;
		int key;
		std::optional<std::string> before;
		std::optional<std::string> after;
	};
	struct OpenTransaction
	{
		uint64_t id;
		std::vector<Statement> statements;
		std::set<int> keys; // row locks
		bool locksTable = false;
		CausalPast past;
		Stamp stamp;
	};
	// What the statements so far make of the rows, as the transaction itself sees them.
	using Rows = std::map<int, std::string>;

	int64_t physical() const;
	void ensureCeiling(Hlc hlc);
	void renewCeiling();
	void runStatement(OpenTransaction &tx, Rows &rows);
	bool lock(OpenTransaction &tx, int key) const;
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
