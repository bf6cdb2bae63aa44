// src/kafka against librdkafka's in-process mock cluster: what the workers rely on when a broker misbehaves.
#include "kafka/admin.h"
#include "kafka/consumer.h"
#include "kafka/producer.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <set>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace mrsync::kafka;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace
{

class Broker
{
public:
	explicit Broker(const std::vector<std::string> &topics = {"data", "control"})
	{
		sigset_t all, before;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before); // the mock's thread inherits it; see SignalsAreBlocked
		char reason[512];
		auto *conf = rd_kafka_conf_new();
		rd_kafka_conf_set_log_cb(conf, nullptr); // it warns that it has no broker
		client_ = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof reason);
		cluster_ = rd_kafka_mock_cluster_new(client_, 1);
		pthread_sigmask(SIG_SETMASK, &before, nullptr);
		for (auto &topic : topics)
			rd_kafka_mock_topic_create(cluster_, topic.c_str(), 1, 1);
	}
	~Broker()
	{
		rd_kafka_mock_cluster_destroy(cluster_);
		rd_kafka_destroy(client_);
	}
	std::string address() const { return rd_kafka_mock_cluster_bootstraps(cluster_); }
	void down() { rd_kafka_mock_broker_set_down(cluster_, 1); }
	void up() { rd_kafka_mock_broker_set_up(cluster_, 1); }
	rd_kafka_mock_cluster_t *cluster() { return cluster_; }

private:
	rd_kafka_t *client_ = nullptr;
	rd_kafka_mock_cluster_t *cluster_ = nullptr;
};

// The pipe a worker has in its WaitEventSet.
class Wake
{
public:
	Wake() { EXPECT_EQ(0, pipe2(ends_, O_NONBLOCK | O_CLOEXEC)); }
	~Wake()
	{
		close(ends_[0]);
		close(ends_[1]);
	}
	int in() const { return ends_[1]; }
	bool wait(int timeoutMs)
	{
		pollfd p{ends_[0], POLLIN, 0};
		if (::poll(&p, 1, timeoutMs) <= 0)
			return false;
		char rest[64];
		while (read(ends_[0], rest, sizeof rest) > 0)
			;
		return true;
	}

private:
	int ends_[2] = {-1, -1};
};

ProducerConfig producing(const std::string &brokers, size_t queueBytes = 64 * 1024 * 1024)
{
	ProducerConfig config;
	config.brokers = brokers;
	config.clientId = "test";
	config.topics = {"data", "control"};
	config.queueBytes = queueBytes;
	return config;
}

ConsumerConfig consuming(const std::string &brokers, const std::string &topic = "data")
{
	ConsumerConfig config;
	config.brokers = brokers;
	config.clientId = "test";
	config.topic = topic;
	config.fetchWaitMaxMs = 5;
	return config;
}

bool produce(Producer &producer, int topic, std::string_view payload)
{
	size_t offset = 0;
	return producer.tryProduce(topic, payload, offset);
}

// Polls until n records are there; what comes in is checked by the caller.
std::vector<Record> take(Consumer &consumer, size_t n, std::chrono::milliseconds within = 30s)
{
	std::vector<Record> records;
	auto until = Clock::now() + within;
	while (records.size() < n && Clock::now() < until)
	{
		auto polled =
			consumer.poll(n - records.size(), 50, [&](Record &&record) { records.push_back(std::move(record)); });
		if (polled.fatal)
		{
			ADD_FAILURE() << *polled.fatal;
			break;
		}
	}
	EXPECT_EQ(n, records.size());
	return records;
}

template <class Condition> bool eventually(Condition condition, std::chrono::milliseconds within = 30s)
{
	for (auto until = Clock::now() + within; Clock::now() < until; std::this_thread::sleep_for(2ms))
		if (condition())
			return true;
	return false;
}

std::string largeValue(size_t size) // compresses: the mock keeps 5 MB of a topic
{
	std::string value;
	value.reserve(size + 64);
	for (size_t i = 0; value.size() < size; i++)
		value += "block " + std::to_string(i / 512) + " of a large value, to be put together again; ";
	value.resize(size);
	return value;
}

