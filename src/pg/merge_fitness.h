// What must hold in a region for a rule by which conflicts on a table are decided: of the table, the column, the function.
//
// Relied on by: merge_function_register and its like, which refuse what is unfit at once; the coordinator of every
// region, which says so in its acknowledgement, for tables and functions of one name may differ between regions.
// All throw PgError with a DETAIL or HINT; inside a transaction.
#pragma once

#include "pg/server.h"

namespace mrsync
{

constexpr char kMergeFunction[] = "merge_function";
constexpr char kLastWriterWins[] = "last_writer_wins";
constexpr char kColumnLastWriterWins[] = "column_last_writer_wins";
// Of rows that others exclude (worker/loser.h).
constexpr char kHoldAside[] = "hold_aside";
constexpr char kSetNull[] = "set_null";
constexpr char kLoserFunction[] = "loser_function";

bool isOfLosers(const std::string &strategy);

struct MergePlace // where a rule holds
{
	Oid relation = InvalidOid; // InvalidOid: there is no such replicated table here
	std::string table;		   // as events and messages name it
	std::optional<std::string> column; // nothing: the whole row, or all columns without a rule of their own
};

void requireRuleFits(const MergePlace &place, const std::string &strategy);
// isInForce: it is not asked whether it has the column's type: that may have been changed since, and the function of that type is called by the name.
void requireFunctionFits(const MergePlace &place, const std::string &strategy, Oid function, bool isInForce = false);

// With its schema and argument types; can be read by regprocedure under any search_path.
std::string functionName(Oid function);

struct FunctionSource
{
	std::string text; // the statement that makes it
	std::string checksum;
};
// Nothing: it belongs to the system or to an extension. Under fixed settings (pg/fixed_settings.h): it is compared across regions.
std::optional<FunctionSource> functionSource(Oid function);
// It is the function that was registered, under this name. checksum: NULL: one of an extension, whatever it does.
void requireRegistered(Oid function, const std::string &name, const std::optional<std::string> &checksum);

// A number that is another one when functions of this database may have been made, replaced, altered or dropped, as far as this
// process has heard.
uint64_t functionChanges();

} // namespace mrsync
