#include "pg/clock.h"

#include "core/mutant.h"
#include "pg/bounds.h"
#include "pg/catalog.h"
#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/override.h"
#include "pg/twophase.h"

#include <algorithm>
#include <chrono>
#include <cstring>

extern "C"
{
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "utils/builtins.h"
}

namespace mrsync
{

namespace
{

// Above the last stamp that the region's rows speak of, there are those since: it speaks of one a second, at least.
constexpr int64_t kRecallAhead = 5 * USECS_PER_SEC;

constexpr AttrNumber kHeartbeatHlc = 2;
constexpr AttrNumber kHeartbeatSentAt = 5;
constexpr AttrNumber kLinkPositionHlc = 6;

bool applierMode = false;
XLogRecPtr lastCommitSeen = InvalidXLogRecPtr;
Hlc announced{}; // the stamp of the transaction at hand, where its commit timestamp is to say it; zero: none

struct Recalled
{
	int64_t newest = 0; // of the stamps that the region has written down as its own, and that it has applied
	int64_t ahead = 0;	// by how much its clock was ahead of physical time
};

Recalled recalled(RegionShared *region)
{
	Recalled found;
	auto look = [&](const char *name, AttrNumber stamp, bool isOwn)
	{
		Oid table = catalogRelation(name);
		if (!OidIsValid(table))
			return;
		Relation rel = table_open(table, AccessShareLock);
		SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
		while (HeapTuple tuple = systable_getnext(scan))
		{
			bool isNull;
			char *of = TextDatumGetCString(heap_getattr(tuple, 1, RelationGetDescr(rel), &isNull));
			bool counts = !isOwn || strcmp(of, region->region) == 0;
			pfree(of);
			if (!counts)
				continue;
			int64_t hlc = DatumGetInt64(heap_getattr(tuple, stamp, RelationGetDescr(rel), &isNull));
			found.newest = std::max(found.newest, hlc);
			if (isOwn)
				found.ahead = hlc - DatumGetTimestampTz(heap_getattr(tuple, kHeartbeatSentAt, RelationGetDescr(rel), &isNull));
		}
		systable_endscan(scan);
		table_close(rel, AccessShareLock);
	};
	pgCall(
		[&]
		{
			look("heartbeat", kHeartbeatHlc, true);
			look("link_position", kLinkPositionHlc, false);
		});
	return found;
}

void preCommit()
{
	if (applierMode)
		return;
	RegionShared *region = myRegion();
	TransactionId xid = GetTopTransactionIdIfAny();
	if (!region || !TransactionIdIsValid(xid) || XactLastRecEnd == InvalidXLogRecPtr)
		return;
	bool foreign = replorigin_session_origin != InvalidRepOriginId && !mutated("foreign_unstamped");
	clockRecall(region);
	boundPublish(region);
	Clock clock(region->clock);
	Stamp stamp = clock.stamp(GetCurrentTimestamp, guc::forceOverride || foreign);
	ceilingEnsure(region, Hlc{std::max<int64_t>(stamp.hlc.value, GetCurrentTimestamp() + kCommitMargin)});
	if (stamp.isOverride)
	{
		if (!mutated("no_override"))
			overrideWrite(region, xid, stamp.hlc);
		return;
	}
	announced = stamp.hlc;
	TransactionId *children;
	int count = xactGetCommittedChildren(&children);
	stampAnnounce(xid, count > 0 ? children[count - 1] : xid, Hlc{stamp.hlc.value - 1}, stamp.hlc);
}

// The clock went back between stamp and commit record: the commit timestamp may lie below versions that were overwritten.
void stampLate(RegionShared *region)
{
	TransactionId *children;
	int count = xactGetCommittedChildren(&children);
	lateStampAdd(region, GetTopTransactionIdIfAny(), children, count, announced);
}

void ended()
{
	boundClear();
	announced = Hlc{};
	stampWithdraw();
}

// Interrupts are held and nothing may fail here.
void committed()
{
	if (XactLastCommitEnd == lastCommitSeen)
		return; // wrote nothing
	lastCommitSeen = XactLastCommitEnd;
	RegionShared *region = applierMode ? nullptr : myRegion();
	if (!region)
		return;
	Hlc timestamp{GetCurrentTransactionStopTimestamp()};
	Clock(region->clock).adopt(timestamp);
	if (timestamp < announced && !mutated("late_unwritten"))
		stampLate(region);
	uint64_t end = region->lastCommitEnd.load();
	while (end < lastCommitSeen && !region->lastCommitEnd.compare_exchange_weak(end, lastCommitSeen))
	{
	}
	workerWake(region->extractorLatch);
	if (mutated("commit_waits") && MyBackendType != B_BG_WORKER)
		for (const WorkerShared &worker : region->workers)
			for (int i = 0; i < 1000 && worker.kind == WorkerKind::Extractor && worker.sequence.load() > region->ackedSequence.load(); ++i)
				pg_usleep(1000);
}

void onXact(XactEvent event, void *)
{
	switch (event)
	{
	case XACT_EVENT_PRE_COMMIT:
		enter([] { preCommit(); });
		break;
	case XACT_EVENT_PRE_PREPARE:
		enter([] { preparing(); });
		break;
	case XACT_EVENT_COMMIT:
		committed();
		ended();
		break;
	case XACT_EVENT_ABORT:
		ended();
		break;
	default:
		break;
	}
}

} // namespace

void clockInit() { RegisterXactCallback(onXact, nullptr); }

void clockRecall(RegionShared *region)
{
	if (region->clockRecalled.load() || RecoveryInProgress())
		return;
	Recalled found = recalled(region);
	int64_t start = found.newest > region->ceiling.load() ? found.newest + kRecallAhead : 0;
	// It has gone on like that, perhaps, where that is not known any more.
	if (start != 0 && found.ahead > kCommitMargin)
		start = std::max<int64_t>(start, GetCurrentTimestamp() + found.ahead);
	if (start > region->clock.load())
	{
		ceilingEnsure(region, Hlc{start});
		Clock(region->clock).adopt(Hlc{start});
	}
	region->clockRecalled.store(true);
}

void clockApplierMode(bool on) { applierMode = on; }

bool clockIsApplierMode() { return applierMode; }

Hlc clockTick(RegionShared *region)
{
	Hlc hlc = Clock(region->clock).stamp(GetCurrentTimestamp, false).hlc;
	ceilingEnsure(region, hlc);
	return hlc;
}

Hlc clockNow(RegionShared *region)
{
	clockRecall(region);
	Hlc hlc = Clock(region->clock).now(GetCurrentTimestamp);
	ceilingEnsure(region, hlc);
	return hlc;
}

void clockAdopt(RegionShared *region, Hlc hlc)
{
	if (region->clock.load() >= hlc.value || mutated("no_adopt"))
		return;
	ceilingEnsure(region, hlc);
	Clock(region->clock).adopt(hlc);
}

int64_t steadyNow()
{
	using namespace std::chrono;
	return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

FullTransactionId fullXid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32 epoch = EpochFromFullTransactionId(next);
	if (xid > XidFromFullTransactionId(next))
		--epoch;
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}

} // namespace mrsync
