// What an applier writes down with every transaction it applies: the dedup record in mrsync.applied_event and the link's
// row in mrsync.link_position. Part of the transaction (I7). Without the executor: it is done for every transaction.
#pragma once

#include "core/event.h"
#include "pg/server.h"

#include <string>

namespace mrsync
{

struct AppliedRecord
{
	Uuid first; // the ids of the transaction's first and last event
	Uuid last;
	std::string region;
	uint64_t sequence;
	Hlc hlc;
	std::string seen; // as JSON
	std::string rows; // core/event_rows.h
};

// False, and nothing is written: it has been applied before.
bool recordApplied(const AppliedRecord &record);

struct LinkPosition
{
	std::string source;
	std::string topic;
	int64_t nextOffset;
	int64_t incarnation;
	uint64_t sequence;
	Hlc hlc; // the highest so far
	Uuid event;
	int64_t committedAt;
	int64_t eventOffset; // in the topic
};

void recordPosition(const LinkPosition &position);

} // namespace mrsync
