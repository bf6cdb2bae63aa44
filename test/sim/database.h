// What a region's PostgreSQL holds: rows with their versions, in the table or held aside, memories of deletions, and the
// bookkeeping of its links. Plain data, copied whole: the copy of the last flush is what a crash leaves behind.
#pragma once

#include "sim/history.h"

#include <functional>
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
	LocalKind kind = LocalKind::Tombstone;
	Content content;
	WriterPtr writer;
};

class Store
{
public:
	// The row, in the table or aside, or the newest memory of its deletion.
	std::optional<Row> find(int key) const;

	// A user's statement: the database has made sure of the unique column.
	void put(int key, Content content, WriterPtr writer);
	void remove(int key, WriterPtr writer) { rows_[key] = {LocalKind::Tombstone, {}, std::move(writer)}; }
	void forget(int key) { rows_.erase(key); }

	// The memory of a truncation; the rows themselves are removed one by one, by version.
	void rememberTruncation(WriterPtr writer);

	// ---- an applier: what excludes what is decided by core/exclusion.h

	enum class Rule
	{
		Version,
		Arrival, // who is there stays
	};
	void place(int key, Content content, WriterPtr writer, Rule rule);
	// Rows aside that have no holder in the table, the lowest first.
	std::vector<int> released(Rule rule) const;

	std::map<int, Content> rows(LocalKind kind) const;
	// The row in the table with this value of the unique column; another one than this key's.
	std::optional<int> rival(int key, int unique) const;

private:
	std::map<int, Row> rows_;
	WriterPtr truncated_; // of the newest truncation
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
};

} // namespace mrsync::sim
