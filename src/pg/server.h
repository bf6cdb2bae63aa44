// The one door to PostgreSQL's headers: C++ standard headers first (c.h redefines printf, Min, Max …), the server's in
// extern "C", then the macros that do not compile as C++ are replaced.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

extern "C"
{
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

// These use __builtin_types_compatible_p, or a cast that C++ refuses.
#undef AssertVariableIsOfType
#define AssertVariableIsOfType(varname, typename) ((void)0)
#undef AssertVariableIsOfTypeMacro
#define AssertVariableIsOfTypeMacro(varname, typename) ((void)0)
#undef unconstify
#define unconstify(underlying_type, expr) const_cast<underlying_type>(expr)

#include "pg/version.h"
