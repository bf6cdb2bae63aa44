// The built-in merge functions: (ancestor, a, b) of one type to one value of it. What they do is core/merge.h and core/document.h;
// here values come in and go out. They read nothing but their arguments.
#include "core/document.h"
#include "core/merge.h"

#include "api/api.h"

#include <array>
#include <limits>

extern "C"
{
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(mrsync_merge_counter_int2);
PG_FUNCTION_INFO_V1(mrsync_merge_counter_int4);
PG_FUNCTION_INFO_V1(mrsync_merge_counter_int8);
PG_FUNCTION_INFO_V1(mrsync_merge_counter_float4);
PG_FUNCTION_INFO_V1(mrsync_merge_counter_float8);
PG_FUNCTION_INFO_V1(mrsync_merge_counter_numeric);
PG_FUNCTION_INFO_V1(mrsync_merge_set_array);
PG_FUNCTION_INFO_V1(mrsync_merge_set_jsonb);
PG_FUNCTION_INFO_V1(mrsync_merge_json);
PG_FUNCTION_INFO_V1(mrsync_merge_text);
}

namespace mrsync::api
{
namespace
{

// The arguments.
constexpr int kAncestor = 0, kA = 1, kB = 2;
constexpr const char *kNames[] = {"ancestor", "a", "b"};

// ---- counters

template <typename T> struct Type; // of SQL
template <> struct Type<int16_t>
{
	static constexpr const char *name = "smallint";
	static int16_t get(Datum datum) { return DatumGetInt16(datum); }
	static Datum make(int16_t value) { return Int16GetDatum(value); }
};
template <> struct Type<int32_t>
{
	static constexpr const char *name = "integer";
	static int32_t get(Datum datum) { return DatumGetInt32(datum); }
	static Datum make(int32_t value) { return Int32GetDatum(value); }
};
template <> struct Type<int64_t>
{
	static constexpr const char *name = "bigint";
	static int64_t get(Datum datum) { return DatumGetInt64(datum); }
	static Datum make(int64_t value) { return Int64GetDatum(value); }
};
template <> struct Type<float>
{
	static constexpr const char *name = "real";
	static float get(Datum datum) { return DatumGetFloat4(datum); }
	static Datum make(float value) { return Float4GetDatum(value); }
};
template <> struct Type<double>
{
	static constexpr const char *name = "double precision";
	static double get(Datum datum) { return DatumGetFloat8(datum); }
	static Datum make(double value) { return Float8GetDatum(value); }
};

// Wide: what is counted with.
template <typename T, typename Wide> Datum counter(FunctionCallInfo fcinfo)
{
	return enter(
		[&]() -> Datum
		{
			auto argument = [&](int n) { return PG_ARGISNULL(n) ? std::nullopt : std::optional<Wide>(Type<T>::get(PG_GETARG_DATUM(n))); };
			Count<Wide> count = mergeCounter(argument(kAncestor), argument(kA), argument(kB), Wide{std::numeric_limits<T>::lowest()},
											 Wide{std::numeric_limits<T>::max()});
			if (!count.fits)
				throw PgError(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, std::string(Type<T>::name) + " out of range")
					.detail("The sum of what both sides have added does not fit into the type.")
					.hint("Give the column a wider type.");
			if (!count.value)
				PG_RETURN_NULL();
			return Type<T>::make(static_cast<T>(*count.value));
		});
}

// a + (b - ancestor) of type numeric; b where one of them is no number to count with.
Numeric shift(Numeric ancestor, Numeric a, Numeric b)
{
	for (Numeric value : {ancestor, a, b})
		if (numeric_is_nan(value) || numeric_is_inf(value))
			return b;
	Datum added = DirectFunctionCall2(numeric_sub, NumericGetDatum(b), NumericGetDatum(ancestor));
	return DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(a), added));
}

bool equalNumbers(Numeric x, Numeric y) { return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(x), NumericGetDatum(y))); }

