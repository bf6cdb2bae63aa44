#include "worker/control.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/rollout.h"

#include <algorithm>
#include <charconv>
#include <cstring>

extern "C"
{
#include "mb/pg_wchar.h"
}

namespace mrsync
{

namespace
{

constexpr int64_t kRetryPause = 5 * USECS_PER_SEC;
// Nothing new is to be found there; so that little is to be read at the next start.
constexpr int64_t kOwnTopicInterval = USECS_PER_HOUR;
// After a commit the peers shall know soon how far this region is; they wait for it in wait_for.
constexpr long kSoonestBeatMs = 100;

std::string controlTopic(const RegionShared *region, const std::string &peer)
{
	return std::string("mrsync.") + region->group + "." + peer + ".control";
}

const spi::Value &valueOf(const Image &image, const char *column)
{
	static const spi::Value *const nothing = new spi::Value;
	for (const Column &candidate : image)
		if (candidate.name == column)
			return candidate.value;
	return *nothing;
}

// Strictly, these two: what is told to wait_for_peers and wait_for must not be a number by accident.
std::optional<uint64_t> sequenceOf(const Image &row)
{
	const spi::Value &text = valueOf(row, "sequence");
	if (!text)
		return std::nullopt;
	uint64_t sequence = 0;
	const char *end = text->data() + text->size();
	auto [at, problem] = std::from_chars(text->data(), end, sequence);
	if (problem != std::errc() || at != end || sequence > static_cast<uint64_t>(INT64_MAX))
		return std::nullopt;
	return sequence;
}

std::optional<Hlc> heartbeatWatermark(const Image &row) // zero: there is none
{
	const spi::Value &text = valueOf(row, "watermark");
	return text ? parseHlc(*text) : Hlc{};
}

// The values are no values of their columns' types, or too long for an index.
bool isMalformed(const PgError &error)
{
	int category = ERRCODE_TO_CATEGORY(error.sqlState());
	return category == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED) || error.sqlState() == ERRCODE_NOT_NULL_VIOLATION ||
		   error.sqlState() == ERRCODE_CHECK_VIOLATION;
}

} // namespace

