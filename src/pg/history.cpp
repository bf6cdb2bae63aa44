#include "pg/history.h"

#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/guard.h"

#include <algorithm>

extern "C"
{
#include "access/commit_ts.h"
#include "access/tableam.h"
#include "access/timeline.h"
#include "access/xlogrecovery.h"
#include "executor/tuptable.h"
#include "utils/pg_lsn.h"
}

namespace mrsync
{

namespace
{

List *timelineHistory()
{
	TimeLineID current;
	if (RecoveryInProgress())
		GetXLogReplayRecPtr(&current);
	else
		current = version::currentTimeline();
	return readTimeLineHistory(current);
}

} // namespace

History History::read()
{
	History history;
	List *timelines = pgCall(timelineHistory);
	for (int i = list_length(timelines) - 1; i >= 0; --i) // newest first
	{
		auto *entry = static_cast<TimeLineHistoryEntry *>(list_nth(timelines, i));
		history.timelines_.push_back({entry->begin, entry->tli});
	}
	bool begins = !IsTransactionState();
	Relation rel = nullptr;
	TupleTableSlot *slot = nullptr;
	TableScanDesc scan = nullptr;
	Snapshot snapshot = nullptr;
	pgCall(
		[&]
		{
			if (begins)
				StartTransactionCommand();
			Oid table = catalogRelation("recovery");
			if (!OidIsValid(table))
				return;
			rel = table_open(table, AccessShareLock);
			slot = table_slot_create(rel, nullptr);
			snapshot = RegisterSnapshot(GetLatestSnapshot());
			scan = table_beginscan(rel, snapshot, 0, nullptr);
		});
	while (scan && pgCall([&] { return table_scan_getnextslot(scan, ForwardScanDirection, slot); }))
		history.shifts_.push_back(pgCall(
			[&]
			{
				bool isNull;
				return Begin{DatumGetLSN(slot_getattr(slot, 2, &isNull)), static_cast<uint32_t>(DatumGetInt32(slot_getattr(slot, 3, &isNull)))};
			}));
	pgCall(
		[&]
		{
			if (scan)
			{
				table_endscan(scan);
				UnregisterSnapshot(snapshot);
				ExecDropSingleTupleTableSlot(slot);
				table_close(rel, AccessShareLock);
			}
			if (begins)
				CommitTransactionCommand();
		});
	return history;
}

uint32_t History::timelineOf(XLogRecPtr lsn) const
{
	uint32_t timeline = 1;
	for (const Begin &begin : timelines_)
		if (begin.lsn <= lsn)
			timeline = begin.number;
	return timeline;
}

uint32_t History::numberOf(XLogRecPtr lsn) const
{
	uint32_t shift = 0;
	for (const Begin &begin : shifts_)
		if (begin.lsn <= lsn)
			shift = std::max(shift, begin.number);
	return timelineOf(lsn) + shift;
}

bool History::reaches(uint64_t sequence) const
{
	XLogRecPtr lsn = sequence & ((UINT64_C(1) << 48) - 1);
	return lsn < version::flushedUpTo(nullptr) && numberOf(lsn) == sequence >> 48;
}

std::string followsAnother(RegionShared *region, uint32_t number)
{
	for (const PeerShared &peer : region->peers)
		if (peer.ackedSequence.load() >> 48 > number)
			return peer.region;
	return "";
}

bool hasCommitted(uint64_t xid, int64_t committedAt)
{
	return pgCall(
		[&]
		{
			uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());
			if (xid >= next)
				return false;
			auto id = static_cast<TransactionId>(xid);
			if (next - xid > static_cast<uint64>(MaxTransactionId / 2) || !TransactionIdIsNormal(id) || version::isBeforeCommitTimestamps(id))
				return true;
			TimestampTz at;
			RepOriginId origin;
			return TransactionIdGetCommitTsData(id, &at, &origin) && at == committedAt;
		});
}

} // namespace mrsync
