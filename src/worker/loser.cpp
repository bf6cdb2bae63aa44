#include "worker/loser.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/merge_fitness.h"
#include "pg/spi.h"
#include "worker/as_owner.h"
#include "worker/subtransaction.h"
#include "worker/target.h"
#include "worker/time_limit.h"

extern "C"
{
#include "utils/typcache.h"
}

namespace mrsync
{

Loser::Loser(RegionShared *region, Oid relation, Oid owner, const RootTable &root, const std::vector<TargetColumn> &columns)
	: region_(region), relation_(relation), owner_(owner), root_(root), columns_(columns)
{
	spi::Rows rows = spi::query("SELECT definition_id, strategy, function, checksum FROM mrsync.merge_definition WHERE table_name = $1 AND of_losers AND activation IS "
								"NOT NULL ORDER BY activation DESC, definition_id DESC LIMIT 1",
								{root_.name});
	if (rows.empty() || rows[0][1] == kHoldAside)
		return;
	rule_ = *rows[0][0];
	function_ = rows[0][2].value_or("");
	if (!function_.empty())
		registered_.emplace(function_, rows[0][3], "function " + function_ + " of " + root_.name);
	shared_ = sharedMergeFailures(root_.name);
}

bool Loser::isGivenUp(const std::string &keyName, const Version &version) const
{
	return !shared_.empty() && shared_.contains(mergeFailureId(root_.name, keyName, rule_, version));
}

Loser::Made Loser::make(const Row &row, const std::vector<const RivalIndex *> &by)
{
	if (isGivenUp(row.keyName, row.version))
		return {std::nullopt, "all regions have given " + function_ + " up for it (mrsync.merge_failure)"};
	Image made = row.image;
	if (function_.empty())
		for (const RivalIndex *index : by)
		{
			if (index->nullable.empty())
				return {std::nullopt, "no column of " + index->name + " may be NULL"};
			for (Column &column : made)
				if (column.name == index->nullable)
					column.value.reset();
		}
	std::optional<PgError> failure = attempt(row, made);
	if (failure)
		return {std::nullopt, (function_.empty() ? "its table does not take it with NULL: " : function_ + " failed: ") + failure->sqlStateText() + " " + failure->message()};
	return {std::move(made), ""};
}

// What went wrong, by the row's values. Anything else is thrown.
std::optional<PgError> Loser::attempt(const Row &row, Image &made)
{
	const int limit = guc::mergeFunctionTimeoutMs;
	const int64_t began = steadyNow();
	bool isNothing = false;
	std::optional<PgError> failure = inSubtransaction(
		[&]
		{
			TimeLimit time(limit);
			if (!function_.empty())
			{
				AsOwner owner(root_.owner);
				isNothing = !call(row.image, made);
			}
			AsOwner owner(owner_);
			std::vector<const char *> texts = textsOf(columns_, made);
			pgCall([&] { checkRow(relation_, columns_, texts.data()); });
			made = withTexts(columns_, made, texts);
		});
	if (isNothing)
		return PgError(ERRCODE_NULL_VALUE_NOT_ALLOWED, "it returned NULL");
	if (!failure || isOfValues(*failure))
		return failure;
	const bool isLate = failure->sqlState() == ERRCODE_QUERY_CANCELED && steadyNow() - began >= limit * int64_t{1000};
	if (!isLate && failure->sqlState() != ERRCODE_STATEMENT_TOO_COMPLEX)
		throw *failure;
	if (isLate)
		failure = PgError(ERRCODE_QUERY_CANCELED, "no result after " + std::to_string(limit) + " ms (mrsync.merge_function_timeout)");
	// Another region may get a result. So it is given up in all of them, and said before anything is told of the row.
	toShare_ = MergeFailure{root_.name, row.pkText, row.keyName, "", rule_, row.version, function_, std::nullopt, std::nullopt, encodeImage(row.image), *failure};
	throw PgError(ERRCODE_T_R_SERIALIZATION_FAILURE, "to make a row of " + root_.name + " fit is given up in all regions: " + failure->message());
}

// False: it returned NULL.
bool Loser::call(const Image &row, Image &made)
{
	registered_->prepare([&](const std::string &name) { return spi::prepare("SELECT " + name + "($1)", {root_.rowType}); });
	const std::vector<const char *> given = textsOf(columns_, row);
	std::vector<const char *> results(columns_.size());
	bool isNothing = false;
	pgCall(
		[&]
		{
			Datum value = rowDatum(columns_, lookup_rowtype_tupdesc_copy(root_.rowType, -1), given.data());
			TupleDesc desc;
			HeapTuple tuple = callPlan(registered_->plan(), &value, " ", desc);
			Datum result = SPI_getbinval(tuple, desc, 1, &isNothing);
			if (!isNothing)
				rowTexts(columns_, result, results.data());
			SPI_freetuptable(SPI_tuptable);
		});
	registered_->called();
	if (isNothing)
		return false;
	made = withTexts(columns_, row, results);
	return true;
}

} // namespace mrsync
