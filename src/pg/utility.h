// What mrsync has to do before and after commands that fire no other hook.
#pragma once

#include "pg/server.h"

namespace mrsync
{

// Called by _PG_init.
void utilityInit();

// The command id at which the ALTER TABLE that is running began: what has a lower one is how things were before it.
CommandId alterTableBegan();

} // namespace mrsync