TEST(Kafka, RoundTrip)
{
	Broker broker;
	Wake wake;
	Producer producer(producing(broker.address()), wake.in());
	std::string binary("\0\xff\r\n", 4);
	ASSERT_TRUE(produce(producer, 0, "one"));
	ASSERT_TRUE(produce(producer, 0, ""));
	ASSERT_TRUE(produce(producer, 0, binary));
	ASSERT_TRUE(produce(producer, 1, "control"));
	ASSERT_TRUE(producer.flush(10000));
	auto served = producer.serve(0);
	EXPECT_EQ(3u, served.acked[0]);
	EXPECT_EQ(1u, served.acked[1]);
	EXPECT_FALSE(served.fatal);
	EXPECT_EQ(0u, producer.serve(0).acked[0]); // counted once

	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	auto records = take(consumer, 3);
	ASSERT_EQ(3u, records.size());
	EXPECT_EQ("one", records[0].payload);
	EXPECT_EQ("", records[1].payload);
	EXPECT_EQ(binary, records[2].payload);
	for (size_t i = 0; i < records.size(); i++)
	{
		EXPECT_EQ(static_cast<int64_t>(i), records[i].offset);
		EXPECT_EQ(static_cast<int64_t>(i) + 1, records[i].nextOffset);
	}

	Consumer later(consuming(broker.address()), 2, -1);
	EXPECT_EQ(binary, take(later, 1).at(0).payload);
	auto offsets = topicOffsets({broker.address()}, "data", 5000);
	EXPECT_EQ(0, offsets.low);
	EXPECT_EQ(3, offsets.high);
}

TEST(Kafka, EndIsTold)
{
	Broker broker;
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	Consumer::Polled polled;
	EXPECT_TRUE(eventually(
		[&]
		{
			polled = consumer.poll(10, 100, [](Record &&) {});
			EXPECT_FALSE(polled.lastError) << *polled.lastError; // not even a warning about our own settings
			return polled.atEnd;
		}));
}

TEST(Kafka, WakesBothSides)
{
	Broker broker;
	Wake sent, received;
	Producer producer(producing(broker.address()), sent.in());
	Consumer consumer(consuming(broker.address()), kFromBeginning, received.in());
	for (int i = 0; i < 20; i++)
	{
		ASSERT_TRUE(produce(producer, 0, "x"));
		uint64_t acked = 0;
		while (acked == 0)
		{
			ASSERT_TRUE(sent.wait(10000));
			acked += producer.serve(0).acked[0];
		}
		size_t got = 0;
		while (got == 0)
		{
			ASSERT_TRUE(received.wait(10000));
			got += consumer.poll(100, 0, [](Record &&) {}).records;
		}
	}
}

// A wake comes only when an empty queue fills; what a poll leaves behind must not be forgotten.
TEST(Kafka, WhatIsLeftOverWakesAgain)
{
	Broker broker;
	Wake wake;
	{
		Producer producer(producing(broker.address()), -1);
		for (int i = 0; i < 100; i++)
			ASSERT_TRUE(produce(producer, 0, "x"));
		ASSERT_TRUE(producer.flush(10000));
	}
	Consumer consumer(consuming(broker.address()), kFromBeginning, wake.in());
	size_t got = 0;
	while (got < 100)
	{
		ASSERT_TRUE(wake.wait(10000)) << got;
		got += consumer.poll(7, 0, [](Record &&) {}).records;
	}
}

TEST(Kafka, LargeValueTravelsInChunks)
{
	Broker broker;
	Producer producer(producing(broker.address()), -1);
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	auto value = largeValue(20 * 1024 * 1024);
	ASSERT_TRUE(produce(producer, 0, "before"));
	ASSERT_TRUE(produce(producer, 0, value));
	ASSERT_TRUE(produce(producer, 0, "after"));
	ASSERT_TRUE(producer.flush(30000));
	EXPECT_EQ(3u, producer.serve(0).acked[0]);
	auto records = take(consumer, 3);
	ASSERT_EQ(3u, records.size());
	EXPECT_EQ("before", records[0].payload);
	EXPECT_TRUE(value == records[1].payload);
	EXPECT_EQ("after", records[2].payload);
	auto chunks = static_cast<int64_t>((value.size() + kChunkBytes - 1) / kChunkBytes);
	EXPECT_EQ(1, records[1].offset);
	EXPECT_EQ(1 + chunks, records[1].nextOffset);
	EXPECT_EQ(records[1].nextOffset, records[2].offset);
}

