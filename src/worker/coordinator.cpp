// The coordinator of a region: keeps the region's other workers running as its catalog wants them, renews the clock's
// durable ceiling, exchanges heartbeats and acknowledgements, prepares for and activates rules for conflicts, tells and is told
// what the log of conflicts holds, writes down how the links do, and prunes below the stable point.
//
// When the extension has been dropped without region_leave(), it stops the region: its slot would keep WAL for ever.
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/horizon.h"
#include "pg/override.h"
#include "pg/rowversion.h"
#include "pg/spi.h"
#include "worker/conflict_reports.h"
#include "worker/control.h"
#include "worker/pruner.h"
#include "worker/rollout.h"
#include "worker/take_back.h"
#include "worker/worker.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <deque>
#include <set>

extern "C"
{
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
}

namespace mrsync
{

namespace
{

constexpr int64_t kSecond = USECS_PER_SEC;
constexpr int64_t kRestartFirst = kSecond;
constexpr int64_t kRestartLongest = 30 * kSecond;
constexpr int64_t kHealthy = 60 * kSecond; // who ran this long starts again at once
constexpr int64_t kRecovered = 3 * kSecond; // who ran this long and is at the end of its topic has read what made it fail
constexpr int64_t kCeilingReserve = 3 * kSecond;
constexpr int64_t kHorizonInterval = 10 * kSecond;
constexpr int64_t kPruneInterval = 600 * kSecond; // of the horizon, and of what rewritten tables have written down
constexpr int kAppliedEventDays = 7;	   // as long as topics keep events

class Coordinator
{
public:
	explicit Coordinator(Worker &worker) : worker_(worker), region_(worker.region), control_(worker), pruner_(worker), rollout_(worker), conflicts_(worker) {}

	void run()
	{
		ifPresent(
			[&]
			{
				clockRecall(region_);
				versionFilterLoad(region_);
				control_.load();
				pruner_.load();
			});
		// what was committed before the server started counts for wait_for_peers, too
		uint64_t flushed = version::flushedUpTo(nullptr);
		uint64_t end = region_->lastCommitEnd.load();
		while (end < flushed && !region_->lastCommitEnd.compare_exchange_weak(end, flushed))
		{
		}
		region_->coordinatorLatch.store(MyLatch);
		pgCall(
			[&]
			{
				before_shmem_exit([](int, Datum region)
								  { reinterpret_cast<RegionShared *>(region)->coordinatorLatch.store(nullptr); },
								  PointerGetDatum(region_));
			});
		while (catalogRead())
		{
			worker_.reloadSettings();
			ceilingEnsure(region_, Hlc{std::max<int64_t>(region_->clock.load(), GetCurrentTimestamp() + kCeilingReserve)});
			writeLateStamps();
			supervise();
			describeSelf();
			bool more = control_.receive();
			more |= rollout_.step(control_.takeRuleNews(), control_.ownTopicRead());
			long pause = control_.beat();
			describeLinks();
			partitionAppliedEvents();
			more |= pruner_.step();
			more |= conflicts_.step();
			maintainVersions();
			worker_.wait(more ? 0 : std::min(pause, 1000L));
		}
		dissolve();
	}

private:
	struct Link
	{
		std::string id, source, target, status;
	};

	struct Child
	{
		WorkerKind kind;
		std::string peer;
		int place;
		BackgroundWorkerHandle *handle = nullptr;
		int64_t startedAt = 0; // steadyNow(), as is notBefore
		int64_t notBefore = 0;
		TimestampTz progressBefore = 0; // its place's progressAt when it was started
		int64_t delay = kRestartFirst;
		bool wanted = false;
	};

	static bool catalogPresent()
	{
		return pgCall([] { return OidIsValid(catalogRelation("replication_link")) && OidIsValid(catalogRelation("region")); });
	}

	// Runs f in a transaction. False when the extension is gone, also when it goes in the middle of f.
	template <typename F> static bool ifPresent(F &&f)
	{
		try
		{
			WorkerTransaction transaction;
			bool present = catalogPresent();
			if (present)
				f();
			transaction.commit();
			return present;
		}
		catch (const PgError &error)
		{
			if (error.sqlState() != ERRCODE_UNDEFINED_TABLE)
				throw;
		}
		WorkerTransaction transaction;
		bool present = catalogPresent();
		transaction.commit();
		if (present)
			throw PgError(ERRCODE_UNDEFINED_TABLE, "a table of schema mrsync is missing");
		return false;
	}