const ControlPlane::Kind ControlPlane::kKinds[] = {
	{"mrsync.heartbeat",
	 {"region_id", "hlc", "sequence", "watermark", "sent_at"},
	 "INSERT INTO mrsync.heartbeat AS h (region_id, hlc, sequence, watermark, sent_at) "
	 "VALUES ($1, $2::mrsync.hlc, $3::bigint, $4::mrsync.hlc, $5::timestamptz) ON CONFLICT (region_id) DO UPDATE "
	 "SET hlc = excluded.hlc, sequence = excluded.sequence, watermark = excluded.watermark, sent_at = "
	 "excluded.sent_at WHERE h.hlc OPERATOR(mrsync.<) excluded.hlc",
	 true, false, false, &ControlPlane::heartbeatTold},
	{"mrsync.acknowledgement",
	 {"region_id", "source_region", "hlc", "sequence", "event_id", "committed_at", "lag_ms", "watermark"},
	 "INSERT INTO mrsync.acknowledgement AS a (region_id, source_region, hlc, sequence, event_id, "
	 "committed_at, lag_ms, watermark) VALUES ($1, $2, $3::mrsync.hlc, $4::bigint, $5::uuid, $6::timestamptz, "
	 "$7::bigint, $8::mrsync.hlc) ON CONFLICT (region_id, source_region) DO UPDATE SET hlc = excluded.hlc, "
	 "sequence = excluded.sequence, event_id = excluded.event_id, committed_at = excluded.committed_at, lag_ms = "
	 "excluded.lag_ms, watermark = excluded.watermark WHERE a.hlc OPERATOR(mrsync.<) excluded.hlc",
	 true, false, false, &ControlPlane::acknowledgementTold},
	{"mrsync.merge_definition",
	 {"region_id", "definition_id", "hlc", "table_name", "column_name", "version", "strategy", "function", "source", "checksum", "status", "activation",
	  "registered_at", "rollout"},
	 "INSERT INTO mrsync.merge_definition AS d (region_id, definition_id, hlc, table_name, column_name, version, strategy, function, source, "
	 "checksum, status, activation, registered_at, rollout) VALUES ($1, $2::uuid, $3::mrsync.hlc, $4, $5, $6::integer, $7, $8, $9, $10, $11, "
	 "$12::mrsync.hlc, $13::timestamptz, $14) ON CONFLICT (definition_id) DO UPDATE SET hlc = excluded.hlc, status = excluded.status, activation = "
	 "excluded.activation, rollout = excluded.rollout WHERE d.region_id = excluded.region_id AND (d.activation IS NOT NULL, d.hlc::bigint) < "
	 "(excluded.activation IS NOT NULL, excluded.hlc::bigint)",
	 false, true, true, &ControlPlane::ruleTold},
	{"mrsync.merge_acknowledgement",
	 {"region_id", "definition_id", "hlc", "prepared", "knows_activation", "sqlstate", "message", "hint", "acknowledged_at"},
	 "INSERT INTO mrsync.merge_acknowledgement AS a (region_id, definition_id, hlc, prepared, knows_activation, sqlstate, message, hint, "
	 "acknowledged_at) VALUES ($1, $2::uuid, $3::mrsync.hlc, $4::boolean, $5::boolean, $6, $7, $8, $9::timestamptz) ON CONFLICT (definition_id, "
	 "region_id) DO UPDATE SET hlc = excluded.hlc, prepared = excluded.prepared, knows_activation = excluded.knows_activation, sqlstate = "
	 "excluded.sqlstate, message = excluded.message, hint = excluded.hint, acknowledged_at = excluded.acknowledged_at WHERE a.hlc "
	 "OPERATOR(mrsync.<) excluded.hlc",
	 false, false, false, &ControlPlane::ruleTold},
	// What failed in that region alone is its own business.
	{"mrsync.merge_failure",
	 {"region_id", "failure_id", "hlc", "table_name", "row_pk", "column_name", "event_hlc", "event_region", "function", "sqlstate", "message",
	  "ancestor", "a", "b", "is_shared", "failed_at"},
	 "INSERT INTO mrsync.merge_failure AS f (region_id, failure_id, hlc, table_name, row_pk, column_name, event_hlc, event_region, function, sqlstate, "
	 "message, ancestor, a, b, is_shared, failed_at) SELECT $1, $2::uuid, $3::mrsync.hlc, $4, $5::jsonb, $6, $7::mrsync.hlc, $8, $9, $10, $11, $12, $13, "
	 "$14, true, $16::timestamptz WHERE $15::boolean ON CONFLICT (failure_id) DO UPDATE SET region_id = excluded.region_id, hlc = excluded.hlc, function "
	 "= excluded.function, sqlstate = excluded.sqlstate, message = excluded.message, ancestor = excluded.ancestor, a = excluded.a, b = excluded.b, "
	 "is_shared = true, failed_at = excluded.failed_at WHERE NOT f.is_shared OR excluded.region_id < f.region_id",
	 false, true, true, &ControlPlane::ruleTold},
	{"mrsync.conflict_report",
	 {"region_id", "conflict_id", "conflict_type", "table_name", "row_pk", "event_id_a", "event_id_b", "region_a", "region_b", "hlc_a", "hlc_b", "image_a",
	  "image_b", "result", "resolution_strategy", "winner_region", "winner_event_id", "resolved_at", "constraint_name", "other_pk", "rule_activation", "given_up"},
	 "INSERT INTO mrsync.conflict_report VALUES ($1, $2::uuid, $3, $4, $5::jsonb, $6::uuid, $7::uuid, $8, $9, $10::mrsync.hlc, $11::mrsync.hlc, "
	 "$12::jsonb, $13::jsonb, $14::jsonb, $15, $16, $17::uuid, least($18::timestamptz, now()), $19, $20::jsonb, $21::mrsync.hlc, $22::integer) ON CONFLICT (region_id, conflict_id) DO "
	 "UPDATE SET conflict_type = excluded.conflict_type, event_id_a = excluded.event_id_a, event_id_b = excluded.event_id_b, image_a = excluded.image_a, "
	 "image_b = excluded.image_b, result = excluded.result, resolution_strategy = excluded.resolution_strategy, winner_event_id = "
	 "excluded.winner_event_id, rule_activation = excluded.rule_activation, given_up = excluded.given_up",
	 false, false, false, nullptr},
};

// Null: a later version may send rows that this one does not know, they are not for us.
const ControlPlane::Kind *ControlPlane::kindOf(const ChangeEvent &event)
{
	if (event.after && event.pk)
		for (const Kind &kind : kKinds)
			if (event.table == kind.table)
				return &kind;
	return nullptr;
}

