// The extractor: decodes the region's permanent slot in its own process and produces the events to the region's topics.
//
// Invariants: an LSN is confirmed to the slot only when every event before it is acknowledged by the broker and what was
// `seen` by then is stored (I2, I8); nothing of a user's transaction ever waits for it (I4): a full queue stops the
// decoding, WAL stays on disk. Memory is bounded by the producer's queue and logical_decoding_work_mem.
// Every start is a new incarnation. What is decoded again after a crash has the same ids and sequences.
#include "core/codec.h"
#include "core/ledger.h"
#include "core/mutant.h"
#include "kafka/producer.h"

#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/history.h"
#include "pg/override.h"
#include "pg/spi.h"
#include "plugin/host.h"
#include "worker/incarnation.h"
#include "worker/set_back.h"
#include "worker/worker.h"

#include <cstring>

extern "C"
{
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "utils/inval.h"
}

namespace mrsync
{

namespace
{

// How often the slot's position is moved. Shorter writes more WAL, longer decodes more again after a crash.
constexpr int64_t kConfirmInterval = 500 * 1000;
constexpr XLogRecPtr kMuchWal = 1024 * 1024; // of other databases, say
// Records decoded between two looks at the broker's answers.
constexpr int kRecordsPerRound = 512;

// Like read_local_xlog_page, but says "not yet" instead of sleeping: the caller waits on its latch.
int pageRead(XLogReaderState *state, XLogRecPtr page, int length, XLogRecPtr, char *buffer)
{
	TimeLineID current;
	XLogRecPtr flushed = version::flushedUpTo(&current);
	if (page + length > flushed)
		return -1;
	XLogReadDetermineTimeline(state, page, length, current);
	XLogRecPtr end = state->currTLI == current ? flushed : state->currTLIValidUntil;
	int count = page + XLOG_BLCKSZ <= end ? XLOG_BLCKSZ : static_cast<int>(end - page);
	WALReadError error;
	if (!WALRead(state, buffer, page, XLOG_BLCKSZ, state->currTLI, &error))
		WALReadRaiseError(&error);
	return count;
}

class Extractor : public PluginHost
{
public:
	explicit Extractor(Worker &worker) : worker_(worker), region_(worker.region) {}

	void run()
	{
		open();
		for (;;)
		{
			worker_.reloadSettings();
			bool more = decode();
			serve();
			checkpoint();
			if (!more)
				// without a commit nothing wakes us: the time-out is for checkpoints and for WAL of other databases
				worker_.wait(pending_ ? 100 : 1000);
			else
				worker_.wait(0);
		}
	}

	void event(AckLedger::Topic topic, std::string &&json, uint64_t) override
	{
		size_t offset = 0;
		while (!producer_->tryProduce(topic, json, offset))
		{
			serve();
			if (!full_)
				fullSince_ = steadyNow();
			full_ = true;
			worker_.wait(100);
			describe();
		}
		full_ = false;
		ledger_.sent(topic);
		++sent_;
		worker_.shared->events.fetch_add(1, std::memory_order_relaxed);
	}

	void lateStamp(uint32_t xid, Hlc committed) override
	{
		while (lateStampOf(region_, xid, committed))
		{
			workerWake(region_->coordinatorLatch);
			serve();
			worker_.state("this server's clock has gone back: the stamp of transaction " + std::to_string(xid) +
						  " is being written down");
			worker_.wait(10);
		}
	}

private:
	struct Checkpoint
	{
		XLogRecPtr lsn;
		uint64_t sequence;
		std::string seen;
		int64_t topicOffset; // at the topic's part before it, nothing stands behind `sequence`
	};

