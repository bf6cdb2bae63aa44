// The table that was added; what is written may be a partition of it.
#pragma once

#include "pg/server.h"

namespace mrsync
{

struct RootTable
{
	std::string name; // as events have it
	Oid rowType = InvalidOid;
	Oid owner = InvalidOid; // who has chosen the functions of its rules
};

} // namespace mrsync
