// Parked events: what could not be applied waits in mrsync.apply_error, named, while everything else goes on.
#pragma once

#include "core/event.h"
#include "pg/guard.h"

#include <vector>

namespace mrsync
{

struct ParkedEvent
{
	std::string id; // apply_error.error_id
	ChangeEvent event; // its envelope carries `seen`
};

// Inside the transaction that applies the rest.
void park(const std::string &source, const ChangeEvent &event, const SeenVector &seen, const PgError &error);
void unpark(const std::string &id);

// In transactions of their own. Those whose last try is longer ago than mrsync.apply_error_retry_interval, oldest stamp
// first, some at a time; of several events of one transaction on one row only the first: the next waits for its success.
std::vector<ParkedEvent> parkedDue(const std::string &source);
void parkedFailedAgain(const std::string &id, const PgError &error);

} // namespace mrsync
