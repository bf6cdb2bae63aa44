// Rows that exclude each other: by a unique key besides the primary one, or by an exclusion constraint.
//
// Each row by itself is the fold of its events; whether two rows fit into one table is a question that no fold of one row
// answers (I13). The rule: of rows that exclude each other the one with the higher version is in the table, and the others
// are held aside, with their versions and images. So from the highest version down each row is in the table if no row above
// it that is in the table excludes it. There is one such table, whatever came first; and it is reached by steps that look at
// one row each, as long as two things hold after each of them:
//   - no two rows in the table exclude each other (the database sees to that), and
//   - whatever is held aside, a row in the table with a higher version excludes it. Whenever such a holder leaves the
//     table or changes, what it held is tried again.
// Relied on by: the applier (worker/apply.cpp), the simulation, and the exhaustive test of both.
#pragma once

#include "core/resolver.h"

#include <string>
#include <vector>

namespace mrsync
{

// What a row can say for itself. Rows of one transaction share a version; where their region let both stand and this one
// does not, the key decides, so that it is the same everywhere.
struct Claim
{
	Version version;
	std::string key;
	auto operator<=>(const Claim &) const = default;
};

struct Placement
{
	bool inTable = true;
	size_t holder = 0; // if not in the table: which of the rivals is the highest
};

// A row that is to be written, and all rows in the table that exclude it. In the table: its rivals are taken out of it and
// held aside.
Placement place(const Claim &row, const std::vector<Claim> &rivals);

} // namespace mrsync
