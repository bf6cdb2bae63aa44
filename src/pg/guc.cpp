#include "pg/guc.h"

#include "pg/server.h"

#include <climits>

namespace mrsync::guc
{

int maxRegions = 8;
int maxClockSkewSeconds = 900;
bool forceOverride = false;
int applierWorkMemKb = 65536;
int heartbeatIntervalMs = 1000;
int ackIntervalMs = 50;
int applyErrorRetrySeconds = 10;
int producerQueueMb = 64;

void define()
{
	DefineCustomIntVariable("mrsync.max_regions", "Most databases of this server that can be regions.",
							"Each takes about 250 kB of shared memory.", &maxRegions, 8, 1, 64, PGC_POSTMASTER, 0,
							nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.max_clock_skew",
							"How far ahead of this server's clock a peer's stamp may be.",
							"A link waits in front of a transaction stamped further ahead, and goes on by itself.",
							&maxClockSkewSeconds, 900, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr,
							nullptr);
	DefineCustomBoolVariable("mrsync.force_override", "Writes down the stamp of every transaction.",
							 "For tests: the path taken when the clock has drifted.", &forceOverride, false, PGC_SUSET, 0,
							 nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.applier_work_mem",
							"A transaction of a peer that is larger than this is spooled to disk.", nullptr,
							&applierWorkMemKb, 65536, 64, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_KB, nullptr, nullptr,
							nullptr);
	DefineCustomIntVariable("mrsync.heartbeat_interval", "How often a region gives a sign of life to its peers.", nullptr,
							&heartbeatIntervalMs, 1000, 50, 60000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.ack_interval",
							"How often, at most, a link acknowledges to its source what it has applied.", nullptr,
							&ackIntervalMs, 50, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.apply_error_retry_interval", "How often a parked event is tried again.", nullptr,
							&applyErrorRetrySeconds, 10, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.producer_queue", "Most that waits in memory for the broker's acknowledgement.",
							"When it is full, decoding waits; WAL is kept on disk meanwhile.", &producerQueueMb, 64, 1, 1024,
							PGC_POSTMASTER, GUC_UNIT_MB, nullptr, nullptr, nullptr);
	MarkGUCPrefixReserved("mrsync");
}

} // namespace mrsync::guc
