// Acknowledgement is counted by contiguous prefix: once a record has failed, nothing behind it in its topic counts any
// more, because the owner confirms WAL by that count (I1: what is confirmed is in Kafka).
#include "kafka/producer.h"

#include "kafka/handle.h"

#include <algorithm>
#include <chrono>
#include <random>

namespace mrsync::kafka
{

namespace
{
using Clock = std::chrono::steady_clock;

// What travels with a record as its opaque pointer: which topic, and whether a payload ends with it. Records of a topic
// are acknowledged in order, so that the last chunk's acknowledgement is the payload's.
void *opaqueOf(int topic, bool last)
{
	return reinterpret_cast<void *>(static_cast<uintptr_t>(topic) << 1 | (last ? 1 : 0));
}

int remainingMs(Clock::time_point until)
{
	auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
	return static_cast<int>(std::max<decltype(left)>(left, 0));
}

std::string nonceNew()
{
	static constexpr char digits[] = "0123456789abcdef";
	std::random_device random;
	std::string nonce;
	for (int i = 0; i < 12; i++)
		nonce += digits[random() & 15];
	return nonce;
}
} // namespace

struct Producer::Impl
{
	ClientPtr client;
	QueuePtr queue;
	std::array<TopicPtr, 2> topics;

	std::string nonce = nonceNew(); // with `sequence` the name of a chunked payload, see Consumer
	uint64_t sequence = 0;
	uint64_t outstanding = 0; // records, not payloads
	std::array<bool, 2> broken{};
	Served collected; // since the last serve()
	bool troubled = false; // something was said to be wrong, and nothing was acknowledged since

	~Impl()
	{
		wakeStop(queue.get());
		if (client)
			rd_kafka_purge(client.get(),
						   RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
		// Handles that outlive their client make rd_kafka_destroy wait for ever.
		for (auto &topic : topics)
			topic.reset();
		queue.reset();
		client.reset();
	}

	void delivered(const rd_kafka_message_t &message)
	{
		auto opaque = reinterpret_cast<uintptr_t>(message._private);
		auto topic = static_cast<size_t>(opaque >> 1 & 1);
		outstanding--;
		if (message.err)
		{
			broken[topic] = true;
			if (!collected.fatal)
				collected.fatal = std::string("a record for topic \"") + rd_kafka_topic_name(topics[topic].get()) +
								  "\" was not accepted: " + rd_kafka_err2str(message.err);
		}
		else
		{
			troubled = false;
			if ((opaque & 1) && !broken[topic])
			{
				collected.acked[topic]++;
				collected.end[topic] = message.offset + 1;
			}
		}
	}

	// Waits at most timeoutMs for a first event, takes all there are.
	void drain(int timeoutMs)
	{
		while (EventPtr event{rd_kafka_queue_poll(queue.get(), timeoutMs)})
		{
			timeoutMs = 0;
			if (rd_kafka_event_type(event.get()) == RD_KAFKA_EVENT_DR)
			{
				while (const rd_kafka_message_t *message = rd_kafka_event_message_next(event.get()))
					delivered(*message);
				continue;
			}
			auto trouble = troubleOf(client.get(), event.get());
			if (trouble.fatal && !collected.fatal)
				collected.fatal = std::move(trouble.fatal);
			if (trouble.passing && !(trouble.vague && troubled))
			{
				collected.lastError = std::move(trouble.passing);
				troubled = true;
			}
		}
	}
};

Producer::Producer(const ProducerConfig &config, int wakeFd) : impl_(std::make_unique<Impl>())
{
	auto conf = confNew(config.brokers, config.options, config.clientId, RD_KAFKA_EVENT_DR);
	auto *c = conf.get();
	confSet(c, "enable.idempotence", "true"); // implies acks=all, unlimited retries and order
	confSet(c, "linger.ms", 0);
	confSet(c, "retry.backoff.ms", 50);
	confSet(c, "message.timeout.ms", 0); // a broker may be away for a day; the queue's bound holds, not a clock
	confSet(c, "queue.buffering.max.messages", 100000);
	// A queue smaller than two chunks would take a large payload in single steps.
	confSet(c, "queue.buffering.max.kbytes",
			static_cast<int64_t>(std::max(config.queueBytes, 2 * kChunkBytes) / 1024));
	confSet(c, "message.max.bytes", kBatchBytes);
	confSet(c, "batch.size", kBatchBytes);
	confSet(c, "compression.codec", "lz4");
	impl_->client = clientNew(RD_KAFKA_PRODUCER, std::move(conf));
	impl_->queue.reset(rd_kafka_queue_get_main(impl_->client.get()));
	for (size_t i = 0; i < config.topics.size(); i++)
		if (!config.topics[i].empty())
			impl_->topics[i] = topicNew(impl_->client.get(), config.topics[i]);
	wakeStart(impl_->queue.get(), wakeFd);
}

Producer::~Producer() = default;

bool Producer::tryProduce(int topic, std::string_view payload, size_t &offset)
{
	auto *rkt = impl_->topics.at(static_cast<size_t>(topic)).get();
	if (!rkt)
		throw Error("this producer has no topic " + std::to_string(topic));

	const size_t chunks = payload.size() <= kChunkBytes ? 1 : (payload.size() + kChunkBytes - 1) / kChunkBytes;
	if (offset >= payload.size() && !payload.empty())
		return true;
	if (offset == 0)
		impl_->sequence++;
	do
	{
		auto part = payload.substr(offset, kChunkBytes);
		const size_t index = offset / kChunkBytes + 1;
		auto *bytes = const_cast<char *>(part.data());
		auto *opaque = opaqueOf(topic, index == chunks);
		rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
		if (chunks == 1)
		{
			if (rd_kafka_produce(rkt, 0, RD_KAFKA_MSG_F_COPY, bytes, part.size(), nullptr, 0, opaque) != 0)
				err = rd_kafka_last_error();
		}
		else
		{
			auto place = std::to_string(index) + "/" + std::to_string(chunks);
			auto name = impl_->nonce + "-" + std::to_string(impl_->sequence);
			err = rd_kafka_producev(impl_->client.get(), RD_KAFKA_V_RKT(rkt), RD_KAFKA_V_PARTITION(0),
									RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
									RD_KAFKA_V_VALUE(bytes, part.size()), RD_KAFKA_V_OPAQUE(opaque),
									RD_KAFKA_V_HEADER("mrsync-chunk", place.data(), static_cast<ssize_t>(place.size())),
									RD_KAFKA_V_HEADER("mrsync-chunk-of", name.data(), static_cast<ssize_t>(name.size())),
									RD_KAFKA_V_END);
		}
		if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
			return false;
		if (err)
			throw Error(std::string("cannot produce to \"") + rd_kafka_topic_name(rkt) + "\": " + rd_kafka_err2str(err));
		impl_->outstanding++;
		offset += part.size();
	} while (offset < payload.size());
	return true;
}

Producer::Served Producer::serve(int timeoutMs)
{
	impl_->drain(timeoutMs);
	auto served = std::move(impl_->collected);
	impl_->collected = {};
	impl_->collected.fatal = served.fatal; // once broken, always: the owner may look late
	return served;
}

bool Producer::flush(int timeoutMs)
{
	auto until = Clock::now() + std::chrono::milliseconds(timeoutMs);
	for (;;)
	{
		impl_->drain(impl_->outstanding ? remainingMs(until) : 0);
		if (impl_->collected.fatal)
			return false;
		if (impl_->outstanding == 0)
			return true;
		if (Clock::now() >= until)
			return false;
	}
}

} // namespace mrsync::kafka
