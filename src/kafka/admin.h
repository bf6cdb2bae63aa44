// What is asked of a broker outside of the stream: does it answer, make the topics, how far do they reach.
// Every call is bounded by its timeout and throws kafka::Error with the broker's reason.
#pragma once

#include "kafka/producer.h"

#include <cstdint>
#include <map>
#include <string>

namespace mrsync::kafka
{

struct TopicSettings
{
	int64_t retentionMs = 7LL * 24 * 3600 * 1000;
	int64_t maxMessageBytes = 8 * 1024 * 1024;
	int replicationFactor = -1; // the broker's default
};

enum class TopicCreated
{
	Created,
	Existed,
	Automatic, // the broker cannot create topics on request (mock): it will at the first produce
};

struct Topic
{
	TopicCreated created;
	std::string risk; // of one that existed: why it may lose events, in words; "": it will not
};

// Where a question goes.
struct Cluster
{
	std::string brokers; // host:port[,host:port…]
	std::string options = {}; // see kafka/options.h
};

// One partition, cleanup.policy=delete. A topic that exists must have exactly one partition, delete nothing by key, and
// take what the producer sends at once: Error otherwise.
Topic topicCreate(const Cluster &cluster, const std::string &topic, const TopicSettings &settings, int timeoutMs);

// What a topic is set to, defaults included: name -> value, in Kafka's words.
std::map<std::string, std::string> topicSettings(const Cluster &cluster, const std::string &topic, int timeoutMs);

struct Offsets
{
	int64_t low = 0;
	int64_t high = 0;
};
Offsets topicOffsets(const Cluster &cluster, const std::string &topic, int timeoutMs);

// Throws Error when none of the brokers answers within the timeout.
void brokerCheck(const Cluster &cluster, int timeoutMs);

} // namespace mrsync::kafka
