// A consumer of one topic's single partition from an explicit offset, RAII over librdkafka.
//
// One thread, no consumer-group membership, no auto-commit: the position belongs to the caller (a row in its database).
// A value that travelled in chunks is handed out whole.
#pragma once

#include "kafka/producer.h" // Error, kChunkBytes

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace mrsync::kafka
{

struct ConsumerConfig
{
	std::string brokers;
	std::string options; // see kafka/options.h
	std::string clientId;
	std::string topic;
	size_t queueBytes = 16 * 1024 * 1024; // the most that is fetched ahead
	int fetchWaitMaxMs = 500; // a mock broker answers an empty fetch only after this long
};

constexpr int64_t kFromBeginning = -2;
constexpr int64_t kFromEnd = -1;
// From so many records (chunks count each) before the end. Where the topic's head has gone by then: offsetLost.
constexpr int64_t kTailBase = -2000;
constexpr int64_t fromTail(int64_t records) { return kTailBase - records; }

struct Record
{
	int64_t offset = 0;		// of the (first) record
	int64_t nextOffset = 0; // where to go on after it: behind it, or at the beginning of a value that is not complete yet
	std::string payload;
};

class Consumer
{
public:
	// wakeFd: as for Producer. Throws Error.
	Consumer(const ConsumerConfig &config, int64_t offset, int wakeFd);
	~Consumer(); // bounded
	Consumer(const Consumer &) = delete;
	Consumer &operator=(const Consumer &) = delete;

	struct Polled
	{
		size_t records = 0;					  // handed to the sink
		bool answered = false;				  // asked after trouble, a broker has answered: the trouble is over
		bool missing = false;				  // the broker has no such topic (lastError says so): asked for again and again
		bool atEnd = false;					  // the end of the topic was reached at some moment of this call
		std::optional<std::string> fatal;	  // offset out of range, topic gone, authorisation: a named stop
		bool offsetLost = false;			  // it is because the topic does not have that offset
		std::optional<std::string> lastError; // passing trouble
	};
	// Hands at most max records to the sink, in order; waits at most timeoutMs for the first.
	// The sink may throw: the records it has not seen are handed out by the next call.
	Polled poll(size_t max, int timeoutMs, const std::function<void(Record &&)> &sink);

private:
	struct Impl;
	std::unique_ptr<Impl> impl_;
};

} // namespace mrsync::kafka
