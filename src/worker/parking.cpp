#include "worker/parking.h"

#include "core/codec.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/worker.h"

namespace mrsync
{

namespace
{

spi::Value orNull(const std::string &text) { return text.empty() ? std::nullopt : spi::Value(text); }

} // namespace

void park(const std::string &source, const ChangeEvent &event, const SeenVector &seen, const PgError &error)
{
	ChangeEvent whole = event;
	whole.tx.seen = seen;
	std::string json;
	encode(whole, json);
	spi::execute("INSERT INTO mrsync.apply_error (source_region, event_id, table_name, row_pk, operation, hlc, event, "
				 "sqlstate, message, detail, hint) VALUES ($1, $2::uuid, $3, $4::jsonb, $5, $6::mrsync.hlc, $7, $8, $9, "
				 "$10, $11) ON CONFLICT (event_id) DO NOTHING",
				 {source, toText(event.id), event.table, event.pk ? spi::Value(encodeImage(*event.pk)) : std::nullopt,
				  toText(event.operation), toText(event.hlc), json, error.sqlStateText(), error.message(),
				  orNull(error.detail()), orNull(error.hint())});
}

void unpark(const std::string &id)
{
	spi::execute("DELETE FROM mrsync.apply_error WHERE error_id = $1::bigint", {id});
}

std::vector<ParkedEvent> parkedDue(const std::string &source)
{
	std::vector<ParkedEvent> due;
	WorkerTransaction transaction;
	for (const spi::Row &row : spi::query("SELECT error_id, event FROM mrsync.apply_error WHERE source_region = $1 AND "
										  "last_failed_at < clock_timestamp() - $2::interval ORDER BY hlc LIMIT 100",
										  {source, std::to_string(guc::applyErrorRetrySeconds) + "s"}))
	{
		auto decoded = decode(*row[1]);
		if (auto *event = std::get_if<ChangeEvent>(&decoded))
			due.push_back(ParkedEvent{*row[0], std::move(*event)});
	}
	transaction.commit();
	return due;
}

void parkedFailedAgain(const std::string &id, const PgError &error)
{
	WorkerTransaction transaction;
	spi::execute("UPDATE mrsync.apply_error SET attempts = attempts + 1, last_failed_at = clock_timestamp(), "
				 "sqlstate = $2, message = $3, detail = $4, hint = $5 WHERE error_id = $1::bigint",
				 {id, error.sqlStateText(), error.message(), orNull(error.detail()), orNull(error.hint())});
	transaction.commit();
}

} // namespace mrsync
