// One incoming link: reads the source's topic from the durable position, lets whole transactions through (the real
// SequenceChain and TransactionGate), and applies each as one local transaction by the real resolver's word.
#pragma once

#include "sim/context.h"
#include "sim/database.h"

#include "core/ledger.h"

#include <memory>
#include <set>
#include <string>
#include <vector>

namespace mrsync::sim
{

class Region;

class Applier
{
public:
	Applier(Context &context, Region &region, int source) : context_(context), region_(region), source_(source) {}

	int source() const { return source_; }

	// Reads from the durable position again: a start, or a link that was created anew.
	void start();

	void pause(int64_t duration);

	bool isDrained() const;
	std::string state() const; // for messages

private:
	enum class Step
	{
		Applied,
		Waits,
	};

	void poll(uint64_t life);
	void schedule(int64_t delay);
	void read(const std::string &record);
	Step tryApply();
	bool mustWait();
	void applyRow(const ChangeEvent &event, const WriterPtr &writer);
	void applyTruncation(const WriterPtr &writer);
	Decision decide(int key, const std::optional<Row> &row, Operation op, const Writer &incoming) const;
	void remove(int key, const WriterPtr &writer);

	Context &context_;
	Region &region_;
	int source_;
	uint64_t life_ = 0; // counts starts
	int64_t pausedUntil_ = 0;

	size_t offset_ = 0;
	SequenceChain chain_{0, 0};
	TransactionGate gate_;
	std::vector<ChangeEvent> gathered_;
	bool complete_ = false;         // gathered_ is a whole transaction
	bool adopted_ = false;          // its stamp is in the clock
	std::vector<uint64_t> writers_; // a truncation: those who may not have seen its stamp
};

} // namespace mrsync::sim
