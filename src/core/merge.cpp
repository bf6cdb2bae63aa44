#include "core/merge.h"

#include <cmath>
#include <unordered_set>

namespace mrsync
{

namespace
{

// Sum is wide enough for a + b - ancestor.
template <typename Sum, typename T> Count<T> count(Counted<T> ancestor, Counted<T> a, Counted<T> b, T lowest, T highest)
{
	switch (taken(ancestor, a, b))
	{
		case Taken::A:
			return {a};
		case Taken::B:
			return {b};
		case Taken::Merge:
			break;
	}
	if (!a && !b)
		return {};
	Sum sum = static_cast<Sum>(a.value_or(0)) + (static_cast<Sum>(b.value_or(0)) - static_cast<Sum>(ancestor.value_or(0)));
	if (sum < lowest || sum > highest)
		return {std::nullopt, false};
	return {static_cast<T>(sum)};
}

} // namespace

Count<int64_t> mergeCounter(Counted<int64_t> ancestor, Counted<int64_t> a, Counted<int64_t> b, int64_t lowest, int64_t highest)
{
	return count<__int128>(ancestor, a, b, lowest, highest);
}

Count<double> mergeCounter(Counted<double> ancestor, Counted<double> a, Counted<double> b, double lowest, double highest)
{
	bool countable = true;
	for (Counted<double> value : {ancestor, a, b})
		countable = countable && std::isfinite(value.value_or(0));
	return countable ? count<double>(ancestor, a, b, lowest, highest) : Count<double>{b};
}

std::vector<SetElement> mergeSet(const std::vector<uint32_t> &ancestor, const std::vector<uint32_t> &a, const std::vector<uint32_t> &b)
{
	const std::unordered_set<uint32_t> before(ancestor.begin(), ancestor.end());
	const std::unordered_set<uint32_t> after(b.begin(), b.end());
	std::unordered_set<uint32_t> in;
	std::vector<SetElement> result;
	for (size_t i = 0; i < a.size(); ++i)
	{
		bool removed = before.contains(a[i]) && !after.contains(a[i]);
		if (!removed && in.insert(a[i]).second)
			result.push_back({false, i});
	}
	for (size_t i = 0; i < b.size(); ++i)
		if (!before.contains(b[i]) && in.insert(b[i]).second)
			result.push_back({true, i});
	return result;
}

} // namespace mrsync
