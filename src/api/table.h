// Replicated tables: what table.cpp, fitness.cpp and ddl.cpp have in common.
#pragma once

#include "pg/guard.h"
#include "pg/spi.h"

namespace mrsync::api
{

// A table that cannot be replicated as it is; table_add_all turns it into a NOTICE.
class Refused : public PgError
{
public:
	explicit Refused(PgError &&error) : PgError(std::move(error)) {}
};

// Everything that must hold for a replicated table; throws Refused.
void tableCheck(Oid relation);
// Of that what its kind says, before it is locked: not every kind may be.
void tableCheckKind(Oid relation, const std::string &name);
[[noreturn]] void refuse(int sqlState, const std::string &message, const std::string &detail, const std::string &hint);

// Against writers and each other, with all partitions.
void lockTree(Oid relation);
// Brings a replicated table and its partitions into the state that they must have. The table is locked. Throws PgError.
void tableSync(Oid root);
// Workers and backends read what they know of a table and its partitions anew, from the commit on. Throws PgError.
void invalidateTree(Oid relation);
// Whoever asks has made sure of the rights. Throws PgError.
void tableRemoveUnchecked(Oid relation);

// Throws Refused (42501). Before any lock is taken: who may not alter a table may not lock it either.
void requireOwner(Oid relation);

// As it is written in SQL, and in messages.
std::string tableName(Oid relation);
// A hint.
std::string removeFirst(const std::string &table);

inline std::string oidText(Oid oid) { return std::to_string(oid); }
inline Oid toOid(const spi::Value &value) { return static_cast<Oid>(std::stoul(*value)); }

} // namespace mrsync::api