TEST(Kafka, ChunkSizesAtTheEdge)
{
	Broker broker;
	Producer producer(producing(broker.address()), -1);
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	std::vector<size_t> sizes{kChunkBytes - 1, kChunkBytes, kChunkBytes + 1, 2 * kChunkBytes, 2 * kChunkBytes + 1};
	for (auto size : sizes)
		ASSERT_TRUE(produce(producer, 0, largeValue(size)));
	auto records = take(consumer, sizes.size());
	ASSERT_EQ(sizes.size(), records.size());
	for (size_t i = 0; i < sizes.size(); i++)
		EXPECT_TRUE(largeValue(sizes[i]) == records[i].payload) << i;
}

// A writer that died in the middle of a large value: its successor writes the value again from the first chunk.
TEST(Kafka, HalfAValueIsDropped)
{
	Broker broker;
	auto value = largeValue(3 * kChunkBytes);
	{
		// The queue holds two chunks: the third is never sent.
		Producer dying(producing(broker.address(), 2 * kChunkBytes), -1);
		size_t offset = 0;
		EXPECT_FALSE(dying.tryProduce(0, value, offset));
		EXPECT_GT(offset, 0u);
		EXPECT_TRUE(dying.flush(10000));
		EXPECT_EQ(0u, dying.serve(0).acked[0]);
	}
	Producer next(producing(broker.address()), -1);
	ASSERT_TRUE(produce(next, 0, value));
	ASSERT_TRUE(produce(next, 0, "after"));
	ASSERT_TRUE(next.flush(10000));
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	auto records = take(consumer, 2);
	ASSERT_EQ(2u, records.size());
	EXPECT_GT(records[0].offset, 0);
	EXPECT_TRUE(value == records[0].payload);
	EXPECT_EQ("after", records[1].payload);

	Consumer inTheMiddle(consuming(broker.address()), records[0].offset + 1, -1);
	EXPECT_EQ("after", take(inTheMiddle, 1).at(0).payload);
}

// The writer before died in the middle of a large value; the rest of it, and what it had written behind it, lands among
// the chunks of its successor's. Both values arrive, and nobody who goes on at a nextOffset misses one.
TEST(Kafka, ValuesOfTwoWritersMixed)
{
	Broker broker;
	auto value = largeValue(3 * kChunkBytes);
	auto other = largeValue(4 * kChunkBytes - 7);
	// The queues hold two chunks: what does not fit is sent by the next call.
	Producer dead(producing(broker.address(), 2 * kChunkBytes), -1);
	Producer next(producing(broker.address(), 2 * kChunkBytes), -1);
	Producer third(producing(broker.address()), -1);
	auto part = [](Producer &producer, const std::string &payload, size_t &offset)
	{
		bool whole = producer.tryProduce(0, payload, offset);
		EXPECT_TRUE(producer.flush(10000));
		return whole;
	};
	size_t sentByDead = 0, sentByNext = 0;
	ASSERT_TRUE(produce(third, 0, "before"));
	ASSERT_TRUE(third.flush(10000));
	ASSERT_FALSE(part(dead, value, sentByDead));
	ASSERT_FALSE(part(next, other, sentByNext));
	ASSERT_TRUE(produce(third, 0, "amid"));
	ASSERT_TRUE(third.flush(10000));
	ASSERT_TRUE(part(dead, value, sentByDead));
	ASSERT_TRUE(produce(dead, 0, "late"));
	ASSERT_TRUE(dead.flush(10000));
	ASSERT_TRUE(part(next, other, sentByNext));
	ASSERT_TRUE(produce(next, 0, "after"));
	ASSERT_TRUE(next.flush(10000));

	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	auto records = take(consumer, 6);
	ASSERT_EQ(6u, records.size());
	EXPECT_EQ("before", records[0].payload);
	EXPECT_EQ("amid", records[1].payload);
	EXPECT_TRUE(value == records[2].payload);
	EXPECT_EQ("late", records[3].payload);
	EXPECT_TRUE(other == records[4].payload);
	EXPECT_EQ("after", records[5].payload);
	EXPECT_EQ(1, records[2].offset);
	EXPECT_EQ(1, records[0].nextOffset);
	EXPECT_EQ(1, records[1].nextOffset); // both values had begun
	EXPECT_EQ(records[4].offset, records[2].nextOffset);
	EXPECT_EQ(records[4].offset, records[3].nextOffset);
	EXPECT_EQ(records[5].offset, records[4].nextOffset);
	for (size_t i = 0; i + 1 < records.size(); ++i)
	{
		Consumer again(consuming(broker.address()), records[i].nextOffset, -1);
		std::set<std::string> seen;
		while (seen.count("after") == 0 && !HasFailure())
			for (auto &record : take(again, 1))
				seen.insert(record.payload);
		for (size_t missing = i + 1; missing < records.size(); ++missing)
			EXPECT_EQ(1u, seen.count(records[missing].payload)) << i << " " << missing;
	}
}

