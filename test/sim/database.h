// What a region's PostgreSQL holds: rows with their versions, memories of deletions, and the bookkeeping of its links.
// Plain data, copied whole: the copy of the last flush is what a crash leaves behind.
#pragma once

#include "sim/history.h"

#include <map>
#include <memory>
#include <optional>
#include <string>

namespace mrsync::sim
{

// The transaction that wrote a version, as far as a region can know it.
struct Writer
{
	Version version;
	uint64_t sequence = 0;
	SeenVector seen;
};
using WriterPtr = std::shared_ptr<const Writer>;

struct Row
{
	bool live = false; // otherwise the memory of a deletion
	std::string value;
	WriterPtr writer; // the truth, for the checks
	WriterPtr known;  // what the region can tell of it: the same; or of several memories the newest that is not forgotten
	std::optional<Hlc> atMost; // the version is forgotten, but for this bound
};

// An event that could not be decided, and waits.
struct Parked
{
	int source = 0;
	ChangeEvent event;
	WriterPtr writer;
};

class Store
{
public:
	// The live row, or the newest memory of its deletion.
	std::optional<Row> find(int key) const;

	void put(int key, std::string value, WriterPtr writer) { rows_[key] = {true, std::move(value), writer, writer, {}}; }
	void remove(int key, WriterPtr writer) { rows_[key] = {false, "", writer, writer, {}}; }
	void forget(int key) { rows_.erase(key); }

	// The versions of all that is here are not to be found any more; none of them is above the bound.
	void forgetVersions(Hlc bound);

	// The memory of a truncation; the rows themselves are removed one by one, by version.
	void rememberTruncation(WriterPtr writer);

	std::map<int, std::string> liveRows() const;

private:
	std::map<int, Row> rows_;
	std::optional<Row> truncated_; // the memory of the newest truncation
};

struct LinkPosition
{
	size_t offset = 0; // of the next record to read
	int64_t incarnation = 0;
	uint64_t sequence = 0;
};

struct Database
{
	Store store;
	std::vector<LinkPosition> links; // by source region
	SeenVector seen;
	CausalPast past;
	size_t appliedEvents = 0; // length of the region's list of them
	std::vector<Parked> parked;
};

} // namespace mrsync::sim
