// The applier of one incoming link: reads the source region's topic from the position in mrsync.link_position, gathers
// whole transactions, and applies each as one local transaction: rows, dedup record, conflict log and position together
// (I7). So a crash anywhere replays harmlessly, and synchronous_commit is off.
//
// Nothing is skipped (I8). At its start it makes sure that the record applied last still stands where it stood. If not,
// the topic was made anew, or has lost its tail, or its head up to there: then it reads the whole topic, and the chain of
// sequences says whether anything is missing. While it runs the chain says so; where nothing comes any more, the source's
// heartbeats say how far the topic should reach.
//
// The local transaction carries the source's stamp as its commit timestamp and the source region's replication origin;
// the version of every row it writes is found from its xmin ever after.
// What fails and may succeed later by itself is retried; what fails otherwise is parked event by event in
// mrsync.apply_error, and the rest goes on.
#include "core/codec.h"
#include "core/ledger.h"
#include "kafka/consumer.h"

#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/apply.h"
#include "worker/deadlock_watch.h"
#include "worker/inbox.h"
#include "worker/parking.h"
#include "worker/progress.h"
#include "worker/worker.h"

#include <algorithm>
#include <unordered_map>

extern "C"
{
#include "commands/trigger.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "replication/origin.h"
}

namespace mrsync
{

namespace
{

constexpr size_t kMostRecords = 1000; // taken from the consumer at a time
constexpr long kRetryFirstMs = 10;
constexpr long kRetryLongestMs = 5000;
// How long a topic may end before the place that its source's heartbeat names: the two come on different ways.
constexpr int64_t kTailPatience = 5 * USECS_PER_SEC;

// Errors that say "not now", not "never".
bool isRetryable(const PgError &error)
{
	int state = error.sqlState();
	int category = ERRCODE_TO_CATEGORY(state);
	return category == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||	// 40: deadlock, serialization
		   category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||		// 53: disk, memory, connections
		   category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) ||					// 58: I/O
		   category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||		// 57: canceled by somebody
		   state == ERRCODE_LOCK_NOT_AVAILABLE || state == ERRCODE_READ_ONLY_SQL_TRANSACTION;
}

class Applier
{
public:
	explicit Applier(Worker &worker)
		: worker_(worker), region_(worker.region), inbox_(static_cast<size_t>(guc::applierWorkMemKb) * 1024),
		  chain_(0, 0), apply_(region_)
	{
	}

	void run()
	{
		open();
		for (;;)
		{
			worker_.reloadSettings();
			apply_.sweep();
			kafka::Consumer::Polled polled =
				consumer_->poll(kMostRecords, 0, [&](kafka::Record &&record) { receive(std::move(record)); });
			if (anchor_ && polled.offsetLost)
				lost_ = "does not reach back to offset " + std::to_string(anchor_->offset);
			else if (anchor_ && polled.atEnd)
				lost_ = "ends before offset " + std::to_string(anchor_->offset);
			if (lost_)
			{
				readFromBeginning();
				continue;
			}
			if (polled.fatal)
				throw PgError(ERRCODE_DATA_EXCEPTION, "topic " + topic_ + " cannot be read on at offset " +
														  std::to_string(nextOffset_) + ": " + *polled.fatal)
					.hint("What lies between is not in the topic any more; nothing is skipped.");
			if (polled.missing)
				trouble_ = *polled.lastError;
			else if (polled.records > 0 || polled.atEnd || polled.answered)
				trouble_.clear();
			else if (polled.lastError)
				trouble_ = "no answer from the broker: " + *polled.lastError;
			bool tailLost = isTailLost(polled);
			worker_.shared->caughtUp.store(!tailLost && isCaughtUp(polled));
			if (tailLost)
				worker_.degraded("topic " + topic_ + " ends before the newest transactions of region " + worker_.peer +
								 ": the last one applied here is " + std::to_string(chain_.sequence()) +
								 ", the topic should reach to " + std::to_string(tailHead_) + history_);
			else if (polled.missing && chain_.sequence() != 0)
				worker_.degraded(trouble_);
			else
				worker_.state(trouble_);
			long pause = std::min(acknowledge(polled.records == 0), retryParked());
			worker_.wait(polled.records > 0 ? 0 : pause);
		}
	}

private:
	struct Place // of the last record of a transaction, in the topic
	{
		int64_t offset;
		int64_t next; // where to go on after it
	};
	struct Anchor // the record that was applied last
	{
		int64_t offset;
		Uuid event;
	};

