// Two-phase commit: PREPARE TRANSACTION and COMMIT PREPARED in a region.
//
// No callback comes before the commit record of a prepared transaction, so nothing can be written down for it: its commit
// timestamp is its stamp. It must be above every version that the transaction overwrote and every row that it could see.
// Those were stamped before COMMIT PREPARED was called, for the transaction has held its locks since; so COMMIT PREPARED
// reads the region's clock once and waits until physical time has passed that.
// Relied on by: I5, I11.
#pragma once

namespace mrsync
{

// XACT_EVENT_PRE_PREPARE. Throws PgError: a transaction under a foreign origin will not have a commit timestamp of ours.
void preparing();

// Around COMMIT PREPARED, in a region or not. Begin waits, can be cancelled, and throws PgError; end cannot fail. After an
// error in between, the transaction's abort does what is to be done.
void commitPreparedBegin(const char *gid);
void commitPreparedEnd();

} // namespace mrsync
