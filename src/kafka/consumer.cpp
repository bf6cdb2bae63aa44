// librdkafka's simple consumer: one partition, our own queue, no group and so no group coordinator to wait for.
//
// Payloads in chunks: a writer sends one at a time and nothing between its chunks. But the last records of a writer that
// has died may land late, among those of its successor, and must neither spoil the successor's payload nor be lost if
// they turn out to matter. So each payload is put together by its own name, and the offset from which to go on never
// passes the beginning of one that is not complete.
//
// Two habits of librdkafka 2.0.2 shape this file:
// - its consume_batch waits until a batch is full or the time is up, so the wait is for one message and the batch is
//   taken without waiting;
// - once its queue has reached its bound, it looks at it again only when something wakes its broker thread, up to a
//   second later: drained in 50 ms, it would stand still for 950. A seek to where we are wakes that thread.
#include "kafka/consumer.h"

#include "kafka/handle.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <unistd.h>
#include <vector>

namespace mrsync::kafka
{

namespace
{
using Clock = std::chrono::steady_clock;
constexpr size_t kBatch = 2048;
// How long a topic that was there may be missing before that is final: a broker that has just started may not know all.
constexpr auto kTopicMissing = std::chrono::seconds(5);
// How often a topic that has shown nothing yet is asked about, and how long that may hold up poll().
constexpr auto kLookEvery = std::chrono::seconds(2);
constexpr int kLookMs = 200;
// Between two chunks of a payload come at most the records that dead writers had under way: each five requests of 10,000
// at most (librdkafka's max.in.flight, batch.num.messages). A payload without a chunk for longer is never finished.
constexpr uint64_t kMostBetweenChunks = 200000;

struct Chunk
{
	size_t index = 1; // 1-based
	size_t count = 1;
	std::string_view of; // the payload's name; may be empty
};

std::string_view headerOf(const rd_kafka_headers_t *headers, const char *name)
{
	const void *value = nullptr;
	size_t size = 0;
	if (rd_kafka_header_get_last(headers, name, &value, &size) || !value)
		return {};
	return {static_cast<const char *>(value), size};
}

// A header that is not of the form "i/n" with 1 <= i <= n is no chunk's: the record is handed out as it is, and the
// reader's decoder has its say.
Chunk chunkOf(const rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers = nullptr;
	if (rd_kafka_message_headers(message, &headers) || !headers)
		return {};
	auto place = headerOf(headers, "mrsync-chunk");
	auto *end = place.data() + place.size();
	Chunk chunk;
	auto index = std::from_chars(place.data(), end, chunk.index);
	if (index.ec != std::errc{} || index.ptr == end || *index.ptr != '/')
		return {};
	auto count = std::from_chars(index.ptr + 1, end, chunk.count);
	if (count.ec != std::errc{} || count.ptr != end || chunk.index < 1 || chunk.index > chunk.count)
		return {};
	chunk.of = headerOf(headers, "mrsync-chunk-of");
	return chunk;
}
} // namespace

struct Consumer::Impl
{
	std::string topicName;
	int wakeFd = -1;
	ClientPtr client;
	QueuePtr mainQueue; // errors and logs
	QueuePtr queue;		// records
	TopicPtr topic;
	bool started = false;

	std::vector<rd_kafka_message_t *> batch; // taken from librdkafka; those before `next` are used up
	size_t next = 0;
	int64_t fetchNext = -1; // the offset after the newest message taken; -1: none yet
	size_t boundBytes = 0;
	size_t boundMessages = 0;
	size_t takenBytes = 0; // since the last seek
	size_t takenMessages = 0;

	struct Assembly // a payload that is arriving in chunks
	{
		std::string bytes;
		size_t count = 0;
		size_t has = 0;
		int64_t offset = 0;	 // of its first chunk
		uint64_t newest = 0; // its newest chunk, as a number of `messages`
	};
	std::map<std::string, Assembly, std::less<>> assemblies; // by name; hardly ever two
	uint64_t messages = 0;

