// Identities that every region computes alike.
//
// event ids are RFC 9562 version 7, a pure function of the WAL: decoding again yields the same ids (dedup relies on
// it, I2). Layout of the 74 bits that version 7 leaves free, most significant first:
//   15 bits of a hash of the region | 33 bits of the commit LSN in units of 8 bytes | 26 bits of the event's index.
// Within a region two transactions of the same millisecond cannot lie 64 GB of WAL apart; within a transaction ids are
// ordered by index (an index beyond 26 bits carries into the LSN's bits, into the room that the commit record leaves).
// Other ids are version 5 (a name in a namespace of ours).
#pragma once

#include "core/hlc.h"

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mrsync
{

struct Uuid
{
	std::array<uint8_t, 16> bytes{};
	auto operator<=>(const Uuid &) const = default;
};

std::string toText(const Uuid &uuid);					 // lower-case, with hyphens
std::optional<Uuid> parseUuid(std::string_view text); // hyphenated 36 characters, either case

// RFC 9562 version 5: the SHA-1 of a name within a namespace.
Uuid nameId(const Uuid &nameSpace, std::string_view name);

// index: 0-based position of the event in its transaction.
Uuid eventId(Hlc hlc, std::string_view region, uint64_t commitLsn, uint64_t index);
// The lowest that an event of any region stamped in this millisecond can have.
Uuid eventIdFrom(Hlc hlc);
// Of the event that comes so many behind this one, in its transaction.
Uuid eventIdBehind(const Uuid &id, uint64_t count);

// The same link has the same id in whichever region it is created.
Uuid linkId(std::string_view group, std::string_view source, std::string_view target);

// The same conflict has the same id in every region, whichever side was the incoming one.
Uuid conflictId(std::string_view table, std::string_view rowPk, Hlc hlcA, std::string_view regionA, Hlc hlcB,
				std::string_view regionB);

// What becomes of a column when an event is merged into a row; column "": of the row.
Uuid stepId(std::string_view table, std::string_view rowPk, std::string_view column, Hlc hlc, std::string_view region);

} // namespace mrsync
