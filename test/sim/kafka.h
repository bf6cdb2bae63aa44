// The cluster as regions see it: one log per region, which keeps the order of each producer session and promises no
// more when a session dies: what was under way may be lost from some record on, or land long after the next session
// began.
#pragma once

#include "sim/scheduler.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mrsync::sim
{

class Kafka
{
public:
	Kafka(const Scheduler &scheduler, int regions) : scheduler_(scheduler), topics_(static_cast<size_t>(regions)) {}

	std::vector<std::string> &topic(int region) { return topics_[static_cast<size_t>(region)]; }

	void outage(int64_t duration) { downUntil_ = std::max(downUntil_, scheduler_.now() + duration); }

	// Time until the cluster answers again; 0: it does.
	int64_t unavailableFor() const { return std::max<int64_t>(0, downUntil_ - scheduler_.now()); }

private:
	const Scheduler &scheduler_;
	std::vector<std::vector<std::string>> topics_;
	int64_t downUntil_ = 0;
};

} // namespace mrsync::sim
