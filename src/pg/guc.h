// The settings. Each is declared and described in guc.cpp; docs/settings.md says the same at length.
#pragma once

namespace mrsync::guc
{

extern int maxRegions;			   // places for region databases in this server
extern int maxClockSkewSeconds;	   // a remote stamp further ahead than this is waited for
extern bool forceOverride;		   // every transaction writes down its stamp
extern int applierWorkMemKb;	   // a source transaction larger than this is spooled to disk
extern int heartbeatIntervalMs;	   // on the control topic
extern int ackIntervalMs;		   // how often an applier acknowledges while it applies
extern int applyErrorRetrySeconds; // how often parked events are tried again
extern int conflictLogRetentionSeconds; // how long conflict_log keeps an entry; not above 0: for ever
extern int mergeFunctionTimeoutMs; // for one call
extern int producerQueueMb;		   // the most that waits for the broker in memory

extern char *kafkaOptions;		   // how Kafka is spoken to, see kafka/options.h; always valid; holds secrets

void define();

} // namespace mrsync::guc
