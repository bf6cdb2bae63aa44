#include "worker/shadows.h"

#include "core/codec.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/subtransaction.h"
#include "worker/time_limit.h"

namespace mrsync
{

namespace
{

constexpr int64_t kRest = 20; // times as long as it took, when it did not come to an end
// Of each definition as many entries, of values as many characters as this; the rest is counted only.
constexpr char kInsert[] =
	"INSERT INTO mrsync.merge_difference (definition_id, version, table_name, column_name, row_pk, region_id, hlc, ancestor, a, b, result_active, result_shadow, "
	"sqlstate, message) SELECT d.definition_id, d.version, d.table_name, d.column_name, $2::jsonb, $3, $4::mrsync.hlc, left($5, 8000), left($6, 8000), left($7, "
	"8000), left($8, 8000), left($9, 8000), $10, left($11, 1000) FROM mrsync.merge_definition d WHERE d.definition_id = $1::uuid AND (SELECT count(*) FROM "
	"mrsync.merge_difference WHERE definition_id = $1::uuid) < 1000";

// The functions as a shadow asks for them.
class Trial : public MergeCalls
{
public:
	explicit Trial(Merger &merger) : merger_(merger) { merger_.onTrial(true); }
	~Trial() override { merger_.onTrial(false); }
	Trial(const Trial &) = delete;
	Trial &operator=(const Trial &) = delete;

	bool isAsked() const { return isAsked_; }
	const std::optional<PgError> &failure() const { return failure_; }

	std::optional<Value> merge(const std::string &function, const std::string &column, const Value &ancestor, const Value &a, const Value &b) override
	{
		std::optional<Value> result;
		attempt([&] { result = merger_.merge(function, column, ancestor, a, b); });
		return result;
	}
	std::optional<Value> empty(const std::string &function, const std::string &column) override { return merger_.empty(function, column); }
	std::optional<Image> mergeRow(const std::string &function, const RowState &ancestor, const RowState &a, const Image &b) override
	{
		std::optional<Image> result;
		attempt([&] { result = merger_.mergeRow(function, ancestor, a, b); });
		return result;
	}
	std::optional<Value> added(const std::string &column) override { return merger_.added(column); }
	bool isValid(const Image &) override { return true; } // asked of the whole row, once it is there

	void requireValid(const Image &row)
	{
		attempt([&] { merger_.isValid(row); });
	}

private:
	template <typename F> void attempt(F &&f)
	{
		isAsked_ = true;
		std::optional<PgError> failure = inSubtransaction(
			[&]
			{
				TimeLimit limit(guc::mergeFunctionTimeoutMs);
				f();
			});
		if (failure)
			failure_ = failure;
	}

	Merger &merger_;
	bool isAsked_ = false;
	std::optional<PgError> failure_;
};

const Column *columnOf(const RowState &row, const std::string &name)
{
	if (row)
		for (const Column &column : *row)
			if (column.name == name)
				return &column;
	return nullptr;
}

// Of the column, or of the whole row.
spi::Value textOf(const RowState &row, const std::optional<std::string> &name)
{
	if (!name)
		return row ? spi::Value(encodeImage(*row)) : std::nullopt;
	const Column *column = columnOf(row, *name);
	return column ? column->value : std::nullopt;
}

} // namespace

void Shadows::compare(Merger &merger, const std::string &pkText, const RowState &state, const HistoryEvent &event, const RowState &result)
{
	for (const MergeShadow &shadow : merger.shadows())
		isCompared(shadow, merger, pkText, state, event, result);
}

void Shadows::compare(Merger &merger, const std::string &pkText, const History &history, const Version &from)
{
	for (const MergeShadow &shadow : merger.shadows())
		for (size_t place = 0; place < history.events().size(); ++place)
			if (from <= history.events()[place].version && isCompared(shadow, merger, pkText, history.met(place), history.events()[place], history.made(place)))
				break;
}

bool Shadows::isCompared(const MergeShadow &shadow, Merger &merger, const std::string &pkText, const RowState &state, const HistoryEvent &event,
						 const RowState &result)
{
	int64_t &restsUntil = restsUntil_[shadow.definition];
	const int64_t began = steadyNow();
	// Whether there is a row is the event's to say.
	if (!result || began < restsUntil || (shadow.column && !columnOf(result, *shadow.column)))
		return false;
	MergeRule rule;
	if (shadow.column)
		rule.functions[*shadow.column] = shadow.function;
	else
		rule.rowFunction = shadow.function;
	Trial trial(merger);
	RowState made = foldStep(state, event, rule, trial);
	if (shadow.column) // the other columns are the active rules'
	{
		const Column *column = columnOf(made, *shadow.column);
		Image whole = *result;
		for (Column &other : whole)
			if (column && other.name == column->name)
				other.value = column->value;
		made = std::move(whole);
	}
	const bool differs = made != result;
	const spi::Value given = trial.failure() ? std::nullopt : textOf(made, shadow.column);
	if (differs && !trial.failure())
		trial.requireValid(*made);
	if (!trial.isAsked())
		return false;
	const std::optional<PgError> &failure = trial.failure();
	if (failure && failure->sqlState() == ERRCODE_QUERY_CANCELED)
		restsUntil = began + kRest * (steadyNow() - began);
	Counts &counts = ofEvent_[shadow.definition];
	++counts.compared;
	counts.differing += differs && !failure;
	counts.failed += failure.has_value();
	if (failure || differs)
		spi::execute(kInsert, {shadow.definition, pkText, event.version.region, toText(event.version.hlc), textOf(event.before, shadow.column),
							   textOf(state, shadow.column), textOf(event.after, shadow.column), textOf(result, shadow.column), given,
							   failure ? spi::Value(failure->sqlStateText()) : std::nullopt, failure ? spi::Value(failure->message()) : std::nullopt});
	return true;
}

void Shadows::transactionBegins()
{
	ofEvent_.clear();
	ofTransaction_.clear();
}

void Shadows::eventBegins()
{
	for (const auto &[definition, counts] : ofEvent_)
	{
		Counts &sum = ofTransaction_[definition];
		sum.compared += counts.compared;
		sum.differing += counts.differing;
		sum.failed += counts.failed;
	}
	ofEvent_.clear();
}

void Shadows::write()
{
	eventBegins();
	for (const auto &[definition, counts] : ofTransaction_)
		spi::execute("INSERT INTO mrsync.merge_comparison AS c (definition_id, compared, differing, failed) VALUES ($1::uuid, $2::bigint, $3::bigint, $4::bigint) "
					 "ON CONFLICT (definition_id) DO UPDATE SET compared = c.compared + excluded.compared, differing = c.differing + excluded.differing, failed "
					 "= c.failed + excluded.failed",
					 {definition, std::to_string(counts.compared), std::to_string(counts.differing), std::to_string(counts.failed)});
	ofTransaction_.clear();
}

} // namespace mrsync
