// Rows and memories of deletions, and which of them a reader finds.
#include "sim/database.h"

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

std::map<int, std::string> Store::liveRows() const
{
	std::map<int, std::string> live;
	for (const auto &[key, row] : rows_)
		if (row.live)
			live[key] = row.value;
	return live;
}

} // namespace mrsync::sim
