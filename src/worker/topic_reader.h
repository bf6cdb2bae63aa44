// Reads a source's data topic from where its link had come to, and notices when the topic is not the one that was read up
// to there.
//
// At first it makes sure that the record applied last still stands where it stood: the end of a topic alone does not
// tell, since a new topic may have grown longer. If it does not, the topic was made anew, or has lost its tail, or its
// head up to there; then the topic is read from its beginning, and whoever judges the records (SequenceChain) finds out
// whether anything is missing. Where nothing more can be read, the source's heartbeats say how far it should reach.
// Relied on by: I8.
#pragma once

#include "core/ids.h"
#include "kafka/consumer.h"
#include "worker/worker.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace mrsync
{

class TopicReader
{
public:
	struct Applied // the record that was applied last
	{
		int64_t offset;
		Uuid event;
	};

	TopicReader(Worker &worker, const kafka::ConsumerConfig &config) : worker_(worker), config_(config) {}

	// From here on; anew: as at the start. last: to be met again first. orBeginning: where the topic does not have that offset
	// any more, it is read from its beginning, too.
	void readFrom(int64_t offset, const std::optional<Applied> &last = std::nullopt, bool orBeginning = false);

	struct Read
	{
		size_t records = 0;
		bool end = false;	   // the topic's end was reached at some moment of this call
		bool restarts = false; // it is read from its beginning from now on: what has been gathered is void
	};
	// Hands out what is there, at most so many. The sink may throw.
	Read read(size_t most, const std::function<void(kafka::Record &&)> &sink);

	// What keeps it from reading, for a person; "": nothing.
	const std::string &trouble() const { return trouble_; }
	bool isMissing() const { return missing_; }
	// The sequence that the topic should reach by its source's word, when it ends before; else 0.
	uint64_t missingTail(uint64_t read);
	// Why it was read from its beginning, to be added to a message; "" when it was not.
	const std::string &history() const { return history_; }

private:
	void checkLast(const kafka::Record &record);

	Worker &worker_;
	kafka::ConsumerConfig config_;
	std::unique_ptr<kafka::Consumer> consumer_;
	int64_t from_ = 0; // records before are known
	int64_t next_ = 0;
	std::optional<Applied> last_;
	bool orBeginning_ = false;
	std::optional<std::string> lost_; // why last_ was not met
	std::string history_;
	std::string trouble_;
	bool missing_ = false;
	bool atEnd_ = false;
	uint64_t tail_ = 0; // named by a heartbeat, and not reached
	int64_t tailSince_ = 0; // steadyNow()
};

} // namespace mrsync
