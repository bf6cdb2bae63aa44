// The control plane as far as it travels: reads the peers' control topics, and gives this region's own signs of life.
//
// Heartbeats and acknowledgements are rows: each region writes its own, they travel as ChangeEvents, and here they are
// stored as rows of the other regions. The newest wins; losing one is harmless, the next says the same and more. So a
// record that makes no sense is skipped, and the log says which; on the data topic it would stop the link.
// Rules for conflicts, and what the regions say of them (worker/rollout.h), travel in the same way; they are sent again now and
// then. A region reads its own topic, too, before it activates any: a rule that it registered may be in force everywhere, while
// its database was set back to before, or is another one than then.
// What the regions say of conflicts (worker/conflict_reports.h) is only put down here.
// Relied on by: wait_for_peers, wait_for, the stable point, replication_link, merge_definition.
#pragma once

#include "core/event.h"
#include "kafka/consumer.h"
#include "worker/watermark.h"
#include "worker/worker.h"

#include <map>
#include <memory>
#include <utility>

namespace mrsync
{

class ControlPlane
{
public:
	explicit ControlPlane(Worker &worker) : worker_(worker), watermark_(worker.region) {}

	// Loads what is known into shared memory. Inside a transaction.
	void load();
	// The regions whose topics are read, this one among them: region -> brokers.
	void peers(const std::map<std::string, std::string> &brokers);
	// Takes in what has come. True when there may be more at once.
	bool receive();
	// The heartbeat, when it is due: each mrsync.heartbeat_interval, and soon after something was committed. Returns in how many
	// milliseconds to ask again.
	long beat();
	// Whether what the own topic says is in the tables.
	bool ownTopicRead() const { return ownReadAt_ != 0; }
	// Whether something of rules has come since it was asked last.
	bool takeRuleNews() { return std::exchange(ruleNews_, false); }

private:
	struct Peer
	{
		std::string brokers;
		std::string options;
		std::unique_ptr<kafka::Consumer> consumer; // null: could not be had; again at retryAt
		int64_t retryAt = 0; // steadyNow(), as are the two below
		bool fromBeginning = false;	  // where the next consumer starts
		int64_t incarnation = 0;	  // the newest that is known: older ones do not speak of the present
		int64_t topicIncarnation = 0; // the newest read in this topic: what older ones land behind it, late, is void
		std::string trouble;		  // said last
		int64_t skippedSince = 0; // skipped records are counted from here
		int skipped = 0;
	};
	struct Statement;
	struct Kind // a table of ours whose rows travel
	{
		const char *table;
		const char *columns[22];	// those stored, in the order of the parameters; "region_id" first
		const char *store;			// the newest wins
		bool isCounted;				// has a sequence, and perhaps a watermark
		bool comesBack;				// of this region's own rows, too, what the topic has is stored
		bool changesRules;			// of merges
		void (ControlPlane::*told)(const std::string &name, const Statement &statement); // once it is committed; null: nothing
	};
	static const Kind kKinds[];
	struct Statement // one row of a peer's, and where it was read
	{
		const Kind *kind;
		ChangeEvent event;
		int64_t offset;
		uint64_t sequence;
		Hlc watermark; // a heartbeat's; zero: none
	};
	static const Kind *kindOf(const ChangeEvent &event);
	void connect(const std::string &name, Peer &peer);
	// The consumer is of no use: a new one, after a while when that has happened before.
	void failed(const std::string &name, Peer &peer, const std::string &why);
	void store(const std::string &name, Peer &peer, const std::vector<kafka::Record> &records);
	void write(const std::string &name, const std::vector<const Statement *> &statements, int64_t nextOffset);
	void writeRow(const std::string &name, const Statement &statement);
	void skip(const std::string &name, Peer &peer, int64_t offset, const std::string &why);
	void heartbeatTold(const std::string &name, const Statement &statement);
	void acknowledgementTold(const std::string &name, const Statement &statement);
	void ruleTold(const std::string &name, const Statement &statement);
	void acknowledged(const std::string &peer, uint64_t sequence);
	void promised(const std::string &peer, uint64_t sequence, Hlc watermark);

	Worker &worker_;
	OwnWatermark watermark_;
	std::map<std::string, Peer> peers_;
	int64_t ownReadAt_ = 0; // steadyNow(): when its end was reached; 0: not yet
	bool ruleNews_ = false;
	int64_t beatAt_ = 0;
};

} // namespace mrsync
