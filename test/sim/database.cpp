// Rows and memories of deletions, and which of them a reader finds.
#include "sim/database.h"

#include <algorithm>

namespace mrsync::sim
{

namespace
{

bool isNewer(const WriterPtr &a, const WriterPtr &b)
{
	return a && (!b || b->version < a->version);
}

} // namespace

std::optional<Row> Store::find(int key) const
{
	std::optional<Row> row;
	if (auto found = rows_.find(key); found != rows_.end())
		row = found->second;
	if (!truncated_ || (row && row->live))
		return row;
	if (!row)
		return truncated_;
	if (isNewer(truncated_->writer, row->writer))
		row->writer = truncated_->writer;
	if (isNewer(truncated_->known, row->known))
		row->known = truncated_->known;
	row->atMost = std::max(row->atMost, truncated_->atMost);
	return row;
}

void Store::rememberTruncation(WriterPtr writer)
{
	if (!truncated_)
		truncated_ = Row{};
	if (isNewer(writer, truncated_->writer))
		truncated_->writer = writer;
	if (isNewer(writer, truncated_->known))
		truncated_->known = std::move(writer);
}

void Store::forgetVersions(Hlc bound)
{
	auto forget = [bound](Row &row)
	{
		row.known = nullptr;
		row.atMost = std::max(row.atMost, std::optional(bound));
	};
	for (auto &[key, row] : rows_)
		forget(row);
	if (truncated_)
		forget(*truncated_);
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
