#include "worker/one_by_one.h"

#include "core/codec.h"
#include "worker/parking.h"
#include "worker/subtransaction.h"

namespace mrsync
{

namespace
{

constexpr int kMostTaken = 5; // attempts at a row whose unique key somebody takes at the same moment

} // namespace

std::optional<std::string> OneByOne::Line::before(const std::optional<std::string> &row) const
{
	if (last_.empty())
		return std::nullopt;
	if (whole || !row)
		return last_;
	auto found = rows_.find(*row);
	return found == rows_.end() ? std::nullopt : std::optional(found->second);
}

void OneByOne::Line::add(const std::optional<std::string> &row, std::string eventId)
{
	whole |= !row;
	if (row)
		rows_[*row] = eventId;
	last_ = std::move(eventId);
}

uint64_t OneByOne::run(Inbox &transaction, const SeenVector &seen)
{
	survey(transaction);
	uint64_t place = 0;
	uint64_t parked = 0;
	transaction.forEach(
		[&](const ChangeEvent &event)
		{
			if (++place < tables_.at(event.table).truncatedAt)
				return;
			if (!applied(event, seen))
				++parked;
			MemoryContextReset(eventContext_);
		});
	return parked;
}

// Which tables there are is found out once: one that is added in the middle is not taken for another than it was before.
void OneByOne::survey(Inbox &transaction)
{
	uint64_t place = 0;
	bool truncates = false;
	transaction.forEach(
		[&](const ChangeEvent &event)
		{
			Table &table = tables_[event.table];
			++place;
			if (event.operation != Operation::Truncate)
				return;
			table.truncatedAt = place;
			truncates = true;
		});
	for (auto &[name, table] : tables_)
	{
		Oid root = InvalidOid;
		table.problem = attempt([&] { root = apply_.rootOf(name); });
		if (!table.problem)
			table.line = std::to_string(root);
		else if (!truncates)
			table.line = name; // else one for all of them: nobody knows which is a partition of which
		lines_[table.line].whole = truncates;
	}
}

template <typename F> std::optional<PgError> OneByOne::attempt(F &&f)
{
	MemoryContextSwitchTo(eventContext_);
	std::optional<PgError> failure = inSubtransaction(f);
	if (failure)
		apply_.locksGone();
	if (failure && isRetryable(*failure))
		throw *failure;
	return failure;
}

bool OneByOne::applied(const ChangeEvent &event, const SeenVector &seen)
{
	const Table &table = tables_.at(event.table);
	Line &line = lines_.at(table.line);
	std::optional<std::string> row, waitsFor;
	std::optional<PgError> failure = table.problem;
	if (!failure)
		for (int left = kMostTaken; left > 0; left = failure && isTaken(*failure) ? left - 1 : 0)
			failure = attempt(
				[&]
				{
					row = apply_.rowName(event);
					waitsFor = line.before(row);
					if (!waitsFor)
						apply_.event(event, seen);
				});
	else if (event.pk)
		row = encodeImage(*event.pk);
	if (!failure && !waitsFor)
		return true;
	if (!waitsFor)
		waitsFor = line.before(row); // its table or its key is none here
	if (waitsFor)
		failure = PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						  line.whole ? "an earlier event of the same transaction and table is parked"
									 : "an earlier event of the same transaction and row is parked");
	park(source_, event, seen, *failure, waitsFor);
	line.add(row, toText(event.id));
	return false;
}

} // namespace mrsync
