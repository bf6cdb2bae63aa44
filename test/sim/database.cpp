// Rows and memories of deletions, and which of them a reader finds.
#include "sim/database.h"

#include <algorithm>

namespace mrsync::sim
{

std::optional<Row> Store::find(int key) const
{
	std::optional<Row> row;
	if (auto found = rows_.find(key); found != rows_.end())
		row = found->second;
	if (truncated_ && (!row || (!row->live && row->writer->version < truncated_->version)))
		row = Row{false, "", truncated_};
	return row;
}

void Store::rememberTruncation(WriterPtr writer)
{
	if (!truncated_ || truncated_->version < writer->version)
		truncated_ = std::move(writer);
}

void Store::prune(Hlc upTo)
{
	for (auto at = rows_.begin(); at != rows_.end();)
	{
		bool gone = !at->second.live && at->second.writer->version.hlc < upTo;
		if (gone)
			forgotten_[at->first] = at->second.writer;
		at = gone ? rows_.erase(at) : std::next(at);
	}
	if (truncated_ && truncated_->version.hlc < upTo)
		forgottenTruncation_ = std::move(truncated_);
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
	                   [&](const auto &row) { return !row.second.live && isBelow(row.second.writer); });
}

std::map<int, std::string> Store::liveRows() const
{
	std::map<int, std::string> live;
	for (const auto &[key, row] : rows_)
		if (row.live)
			live[key] = row.value;
	return live;
}

} // namespace mrsync::sim
