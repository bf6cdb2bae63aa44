// What a region's PostgreSQL holds: rows with their versions, memories of deletions, and the bookkeeping of its links.
// Plain data, copied whole: the copy of the last flush is what a crash leaves behind.
#pragma once

#include "sim/history.h"
#include "sim/kafka.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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
	WriterPtr writer;
};

class Store
{
public:
	// The live row, or the newest memory of its deletion.
	std::optional<Row> find(int key) const;

	void put(int key, std::string value, WriterPtr writer) { rows_[key] = {true, std::move(value), std::move(writer)}; }
	void remove(int key, WriterPtr writer) { rows_[key] = {false, "", std::move(writer)}; }
	void forget(int key) { rows_.erase(key); }

	// Deletions stamped below are forgotten. Whoever looks for a row does not find them any more; the simulation remembers
	// them, to ask of everything that comes whether they would have mattered.
	void prune(Hlc upTo);
	std::vector<WriterPtr> forgotten(int key) const;
	bool remembersDeletions(Hlc below) const;

	// The memory of a truncation; the rows themselves are removed one by one, by version.
	void rememberTruncation(WriterPtr writer);

	std::map<int, std::string> liveRows() const;

private:
	std::map<int, Row> rows_;
	WriterPtr truncated_; // of the newest truncation
	std::map<int, WriterPtr> forgotten_;
	WriterPtr forgottenTruncation_;
};

// A transaction that was received and could not be applied.
struct Parked
{
	int source;
	std::vector<ChangeEvent> events;
	WriterPtr writer;
	int64_t retryAt;
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
	std::vector<Hlc> applied;                            // watermarks, by source region
	std::map<std::pair<int, int>, Statement> statements; // by region, and origin
	std::vector<size_t> controlRead;                     // by region, how much of its control topic
};

} // namespace mrsync::sim
