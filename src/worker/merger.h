// The merge rules of one table, and the functions that they name, called as the owner of the table that was added, also for a partition of another
// owner's (core/fold.h asks for them).
//
// A function that fails on certain values fails on them in every region: then the event's own value is taken. One that does not come to
// an end is given up by all regions together (worker/merge_failure.h). What else may go otherwise in another region (no memory, a
// cancelled query, a function that is not there) is no result: it is thrown, and the event waits.
#pragma once

#include "core/fold.h"
#include "worker/merge_failure.h"
#include "worker/root_table.h"
#include "worker/target_column.h"
#include "worker/user_function.h"

namespace mrsync
{

// Whether conflicts on a table, as events name it, are decided by a rule that merges. Throws PgError.
bool hasMergeRule(const std::string &table);

// A merge function that is run beside what decides (worker/shadows.h).
struct MergeShadow
{
	std::string definition;
	std::optional<std::string> column; // nothing: whole rows
	std::string function;
};

class Merger : public MergeCalls
{
public:
	// relation: the root itself, or a partition of it. Reads the rules from the catalog.
	Merger(RegionShared *region, Oid relation, Oid owner, const RootTable &root, const std::vector<TargetColumn> &columns);
	Merger(const Merger &) = delete;
	Merger &operator=(const Merger &) = delete;

	const MergeRules &rules() const { return rules_; }
	const std::vector<MergeShadow> &shadows() const { return shadows_; }
	// As long as this is so, what fails throws PgError, of values, too: nothing hangs on it.
	void onTrial(bool is) { isTrial_ = is; }
	// An image as it is folded, the same in all regions: in the order of names, without what each region generates itself.
	Image normal(Image image) const;
	RowState normal(const RowState &state) const;

	// A state without columns that were dropped, and with those that were added since it was written.
	Image asTable(Image row) const;
	bool hasColumn(const std::string &name) const { return column(name) != nullptr; }

	// Whose row is folded next. Before an event of this version nothing is done for the first time.
	void row(std::string pkText, std::string keyName, const Version &first);
	void step(const Version &event) override { step_ = event; }
	// What a call has failed with that is to be shared; the transaction is tried again then.
	uint64_t givenUp() const { return givenUp_; } // so many calls, in all regions
	std::optional<MergeFailure> takeFailure() { return std::exchange(toShare_, std::nullopt); }

	std::optional<Value> merge(const std::string &function, const std::string &column, const Value &ancestor, const Value &a,
							   const Value &b) override;
	std::optional<Value> empty(const std::string &function, const std::string &column) override;
	std::optional<Image> mergeRow(const std::string &function, const RowState &ancestor, const RowState &a, const Image &b) override;
	bool isValid(const Image &row) override;
	std::optional<Value> added(const std::string &column) override;

private:
	const TargetColumn *column(const std::string &name) const;
	// Calls f with the rights of whose code it is; values(): ancestor, a and b, should it fail. False: the event's own values are taken.
	template <typename F, typename V> bool call(const std::string &function, const std::string &column, V &&values, F &&f);
	RegisteredCall &prepared(const std::string &function, const std::string &column);
	void readRules();
	void readDefaults();

	RegionShared *region_;
	Oid relation_;
	Oid owner_;
	std::string root_;
	Oid rowType_;
	Oid functionOwner_;
	std::vector<std::optional<Value>> defaults_; // of the columns; nothing: it is no constant
	bool hasChecks_ = false; // on values, besides NOT NULL
	const std::vector<TargetColumn> &columns_;
	MergeRules rules_;
	std::vector<MergeShadow> shadows_;
	bool isTrial_ = false;
	std::set<std::string> shared_; // failures, by their ids
	uint64_t givenUp_ = 0;
	std::optional<MergeFailure> toShare_;
	std::string pkText_, keyName_;
	Version first_, step_;
	std::map<std::string, spi::Value> checksums_; // of functions, as registered
	std::map<std::pair<std::string, std::string>, RegisteredCall> calls_; // by function and column; of the row: no column
};

} // namespace mrsync
