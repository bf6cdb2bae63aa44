// The little that the lab asks of a broker, through src/kafka itself.
//
//   kafkactl BROKERS ping [TIMEOUT-MS]
//   kafkactl BROKERS create TOPIC [NAME=VALUE…]   as region_init does; with settings: these, and one partition
//   kafkactl BROKERS settings TOPIC    NAME=VALUE of each
//   kafkactl BROKERS offsets TOPIC
//   kafkactl BROKERS cat TOPIC         every record there is by now, one a line, with its offset
//   kafkactl BROKERS produce TOPIC     every line of the input becomes a record, whatever it says
//   kafkactl BROKERS expire TOPIC OFFSET   takes away the records before it, as retention does
//   kafkactl BROKERS delete TOPIC
//
// MRSYNC_KAFKA_OPTIONS: as mrsync.kafka_options
#include "kafka/admin.h"
#include "kafka/consumer.h"
#include "kafka/handle.h"
#include "kafka/producer.h"

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

using namespace mrsync::kafka;

namespace
{
constexpr int kTimeoutMs = 10000;

std::string options()
{
	const char *given = std::getenv("MRSYNC_KAFKA_OPTIONS");
	return given ? given : "";
}

int cat(const std::string &brokers, const std::string &topic)
{
	ConsumerConfig config;
	config.brokers = brokers;
	config.options = options();
	config.clientId = "kafkactl";
	config.topic = topic;
	const int64_t end = topicOffsets({brokers, options()}, topic, kTimeoutMs).high; // of one that is being written to, the end is never seen
	Consumer consumer(config, kFromBeginning, -1);
	int64_t next = 0;
	for (;;)
	{
		auto polled = consumer.poll(1000, kTimeoutMs,
									[&](Record &&record)
									{
										next = record.offset + 1;
										printf("%lld\t", static_cast<long long>(record.offset));
										fwrite(record.payload.data(), 1, record.payload.size(), stdout);
										putchar('\n');
									});
		if (polled.fatal || (polled.records == 0 && !polled.atEnd))
			throw Error(polled.fatal.value_or(polled.lastError.value_or("no answer in time")));
		if (polled.atEnd || next >= end)
			return 0;
	}
}

int produce(const std::string &brokers, const std::string &topic)
{
	ProducerConfig config;
	config.brokers = brokers;
	config.clientId = "kafkactl";
	config.topics = {topic, topic};
	Producer producer(config, -1);
	for (std::string line; std::getline(std::cin, line);)
		for (size_t offset = 0; !producer.tryProduce(0, line, offset);)
			producer.serve(100);
	if (!producer.flush(kTimeoutMs))
		throw Error(producer.serve(0).lastError.value_or("no answer in time"));
	return 0;
}

int create(const std::string &brokers, const std::string &topic, char **settings)
{
	auto client = clientNew(RD_KAFKA_PRODUCER, confNew(brokers, options(), "kafkactl", 0));
	char reason[512];
	auto *wanted = rd_kafka_NewTopic_new(topic.c_str(), 1, -1, reason, sizeof reason);
	for (; *settings; ++settings)
	{
		const std::string setting = *settings;
		const auto at = setting.find('=');
		rd_kafka_NewTopic_set_config(wanted, setting.substr(0, at).c_str(), setting.substr(at + 1).c_str());
	}
	QueuePtr answers(rd_kafka_queue_new(client.get()));
	rd_kafka_CreateTopics(client.get(), &wanted, 1, nullptr, answers.get());
	EventPtr answer(rd_kafka_queue_poll(answers.get(), kTimeoutMs));
	rd_kafka_NewTopic_destroy(wanted);
	if (!answer)
		throw Error("no answer in time");
	if (rd_kafka_event_error(answer.get()))
		throw Error(rd_kafka_event_error_string(answer.get()));
	size_t count = 0;
	auto *results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(answer.get()), &count);
	if (count != 1 || rd_kafka_topic_result_error(results[0]))
		throw Error(count == 1 ? rd_kafka_err2str(rd_kafka_topic_result_error(results[0])) : "no topic");
	return 0;
}