	bool existed = false;
	bool troubled = false; // something was said to be wrong, and nothing has come since
	bool answered = false; // in this poll
	std::optional<Clock::time_point> missingSince;
	Clock::time_point nextLook = Clock::now() + kLookEvery;
	bool ended = false;
	std::optional<std::string> fatal; // stays
	bool offsetLost = false;
	std::optional<std::string> lastError;

	~Impl()
	{
		// In this order: whatever refers to the client is gone before it is destroyed, or that waits for ever.
		for (; next < batch.size(); next++)
			rd_kafka_message_destroy(batch[next]);
		wakeStop(queue.get());
		wakeStop(mainQueue.get());
		if (started)
			rd_kafka_consume_stop(topic.get(), 0); // a word between threads, not with the broker
		topic.reset();
		queue.reset();
		mainQueue.reset();
		client.reset();
	}

	void fail(std::string reason)
	{
		if (!fatal)
			fatal = std::move(reason);
	}

	void errorMessage(const rd_kafka_message_t *message)
	{
		const char *text = rd_kafka_message_errstr(message);
		std::string said = text && *text ? text : rd_kafka_err2str(message->err);
		switch (message->err)
		{
			case RD_KAFKA_RESP_ERR__PARTITION_EOF:
				arrived();
				ended = true;
				return;
			case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
			case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
				offsetLost = true;
				fail("topic \"" + topicName + "\" has no offset " +
					 std::to_string(fetchNext >= 0 ? fetchNext : message->offset) + ": " + said);
				return;
			case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
				fail("\"" + topicName + "\" is not a valid topic name: " + said);
				return;
			// A batch that cannot be read would be skipped: events lost in silence.
			case RD_KAFKA_RESP_ERR__BAD_MSG:
			case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
			case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
			case RD_KAFKA_RESP_ERR_INVALID_MSG:
				fail("topic \"" + topicName + "\" cannot be read at offset " + std::to_string(message->offset) + ": " +
					 said);
				return;
			case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
			case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
			case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
				if (!missingSince)
					missingSince = Clock::now();
				return;
			default:
				break;
		}
		if (isAuthorisation(message->err))
			fail("topic \"" + topicName + "\": " + said);
		else
			lastError = std::move(said);
	}

	void arrived()
	{
		existed = true;
		missingSince.reset();
	}

	// One record out of the message, or nothing yet.
	std::optional<Record> recordOf(const rd_kafka_message_t *message)
	{
		auto chunk = chunkOf(message);
		std::string_view bytes(static_cast<const char *>(message->payload), message->payload ? message->len : 0);
		++messages;
		std::erase_if(assemblies,
					  [this](const auto &entry) { return messages - entry.second.newest > kMostBetweenChunks; });
		if (chunk.count == 1)
			return Record{message->offset, resumeAt(message->offset + 1), std::string(bytes)};
		auto at = assemblies.find(chunk.of);
		if (chunk.index == 1)
			at = assemblies.insert_or_assign(std::string(chunk.of), Assembly{{}, chunk.count, 0, message->offset, 0}).first;
		else if (at == assemblies.end() || chunk.count != at->second.count || chunk.index != at->second.has + 1)
			// The middle of a payload whose beginning is not here: retention has taken it, or we started behind it.
			return std::nullopt;
		Assembly &assembly = at->second;
		assembly.bytes.append(bytes);
		assembly.has = chunk.index;
		assembly.newest = messages;
		if (assembly.has < assembly.count)
			return std::nullopt;
		Record record{assembly.offset, 0, std::move(assembly.bytes)};
		assemblies.erase(at); // with its memory: one large value must not stay as long as the link lives
		record.nextOffset = resumeAt(message->offset + 1);
		return record;
	}

	// From where a reader finds everything that was not handed out up to here.
	int64_t resumeAt(int64_t next) const
	{
		for (const auto &[name, assembly] : assemblies)
			next = std::min(next, assembly.offset);
		return next;
	}

