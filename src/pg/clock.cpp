#include "pg/clock.h"

#include "pg/guard.h"
#include "pg/guc.h"
#include "pg/override.h"
#include "pg/twophase.h"

#include <algorithm>
#include <chrono>

extern "C"
{
#include "access/transam.h"
}

namespace mrsync
{

namespace
{

bool applierMode = false;
XLogRecPtr lastCommitSeen = InvalidXLogRecPtr;
Hlc announced{}; // the stamp of the transaction at hand, where its commit timestamp is to say it; zero: none

void preCommit()
{
	if (applierMode)
		return;
	RegionShared *region = myRegion();
	TransactionId xid = GetTopTransactionIdIfAny();
	if (!region || !TransactionIdIsValid(xid) || XactLastRecEnd == InvalidXLogRecPtr)
		return;
	bool foreign = replorigin_session_origin != InvalidRepOriginId;
	Clock clock(region->clock);
	Stamp stamp = clock.stamp(GetCurrentTimestamp, guc::forceOverride || foreign);
	ceilingEnsure(region, Hlc{std::max<int64_t>(stamp.hlc.value, GetCurrentTimestamp() + kCommitMargin)});
	if (stamp.isOverride)
	{
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
	if (timestamp < announced)
		stampLate(region);
	uint64_t end = region->lastCommitEnd.load();
	while (end < lastCommitSeen && !region->lastCommitEnd.compare_exchange_weak(end, lastCommitSeen))
	{
	}
	workerWake(region->extractorLatch);
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

void clockApplierMode(bool on) { applierMode = on; }

Hlc clockTick(RegionShared *region)
{
	Hlc hlc = Clock(region->clock).stamp(GetCurrentTimestamp, false).hlc;
	ceilingEnsure(region, hlc);
	return hlc;
}

void clockAdopt(RegionShared *region, Hlc hlc)
{
	if (region->clock.load() >= hlc.value)
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
