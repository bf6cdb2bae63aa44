// ChangeEvent <-> JSON. Decoding is total: no input crashes it, every refusal says what was wrong.
//
// One line, keys in the order of docs/events.md:
//   {"event_id":"…","region_id":"…","table_name":"…","row_pk":{"id":"1"}|null,"operation":"UPDATE",
//    "before_image":{…}|null,"after_image":{…}|null,"committed_at":"2026-11-23 08:11:00.123456Z",
//    "hlc_timestamp":"2026-11-23 08:11:00.123456Z",
//    "transaction":{"version":1,"incarnation":1,"sequence":1,"previous":0,"lsn":"0/16B3748","xid":745,
//                   "schema_version":0,"position":1,"seen":{"eu":{"sequence":9,"hlc":"…"}},"last":true}}
// "seen" is there on the first event of a transaction only, "resend":{"id":"…","part":1} before it on what is sent again.
// "last" is always the last key, so that the writer can
// settle it when the transaction's end is known (markLast).
#pragma once

#include "core/event.h"

#include <string>
#include <string_view>
#include <variant>

namespace mrsync
{

constexpr int kEventVersion = 1;

// Appends the JSON of the event to out.
void encode(const ChangeEvent &event, std::string &out);

// Turns an encoded event whose envelope says "last":false into one that says true.
void markLast(std::string &encoded);

struct DecodeError
{
	std::string message; // what was wrong, and where
};
std::variant<ChangeEvent, DecodeError> decode(std::string_view json);

// The JSON object of an image alone, as in row_pk: {"id":"1","name":null}. The text is canonical: the same columns and
// values give the same bytes.
std::string encodeImage(const Image &image);
std::variant<Image, DecodeError> decodeImage(std::string_view json);

// {"eu":{"sequence":9,"hlc":"…"}}
std::string encodeSeen(const SeenVector &seen);
std::variant<SeenVector, DecodeError> decodeSeen(std::string_view json);

} // namespace mrsync
