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
	for (const spi::Row &row : spi::query("SELECT error_id, event FROM mrsync.apply_error e WHERE source_region = $1 AND "
										  "last_failed_at < clock_timestamp() - $2::interval AND NOT EXISTS (SELECT FROM "
										  "mrsync.apply_error p WHERE p.source_region = $1 AND p.hlc OPERATOR(mrsync.=) "
										  "e.hlc AND p.table_name = e.table_name AND p.row_pk = e.row_pk AND p.event_id < "
										  "e.event_id) ORDER BY hlc, event_id LIMIT 100",
										  {source, std::to_string(guc::applyErrorRetrySeconds) + "s"}))
	{
		auto decoded = decode(*row[1]);
		if (auto *error = std::get_if<DecodeError>(&decoded))
			throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.apply_error row " + *row[0] + " holds no event")
				.detail(error->message)
				.hint("Remove it with mrsync.apply_error_discard(" + *row[0] + ").");
		due.push_back(ParkedEvent{*row[0], std::get<ChangeEvent>(std::move(decoded))});
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
