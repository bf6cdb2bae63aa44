#include "kafka/admin.h"

#include "kafka/handle.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <string_view>

namespace mrsync::kafka
{

namespace
{
using Clock = std::chrono::steady_clock;
using NewTopicPtr = std::unique_ptr<rd_kafka_NewTopic_t, Destroyer<rd_kafka_NewTopic_destroy>>;
using ResourcePtr = std::unique_ptr<rd_kafka_ConfigResource_t, Destroyer<rd_kafka_ConfigResource_destroy>>;
using OptionsPtr = std::unique_ptr<rd_kafka_AdminOptions_t, Destroyer<rd_kafka_AdminOptions_destroy>>;
using Settings = std::map<std::string, std::string>;

constexpr int64_t kShortestRetentionMs = 24LL * 3600 * 1000;

// A client for one question.
struct Asker
{
	std::string brokers;
	Clock::time_point until;
	ClientPtr client;
	QueuePtr mainQueue;

	Asker(const Cluster &cluster, int timeoutMs)
		: brokers(cluster.brokers), until(Clock::now() + std::chrono::milliseconds(timeoutMs))
	{
		auto conf = confNew(cluster.brokers, cluster.options, "mrsync-admin", 0);
		// A broker that takes the connection and stays silent would otherwise hold the question for a minute.
		confSet(conf.get(), "socket.timeout.ms", std::clamp(timeoutMs, 100, 60000));
		client = clientNew(RD_KAFKA_PRODUCER, std::move(conf));
		mainQueue.reset(rd_kafka_queue_get_main(client.get()));
	}
	~Asker() { mainQueue.reset(); }

	int leftMs() const
	{
		auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
		return static_cast<int>(std::max<decltype(left)>(left, 1));
	}

	// The error with what the client had to say about it: "timed out" alone helps nobody.
	[[noreturn]] void fail(const std::string &what, const std::string &reason, bool silent = false)
	{
		std::string said, vague;
		while (EventPtr event{rd_kafka_queue_poll(mainQueue.get(), 0)})
		{
			auto trouble = troubleOf(client.get(), event.get());
			if (trouble.fatal)
				said = *trouble.fatal;
			else if (trouble.passing)
				(trouble.vague ? vague : said) = *trouble.passing;
		}
		if (said.empty())
			said = silent && !vague.empty() ? vague : reason;
		throw Error(what + ": " + said);
	}

	[[noreturn]] void fail(const std::string &what, rd_kafka_resp_err_t err)
	{
		bool silent = err == RD_KAFKA_RESP_ERR__TIMED_OUT || err == RD_KAFKA_RESP_ERR__TRANSPORT;
		fail(what, silent ? std::string("no answer in time") : std::string(rd_kafka_err2str(err)), silent);
	}

	MetadataPtr metadata(rd_kafka_topic_t *topic)
	{
		const rd_kafka_metadata_t *found = nullptr;
		auto err = rd_kafka_metadata(client.get(), 0, topic, &found, leftMs());
		if (err)
			fail("Kafka at " + brokers + " does not answer", err);
		return MetadataPtr(found);
	}

	// librdkafka's mock cluster has no CreateTopics and no controller that one could wait for.
	bool isMock()
	{
		std::unique_ptr<char, decltype(&free)> id(rd_kafka_clusterid(client.get(), leftMs()), &free);
		return id && std::string_view(id.get()).starts_with("mockCluster");
	}
};

// The number of partitions; 0 when the topic is not known (yet).
int partitionsOf(Asker &asker, const std::string &topic)
{
	auto handle = topicNew(asker.client.get(), topic);
	auto metadata = asker.metadata(handle.get());
	for (int i = 0; i < metadata->topic_cnt; i++)
		if (topic == metadata->topics[i].topic)
			return metadata->topics[i].err ? 0 : metadata->topics[i].partition_cnt;
	return 0;
}

OptionsPtr optionsOf(Asker &asker, rd_kafka_admin_op_t operation)
{
	char reason[512];
	OptionsPtr options(rd_kafka_AdminOptions_new(asker.client.get(), operation));
	rd_kafka_AdminOptions_set_request_timeout(options.get(), asker.leftMs(), reason, sizeof reason);
	return options;
}

// The request has its own timeout, so that an answer always comes; the margin is for its way through the queue.
EventPtr answerOf(Asker &asker, const QueuePtr &answers, const std::string &what)
{
	EventPtr answer(rd_kafka_queue_poll(answers.get(), asker.leftMs() + 1000));
	if (!answer)
		asker.fail(what, "no answer in time", true);
	return answer;
}

// refused: the broker says that this is not for us to know, and why; without it, that is an Error.
Settings settingsOf(Asker &asker, const std::string &topic, std::string *refused)
{
	const auto what = "cannot ask for the settings of topic \"" + topic + "\"";
	ResourcePtr wanted(rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic.c_str()));
	auto options = optionsOf(asker, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	QueuePtr answers(rd_kafka_queue_new(asker.client.get()));
	rd_kafka_ConfigResource_t *list[] = {wanted.get()};
	rd_kafka_DescribeConfigs(asker.client.get(), list, 1, options.get(), answers.get());
	EventPtr answer = answerOf(asker, answers, what);
	if (rd_kafka_event_error(answer.get()))
		asker.fail(what, rd_kafka_event_error_string(answer.get()));
	size_t count = 0;
	auto *resources =
		rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(answer.get()), &count);
	if (count != 1)
		asker.fail(what, "the broker's answer names no topic");
	if (auto err = rd_kafka_ConfigResource_error(resources[0]))
	{
		if (!refused || !isAuthorisation(err))
			asker.fail(what, err);
		*refused = rd_kafka_err2str(err);
		return {};
	}
	Settings settings;
	auto *entries = rd_kafka_ConfigResource_configs(resources[0], &count);
	for (size_t i = 0; i < count; i++)
		if (const char *value = rd_kafka_ConfigEntry_value(entries[i]))
			settings.emplace(rd_kafka_ConfigEntry_name(entries[i]), value);
	return settings;
}

// Throws where a topic that exists would lose events, or not take them; says where it may lose them.
std::string requireFit(Asker &asker, const std::string &topic)
{
	const auto it = "topic \"" + topic + "\" exists with ";
	const std::string cure = "; alter it, or delete it";
	if (int partitions = partitionsOf(asker, topic); partitions != 1)
		throw Error(it + std::to_string(partitions) +
					" partitions; mrsync needs exactly one, as it carries the order of commits");
	std::string refused;
	Settings settings = settingsOf(asker, topic, &refused);
	if (!refused.empty())
		return "its settings cannot be read (" + refused + ")";
	if (settings["cleanup.policy"] != "delete")
		throw Error(it + "cleanup.policy=" + settings["cleanup.policy"] +
					"; mrsync needs \"delete\", as no event stands for another" + cure);
	if (atoll(settings["max.message.bytes"].c_str()) < kBatchBytes)
		throw Error(it + "max.message.bytes=" + settings["max.message.bytes"] + "; mrsync sends up to " +
					std::to_string(kBatchBytes) + " bytes at once" + cure);
	int64_t retentionMs = atoll(settings["retention.ms"].c_str());
	if (retentionMs >= 0 && retentionMs < kShortestRetentionMs)
		return "retention.ms is " + settings["retention.ms"] + ", less than a day";
	if (atoll(settings["retention.bytes"].c_str()) >= 0)
		return "retention.bytes is " + settings["retention.bytes"];
	return "";
}
} // namespace

