#include "worker/topic_reader.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guard.h"

#include <algorithm>

namespace mrsync
{

namespace
{

// How long a topic may end before the place that its source's heartbeat names: the two come on different ways.
constexpr int64_t kTailPatience = 5 * USECS_PER_SEC;

} // namespace

void TopicReader::readFrom(int64_t offset, const std::optional<Applied> &last, bool orBeginning)
{
	last_ = last;
	orBeginning_ = orBeginning;
	from_ = next_ = std::max<int64_t>(offset, 0);
	atEnd_ = false;
	consumer_.reset(); // one at a time
	int64_t start = last ? std::min(offset, last->offset) : offset;
	consumer_ = std::make_unique<kafka::Consumer>(config_, start, worker_.wakeFd());
}

TopicReader::Read TopicReader::read(size_t most, const std::function<void(kafka::Record &&)> &sink)
{
	kafka::Consumer::Polled polled = consumer_->poll(most, 0,
													 [&](kafka::Record &&record)
													 {
														 if (last_)
															 checkLast(record);
														 if (lost_ || record.offset < from_)
															 return;
														 next_ = record.nextOffset;
														 sink(std::move(record));
													 });
	Read read{polled.records, polled.atEnd, false};
	if ((last_ || orBeginning_) && polled.offsetLost)
		lost_ = "does not reach offset " + std::to_string(last_ ? last_->offset : from_);
	else if (last_ && polled.atEnd)
		lost_ = "ends before offset " + std::to_string(last_->offset);
	if (lost_)
	{
		pgCall(
			[topic = config_.topic.c_str(), what = lost_->c_str()]
			{ ereport(LOG, (errmsg("topic %s %s, up to where it had been read: it is read from its beginning", topic, what))); });
		history_ = "; it " + *lost_ + ", up to where it had been read: it was made anew, or cut off";
		lost_.reset();
		readFrom(kafka::kFromBeginning);
		read.restarts = true;
		return read;
	}
	if (polled.fatal)
		throw PgError(ERRCODE_DATA_EXCEPTION, "topic " + config_.topic + " cannot be read on at offset " +
												  std::to_string(next_) + ": " + *polled.fatal)
			.hint("What lies between is not in the topic any more; nothing is skipped.");
	missing_ = polled.missing;
	if (polled.missing)
		trouble_ = *polled.lastError;
	else if (polled.records > 0 || polled.atEnd || polled.answered)
		trouble_.clear();
	else if (polled.lastError)
		trouble_ = "no answer from the broker: " + *polled.lastError;
	atEnd_ = polled.atEnd || (atEnd_ && polled.records == 0);
	return read;
}

void TopicReader::checkLast(const kafka::Record &record)
{
	if (record.offset < last_->offset || (record.offset > last_->offset && record.nextOffset <= last_->offset))
		return; // it is still to come, or not complete yet
	auto decoded = decode(record.payload);
	auto *event = std::get_if<ChangeEvent>(&decoded);
	if (record.offset == last_->offset && event && event->id == last_->event)
		last_.reset();
	else
		lost_ = "holds something else at offset " + std::to_string(last_->offset);
}

uint64_t TopicReader::missingTail(uint64_t read)
{
	const PeerShared *peer = peerShared(worker_.region, worker_.peer, false);
	uint64_t head = peer ? peer->headSequence.load() : 0;
	int64_t now = steadyNow();
	if (!atEnd_ || !trouble_.empty() || head <= read)
		tail_ = 0;
	else if (tail_ == 0 || read >= tail_)
	{
		tail_ = head;
		tailSince_ = now;
	}
	return now - tailSince_ > kTailPatience ? tail_ : 0;
}

} // namespace mrsync
