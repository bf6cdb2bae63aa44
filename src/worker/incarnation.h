// An incarnation: one start of the extractor, or one fence. Its number is in every record that is sent under it, and behind its
// first record readers drop what lower ones send (core/ledger.cpp), so no two may have one number: also not those of two servers
// of which one is a copy of the other, as a region that was restored, or a standby. Hence the microseconds.
#pragma once

#include <cstdint>

namespace mrsync
{

// Above all that this server has opened before, at or above the physical time (microseconds since 1970) and this number. Inside a
// transaction; durable with that. Throws PgError.
int64_t openIncarnation(int64_t atLeast);

} // namespace mrsync