	void open()
	{
		pgCall(
			[]
			{
				auto set = [](const char *name, const char *value)
				{ SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE); };
				set("session_replication_role", "replica");
				set("synchronous_commit", "off");
				set("plan_cache_mode", "force_generic_plan");
				deadlockWatchInit();
			});
		int64_t offset = kafka::kFromBeginning;
		{
			WorkerTransaction transaction;
			spi::Rows peers = spi::query("SELECT kafka_brokers, link_origin FROM mrsync.region WHERE region_id = $1",
										 {worker_.peer});
			if (peers.empty() || !peers[0][1])
				throw PgError(ERRCODE_UNDEFINED_OBJECT, "region " + worker_.peer + " is not known here");
			consumerConfig_.brokers = *peers[0][0];
			origin_ = static_cast<RepOriginId>(std::stoul(*peers[0][1]));
			topic_ = std::string("mrsync.") + region_->group + "." + worker_.peer;
			spi::Rows position =
				spi::query("SELECT next_offset, incarnation, sequence, hlc::bigint, event_offset, event_id "
						   "FROM mrsync.link_position WHERE source_region = $1",
						   {worker_.peer});
			if (!position.empty())
			{
				nextOffset_ = offset = std::stoll(*position[0][0]);
				if (position[0][4] && position[0][5])
				{
					anchor_ = Anchor{std::stoll(*position[0][4]), *parseUuid(*position[0][5])};
					offset = std::min(offset, anchor_->offset);
				}
				chain_ = SequenceChain(std::stoll(*position[0][1]), std::stoull(*position[0][2]));
				knownIncarnation_ = chain_.incarnation();
				highest_ = Hlc{std::stoll(*position[0][3])};
				acknowledged_ = 0; // say it again: the peer may have missed it
			}
			worker_.shared->sequence.store(chain_.sequence());
			worker_.shared->hlc.store(highest_.value);
			transaction.commit();
		}
		originRegister(region_, origin_, worker_.peer);
		pgCall([&] { version::setupOriginSession(origin_); });
		pgCall(
			[&]
			{
				eventContext_ = AllocSetContextCreate(TopMemoryContext, "mrsync event", ALLOCSET_DEFAULT_SIZES);
			});
		consumerConfig_.options = guc::kafkaOptions;
		consumerConfig_.clientId = std::string("mrsync-") + region_->region;
		consumerConfig_.topic = topic_;
		consumer_ = std::make_unique<kafka::Consumer>(consumerConfig_, offset, worker_.wakeFd());
	}

	// The topic is not the one that was read up to here, or not all of it is left. What it holds may still go on, without
	// a gap, from what was applied: the chain decides.
	void readFromBeginning()
	{
		history_ = "; it " + *lost_ + ", up to where it had been read: it was made anew, or cut off";
		pgCall(
			[topic = topic_.c_str(), what = lost_->c_str()]
			{ ereport(LOG, (errmsg("topic %s %s, up to where it had been read: it is read from its beginning", topic, what))); });
		lost_.reset();
		anchor_.reset();
		nextOffset_ = 0;
		atEnd_ = false;
		gate_ = TransactionGate();
		inbox_.clear();
		consumer_.reset();
		consumer_ = std::make_unique<kafka::Consumer>(consumerConfig_, kafka::kFromBeginning, worker_.wakeFd());
	}

