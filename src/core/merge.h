// Three-way merges: what two sides made of one ancestor becomes one value.
//
// A merge is a step of the fold, `state := merge(ancestor, a, b)`: a is what all earlier events made of the value, b is what
// the next event made of the ancestor, in the order of (hlc, region). So b is the later writer's, and where both sides mean
// the same thing differently, b's is taken. The result depends on the three values alone: on no library's version, locale or
// random order, for every region computes it by itself.
//
// Rules that every merge keeps: what only one side changed is taken as that side has it; what both made equal is taken once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mrsync
{

// How a merge of single values ends when only one side changed it, or both left it.
enum class Taken
{
	A,
	B,
	Merge, // both changed it
};

template <typename T> Taken taken(const T &ancestor, const T &a, const T &b)
{
	if (b == ancestor)
		return Taken::A;
	return a == ancestor ? Taken::B : Taken::Merge;
}

// a, and what b added to the ancestor. No value (SQL's NULL) counts as 0, unless it is what only one side made of it, or both.
template <typename T> struct Count
{
	std::optional<T> value;
	bool fits = true; // into lowest..highest
};
template <typename T> using Counted = const std::optional<T> &;
Count<int64_t> mergeCounter(Counted<int64_t> ancestor, Counted<int64_t> a, Counted<int64_t> b, int64_t lowest, int64_t highest);
// Not exact, but the same in every region. With infinities and NaN nothing is counted: b is taken.
Count<double> mergeCounter(Counted<double> ancestor, Counted<double> a, Counted<double> b, double lowest, double highest);

// Sets, as lists of elements that are told apart by numbers; equal elements have equal numbers. Of a, in its order, what b did
// not remove from the ancestor; then of b, in its order, what it added. No element twice.
struct SetElement
{
	bool ofB = false; // else of a
	size_t index = 0;
	bool operator==(const SetElement &) const = default;
};
std::vector<SetElement> mergeSet(const std::vector<uint32_t> &ancestor, const std::vector<uint32_t> &a, const std::vector<uint32_t> &b);

// Texts, by line. Changes of different lines are both made. Lines inserted at one place are both kept, a's first. Where both
// changed the same lines differently, b's are taken, from the first to the last line that is concerned. Texts that differ in
// more than kTextEdits lines count as changed from their first to their last difference.
constexpr int kTextEdits = 1000;
std::string mergeText(std::string_view ancestor, std::string_view a, std::string_view b);

} // namespace mrsync
