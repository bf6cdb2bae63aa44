// What a region's WAL holds for its extractor to send.
#pragma once

#include "core/event.h"

#include <memory>
#include <vector>

namespace mrsync::sim
{

// A transaction; or a part of a resend, which belongs to none; or the mark at its end.
struct WalRecord
{
	uint64_t sequence;
	uint64_t lsn;
	std::vector<ChangeEvent> events;
};
using Wal = std::vector<std::shared_ptr<const WalRecord>>;

} // namespace mrsync::sim
