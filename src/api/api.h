// What the SQL-callable functions share: arguments, rights, the local region, and what happens when they commit.
#pragma once

#include "pg/guard.h"
#include "pg/shmem.h"
#include "pg/spi.h"

namespace mrsync::api
{

// Arguments of functions that are not STRICT. An argument that must not be NULL throws PgError (22004).
std::string textArgument(FunctionCallInfo fcinfo, int n, const char *name);
std::optional<std::string> optionalTextArgument(FunctionCallInfo fcinfo, int n);
std::string uuidArgument(FunctionCallInfo fcinfo, int n, const char *name); // as text
void requireArgument(FunctionCallInfo fcinfo, int n, const char *name);

// Runs what follows with a superuser's rights, for writes to our catalog on behalf of a user whose own rights have been
// checked before. The functions that use it are created with a pinned search_path.
class AsSuperuser
{
public:
	AsSuperuser();
	~AsSuperuser();
	AsSuperuser(const AsSuperuser &) = delete;
	AsSuperuser &operator=(const AsSuperuser &) = delete;

private:
	Oid user_;
	int context_;
};

// 42501 unless the caller is a superuser.
void requireSuperuser(const char *function);

// 25001 inside a transaction block or a subtransaction. why: a sentence.
void requireNoTransactionBlock(const char *function, const char *why);

// This session's region. Throws PgError (55000) when the database is none.
RegionShared *requireRegion();

// A region's name or group: what fits topic names everywhere. Throws PgError (22023).
void checkName(const char *what, const std::string &name);

// Sends an ordinary NOTICE or WARNING.
void notice(int level, const std::string &message, const std::string &detail = {}, const std::string &hint = {});

// Deferred to the end of the transaction; forgotten when it aborts.
void wakeAtCommit();												// coordinator and appliers
void registerAtCommit(const std::string &region, const std::string &group); // this database becomes a region

// The opposite: what this transaction makes, and no rollback takes back.
void dropSlotAtAbort(const std::string &slot);

} // namespace mrsync::api
