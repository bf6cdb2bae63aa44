// worker_stat and peer_stat: what the workers of this database's region say of themselves, read from shared memory.
// The views worker_status and link_status make it readable.
#include "api/api.h"

#include <cstring>

extern "C"
{
PG_FUNCTION_INFO_V1(mrsync_worker_stat);
PG_FUNCTION_INFO_V1(mrsync_peer_stat);
}

namespace mrsync::api
{

namespace
{

// One row being filled. Everything but put() may ereport: under the guard.
struct RowWriter
{
	explicit RowWriter(ReturnSetInfo *result) : result_(result) {}

	void put(Datum value) { values_[n_] = value, nulls_[n_++] = false; }
	void putNull() { values_[n_] = 0, nulls_[n_++] = true; }
	void putText(const char *text) { text[0] ? put(CStringGetTextDatum(text)) : putNull(); }
	void putTime(TimestampTz time) { time != 0 ? put(TimestampTzGetDatum(time)) : putNull(); }
	void putCount(uint64_t count) { put(Int64GetDatum(static_cast<int64>(count))); }
	void end()
	{
		tuplestore_putvalues(result_->setResult, result_->setDesc, values_, nulls_);
		n_ = 0;
	}

private:
	ReturnSetInfo *result_;
	int n_ = 0;
	Datum values_[24];
	bool nulls_[24];
};

// The texts of a worker, copied under the lock: the rest is written without it, anyway.
struct WorkerTexts
{
	WorkerKind kind;
	char peer[kRegionIdLength];
	pid_t pid;
	TimestampTz startedAt;
	int32_t restarts;
	char state[1024];
	bool degraded;
	char lastError[1024];
	TimestampTz lastErrorAt;
};

void workerStat(FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	RegionShared *region = myRegion();
	if (!region)
		return;
	RowWriter row(reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo));
	for (WorkerShared &worker : region->workers)
	{
		WorkerTexts texts;
		LWLockAcquire(shmemLock(), LW_SHARED);
		texts.kind = worker.kind;
		memcpy(texts.peer, worker.peer, sizeof texts.peer);
		texts.pid = worker.pid;
		texts.startedAt = worker.startedAt;
		texts.restarts = worker.restarts;
		memcpy(texts.state, worker.state, sizeof texts.state);
		texts.degraded = worker.degraded;
		memcpy(texts.lastError, worker.lastError, sizeof texts.lastError);
		texts.lastErrorAt = worker.lastErrorAt;
		LWLockRelease(shmemLock());
		if (texts.kind == WorkerKind::None)
			continue;
		row.putText(toText(texts.kind));
		row.putText(texts.peer);
		texts.pid != 0 ? row.put(Int32GetDatum(texts.pid)) : row.putNull();
		row.put(BoolGetDatum(texts.pid != 0));
		row.putText(texts.state);
		row.putTime(texts.startedAt);
		row.put(Int32GetDatum(texts.restarts));
		row.putCount(worker.sequence.load());
		int64_t hlc = worker.hlc.load();
		hlc != 0 ? row.put(Int64GetDatum(hlc)) : row.putNull();
		row.putTime(worker.committedAt.load());
		row.putTime(worker.progressAt.load());
		row.putTime(worker.takenAt.load());
		row.putCount(worker.transactions.load());
		row.putCount(worker.events.load());
		row.putCount(worker.parked.load());
		row.put(BoolGetDatum(worker.caughtUp.load()));
		row.putText(texts.lastError);
		row.putTime(texts.lastErrorAt);
		row.put(BoolGetDatum(texts.degraded));
		row.end();
	}
}

void peerStat(FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	RegionShared *region = myRegion();
	if (!region)
		return;
	RowWriter row(reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo));
	for (PeerShared &peer : region->peers)
	{
		char name[kRegionIdLength];
		LWLockAcquire(shmemLock(), LW_SHARED);
		memcpy(name, peer.region, sizeof name);
		LWLockRelease(shmemLock());
		if (!name[0])
			continue;
		row.putText(name);
		row.putCount(peer.ackedSequence.load());
		row.putCount(peer.headSequence.load());
		row.putTime(peer.heartbeatAt.load());
		row.putTime(peer.watermark.load());
		row.putTime(peer.appliedWatermark.load());
		row.end();
	}
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_worker_stat(PG_FUNCTION_ARGS)
{
	enter([&] { pgCall([&] { workerStat(fcinfo); }); });
	return Datum(0);
}

Datum mrsync_peer_stat(PG_FUNCTION_ARGS)
{
	enter([&] { pgCall([&] { peerStat(fcinfo); }); });
	return Datum(0);
}
