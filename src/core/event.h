// The ChangeEvent: what one row change is to the rest of the world, and the envelope of its transaction.
// Plain data; docs/events.md and docs/event.schema.json describe the same thing for consumers.
#pragma once

#include "core/hlc.h"
#include "core/ids.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mrsync
{

enum class Operation
{
	Insert,
	Update,
	Delete,
	Truncate,
	Ddl
};

const char *toText(Operation op); // "INSERT", ...
std::optional<Operation> parseOperation(std::string_view text);

// A column's value is the text of its type's output function under fixed settings (docs/events.md), or no value: NULL.
struct Column
{
	std::string name;
	std::optional<std::string> value;
	bool operator==(const Column &) const = default;
};
using Image = std::vector<Column>; // in the table's column order

// How far the writing region had applied another region when it committed: the last sequence, and the highest HLC up to
// it.
struct SeenEntry
{
	uint64_t sequence = 0;
	Hlc hlc;
	bool operator==(const SeenEntry &) const = default;
};
using SeenVector = std::map<std::string, SeenEntry, std::less<>>;

// What a region sends again (mrsync.resend) comes in parts: of which resend, and which part of it (1, 2, …).
struct ResentPart
{
	Uuid resend;
	uint64_t part = 0;
	bool operator==(const ResentPart &) const = default;
};

// A position in a region's total order of commits is its sequence: (number << 48) | commit LSN, where the number is that of
// the history (pg/history.h): the timeline, in the ordinary case. It grows along the region's history, is a pure function of
// the WAL, and stays below 2^53 (exact in every JSON reader) up to number 31.
constexpr uint64_t sequenceAt(uint32_t number, uint64_t lsn) { return static_cast<uint64_t>(number) << 48 | lsn; }

struct Envelope
{
	int64_t incarnation = 0; // which start of the extractor produced this record; 0 outside of Kafka
	uint64_t sequence = 0;
	uint64_t previous = 0; // sequence of the region's previous transaction; 0: not known or none
	uint64_t commitLsn = 0;
	uint64_t xid = 0; // xid8 of the source
	int64_t schemaVersion = 0;
	uint32_t position = 1; // 1-based, within the transaction and topic
	bool last = false;
	std::optional<SeenVector> seen; // on the transaction's first event only
	// Rows as they are, and deletions, each with the version that it has: region and hlc are of who wrote it, and may differ
	// from event to event. Order does not matter.
	std::optional<ResentPart> resent;
	// Of a resent event: 0: how the row is, or that it is deleted. Else an event of the row's history: which one (1, 2, …) of its
	// transaction's on that row. Those of a row are in their order.
	uint32_t step = 0;
	bool operator==(const Envelope &) const = default;
};

struct ChangeEvent
{
	Uuid id;
	std::string region;
	std::string table; // schema-qualified, each part quoted where SQL asks for it
	std::optional<Image> pk;
	Operation operation = Operation::Insert;
	std::optional<Image> before;
	std::optional<Image> after;
	int64_t committedAt = 0; // microseconds since 2000-01-01 UTC, by the source's physical clock
	Hlc hlc;
	Envelope tx;
	bool operator==(const ChangeEvent &) const = default;
};

} // namespace mrsync