	bool catalogRead()
	{
		return ifPresent(
			[&]
			{
				links_.clear();
				for (const spi::Row &row :
					 spi::query("SELECT link_id, source_region, target_region, status FROM mrsync.replication_link"))
					links_.push_back(Link{*row[0], *row[1], *row[2], *row[3]});
				std::map<std::string, std::string> brokers;
				std::map<RepOriginId, std::string> origins;
				for (const spi::Row &row : spi::query("SELECT region_id, kafka_brokers, link_origin FROM mrsync.region"))
				{
					brokers.emplace(*row[0], *row[1]);
					if (row[2])
						origins.emplace(static_cast<RepOriginId>(std::stoul(*row[2])), *row[0]);
				}
				crowded_ = !originsSet(region_, origins);
				control_.peers(brokers);
				// The extractor tells shared memory after it has committed; so what it says now is not newer than what is read.
				bool wasDue = region_->takingBack.load();
				takesBack_ = TakeBack::isDue();
				if (takesBack_ || wasDue)
					region_->takingBack.store(takesBack_);
			});
	}

	// From shared memory to where a restart finds them; only then the extractor sends what they belong to.
	void writeLateStamps()
	{
		std::vector<LateStamp> late = lateStamps(region_);
		if (late.empty())
			return;
		WorkerTransaction transaction;
		for (const LateStamp &stamp : late)
			// it is there when an earlier coordinator died at this point; a user catalog table knows no ON CONFLICT
			spi::execute("INSERT INTO mrsync.hlc_override (xid, hlc) SELECT $1::xid8, $2::mrsync.hlc WHERE NOT EXISTS (SELECT FROM "
						 "mrsync.hlc_override WHERE xid = $1::xid8)",
						 {std::to_string(U64FromFullTransactionId(fullXid(stamp.xid))), toText(stamp.hlc)});
		transaction.commit();
		for (const LateStamp &stamp : late)
			lateStampForget(region_, stamp.xid);
	}

	// Null: there is no place for another one.
	Child *child(WorkerKind kind, const std::string &peer)
	{
		for (Child &known : children_)
			if (known.kind == kind && known.peer == peer)
				return &known;
		int place = kExtractorPlace;
		if (kind == WorkerKind::Applier)
		{
			// one that an earlier coordinator gave to this peer, or else a free one
			int free = -1;
			place = -1;
			for (int i = kExtractorPlace + 1; i < kMaxWorkers; ++i)
			{
				if (region_->workers[i].kind == WorkerKind::None)
					free = free < 0 ? i : free;
				else if (peer == region_->workers[i].peer)
					place = i;
			}
			if (place < 0)
				place = free;
			if (place < 0)
				return nullptr;
		}
		pgCall(
			[&]
			{
				LWLockAcquire(shmemLock(), LW_EXCLUSIVE);
				region_->workers[place].kind = kind;
				strlcpy(region_->workers[place].peer, peer.c_str(), kRegionIdLength);
				LWLockRelease(shmemLock());
			});
		Child added{};
		added.kind = kind;
		added.peer = peer;
		added.place = place;
		return &children_.emplace_back(added);
	}

	bool running(Child &child)
	{
		if (child.handle)
		{
			pid_t pid;
			BgwHandleStatus status = GetBackgroundWorkerPid(child.handle, &pid);
			if (status == BGWH_STARTED || status == BGWH_NOT_YET_STARTED)
				return true;
			pfree(child.handle);
			child.handle = nullptr;
			int64_t now = steadyNow();
			child.delay = now - child.startedAt >= kHealthy ? kRestartFirst : std::min(2 * child.delay, kRestartLongest);
			child.notBefore = child.startedAt + child.delay;
			if (child.wanted)
				++region_->workers[child.place].restarts;
		}
		// started by an earlier coordinator
		return region_->workers[child.place].pid != 0;
	}