void ControlPlane::load()
{
	for (const spi::Row &row :
		 spi::query("SELECT region_id, sequence FROM mrsync.acknowledgement WHERE source_region = $1",
					{std::string(worker_.region->region)}))
		acknowledged(*row[0], std::stoull(*row[1]));
	for (const spi::Row &row : spi::query("SELECT h.region_id, h.sequence, coalesce(h.watermark::bigint, 0), coalesce("
										  "a.watermark::bigint, 0) FROM mrsync.heartbeat h LEFT JOIN mrsync.acknowledgement a ON "
										  "a.region_id = $1 AND a.source_region = h.region_id WHERE h.region_id <> $1",
										  {std::string(worker_.region->region)}))
	{
		promised(*row[0], std::stoull(*row[1]), Hlc{std::stoll(*row[2])});
		PeerShared *shared = peerShared(worker_.region, *row[0], true);
		if (shared && shared->appliedWatermark.load() < std::stoll(*row[3]))
			shared->appliedWatermark.store(std::stoll(*row[3]));
	}
}

void ControlPlane::acknowledged(const std::string &peer, uint64_t sequence)
{
	PeerShared *shared = peerShared(worker_.region, peer, true);
	if (shared && shared->ackedSequence.load() < sequence)
	{
		shared->ackedSequence.store(sequence);
		pgCall([&] { ConditionVariableBroadcast(&worker_.region->acks); });
	}
}

void ControlPlane::promised(const std::string &peer, uint64_t sequence, Hlc watermark)
{
	PeerShared *shared = peerShared(worker_.region, peer, true);
	if (!shared)
		return;
	if (shared->headSequence.load() < sequence)
		shared->headSequence.store(sequence);
	if (shared->watermark.load() >= watermark.value)
		return;
	shared->watermark.store(watermark.value); // only now, see PeerShared
	for (WorkerShared &worker : worker_.region->workers)
		if (worker.kind == WorkerKind::Applier && peer == worker.peer)
			workerWake(worker.latch);
}

void ControlPlane::peers(const std::map<std::string, std::string> &brokers)
{
	for (auto at = peers_.begin(); at != peers_.end();)
		at = brokers.count(at->first) ? std::next(at) : peers_.erase(at);
	for (const auto &[name, list] : brokers)
	{
		if (name == worker_.region->region && ownReadAt_ != 0 && steadyNow() - ownReadAt_ < kOwnTopicInterval)
		{
			peers_.erase(name);
			continue;
		}
		Peer &peer = peers_[name];
		bool same = peer.brokers == list && peer.options == guc::kafkaOptions;
		if (same && (peer.consumer || steadyNow() < peer.retryAt))
			continue;
		peer.brokers = list;
		peer.options = guc::kafkaOptions;
		connect(name, peer);
	}
}

void ControlPlane::connect(const std::string &name, Peer &peer)
{
	int64_t offset = kafka::kFromBeginning;
	peer.topicIncarnation = 0;
	if (!peer.fromBeginning)
	{
		spi::Rows position =
			spi::query("SELECT next_offset, incarnation FROM mrsync.control_position WHERE region_id = $1", {name});
		if (!position.empty())
		{
			offset = std::stoll(*position[0][0]);
			peer.topicIncarnation = std::stoll(*position[0][1]);
		}
	}
	for (const spi::Row &row : spi::query("SELECT incarnation FROM mrsync.link_position WHERE source_region = $1", {name}))
		peer.incarnation = std::max<int64_t>(peer.incarnation, std::stoll(*row[0]));
	kafka::ConsumerConfig config;
	config.brokers = peer.brokers;
	config.options = peer.options;
	config.clientId = std::string("mrsync-") + worker_.region->region + "-control";
	config.topic = controlTopic(worker_.region, name);
	config.queueBytes = 1024 * 1024;
	peer.consumer.reset();
	try
	{
		peer.consumer = std::make_unique<kafka::Consumer>(config, offset, worker_.wakeFd());
	}
	catch (const kafka::Error &error)
	{
		// A certificate that cannot be read, say. It must not end the coordinator, which the other workers hang on.
		failed(name, peer, error.what());
	}
}