	// The next messages from librdkafka, waiting at most timeoutMs for the first. False when there are none.
	bool refill(int timeoutMs)
	{
		batch.resize(kBatch);
		next = 0;
		size_t have = 0;
		auto got = rd_kafka_consume_batch_queue(queue.get(), 0, batch.data(), kBatch);
		if (got > 0)
			have = static_cast<size_t>(got);
		else if (timeoutMs > 0)
		{
			if (rd_kafka_message_t *first = rd_kafka_consume_queue(queue.get(), timeoutMs))
			{
				batch[have++] = first;
				got = rd_kafka_consume_batch_queue(queue.get(), 0, batch.data() + 1, kBatch - 1);
				have += got > 0 ? static_cast<size_t>(got) : 0;
			}
		}
		batch.resize(have);
		return have > 0;
	}

	void unstall()
	{
		if (ended || fatal || fetchNext < 0 || (takenBytes < boundBytes / 2 && takenMessages < boundMessages / 2) ||
			rd_kafka_queue_length(queue.get()) > 0)
			return;
		takenBytes = takenMessages = 0;
		rd_kafka_seek(topic.get(), 0, fetchNext, 0); // asynchronous; what it makes arrive twice is dropped by offset
	}

	// librdkafka keeps retrying what is wrong with a topic as a whole (absent, forbidden) and says nothing of it.
	// That a broker is back shows in nothing while a topic is idle: so after trouble it is asked, too.
	void look()
	{
		if ((existed && !missingSince && !troubled) || Clock::now() < nextLook)
			return;
		nextLook = Clock::now() + kLookEvery;
		const rd_kafka_metadata_t *found = nullptr;
		if (rd_kafka_metadata(client.get(), 0, topic.get(), &found, kLookMs))
			return; // no broker: the main queue says so
		troubled = false;
		answered = true;
		MetadataPtr metadata(found);
		for (int i = 0; i < metadata->topic_cnt; i++)
		{
			auto err = metadata->topics[i].err;
			if (topicName != metadata->topics[i].topic || err == RD_KAFKA_RESP_ERR_NO_ERROR)
				continue;
			rd_kafka_message_t message{};
			message.err = err;
			errorMessage(&message);
		}
	}

