// An idempotent producer to the region's topics, RAII over librdkafka.
//
// Every call is made from one thread, the worker's main thread; librdkafka's own threads block all signals (a server's
// signal handlers must never run on them). Nothing here throws out of a librdkafka callback, nothing logs to stderr.
// Errors: construction throws kafka::Error; everything later is a value in Served.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mrsync::kafka
{

class Error : public std::runtime_error
{
public:
	using std::runtime_error::runtime_error;
};

// A value larger than this travels as several records, each with the header "mrsync-chunk" = "i/n" (1-based).
constexpr size_t kChunkBytes = 768 * 1024;

// The most that is sent at once; topics must take it. Below the 1 MiB that a topic takes by default, so that one somebody
// else has created serves, too.
constexpr int64_t kBatchBytes = 1000000;
static_assert(kChunkBytes < kBatchBytes * 9 / 10);

struct ProducerConfig
{
	std::string brokers;  // host:port[,host:port…]
	std::string options;  // see kafka/options.h
	std::string clientId; // shown in the broker's logs
	std::array<std::string, 2> topics; // topic 0: data, topic 1: control
	size_t queueBytes = 64 * 1024 * 1024; // the most that waits unacknowledged in memory
};

class Producer
{
public:
	// wakeFd: a non-blocking descriptor; a byte is written to it when serve() has something to do.
	Producer(const ProducerConfig &config, int wakeFd);
	~Producer(); // bounded: what is not acknowledged is dropped, waits for nothing
	Producer(const Producer &) = delete;
	Producer &operator=(const Producer &) = delete;

	// Queues payload[offset..] and moves offset past what was taken. True when all of it is queued; false when the queue
	// is full: serve(), wait for the wake, call again with the same payload and offset.
	// Throws Error on what cannot succeed by waiting.
	bool tryProduce(int topic, std::string_view payload, size_t &offset);

	struct Served
	{
		std::array<uint64_t, 2> acked{}; // payloads (not chunks) wholly acknowledged since the last call, per topic
		std::array<int64_t, 2> end{}; // offset behind the newest of them, per topic; 0: none was
		std::optional<std::string> fatal;	  // the producer cannot go on: make a new one
		std::optional<std::string> lastError; // the newest passing trouble (broker down, …), for a person to read
	};
	Served serve(int timeoutMs);

	// Waits at most timeoutMs for what is queued to be acknowledged; true when it is.
	bool flush(int timeoutMs);

private:
	struct Impl;
	std::unique_ptr<Impl> impl_;
};

} // namespace mrsync::kafka
