// A region that was set back: it came up with an older copy of its database, and has said more than the copy knows. At each
// start it first sends a fence to both its topics: a record of the new incarnation, behind which nothing older counts for
// anybody. When that has landed, it reads what it had sent, promised and acknowledged before. Where that is more than it
// has, it
//   - opens another history: a number that its sequences begin with, above every record in its topic; a slot that begins now,
//     so that what it has committed since the copy is a hole, a gap to its readers; a clock above all it had said;
//   - takes back what it lacks from its own topic, up to the fence (sim/applier.h);
//   - and when it has that, and its links have caught up once, sends everything again, which mends the gap.
// It promises nothing before it has looked. Users write before only where its clock is ahead of all it had said.
#pragma once

#include "sim/context.h"

namespace mrsync::sim
{

class Region;

class Recovery
{
public:
	Recovery(Context &context, Region &region) : context_(context), region_(region) {}

	void start();

	// The region knows whether it was set back.
	bool hasLooked() const { return looked_; }
	// It has everything that its topic had.
	bool isWhole() const;
	bool isDone() const;

private:
	struct Found
	{
		bool isSetBack = false;
		Hlc newest;            // of what the region had said
		uint64_t sequence = 0; // the highest
	};

	void look(uint64_t life);
	bool isFenced() const;
	Found read() const;
	void open(const Found &found);
	void turn(uint64_t life);

	Context &context_;
	Region &region_;
	uint64_t life_ = 0; // counts starts
	bool looked_ = false;
	bool resends_ = false;
};

} // namespace mrsync::sim