	// Does the topic still hold what was applied last? An end of the topic behind it does not tell: a new topic may have
	// grown longer.
	void checkAnchor(const kafka::Record &record)
	{
		if (record.offset < anchor_->offset || (record.offset > anchor_->offset && record.nextOffset <= anchor_->offset))
			return; // it is still to come, or not complete yet
		auto decoded = decode(record.payload);
		auto *event = std::get_if<ChangeEvent>(&decoded);
		if (record.offset == anchor_->offset && event && event->id == anchor_->event)
			anchor_.reset();
		else
			lost_ = "holds something else at offset " + std::to_string(anchor_->offset);
	}

	// The source says that more is in its topic than can be read there.
	bool isTailLost(const kafka::Consumer::Polled &polled)
	{
		atEnd_ = polled.atEnd || (atEnd_ && polled.records == 0);
		const PeerShared *peer = peerShared(region_, worker_.peer, false);
		uint64_t head = peer ? peer->headSequence.load() : 0;
		TimestampTz now = GetCurrentTimestamp();
		if (!atEnd_ || !trouble_.empty() || head <= chain_.sequence())
			tailHead_ = 0;
		else if (tailHead_ == 0)
		{
			tailHead_ = head;
			tailSince_ = now;
		}
		return tailHead_ != 0 && now - tailSince_ > kTailPatience;
	}

	// The broker says where a topic ends only half a second after we got there; the source's own word may be sooner.
	bool isCaughtUp(const kafka::Consumer::Polled &polled) const
	{
		if (!inbox_.empty() || !trouble_.empty())
			return false;
		if (polled.atEnd || (polled.records == 0 && worker_.shared->caughtUp.load()))
			return true;
		const PeerShared *peer = peerShared(region_, worker_.peer, false);
		return peer && polled.records < kMostRecords && chain_.sequence() >= peer->headSequence.load();
	}

	void receive(kafka::Record &&record)
	{
		if (anchor_)
			checkAnchor(record);
		if (lost_ || record.offset < nextOffset_)
			return;
		auto decoded = decode(record.payload);
		if (auto *error = std::get_if<DecodeError>(&decoded))
			throw PgError(ERRCODE_DATA_CORRUPTED, "the record at offset " + std::to_string(record.offset) + " of topic " +
													  topic_ + " is no event: " + error->message);
		ChangeEvent &event = std::get<ChangeEvent>(decoded);
		if (event.region != worker_.peer)
			throw PgError(ERRCODE_DATA_CORRUPTED, "topic " + topic_ + " holds an event of region " + event.region);
		switch (chain_.judge(event.tx))
		{
		case SequenceChain::Verdict::Next:
			break;
		case SequenceChain::Verdict::Duplicate:
			requireSameHistory(event);
			return;
		case SequenceChain::Verdict::Stale:
			return;
		case SequenceChain::Verdict::Gap:
			throw missing(event.tx, record.offset);
		}
		switch (gate_.judge(event.tx))
		{
		case TransactionGate::Verdict::Begin:
			inbox_.clear();
			break;
		case TransactionGate::Verdict::Continue:
			break;
		case TransactionGate::Verdict::Ignore:
			return;
		case TransactionGate::Verdict::Broken:
			throw PgError(ERRCODE_DATA_EXCEPTION, "a transaction of region " + worker_.peer + " is incomplete in topic " +
													  topic_)
				.detail("The record at offset " + std::to_string(record.offset) + " is event " +
						std::to_string(event.tx.position) + " of its transaction; the one before it is missing.");
		}
		bool last = event.tx.last;
		const Place place{record.offset, record.nextOffset};
		inbox_.add(std::move(event), std::move(record.payload));
		if (!last)
			return;
		waitForClock(inbox_.last().hlc);
		clockAdopt(region_, inbox_.last().hlc);
		applyUntilDone(place);
		inbox_.clear();
	}

	PgError missing(const Envelope &tx, int64_t offset) const
	{
		// of a transaction whose beginning is gone, nothing can be applied
		std::string whole = "What can be read, from offset " + std::to_string(offset) + " on, follows sequence " +
							std::to_string(tx.position == 1 ? tx.previous : tx.sequence) + history_;
		if (chain_.sequence() == 0)
			return PgError(ERRCODE_DATA_EXCEPTION, "topic " + topic_ + " does not begin with the first transaction of region " +
													   worker_.peer)
				.detail(whole + ": what was before has expired, or the topic was made anew.")
				.hint("A new link needs the whole topic. Its retention is the time in which links can be added.");
		return PgError(ERRCODE_DATA_EXCEPTION, "transactions of region " + worker_.peer + " are missing in topic " + topic_)
			.detail(whole + ", but the last one applied here is " + std::to_string(chain_.sequence()) + ".");
	}

