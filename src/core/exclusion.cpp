#include "core/exclusion.h"

#include "core/mutant.h"

#include <algorithm>

namespace mrsync
{

Placement place(const Claim &row, const std::vector<Claim> &rivals)
{
	auto highest = std::max_element(rivals.begin(), rivals.end());
	if (highest == rivals.end() || (*highest < row && !mutated("first_stays")))
		return {};
	return {false, static_cast<size_t>(highest - rivals.begin())};
}

} // namespace mrsync
