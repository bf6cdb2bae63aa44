// The applier of one incoming link: reads the source region's topic from the position in mrsync.link_position, gathers
// whole transactions, and applies each as one local transaction: rows, dedup record, conflict log and position together
// (I7). So a crash anywhere replays harmlessly, and synchronous_commit is off.
//
// Nothing is skipped (I8): at a gap in the chain of sequences it stays, says so, and looks behind it for a resend that has
// what is missing (core/gap.h).
// What fails and may succeed later by itself is retried; what fails otherwise is parked event by event in
// mrsync.apply_error, and the rest goes on.
#include "core/codec.h"
#include "core/gap.h"
#include "core/ledger.h"

#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/inbox.h"
#include "worker/parking.h"
#include "worker/progress.h"
#include "worker/replay.h"
#include "worker/topic_reader.h"
#include "worker/worker.h"

#include <algorithm>

namespace mrsync
{

namespace
{

constexpr size_t kMostRecords = 1000; // taken from the topic at a time
constexpr long kRetryFirstMs = 10;
constexpr long kRetryLongestMs = 5000;
constexpr long kAcknowledgeAgainMs = 10000;

class Applier
{
public:
	explicit Applier(Worker &worker)
		: worker_(worker), region_(worker.region), inbox_(static_cast<size_t>(guc::applierWorkMemKb) * 1024),
		  chain_(0, 0)
	{
	}

	void run()
	{
		open();
		for (;;)
		{
			worker_.reloadSettings();
			replay_->sweep();
			TopicReader::Read read =
				reader_->read(kMostRecords, [&](kafka::Record &&record) { receive(std::move(record)); });
			if (read.restarts)
				forgetGathered();
			if (mended_)
				goOnBehindGap();
			describe(read);
			long pause = std::min(acknowledge(read.records == 0), retryParked());
			worker_.wait(read.records > 0 ? 0 : pause);
		}
	}

private:
	struct Place // of the last record of a transaction, in the topic
	{
		int64_t offset;
		int64_t next; // where to go on after it
	};
	struct Gap
	{
		int64_t offset;		 // of the record behind it
		int64_t incarnation; // of that record
		GapWatch watch;
		std::string what; // for a person
		std::string note; // why a resend that was met does not mend it
	};

	void open()
	{
		kafka::ConsumerConfig config;
		int64_t offset = kafka::kFromBeginning;
		std::optional<TopicReader::Applied> last;
		RepOriginId origin = InvalidRepOriginId;
		{
			WorkerTransaction transaction;
			spi::Rows peers = spi::query("SELECT kafka_brokers, link_origin FROM mrsync.region WHERE region_id = $1",
										 {worker_.peer});
			if (peers.empty() || !peers[0][1])
				throw PgError(ERRCODE_UNDEFINED_OBJECT, "region " + worker_.peer + " is not known here");
			config.brokers = *peers[0][0];
			origin = static_cast<RepOriginId>(std::stoul(*peers[0][1]));
			topic_ = std::string("mrsync.") + region_->group + "." + worker_.peer;
			spi::Rows position =
				spi::query("SELECT next_offset, incarnation, sequence, hlc::bigint, event_offset, event_id "
						   "FROM mrsync.link_position WHERE source_region = $1",
						   {worker_.peer});
			if (!position.empty())
			{
				offset = std::stoll(*position[0][0]);
				chain_ = SequenceChain(std::stoll(*position[0][1]), std::stoull(*position[0][2]));
				knownIncarnation_ = chain_.incarnation();
				highest_ = Hlc{std::stoll(*position[0][3])};
				if (position[0][4] && position[0][5])
					last = TopicReader::Applied{std::stoll(*position[0][4]), *parseUuid(*position[0][5])};
				acknowledged_ = 0; // say it again: the peer may have missed it
			}
			worker_.shared->sequence.store(chain_.sequence());
			worker_.shared->hlc.store(highest_.value);
			transaction.commit();
		}
		originRegister(region_, origin, worker_.peer);
		replay_ = std::make_unique<Replay>(worker_, origin);
		config.options = guc::kafkaOptions;
		config.clientId = std::string("mrsync-") + region_->region;
		config.topic = topic_;
		reader_ = std::make_unique<TopicReader>(worker_, config);
		reader_->readFrom(offset, last);
	}

