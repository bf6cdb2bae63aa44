#include "worker/set_back.h"

#include "core/codec.h"
#include "core/ledger.h"
#include "core/mutant.h"
#include "kafka/consumer.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/incarnation.h"

#include <algorithm>

extern "C"
{
#include "utils/pg_lsn.h"
}

namespace mrsync
{

namespace
{

constexpr int64_t kTailFirst = 16; // records from the end of a topic: mostly the very last one decides
constexpr int64_t kTailLongest = 1000000;

} // namespace

void SetBack::find()
{
	if (region_->historyKnown.load())
		return;
	XLogRecPtr sentUpTo = InvalidXLogRecPtr;
	uint64_t applied = 0; // by a peer
	{
		WorkerTransaction transaction;
		spi::Rows rows = spi::query("SELECT r.kafka_brokers, (p.lsn - '0/0'::pg_lsn)::bigint, greatest(p.first_incarnation, (SELECT max(incarnation) FROM "
									"mrsync.recovery)), (SELECT coalesce(max(sequence), 0) FROM mrsync.acknowledgement a WHERE "
									"a.source_region = r.region_id) FROM mrsync.region r, mrsync.extractor_position p WHERE r.is_local");
		transaction.commit();
		if (rows.empty())
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the region's catalog rows are missing");
		brokers_ = *rows[0][0];
		sentUpTo = std::stoull(*rows[0][1]);
		first_ = std::stoll(*rows[0][2]);
		applied = std::stoull(*rows[0][3]);
	}
	history_ = History::read();
	isFollowed_ = applied >> 48 > history_.numberOf(version::flushedUpTo(nullptr));
	topic_ = std::string("mrsync.") + region_->group + "." + region_->region;
	Tail data, control;
	int64_t incarnation = 0;
	for (int64_t highest = 0;; highest = std::max(data.incarnation, control.incarnation) + 1)
	{
		WorkerTransaction transaction;
		incarnation = openIncarnation(highest);
		transaction.commit();
		sendFence(incarnation);
		data = tailOf(topic_);
		control = tailOf(topic_ + ".control");
		if (std::max(data.incarnation, control.incarnation) < incarnation)
			break; // else it was none: another server had opened one by a clock that was ahead
	}
	// What is on its way back to us may have been written with stamps that this server's clock has not come to yet.
	if (Hlc newest = std::max(data.hlc, control.hlc); newest.value - GetCurrentTimestamp() <= static_cast<int64_t>(guc::maxClockSkewSeconds) * USECS_PER_SEC)
		clockAdopt(region_, newest);
	if (data.lacks || control.lacks)
		begin(data.lacks ? *data.lacks : *control.lacks, data, control, incarnation);
	else if (history_.numberOf(sentUpTo) != history_.numberOf(version::flushedUpTo(nullptr)) &&
			 pgCall([&] { return slotState(slot_.c_str()); }) == SlotState::Missing)
		begin("its timeline has changed, and its replication slot is gone", data, control, incarnation);
	region_->historyKnown.store(true);
}

// What keeps the extractor from its work is more than that, when its slot is lost.
void SetBack::waitForBroker(const std::string &trouble)
{
	SlotState slot = pgCall([&] { return slotState(slot_.c_str()); });
	if (slot == SlotState::Missing || slot == SlotState::Invalidated)
		worker_.degraded("replication slot \"" + slot_ + "\" " +
						 (slot == SlotState::Missing ? "does not exist" : "has been invalidated") +
						 "; what is to be done hangs on what the region's topics hold, and the broker does not say it: " + trouble);
	else
		worker_.state("the broker does not say what the region's topics hold: " + trouble);
}

void SetBack::sendFence(int64_t incarnation)
{
	kafka::ProducerConfig config;
	config.brokers = brokers_;
	config.options = guc::kafkaOptions;
	config.clientId = std::string("mrsync-") + region_->region;
	config.topics = {topic_, topic_ + ".control"};
	kafka::Producer producer(config, worker_.wakeFd());
	std::string json;
	const ChangeEvent event = fence(region_->region, incarnation, GetCurrentTimestamp());
	fence_ = event.id;
	encode(event, json);
	for (int topic : {0, 1})
		for (size_t offset = 0; !producer.tryProduce(topic, json, offset);)
			worker_.wait(100);
	uint64_t missing = 2;
	std::string trouble = "no answer yet";
	for (int64_t began = steadyNow(); missing > 0;)
	{
		worker_.reloadSettings();
		kafka::Producer::Served served = producer.serve(0);
		missing -= served.acked[0] + served.acked[1];
		if (served.fatal)
			throw PgError(ERRCODE_CONNECTION_FAILURE, "the Kafka producer failed: " + *served.fatal);
		if (served.lastError)
			trouble = *served.lastError;
		if (missing > 0 && steadyNow() - began > USECS_PER_SEC)
			waitForBroker(trouble);
		if (missing > 0)
			worker_.wait(100);
	}
}

// Looks further and further back, until a record tells.
SetBack::Tail SetBack::tailOf(const std::string &topic)
{
	for (int64_t count = kTailFirst;; count *= 16)
	{
		Tail tail;
		bool isAll = count > kTailLongest;
		if (readTail(topic, isAll ? kafka::kFromBeginning : kafka::fromTail(count), tail) || isAll)
			return tail;
	}
}

// False: no record told.
bool SetBack::readTail(const std::string &topic, int64_t from, Tail &tail)
{
	kafka::ConsumerConfig config;
	config.brokers = brokers_;
	config.options = guc::kafkaOptions;
	config.clientId = std::string("mrsync-") + region_->region;
	config.topic = topic;
	config.fetchWaitMaxMs = 50; // the end is what it is after
	auto consumer = std::make_unique<kafka::Consumer>(config, from, worker_.wakeFd());
	bool isKnown = false;
	std::string trouble = "no answer yet";
	int64_t began = steadyNow();
	for (;;)
	{
		worker_.reloadSettings();
		kafka::Consumer::Polled polled = consumer->poll(1000, 0,
														[&](kafka::Record &&record)
														{
															auto decoded = decode(record.payload);
															if (auto *event = std::get_if<ChangeEvent>(&decoded))
																judge(*event, tail, isKnown);
														});
		if (polled.missing || (polled.atEnd && polled.records == 0 && from == kafka::kFromBeginning))
			return true; // there is nothing
		if (polled.atEnd)
			return isKnown;
		if (polled.offsetLost && from != kafka::kFromBeginning)
			return readTail(topic, kafka::kFromBeginning, tail);
		if (polled.fatal)
			throw PgError(ERRCODE_DATA_EXCEPTION, "topic " + topic + " cannot be read: " + *polled.fatal);
		if (polled.lastError)
			trouble = *polled.lastError;
		if (polled.records == 0 && steadyNow() - began > USECS_PER_SEC)
			waitForBroker(trouble);
		worker_.wait(polled.records > 0 ? 0 : 100);
	}
}

void SetBack::judge(const ChangeEvent &event, Tail &tail, bool &isKnown)
{
	const Envelope &tx = event.tx;
	tail.isFenced |= event.id == fence_;
	if (event.id != fence_)
		tail.incarnation = std::max(tail.incarnation, tx.incarnation);
	if (event.table == kFenceTable)
		return;
	tail.sequence = std::max(tail.sequence, tx.sequence);
	if (event.region == region_->region)
		tail.hlc = std::max(tail.hlc, event.hlc);
	if (tx.incarnation < tail.incarnation || tail.isFenced)
		return; // its sender had been replaced
	if (tx.incarnation < first_)
	{
		isKnown = true; // of another region of this name, or of before the newest recovery, which has cared for it
		tail.lacks.reset();
		return;
	}
	bool has = history_.reaches(tx.sequence) && (tx.xid == 0 || inTransaction([&] { return hasCommitted(tx.xid, event.committedAt); }));
	if (has && (tx.xid == 0 || isFollowed_))
		return; // a resent part: another may stand at its place
	isKnown = true;
	tail.lacks.reset();
	if (!has)
		tail.lacks = "its topics hold transaction " + std::to_string(tx.sequence) + ", which it does not have";
}

void SetBack::begin(const std::string &why, const Tail &data, const Tail &control, int64_t incarnation)
{
	const uint64_t highest = std::max(data.sequence, control.sequence);
	const XLogRecPtr from = GetXLogInsertRecPtr();
	const uint32_t number = std::max(history_.numberOf(from), static_cast<uint32_t>(highest >> 48) + (data.lacks || control.lacks ? 1 : 0));
	const uint32_t shift = mutated("same_number") ? 0 : number - history_.timelineOf(from);
	WorkerTransaction transaction;
	// The watermark counts where nobody has sent under a higher number: while another server did, this one's transactions were
	// ignored, though it went on to promise.
	spi::execute("INSERT INTO mrsync.recovery (begin_lsn, number_shift, incarnation, reason, from_hlc, after_sequence) SELECT '0/0'::pg_lsn + "
				 "$1::numeric, $2::int, $3::bigint, $4, h.watermark, h.sequence FROM (VALUES (0)) nothing LEFT JOIN mrsync.heartbeat h ON "
				 "h.region_id = $5 AND h.sequence >> 48 >= $6::bigint",
				 {std::to_string(from), std::to_string(shift), std::to_string(incarnation), why, std::string(region_->region),
				  std::to_string(highest >> 48)});
	spi::execute("INSERT INTO mrsync.link_position (source_region, topic, next_offset, incarnation, sequence, hlc, applied_at) SELECT $1, "
				 "$2, CASE WHEN $3::boolean THEN 0 ELSE topic_offset END, 0, sequence, 0::bigint::mrsync.hlc, clock_timestamp() FROM "
				 "mrsync.extractor_position ON CONFLICT (source_region) DO UPDATE SET next_offset = excluded.next_offset, incarnation = "
				 "excluded.incarnation, sequence = excluded.sequence, event_offset = NULL, event_id = NULL",
				 {std::string(region_->region), topic_, isFollowed_ ? "true" : "false"});
	transaction.commit();
	region_->takingBack.store(true);
	workerWake(region_->coordinatorLatch);
	pgCall(
		[reason = why.c_str(), at = from]
		{
			ereport(LOG, (errmsg("this region was set back: %s", reason),
						  errdetail("From WAL position %X/%X on it goes on under a new number of its history.", LSN_FORMAT_ARGS(at)),
						  errhint("SELECT * FROM mrsync.recovery shows how it catches up.")));
		});
}

void SetBack::renewSlot()
{
	WorkerTransaction looking;
	bool isDue = *spi::query("SELECT EXISTS (SELECT FROM mrsync.recovery WHERE slot_lsn IS NULL)")[0][0] == "t";
	looking.commit();
	if (!isDue)
		return;
	worker_.state("replication slot \"" + slot_ + "\" is being made anew, as this region was set back: that waits for all transactions now "
				  "open, prepared ones included");
	WorkerTransaction dropping;
	spi::query("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1::name", {slot_});
	dropping.commit();
	WorkerTransaction making;
	std::string begin = *spi::query("SELECT lsn FROM pg_create_logical_replication_slot($1::name, 'mrsync')", {slot_})[0][0];
	making.commit();
	WorkerTransaction noting;
	spi::execute("UPDATE mrsync.recovery SET slot_lsn = $1::pg_lsn WHERE slot_lsn IS NULL", {begin});
	noting.commit();
	worker_.state("");
}

} // namespace mrsync