	// A repeated transaction of a new incarnation must be one that was applied here. Else the region's name has come back
	// with another database behind it, whose WAL positions say nothing about ours.
	void requireSameHistory(const ChangeEvent &event)
	{
		if (event.tx.incarnation == knownIncarnation_ || event.tx.position != 1)
			return;
		WorkerTransaction transaction;
		spi::Rows found = spi::query("SELECT EXISTS (SELECT FROM mrsync.applied_event WHERE event_id = $1::uuid), EXISTS "
									 "(SELECT FROM mrsync.applied_event WHERE region_id = $2 AND event_id < $1::uuid)",
									 {toText(event.id), worker_.peer});
		transaction.commit();
		bool applied = *found[0][0] == "t";
		bool reachesBack = *found[0][1] == "t"; // dedup records are kept for days
		if (!applied && reachesBack)
			throw PgError(ERRCODE_DATA_EXCEPTION,
						  "topic " + topic_ + " goes on with another history than that of the region " + worker_.peer + " known here")
				.detail("Its incarnation " + std::to_string(event.tx.incarnation) + " begins with sequence " +
						std::to_string(event.tx.sequence) + ", which is not above the last one applied here (" +
						std::to_string(chain_.sequence()) + "), with a transaction that was never applied here.")
				.hint("If another database was made region " + worker_.peer + ", give it a region_id that was never used. If it was "
					  "restored from a backup, its newest transactions are in the topic, but not in it.");
		knownIncarnation_ = event.tx.incarnation;
	}

	// A stamp that is too far ahead is neither adopted nor applied: adopted, it would drive this region's clock away;
	// applied but not adopted, a local write after it could be stamped below it (I11).
	void waitForClock(Hlc hlc)
	{
		for (;;)
		{
			int64_t ahead = hlc.value - GetCurrentTimestamp();
			int64_t allowed = static_cast<int64_t>(guc::maxClockSkewSeconds) * USECS_PER_SEC;
			if (ahead <= allowed)
				return;
			worker_.state("the next transaction is stamped " + std::to_string(ahead / USECS_PER_SEC) +
						  " s ahead of this server's clock (mrsync.max_clock_skew is " +
						  std::to_string(guc::maxClockSkewSeconds) + " s)");
			worker_.wait(std::min<int64_t>((ahead - allowed) / 1000 + 1, 1000));
			worker_.reloadSettings();
		}
	}

	void applyUntilDone(const Place &place)
	{
		bool oneByOne = false;
		for (long pause = kRetryFirstMs;; pause = std::min(2 * pause, kRetryLongestMs))
		{
			try
			{
				applyOnce(place, oneByOne);
				break;
			}
			catch (const PgError &error)
			{
				abort();
				if (isRetryable(error))
				{
					if (pause > 500)
						worker_.state("trying again: " + error.sqlStateText() + " " + error.message());
					worker_.wait(pause);
				}
				else if (!oneByOne)
					oneByOne = true;
				else
					throw;
			}
		}
		const ChangeEvent &last = inbox_.last();
		nextOffset_ = place.next;
		chain_.applied(last.tx.sequence);
		knownIncarnation_ = chain_.incarnation();
		highest_ = std::max(highest_, last.hlc);
		lastCommittedAt_ = last.committedAt;
		WorkerShared *shared = worker_.shared;
		shared->hlc.store(highest_.value, std::memory_order_relaxed);
		shared->committedAt.store(last.committedAt, std::memory_order_relaxed);
		shared->progressAt.store(GetCurrentTimestamp(), std::memory_order_relaxed);
		shared->transactions.fetch_add(1, std::memory_order_relaxed);
		shared->events.fetch_add(inbox_.count(), std::memory_order_relaxed);
		shared->sequence.store(last.tx.sequence);
	}