	void supervise()
	{
		for (Child &known : children_)
			known.wanted = false;
		child(WorkerKind::Extractor, "")->wanted = true;
		for (const Link &link : links_)
			if (link.target == region_->region && (link.status == "active" || link.status == "degraded"))
			{
				if (Child *applier = child(WorkerKind::Applier, link.source))
					applier->wanted = true;
				else
					crowded_ = true;
			}
		if (takesBack_ && region_->historyKnown.load())
			if (Child *applier = child(WorkerKind::Applier, region_->region))
				applier->wanted = true;
		uint64_t kafkaOptions = kafkaOptionsStamp();
		if (kafkaOptions != kafkaOptions_)
			pgCall([] { ereport(LOG, (errmsg("mrsync.kafka_options has changed: the workers that speak to Kafka start again"))); });
		for (Child &known : children_)
		{
			WorkerShared &place = region_->workers[known.place];
			bool isRunning = running(known);
			// A client keeps the options that it was made with. Workers are begun anew, also those that wait for their next
			// attempt with the former ones.
			if (kafkaOptions != kafkaOptions_)
				startAtOnce(known);
			pid_t pid = place.pid; // read once: it may be gone the next moment, and kill(0) would end ourselves
			if (isRunning && known.wanted && pid != 0 && place.kafkaOptions != kafkaOptions && !ConfigReloadPending)
			{
				kill(pid, SIGTERM);
				startAtOnce(known);
			}
			if (isRunning && !known.wanted)
			{
				if (pid != 0)
					kill(pid, SIGTERM);
				startAtOnce(known);
			}
			else if (!isRunning && known.wanted && steadyNow() >= known.notBefore)
				start(known);
			else if (isRunning && steadyNow() - known.startedAt >= kHealthy)
				place.restarts = 0;
		}
		kafkaOptions_ = kafkaOptions;
	}

	// Its next start is not delayed by how its former ones went.
	static void startAtOnce(Child &child)
	{
		child.delay = kRestartFirst / 2; // running() doubles it
		child.notBefore = 0;
	}

	void start(Child &child)
	{
		WorkerArguments arguments{};
		arguments.database = MyDatabaseId;
		arguments.kind = child.kind;
		arguments.place = child.place;
		strlcpy(arguments.peer, child.peer.c_str(), sizeof arguments.peer);
		child.startedAt = steadyNow();
		child.progressBefore = region_->workers[child.place].progressAt.load();
		child.handle = workerStart(arguments);
		if (!child.handle)
			child.notBefore = child.startedAt + 5 * kSecond;
	}

	void describeSelf()
	{
		worker_.state(crowded_ ? "not all peers have a place: a region can have at most " + std::to_string(kMaxPeers) : "");
	}

	// replication_link: the lag and the last acknowledged event, as this region knows them. A row that somebody holds
	// (link_pause in an open transaction) is passed over: waiting for it would hold up heartbeats and acknowledgements.
	void describeLinks()
	{
		TimestampTz now = GetCurrentTimestamp();
		const WorkerShared &extractor = region_->workers[kExtractorPlace];
		uint64_t produced = extractor.sequence.load();
		if (samples_.empty() || samples_.back().first != produced)
			samples_.emplace_back(produced, extractor.committedAt.load() ? extractor.committedAt.load() : now);
		if (samples_.size() > 10000)
			samples_.erase(samples_.begin() + 1, samples_.begin() + 5000); // coarser, but the oldest stays
		if (steadyNow() - describedAt_ < kSecond)
			return;
		describedAt_ = steadyNow();
		uint64_t slowest = UINT64_MAX;
		WorkerTransaction transaction;
		for (const Link &link : links_)
		{
			if (link.target == region_->region)
				describeIncoming(link, now);
			else if (link.source == region_->region)
				slowest = std::min(slowest, describeOutgoing(link, now));
		}
		transaction.commit();
		while (samples_.size() > 1 && samples_.front().first <= slowest)
			samples_.pop_front();
	}

	// One that has failed before and runs again: it has got somewhere, or has lasted. Else a link that fails at each
	// attempt would be in order for the moment of it.
	bool recovered(const Child &child) const
	{
		const WorkerShared &shared = region_->workers[child.place];
		int64_t age = steadyNow() - child.startedAt;
		return shared.pid != 0 && (shared.progressAt.load() != child.progressBefore || age >= kHealthy ||
								   (age >= kRecovered && shared.caughtUp.load()));
	}

