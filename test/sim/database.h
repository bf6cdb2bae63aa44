// What a region's PostgreSQL holds: rows with their versions, in the table or held aside, memories of deletions, and the
// bookkeeping of its links. Plain data, copied whole: the copy of the last flush is what a crash leaves behind.
#pragma once

#include "sim/history.h"
#include "sim/kafka.h"

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
	bool isExact = true; // false: it came by a resend, which says the version alone
};
using WriterPtr = std::shared_ptr<const Writer>;

struct Row
{
	LocalKind kind = LocalKind::Tombstone;
	Content content;
	WriterPtr writer; // the truth, for the checks
	// What the region can tell of it: the same, or nothing, where its commit timestamp is lost, but for a bound. Of several memories
	// of deletions the newest that is not lost.
	std::optional<Hlc> atMost = {};
	WriterPtr known = {};
	std::optional<Content> made = {}; // in the table in this form, as which it fits
	const Content &placed() const { return made ? *made : content; }
};

// What becomes of a row that another one excludes.
enum class Loser
{
	IsHeldAside,
	IsSetNull,
	IsNumbered, // it gets the next value, which others may have
};
std::optional<Content> makeFit(Loser loser, Content content);

class Store
{
public:
	explicit Store(Loser loser = Loser::IsHeldAside) : loser_(loser) {}

	// The row, in the table or aside, or the newest memory of its deletion.
	std::optional<Row> find(int key) const;

	// A user's statement: the database has made sure of the unique column.
	void put(int key, Content content, WriterPtr writer);
	void remove(int key, WriterPtr writer) { rows_[key] = {LocalKind::Tombstone, {}, std::move(writer)}; }
	void forget(int key) { rows_.erase(key); }

	// The versions of all that is here are not to be found any more; none of them is above the bound.
	void forgetVersions(Hlc bound);
	bool isKnown(int key) const;

	// Deletions stamped below are forgotten, but a truncation that rows aside may still be deleted by. Whoever looks for a
	// row does not find them any more; the simulation remembers them, to ask of everything that comes whether they would
	// have mattered.
	void prune(Hlc upTo);
	std::vector<WriterPtr> forgotten(int key) const;
	bool remembersDeletions(Hlc below) const;
	Hlc prunedUpTo() const { return prunedUpTo_; }

	// Everything, as a resend reads it: rows in the table, aside, deleted; and the newest truncation, or null.
	const std::map<int, Row> &all() const { return rows_; }
	const WriterPtr &truncation() const { return truncated_; }

	// The memory of a truncation; the rows themselves are removed one by one, by version.
	void rememberTruncation(WriterPtr writer);

	// ---- an applier: what excludes what is decided by core/exclusion.h

	enum class Rule
	{
		Version,
		Arrival, // who is there stays
	};
	void place(int key, Content content, WriterPtr writer, Rule rule);
	// Rows aside that a truncation here was above.
	void dropDeletedAside();
	// Rows that are not in the table as they were written, and not where they belong any more, the lowest first.
	std::vector<int> released(Rule rule) const;

	// As they were written; and as the table has them.
	std::map<int, Content> rows(LocalKind kind) const;
	std::map<int, Content> table() const;
	// The row in the table with this value of the unique column; another one than this key's.
	std::optional<int> rival(int key, int unique) const;

private:
	// Where a row belongs, the others being as they are.
	Row outcome(int key, Row row, Rule rule) const;

	Loser loser_;
	std::map<int, Row> rows_;
	WriterPtr truncated_; // of the newest truncation
	std::optional<Hlc> truncatedAtMost_;
	std::map<int, WriterPtr> forgotten_;
	WriterPtr forgottenTruncation_;
	Hlc prunedUpTo_;
};

// A transaction that was received and could not be applied; or an event of one, whose rest was.
struct Parked
{
	int source;
	std::vector<ChangeEvent> events;
	WriterPtr writer;
	int64_t retryAt;
	bool isRest = false; // it counts as applied: it is not received again
};

struct LinkPosition
{
	size_t offset = 0; // of the next record to read
	uint64_t made = 0; // of which topic of this name
	int64_t incarnation = 0;
	uint64_t sequence = 0;
};

// What a region knows of its having been set back (sim/recovery.h).
struct SetBack
{
	bool takesBack = false;  // its topic may hold what it does not have, before the first record of the incarnation it opened
	int64_t incarnation = 0; // that one
	bool owesResend = false;
};

// Sequences above the first, up to the second.
using SequenceRange = std::pair<uint64_t, uint64_t>;

struct Database
{
	Store store;
	uint32_t history = 1; // what its sequences begin with
	SetBack setBack;
	std::vector<LinkPosition> links;                // by source region; its own: how far it knows its own topic
	std::vector<std::vector<SequenceRange>> mended; // by source region: gaps that a resend has mended
	SeenVector seen;
	CausalPast past;
	size_t appliedEvents = 0; // length of the region's list of them
	std::vector<Parked> parked;
	std::vector<Hlc> applied;                            // watermarks, by source region
	std::map<std::pair<int, int>, Statement> statements; // by region, and origin
	std::vector<size_t> controlRead;                     // by region, how much of its control topic
	std::vector<int64_t> controlIncarnation;             // the newest there
};

} // namespace mrsync::sim