	void open()
	{
		// First: while another process of ours still held the slot, it could send under its incarnation behind our back.
		slotName(MyDatabaseId, slot_);
		SetBack setBack(worker_, slot_);
		setBack.find();
		setBack.renewSlot();
		acquireSlot();
		number_ = History::read().numberOf(version::flushedUpTo(nullptr));
		std::string brokers;
		{
			WorkerTransaction transaction;
			incarnation = openIncarnation(0); // durably, before anything is sent
			spi::Rows rows = spi::query("SELECT sequence, seen, (lsn - '0/0'::pg_lsn)::bigint, topic_offset FROM mrsync.extractor_position");
			spi::Rows local = spi::query("SELECT kafka_brokers FROM mrsync.region WHERE is_local");
			if (local.empty())
				throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the region's catalog rows are missing");
			sequence = std::stoull(*rows[0][0]);
			stored_ = Checkpoint{std::stoull(*rows[0][2]), sequence, *rows[0][1], std::stoll(*rows[0][3])};
			topicOffset_ = stored_.topicOffset;
			if (MyReplicationSlot->data.confirmed_flush > stored_.lsn && !mutated("forgets_holes"))
				rememberHole(MyReplicationSlot->data.confirmed_flush);
			auto decoded = decodeSeen(stored_.seen);
			if (auto *error = std::get_if<DecodeError>(&decoded))
				throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.extractor_position.seen is damaged").detail(error->message);
			seen = std::get<SeenVector>(std::move(decoded));
			brokers = *local[0][0];
			transaction.commit();
		}
		std::string topic = std::string("mrsync.") + region_->group + "." + region_->region;
		kafka::ProducerConfig config;
		config.brokers = brokers;
		config.options = guc::kafkaOptions;
		config.clientId = std::string("mrsync-") + region_->region;
		config.topics = {topic, topic + ".control"};
		config.queueBytes = static_cast<size_t>(guc::producerQueueMb) * 1024 * 1024;
		producer_ = std::make_unique<kafka::Producer>(config, worker_.wakeFd());
		// In this order: whoever waits for us takes no sequence of an earlier run for the newest.
		region_->decodedEnd.store(0);
		worker_.shared->sequence.store(sequence);
		region_->ackedSequence.store(sequence);

		pluginHostSet(this);
		pgCall(
			[&]
			{
				// In a transaction, so that this process keeps an ordinary xmin for its own ones.
				StartTransactionCommand();
				MemoryContext former = MemoryContextSwitchTo(TopMemoryContext);
				XLogReaderRoutine routine;
				memset(&routine, 0, sizeof routine);
				routine.page_read = pageRead;
				routine.segment_open = wal_segment_open;
				routine.segment_close = wal_segment_close;
				auto nothing = [](LogicalDecodingContext *, XLogRecPtr, TransactionId, bool) {};
				context_ = CreateDecodingContext(InvalidXLogRecPtr, NIL, false, &routine, nothing, nothing, nullptr);
				MemoryContextSwitchTo(former);
				CommitTransactionCommand();
				// What was cached until now is the present; decoding looks at the past. Our own transactions between
				// two records touch mrsync's tables only, whose definitions do not change under a running worker.
				InvalidateSystemCaches();
				XLogBeginRead(context_->reader, MyReplicationSlot->data.restart_lsn);
				before_shmem_exit([](int, Datum region)
								  { reinterpret_cast<RegionShared *>(region)->extractorLatch.store(nullptr); },
								  PointerGetDatum(region_));
			});
		region_->extractorLatch.store(MyLatch);
	}

	// Holds the slot from here on. One that is lost is waited for: to end and start again would not bring it back.
	void acquireSlot()
	{
		const std::string name = std::string("replication slot \"") + slot_ + "\" ";
		for (;;)
		{
			switch (pgCall([&] { return slotState(slot_); }))
			{
			case SlotState::Free:
				pgCall([&] { version::acquireSlot(slot_); });
				worker_.state("");
				return;
			case SlotState::InUse:
				worker_.state(name + "is in use by another process");
				break;
			case SlotState::Missing:
				worker_.degraded(name + "does not exist any more: what this region commits is not sent — SELECT "
								 "mrsync.slot_recreate(), then SELECT mrsync.resend()");
				break;
			case SlotState::Invalidated:
				worker_.degraded(name + "has been invalidated, since it kept more WAL than max_slot_wal_keep_size: what this "
								 "region commits is not sent — SELECT mrsync.slot_recreate(), then SELECT mrsync.resend()");
				break;
			}
			worker_.wait(1000);
			worker_.reloadSettings();
		}
	}

