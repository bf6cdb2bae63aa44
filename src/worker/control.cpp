#include "worker/control.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"

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

constexpr char kHeartbeat[] = "mrsync.heartbeat";
constexpr char kAcknowledgement[] = "mrsync.acknowledgement";

bool isOurs(const ChangeEvent &event)
{
	return (event.table == kHeartbeat || event.table == kAcknowledgement) && event.after && event.pk;
}

// Strictly: what is told to wait_for_peers must not be a number by accident.
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

// The values are no values of their columns' types.
bool isMalformed(const PgError &error)
{
	return ERRCODE_TO_CATEGORY(error.sqlState()) == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
		   error.sqlState() == ERRCODE_NOT_NULL_VIOLATION;
}

} // namespace

void ControlPlane::load()
{
	for (const spi::Row &row :
		 spi::query("SELECT region_id, sequence FROM mrsync.acknowledgement WHERE source_region = $1",
					{std::string(worker_.region->region)}))
		acknowledged(*row[0], std::stoull(*row[1]));
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

void ControlPlane::peers(const std::map<std::string, std::string> &brokers)
{
	for (auto at = peers_.begin(); at != peers_.end();)
		at = brokers.count(at->first) ? std::next(at) : peers_.erase(at);
	for (const auto &[name, list] : brokers)
	{
		Peer &peer = peers_[name];
		bool same = peer.brokers == list && peer.options == guc::kafkaOptions;
		if (same && (peer.consumer || GetCurrentTimestamp() < peer.retryAt))
			continue;
		peer.brokers = list;
		peer.options = guc::kafkaOptions;
		connect(name, peer);
	}
}

void ControlPlane::connect(const std::string &name, Peer &peer)
{
	int64_t offset = kafka::kFromBeginning;
	if (!peer.fromBeginning)
	{
		spi::Rows position =
			spi::query("SELECT next_offset FROM mrsync.control_position WHERE region_id = $1", {name});
		if (!position.empty())
			offset = std::stoll(*position[0][0]);
	}
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
	peer.retryAt = peer.trouble.empty() ? 0 : GetCurrentTimestamp() + kRetryPause;
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
		// A later version may send rows that this one does not know: they are not for us.
		if (!isOurs(event) || valueOf(*event.after, "region_id") != name)
			continue;
		std::optional<uint64_t> sequence = sequenceOf(*event.after);
		if (!sequence)
		{
			skip(name, peer, record.offset, "its sequence is none");
			continue;
		}
		std::string key = event.table + encodeImage(*event.pk);
		newest.insert_or_assign(std::move(key), Statement{std::move(event), record.offset, *sequence});
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
	spi::execute("INSERT INTO mrsync.control_position VALUES ($1, $2::bigint) ON CONFLICT (region_id) DO UPDATE SET "
				 "next_offset = excluded.next_offset",
				 {name, std::to_string(nextOffset)});
	transaction.commit();
	for (const Statement *statement : statements)
	{
		if (statement->event.table == kAcknowledgement)
		{
			if (valueOf(*statement->event.after, "source_region") == std::string(worker_.region->region))
				acknowledged(name, statement->sequence);
		}
		else if (PeerShared *shared = peerShared(worker_.region, name, true))
		{
			shared->headSequence.store(statement->sequence);
			shared->heartbeatAt.store(GetCurrentTimestamp());
		}
	}
}

void ControlPlane::writeRow(const std::string &name, const Statement &statement)
{
	const Image &row = *statement.event.after;
	if (statement.event.table == kHeartbeat)
		spi::execute("INSERT INTO mrsync.heartbeat AS h (region_id, hlc, sequence, sent_at) "
					 "VALUES ($1, $2::mrsync.hlc, $3::bigint, $4::timestamptz) ON CONFLICT (region_id) DO UPDATE SET "
					 "hlc = excluded.hlc, sequence = excluded.sequence, sent_at = excluded.sent_at "
					 "WHERE h.hlc OPERATOR(mrsync.<) excluded.hlc",
					 {name, valueOf(row, "hlc"), valueOf(row, "sequence"), valueOf(row, "sent_at")});
	else
		spi::execute("INSERT INTO mrsync.acknowledgement AS a (region_id, source_region, hlc, sequence, event_id, "
					 "committed_at, lag_ms) VALUES ($1, $2, $3::mrsync.hlc, $4::bigint, $5::uuid, $6::timestamptz, "
					 "$7::bigint) ON CONFLICT (region_id, source_region) DO UPDATE SET hlc = excluded.hlc, sequence = "
					 "excluded.sequence, event_id = excluded.event_id, committed_at = excluded.committed_at, lag_ms = "
					 "excluded.lag_ms WHERE a.hlc OPERATOR(mrsync.<) excluded.hlc",
					 {name, valueOf(row, "source_region"), valueOf(row, "hlc"), valueOf(row, "sequence"),
					  valueOf(row, "event_id"), valueOf(row, "committed_at"), valueOf(row, "lag_ms")});
}

// Somebody's garbage, or a peer's newer version: some lines a minute, whatever comes.
void ControlPlane::skip(const std::string &name, Peer &peer, int64_t offset, const std::string &why)
{
	constexpr int kMostLines = 10;
	TimestampTz now = GetCurrentTimestamp();
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
	TimestampTz now = GetCurrentTimestamp();
	long since = (now - beatAt_) / 1000;
	if (since < guc::heartbeatIntervalMs)
		return guc::heartbeatIntervalMs - since;
	beatAt_ = now;
	WorkerTransaction transaction;
	spi::execute("INSERT INTO mrsync.heartbeat AS h (region_id, hlc, sequence, sent_at) "
				 "VALUES ($1, $2::mrsync.hlc, $3::bigint, clock_timestamp()) ON CONFLICT (region_id) DO UPDATE SET "
				 "hlc = excluded.hlc, sequence = greatest(h.sequence, excluded.sequence), sent_at = excluded.sent_at",
				 {std::string(worker_.region->region), toText(clockTick(worker_.region)),
				  std::to_string(worker_.region->ackedSequence.load())});
	transaction.commit();
	return guc::heartbeatIntervalMs;
}

} // namespace mrsync
