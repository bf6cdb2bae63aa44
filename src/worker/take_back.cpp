#include "worker/take_back.h"

#include "core/mutant.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/history.h"
#include "pg/spi.h"

namespace mrsync
{

namespace
{

constexpr int64_t kLookAgain = USECS_PER_SEC; // for the slot, and for events of our own that are parked

} // namespace

bool TakeBack::isDue()
{
	return *spi::query("SELECT EXISTS (SELECT FROM mrsync.recovery WHERE finished_at IS NULL)")[0][0] == "t";
}

bool TakeBack::load()
{
	spi::Rows rows = spi::query("SELECT incarnation, taken_back_at IS NOT NULL, resent_at IS NOT NULL FROM mrsync.recovery WHERE "
								"finished_at IS NULL ORDER BY recovery_id DESC LIMIT 1");
	if (rows.empty())
		return false;
	incarnation_ = std::stoll(*rows[0][0]);
	isTaken_ = *rows[0][1] == "t";
	isResent_ = *rows[0][2] == "t";
	return true;
}

bool TakeBack::isBehind(const Envelope &tx)
{
	hasMet_ |= tx.incarnation >= incarnation_;
	return hasMet_;
}

bool TakeBack::isHere(const ChangeEvent &event) const
{
	return mutated("takes_nothing_back") || (!event.tx.resent && inTransaction([&] { return hasCommitted(event.tx.xid, event.committedAt); }));
}

void TakeBack::missing(const std::string &what)
{
	WorkerTransaction transaction;
	spi::execute("UPDATE mrsync.recovery SET note = coalesce(note || '; ', '') || $1 WHERE finished_at IS NULL AND (note IS NULL OR position($1 IN "
				 "note) = 0)",
				 {what});
	transaction.commit();
	pgCall(
		[text = what.c_str()]
		{
			ereport(LOG, (errmsg("this region cannot take back everything: %s", text),
						  errhint("Regions that had applied it have it: SELECT mrsync.resend() in one of them brings it here.")));
		});
}

void TakeBack::notMissing(const std::string &what)
{
	WorkerTransaction transaction;
	spi::execute("UPDATE mrsync.recovery SET note = nullif(array_to_string(array_remove(string_to_array(note, '; '), $1), '; '), '') WHERE "
				 "finished_at IS NULL",
				 {what});
	transaction.commit();
	pgCall([text = what.c_str()] { ereport(LOG, (errmsg("it has been sent again: %s", text))); });
}

bool TakeBack::step(uint64_t sequence)
{
	if (!isTaken_)
	{
		note("taken_back_at");
		isTaken_ = true;
	}
	if (!isResent_ && hasSlot())
	{
		worker_.state("what this region has is being sent again, as mrsync.resend() does");
		resend(sequence);
		note("resent_at");
		isResent_ = true;
	}
	if (!isResent_)
		worker_.state("waits for the new replication slot: before it is there, nothing can be sent again");
	if (!isResent_ || steadyNow() - lookedAt_ < kLookAgain)
		return false;
	lookedAt_ = steadyNow();
	const std::string own = worker_.region->region;
	WorkerTransaction transaction;
	bool isParked = *spi::query("SELECT EXISTS (SELECT FROM mrsync.apply_error WHERE source_region = $1)", {own})[0][0] == "t";
	if (!isParked)
	{
		spi::execute("UPDATE mrsync.recovery SET taken_back = taken_back + $1::bigint, finished_at = clock_timestamp() WHERE finished_at IS NULL",
					 {std::to_string(applied_)});
		spi::execute("DELETE FROM mrsync.link_position WHERE source_region = $1", {own});
	}
	transaction.commit();
	if (isParked)
		worker_.degraded("events of this region that were taken back are parked: SELECT * FROM mrsync.apply_error");
	else
		pgCall([] { ereport(LOG, (errmsg("this region has taken back what its topic holds, and has sent again what it has"))); });
	return !isParked;
}

// What is written into the WAL before the new slot begins, nobody sends; and what was committed by then is to be among it.
bool TakeBack::hasSlot()
{
	if (steadyNow() - lookedAt_ < kLookAgain)
		return false;
	WorkerTransaction transaction;
	bool has = *spi::query("SELECT NOT EXISTS (SELECT FROM mrsync.recovery WHERE finished_at IS NULL AND slot_lsn IS NULL)")[0][0] == "t";
	transaction.commit();
	lookedAt_ = has ? 0 : steadyNow();
	return has;
}

// What this region had promised before it was set back spares what is surely in the topic, where it had sent that far.
void TakeBack::resend(uint64_t sequence)
{
	WorkerTransaction transaction;
	spi::query("SELECT mrsync.resend(r.from_hlc, NULL, r.after_sequence) FROM (SELECT CASE WHEN after_sequence <= $1::bigint THEN from_hlc "
			   "END AS from_hlc, after_sequence FROM mrsync.recovery WHERE finished_at IS NULL ORDER BY recovery_id LIMIT 1) r",
			   {std::to_string(sequence)});
	transaction.commit();
}

void TakeBack::note(const char *column)
{
	WorkerTransaction transaction;
	spi::execute(("UPDATE mrsync.recovery SET taken_back = taken_back + $1::bigint, " + std::string(column) +
				  " = clock_timestamp() WHERE finished_at IS NULL").c_str(),
				 {std::to_string(applied_)});
	transaction.commit();
	applied_ = 0;
}

} // namespace mrsync
