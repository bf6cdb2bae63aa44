#include "worker/parking.h"

#include "core/codec.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/worker.h"

namespace mrsync
{

namespace
{

std::string retryInterval() { return std::to_string(guc::applyErrorRetrySeconds) + " s"; }

spi::Value orNull(const std::string &text) { return text.empty() ? std::nullopt : spi::Value(text); }

} // namespace

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

bool isTaken(const PgError &error)
{
	return error.sqlState() == ERRCODE_UNIQUE_VIOLATION || error.sqlState() == ERRCODE_EXCLUSION_VIOLATION;
}

void park(const std::string &source, const ChangeEvent &event, const SeenVector &seen, const PgError &error,
		  const std::optional<std::string> &waitsFor)
{
	ChangeEvent whole = event;
	whole.tx.seen = seen;
	std::string json;
	encode(whole, json);
	spi::execute("INSERT INTO mrsync.apply_error (source_region, event_id, table_name, row_pk, operation, hlc, event, "
				 "sqlstate, message, detail, hint, waits_for, retry_at) VALUES ($1, $2::uuid, $3, $4::jsonb, $5, "
				 "$6::mrsync.hlc, $7, $8, $9, $10, $11, $12::uuid, clock_timestamp() + $13::interval) "
				 "ON CONFLICT (event_id) DO NOTHING",
				 {source, toText(event.id), event.table, event.pk ? spi::Value(encodeImage(*event.pk)) : std::nullopt,
				  toText(event.operation), toText(event.hlc), json, error.sqlStateText(), error.message(),
				  orNull(error.detail()), orNull(error.hint()), waitsFor, waitsFor ? "0 s" : retryInterval()});
}

std::vector<std::string> parkedDue(const std::string &source)
{
	std::vector<std::string> due;
	WorkerTransaction transaction;
	for (const spi::Row &row : spi::query("SELECT error_id FROM mrsync.apply_error WHERE source_region = $1 AND waits_for IS "
										  "NULL AND retry_at <= statement_timestamp() ORDER BY retry_at, error_id LIMIT 100 FOR UPDATE SKIP LOCKED",
										  {source}))
		due.push_back(*row[0]);
	transaction.commit();
	return due;
}

std::optional<ChangeEvent> parkedHold(const std::string &id)
{
	spi::Rows rows = spi::query(
		"SELECT event, event_id FROM mrsync.apply_error WHERE error_id = $1::bigint FOR UPDATE SKIP LOCKED", {id});
	if (rows.empty())
		return std::nullopt;
	spi::Rows waiting = spi::query("WITH held AS (SELECT FROM mrsync.apply_error WHERE waits_for = $1::uuid FOR UPDATE SKIP LOCKED) "
								   "SELECT count(*) = (SELECT count(*) FROM mrsync.apply_error WHERE waits_for = $1::uuid) FROM held",
								   {rows[0][1]});
	if (waiting[0][0] != "t")
		return std::nullopt;
	auto decoded = decode(*rows[0][0]);
	if (auto *error = std::get_if<DecodeError>(&decoded))
		throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.apply_error row " + id + " holds no event")
			.detail(error->message)
			.hint("Remove it with mrsync.apply_error_discard(" + id + ").");
	return std::get<ChangeEvent>(std::move(decoded));
}

void unpark(const std::string &id)
{
	spi::execute("DELETE FROM mrsync.apply_error WHERE error_id = $1::bigint", {id});
}

std::vector<std::string> parkedBefore(const ChangeEvent &event)
{
	std::vector<std::string> keys;
	for (const spi::Row &row :
		 spi::query("SELECT row_pk FROM mrsync.apply_error WHERE source_region = $1 AND hlc OPERATOR(mrsync.=) $2::mrsync.hlc "
					"AND table_name = $3 AND event_id < $4::uuid AND row_pk IS NOT NULL",
					{event.region, toText(event.hlc), event.table, toText(event.id)}))
		keys.push_back(*row[0]);
	return keys;
}

void parkedFailedAgain(const std::string &id, const PgError &error)
{
	WorkerTransaction transaction;
	spi::execute("UPDATE mrsync.apply_error SET attempts = attempts + 1, last_failed_at = clock_timestamp(), retry_at = "
				 "clock_timestamp() + $6::interval, sqlstate = $2, message = $3, detail = $4, hint = $5 "
				 "WHERE error_id IN (SELECT error_id FROM mrsync.apply_error WHERE error_id = $1::bigint FOR UPDATE SKIP LOCKED)",
				 {id, error.sqlStateText(), error.message(), orNull(error.detail()), orNull(error.hint()), retryInterval()});
	transaction.commit();
}

} // namespace mrsync
