// What a region that was set back has to do (worker/set_back.h), written down in mrsync.recovery: an applier of its own topic
// takes back the transactions that its database lacks; when that has come to the topic's end and the new slot is there, what the
// region has is sent again, for what it committed before that slot began is in no topic. The topic's end is the fence that was
// sent before it was looked at.
//
// Until then the region promises no watermark: those transactions have lower stamps than what it commits now.
// Relied on by: I1, I2.
#pragma once

#include "core/event.h"
#include "worker/worker.h"

#include <string>

namespace mrsync
{

class TakeBack
{
public:
	explicit TakeBack(Worker &worker) : worker_(worker) {}

	// Is there anything to do? Inside a transaction.
	static bool isDue();

	// Where it stands. Inside a transaction. False: it is done.
	bool load();
	// Of the record at hand: nothing from it on is to be taken back.
	bool isBehind(const Envelope &tx);
	bool hasMet() const { return hasMet_; }
	// Of a transaction: this database has it.
	bool isHere(const ChangeEvent &event) const;
	void applied() { ++applied_; }
	// What stood between is not in the topic any more.
	void missing(const std::string &what);
	// It was sent again.
	void notMissing(const std::string &what);
	// Once it has met the fence, between transactions; the topic was read up to this sequence. True: nothing is left to do.
	bool step(uint64_t sequence);

private:
	bool hasSlot();
	void resend(uint64_t sequence);
	void note(const char *column);

	Worker &worker_;
	int64_t incarnation_ = 0;
	uint64_t applied_ = 0; // not written down yet
	bool isTaken_ = false;
	bool isResent_ = false;
	bool hasMet_ = false; // the fence
	int64_t lookedAt_ = 0; // steadyNow()
};

} // namespace mrsync
