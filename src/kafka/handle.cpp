#include "kafka/handle.h"

#include "kafka/options.h"

#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <thread>

namespace mrsync::kafka
{

namespace
{
constexpr auto kDestroyWait = std::chrono::seconds(3);
constexpr int kWarning = 4; // syslog's levels: smaller is worse
} // namespace

SignalsBlocked::SignalsBlocked()
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved_);
}

SignalsBlocked::~SignalsBlocked()
{
	pthread_sigmask(SIG_SETMASK, &saved_, nullptr);
}

void destroyBounded(rd_kafka_t *client) noexcept
{
	if (!client)
		return;
	struct Done
	{
		std::mutex mutex;
		std::condition_variable changed;
		bool value = false;
	};
	try
	{
		// Shared, because the thread may outlive this call.
		auto done = std::make_shared<Done>();
		SignalsBlocked blocked;
		std::thread(
			[client, done]
			{
				rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
				std::lock_guard lock(done->mutex);
				done->value = true;
				done->changed.notify_one();
			})
			.detach();
		std::unique_lock lock(done->mutex);
		done->changed.wait_for(lock, kDestroyWait, [&] { return done->value; });
	}
	catch (...)
	{
		// No thread to be had: the client is left to the process's exit. Waiting for it here could be for ever.
	}
}

void confSet(rd_kafka_conf_t *conf, const char *name, const std::string &value)
{
	char reason[512];
	if (rd_kafka_conf_set(conf, name, value.c_str(), reason, sizeof reason) != RD_KAFKA_CONF_OK)
		throw Error(std::string(name) + ": " + reason);
}

void confSet(rd_kafka_conf_t *conf, const char *name, int64_t value)
{
	confSet(conf, name, std::to_string(value));
}

namespace
{
// One line; read for every new client, so that a worker's restart takes up what the file says then.
std::string readSecret(const Option &option)
{
	std::ifstream file(option.value);
	std::string line;
	if (!std::getline(file, line))
		throw Error(option.key + ": cannot read \"" + option.value + "\", or it is empty");
	if (line.ends_with('\r'))
		line.pop_back();
	return line;
}
} // namespace

ConfPtr confNew(const std::string &brokers, const std::string &options, const std::string &clientId, int events)
{
	if (brokers.empty())
		throw Error("no Kafka broker is named: expected host:port[,host:port…]");
	ConfPtr conf(rd_kafka_conf_new());
	auto *c = conf.get();
	confSet(c, "bootstrap.servers", brokers);
	if (!clientId.empty())
		confSet(c, "client.id", clientId);
	confSet(c, "log.queue", "true");
	confSet(c, "log_level", kWarning);
	confSet(c, "log.connection.close", "false"); // an idle broker closes connections: no news
	confSet(c, "socket.nagle.disable", "true");
	confSet(c, "socket.keepalive.enable", "true");
	confSet(c, "socket.connection.setup.timeout.ms", 10000);
	// A broker that comes back is found within a second, whatever the length of its absence.
	confSet(c, "reconnect.backoff.ms", 50);
	confSet(c, "reconnect.backoff.max.ms", 1000);
	confSet(c, "topic.metadata.refresh.fast.interval.ms", 100);
	auto parsed = parseOptions(options);
	if (auto *error = std::get_if<OptionsError>(&parsed))
		throw Error("invalid Kafka options: " + error->detail);
	for (const Option &option : std::get<Options>(parsed))
		if (auto secret = secretInFile(option.key))
			confSet(c, secret->c_str(), readSecret(option));
		else
			confSet(c, option.key.c_str(), option.value);
	rd_kafka_conf_set_events(c, events | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	return conf;
}

ClientPtr clientNew(rd_kafka_type_t type, ConfPtr conf)
{
	char reason[512] = "";
	SignalsBlocked blocked;
	ClientPtr client(rd_kafka_new(type, conf.get(), reason, sizeof reason));
	if (!client)
		throw Error(std::string("cannot make a Kafka client: ") + reason);
	(void) conf.release(); // the client's now; had it failed, still ours
	rd_kafka_set_log_queue(client.get(), nullptr);
	return client;
}

TopicPtr topicNew(rd_kafka_t *client, const std::string &topic)
{
	TopicPtr made(rd_kafka_topic_new(client, topic.c_str(), nullptr));
	if (!made)
		throw Error("topic \"" + topic + "\": " + rd_kafka_err2str(rd_kafka_last_error()));
	return made;
}

void wakeStart(rd_kafka_queue_t *queue, int fd)
{
	if (fd >= 0)
		rd_kafka_queue_io_event_enable(queue, fd, "k", 1);
}

void wakeStop(rd_kafka_queue_t *queue) noexcept
{
	if (queue)
		rd_kafka_queue_io_event_enable(queue, -1, nullptr, 0);
}

bool isAuthorisation(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			return true;
		default:
			return false;
	}
}

namespace
{
// librdkafka's sentences begin with addresses and thread names; these are what a person, or an alarm, looks for.
std::string namedReason(rd_kafka_resp_err_t err, const std::string &said)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
			return "login refused: ";
		case RD_KAFKA_RESP_ERR__SSL:
			return "TLS failed: ";
		default: // a broker without TLS may just hang up
			return said.find("SSL_HANDSHAKE") != said.npos ? "TLS failed: " : "";
	}
}
} // namespace

Trouble troubleOf(rd_kafka_t *client, rd_kafka_event_t *event)
{
	Trouble trouble;
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_LOG:
		{
			const char *facility = nullptr;
			const char *text = nullptr;
			int level = 7;
			if (rd_kafka_event_log(event, &facility, &text, &level) == 0 && level <= kWarning && text)
			{
				trouble.passing = text;
				trouble.vague = true;
			}
			break;
		}
		case RD_KAFKA_EVENT_ERROR:
		{
			auto err = rd_kafka_event_error(event);
			const char *text = rd_kafka_event_error_string(event);
			std::string said = text && *text ? text : rd_kafka_err2str(err);
			if (rd_kafka_event_error_is_fatal(event) || err == RD_KAFKA_RESP_ERR__FATAL)
			{
				char reason[512] = "";
				rd_kafka_fatal_error(client, reason, sizeof reason);
				trouble.fatal = *reason ? std::string(reason) : said;
			}
			else if (isAuthorisation(err))
				trouble.fatal = said;
			else
				trouble.passing = namedReason(err, said) + said;
			trouble.vague = err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
			// A broker that hangs up on a greeting in the wrong protocol gives no reason.
			if (trouble.vague && trouble.passing)
				*trouble.passing += ", or hang up at once: is security.protocol what they want?";
			break;
		}
		default:
			break;
	}
	return trouble;
}

} // namespace mrsync::kafka
