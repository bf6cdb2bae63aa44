// One incoming link: reads the source's topic from the durable position, lets whole transactions through (the real
// SequenceChain and TransactionGate), and applies each as one local transaction by the real resolver's word. At a gap it
// applies nothing but what is sent again, until a mark mends the gap (the real GapWatch).
//
// Of the region's own topic: a region that was set back takes back what it lacks, up to the first record of the incarnation
// it has opened since. Nobody can mend a gap there; what stands behind it counts.
#pragma once

#include "sim/apply.h"
#include "sim/context.h"
#include "sim/database.h"

#include "core/gap.h"
#include "core/ledger.h"
#include "core/watermark.h"

#include <memory>
#include <string>
#include <vector>

namespace mrsync::sim
{

class Region;

class Applier
{
public:
	Applier(Context &context, Region &region, int source);

	int source() const { return source_; }
	size_t offset() const { return offset_; } // of the next record

	// Reads from the durable position again: a start, or a link that was created anew.
	void start();

	void pause(int64_t duration);

	// Since its start it has once stood at the topic's end, or at a gap.
	bool hasCaughtUp() const { return caughtUp_; }
	// It lacks something that can only come by a resend.
	bool isDegraded() const;
	bool isDrained() const;
	std::string state() const; // for messages

private:
	enum class Step
	{
		Applied,
		Waits,
	};
	struct Gap
	{
		size_t offset; // of the record behind it
		int64_t incarnation;
		GapWatch watch;
	};

	void poll(uint64_t life);
	void schedule(int64_t delay);
	void requireTopic();
	void read(const std::string &record);
	bool isNext(const ChangeEvent &event);
	bool isBehindGap(const ChangeEvent &event);
	Step tryApply();
	Step tryResent();
	bool mayNotApply(Hlc newest);
	void apply();
	bool mends(const ChangeEvent &mark) const;
	void goOnBehindGap();
	void retryParked();
	void advanceWatermark();
	bool mayPark() const;
	void progressed(const Transaction *real);
	void takenBack();

	Context &context_;
	Region &region_;
	int source_;
	bool isOwn_;
	Apply apply_;
	uint64_t life_ = 0; // counts starts
	int64_t pausedUntil_ = 0;

	size_t offset_ = 0;
	uint64_t made_ = 0;
	SequenceChain chain_{0, 0};
	TransactionGate gate_;
	std::optional<Gap> gap_;
	bool caughtUp_ = false;
	std::vector<ChangeEvent> gathered_;
	bool complete_ = false; // gathered_ is a whole transaction
	bool adopted_ = false;  // its stamp is in the clock
	Promises promises_;
	Hlc offered_;                   // the last promise taken
	std::vector<uint64_t> writers_; // a truncation: those who may not have seen its stamp
};

} // namespace mrsync::sim