	// Since when the oldest event that is not applied waits, by its source's clock, or by ours if that is ahead; now: there is none.
	TimestampTz behindSince(const Link &link, const WorkerShared *applier, TimestampTz now)
	{
		bool running = applier && applier->pid != 0;
		if (running && applier->caughtUp.load())
		{
			noticedBehind_.erase(link.id);
			return now;
		}
		if (running && applier->takenAt.load() != 0)
		{
			noticedBehind_.erase(link.id);
			return std::min(applier->takenCommittedAt.load(), applier->takenAt.load()); // its source's clock may be ahead
		}
		// Nothing was read: paused, failing, or just started. The source's heartbeats tell that there is more, and since
		// when; what was there before this process was has waited for at most as long as the last one applied is old.
		spi::Rows position = spi::query("SELECT sequence, committed_at::mrsync.hlc::bigint FROM mrsync.link_position WHERE source_region = $1",
										{link.source});
		uint64_t applied = position.empty() ? 0 : std::stoull(*position[0][0]);
		const PeerShared *peer = peerShared(region_, link.source, false);
		if (!peer || peer->headSequence.load() <= applied)
		{
			noticedBehind_[link.id] = 0;
			return now;
		}
		auto [noticed, first] = noticedBehind_.try_emplace(link.id, position.empty() || !position[0][1] ? now : std::stoll(*position[0][1]));
		if (!first && noticed->second == 0)
			noticed->second = now;
		return noticed->second;
	}

	void describeIncoming(const Link &link, TimestampTz now)
	{
		bool failing = false;
		const WorkerShared *shared = nullptr;
		for (Child &known : children_)
			if (known.kind == WorkerKind::Applier && known.peer == link.source)
			{
				shared = &region_->workers[known.place];
				failing = shared->degraded || (known.wanted && known.delay > 2 * kRestartFirst && !recovered(known));
			}
		TimestampTz since = behindSince(link, shared, now);
		std::string lag = std::to_string(std::max<int64_t>(0, (now - since) / 1000));
		// former: a link that is paused or resumed at this moment keeps what it was told
		spi::execute(
			"WITH new AS (SELECT l.link_id, l.status AS former, p.event_id, $2::bigint AS lag_ms, CASE WHEN l.status NOT IN ('active', "
			"'degraded') THEN l.status WHEN $3::boolean OR EXISTS (SELECT FROM mrsync.apply_error e WHERE e.source_region = "
			"l.source_region) THEN 'degraded' ELSE 'active' END AS status FROM mrsync.replication_link l LEFT JOIN "
			"mrsync.link_position p ON p.source_region = l.source_region WHERE l.link_id = $1::uuid), free AS (SELECT l.link_id FROM "
			"mrsync.replication_link l JOIN new ON new.link_id = l.link_id WHERE l.status = new.former AND (l.last_acked_event_id, "
			"l.lag_ms, l.status) IS DISTINCT FROM (new.event_id, new.lag_ms, new.status) FOR UPDATE OF l SKIP LOCKED) UPDATE "
			"mrsync.replication_link l SET last_acked_event_id = new.event_id, lag_ms = new.lag_ms, status = new.status, "
			"updated_at = clock_timestamp() FROM new JOIN free ON free.link_id = new.link_id WHERE l.link_id = new.link_id "
			"AND l.status = new.former",
			{link.id, lag, failing ? "true" : "false"});
	}

	uint64_t describeOutgoing(const Link &link, TimestampTz now)
	{
		PeerShared *peer = peerShared(region_, link.target, false);
		uint64_t acked = peer ? peer->ackedSequence.load() : 0;
		int64_t lag = 0;
		if (acked < region_->workers[kExtractorPlace].sequence.load())
			for (const auto &[sequence, at] : samples_)
				if (sequence > acked)
				{
					lag = (now - at) / 1000;
					break;
				}
		spi::execute("WITH free AS (SELECT l.link_id, a.event_id FROM mrsync.replication_link l JOIN mrsync.acknowledgement a ON "
					 "a.region_id = l.target_region AND a.source_region = l.source_region WHERE l.link_id = $1::uuid AND "
					 "(l.last_acked_event_id, l.lag_ms) IS DISTINCT FROM (a.event_id, $2::bigint) FOR UPDATE OF l SKIP LOCKED) "
					 "UPDATE mrsync.replication_link l SET last_acked_event_id = free.event_id, lag_ms = $2::bigint, "
					 "updated_at = clock_timestamp() FROM free WHERE l.link_id = free.link_id",
					 {link.id, std::to_string(lag)});
		return acked;
	}

