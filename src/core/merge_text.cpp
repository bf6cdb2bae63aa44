// Three-way merge of texts by line: two differences to the ancestor (E. Myers, "An O(ND) Difference Algorithm and Its
// Variations", 1986), whose hunks are then made one after the other.
//
// A text is cut at its line feeds; the last line is what is behind the last of them, and may be empty. So a line appended to a
// text without a line feed at its end is an insertion, and no change of its last line.
#include "core/merge.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

namespace mrsync
{
namespace
{

using Line = uint32_t; // equal lines have equal numbers
using Lines = std::vector<Line>;

class Numbering
{
public:
	Lines cut(std::string_view text)
	{
		Lines lines;
		for (size_t begin = 0;;)
		{
			size_t end = std::min(text.find('\n', begin), text.size());
			std::string_view line = text.substr(begin, end - begin);
			auto [known, isNew] = numbers_.try_emplace(line, static_cast<Line>(texts_.size()));
			if (isNew)
				texts_.push_back(line);
			lines.push_back(known->second);
			if (end == text.size())
				return lines;
			begin = end + 1;
		}
	}
	std::string join(const Lines &lines) const
	{
		std::string text;
		for (size_t i = 0; i < lines.size(); ++i)
			(text += i > 0 ? "\n" : "") += texts_[lines[i]];
		return text;
	}

private:
	std::unordered_map<std::string_view, Line> numbers_;
	std::vector<std::string_view> texts_;
};

// Lines from..to of the ancestor have become `with`.
struct Hunk
{
	size_t from = 0;
	size_t to = 0; // behind the last one; equal to from: an insertion
	Lines with;
	bool ofB = false;

	bool isInsertion() const { return from == to; }
};
using Hunks = std::vector<Hunk>;

// A stretch of lines.
struct Span
{
	const Line *begin;
	int size;
};

// The lines of both that a shortest way from one to the other leaves alone, in pairs, in order. Empty: more than kTextEdits edits,
// or nothing is left alone.
std::vector<std::pair<int, int>> commonLines(Span from, Span to)
{
	// By the number of edits d: how far on each diagonal k = x - y they lead; k from -d to d.
	std::vector<std::vector<int>> furthest;
	auto reached = [&](int d, int k) { return furthest[static_cast<size_t>(d)][static_cast<size_t>(k + d)]; };
	auto insertsLast = [&](int d, int k) { return k == -d || (k != d && reached(d - 1, k - 1) < reached(d - 1, k + 1)); };
	for (int d = 0; d <= std::min(from.size + to.size, kTextEdits); ++d)
	{
		furthest.emplace_back(2 * d + 1);
		for (int k = -d; k <= d; k += 2)
		{
			int x = d == 0 ? 0 : insertsLast(d, k) ? reached(d - 1, k + 1) : reached(d - 1, k - 1) + 1;
			while (x < from.size && x - k < to.size && from.begin[x] == to.begin[x - k])
				++x;
			furthest.back()[static_cast<size_t>(k + d)] = x;
			if (x != from.size || x - k != to.size)
				continue;
			// There: back by the way it came.
			std::vector<std::pair<int, int>> common;
			for (;; --d)
			{
				bool inserts = d > 0 && insertsLast(d, k);
				int start = d == 0 ? 0 : inserts ? reached(d - 1, k + 1) : reached(d - 1, k - 1) + 1;
				while (x > start)
				{
					--x;
					common.emplace_back(x, x - k);
				}
				if (d == 0)
					break;
				k += inserts ? 1 : -1;
				x = reached(d - 1, k);
			}
			std::reverse(common.begin(), common.end());
			return common;
		}
	}
	return {};
}

void appendHunks(const Lines &ancestor, const Lines &side, bool ofB, Hunks &hunks)
{
	size_t shorter = std::min(ancestor.size(), side.size());
	size_t prefix = 0;
	while (prefix < shorter && ancestor[prefix] == side[prefix])
		++prefix;
	size_t suffix = 0;
	while (suffix < shorter - prefix && ancestor[ancestor.size() - 1 - suffix] == side[side.size() - 1 - suffix])
		++suffix;
	Span from{ancestor.data() + prefix, static_cast<int>(ancestor.size() - prefix - suffix)};
	Span to{side.data() + prefix, static_cast<int>(side.size() - prefix - suffix)};
	std::vector<std::pair<int, int>> common = commonLines(from, to);
	common.emplace_back(from.size, to.size);
	int x = 0, y = 0;
	for (auto [nextX, nextY] : common)
	{
		if (nextX > x || nextY > y)
			hunks.push_back({prefix + static_cast<size_t>(x), prefix + static_cast<size_t>(nextX), Lines(to.begin + y, to.begin + nextY), ofB});
		x = nextX + 1;
		y = nextY + 1;
	}
}

// The lines first..last of the ancestor as the hunks of one side have them.
Lines rendered(const Lines &ancestor, size_t first, size_t last, Hunks::const_iterator begin, Hunks::const_iterator end, bool ofB)
{
	Lines lines;
	auto keep = [&](size_t to) { lines.insert(lines.end(), ancestor.begin() + static_cast<long>(first), ancestor.begin() + static_cast<long>(to)); };
	for (auto hunk = begin; hunk != end; ++hunk)
	{
		if (hunk->ofB != ofB)
			continue;
		keep(hunk->from);
		lines.insert(lines.end(), hunk->with.begin(), hunk->with.end());
		first = hunk->to;
	}
	keep(last);
	return lines;
}

} // namespace

std::string mergeText(std::string_view ancestorText, std::string_view aText, std::string_view bText)
{
	switch (taken(ancestorText, aText, bText))
	{
		case Taken::A:
			return std::string(aText);
		case Taken::B:
			return std::string(bText);
		case Taken::Merge:
			break;
	}
	Numbering numbering;
	const Lines ancestor = numbering.cut(ancestorText);
	Hunks hunks;
	appendHunks(ancestor, numbering.cut(aText), false, hunks);
	appendHunks(ancestor, numbering.cut(bText), true, hunks);
	std::sort(hunks.begin(), hunks.end(),
			  [](const Hunk &x, const Hunk &y) { return std::tie(x.from, x.to, x.ofB) < std::tie(y.from, y.to, y.ofB); });

	Lines result;
	size_t done = 0; // lines of the ancestor
	for (auto group = hunks.cbegin(); group != hunks.cend();)
	{
		// What overlaps belongs together. An insertion at the edge of a change does not; two at one place do.
		size_t from = group->from, to = group->to;
		auto end = group + 1;
		while (end != hunks.cend() && (end->isInsertion() ? (end->from > from && end->from < to) || (from == to && end->from == from) : end->from < to))
			to = std::max(to, (end++)->to);
		Lines ofA = rendered(ancestor, from, to, group, end, false);
		Lines ofB = rendered(ancestor, from, to, group, end, true);
		result.insert(result.end(), ancestor.begin() + static_cast<long>(done), ancestor.begin() + static_cast<long>(from));
		bool changedByA = std::any_of(group, end, [](const Hunk &hunk) { return !hunk.ofB; });
		bool changedByB = std::any_of(group, end, [](const Hunk &hunk) { return hunk.ofB; });
		if (changedByA && (!changedByB || (from == to && ofA != ofB)))
			result.insert(result.end(), ofA.begin(), ofA.end());
		if (changedByB)
			result.insert(result.end(), ofB.begin(), ofB.end());
		done = to;
		group = end;
	}
	result.insert(result.end(), ancestor.begin() + static_cast<long>(done), ancestor.end());
	return numbering.join(result);
}

} // namespace mrsync
