// Writes what arrives into a region's rows: waits for writers in progress, asks the real resolver, and does what it says.
#pragma once

#include "sim/context.h"
#include "sim/database.h"

#include <vector>

namespace mrsync::sim
{

class Region;

class Apply
{
public:
	Apply(Context &context, Region &region) : context_(context), region_(region) {}

	// Does somebody hold what these events will write? writers: for a truncation, those who may not have seen its stamp.
	bool mustWait(const std::vector<ChangeEvent> &events, const std::vector<uint64_t> &writers) const;

	// What was applied before is passed over. What cannot be decided is parked.
	void transaction(int source, const std::vector<ChangeEvent> &events, const WriterPtr &writer);
	// An event that was parked. False: it cannot be decided yet.
	bool again(const ChangeEvent &event, const WriterPtr &writer);

	// What was sent again: each with its own version.
	void resent(const std::vector<ChangeEvent> &events);

private:
	bool event(const ChangeEvent &event, const WriterPtr &writer);
	bool row(const ChangeEvent &event, const WriterPtr &writer);
	bool truncation(const WriterPtr &writer);
	Decision decide(int key, const std::optional<Row> &row, Operation op, const WriterPtr &by) const;
	bool saw(const Writer &later, const Writer &earlier) const;
	static bool waitsFor(const ChangeEvent &event, const ChangeEvent &parked);
	void requireUnforgotten(int key, const Writer &incoming) const;
	void remove(int key, const WriterPtr &writer);

	Context &context_;
	Region &region_;
};

} // namespace mrsync::sim