	// mrsync.applied_event by day: old days go without a DELETE. As many days as are kept, for a new link reads its topic
	// from there. What is in none of them (older or of a clock far ahead) goes from the default partition when its time has come.
	void partitionAppliedEvents()
	{
		constexpr int64_t kDay = USECS_PER_DAY;
		constexpr int64_t kUnixEpoch = static_cast<int64_t>(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;
		int64_t today = GetCurrentTimestamp() / kDay;
		if (today == partitionedFor_)
			return;
		partitionedFor_ = today;
		auto name = [](int64_t day) { return "applied_event_" + std::to_string(day); };
		auto bound = [&](int64_t day)
		{
			char text[40];
			uint64_t ms = static_cast<uint64_t>(day * kDay / 1000 + kUnixEpoch);
			snprintf(text, sizeof text, "%08x-%04x-0000-0000-000000000000", static_cast<uint32_t>(ms >> 16),
					 static_cast<uint32_t>(ms & 0xffff));
			return std::string(text);
		};
		for (int64_t day = today - kAppliedEventDays; day <= today + 2; ++day)
			maintain(name(day), false,
					 {"CREATE TABLE mrsync." + name(day) + " PARTITION OF mrsync.applied_event FOR VALUES FROM ('" +
						  bound(day) + "') TO ('" + bound(day + 1) + "')",
					  "ALTER EXTENSION mrsync ADD TABLE mrsync." + name(day)}); // so that pg_dump leaves it out
		maintain("applied_event_default", true,
				 {"DELETE FROM mrsync.applied_event_default WHERE event_id < '" + bound(today - kAppliedEventDays) + "'"});
		for (int64_t day = today - kAppliedEventDays - 30; day < today - kAppliedEventDays; ++day)
			maintain(name(day), true,
					 {"ALTER EXTENSION mrsync DROP TABLE mrsync." + name(day), "DROP TABLE mrsync." + name(day)});
	}

	// The horizon's samples come and go; entries and markers go when no event that is still on its way can meet them.
	void maintainVersions()
	{
		int64_t now = steadyNow();
		if (now - sampledAt_ < kHorizonInterval)
			return;
		sampledAt_ = now;
		WorkerTransaction transaction;
		horizonSample(region_);
		if (now - prunedAt_ >= kPruneInterval)
		{
			prunedAt_ = now;
			horizonPrune(region_);
			rowEntriesPrune(region_);
		}
		transaction.commit();
	}

	// Runs the statements in a transaction where the table's being there is as said.
	static void maintain(const std::string &table, bool ifThere, const std::vector<std::string> &statements)
	{
		try
		{
			WorkerTransaction transaction;
			if (pgCall([&] { return OidIsValid(catalogRelation(table.c_str())); }) == ifThere)
			{
				spi::execute("SET LOCAL client_min_messages = warning");
				spi::execute("SET LOCAL lock_timeout = '1s'"); // behind us, appliers would wait as long
				for (const std::string &statement : statements)
					spi::execute(statement.c_str());
			}
			transaction.commit();
		}
		catch (const PgError &error)
		{
			// A locked table, or rows of that day in the default partition: nothing depends on it. Next day again.
			pgCall([&, text = error.message().c_str()]
				   { ereport(LOG, (errmsg("could not maintain mrsync.applied_event: %s", text))); });
		}
	}

	void dissolve()
	{
		// also those that an earlier coordinator started
		for (bool any = true; any;)
		{
			any = false;
			for (int place = kExtractorPlace; place < kMaxWorkers; ++place)
				if (pid_t pid = region_->workers[place].pid)
				{
					any = true;
					kill(pid, SIGTERM);
				}
			if (any)
				worker_.wait(100);
		}
		pgCall(
			[]
			{
				char slot[NAMEDATALEN];
				slotName(MyDatabaseId, slot);
				if (SearchNamedReplicationSlot(slot, true))
					ReplicationSlotDrop(slot, true);
				ereport(LOG, (errmsg("extension mrsync was dropped: this database is no region any more")));
			});
		regionForget(MyDatabaseId);
	}

	Worker &worker_;
	RegionShared *region_;
	ControlPlane control_;
	Pruner pruner_;
	Rollout rollout_;
	ConflictReports conflicts_;
	std::vector<Link> links_;
	std::deque<Child> children_;
	std::deque<std::pair<uint64_t, TimestampTz>> samples_; // our newest sequence, and its commit, from time to time
	uint64_t kafkaOptions_ = kafkaOptionsStamp();
	bool crowded_ = false; // not all peers have a place
	bool takesBack_ = false; // this region was set back, and has not caught up yet
	int64_t describedAt_ = 0; // steadyNow(), as are sampledAt_ and prunedAt_
	std::map<std::string, TimestampTz> noticedBehind_; // links whose applier reads nothing: since when there is more; 0: there is not
	int64_t partitionedFor_ = 0;
	int64_t sampledAt_ = -kHorizonInterval;
	int64_t prunedAt_ = -kPruneInterval;
};

} // namespace

void coordinatorRun(Worker &worker) { Coordinator(worker).run(); }

} // namespace mrsync
