#include "worker/merger.h"

#include "core/codec.h"
#include "core/merge.h"
#include "pg/clock.h"
#include "pg/guc.h"
#include "pg/spi.h"
#include "worker/as_owner.h"
#include "worker/parking.h"
#include "worker/subtransaction.h"
#include "worker/time_limit.h"

#include <algorithm>
#include <charconv>
#include <limits>

extern "C"
{
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/typcache.h"
}

namespace mrsync
{

namespace
{

// Where nothing is done for the first time, a call has come to an end in time before, if not here.
constexpr int kPatience = 5;

} // namespace

bool hasMergeRule(const std::string &table)
{
	return *spi::query("SELECT EXISTS (SELECT FROM mrsync.merge_definition WHERE table_name = $1 AND activation IS NOT NULL AND strategy <> "
					   "'last_writer_wins' AND NOT of_losers)",
					   {table})[0][0] == "t";
}

Merger::Merger(RegionShared *region, Oid relation, Oid owner, const RootTable &root, const std::vector<TargetColumn> &columns)
	: region_(region), relation_(relation), owner_(owner), root_(root.name), rowType_(root.rowType), functionOwner_(root.owner), columns_(columns)
{
	readRules();
	shared_ = sharedMergeFailures(root_);
	readDefaults();
	hasChecks_ = pgCall(
		[&]
		{
			Relation rel = table_open(relation_, NoLock);
			const TupleConstr *constraints = RelationGetDescr(rel)->constr;
			bool has = constraints && (constraints->num_check > 0 || constraints->has_generated_stored);
			for (const TargetColumn &column : columns_)
				has |= get_typtype(column.type) == TYPTYPE_DOMAIN;
			table_close(rel, NoLock);
			return has;
		});
}

// Each definition changes one thing of what was before; a function on whole rows and rules for columns end each other, as in the view
// mrsync.merge_function.
void Merger::readRules()
{
	std::vector<MergeRule> rules;
	MergeRule rule;
	for (const spi::Row &row : spi::query("SELECT column_name, strategy, function, activation::bigint, checksum FROM mrsync.merge_definition WHERE "
										  "table_name = $1 AND activation IS NOT NULL AND NOT of_losers ORDER BY activation, definition_id",
										  {root_}))
	{
		const bool isFunction = row[2].has_value();
		rule.from = Hlc{std::stoll(*row[3])};
		if (isFunction)
			checksums_[*row[2]] = row[4];
		if (row[0])
		{
			rule.rowFunction.clear();
			rule.functions[*row[0]] = isFunction ? *row[2] : *row[1];
		}
		else
		{
			rule.rowFunction = isFunction ? *row[2] : "";
			rule.columns = *row[1] == kLastChange ? ColumnRule::LastChange : ColumnRule::LastWriter;
			if (isFunction)
				rule.functions.clear();
		}
		rules.push_back(rule);
	}
	rules_ = MergeRules(std::move(rules));
	for (const spi::Row &row : spi::query("SELECT definition_id, column_name, function, checksum FROM mrsync.merge_definition WHERE table_name = $1 AND status = "
										  "'shadow' ORDER BY definition_id",
										  {root_}))
	{
		shadows_.push_back({*row[0], row[1], *row[2]});
		checksums_[*row[2]] = row[3];
	}
}

// What a column that is added later is in rows that were there: the same in every region.
void Merger::readDefaults()
{
	for (const TargetColumn &of : columns_)
	{
		bool isKnown = !of.isGenerated;
		const char *text = nullptr;
		auto evaluate = [&]() -> const char *
			{
				Relation rel = table_open(relation_, NoLock);
				FmgrInfo *output = const_cast<FmgrInfo *>(&of.output);
				const char *result = nullptr;
				bool isNull;
				if (TupleDescAttr(RelationGetDescr(rel), of.attnum - 1)->atthasmissing)
				{
					Datum value = getmissingattr(RelationGetDescr(rel), of.attnum, &isNull);
					result = isNull ? nullptr : OutputFunctionCall(output, value);
				}
				else if (Node *expression = of.isGenerated ? nullptr : build_column_default(rel, of.attnum))
				{
					isKnown = !contain_mutable_functions(expression);
					if (isKnown)
					{
						EState *estate = CreateExecutorState();
						ExprState *state = ExecPrepareExpr(reinterpret_cast<Expr *>(expression), estate);
						MemoryContext context = CurrentMemoryContext;
						Datum value = ExecEvalExprSwitchContext(state, GetPerTupleExprContext(estate), &isNull);
						MemoryContextSwitchTo(context);
						result = isNull ? nullptr : OutputFunctionCall(output, value);
						FreeExecutorState(estate);
					}
				}
				table_close(rel, NoLock);
				return result;
			};
		std::optional<PgError> failure = inSubtransaction(
			[&]
			{
				AsOwner owner(owner_);
				text = pgCall(evaluate);
			});
		if (failure && !isOfValues(*failure))
			throw *failure;
		isKnown &= !failure;
		defaults_.push_back(!isKnown ? std::nullopt : std::optional(text ? Value(text) : Value()));
	}
}

std::optional<Merger::Value> Merger::added(const std::string &name)
{
	const TargetColumn *of = column(name);
	return of ? defaults_[static_cast<size_t>(of - columns_.data())] : std::nullopt;
}

Image Merger::asTable(Image row) const
{
	std::erase_if(row, [&](const Column &value) { return !hasColumn(value.name); });
	for (size_t i = 0; i < columns_.size(); ++i)
		if (defaults_[i] && std::none_of(row.begin(), row.end(), [&](const Column &value) { return value.name == columns_[i].name; }))
			row.push_back({columns_[i].name, *defaults_[i]});
	return normal(std::move(row));
}

const TargetColumn *Merger::column(const std::string &name) const
{
	for (const TargetColumn &column : columns_)
		if (column.name == name)
			return &column;
	return nullptr;
}

Image Merger::normal(Image image) const
{
	std::erase_if(image,
				  [&](const Column &value)
				  {
					  const TargetColumn *known = column(value.name);
					  return known && known->isGenerated;
				  });
	std::sort(image.begin(), image.end(), [](const Column &x, const Column &y) { return x.name < y.name; });
	return image;
}

RowState Merger::normal(const RowState &state) const { return state ? RowState(normal(*state)) : std::nullopt; }

RegisteredCall &Merger::prepared(const std::string &function, const std::string &columnName)
{
	const TargetColumn *of = columnName.empty() ? nullptr : column(columnName);
	RegisteredCall &registered =
		calls_.try_emplace({function, columnName}, function, checksums_[function], "merge function " + function + " of " + root_).first->second;
	registered.prepare(
		[&](const std::string &name)
		{
			const spi::Value collation = of && OidIsValid(of->collation)
											 ? spi::query("SELECT $1::oid::regcollation", {std::to_string(of->collation)})[0][0]
											 : std::nullopt;
			AsOwner owner(functionOwner_);
			if (of)
				return spi::prepare("SELECT " + name + "($1" + (collation ? " COLLATE " + *collation : "") + ", $2, $3)", {of->type, of->type, of->type});
			return spi::prepare("SELECT " + name + "($1, $2, $3)", {rowType_, rowType_, rowType_});
		});
	return registered;
}

void Merger::row(std::string pkText, std::string keyName, const Version &first)
{
	pkText_ = std::move(pkText);
	keyName_ = std::move(keyName);
	first_ = first;
}

template <typename F, typename V> bool Merger::call(const std::string &function, const std::string &columnName, V &&values, F &&f)
{
	if (isTrial_)
	{
		AsOwner owner(function.empty() ? owner_ : functionOwner_);
		f();
		return true;
	}
	if (!shared_.empty() && shared_.contains(mergeFailureId(root_, keyName_, columnName, step_)))
	{
		++givenUp_;
		return false;
	}
	const bool isFirst = step_ >= first_;
	const int limit = guc::mergeFunctionTimeoutMs * (isFirst ? 1 : kPatience);
	const int64_t began = steadyNow();
	std::optional<PgError> failure = inSubtransaction(
		[&]
		{
			TimeLimit time(limit);
			AsOwner owner(function.empty() ? owner_ : functionOwner_);
			f();
		});
	if (!failure)
		return true;
	const bool isLate = failure->sqlState() == ERRCODE_QUERY_CANCELED && steadyNow() - began >= limit * int64_t{1000};
	if (!isOfValues(*failure) && !isLate && failure->sqlState() != ERRCODE_STATEMENT_TOO_COMPLEX)
		throw *failure;
	if (isLate)
		failure = PgError(ERRCODE_QUERY_CANCELED, "no result after " + std::to_string(limit) + " ms (mrsync.merge_function_timeout)");
	auto [ancestor, a, b] = values();
	MergeFailure what{root_, pkText_, keyName_, columnName, "", step_, function, ancestor, a, b, *failure};
	if (isOfValues(*failure) || mutated("fails_alone"))
	{
		writeDown(region_, what);
		return false;
	}
	// Others may have forgotten what they did with the same. Or one of them is about to say that it has given it up.
	if (!isFirst)
		throw PgError(ERRCODE_STATEMENT_TOO_COMPLEX, "a merge of table " + root_ + " that was made before cannot be made again: " + failure->message())
			.hint("It is tried again by itself. If it stays so: raise mrsync.merge_function_timeout, or max_stack_depth.");
	toShare_ = std::move(what);
	throw PgError(ERRCODE_T_R_SERIALIZATION_FAILURE, "a merge of table " + root_ + " is given up in all regions: " + failure->message());
}

// mrsync's own counter of integers, without the way through SQL: it is what most rows are merged by. Nothing: that way says why not.
template <typename T> std::optional<Merger::Value> count(const Merger::Value &ancestor, const Merger::Value &a, const Merger::Value &b)
{
	bool areNumbers = true; // but for images from before the column had this type
	auto number = [&](const Merger::Value &text) -> std::optional<int64_t>
	{
		if (!text)
			return std::nullopt;
		int64_t value = 0;
		auto [at, problem] = std::from_chars(text->data(), text->data() + text->size(), value);
		areNumbers &= problem == std::errc() && at == text->data() + text->size();
		return value;
	};
	const std::optional<int64_t> was = number(ancestor), is = number(a), next = number(b);
	Count<int64_t> sum = mergeCounter(was, is, next, std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
	if (!areNumbers || !sum.fits)
		return std::nullopt;
	return sum.value ? Merger::Value(std::to_string(*sum.value)) : Merger::Value();
}

std::optional<Merger::Value> Merger::merge(const std::string &function, const std::string &columnName, const Value &ancestor,
										   const Value &a, const Value &b)
{
	const TargetColumn *of = column(columnName);
	if (!of)
		return std::nullopt; // written to a table that has not got it yet: said there
	std::optional<Value> sum;
	if (of->type == INT8OID && function == "mrsync.merge_counter(bigint,bigint,bigint)")
		sum = count<int64_t>(ancestor, a, b);
	else if (of->type == INT4OID && function == "mrsync.merge_counter(integer,integer,integer)")
		sum = count<int32_t>(ancestor, a, b);
	else if (of->type == INT2OID && function == "mrsync.merge_counter(smallint,smallint,smallint)")
		sum = count<int16_t>(ancestor, a, b);
	if (sum)
		return sum;
	RegisteredCall &registered = prepared(function, columnName);
	const char *result = nullptr;
	auto ask = [&]
		{
			const char *texts[] = {ancestor ? ancestor->c_str() : nullptr, a ? a->c_str() : nullptr, b ? b->c_str() : nullptr};
			result = pgCall(
				[&]() -> const char *
				{
					FmgrInfo *input = const_cast<FmgrInfo *>(&of->input), *output = const_cast<FmgrInfo *>(&of->output);
					auto in = [&](const char *text) { return InputFunctionCall(input, const_cast<char *>(text), of->inputParameter, of->typmod); };
					Datum values[3];
					char nulls[4] = "   ";
					for (int i = 0; i < 3; ++i)
					{
						values[i] = texts[i] ? in(texts[i]) : Datum(0);
						nulls[i] = texts[i] ? ' ' : 'n';
					}
					TupleDesc desc;
					bool isNull;
					HeapTuple tuple = callPlan(registered.plan(), values, nulls, desc);
					Datum value = SPI_getbinval(tuple, desc, 1, &isNull);
					const char *text = isNull ? nullptr : OutputFunctionCall(output, value);
					value = in(text); // as the column takes it: with its length or scale, and its domain's checks
					text = text ? OutputFunctionCall(output, value) : nullptr;
					SPI_freetuptable(SPI_tuptable);
					return text;
				});
			registered.called();
		};
	if (!call(function, columnName, [&] { return std::array{ancestor, a, b}; }, ask))
		return std::nullopt;
	return result ? Value(result) : Value();
}

std::optional<Merger::Value> Merger::empty(const std::string &function, const std::string &)
{
	if (function.starts_with("mrsync.merge_counter("))
		return Value("0");
	if (function.starts_with("mrsync.merge_set("))
		return Value(function.starts_with("mrsync.merge_set(jsonb") ? "[]" : "{}");
	return std::nullopt;
}

std::optional<Image> Merger::mergeRow(const std::string &function, const RowState &ancestor, const RowState &a, const Image &b)
{
	RegisteredCall &registered = prepared(function, "");
	const Image asked[] = {ancestor ? asTable(*ancestor) : Image(), a ? asTable(*a) : Image(), asTable(b)};
	const std::vector<const char *> was = textsOf(columns_, asked[0]), is = textsOf(columns_, asked[1]), next = textsOf(columns_, asked[2]);
	const char *const *rows[] = {ancestor ? was.data() : nullptr, a ? is.data() : nullptr, next.data()};
	std::vector<const char *> results(columns_.size());
	bool isNothing = false;
	auto ask = [&]
		{
			pgCall(
				[&]
				{
					TupleDesc rowDesc = lookup_rowtype_tupdesc_copy(rowType_, -1);
					Datum values[3];
					char nulls[4] = "   ";
					for (int i = 0; i < 3; ++i)
					{
						nulls[i] = rows[i] ? ' ' : 'n';
						values[i] = rows[i] ? rowDatum(columns_, rowDesc, rows[i]) : Datum(0);
					}
					TupleDesc desc;
					HeapTuple tuple = callPlan(registered.plan(), values, nulls, desc);
					Datum result = SPI_getbinval(tuple, desc, 1, &isNothing);
					if (!isNothing)
						rowTexts(columns_, result, results.data());
					SPI_freetuptable(SPI_tuptable);
				});
			registered.called();
		};
	auto values = [&] { return std::array{ancestor ? Value(encodeImage(asked[0])) : Value(), a ? Value(encodeImage(asked[1])) : Value(), Value(encodeImage(asked[2]))}; };
	if (!call(function, "", values, ask) || isNothing)
		return std::nullopt;
	return withTexts(columns_, b, results);
}

bool Merger::isValid(const Image &merged)
{
	const Image row = asTable(merged);
	for (const TargetColumn &of : columns_)
		if (!of.isGenerated && std::none_of(row.begin(), row.end(), [&](const Column &value) { return value.name == of.name; }))
			return true; // the definitions differ: it is for the write to say what does not fit
	std::vector<const char *> texts = textsOf(columns_, row);
	const bool hasNulls = std::any_of(columns_.begin(), columns_.end(), [&](const TargetColumn &of) { return of.isNotNull && !texts[static_cast<size_t>(&of - columns_.data())]; });
	if (!hasChecks_ && !hasNulls)
		return true;
	auto check = [&] { pgCall([&] { checkRow(relation_, columns_, texts.data()); }); };
	return call("", "", [&] { return std::array{Value(), Value(), Value(encodeImage(row))}; }, check);
}

} // namespace mrsync
