// SQL from C++, for everything that is not on the path of a row: text in, text out.
#pragma once

#include "pg/guard.h"

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

namespace mrsync::spi
{

using Value = std::optional<std::string>; // no value: NULL
using Row = std::vector<Value>;
using Rows = std::vector<Row>;

// Runs one statement with parameters $1, $2 … of type text (cast them in the SQL: $1::uuid) inside the current
// transaction, with a new snapshot, and returns what it returns. search_path is the caller's affair: qualify names.
// Throws PgError.
Rows query(const char *sql, std::initializer_list<Value> parameters = {});

// The number of rows affected.
uint64_t execute(const char *sql, std::initializer_list<Value> parameters = {});

} // namespace mrsync::spi
