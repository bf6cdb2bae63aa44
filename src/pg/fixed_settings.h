// Text forms that do not depend on who asks: every setting that changes how a value is written or read, held at one value.
//
// Relied on by: the output plugin, the applier and the delete triggers. What one side writes under its own DateStyle and
// the other reads under another is a wrong date and no error.
#pragma once

namespace mrsync
{

// For a stretch of a user's session. Both may ereport: under the guard; after an error the abort of the (sub)transaction
// puts the settings back. Nesting is allowed. Costs a microsecond, more where the session's settings differ.
int fixedSettingsBegin();
void fixedSettingsEnd(int nestLevel);

// For a background worker's whole session, whatever defaults its database or role has; also the settings that could
// make a worker's transactions fail, hide rows or lose positions (isolation, timeouts, role, row security, asynchronous
// commit). May ereport: under the guard.
void fixedSettingsForWorker();

} // namespace mrsync
