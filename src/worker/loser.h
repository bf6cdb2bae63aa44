// What becomes of a row that others with a higher version exclude from its table (core/exclusion.h): the table's newest rule for losers.
//
// What a rule makes of a row hangs on that row as it was written, on the keys by which others exclude it, and on the failures that all
// regions share; so it is the same everywhere. What it makes fits, or the row is held aside.
// Relied on by: Apply, where a row is placed, and where it is looked whether it is still where it belongs.
#pragma once

#include "core/event.h"
#include "worker/merge_failure.h"
#include "worker/root_table.h"
#include "worker/target_column.h"
#include "worker/user_function.h"

#include <utility>

namespace mrsync
{

struct RivalIndex;

class Loser
{
public:
	// relation: the root itself, or a partition of it. Reads the rule from the catalog. Throws PgError, as all below.
	Loser(RegionShared *region, Oid relation, Oid owner, const RootTable &root, const std::vector<TargetColumn> &columns);
	Loser(const Loser &) = delete;
	Loser &operator=(const Loser &) = delete;

	// The rule's definition_id; "": there is none, and the row is held aside.
	const std::string &rule() const { return rule_; }

	struct Row
	{
		std::string pkText, keyName;
		Version version;
		const Image &image;
	};
	struct Made
	{
		std::optional<Image> image; // instead of the row's own
		std::string why;			// there is none
	};
	// by: what keeps it out.
	Made make(const Row &row, const std::vector<const RivalIndex *> &by);
	// All regions have given it up to make anything of this row.
	bool isGivenUp(const std::string &keyName, const Version &version) const;
	// What a call has failed with that is to be shared; the transaction is tried again then.
	std::optional<MergeFailure> takeFailure() { return std::exchange(toShare_, std::nullopt); }

private:
	std::optional<PgError> attempt(const Row &row, Image &made);
	bool call(const Image &row, Image &made);

	RegionShared *region_;
	Oid relation_;
	Oid owner_;
	RootTable root_;
	const std::vector<TargetColumn> &columns_;
	std::string rule_, function_; // no function: keys are set NULL
	std::optional<RegisteredCall> registered_;
	std::set<std::string> shared_; // failures, by their ids
	std::optional<MergeFailure> toShare_;
};

} // namespace mrsync
