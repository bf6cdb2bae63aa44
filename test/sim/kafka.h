// The cluster as regions see it: one log per region, which keeps the order of each producer session and promises no
// more when a session dies: what was under way may be lost from some record on, or land long after the next session
// began.
#pragma once

#include "sim/scheduler.h"

#include "core/hlc.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mrsync::sim
{

// What a region says of itself on its control topic.
struct Statement
{
	int origin;        // with whose events; its own: its promise
	Hlc watermark;     // zero: none
	uint64_t sequence; // that the promise speaks of
	Hlc saidAt;
	int64_t incarnation; // of the extractor that sent it: behind a newer one's it does not count
};

struct Topic
{
	std::vector<std::string> records; // an offset is an index
	size_t begin = 0;                 // what stands before is past its retention
	uint64_t made = 0;                // how often it was made anew, so that offsets began again
};

class Kafka
{
public:
	Kafka(const Scheduler &scheduler, int regions)
	    : scheduler_(scheduler), topics_(static_cast<size_t>(regions)), control_(static_cast<size_t>(regions))
	{
	}

	Topic &topic(int region) { return topics_[static_cast<size_t>(region)]; }
	std::vector<Statement> &control(int region) { return control_[static_cast<size_t>(region)]; }

	void expire(int region, size_t upTo) { topic(region).begin = std::max(topic(region).begin, upTo); }
	void makeAnew(int region) { topic(region) = Topic{{}, 0, topic(region).made + 1}; }

	void outage(int64_t duration) { downUntil_ = std::max(downUntil_, scheduler_.now() + duration); }

	// Time until the cluster answers again; 0: it does.
	int64_t unavailableFor() const { return std::max<int64_t>(0, downUntil_ - scheduler_.now()); }

private:
	const Scheduler &scheduler_;
	std::vector<Topic> topics_;
	std::vector<std::vector<Statement>> control_;
	int64_t downUntil_ = 0;
};

} // namespace mrsync::sim
