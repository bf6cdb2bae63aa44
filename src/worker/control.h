// The control plane as far as it travels: reads the peers' control topics, and gives this region's own signs of life.
//
// Heartbeats and acknowledgements are rows: each region writes its own, they travel as ChangeEvents, and here they are
// stored as rows of the other regions. The newest wins; losing one is harmless, the next says the same and more. So a
// record that makes no sense is skipped, and the log says which; on the data topic it would stop the link.
// Relied on by: wait_for_peers, replication_link.
#pragma once

#include "core/event.h"
#include "kafka/consumer.h"
#include "worker/worker.h"

#include <map>
#include <memory>

namespace mrsync
{

class ControlPlane
{
public:
	explicit ControlPlane(Worker &worker) : worker_(worker) {}

	// Loads what is known into shared memory. Inside a transaction.
	void load();
	// The peers whose topics are read: region -> brokers.
	void peers(const std::map<std::string, std::string> &brokers);
	// Takes in what has come. True when there may be more at once.
	bool receive();
	// The heartbeat, when it is due. Returns in how many milliseconds the next one is.
	long beat();

private:
	struct Peer
	{
		std::string brokers;
		std::string options;
		std::unique_ptr<kafka::Consumer> consumer; // null: could not be had; again at retryAt
		int64_t retryAt = 0; // steadyNow(), as are the two below
		bool fromBeginning = false;	  // where the next consumer starts
		std::string trouble;		  // said last
		int64_t skippedSince = 0; // skipped records are counted from here
		int skipped = 0;
	};
	struct Statement // one row of a peer's, and where it was read
	{
		ChangeEvent event;
		int64_t offset;
		uint64_t sequence;
	};
	void connect(const std::string &name, Peer &peer);
	// The consumer is of no use: a new one, after a while when that has happened before.
	void failed(const std::string &name, Peer &peer, const std::string &why);
	void store(const std::string &name, Peer &peer, const std::vector<kafka::Record> &records);
	void write(const std::string &name, const std::vector<const Statement *> &statements, int64_t nextOffset);
	void writeRow(const std::string &name, const Statement &statement);
	void skip(const std::string &name, Peer &peer, int64_t offset, const std::string &why);
	void acknowledged(const std::string &peer, uint64_t sequence);

	Worker &worker_;
	std::map<std::string, Peer> peers_;
	int64_t beatAt_ = 0;
};

} // namespace mrsync