	// One source transaction as one local transaction. oneByOne: an event that fails is parked, the others go on.
	void applyOnce(const Place &place, bool oneByOne)
	{
		begin();
		parkedRows_.clear();
		const SeenVector seen = inbox_.first().tx.seen.value_or(SeenVector{});
		const ChangeEvent &last = inbox_.last();
		if (recordApplied({inbox_.first().id, last.id, worker_.peer, last.tx.sequence, last.hlc, encodeSeen(seen)}))
			inbox_.forEach(
				[&](const ChangeEvent &event)
				{
					if (oneByOne)
						applyOrPark(event, seen);
					else
						apply_.event(event, seen);
					MemoryContextReset(eventContext_);
				});
		recordPosition({worker_.peer, topic_, place.next, chain_.incarnation(), last.tx.sequence,
						std::max(highest_, last.hlc), last.id, last.committedAt, place.offset});
		commit(last.tx.sequence, last.hlc);
	}

	void begin()
	{
		clockApplierMode(true);
		pgCall(
			[&]
			{
				replorigin_session_origin = origin_;
				SetCurrentStatementStartTimestamp();
				StartTransactionCommand();
				deadlockWatchStart();
				PushActiveSnapshot(GetTransactionSnapshot());
				if (SPI_connect() != SPI_OK_CONNECT)
					elog(ERROR, "SPI_connect failed");
				MemoryContextSwitchTo(eventContext_);
				// a deferred trigger would run at commit, as a superuser instead of as the table's owner
				ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);
				AfterTriggerSetState(immediate);
			});
		apply_.sweep();
	}

	void commit(uint64_t sequence, Hlc hlc)
	{
		pgCall(
			[&]
			{
				SPI_finish();
				PopActiveSnapshot();
				// only now: an abort before would have moved the origin (PostgreSQL 16 and later)
				replorigin_session_origin_lsn = sequence;
				replorigin_session_origin_timestamp = hlc.value;
				CommitTransactionCommand();
				deadlockWatchStop();
				replorigin_session_origin_lsn = InvalidXLogRecPtr;
				replorigin_session_origin_timestamp = 0;
				replorigin_session_origin = InvalidRepOriginId;
				MemoryContextReset(eventContext_);
			});
		clockApplierMode(false);
	}

	void abort()
	{
		deadlockWatchStop();
		replorigin_session_origin_lsn = InvalidXLogRecPtr;
		replorigin_session_origin_timestamp = 0;
		AbortCurrentTransaction();
		replorigin_session_origin = InvalidRepOriginId;
		clockApplierMode(false);
		MemoryContextReset(eventContext_);
	}

	void applyOrPark(const ChangeEvent &event, const SeenVector &seen)
	{
		// The order of a transaction's events on one row must hold: behind a parked one the others wait, too.
		std::string row = event.table + (event.pk ? encodeImage(*event.pk) : "");
		if (auto earlier = event.pk ? parkedRows_.find(row) : parkedRows_.end(); earlier != parkedRows_.end())
		{
			park(worker_.peer, event, seen,
				 PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						 "an earlier event of the same transaction and row is parked"),
				 earlier->second);
			earlier->second = toText(event.id);
			worker_.shared->parked.fetch_add(1, std::memory_order_relaxed);
			return;
		}
		ResourceOwner owner = CurrentResourceOwner;
		pgCall([] { BeginInternalSubTransaction(nullptr); });
		MemoryContextSwitchTo(eventContext_);
		try
		{
			apply_.event(event, seen);
			pgCall([] { ReleaseCurrentSubTransaction(); });
			MemoryContextSwitchTo(eventContext_);
			CurrentResourceOwner = owner;
			return;
		}
		catch (const PgError &error)
		{
			pgCall([] { RollbackAndReleaseCurrentSubTransaction(); });
			apply_.locksGone();
			MemoryContextSwitchTo(eventContext_);
			CurrentResourceOwner = owner;
			if (isRetryable(error))
				throw;
			park(worker_.peer, event, seen, error, std::nullopt);
			parkedRows_.emplace(std::move(row), toText(event.id));
		}
		worker_.shared->parked.fetch_add(1, std::memory_order_relaxed);
	}

	// Tells the source how far we are; at most every mrsync.ack_interval. Returns how long it can wait.
	long acknowledge(bool idle)
	{
		uint64_t applied = chain_.sequence();
		if (applied == acknowledged_ || applied == 0)
			return 1000;
		TimestampTz now = GetCurrentTimestamp();
		long since = (now - acknowledgedAt_) / 1000;
		if (since < guc::ackIntervalMs)
			return guc::ackIntervalMs - since;
		WorkerTransaction transaction;
		int64_t lag = idle && worker_.shared->caughtUp.load() ? 0 : std::max<int64_t>(0, (now - lastCommittedAt_) / 1000);
		spi::execute("INSERT INTO mrsync.acknowledgement AS a (region_id, source_region, hlc, sequence, event_id, "
					 "committed_at, lag_ms) SELECT $1, $2, $3::mrsync.hlc, p.sequence, p.event_id, p.committed_at, "
					 "$4::bigint FROM mrsync.link_position p WHERE p.source_region = $2 "
					 "ON CONFLICT (region_id, source_region) DO UPDATE SET hlc = excluded.hlc, sequence = excluded.sequence, "
					 "event_id = excluded.event_id, committed_at = excluded.committed_at, lag_ms = excluded.lag_ms",
					 {std::string(region_->region), worker_.peer, toText(clockTick(region_)), std::to_string(lag)});
		transaction.commit();
		acknowledged_ = applied;
		acknowledgedAt_ = now;
		return 1000;
	}

	// Tries parked events again, each in a transaction of its own with its own stamp; some at a time, between what comes
	// from the topic. Returns how long it can wait.
	long retryParked()
	{
		TimestampTz now = GetCurrentTimestamp();
		if (now < retryAt_)
			return (retryAt_ - now) / 1000 + 1;
		bool some = false;
		for (const std::string &id : parkedDue(worker_.peer))
		{
			try
			{
				begin();
				std::optional<ChangeEvent> event = parkedEvent(id);
				if (!event)
				{
					abort();
					continue;
				}
				apply_.event(*event, event->tx.seen.value_or(SeenVector{}), true);
				unpark(id);
				commit(InvalidXLogRecPtr, event->hlc);
				some = true;
			}
			catch (const PgError &error)
			{
				abort();
				parkedFailedAgain(id, error);
			}
		}
		retryAt_ = some ? 0 : GetCurrentTimestamp() + USECS_PER_SEC;
		return some ? 0 : 1000;
	}

	Worker &worker_;
	RegionShared *region_;
	kafka::ConsumerConfig consumerConfig_;
	std::unique_ptr<kafka::Consumer> consumer_;
	std::string topic_;
	std::optional<Anchor> anchor_;	  // to be met again first
	std::optional<std::string> lost_; // why it was not
	std::string history_;			  // the same, for those who read messages
	bool atEnd_ = false;			  // of the topic
	uint64_t tailHead_ = 0;			  // the sequence that the topic should reach, and does not; 0: it does
	TimestampTz tailSince_ = 0;
	RepOriginId origin_ = InvalidRepOriginId;
	int64_t nextOffset_ = 0;
	Inbox inbox_;
	SequenceChain chain_;
	int64_t knownIncarnation_ = 0; // the newest whose history is the one known here
	TransactionGate gate_;
	Apply apply_;
	Hlc highest_;
	int64_t lastCommittedAt_ = 0;
	uint64_t acknowledged_ = 0;
	TimestampTz acknowledgedAt_ = 0;
	TimestampTz retryAt_ = 0;
	std::string trouble_;
	MemoryContext eventContext_ = nullptr;
	// of the transaction that is applied one by one: the event_id of the last one parked
	std::unordered_map<std::string, std::string> parkedRows_;
};

} // namespace

void applierRun(Worker &worker) { Applier(worker).run(); }

} // namespace mrsync