	void describe(const TopicReader::Read &read)
	{
		const std::string &trouble = reader_->trouble();
		uint64_t tail = reader_->missingTail(chain_.sequence());
		worker_.shared->caughtUp.store(!gap_ && tail == 0 && isCaughtUp(read));
		const std::string wayOn = " — SELECT mrsync.resend() in region " + worker_.peer +
								  " sends what is missing; then the link goes on by itself";
		if (gap_)
			worker_.degraded(gap_->what + gap_->note + wayOn + (trouble.empty() ? "" : " — " + trouble));
		else if (tail != 0)
			worker_.degraded("topic " + topic_ + " ends before the newest transactions of region " + worker_.peer +
							 ": it should reach sequence " + std::to_string(tail) + ", the last one applied here is " +
							 std::to_string(chain_.sequence()) + reader_->history() + wayOn);
		else if (reader_->isMissing() && chain_.sequence() != 0)
			worker_.degraded(trouble);
		else
			worker_.state(trouble);
	}

	// The broker says where a topic ends only half a second after we got there; the source's own word may be sooner.
	bool isCaughtUp(const TopicReader::Read &read) const
	{
		if (!inbox_.empty() || !reader_->trouble().empty())
			return false;
		if (read.end || (read.records == 0 && worker_.shared->caughtUp.load()))
			return true;
		const PeerShared *peer = peerShared(region_, worker_.peer, false);
		return peer && read.records < kMostRecords && chain_.sequence() >= peer->headSequence.load();
	}

	// ---- records

	void receive(kafka::Record &&record)
	{
		if (mended_)
			return;
		auto decoded = decode(record.payload);
		if (auto *error = std::get_if<DecodeError>(&decoded))
			throw PgError(ERRCODE_DATA_CORRUPTED, "the record at offset " + std::to_string(record.offset) + " of topic " +
													  topic_ + " is no event: " + error->message);
		ChangeEvent &event = std::get<ChangeEvent>(decoded);
		if (event.region != worker_.peer && !event.tx.resent)
			throw PgError(ERRCODE_DATA_CORRUPTED, "topic " + topic_ + " holds an event of region " + event.region);
		if (!gap_ && !isNext(event, record.offset))
			return;
		if (gap_)
		{
			behindGap(std::move(event), std::move(record));
			return;
		}
		bool last = event.tx.last;
		const Place place{record.offset, record.nextOffset};
		inbox_.add(std::move(event), std::move(record.payload));
		if (!last)
			return;
		if (!inbox_.first().tx.resent)
		{
			waitForClock(inbox_.last().hlc);
			clockAdopt(region_, inbox_.last().hlc);
		}
		else if (inbox_.last().tx.sequence > resentUpTo_)
			applyResent();
		untilDone([&](bool oneByOne) { applyOnce(place, oneByOne); });
		progressed();
		inbox_.clear();
	}

	// Is the record to be gathered? Sets gap_ where something is missing before it.
	bool isNext(const ChangeEvent &event, int64_t offset)
	{
		switch (chain_.judge(event.tx))
		{
		case SequenceChain::Verdict::Next:
			break;
		case SequenceChain::Verdict::Duplicate:
			requireSameHistory(event);
			return false;
		case SequenceChain::Verdict::Stale:
			return false;
		case SequenceChain::Verdict::Gap:
			openGap(event.tx, offset,
					chain_.sequence() == 0
						? "topic " + topic_ + " does not begin with the first transaction of region " + worker_.peer
						: "transactions of region " + worker_.peer + " are missing in topic " + topic_ +
							  ": the last one applied here is " + std::to_string(chain_.sequence()));
			return true;
		}
		switch (gate_.judge(event.tx))
		{
		case TransactionGate::Verdict::Begin:
			inbox_.clear();
			return true;
		case TransactionGate::Verdict::Continue:
			return true;
		case TransactionGate::Verdict::Ignore:
			return false;
		case TransactionGate::Verdict::Broken:
			break;
		}
		openGap(event.tx, offset,
				"a transaction of region " + worker_.peer + " is incomplete in topic " + topic_ + ": what stands before its event " +
					std::to_string(event.tx.position) + " is missing");
		return true;
	}

	void forgetGathered()
	{
		gate_ = TransactionGate();
		inbox_.clear();
	}