	// The slot begins behind what was sent: it is another one, or was advanced by hand. What was committed in between
	// will not be sent, and may not be passed over in silence: the next transaction follows, for its readers, one which
	// they do not have (core/gap.h). Inside a transaction.
	void rememberHole(XLogRecPtr begin)
	{
		pgCall(
			[&]
			{
				ereport(LOG, (errmsg("what this region committed between WAL positions %X/%X and %X/%X was not sent",
									 LSN_FORMAT_ARGS(stored_.lsn), LSN_FORMAT_ARGS(begin)),
							  errhint("SELECT mrsync.resend() sends what the other regions miss.")));
			});
		// Above every commit record before the slot's beginning, and below the first that it can have.
		stored_.lsn = begin;
		stored_.sequence = sequence = std::max(sequence, History::read().sequenceOf(begin - 1));
		store(stored_);
	}

	// Inside a transaction.
	void store(const Checkpoint &checkpoint)
	{
		spi::execute("UPDATE mrsync.extractor_position SET sequence = $1::bigint, seen = $2, lsn = '0/0'::pg_lsn + $3::numeric, topic_offset = $4::bigint",
					 {std::to_string(checkpoint.sequence), checkpoint.seen, std::to_string(checkpoint.lsn), std::to_string(checkpoint.topicOffset)});
	}

	// Decodes what is there, some records at a time. True when there may be more.
	bool decode()
	{
		uint64_t wanted = region_->lastCommitEnd.load();
		bool more = pgCall(
			[&]() -> bool
			{
				// a commit with synchronous_commit = off wakes us before its WAL is flushed
				if (wanted > version::flushedUpTo(nullptr))
					XLogFlush(wanted);
				XLogReaderState *reader = context_->reader;
				for (int i = 0; i < kRecordsPerRound; ++i)
				{
					char *error = nullptr;
					XLogRecord *record = XLogReadRecord(reader, &error);
					if (!record)
					{
						if (error)
							elog(ERROR, "could not read WAL at %X/%X: %s", static_cast<uint32>(reader->EndRecPtr >> 32),
								 static_cast<uint32>(reader->EndRecPtr), error);
						return false;
					}
					uint64_t before = sequence;
					uint64_t sentBefore = sent_;
					LogicalDecodingProcessRecord(context_, reader);
					if (sent_ != sentBefore)
						ledger_.commit(reader->EndRecPtr, sequence);
					if (sequence != before)
						produced();
				}
				return true;
			});
		region_->decodedEnd.store(context_->reader->EndRecPtr);
		if (region_->waiters.load() > 0)
			ConditionVariableBroadcast(&region_->acks);
		tellCoordinator();
		return more;
	}

	// Once for each watermark that it waits for, and each heartbeat after which something is produced.
	void tellCoordinator()
	{
		uint64_t needs = region_->watermarkNeeds.load();
		uint64_t said = region_->heartbeatSequence.load();
		bool settles = needs != 0 && needs != toldNeeds_ && context_->reader->EndRecPtr >= needs;
		bool isNews = said != toldAfter_ && sequence > said;
		if (settles)
			toldNeeds_ = needs;
		if (isNews)
			toldAfter_ = said;
		if (settles || isNews)
			workerWake(region_->coordinatorLatch);
	}

	void produced()
	{
		WorkerShared *shared = worker_.shared;
		shared->progressAt.store(GetCurrentTimestamp(), std::memory_order_relaxed);
		shared->hlc.store(hlc.value, std::memory_order_relaxed);
		shared->committedAt.store(committedAt, std::memory_order_relaxed);
		shared->transactions.fetch_add(1, std::memory_order_relaxed);
		shared->sequence.store(sequence);
	}

