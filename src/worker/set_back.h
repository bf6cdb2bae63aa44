// Finds out whether this region's database was set back: its topics hold transactions of the region that it does not have.
// So after a restore from a backup, and after the promotion of a standby which had not received everything.
//
// Once after each start of the server, before anything is sent: a fence is put into both topics, behind which nothing of the time
// before counts for anybody, also what a dead extractor still has under way; then what stands there is looked at. What is to be done is written into mrsync.recovery:
// sequences go on under a new number of the history, from a new slot on; and the region takes back what it lacks
// (worker/take_back.h). The slot's absence after a change of timeline is enough, too: promoted servers have none.
// Relied on by: I2, I8.
#pragma once

#include "core/event.h"
#include "pg/history.h"
#include "worker/worker.h"

#include <optional>
#include <string>

namespace mrsync
{

class SetBack
{
public:
	SetBack(Worker &worker, const std::string &slot) : worker_(worker), region_(worker.region), slot_(slot) {}

	// Waits for the broker. Throws PgError.
	void find();
	// Makes the new slot where one is due.
	void renewSlot();

private:
	struct Tail // of one topic, as far as it was read
	{
		std::optional<std::string> lacks; // what of it this database does not have, for a person
		uint64_t sequence = 0; // the highest
		int64_t incarnation = 0; // the newest but for that of our fence
		bool isFenced = false;	 // the fence has been met
		Hlc hlc; // the highest of the region's own
	};
	void sendFence(int64_t incarnation);
	Tail tailOf(const std::string &topic);
	bool readTail(const std::string &topic, int64_t from, Tail &tail);
	void judge(const ChangeEvent &event, Tail &tail, bool &isKnown);
	void begin(const std::string &why, const Tail &data, const Tail &control, int64_t incarnation);
	void waitForBroker(const std::string &trouble);

	Worker &worker_;
	RegionShared *region_;
	std::string slot_;
	std::string brokers_;
	History history_;
	std::string topic_;
	Uuid fence_{}; // the event's id
	int64_t first_ = 0; // incarnations below have been dealt with
	bool isFollowed_ = false; // peers followed another server meanwhile, while this one went on: its own records tell nothing
};

} // namespace mrsync