Numeric numericOf(const char *text)
{
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

// Of numerics, null for NULL.
Numeric numericCounter(Numeric ancestor, Numeric a, Numeric b)
{
	auto same = [](Numeric x, Numeric y) { return x && y ? equalNumbers(x, y) : x == y; };
	if (same(ancestor, b))
		return a;
	if (same(ancestor, a) || (!a && !b))
		return b;
	Numeric zero = numericOf("0");
	return shift(ancestor ? ancestor : zero, a ? a : zero, b ? b : zero);
}

// ---- arrays as sets

// An array's elements. Memory of the current context.
struct Elements
{
	Datum *values;
	bool *nulls;
	int count;
};

struct Ordered
{
	Datum value;
	bool isNull;
	uint32_t *number; // to be given
};

struct Ordering
{
	FmgrInfo *compare;
	Oid collation;
};

int compareElements(const void *left, const void *right, void *arg)
{
	const auto *x = static_cast<const Ordered *>(left);
	const auto *y = static_cast<const Ordered *>(right);
	const auto *ordering = static_cast<const Ordering *>(arg);
	if (x->isNull || y->isNull)
		return x->isNull - y->isNull;
	return DatumGetInt32(FunctionCall2Coll(ordering->compare, ordering->collation, x->value, y->value));
}

// Numbers for all elements, the same for equal ones: in the order of the arrays.
uint32_t *numberElements(const Elements (&arrays)[3], TypeCacheEntry *type, Oid collation)
{
	int total = arrays[0].count + arrays[1].count + arrays[2].count;
	auto *numbers = static_cast<uint32_t *>(palloc(sizeof(uint32_t) * (total + 1)));
	auto *all = static_cast<Ordered *>(palloc(sizeof(Ordered) * (total + 1)));
	int n = 0;
	for (const Elements &array : arrays)
		for (int i = 0; i < array.count; ++i, ++n)
			all[n] = {array.values[i], array.nulls[i], &numbers[n]};
	Ordering ordering{&type->cmp_proc_finfo, collation};
	qsort_arg(all, static_cast<size_t>(total), sizeof(Ordered), compareElements, &ordering);
	uint32_t number = 0;
	for (int i = 0; i < total; ++i)
	{
		if (i > 0 && compareElements(&all[i - 1], &all[i], &ordering) != 0)
			++number;
		*all[i].number = number;
	}
	return numbers;
}

Datum arrayOf(const std::vector<SetElement> &set, const Elements &a, const Elements &b, TypeCacheEntry *type)
{
	return pgCall(
		[&]
		{
			if (set.empty())
				return PointerGetDatum(construct_empty_array(type->type_id));
			int size[] = {static_cast<int>(set.size())};
			int lowest[] = {1};
			auto *values = static_cast<Datum *>(palloc(sizeof(Datum) * set.size()));
			auto *nulls = static_cast<bool *>(palloc(sizeof(bool) * set.size()));
			for (size_t i = 0; i < set.size(); ++i)
			{
				const Elements &from = set[i].ofB ? b : a;
				values[i] = from.values[set[i].index];
				nulls[i] = from.nulls[set[i].index];
			}
			return PointerGetDatum(construct_md_array(values, nulls, 1, size, lowest, type->type_id, type->typlen, type->typbyval, type->typalign));
		});
}

Datum mergeArrays(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(kA) && PG_ARGISNULL(kB))
		PG_RETURN_NULL();
	Elements arrays[3] = {};
	TypeCacheEntry *type = nullptr;
	for (int n : {kAncestor, kA, kB})
	{
		if (PG_ARGISNULL(n))
			continue;
		ArrayType *array = pgCall([&] { return PG_GETARG_ARRAYTYPE_P(n); });
		if (ARR_NDIM(array) > 1)
			throw PgError(ERRCODE_ARRAY_SUBSCRIPT_ERROR, "an array of several dimensions is no set")
				.detail(std::string("Argument \"") + kNames[n] + "\" has " + std::to_string(ARR_NDIM(array)) + " dimensions.")
				.hint("Use an array of one dimension, or a jsonb array, whose elements may be arrays.");
		type = pgCall([&] { return lookup_type_cache(ARR_ELEMTYPE(array), TYPECACHE_CMP_PROC_FINFO); });
		if (!OidIsValid(type->cmp_proc_finfo.fn_oid))
			throw PgError(ERRCODE_UNDEFINED_FUNCTION, "elements of type " + std::string(pgCall([&] { return format_type_be(type->type_id); })) + " cannot be told apart")
				.detail("The type has no default B-tree operator class.")
				.hint("Use elements of another type, such as text or jsonb.");
		pgCall([&] { deconstruct_array(array, type->type_id, type->typlen, type->typbyval, type->typalign, &arrays[n].values, &arrays[n].nulls, &arrays[n].count); });
	}
	uint32_t *numbers = pgCall([&] { return numberElements(arrays, type, PG_GET_COLLATION()); });
	std::array<std::optional<std::vector<uint32_t>>, 3> sets;
	for (int n : {kAncestor, kA, kB})
	{
		if (!PG_ARGISNULL(n))
			sets[n].emplace(numbers, numbers + arrays[n].count);
		numbers += arrays[n].count;
	}
	switch (taken(sets[kAncestor], sets[kA], sets[kB]))
	{
		case Taken::A:
		case Taken::B:
		{
			int n = sets[kAncestor] == sets[kB] ? kA : kB;
			if (PG_ARGISNULL(n))
				PG_RETURN_NULL();
			PG_RETURN_DATUM(PG_GETARG_DATUM(n));
		}
		case Taken::Merge:
			break;
	}
	for (auto &set : sets)
		if (!set)
			set.emplace();
	return arrayOf(mergeSet(*sets[kAncestor], *sets[kA], *sets[kB]), arrays[kA], arrays[kB], type);
}

