// mrsync.resend: what a region has, rows and deletions with their versions, sent again in parts between which other
// commits go on; a mark says what it was. Lives as long as its steps are planned, and dies with its region.
#pragma once

#include "sim/context.h"

#include <functional>
#include <memory>
#include <vector>

namespace mrsync::sim
{

class Region;

class Resend : public std::enable_shared_from_this<Resend>
{
public:
	// from: what is at or below is left out. Reads everything now.
	Resend(Context &context, Region &region, Hlc from);

	// done: when the mark is written.
	void run(std::function<void()> done);

private:
	void next(int64_t within);
	void step();
	void part();
	void mark();

	Context &context_;
	Region &region_;
	uint64_t life_;
	Hlc from_;
	uint64_t covers_;
	int64_t pace_; // time between two parts, at most
	Uuid id_;
	std::vector<ChangeEvent> events_;
	size_t sent_ = 0;
	uint64_t parts_ = 0;
	std::function<void()> done_;
};

} // namespace mrsync::sim
