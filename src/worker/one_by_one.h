// A transaction that cannot be applied as a whole, event by event, each in a subtransaction of the local transaction at
// hand: what fails is parked in mrsync.apply_error, named, and the others go on (I8).
//
// The order of a transaction's events on one row must hold, so behind a parked one those that come later are parked, too,
// and wait for it (waits_for). They share one version: tried in another order, the older would overwrite the newer for
// good. A TRUNCATE is an event on every row of its table, or of a partition: a transaction with one has its events on a
// table in one line. What comes before the last TRUNCATE of its own table is not even tried; parked, it would come back
// behind it, or keep it waiting for a row that it would take away.
#pragma once

#include "pg/guard.h"
#include "worker/apply.h"
#include "worker/inbox.h"

#include <optional>
#include <string>
#include <unordered_map>

namespace mrsync
{

class OneByOne
{
public:
	// eventContext: the memory of one event.
	OneByOne(Apply &apply, const std::string &source, MemoryContext eventContext)
		: apply_(apply), source_(source), eventContext_(eventContext)
	{
	}

	// Returns how many events were parked. Throws PgError where all of it may succeed later (isRetryable).
	uint64_t run(Inbox &transaction, const SeenVector &seen);

private:
	struct Table // by the name that the events have for it
	{
		std::optional<PgError> problem; // it cannot be written here, now
		std::string line;				// which of lines_ its events are in
		uint64_t truncatedAt = 0;		// the place of its last TRUNCATE in the transaction
	};
	class Line // what is parked of one table
	{
	public:
		// The parked event that the next one waits for, if it has to. row: none for one that may concern any.
		std::optional<std::string> before(const std::optional<std::string> &row) const;
		void add(const std::optional<std::string> &row, std::string eventId);
		bool whole = false; // each waits for the one before it, whatever its row

	private:
		std::string last_;
		std::unordered_map<std::string, std::string> rows_; // the last one of each
	};

	void survey(Inbox &transaction);
	bool applied(const ChangeEvent &event, const SeenVector &seen);
	template <typename F> std::optional<PgError> attempt(F &&f);

	Apply &apply_;
	const std::string &source_;
	MemoryContext eventContext_;
	std::unordered_map<std::string, Table> tables_;
	std::unordered_map<std::string, Line> lines_;
};

} // namespace mrsync
