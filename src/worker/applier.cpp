// The applier of one incoming link: reads the source region's topic from the position in mrsync.link_position, gathers
// whole transactions, and applies each as one local transaction: rows, dedup record, conflict log and position together
// (I7). So a crash anywhere replays harmlessly, and synchronous_commit is off.
//
// The local transaction carries the source's stamp as its commit timestamp and the source region's replication origin;
// the version of every row it writes is found from its xmin ever after (Replay).
// Nothing is skipped (I8): at a gap in the chain of sequences it stays, says so, and looks behind it for a resend that has
// what is missing (core/gap.h).
// A region that was set back has one for its own topic, too, until it has taken back what it lacks (worker/take_back.h).
// What fails and may succeed later by itself is retried; what fails otherwise is applied once more, event by event
// (OneByOne).
#include "core/codec.h"
#include "core/gap.h"
#include "core/ledger.h"
#include "core/mutant.h"

#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/inbox.h"
#include "worker/one_by_one.h"
#include "worker/parking.h"
#include "worker/progress.h"
#include "worker/histories.h"
#include "worker/releases.h"
#include "worker/replay.h"
#include "worker/take_back.h"
#include "worker/topic_reader.h"
#include "worker/watermark.h"
#include "worker/worker.h"

#include <algorithm>

