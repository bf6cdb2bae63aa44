#include "worker/control.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/spi.h"

#include <algorithm>

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
		std::vector<std::string> events;
		int64_t nextOffset = 0;
		kafka::Consumer::Polled polled = peer.consumer->poll(kMost, 0,
															 [&](kafka::Record &&record)
															 {
																 events.push_back(std::move(record.payload));
																 nextOffset = record.nextOffset;
															 });
		if (!events.empty())
		{
			peer.fromBeginning = false;
			peer.trouble.clear();
			store(name, events, nextOffset);
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

void ControlPlane::store(const std::string &peer, const std::vector<std::string> &events, int64_t nextOffset)
{
	// of each row only the newest
	std::map<std::string, ChangeEvent> newest;
	for (const std::string &json : events)
	{
		auto decoded = decode(json);
		auto *event = std::get_if<ChangeEvent>(&decoded);
		// A later version may send rows that this one does not know: they are not for us.
		if (event && event->region == peer && event->after && event->pk)
			newest.insert_or_assign(event->table + encodeImage(*event->pk), std::move(*event));
	}
	WorkerTransaction transaction;
	for (auto &[key, event] : newest)
	{
		const Image &row = *event.after;
		if (valueOf(row, "region_id") != peer)
			continue;
		if (event.table == "mrsync.heartbeat")
		{
			spi::execute("INSERT INTO mrsync.heartbeat AS h (region_id, hlc, sequence, sent_at) "
						 "VALUES ($1, $2::mrsync.hlc, $3::bigint, $4::timestamptz) ON CONFLICT (region_id) DO UPDATE SET "
						 "hlc = excluded.hlc, sequence = excluded.sequence, sent_at = excluded.sent_at "
						 "WHERE h.hlc OPERATOR(mrsync.<) excluded.hlc",
						 {peer, valueOf(row, "hlc"), valueOf(row, "sequence"), valueOf(row, "sent_at")});
			if (PeerShared *shared = peerShared(worker_.region, peer, true))
			{
				shared->headSequence.store(std::stoull(valueOf(row, "sequence").value_or("0")));
				shared->heartbeatAt.store(GetCurrentTimestamp());
			}
		}
		else if (event.table == "mrsync.acknowledgement")
		{
			spi::execute("INSERT INTO mrsync.acknowledgement AS a (region_id, source_region, hlc, sequence, event_id, "
						 "committed_at, lag_ms) VALUES ($1, $2, $3::mrsync.hlc, $4::bigint, $5::uuid, $6::timestamptz, "
						 "$7::bigint) ON CONFLICT (region_id, source_region) DO UPDATE SET hlc = excluded.hlc, sequence = "
						 "excluded.sequence, event_id = excluded.event_id, committed_at = excluded.committed_at, lag_ms = "
						 "excluded.lag_ms WHERE a.hlc OPERATOR(mrsync.<) excluded.hlc",
						 {peer, valueOf(row, "source_region"), valueOf(row, "hlc"), valueOf(row, "sequence"),
						  valueOf(row, "event_id"), valueOf(row, "committed_at"), valueOf(row, "lag_ms")});
			if (valueOf(row, "source_region") == std::string(worker_.region->region))
				acknowledged(peer, std::stoull(valueOf(row, "sequence").value_or("0")));
		}
	}
	spi::execute("INSERT INTO mrsync.control_position VALUES ($1, $2::bigint) ON CONFLICT (region_id) DO UPDATE SET "
				 "next_offset = excluded.next_offset",
				 {peer, std::to_string(nextOffset)});
	transaction.commit();
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
				  std::to_string(worker_.region->workers[kExtractorPlace].sequence.load())});
	transaction.commit();
	return guc::heartbeatIntervalMs;
}

} // namespace mrsync
