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

std::optional<Row> Store::find(int key) const
{
	std::optional<Row> row;
	if (auto found = rows_.find(key); found != rows_.end())
		row = found->second;
	bool inTable = row && row->kind == LocalKind::Live;
	if (truncated_ && !inTable && (!row || row->writer->version < truncated_->version))
		row = Row{LocalKind::Tombstone, {}, truncated_};
	return row;
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
	if (!truncated_ || truncated_->version < writer->version)
		truncated_ = std::move(writer);
}

std::optional<int> Store::rival(int key, int unique) const
{
	for (const auto &[other, row] : rows_)
		if (unique != 0 && other != key && row.kind == LocalKind::Live && row.content.unique == unique)
			return other;
	return std::nullopt;
}

void Store::place(int key, Content content, WriterPtr writer, Rule rule)
{
	Row row{LocalKind::Aside, std::move(content), std::move(writer)};
	rows_[key] = row;
	std::vector<Claim> rivals;
	std::optional<int> other = rival(key, row.content.unique);
	if (other)
		rivals.push_back(claimOf(*other, rows_[*other]));
	if (other && (rule == Rule::Arrival || !mrsync::place(claimOf(key, row), rivals).inTable))
		return;
	if (other)
		rows_[*other].kind = LocalKind::Aside;
	put(key, row.content, row.writer);
}

std::vector<int> Store::released(Rule rule) const
{
	std::vector<int> keys;
	for (const auto &[key, content] : rows(LocalKind::Aside))
	{
		std::optional<int> other = rival(key, content.unique);
		if (!other || (rule == Rule::Version && claimOf(*other, rows_.at(*other)) < claimOf(key, rows_.at(key))))
			keys.push_back(key);
	}
	std::sort(keys.begin(), keys.end(),
	          [this](int a, int b) { return claimOf(a, rows_.at(a)) < claimOf(b, rows_.at(b)); });
	return keys;
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
