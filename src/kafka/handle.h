// What producer, consumer and admin share: a librdkafka client that behaves inside a server process.
//
// Invariants, and what breaks without them:
// - every thread librdkafka makes has all signals blocked: a server's handlers would otherwise run on it (facts 0.5);
// - nothing is written to stderr, which is the server's log: logs wait on the main queue until the owner reads them;
// - the end is bounded: a client whose threads do not come home in time is left to the process's exit, because a worker
//   that waits for a broker cannot be stopped (facts 0.4).
// Private to src/kafka.
#pragma once

#include "kafka/producer.h" // Error

#include <librdkafka/rdkafka.h>

#include <csignal>
#include <memory>
#include <optional>
#include <string>

namespace mrsync::kafka
{

// Blocks every signal on this thread for its lifetime; threads made meanwhile inherit that.
class SignalsBlocked
{
public:
	SignalsBlocked();
	~SignalsBlocked();
	SignalsBlocked(const SignalsBlocked &) = delete;
	SignalsBlocked &operator=(const SignalsBlocked &) = delete;

private:
	sigset_t saved_;
};

template <auto destroy> struct Destroyer
{
	template <class T> void operator()(T *p) const { destroy(p); }
};
using ConfPtr = std::unique_ptr<rd_kafka_conf_t, Destroyer<rd_kafka_conf_destroy>>;
using QueuePtr = std::unique_ptr<rd_kafka_queue_t, Destroyer<rd_kafka_queue_destroy>>;
using TopicPtr = std::unique_ptr<rd_kafka_topic_t, Destroyer<rd_kafka_topic_destroy>>;
using EventPtr = std::unique_ptr<rd_kafka_event_t, Destroyer<rd_kafka_event_destroy>>;
using MetadataPtr = std::unique_ptr<const rd_kafka_metadata_t, Destroyer<rd_kafka_metadata_destroy>>;
using MessagePtr = std::unique_ptr<rd_kafka_message_t, Destroyer<rd_kafka_message_destroy>>;

// Stops and joins the client's threads, waiting at most a few seconds. Never throws.
void destroyBounded(rd_kafka_t *client) noexcept;
using ClientPtr = std::unique_ptr<rd_kafka_t, Destroyer<destroyBounded>>;

// What every client of ours is configured with; options are text, see kafka/options.h. These throw Error on what librdkafka
// does not know.
ConfPtr confNew(const std::string &brokers, const std::string &options, const std::string &clientId, int events);
void confSet(rd_kafka_conf_t *conf, const char *name, const std::string &value);
void confSet(rd_kafka_conf_t *conf, const char *name, int64_t value);

// Logs go to the client's main queue from here on.
ClientPtr clientNew(rd_kafka_type_t type, ConfPtr conf);

TopicPtr topicNew(rd_kafka_t *client, const std::string &topic);

// A byte on fd whenever the queue stops being empty. Undone by wakeStop, which must come before fd is closed.
void wakeStart(rd_kafka_queue_t *queue, int fd);
void wakeStop(rd_kafka_queue_t *queue) noexcept;

// Sentences out of an ERROR or LOG event, nothing when it is not worth a person's time.
struct Trouble
{
	std::optional<std::string> fatal;
	std::optional<std::string> passing;
	// Logs, and "1/1 brokers are down", come beside or behind the reason and say less: not to be shown in its place.
	bool vague = false;
};
Trouble troubleOf(rd_kafka_t *client, rd_kafka_event_t *event);

// Refused rights: no retry cures them. A refused login is not among them: librdkafka goes on trying once a second, and the
// user may be made, or the password be corrected, at the broker.
bool isAuthorisation(rd_kafka_resp_err_t err);

} // namespace mrsync::kafka