// ---- documents

class DocumentReader
{
public:
	explicit DocumentReader(Jsonb *jsonb) : iterator_(pgCall([&] { return JsonbIteratorInit(&jsonb->root); })) {}

	Document read()
	{
		next();
		bool isScalar = value_.type == jbvArray && value_.val.array.rawScalar;
		Document whole = container(1);
		return isScalar ? std::move(whole.items.front()) : std::move(whole);
	}

private:
	JsonbIteratorToken next() { return token_ = pgCall([&] { return JsonbIteratorNext(&iterator_, &value_, false); }); }

	Document container(int depth)
	{
		if (depth > kDocumentDepth)
			throw PgError(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the document is nested too deeply to be merged")
				.detail("Objects and arrays may be nested " + std::to_string(kDocumentDepth) + " deep.")
				.hint("Make the document flatter, or do not merge it.");
		pgCall([] { check_stack_depth(); });
		Document document;
		if (token_ == WJB_BEGIN_ARRAY)
		{
			document.kind = Document::Kind::Array;
			while (next() != WJB_END_ARRAY)
				document.items.push_back(element(depth));
			return document;
		}
		document.kind = Document::Kind::Object;
		while (next() == WJB_KEY)
		{
			std::string key(value_.val.string.val, value_.val.string.len);
			next();
			document.members.emplace(std::move(key), element(depth));
		}
		return document;
	}

	Document element(int depth)
	{
		if (token_ == WJB_BEGIN_ARRAY || token_ == WJB_BEGIN_OBJECT)
			return container(depth + 1);
		switch (value_.type)
		{
			case jbvString:
				return {Document::Kind::String, std::string(value_.val.string.val, value_.val.string.len), {}, {}};
			case jbvNumeric:
				return {Document::Kind::Number, pgCall([&] { return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value_.val.numeric))); }), {}, {}};
			case jbvBool:
				return {value_.val.boolean ? Document::Kind::True : Document::Kind::False, {}, {}, {}};
			default:
				return {};
		}
	}

	JsonbIterator *iterator_;
	JsonbValue value_{};
	JsonbIteratorToken token_ = WJB_DONE;
};

std::optional<Document> documentArgument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return std::nullopt;
	return DocumentReader(pgCall([&] { return PG_GETARG_JSONB_P(n); })).read();
}

Datum mergeDocuments(FunctionCallInfo fcinfo, const std::array<std::optional<Document>, 3> &documents, const std::vector<DocumentRule> &rules)
{
	auto place = [&](int n) { return documents[n] ? &*documents[n] : nullptr; };
	auto shiftText = [](const std::string &ancestor, const std::string &a, const std::string &b)
	{
		const char *texts[] = {ancestor.c_str(), a.c_str(), b.c_str()};
		return std::string(pgCall(
			[&] { return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(shift(numericOf(texts[0]), numericOf(texts[1]), numericOf(texts[2]))))); }));
	};
	std::optional<Document> result = mergeDocument(place(kAncestor), place(kA), place(kB), rules, shiftText);
	if (!result)
		PG_RETURN_NULL();
	std::string text = toJson(*result);
	return pgCall([&] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.c_str())); });
}

