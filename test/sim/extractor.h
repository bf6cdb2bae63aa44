// The source side of a region: sends its commits to the topic, and confirms what is acknowledged (the real AckLedger).
#pragma once

#include "sim/context.h"

#include "core/ledger.h"

#include <deque>
#include <memory>

namespace mrsync::sim
{

class Extractor
{
public:
	Extractor(Context &context, int region) : context_(context), region_(region) {}

	// Opens an incarnation, and sends everything after what was durably confirmed.
	void start();

	// Dies. What it had under way is lost from some record on, or lands late.
	void stop();

	void pump(); // sends what there is to send

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

	std::vector<ChangeEvent> cut(const Transaction &tx) const;
	void send(std::string record);
	void land(const std::shared_ptr<Session> &session);
	void acknowledged(const std::shared_ptr<Session> &session);
	void confirm();

	Context &context_;
	int region_;
	std::shared_ptr<Session> session_;
	int64_t incarnation_ = 0;      // durable
	size_t slot_ = 0;              // durable: transactions confirmed
	size_t confirmed_ = 0;         // what will be, when the slot is saved
	size_t next_ = 0;              // the transaction to send next
	std::vector<ChangeEvent> cut_; // that transaction, once it is begun
	size_t sent_ = 0;              // how much of it is sent
};

} // namespace mrsync::sim