	void serve()
	{
		kafka::Producer::Served served = producer_->serve(0);
		for (int topic = 0; topic < 2; ++topic)
			for (uint64_t i = 0; i < served.acked[topic]; ++i)
				ledger_.acked(static_cast<AckLedger::Topic>(topic));
		topicOffset_ = std::max(topicOffset_, served.end[AckLedger::Data]);
		if (served.acked[0] + served.acked[1] > 0)
			trouble_.clear();
		else if (served.lastError)
			trouble_ = *served.lastError;
		if (served.fatal)
			throw PgError(ERRCODE_CONNECTION_FAILURE, "the Kafka producer failed: " + *served.fatal);
		acknowledged_ = ledger_.confirm();
		region_->ackedSequence.store(std::max(acknowledged_.sequence, stored_.sequence));
		describe();
	}

	void describe()
	{
		if (std::string peer = followsAnother(region_, number_); !peer.empty())
			worker_.degraded("another server sends in this one's place: region " + peer + " has applied a transaction of this region that "
							 "this server does not have; what is committed here is applied nowhere — stop one of the two for good; to go "
							 "on with this one, restart it then");
		else if (ledger_.drained())
			worker_.state("");
		else if (full_ && steadyNow() - fullSince_ > USECS_PER_SEC)
			worker_.state("the broker does not take events" + (trouble_.empty() ? "" : ": " + trouble_));
		else if (!trouble_.empty())
			worker_.state("the broker does not acknowledge: " + trouble_);
	}

	// Confirms to the slot in steps: note where we are, wait until all before it is acknowledged, store `seen`, confirm.
	void checkpoint()
	{
		int64_t now = steadyNow();
		// What the checkpoint itself writes is no reason for the next one.
		bool due = now - checkedAt_ >= kConfirmInterval && (sent_ != checkedSent_ || context_->reader->EndRecPtr - stored_.lsn > kMuchWal);
		if (!pending_ && due && context_->reader->EndRecPtr > stored_.lsn)
		{
			checkedSent_ = sent_;
			pending_ = Checkpoint{context_->reader->EndRecPtr, sequence, encodeSeen(seen), topicOffset_};
			ledger_.commit(pending_->lsn, sequence);
			acknowledged_ = ledger_.confirm();
		}
		if (!pending_ || acknowledged_.endLsn < pending_->lsn)
			return;
		{
			// first, so that the slot is never ahead of it
			WorkerTransaction transaction;
			store(*pending_);
			transaction.commit();
		}
		pgCall(
			[&]
			{
				LogicalConfirmReceivedLocation(pending_->lsn);
				ReplicationSlotMarkDirty();
			});
		stored_ = std::move(*pending_);
		pending_.reset();
		checkedAt_ = now;
	}

	Worker &worker_;
	RegionShared *region_;
	uint32_t number_ = 0; // of the region's history, that this server writes
	std::unique_ptr<kafka::Producer> producer_;
	LogicalDecodingContext *context_ = nullptr;
	AckLedger ledger_;
	AckLedger::Confirmed acknowledged_;
	char slot_[NAMEDATALEN];
	int64_t topicOffset_ = 0; // behind the newest acknowledged record of the data topic
	Checkpoint stored_;
	std::optional<Checkpoint> pending_;
	int64_t checkedAt_ = 0; // steadyNow(), as is fullSince_
	uint64_t sent_ = 0; // events handed to the producer
	uint64_t toldNeeds_ = 0;		   // see tellCoordinator
	uint64_t toldAfter_ = UINT64_MAX;
	uint64_t checkedSent_ = 0; // of those, at the newest checkpoint
	bool full_ = false;
	int64_t fullSince_ = 0;
	std::string trouble_;
};

} // namespace

void extractorRun(Worker &worker) { Extractor(worker).run(); }

} // namespace mrsync