TEST(Kafka, FullQueueThenProgress)
{
	Broker broker;
	Wake wake;
	broker.down();
	Producer producer(producing(broker.address(), 2 * 1024 * 1024), wake.in());
	const std::string payload(64 * 1024, 'x');
	uint64_t queued = 0;
	while (produce(producer, 0, payload))
		ASSERT_LT(++queued, 1000u);
	EXPECT_GT(queued, 10u);
	EXPECT_FALSE(produce(producer, 0, payload));
	EXPECT_TRUE(eventually([&] { return producer.serve(10).lastError.has_value(); }));
	broker.up();
	uint64_t acked = 0;
	while (queued < 100)
	{
		if (produce(producer, 0, payload))
			queued++;
		else
			ASSERT_TRUE(wake.wait(20000));
		acked += producer.serve(0).acked[0];
	}
	ASSERT_TRUE(producer.flush(20000));
	acked += producer.serve(0).acked[0];
	EXPECT_EQ(queued, acked);
}

TEST(Kafka, BrokerGoesAndComesBack)
{
	Broker broker;
	Producer producer(producing(broker.address()), -1);
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	std::vector<std::string> got;
	int sent = 0;
	uint64_t acked = 0;
	auto pump = [&](std::chrono::milliseconds time)
	{
		for (auto until = Clock::now() + time; Clock::now() < until;)
		{
			for (int i = 0; i < 10; i++)
				if (produce(producer, 0, std::to_string(sent)))
					sent++;
			auto served = producer.serve(1);
			ASSERT_FALSE(served.fatal) << *served.fatal;
			acked += served.acked[0];
			auto polled = consumer.poll(1000, 1, [&](Record &&record) { got.push_back(std::move(record.payload)); });
			ASSERT_FALSE(polled.fatal) << *polled.fatal;
		}
	};
	for (int round = 0; round < 3; round++)
	{
		pump(200ms);
		broker.down();
		pump(400ms);
		broker.up();
	}
	ASSERT_TRUE(producer.flush(30000));
	acked += producer.serve(0).acked[0];
	EXPECT_EQ(static_cast<uint64_t>(sent), acked);
	for (auto &record : take(consumer, static_cast<size_t>(sent) - got.size()))
		got.push_back(std::move(record.payload));
	ASSERT_EQ(static_cast<size_t>(sent), got.size());
	for (int i = 0; i < sent; i++)
		ASSERT_EQ(std::to_string(i), got[static_cast<size_t>(i)]);
}

TEST(Kafka, EndIsBoundedWithTheBrokerDown)
{
	Broker broker;
	auto producer = std::make_unique<Producer>(producing(broker.address()), -1);
	auto consumer = std::make_unique<Consumer>(consuming(broker.address()), kFromBeginning, -1);
	ASSERT_TRUE(produce(*producer, 0, "x"));
	take(*consumer, 1);
	broker.down();
	for (int i = 0; i < 1000; i++)
		ASSERT_TRUE(produce(*producer, 0, "never acknowledged"));
	auto start = Clock::now();
	producer.reset();
	consumer.reset();
	EXPECT_LT(Clock::now() - start, 5s);
}

