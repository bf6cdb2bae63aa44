// The coordinator of a region, as far as watermarks go: what it promises and acknowledges on its control topic, what it reads
// on the others', and what it forgets below the stable point (the real core/watermark).
#pragma once

#include "sim/context.h"

#include "core/watermark.h"

namespace mrsync::sim
{

class Region;

class Watermarks
{
public:
	Watermarks(Context &context, Region &region) : context_(context), region_(region) {}

	void start();

	// Like Extractor::fence, on the control topic.
	void fence();

private:
	void turn(uint64_t life);
	void say();
	void send(std::vector<Statement> statements);
	void read();
	void prune();

	Context &context_;
	Region &region_;
	uint64_t life_ = 0; // counts starts
	StablePoint stable_;
	int64_t lastLanding_ = 0;
};

} // namespace mrsync::sim