void ControlPlane::failed(const std::string &name, Peer &peer, const std::string &why)
{
	peer.consumer.reset();
	peer.retryAt = peer.trouble.empty() ? 0 : steadyNow() + kRetryPause;
	if (peer.trouble == why)
		return;
	peer.trouble = why;
	pgCall([&, text = why.c_str(), peerName = name.c_str()]
		   { ereport(LOG, (errmsg("cannot read the control topic of region %s: %s", peerName, text))); });
}

bool ControlPlane::receive()
{
	constexpr size_t kMost = 1000;
	bool more = false;
	for (auto &[name, peer] : peers_)
	{
		if (!peer.consumer)
			continue;
		std::vector<kafka::Record> records;
		kafka::Consumer::Polled polled =
			peer.consumer->poll(kMost, 0, [&](kafka::Record &&record) { records.push_back(std::move(record)); });
		if (!records.empty())
		{
			peer.fromBeginning = false;
			peer.trouble.clear();
			store(name, peer, records);
		}
		if (name == worker_.region->region && (polled.missing || (polled.atEnd && polled.records < kMost)))
			ownReadAt_ = steadyNow();
		more |= polled.records == kMost;
		if (polled.fatal)
		{
			// Most likely the topic was recreated or truncated. Its rows say the present state: start at its beginning.
			peer.fromBeginning = true;
			failed(name, peer, *polled.fatal);
		}
	}
	return more;
}

void ControlPlane::store(const std::string &name, Peer &peer, const std::vector<kafka::Record> &records)
{
	// of each row only the newest
	std::map<std::string, Statement> newest;
	for (const kafka::Record &record : records)
	{
		auto decoded = decode(record.payload);
		if (auto *error = std::get_if<DecodeError>(&decoded))
		{
			skip(name, peer, record.offset, error->message);
			continue;
		}
		ChangeEvent &event = std::get<ChangeEvent>(decoded);
		if (event.region != name)
		{
			skip(name, peer, record.offset, "it is an event of region " + event.region);
			continue;
		}
		// A dead coordinator's, or an old primary's. Where a topic is read from its beginning, rules stand in it that were
		// registered before the present incarnation; heartbeats have had their time.
		const Kind *kind = kindOf(event);
		const bool isOld = event.tx.incarnation < peer.incarnation;
		if (event.tx.incarnation < peer.topicIncarnation)
			continue;
		peer.topicIncarnation = event.tx.incarnation;
		peer.incarnation = std::max(peer.incarnation, event.tx.incarnation);
		if (!kind || (isOld && kind->isCounted) || valueOf(*event.after, "region_id") != name || (name == worker_.region->region && !kind->comesBack))
			continue;
		std::optional<uint64_t> sequence = kind->isCounted ? sequenceOf(*event.after) : 0;
		if (!sequence)
		{
			skip(name, peer, record.offset, "its sequence is none");
			continue;
		}
		std::optional<Hlc> watermark = kind->isCounted ? heartbeatWatermark(*event.after) : Hlc{};
		if (!watermark)
		{
			skip(name, peer, record.offset, "its watermark is none");
			continue;
		}
		std::string key = event.table + encodeImage(*event.pk);
		// An activation is never taken back, whatever comes behind it: of a region that was set back, and did not know of it.
		if (kind->changesRules && valueOf(*event.after, "activation"))
			key += " active";
		newest.insert_or_assign(std::move(key), Statement{kind, std::move(event), record.offset, *sequence, *watermark});
	}
	std::vector<const Statement *> statements;
	for (const auto &[key, statement] : newest)
		statements.push_back(&statement);
	int64_t nextOffset = records.back().nextOffset;
	try
	{
		write(name, statements, nextOffset);
		return;
	}
	catch (const PgError &error)
	{
		if (!isMalformed(error))
			throw;
	}
	// One of them is not a row of that table. Each by itself, then: the others have something to say.
	for (const Statement *statement : statements)
		try
		{
			write(name, {statement}, statement->offset + 1);
		}
		catch (const PgError &error)
		{
			if (!isMalformed(error))
				throw;
			skip(name, peer, statement->offset, error.message());
		}
	write(name, {}, nextOffset);
}

// One transaction; what it says is known to the other processes once it is committed.
void ControlPlane::write(const std::string &name, const std::vector<const Statement *> &statements, int64_t nextOffset)
{
	WorkerTransaction transaction;
	for (const Statement *statement : statements)
		writeRow(name, *statement);
	spi::execute("INSERT INTO mrsync.control_position (region_id, next_offset, incarnation) VALUES ($1, $2::bigint, $3::bigint) ON CONFLICT "
				 "(region_id) DO UPDATE SET next_offset = excluded.next_offset, incarnation = excluded.incarnation",
				 {name, std::to_string(nextOffset), std::to_string(peers_.at(name).topicIncarnation)});
	transaction.commit();
	for (const Statement *statement : statements)
		if (statement->kind->told)
			(this->*statement->kind->told)(name, *statement);
}