int expire(const std::string &brokers, const std::string &topic, int64_t before)
{
	auto client = clientNew(RD_KAFKA_PRODUCER, confNew(brokers, options(), "kafkactl", 0));
	auto *range = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(range, topic.c_str(), 0)->offset = before;
	auto *wanted = rd_kafka_DeleteRecords_new(range);
	QueuePtr answers(rd_kafka_queue_new(client.get()));
	rd_kafka_DeleteRecords(client.get(), &wanted, 1, nullptr, answers.get());
	EventPtr answer(rd_kafka_queue_poll(answers.get(), kTimeoutMs));
	rd_kafka_DeleteRecords_destroy(wanted);
	rd_kafka_topic_partition_list_destroy(range);
	if (!answer)
		throw Error("no answer in time");
	if (rd_kafka_event_error(answer.get()))
		throw Error(rd_kafka_event_error_string(answer.get()));
	const auto *done = rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(answer.get()));
	if (done->elems[0].err)
		throw Error(rd_kafka_err2str(done->elems[0].err));
	printf("%lld\n", static_cast<long long>(done->elems[0].offset));
	return 0;
}

int remove(const std::string &brokers, const std::string &topic)
{
	auto client = clientNew(RD_KAFKA_PRODUCER, confNew(brokers, options(), "kafkactl", 0));
	auto *wanted = rd_kafka_DeleteTopic_new(topic.c_str());
	QueuePtr answers(rd_kafka_queue_new(client.get()));
	rd_kafka_DeleteTopics(client.get(), &wanted, 1, nullptr, answers.get());
	EventPtr answer(rd_kafka_queue_poll(answers.get(), kTimeoutMs));
	rd_kafka_DeleteTopic_destroy(wanted);
	if (!answer)
		throw Error("no answer in time");
	if (rd_kafka_event_error(answer.get()))
		throw Error(rd_kafka_event_error_string(answer.get()));
	size_t count = 0;
	auto *results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(answer.get()), &count);
	if (rd_kafka_topic_result_error(results[0]))
		throw Error(rd_kafka_topic_result_error_string(results[0]));
	return 0;
}
} // namespace

int main(int argc, char **argv)
{
	const std::string brokers = argc > 1 ? argv[1] : "", verb = argc > 2 ? argv[2] : "", what = argc > 3 ? argv[3] : "";
	try
	{
		if (verb == "ping")
		{
			brokerCheck({brokers, options()}, what.empty() ? kTimeoutMs : std::atoi(what.c_str()));
			return 0;
		}
		if (verb == "create" && !what.empty())
		{
			if (argc > 4)
				return create(brokers, what, argv + 4);
			auto created = topicCreate({brokers, options()}, what, {}, kTimeoutMs).created;
			puts(created == TopicCreated::Created ? "created" : created == TopicCreated::Existed ? "existed" : "automatic");
			return 0;
		}
		if (verb == "offsets" && !what.empty())
		{
			auto offsets = topicOffsets({brokers, options()}, what, kTimeoutMs);
			printf("%lld %lld\n", static_cast<long long>(offsets.low), static_cast<long long>(offsets.high));
			return 0;
		}
		if (verb == "settings" && !what.empty())
		{
			for (const auto &[name, value] : topicSettings({brokers, options()}, what, kTimeoutMs))
				printf("%s=%s\n", name.c_str(), value.c_str());
			return 0;
		}
		if (verb == "cat" && !what.empty())
			return cat(brokers, what);
		if (verb == "produce" && !what.empty())
			return produce(brokers, what);
		if (verb == "expire" && argc > 4)
			return expire(brokers, what, std::atoll(argv[4]));
		if (verb == "delete" && !what.empty())
			return remove(brokers, what);
	}
	catch (const std::exception &e)
	{
		fprintf(stderr, "kafkactl: %s\n", e.what());
		return 1;
	}
	fprintf(stderr, "usage: %s BROKERS ping [TIMEOUT-MS] | create TOPIC [NAME=VALUE…] | settings TOPIC | offsets TOPIC | cat TOPIC | produce TOPIC | expire TOPIC OFFSET | delete TOPIC\n", argv[0]);
	return 2;
}