TEST(Kafka, EndIsBoundedWhereNoBrokerEverWas)
{
	auto start = Clock::now();
	{
		Producer producer(producing("127.0.0.1:1"), -1);
		ASSERT_TRUE(produce(producer, 0, "x"));
		Consumer consumer(consuming("127.0.0.1:1"), 7, -1);
		std::optional<std::string> said;
		EXPECT_TRUE(eventually([&] { return (said = consumer.poll(1, 10, [](Record &&) {}).lastError).has_value(); }));
		EXPECT_FALSE(producer.flush(100));
	}
	EXPECT_LT(Clock::now() - start, 10s);
	EXPECT_THROW(brokerCheck({"127.0.0.1:1"}, 500), Error);
	EXPECT_THROW(topicCreate({"127.0.0.1:1"}, "data", {}, 500), Error);
	EXPECT_THROW(topicOffsets({"127.0.0.1:1"}, "data", 500), Error);
	EXPECT_THROW(brokerCheck({""}, 500), Error);
}

// A worker that ended for it would be started again and again; and the next reload brings what is right.
TEST(Kafka, WrongOptionsArePassingAndNamed)
{
	Broker broker; // in the clear
	auto config = producing(broker.address());
	config.options = "security.protocol=ssl broker.address.family=v4";
	Producer producer(config, -1);
	ASSERT_TRUE(produce(producer, 0, "x"));
	auto from = consuming(broker.address());
	from.options = config.options;
	Consumer consumer(from, kFromBeginning, -1);
	std::optional<std::string> produced, consumed;
	Producer::Served served;
	Consumer::Polled polled;
	auto named = [](std::optional<std::string> &last, const std::optional<std::string> &said)
	{
		if (said)
			last = said;
		return last && last->starts_with("TLS failed: ");
	};
	EXPECT_TRUE(eventually([&] { return named(produced, (served = producer.serve(10)).lastError); })) << produced.value_or("");
	EXPECT_TRUE(eventually([&] { return named(consumed, (polled = consumer.poll(1, 10, [](Record &&) {})).lastError); }))
		<< consumed.value_or("");
	EXPECT_FALSE(served.fatal);
	EXPECT_FALSE(polled.fatal);
	EXPECT_THROW(brokerCheck({broker.address(), config.options}, 500), Error);
}

TEST(Kafka, OptionsThatCannotBeUsedAreSaidAtOnce)
{
	auto reason = [](const std::string &options)
	{
		try
		{
			auto config = producing("127.0.0.1:1");
			config.options = options;
			Producer producer(config, -1);
		}
		catch (const Error &error)
		{
			return std::string(error.what());
		}
		return std::string();
	};
	EXPECT_EQ("invalid Kafka options: \"acks\" cannot be set here.", reason("acks=0"));
	EXPECT_NE(std::string::npos, reason("security.protocol=ssl ssl.ca.location=/no/such/file").find("ssl.ca.location"));
	const std::string login = "security.protocol=sasl_plaintext sasl.mechanism=PLAIN sasl.username=u sasl.password.file=";
	EXPECT_EQ("sasl.password.file: cannot read \"/no/such/file\", or it is empty", reason(login + "/no/such/file"));
	char path[] = "/tmp/mrsync-secret-XXXXXX";
	int fd = mkstemp(path);
	ASSERT_GE(fd, 0);
	EXPECT_NE("", reason(login + path)); // empty
	ASSERT_EQ(5, write(fd, "p w\r\n", 5));
	EXPECT_EQ("", reason(login + path));
	close(fd);
	unlink(path);
}

TEST(Kafka, OffsetOutOfRangeIsFatal)
{
	Broker broker;
	Producer producer(producing(broker.address()), -1);
	ASSERT_TRUE(produce(producer, 0, "x"));
	ASSERT_TRUE(producer.flush(10000));
	Consumer consumer(consuming(broker.address()), 1000, -1);
	std::optional<std::string> fatal;
	ASSERT_TRUE(eventually([&] { return (fatal = consumer.poll(1, 10, [](Record &&) {}).fatal).has_value(); }));
	EXPECT_NE(std::string::npos, fatal->find("1000")) << *fatal;
	EXPECT_TRUE(consumer.poll(1, 0, [](Record &&) {}).fatal); // and stays so
}