Topic topicCreate(const Cluster &cluster, const std::string &topic, const TopicSettings &settings, int timeoutMs)
{
	Asker asker(cluster, timeoutMs);
	const auto what = "cannot create topic \"" + topic + "\"";
	auto *client = asker.client.get();

	asker.metadata(nullptr); // an unreachable broker is told as such
	if (asker.isMock())
		return {TopicCreated::Automatic, ""}; // without asking further: a question would create it, with other settings

	char reason[512] = "";
	NewTopicPtr wanted(
		rd_kafka_NewTopic_new(topic.c_str(), 1, settings.replicationFactor, reason, sizeof reason));
	if (!wanted)
		throw Error(what + ": " + reason);
	rd_kafka_NewTopic_set_config(wanted.get(), "cleanup.policy", "delete");
	rd_kafka_NewTopic_set_config(wanted.get(), "retention.ms", std::to_string(settings.retentionMs).c_str());
	rd_kafka_NewTopic_set_config(wanted.get(), "retention.bytes", "-1"); // time alone decides
	rd_kafka_NewTopic_set_config(wanted.get(), "max.message.bytes", std::to_string(settings.maxMessageBytes).c_str());

	auto options = optionsOf(asker, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_AdminOptions_set_operation_timeout(options.get(), asker.leftMs(), reason, sizeof reason);

	QueuePtr answers(rd_kafka_queue_new(client));
	rd_kafka_NewTopic_t *list[] = {wanted.get()};
	rd_kafka_CreateTopics(client, list, 1, options.get(), answers.get());
	EventPtr answer = answerOf(asker, answers, what);
	auto err = rd_kafka_event_error(answer.get());
	if (err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE)
		return {TopicCreated::Automatic, ""};
	if (err)
		asker.fail(what, rd_kafka_event_error_string(answer.get()));

	size_t count = 0;
	auto *results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(answer.get()), &count);
	if (count != 1)
		asker.fail(what, "the broker's answer names no topic");
	switch (err = rd_kafka_topic_result_error(results[0]))
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return {TopicCreated::Created, ""};
		case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS:
			return {TopicCreated::Existed, requireFit(asker, topic)};
		default:
		{
			const char *text = rd_kafka_topic_result_error_string(results[0]);
			throw Error(what + ": " + (text && *text ? text : rd_kafka_err2str(err)));
		}
	}
}

Settings topicSettings(const Cluster &cluster, const std::string &topic, int timeoutMs)
{
	Asker asker(cluster, timeoutMs);
	return settingsOf(asker, topic, nullptr);
}

Offsets topicOffsets(const Cluster &cluster, const std::string &topic, int timeoutMs)
{
	Asker asker(cluster, timeoutMs);
	Offsets offsets;
	auto err =
		rd_kafka_query_watermark_offsets(asker.client.get(), topic.c_str(), 0, &offsets.low, &offsets.high, asker.leftMs());
	if (err)
		asker.fail("cannot ask for the offsets of topic \"" + topic + "\"", err);
	return offsets;
}

void brokerCheck(const Cluster &cluster, int timeoutMs)
{
	Asker asker(cluster, timeoutMs);
	asker.metadata(nullptr);
}

} // namespace mrsync::kafka