	void troubles()
	{
		while (EventPtr event{rd_kafka_queue_poll(mainQueue.get(), 0)})
		{
			auto trouble = troubleOf(client.get(), event.get());
			if (trouble.fatal)
				fail(std::move(*trouble.fatal));
			if (trouble.passing && !(trouble.vague && troubled))
			{
				lastError = std::move(trouble.passing);
				troubled = true;
			}
		}
	}
};

Consumer::Consumer(const ConsumerConfig &config, int64_t offset, int wakeFd) : impl_(std::make_unique<Impl>())
{
	if (config.topic.empty())
		throw Error("no topic is named");
	static_assert(fromTail(1) == RD_KAFKA_OFFSET_TAIL(1));
	if (offset < 0 && offset != kFromBeginning && offset != kFromEnd && offset >= kTailBase)
		throw Error("offset " + std::to_string(offset) + " is none");
	impl_->topicName = config.topic;
	impl_->wakeFd = wakeFd;
	impl_->boundBytes = std::max<size_t>(config.queueBytes, 1024 * 1024);
	// Each message costs librdkafka some 400 bytes beside its own: small ones are bounded by number.
	impl_->boundMessages = std::max<size_t>(impl_->boundBytes / 128, 1000);

	auto conf = confNew(config.brokers, config.options, config.clientId, 0);
	auto *c = conf.get();
	confSet(c, "enable.auto.commit", "false");
	confSet(c, "enable.auto.offset.store", "false");
	confSet(c, "auto.offset.reset", "error"); // the default jumps to the end, silently
	confSet(c, "enable.partition.eof", "true");
	confSet(c, "isolation.level", "read_uncommitted"); // no transactions here; someone's open one must not hold us
	confSet(c, "check.crcs", "true");
	confSet(c, "fetch.wait.max.ms", config.fetchWaitMaxMs);
	confSet(c, "fetch.error.backoff.ms", 20);
	confSet(c, "fetch.message.max.bytes", static_cast<int64_t>(std::min<size_t>(impl_->boundBytes / 4, 4 << 20)));
	confSet(c, "queued.max.messages.kbytes", static_cast<int64_t>(impl_->boundBytes / 1024));
	confSet(c, "queued.min.messages", static_cast<int64_t>(std::min<size_t>(impl_->boundMessages, 10000000)));
	// A topic that did not exist is looked for again this often.
	confSet(c, "topic.metadata.refresh.interval.ms", 2000);
	impl_->client = clientNew(RD_KAFKA_CONSUMER, std::move(conf));
	impl_->mainQueue.reset(rd_kafka_queue_get_main(impl_->client.get()));
	impl_->queue.reset(rd_kafka_queue_new(impl_->client.get()));
	impl_->topic = topicNew(impl_->client.get(), config.topic);
	wakeStart(impl_->mainQueue.get(), wakeFd);
	wakeStart(impl_->queue.get(), wakeFd);
	auto from = offset == kFromBeginning ? RD_KAFKA_OFFSET_BEGINNING : offset == kFromEnd ? RD_KAFKA_OFFSET_END : offset;
	if (rd_kafka_consume_start_queue(impl_->topic.get(), 0, from, impl_->queue.get()) != 0)
		throw Error("topic \"" + config.topic + "\": " + rd_kafka_err2str(rd_kafka_last_error()));
	impl_->started = true;
}

Consumer::~Consumer() = default;

Consumer::Polled Consumer::poll(size_t max, int timeoutMs, const std::function<void(Record &&)> &sink)
{
	auto &me = *impl_;
	Polled polled;
	me.ended = me.answered = false;
	me.lastError.reset();

	auto until = Clock::now() + std::chrono::milliseconds(std::max(timeoutMs, 0));
	while (polled.records < max && !me.fatal)
	{
		if (me.next == me.batch.size())
		{
			// The end of the topic is news too, not something to wait beyond.
			auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
			auto wait = polled.records > 0 || me.ended ? 0 : static_cast<int>(std::max<decltype(left)>(left, 0));
			if (!me.refill(wait))
				break;
		}
		MessagePtr message(me.batch[me.next++]);
		if (message->err)
		{
			me.errorMessage(message.get());
			continue;
		}
		if (message->offset < me.fetchNext)
			continue;
		me.arrived();
		me.fetchNext = message->offset + 1;
		me.takenBytes += message->len;
		me.takenMessages++;
		if (auto record = me.recordOf(message.get()))
		{
			message.reset();
			sink(std::move(*record));
			polled.records++;
		}
	}
	if (me.next == me.batch.size())
		me.unstall();
	me.troubles();
	me.look();
	if (me.existed && me.missingSince && Clock::now() - *me.missingSince > kTopicMissing)
		me.fail("topic \"" + me.topicName + "\" is gone");

	// what librdkafka says besides matters less
	polled.missing = me.missingSince.has_value();
	if (polled.missing)
		me.lastError = "topic \"" + me.topicName + "\" does not exist";
	me.troubled = me.troubled && polled.records == 0 && !me.ended;
	polled.atEnd = me.ended;
	polled.answered = me.answered;
	polled.fatal = me.fatal;
	polled.offsetLost = me.offsetLost;
	polled.lastError = std::move(me.lastError);
	// librdkafka wakes only when an empty queue fills: what is left over now needs a wake of our own.
	if (me.wakeFd >= 0 && !me.fatal && (me.next < me.batch.size() || rd_kafka_queue_length(me.queue.get()) > 0))
		[[maybe_unused]] auto written = ::write(me.wakeFd, "k", 1); // full is as good as written
	return polled;
}

} // namespace mrsync::kafka