extern "C"
{
#include "access/commit_ts.h"
}

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
		if (worker.peer == region_->region)
			takeBack_.emplace(worker);
		else
			watermark_.emplace(worker);
	}

	void run()
	{
		if (!open())
			return;
		for (;;)
		{
			worker_.reloadSettings();
			replay_->sweep();
			if (takeBack_ && takeBack_->hasMet())
			{
				if (takeBack_->step(chain_.sequence()))
					return;
				worker_.wait(std::min({retryParked(), releases_->run(), 1000L}));
				continue;
			}
			TopicReader::Read read =
				reader_->read(kMostRecords, [&](kafka::Record &&record) { receive(std::move(record)); });
			if (read.restarts)
				forgetGathered();
			if (mended_)
				goOnBehindGap();
			if (takeBack_)
				worker_.state(reader_->trouble().empty() ? "takes back what the topic holds and this database lacks" : reader_->trouble());
			else
			{
				describe(read);
				watermark_->advance(chain_.sequence());
			}
			long pause = std::min({acknowledge(read.records == 0), retryParked(), releases_->run(), histories_->run()});
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

	struct Passed // a gap in the region's own topic
	{
		GapWatch watch;
		std::string what; // for a person
	};

	// False: there is nothing to do.
	bool open()
	{
		if (!track_commit_timestamp)
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "track_commit_timestamp is off")
				.detail("Without commit timestamps it cannot be told which of two writes is the newer one, so nothing is applied.")
				.hint("Set track_commit_timestamp = on and restart the server.");
		kafka::ConsumerConfig config;
		std::optional<TopicReader::Applied> last;
		RepOriginId origin = InvalidRepOriginId;
		int64_t offset = kafka::kFromBeginning;
		{
			WorkerTransaction transaction;
			if (takeBack_ && !takeBack_->load())
				return false;
			spi::Rows peers = spi::query("SELECT kafka_brokers, link_origin FROM mrsync.region WHERE region_id = $1",
										 {worker_.peer});
			if (peers.empty() || !peers[0][1])
				throw PgError(ERRCODE_UNDEFINED_OBJECT, "region " + worker_.peer + " is not known here");
			config.brokers = *peers[0][0];
			origin = static_cast<RepOriginId>(std::stoul(*peers[0][1]));
			spi::Rows mine = spi::query("SELECT link_origin FROM mrsync.region WHERE is_local");
			if (!mine.empty() && mine[0][0])
				originRegister(region_, static_cast<RepOriginId>(std::stoul(*mine[0][0])), region_->region);
			topic_ = std::string("mrsync.") + region_->group + "." + worker_.peer;
			spi::Rows position =
				spi::query("SELECT next_offset, incarnation, sequence, hlc::bigint, committed_at::mrsync.hlc::bigint, "
						   "event_offset, event_id FROM mrsync.link_position WHERE source_region = $1",
						   {worker_.peer});
			if (!position.empty())
			{
				offset = std::stoll(*position[0][0]);
				chain_ = SequenceChain(std::stoll(*position[0][1]), std::stoull(*position[0][2]));
				knownIncarnation_ = chain_.incarnation();
				highest_ = Hlc{std::stoll(*position[0][3])};
				lastCommittedAt_ = position[0][4] ? std::stoll(*position[0][4]) : 0;
				if (position[0][5] && position[0][6])
					last = TopicReader::Applied{std::stoll(*position[0][5]), *parseUuid(*position[0][6])};
				acknowledged_ = 0; // say it again: the peer may have missed it
			}
			worker_.shared->sequence.store(chain_.sequence());
			worker_.shared->hlc.store(highest_.value);
			peer_ = peerShared(region_, worker_.peer, true);
			if (int64_t unknown = 0; peer_)
				peer_->orderKnownFrom.compare_exchange_strong(unknown, std::max<int64_t>(highest_.value, 1));
			if (watermark_)
				watermark_->load();
			transaction.commit();
		}
		originRegister(region_, origin, worker_.peer);
		replay_ = std::make_unique<Replay>(worker_, origin);
		releases_ = std::make_unique<Releases>(worker_, *replay_);
		histories_ = std::make_unique<Histories>(worker_, *replay_);
		config.options = guc::kafkaOptions;
		config.clientId = std::string("mrsync-") + region_->region;
		config.topic = topic_;
		reader_ = std::make_unique<TopicReader>(worker_, config);
		reader_->readFrom(offset, last, takeBack_.has_value());
		return true;
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
		if (takeBack_ && takeBack_->isBehind(event.tx))
			return;
		if (!gap_ && !isNext(event, record.offset))
			return;
		if (!passed_.empty())
			lookForPassed(event);
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
		if (takeBack_ && takeBack_->isHere(inbox_.last()))
		{
			chain_.applied(inbox_.last().tx.sequence);
			inbox_.clear();
			return;
		}
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
		if (releases_->isDue())
			releases_->run();
	}

	// Is the record to be gathered? Sets gap_ where something is missing before it.
	bool isNext(const ChangeEvent &event, int64_t offset)
	{
		switch (chain_.judge(event.tx))
		{
		case SequenceChain::Verdict::Next:
			break;
		case SequenceChain::Verdict::Duplicate:
			if (!takeBack_)
				requireSameHistory(event);
			return false;
		case SequenceChain::Verdict::Stale:
			return false;
		case SequenceChain::Verdict::Gap:
			if (takeBack_)
			{
				passGap(event.tx, missingUpTo(event.tx));
				break;
			}
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
			taken(event.committedAt);
			return true;
		case TransactionGate::Verdict::Continue:
			return true;
		case TransactionGate::Verdict::Ignore:
			return false;
		case TransactionGate::Verdict::Broken:
			break;
		}
		if (takeBack_)
		{
			passGap(event.tx, event.tx.sequence);
			forgetGathered();
			return false;
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

	// From here on the link is behind by this transaction, however long a user's lock or a clock keeps it from being applied.
	void taken(int64_t committedAt)
	{
		WorkerShared *shared = worker_.shared;
		shared->takenCommittedAt.store(committedAt, std::memory_order_relaxed);
		shared->takenAt.store(GetCurrentTimestamp(), std::memory_order_relaxed);
		shared->caughtUp.store(false);
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
		gap_.emplace(Gap{offset, tx.incarnation, GapWatch(tx, chain_.sequence()),
						 what + ". What can be read, from offset " + std::to_string(offset) + " on, follows sequence " +
							 std::to_string(missingUpTo(tx)) + reader_->history(),
						 ""});
		inbox_.clear();
		pgCall([text = gap_->what.c_str(), source = worker_.peer.c_str()]
			   { ereport(LOG, (errmsg("the link from region %s stops: %s", source, text))); });
	}

	// What this region's own topic has lost, nobody will put there again: what comes behind it is taken back all the same. But
	// it may have been sent again, as by a recovery that the backup is older than.
	void passGap(const Envelope &tx, uint64_t missing)
	{
		passed_.push_back({GapWatch(tx, chain_.sequence()), "what it had committed behind sequence " + std::to_string(chain_.sequence()) +
																" up to " + std::to_string(missing) + " is not in topic " + topic_ + " any more"});
		takeBack_->missing(passed_.back().what);
		chain_ = SequenceChain(tx.incarnation, missing);
	}

	void lookForPassed(const ChangeEvent &event)
	{
		std::erase_if(passed_,
					  [&](Passed &gap)
					  {
						  if (gap.watch.judge(event.tx) == TransactionGate::Verdict::Ignore)
							  return false;
						  if (event.table == kResendTable)
							  if (auto read = resendMark(event); std::holds_alternative<ResendMark>(read) && gap.watch.mends(std::get<ResendMark>(read)))
							  {
								  takeBack_->notMissing(gap.what);
								  return true;
							  }
						  if (event.tx.last && event.tx.resent)
							  gap.watch.applied(*event.tx.resent);
						  if (event.tx.last)
							  gap.watch.complete(event.tx);
						  return false;
					  });
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
		else if (mark->from.value != 0 && (mark->after == 0 || mark->after > chain_.sequence()))
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
	}

	void progressed()
	{
		if (replay_->apply().takeFreed())
			releases_->soon();
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
		if (watermark_)
			watermark_->advance(last.tx.sequence);
		else
			takeBack_->applied();
	}

	// One source transaction as one local transaction. oneByOne: an event that fails is parked, the others go on.
	// Of a resent part the rows have been written before: the position is left.
	void applyOnce(const Place &place, bool oneByOne)
	{
		replay_->begin();
		uint64_t parked = 0;
		const bool isResent = inbox_.first().tx.resent.has_value();
		const SeenVector seen = inbox_.first().tx.seen.value_or(SeenVector{});
		const ChangeEvent &last = inbox_.last();
		const Hlc hlc = newestOfSource();
		const LinkPosition position{worker_.peer, topic_, place.next, chain_.incarnation(), last.tx.sequence, std::max(highest_, hlc),
									last.id, last.committedAt, place.offset};
		// one by one, something is not as it should be: a table may not be there
		const std::string rows = !oneByOne && !isResent && replay_->apply().keysAreTexts(inbox_.rows().tables()) ? inbox_.rows().bytes() : "";
		if (peer_ && highest_.value - hlc.value > peer_->mostOvertaken.load()) // before anybody sees what it writes
			peer_->mostOvertaken.store(highest_.value - hlc.value);
		bool first = !isResent && recordApplied({inbox_.first().id, last.id, worker_.peer, last.tx.sequence, hlc, encodeSeen(seen), rows});
		if (mutated("position_first"))
		{
			recordPosition(position);
			replay_->commit(last.tx.sequence, hlc);
			replay_->begin();
		}
		if (first)
		{
			if (oneByOne)
				parked = OneByOne(replay_->apply(), worker_.peer, replay_->eventContext()).run(inbox_, seen);
			else
				inbox_.forEach([&](const ChangeEvent &event) { replay_->event(event, seen); });
		}
		if (!oneByOne && replay_->apply().takeFreed())
		{
			replay_->apply().releaseOwn(Version{last.hlc, worker_.peer});
			releases_->soon();
		}
		recordPosition(position);
		replay_->commit(last.tx.sequence, hlc);
		worker_.shared->parked.fetch_add(parked, std::memory_order_relaxed);
	}

	// The rows of a resent part, each with its own version: a local transaction for each version. To do it twice is
	// harmless, so it need not be one with the position. What fails is parked by itself: these events do not build on
	// one another.
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
						if (open && (oneByOne || *open != version))
						{
							replay_->commit(InvalidXLogRecPtr, open->hlc);
							open.reset();
						}
						if (!open)
						{
							replay_->begin();
							open = version;
						}
						try
						{
							replay_->as(event.region);
							replay_->event(event, SeenVector{});
						}
						catch (const PgError &error)
						{
							if (!oneByOne || isRetryable(error))
								throw;
							replay_->abort();
							open.reset();
							inTransaction([&] { park(worker_.peer, event, SeenVector{}, error, std::nullopt); });
							worker_.shared->parked.fetch_add(1, std::memory_order_relaxed);
						}
					});
				if (open)
					replay_->commit(InvalidXLogRecPtr, open->hlc);
			});
		if (replay_->apply().takeFreed())
			releases_->soon();
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

	// Tells the regions how far we are with the source, if that is another one: at most every mrsync.ack_interval; where only the source's watermark
	// has risen, as that of an idle one does, at most every mrsync.heartbeat_interval. And once more after a while, should our
	// slot or our control topic have lost it. Returns how long it can wait.
	long acknowledge(bool idle)
	{
		if (takeBack_)
			return 1000;
		uint64_t applied = chain_.sequence();
		Hlc watermark = watermark_->value();
		int64_t now = steadyNow();
		bool isSaid = applied == acknowledged_ && watermark == acknowledgedWatermark_;
		if (isSaid && (applied == 0 || (now - acknowledgedAt_) / 1000 < kAcknowledgeAgainMs))
			return 1000;
		long interval = applied == acknowledged_ ? guc::heartbeatIntervalMs : guc::ackIntervalMs;
		long since = (now - acknowledgedAt_) / 1000;
		if (since < interval)
			return interval - since;
		WorkerTransaction transaction;
		bool isDone = lastCommittedAt_ == 0 || (idle && worker_.shared->caughtUp.load());
		int64_t lag = isDone ? 0 : std::max<int64_t>(0, (GetCurrentTimestamp() - lastCommittedAt_) / 1000);
		spi::execute("INSERT INTO mrsync.acknowledgement AS a (region_id, source_region, hlc, sequence, event_id, "
					 "committed_at, lag_ms, watermark) SELECT $1, $2, $3::mrsync.hlc, coalesce(p.sequence, 0), p.event_id, "
					 "p.committed_at, $4::bigint, $5::mrsync.hlc FROM (VALUES (0)) nothing LEFT JOIN mrsync.link_position p ON "
					 "p.source_region = $2 ON CONFLICT (region_id, source_region) DO UPDATE SET hlc = excluded.hlc, sequence = "
					 "excluded.sequence, event_id = excluded.event_id, committed_at = excluded.committed_at, lag_ms = "
					 "excluded.lag_ms, watermark = excluded.watermark",
					 {std::string(region_->region), worker_.peer, toText(clockTick(region_)), std::to_string(lag),
					  watermark.value != 0 ? spi::Value(toText(watermark)) : std::nullopt});
		transaction.commit();
		acknowledged_ = applied;
		acknowledgedWatermark_ = watermark;
		acknowledgedAt_ = now;
		return 1000;
	}

	// Tries parked events again, each in a transaction of its own with its own stamp; some at a time, between what comes
	// from the topic. Returns how long it can wait.
	long retryParked()
	{
		int64_t now = steadyNow();
		if (now < retryAt_)
			return (retryAt_ - now) / 1000 + 1;
		bool some = false;
		for (const std::string &id : parkedDue(worker_.peer))
		{
			try
			{
				replay_->begin();
				std::optional<ChangeEvent> event = parkedHold(id);
				if (!event)
				{
					replay_->abort();
					continue;
				}
				replay_->as(event->region);
				replay_->event(*event, event->tx.seen.value_or(SeenVector{}), Apply::From::Parked);
				unpark(id);
				replay_->commit(InvalidXLogRecPtr, event->hlc);
				some = true;
				if (replay_->apply().takeFreed())
					releases_->soon();
			}
			catch (const PgError &error)
			{
				replay_->abort();
				parkedFailedAgain(id, error);
			}
		}
		retryAt_ = some ? 0 : steadyNow() + USECS_PER_SEC;
		return some ? 0 : 1000;
	}

	Worker &worker_;
	RegionShared *region_;
	PeerShared *peer_ = nullptr; // null: no place
	std::string topic_;
	std::unique_ptr<TopicReader> reader_;
	std::unique_ptr<Replay> replay_;
	std::unique_ptr<Releases> releases_;
	std::unique_ptr<Histories> histories_;
	Inbox inbox_;
	SequenceChain chain_;
	int64_t knownIncarnation_ = 0; // the newest whose history is the one known here
	TransactionGate gate_;
	std::optional<Gap> gap_;
	std::vector<Passed> passed_;
	bool mended_ = false;	  // the gap is
	uint64_t resentUpTo_ = 0; // resent parts up to this sequence have been applied from behind a gap
	Hlc highest_;
	int64_t lastCommittedAt_ = 0;
	std::optional<LinkWatermark> watermark_; // of a link
	std::optional<TakeBack> takeBack_;		 // of the region's own topic: one of the two
	uint64_t acknowledged_ = 0;
	Hlc acknowledgedWatermark_;
	int64_t acknowledgedAt_ = 0; // steadyNow(), as is retryAt_
	int64_t retryAt_ = 0;
};

} // namespace

void applierRun(Worker &worker) { Applier(worker).run(); }

} // namespace mrsync
