// The source side of a region: sends its commits to the topic, and confirms what is acknowledged (the real AckLedger).
#pragma once

#include "sim/context.h"
#include "sim/wal.h"

#include "core/ledger.h"

#include <deque>
#include <memory>

namespace mrsync::sim
{

// Where the sending stands; durable.
struct Slot
{
	int64_t incarnation = 0;
	size_t confirmed = 0; // records of the WAL
	size_t begin = 0;     // of the first that it can send
	uint64_t hole = 0;    // what was committed up to this sequence and before that record is not sent; 0: nothing
};

class Extractor
{
public:
	Extractor(Context &context, int region, const Wal &wal) : context_(context), region_(region), wal_(wal) {}

	// Opens an incarnation, and sends everything after what was durably confirmed.
	void start();

	// In two steps: a record alone that says that the incarnation has begun, so that nothing older which lands behind it
	// counts; and the rest.
	void fence();
	void goOn();

	// Another slot, from now on: what is not confirmed is not sent. While it does not run.
	void makeSlotAnew(uint64_t hole);
	const Slot &slot() const { return slot_; }
	// What dead producers have under way never lands.
	void forgetDead();
	void restore(const Slot &slot) { slot_ = slot; }
	// What the next promise speaks of: sequences above are still to be sent.
	uint64_t newest() const;

	// Dies. What it had under way is lost from some record on, or lands late.
	void stop();

	void pump(); // sends what there is to send

	int64_t incarnation() const { return slot_.incarnation; }
	bool isRunning() const { return session_ != nullptr; }
	bool isDrained() const;

private:
	// A producer's connection to the cluster; outlives the producer while its records are under way.
	struct Session
	{
		int64_t incarnation;
		std::deque<std::string> underWay;
		int64_t lastLanding = 0;
		bool dead = false;
		int64_t heldUntil = 0; // of a dead one: its batch is stuck somewhere
		AckLedger ledger;
	};

	std::vector<ChangeEvent> cut(const WalRecord &record) const;
	void open();
	void send(std::string record);
	void land(const std::shared_ptr<Session> &session);
	void acknowledged(const std::shared_ptr<Session> &session);
	void confirm();

	Context &context_;
	int region_;
	std::shared_ptr<Session> session_;
	std::vector<std::weak_ptr<Session>> dead_;
	const Wal &wal_;
	Slot slot_;
	size_t confirmed_ = 0;         // what will be, when the slot is saved
	bool isFenced_ = false;        // sends nothing else yet
	size_t next_ = 0;              // the record to send next
	std::vector<ChangeEvent> cut_; // that record, once it is begun
	size_t sent_ = 0;              // how much of it is sent
};

} // namespace mrsync::sim