// An argument with JSON Pointers, as rules.
void appendRules(FunctionCallInfo fcinfo, int n, const char *name, DocumentRule::Kind kind, std::vector<DocumentRule> &rules)
{
	if (PG_NARGS() <= n || PG_ARGISNULL(n))
		return;
	Elements pointers{};
	pgCall(
		[&]
		{
			ArrayType *array = PG_GETARG_ARRAYTYPE_P(n);
			deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &pointers.values, &pointers.nulls, &pointers.count);
		});
	for (int i = 0; i < pointers.count; ++i)
	{
		std::string pointer = pointers.nulls[i] ? "NULL" : pgCall([&] { return TextDatumGetCString(pointers.values[i]); });
		std::optional<std::vector<std::string>> path = parsePointer(pointer);
		if (pointers.nulls[i] || !path)
			throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, std::string("invalid place in \"") + name + "\": " + pointer)
				.detail("A place is a JSON Pointer (RFC 6901): the keys that lead to it, each after a slash; * stands for any key.")
				.hint("Write it like '/stock/*/quantity', or '' for the document itself.");
		rules.push_back({std::move(*path), kind});
	}
}

// ---- texts

std::optional<std::string> mergeTexts(const std::array<std::optional<std::string>, 3> &texts)
{
	switch (taken(texts[kAncestor], texts[kA], texts[kB]))
	{
		case Taken::A:
			return texts[kA];
		case Taken::B:
			return texts[kB];
		case Taken::Merge:
			break;
	}
	if (!texts[kA] || !texts[kB])
		return texts[kB];
	return mergeText(texts[kAncestor].value_or(""), *texts[kA], *texts[kB]);
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_merge_counter_int2(PG_FUNCTION_ARGS) { return counter<int16_t, int64_t>(fcinfo); }
Datum mrsync_merge_counter_int4(PG_FUNCTION_ARGS) { return counter<int32_t, int64_t>(fcinfo); }
Datum mrsync_merge_counter_int8(PG_FUNCTION_ARGS) { return counter<int64_t, int64_t>(fcinfo); }
Datum mrsync_merge_counter_float4(PG_FUNCTION_ARGS) { return counter<float, double>(fcinfo); }
Datum mrsync_merge_counter_float8(PG_FUNCTION_ARGS) { return counter<double, double>(fcinfo); }

Datum mrsync_merge_counter_numeric(PG_FUNCTION_ARGS)
{
	return enter(
		[&]() -> Datum
		{
			Numeric result = pgCall(
				[&]
				{
					auto argument = [&](int n) { return PG_ARGISNULL(n) ? nullptr : PG_GETARG_NUMERIC(n); };
					return numericCounter(argument(kAncestor), argument(kA), argument(kB));
				});
			if (!result)
				PG_RETURN_NULL();
			return NumericGetDatum(result);
		});
}

Datum mrsync_merge_set_array(PG_FUNCTION_ARGS)
{
	return enter([&] { return mergeArrays(fcinfo); });
}

Datum mrsync_merge_set_jsonb(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			std::array<std::optional<Document>, 3> documents;
			for (int n : {kAncestor, kA, kB})
			{
				documents[n] = documentArgument(fcinfo, n);
				if (documents[n] && documents[n]->kind != Document::Kind::Array)
					throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, std::string("argument \"") + kNames[n] + "\" is not a JSON array")
						.detail("A set in jsonb is an array of its elements.")
						.hint("For documents use mrsync.merge_json; its argument \"sets\" names sets inside of them.");
			}
			return mergeDocuments(fcinfo, documents, {{{}, DocumentRule::Kind::Set}});
		});
}

Datum mrsync_merge_json(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			std::vector<DocumentRule> rules;
			appendRules(fcinfo, 3, "counters", DocumentRule::Kind::Counter, rules);
			appendRules(fcinfo, 4, "sets", DocumentRule::Kind::Set, rules);
			return mergeDocuments(fcinfo, {documentArgument(fcinfo, kAncestor), documentArgument(fcinfo, kA), documentArgument(fcinfo, kB)}, rules);
		});
}

Datum mrsync_merge_text(PG_FUNCTION_ARGS)
{
	return enter(
		[&]() -> Datum
		{
			std::optional<std::string> result =
				mergeTexts({optionalTextArgument(fcinfo, kAncestor), optionalTextArgument(fcinfo, kA), optionalTextArgument(fcinfo, kB)});
			if (!result)
				PG_RETURN_NULL();
			return pgCall([&] { return PointerGetDatum(cstring_to_text_with_len(result->data(), static_cast<int>(result->size()))); });
		});
}
