// Of a user's code, for the statement in its scope: the error is 57014.
#pragma once

#include "pg/server.h"

extern "C"
{
#include "utils/timeout.h"
}

namespace mrsync
{

class TimeLimit
{
public:
	explicit TimeLimit(int milliseconds) { enable_timeout_after(STATEMENT_TIMEOUT, milliseconds); }
	~TimeLimit()
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false; // of a limit that was passed at the last moment: it must not hit what comes next
	}
	TimeLimit(const TimeLimit &) = delete;
	TimeLimit &operator=(const TimeLimit &) = delete;
};

} // namespace mrsync
