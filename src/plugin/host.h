// Where the output plugin's events go when the extractor decodes in its own process, and what only the extractor knows.
// Without a host (pg_logical_slot_get_changes, pg_recvlogical) events are written as lines of text.
#pragma once

#include "core/event.h"
#include "core/ledger.h"

#include <string>

namespace mrsync
{

// Of the messages in the WAL that mrsync.resend writes.
constexpr char kResendPrefix[] = "mrsync.resend";

class PluginHost
{
public:
	virtual ~PluginHost() = default;

	// One encoded event, in the order of the stream. May wait (backpressure); may throw.
	virtual void event(AckLedger::Topic topic, std::string &&json, uint64_t sequence) = 0;

	// The stamp of the transaction at hand stands in shared memory only (lateStampOf): nothing of it may leave this server
	// before the stamp is durable. Waits; may throw.
	virtual void lateStamp(uint32_t xid, Hlc committed) { (void)xid, (void)committed; }

	int64_t incarnation = 0;
	uint64_t sequence = 0; // of the last data transaction; those up to the initial value are not emitted again
	Hlc hlc;			   // of that transaction
	int64_t committedAt = 0; // and its commit by the physical clock
	SeenVector seen;	   // how far this region has applied the others, at the point of the WAL that is decoded
};

// The host of the decoding contexts that this process creates from now on.
void pluginHostSet(PluginHost *host);

} // namespace mrsync
