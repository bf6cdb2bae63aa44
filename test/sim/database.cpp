// Rows and memories of deletions, and which of them a reader finds.
#include "sim/database.h"

#include "core/exclusion.h"

#include <algorithm>

namespace mrsync::sim
{
namespace
{

Claim claimOf(int key, const Row &row)
{
	return {row.writer->version, std::to_string(key)};
}

} // namespace

std::optional<Content> makeFit(Loser loser, Content content)
{
	if (loser == Loser::IsHeldAside)
		return std::nullopt;
	content.unique = loser == Loser::IsSetNull ? 0 : content.unique + 1;
	return content;
}

std::optional<Row> Store::find(int key) const
{
	std::optional<Row> row;
	if (auto found = rows_.find(key); found != rows_.end())
	{
		row = found->second;
		row->known = row->atMost ? nullptr : row->writer;
	}
	if (!truncated_ || (row && row->kind == LocalKind::Live))
		return row;
	WriterPtr truncation = truncatedAtMost_ ? nullptr : truncated_;
	if (!row)
		return Row{LocalKind::Tombstone, {}, truncated_, truncatedAtMost_, truncation};
	bool isNewer = row->writer->version < truncated_->version;
	if (!isNewer && row->kind != LocalKind::Tombstone)
		return row;
	bool knowsBetter = truncation && (!row->known || row->known->version < truncation->version);
	return Row{LocalKind::Tombstone, {}, isNewer ? truncated_ : row->writer, std::max(row->atMost, truncatedAtMost_), knowsBetter ? truncation : row->known};
}

void Store::put(int key, Content content, WriterPtr writer)
{
	if (std::optional<int> other = rival(key, content.unique))
		throw CheckFailed("I13", "rows " + std::to_string(key) + " and " + std::to_string(*other) +
		                             " are in one table with the same unique value");
	rows_[key] = {LocalKind::Live, std::move(content), std::move(writer)};
}

void Store::rememberTruncation(WriterPtr writer)
{
	if (!truncated_ || truncated_->version <= writer->version) // the same, sent again: who writes now counts
	{
		truncated_ = std::move(writer);
		truncatedAtMost_.reset();
	}
}

void Store::forgetVersions(Hlc bound)
{
	for (auto &[key, row] : rows_)
		row.atMost = std::max(row.atMost, std::optional(bound));
	if (truncated_)
		truncatedAtMost_ = std::max(truncatedAtMost_, std::optional(bound));
}

bool Store::isKnown(int key) const
{
	std::optional<Row> row = find(key);
	return !row || !row->atMost;
}

void Store::prune(Hlc upTo)
{
	prunedUpTo_ = std::max(prunedUpTo_, upTo);
	for (auto at = rows_.begin(); at != rows_.end();)
	{
		bool gone = at->second.kind == LocalKind::Tombstone && at->second.atMost.value_or(at->second.writer->version.hlc) < upTo;
		if (gone)
			forgotten_[at->first] = at->second.writer;
		at = gone ? rows_.erase(at) : std::next(at);
	}
	bool isNeeded = std::any_of(rows_.begin(), rows_.end(), [](const auto &row) { return row.second.kind == LocalKind::Aside; });
	if (truncated_ && !isNeeded && truncatedAtMost_.value_or(truncated_->version.hlc) < upTo)
	{
		forgottenTruncation_ = std::move(truncated_);
		truncatedAtMost_.reset();
	}
}

// What was forgotten and is newer than what is there.
std::vector<WriterPtr> Store::forgotten(int key) const
{
	std::vector<WriterPtr> writers;
	std::optional<Row> row = find(key);
	auto found = forgotten_.find(key);
	for (const WriterPtr &writer : {found == forgotten_.end() ? nullptr : found->second, forgottenTruncation_})
		if (writer && (!row || row->writer->version < writer->version))
			writers.push_back(writer);
	return writers;
}

bool Store::remembersDeletions(Hlc below) const
{
	auto isBelow = [below](const WriterPtr &writer) { return writer->version.hlc < below; };
	return (truncated_ && isBelow(truncated_)) ||
	       std::any_of(rows_.begin(), rows_.end(),
	                   [&](const auto &row) { return row.second.kind == LocalKind::Tombstone && isBelow(row.second.writer); });
}

std::optional<int> Store::rival(int key, int unique) const
{
	for (const auto &[other, row] : rows_)
		if (unique != 0 && other != key && row.kind == LocalKind::Live && row.placed().unique == unique)
			return other;
	return std::nullopt;
}

Row Store::outcome(int key, Row row, Rule rule) const
{
	auto fits = [&](int unique)
	{
		std::optional<int> other = rival(key, unique);
		return !other || (rule == Rule::Version && mrsync::place(claimOf(key, row), {claimOf(*other, rows_.at(*other))}).inTable);
	};
	row.made.reset();
	row.kind = LocalKind::Live;
	if (fits(row.content.unique))
		return row;
	row.made = makeFit(loser_, row.content);
	if (row.made && fits(row.made->unique))
		return row;
	row.made.reset();
	row.kind = LocalKind::Aside;
	return row;
}

void Store::place(int key, Content content, WriterPtr writer, Rule rule)
{
	Row row = outcome(key, {LocalKind::Aside, std::move(content), std::move(writer)}, rule);
	rows_[key] = row;
	if (row.kind == LocalKind::Aside)
		return;
	if (std::optional<int> other = rival(key, row.placed().unique))
	{
		rows_[*other].kind = LocalKind::Aside;
		rows_[*other].made.reset();
	}
}

void Store::dropDeletedAside()
{
	std::erase_if(rows_, [this](const auto &row)
	              { return row.second.kind == LocalKind::Aside && find(row.first)->kind != LocalKind::Aside; });
}

std::vector<int> Store::released(Rule rule) const
{
	std::vector<int> keys;
	for (const auto &[key, row] : rows_)
	{
		if (row.kind != LocalKind::Aside && !row.made)
			continue;
		Row is = outcome(key, row, rule);
		if (find(key)->kind == row.kind && (is.kind != row.kind || is.made != row.made))
			keys.push_back(key);
	}
	std::sort(keys.begin(), keys.end(),
	          [this](int a, int b) { return claimOf(a, rows_.at(a)) < claimOf(b, rows_.at(b)); });
	return keys;
}

std::map<int, Content> Store::table() const
{
	std::map<int, Content> found = rows(LocalKind::Live);
	for (auto &[key, content] : found)
		content = rows_.at(key).placed();
	return found;
}

std::map<int, Content> Store::rows(LocalKind kind) const
{
	std::map<int, Content> found;
	for (const auto &[key, row] : rows_)
		if (std::optional<Row> is = find(key); is && is->kind == kind)
			found[key] = is->content;
	return found;
}

} // namespace mrsync::sim
