// SQL from C++, for everything that is not on the path of a row: text in, text out.
#pragma once

#include "pg/guard.h"

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

struct _SPI_plan;

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
uint64_t execute(const char *sql, const std::vector<Value> &parameters);

// The same for a statement that is run often: its plan is kept. Tables may be empty when it is made, and large later: so it is by indexes
// wherever there are some; and since all of them look alike where a table is empty, it is made anew after a second, and then ever more rarely.
class Statement
{
public:
	explicit Statement(std::string sql) : sql_(std::move(sql)) {}
	Statement(const Statement &) = delete;
	Statement &operator=(const Statement &) = delete;
	Rows query(std::initializer_list<Value> parameters = {});
	uint64_t execute(std::initializer_list<Value> parameters = {});

private:
	void renew();

	std::string sql_;
	_SPI_plan *plan_ = nullptr;
	int64_t madeAt_ = 0; // steadyNow()
	int64_t lifetime_ = kFirstLifetime;
	static constexpr int64_t kFirstLifetime = 1000000, kLongestLifetime = 64000000; // microseconds
};

// A plan that lives until it is freed; the caller is connected. types: of its parameters. Throws PgError.
_SPI_plan *prepare(const std::string &sql, const std::vector<Oid> &types);

} // namespace mrsync::spi
