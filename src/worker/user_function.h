// Calls of users' functions on columns and on whole rows: values are texts on this side, and go through SQL, so that whatever it asks
// for a call is asked. The rights are the caller's to set (worker/as_owner.h), and the limits (worker/time_limit.h).
// Relied on by: merge functions (worker/merger.h), and those that make a row fit (worker/loser.h).
#pragma once

#include "core/event.h"
#include "pg/guard.h"
#include "pg/merge_fitness.h"
#include "pg/spi.h"
#include "worker/target_column.h"

extern "C"
{
#include "executor/spi.h"
}

namespace mrsync
{

// An error of these is one of the values and the function, not of the place and the moment.
bool isOfValues(const PgError &error);

// Calls of a function that a rule names. It has to be the one that was registered: what another one makes is not what the other
// regions make. Throws PgError if it is not, or if there is none here: the event waits.
class RegisteredCall
{
public:
	RegisteredCall(std::string function, spi::Value checksum, std::string whose);
	~RegisteredCall();
	RegisteredCall(const RegisteredCall &) = delete;
	RegisteredCall &operator=(const RegisteredCall &) = delete;

	// make(name): the plan, of the name to call it by. Made anew when functions have changed.
	template <typename F> void prepare(F &&make)
	{
		if (plan_ && seen_ == functionChanges())
			return;
		const std::string name = confirm();
		forget();
		plan_ = make(name);
	}
	SPIPlanPtr plan() const { return plan_; }
	// After a call: it was not replaced meanwhile.
	void called()
	{
		if (seen_ != functionChanges())
			confirm();
	}

private:
	std::string confirm();
	void forget();

	std::string function_, whose_; // whose: for messages
	spi::Value checksum_;
	SPIPlanPtr plan_ = nullptr;
	uint64_t seen_ = 0; // functionChanges()
};

// The one row that it gives. May ereport.
HeapTuple callPlan(SPIPlanPtr plan, Datum *values, const char *nulls, TupleDesc &desc);

// ---- rows

// Of all columns; null: NULL, or not in the image, whose memory they are in.
std::vector<const char *> textsOf(const std::vector<TargetColumn> &columns, const Image &row);
// What a function was given, with the values that it returned; the key and what the table has no column for stay.
Image withTexts(const std::vector<TargetColumn> &columns, const Image &given, const std::vector<const char *> &texts);
// A row as its table's type has it, and back. May ereport.
Datum rowDatum(const std::vector<TargetColumn> &columns, TupleDesc desc, const char *const *texts);
void rowTexts(const std::vector<TargetColumn> &columns, Datum row, const char **texts);

// Whether the table takes a row, but for its indexes: domains, NOT NULL, CHECK. May ereport: it does not. Columns that are generated
// get the values that they would have.
void checkRow(Oid relation, const std::vector<TargetColumn> &columns, const char **texts);

} // namespace mrsync
