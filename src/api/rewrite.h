// Rewrites of replicated tables, see rewrite.cpp.
#pragma once

namespace mrsync::api
{

// At the end of an ALTER TABLE: what the transaction writes from now on is new. Throws PgError.
void rewritesEnd();

} // namespace mrsync::api