TEST(Kafka, AuthorisationIsFatal)
{
	Broker broker;
	rd_kafka_mock_topic_set_error(broker.cluster(), "data", RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	EXPECT_TRUE(eventually([&] { return consumer.poll(1, 10, [](Record &&) {}).fatal.has_value(); }));
}

// A link may be made before its source region is: the topic is waited for.
TEST(Kafka, MissingTopicIsPassing)
{
	Broker broker;
	rd_kafka_mock_topic_set_error(broker.cluster(), "data", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	Consumer::Polled polled;
	EXPECT_TRUE(eventually([&] { return (polled = consumer.poll(1, 10, [](Record &&) {})).lastError.has_value(); }));
	EXPECT_FALSE(polled.fatal);
	rd_kafka_mock_topic_set_error(broker.cluster(), "data", RD_KAFKA_RESP_ERR_NO_ERROR);
	Producer producer(producing(broker.address()), -1);
	ASSERT_TRUE(produce(producer, 0, "x"));
	EXPECT_EQ(1u, take(consumer, 1).size());
}

TEST(Kafka, ThrowingSinkLosesOnlyWhatItSaw)
{
	Broker broker;
	Producer producer(producing(broker.address()), -1);
	for (int i = 0; i < 10; i++)
		ASSERT_TRUE(produce(producer, 0, std::to_string(i)));
	ASSERT_TRUE(producer.flush(10000));
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	std::vector<std::string> got;
	auto deadline = Clock::now() + 20s;
	while (got.size() < 10 && Clock::now() < deadline)
	{
		try
		{
			consumer.poll(100, 50,
						  [&](Record &&record)
						  {
							  got.push_back(std::move(record.payload));
							  if (got.size() == 3)
								  throw std::runtime_error("the sink's own trouble");
						  });
		}
		catch (const std::runtime_error &)
		{
		}
	}
	ASSERT_EQ(10u, got.size());
	for (int i = 0; i < 10; i++)
		EXPECT_EQ(std::to_string(i), got[static_cast<size_t>(i)]);
}

TEST(Kafka, MockMakesTopicsByItself)
{
	Broker broker;
	EXPECT_EQ(TopicCreated::Automatic, topicCreate({broker.address()}, "data", {}, 5000).created);
	EXPECT_NO_THROW(brokerCheck({broker.address()}, 5000));
}

// A server's signal handlers must never run on a thread of librdkafka's (facts 0.5).
TEST(Kafka, SignalsAreBlockedOnEveryThread)
{
	auto threads = []
	{
		std::set<std::string> found;
		DIR *dir = opendir("/proc/self/task");
		while (auto *entry = readdir(dir))
			if (entry->d_name[0] != '.')
				found.insert(entry->d_name);
		closedir(dir);
		return found;
	};
	sigset_t before, after;
	pthread_sigmask(SIG_SETMASK, nullptr, &before);
	auto others = threads();
	Broker broker;
	Producer producer(producing(broker.address()), -1);
	Consumer consumer(consuming(broker.address()), kFromBeginning, -1);
	ASSERT_TRUE(produce(producer, 0, "x"));
	take(consumer, 1);
	size_t checked = 0;
	for (auto &thread : threads())
	{
		if (others.count(thread))
			continue;
		std::ifstream status("/proc/self/task/" + thread + "/status");
		for (std::string line; std::getline(status, line);)
			if (line.starts_with("SigBlk:"))
			{
				auto blocked = std::stoull(line.substr(7), nullptr, 16);
				for (int signal : {SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD, SIGALRM, SIGQUIT, SIGURG})
					EXPECT_TRUE(blocked >> (signal - 1) & 1) << "signal " << signal << " on thread " << thread;
				checked++;
			}
	}
	EXPECT_GE(checked, 4u);
	pthread_sigmask(SIG_SETMASK, nullptr, &after);
	for (int signal = 1; signal < 32; signal++) // ours is as it was
		EXPECT_EQ(sigismember(&before, signal), sigismember(&after, signal)) << signal;
}

} // namespace