	// A repeated transaction of a new incarnation must be one that was applied here. Else the region's name has come back
	// with another database behind it, whose WAL positions say nothing about ours.
	void requireSameHistory(const ChangeEvent &event)
	{
		if (event.tx.incarnation == knownIncarnation_ || event.tx.position != 1 || event.tx.resent)
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

	// ---- gaps

	void openGap(const Envelope &tx, int64_t offset, const std::string &what)
	{
		gap_.emplace(Gap{offset, tx.incarnation, GapWatch(tx),
						 what + ". What can be read, from offset " + std::to_string(offset) + " on, follows sequence " +
							 std::to_string(missingUpTo(tx)) + reader_->history(),
						 ""});
		inbox_.clear();
		pgCall([text = gap_->what.c_str(), source = worker_.peer.c_str()]
			   { ereport(LOG, (errmsg("the link from region %s stops: %s", source, text))); });
	}

	// Of what stands behind the gap only what is sent again counts, until it is known to be all.
	void behindGap(ChangeEvent &&event, kafka::Record &&record)
	{
		TransactionGate::Verdict verdict = gap_->watch.judge(event.tx);
		if (verdict == TransactionGate::Verdict::Ignore)
			return;
		if (verdict == TransactionGate::Verdict::Begin)
			inbox_.clear();
		const Envelope tx = event.tx;
		if (event.table == kResendTable)
			checkMark(event);
		else if (tx.resent)
			inbox_.add(std::move(event), std::move(record.payload));
		if (!tx.last || mended_)
			return;
		if (tx.resent)
		{
			applyResent();
			gap_->watch.applied(*tx.resent);
		}
		gap_->watch.complete(tx);
		resentUpTo_ = tx.sequence;
		inbox_.clear();
	}

	void checkMark(const ChangeEvent &event)
	{
		auto read = resendMark(event);
		auto *mark = std::get_if<ResendMark>(&read);
		if (mark && gap_->watch.mends(*mark))
			mended_ = true;
		else if (!mark)
			gap_->note = "; the end of a resend cannot be read: " + std::get<std::string>(read);
		else if (mark->from.value != 0)
			gap_->note = "; the resend " + toText(mark->resend) + " left out what is not above " + toText(mark->from);
		else if (mark->covers < gap_->watch.sequence())
			gap_->note = "; the resend " + toText(mark->resend) + " had begun before what is missing was committed";
		else
			gap_->note = "; the resend " + toText(mark->resend) + " is not complete in the topic";
	}

	// Everything that the missing transactions had done is here.
	void goOnBehindGap()
	{
		pgCall([source = worker_.peer.c_str(), offset = static_cast<long long>(gap_->offset)]
			   { ereport(LOG, (errmsg("the link from region %s goes on at offset %lld: what was missing has been sent again", source, offset))); });
		chain_ = SequenceChain(gap_->incarnation, gap_->watch.sequence());
		knownIncarnation_ = gap_->incarnation;
		int64_t offset = gap_->offset;
		gap_.reset();
		mended_ = false;
		forgetGathered();
		reader_->readFrom(offset);
	}

	// ---- applying

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

	template <typename Attempt> void untilDone(Attempt &&attempt)
	{
		bool oneByOne = false;
		for (long pause = kRetryFirstMs;; pause = std::min(2 * pause, kRetryLongestMs))
		{
			try
			{
				attempt(oneByOne);
				return;
			}
			catch (const PgError &error)
			{
				replay_->abort();
				if (Replay::isRetryable(error))
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
	}

	// One source transaction as one local transaction. oneByOne: an event that fails is parked, the others go on.
	// Of a resent part the rows have been written before: the position is left.
	void applyOnce(const Place &place, bool oneByOne)
	{
		replay_->begin();
		const Envelope &first = inbox_.first().tx;
		const SeenVector seen = first.seen.value_or(SeenVector{});
		const ChangeEvent &last = inbox_.last();
		const Hlc hlc = newestOfSource();
		if (!first.resent &&
			recordApplied({inbox_.first().id, last.id, worker_.peer, last.tx.sequence, hlc, encodeSeen(seen)}))
			inbox_.forEach([&](const ChangeEvent &event) { replay_->event(event, seen, oneByOne); });
		recordPosition({worker_.peer, topic_, place.next, chain_.incarnation(), last.tx.sequence, std::max(highest_, hlc),
						last.id, last.committedAt, place.offset});
		replay_->commit(last.tx.sequence, hlc);
	}

	// The rows of a resent part, each with its own version: a local transaction for each version. To do it twice is
	// harmless, so it need not be one with the position.
	void applyResent()
	{
		Hlc newest;
		inbox_.forEach([&](const ChangeEvent &event) { newest = std::max(newest, event.hlc); });
		waitForClock(newest);
		clockAdopt(region_, newest);
		untilDone(
			[&](bool oneByOne)
			{
				std::optional<Version> open;
				inbox_.forEach(
					[&](const ChangeEvent &event)
					{
						Version version{event.hlc, event.region};
						if (open && *open != version)
						{
							replay_->commit(InvalidXLogRecPtr, open->hlc);
							open.reset();
						}
						if (!open)
						{
							replay_->begin();
							replay_->as(event.region);
							open = version;
						}
						replay_->event(event, SeenVector{}, oneByOne);
					});
				replay_->commit(InvalidXLogRecPtr, open->hlc);
			});
	}

	// The highest stamp of the source's own in the transaction at hand.
	Hlc newestOfSource()
	{
		if (!inbox_.first().tx.resent)
			return inbox_.last().hlc;
		Hlc newest = highest_;
		inbox_.forEach(
			[&](const ChangeEvent &event)
			{
				if (event.region == worker_.peer)
					newest = std::max(newest, event.hlc);
			});
		return newest;
	}

	void progressed()
	{
		const ChangeEvent &last = inbox_.last();
		chain_.applied(last.tx.sequence);
		knownIncarnation_ = chain_.incarnation();
		highest_ = std::max(highest_, newestOfSource());
		lastCommittedAt_ = last.committedAt;
		WorkerShared *shared = worker_.shared;
		shared->hlc.store(highest_.value, std::memory_order_relaxed);
		shared->committedAt.store(last.committedAt, std::memory_order_relaxed);
		shared->progressAt.store(GetCurrentTimestamp(), std::memory_order_relaxed);
		shared->transactions.fetch_add(1, std::memory_order_relaxed);
		shared->events.fetch_add(inbox_.count(), std::memory_order_relaxed);
		shared->sequence.store(last.tx.sequence);
	}

	// Tells the source how far we are; at most every mrsync.ack_interval, and once more after a while, should our slot or
	// our control topic have lost it. Returns how long it can wait.
	long acknowledge(bool idle)
	{
		uint64_t applied = chain_.sequence();
		TimestampTz now = GetCurrentTimestamp();
		long since = (now - acknowledgedAt_) / 1000;
		if (applied == 0 || (applied == acknowledged_ && since < kAcknowledgeAgainMs))
			return 1000;
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
				replay_->begin();
				std::optional<ChangeEvent> event = parkedEvent(id);
				if (!event)
				{
					replay_->abort();
					continue;
				}
				replay_->as(event->region);
				replay_->parked(*event);
				unpark(id);
				replay_->commit(InvalidXLogRecPtr, event->hlc);
				some = true;
			}
			catch (const PgError &error)
			{
				replay_->abort();
				parkedFailedAgain(id, error);
			}
		}
		retryAt_ = some ? 0 : GetCurrentTimestamp() + USECS_PER_SEC;
		return some ? 0 : 1000;
	}

	Worker &worker_;
	RegionShared *region_;
	std::string topic_;
	std::unique_ptr<TopicReader> reader_;
	std::unique_ptr<Replay> replay_;
	Inbox inbox_;
	SequenceChain chain_;
	int64_t knownIncarnation_ = 0; // the newest whose history is the one known here
	TransactionGate gate_;
	std::optional<Gap> gap_;
	bool mended_ = false;	  // the gap is
	uint64_t resentUpTo_ = 0; // resent parts up to this sequence have been applied from behind a gap
	Hlc highest_;
	int64_t lastCommittedAt_ = 0;
	uint64_t acknowledged_ = 0;
	TimestampTz acknowledgedAt_ = 0;
	TimestampTz retryAt_ = 0;
};

} // namespace

void applierRun(Worker &worker) { Applier(worker).run(); }

} // namespace mrsync