void ControlPlane::writeRow(const std::string &name, const Statement &statement)
{
	const Image &row = *statement.event.after;
	std::vector<spi::Value> values{name};
	for (const char *const *column = statement.kind->columns + 1; column != std::end(statement.kind->columns) && *column; ++column)
		values.push_back(valueOf(row, *column));
	if (spi::execute(statement.kind->store, values) > 0 && statement.kind->changesRules)
		mergeRulesChanged(valueOf(row, "table_name").value_or(""));
}

void ControlPlane::heartbeatTold(const std::string &name, const Statement &statement)
{
	promised(name, statement.sequence, statement.watermark);
	if (PeerShared *shared = peerShared(worker_.region, name, true))
		shared->heartbeatAt.store(GetCurrentTimestamp());
}

void ControlPlane::acknowledgementTold(const std::string &name, const Statement &statement)
{
	if (valueOf(*statement.event.after, "source_region") == std::string(worker_.region->region))
		acknowledged(name, statement.sequence);
}

void ControlPlane::ruleTold(const std::string &, const Statement &)
{
	ruleNews_ = true;
	pgCall([&] { ConditionVariableBroadcast(&worker_.region->acks); });
}

// Somebody's garbage, or a peer's newer version: some lines a minute, whatever comes.
void ControlPlane::skip(const std::string &name, Peer &peer, int64_t offset, const std::string &why)
{
	constexpr int kMostLines = 10;
	int64_t now = steadyNow();
	if (now - peer.skippedSince > USECS_PER_MINUTE)
	{
		peer.skippedSince = now;
		peer.skipped = 0;
	}
	if (++peer.skipped > kMostLines)
		return;
	std::string topic = controlTopic(worker_.region, name);
	pgCall(
		[&, at = static_cast<long long>(offset), topicName = topic.c_str(), text = why.c_str()]
		{
			ereport(LOG, (errmsg("skipped the record at offset %lld of topic %s: %.*s", at, topicName,
								 pg_mbcliplen(text, static_cast<int>(strlen(text)), 500), text),
						  peer.skipped == kMostLines ? errdetail("No more of them are named for a minute.") : 0,
						  errhint("Something else writes to the topic, or a newer version of mrsync does.")));
		});
}

long ControlPlane::beat()
{
	int64_t now = steadyNow();
	long interval = guc::heartbeatIntervalMs;
	long since = (now - beatAt_) / 1000;
	long soonest = watermark_.isBehind() ? std::min(kSoonestBeatMs, interval) : interval;
	if (since < soonest)
		return soonest - since;
	watermark_.take();
	// The extractor wakes us when it has come that far. If it does not, the sign of life goes without a new watermark.
	long patience = interval + kSoonestBeatMs - since;
	if (!watermark_.settle() && patience > 0)
		return patience;
	beatAt_ = now;
	Hlc watermark = watermark_.value();
	uint64_t sequence = std::max(watermark_.sequence(), worker_.region->workers[kExtractorPlace].sequence.load());
	WorkerTransaction transaction;
	// A newer sequence beside an older watermark is true, too: it speaks of fewer events.
	spi::execute("INSERT INTO mrsync.heartbeat AS h (region_id, hlc, sequence, watermark, sent_at) "
				 "VALUES ($1, $2::mrsync.hlc, $3::bigint, $4::mrsync.hlc, clock_timestamp()) ON CONFLICT (region_id) DO UPDATE SET "
				 "hlc = excluded.hlc, sequence = greatest(h.sequence, excluded.sequence), watermark = greatest(h.watermark, "
				 "excluded.watermark), sent_at = excluded.sent_at",
				 {std::string(worker_.region->region), toText(clockTick(worker_.region)), std::to_string(sequence),
				  watermark.value != 0 ? spi::Value(toText(watermark)) : std::nullopt});
	transaction.commit();
	worker_.region->heartbeatSequence.store(sequence);
	return watermark_.isBehind() ? std::min(kSoonestBeatMs, interval) : interval;
}

} // namespace mrsync
