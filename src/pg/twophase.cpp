#include "pg/twophase.h"

#include "core/mutant.h"
#include "pg/bounds.h"
#include "pg/clock.h"
#include "pg/guard.h"
#include "pg/override.h"
#include "pg/spi.h"

#include <algorithm>
#include <cstring>

extern "C"
{
#include "access/commit_ts.h"
#include "access/twophase.h"
#include "storage/proc.h"
#include "utils/wait_event.h"
}

namespace mrsync
{

namespace
{

constexpr int64_t kSaidAfter = USECS_PER_SEC; // a longer wait is announced

// The prepared transaction that is being committed. Plain memory.
struct Committing
{
	TransactionId xid; // invalid: none
	Hlc bound;		   // its stamp must be above this,
	Hlc stamp;		   // and is this one where its commit timestamp is not
	int childCount;
	TransactionId children[PGPROC_MAX_CACHED_SUBXIDS];
};
Committing committing;

TransactionId preparedXid(const char *gid)
{
	spi::Rows rows = spi::query("SELECT transaction FROM pg_catalog.pg_prepared_xacts WHERE gid OPERATOR(pg_catalog.=) $1 AND "
								"database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
								{gid});
	return rows.empty() ? InvalidTransactionId : static_cast<TransactionId>(std::stoul(*rows[0][0]));
}

// Its subtransactions, as many as the server shows of one.
void childrenRead()
{
	pgCall(
		[]
		{
			const PGPROC *proc = TwoPhaseGetDummyProc(committing.xid, false);
			committing.childCount = proc->subxidStatus.count;
			memcpy(committing.children, proc->subxids.xids, sizeof committing.children);
		});
}

void waitUntilPast(Hlc bound)
{
	pgCall(
		[&]
		{
			bool said = false;
			for (;;)
			{
				int64_t ahead = bound.value - GetCurrentTimestamp();
				if (ahead < 0)
					return;
				if (!said && ahead >= kSaidAfter)
					ereport(NOTICE, (errmsg("COMMIT PREPARED waits %lld s for this server's clock",
											static_cast<long long>(ahead / USECS_PER_SEC)),
									 errdetail("This region has stamps of that much in the future: of a peer whose clock is ahead, or of "
											   "its own from before a restart. A prepared transaction is stamped with the time of its commit.")));
				said = true;
				long pause = static_cast<long>(std::min<int64_t>(ahead / 1000 + 1, 1000));
				(void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, PG_WAIT_EXTENSION);
				ResetLatch(MyLatch);
				CHECK_FOR_INTERRUPTS();
			}
		});
}

} // namespace

void preparing()
{
	if (!myRegion() || !TransactionIdIsValid(GetTopTransactionIdIfAny()) || replorigin_session_origin == InvalidRepOriginId)
		return;
	throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED, "a transaction of another replication origin cannot be prepared in an mrsync region")
		.detail("Its writes count as this region's own and need a stamp of this region's clock, but its commit timestamp would be "
				"that of its source, and COMMIT PREPARED gives no occasion to write another one down.")
		.hint("If it comes from a subscription, create that with two_phase = false.");
}

void commitPreparedBegin(const char *gid)
{
	committing.xid = InvalidTransactionId;
	RegionShared *region = myRegion();
	if (!region || IsTransactionBlock())
		return; // nothing to do, or an error to come
	if (replorigin_session_origin != InvalidRepOriginId)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "a prepared transaction cannot be committed under a replication origin in an mrsync region")
			.detail("Its commit timestamp, which is its stamp, would be that of the origin.")
			.hint("Call pg_replication_origin_session_reset() before COMMIT PREPARED.");
	TransactionId xid = preparedXid(gid);
	if (!TransactionIdIsValid(xid))
		return; // as COMMIT PREPARED will say
	committing.xid = xid;
	childrenRead();
	// Kept while it waits: a stamp adopted meanwhile may be far above the one that this commit gets.
	boundPublish(region);
	committing.bound = Clock(region->clock).last();
	if (!mutated("prepared_at_once"))
		waitUntilPast(committing.bound);
	ceilingEnsure(region, Hlc{GetCurrentTimestamp() + kCommitMargin});
	committing.stamp = Clock(region->clock).stamp(GetCurrentTimestamp, false).hlc;
	stampAnnounce(xid, xid, committing.bound, committing.stamp);
}

void commitPreparedEnd()
{
	RegionShared *region = myRegion();
	if (!region || !TransactionIdIsValid(committing.xid))
		return;
	TimestampTz timestamp = 0;
	RepOriginId origin;
	TransactionId xid = committing.xid;
	if (track_commit_timestamp && pgCall([&] { return TransactionIdGetCommitTsData(xid, &timestamp, &origin); }))
	{
		Clock(region->clock).adopt(Hlc{timestamp});
		if (timestamp <= committing.bound.value) // the clock went back since the wait
			lateStampAdd(region, xid, committing.children, committing.childCount, committing.stamp);
	}
	stampWithdraw();
}

} // namespace mrsync
