// Parked events: what could not be applied waits in mrsync.apply_error, named, while everything else goes on.
#pragma once

#include "core/event.h"
#include "pg/guard.h"

#include <optional>
#include <string>
#include <vector>

namespace mrsync
{

// Whether an error says "not now", not "never": then nothing is parked, all of it is tried again.
bool isRetryable(const PgError &error);

// Whether it is a unique key or an exclusion constraint. Rows in the way are looked for before one is written: somebody
// was faster, or a trigger gave the row another key.
bool isTaken(const PgError &error);

// Inside the transaction that applies the rest. waitsFor: the event_id of the one that was parked before it, of the same
// transaction and row (or table); it is not tried before that one is gone.
void park(const std::string &source, const ChangeEvent &event, const SeenVector &seen, const PgError &error,
		  const std::optional<std::string> &waitsFor);

// The error_ids that are due, longest first, without those that somebody holds; some at a time. In a transaction of its
// own.
std::vector<std::string> parkedDue(const std::string &source);

// Inside the transaction that applies it: the event, its envelope with `seen`, held until the end together with those
// that wait for it, which unpark lets go. Nothing: discarded meanwhile, or one of these rows is somebody else's, who may
// keep it for long.
std::optional<ChangeEvent> parkedHold(const std::string &id);
void unpark(const std::string &id);

// The keys, as text, of the events of the same transaction and table that come before this one and are parked still.
std::vector<std::string> parkedBefore(const ChangeEvent &event);

// In a transaction of its own: named anew, and due again after mrsync.apply_error_retry_interval.
void parkedFailedAgain(const std::string &id, const PgError &error);

} // namespace mrsync
