// ChangeEvent <-> JSON.
//
// Writing appends by hand, for it runs once per changed row inside the WAL sender's loop. Reading goes through jansson,
// which refuses broken UTF-8, duplicate keys, embedded NULs and deep nesting, and keeps the order of an image's columns.
// decode is where bytes from outside become a type: what it lets through, the applier may rely on without asking again
// (an INSERT has an after image, a position is not 0, a stamp is a timestamptz).
#include "core/codec.h"

#include <jansson.h>

#include <array>
#include <charconv>
#include <limits>
#include <memory>
#include <utility>

namespace mrsync
{
namespace
{

// ---- writing

constexpr std::array<bool, 256> makeEscaped()
{
	std::array<bool, 256> escaped{};
	for (size_t c = 0; c < 0x20; ++c)
		escaped[c] = true;
	escaped['"'] = true;
	escaped['\\'] = true;
	return escaped;
}
constexpr std::array<bool, 256> kEscaped = makeEscaped();

void putEscape(std::string &out, char c)
{
	switch (c)
	{
	case '"':
		out += "\\\"";
		return;
	case '\\':
		out += "\\\\";
		return;
	case '\b':
		out += "\\b";
		return;
	case '\f':
		out += "\\f";
		return;
	case '\n':
		out += "\\n";
		return;
	case '\r':
		out += "\\r";
		return;
	case '\t':
		out += "\\t";
		return;
	default:
		out += "\\u00";
		out += "0123456789abcdef"[static_cast<unsigned char>(c) >> 4];
		out += "0123456789abcdef"[static_cast<unsigned char>(c) & 15];
	}
}

void putString(std::string &out, std::string_view text)
{
	out += '"';
	const char *run = text.data(); // what needs no escape is copied in runs
	const char *end = run + text.size();
	for (const char *at = run; at != end; ++at)
	{
		if (!kEscaped[static_cast<unsigned char>(*at)])
			continue;
		out.append(run, at);
		putEscape(out, *at);
		run = at + 1;
	}
	out.append(run, end);
	out += '"';
}

template <typename Integer> void putInteger(std::string &out, Integer value)
{
	char digits[24];
	out.append(digits, std::to_chars(digits, digits + sizeof(digits), value).ptr);
}

void putHex(std::string &out, uint64_t value)
{
	char digits[16];
	char *end = std::to_chars(digits, digits + sizeof(digits), value, 16).ptr;
	for (char *at = digits; at != end; ++at)
		out += *at >= 'a' ? static_cast<char>(*at - 'a' + 'A') : *at;
}

// Text of ours that needs no escape.
void putPlain(std::string &out, std::string_view text)
{
	out += '"';
	out += text;
	out += '"';
}

void putImage(std::string &out, const Image &image)
{
	char separator = '{';
	for (const Column &column : image)
	{
		out += separator;
		separator = ',';
		putString(out, column.name);
		out += ':';
		if (column.value)
			putString(out, *column.value);
		else
			out += "null";
	}
	if (image.empty())
		out += '{';
	out += '}';
}

void putImageOrNull(std::string &out, const std::optional<Image> &image)
{
	if (image)
		putImage(out, *image);
	else
		out += "null";
}

void putSeen(std::string &out, const SeenVector &seen)
{
	char separator = '{';
	for (const auto &[region, entry] : seen)
	{
		out += separator;
		separator = ',';
		putString(out, region);
		out += ":{\"sequence\":";
		putInteger(out, entry.sequence);
		out += ",\"hlc\":";
		putPlain(out, toText(entry.hlc));
		out += '}';
	}
	if (seen.empty())
		out += '{';
	out += '}';
}

void putEnvelope(std::string &out, const Envelope &tx)
{
	out += "{\"version\":";
	putInteger(out, kEventVersion);
	out += ",\"incarnation\":";
	putInteger(out, tx.incarnation);
	out += ",\"sequence\":";
	putInteger(out, tx.sequence);
	out += ",\"previous\":";
	putInteger(out, tx.previous);
	out += ",\"lsn\":\"";
	putHex(out, tx.commitLsn >> 32);
	out += '/';
	putHex(out, tx.commitLsn & 0xFFFFFFFF);
	out += "\",\"xid\":";
	putInteger(out, tx.xid);
	out += ",\"schema_version\":";
	putInteger(out, tx.schemaVersion);
	out += ",\"position\":";
	putInteger(out, tx.position);
	if (tx.seen)
	{
		out += ",\"seen\":";
		putSeen(out, *tx.seen);
	}
	out += tx.last ? ",\"last\":true}" : ",\"last\":false}";
}

// ---- reading

struct JsonDeleter
{
	void operator()(json_t *json) const { json_decref(json); }
};
using JsonPtr = std::unique_ptr<json_t, JsonDeleter>;

// Within this file a refusal travels as an exception, so that each reader says only what it wants; decode's callers get
// it as a value.
struct Refusal
{
	std::string message;
};

[[noreturn]] void refuse(std::string_view field, std::string_view what)
{
	std::string message(field);
	message += ": ";
	message += what;
	throw Refusal{std::move(message)};
}

std::string_view textOf(const json_t *json)
{
	return {json_string_value(json), json_string_length(json)};
}

// A piece of what was refused, cut between characters: the message goes into tables and logs that want valid UTF-8.
std::string quoted(std::string_view text)
{
	constexpr size_t most = 64;
	size_t length = text.size();
	if (length > most)
	{
		length = most;
		while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80)
			--length;
	}
	std::string out;
	putString(out, text.substr(0, length));
	if (length < text.size())
		out += "...";
	return out;
}

const char *typeName(const json_t *json)
{
	switch (json_typeof(json))
	{
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		return "null";
	}
	return "something unknown";
}

// A named place in the document: what to read, and what to call it when it cannot be read.
struct Field
{
	std::string_view parent; // "" for the event itself
	const char *key;

	std::string path() const
	{
		std::string text(parent);
		if (!text.empty())
			text += '.';
		text += key;
		return text;
	}
	[[noreturn]] void fail(std::string_view what) const { refuse(path(), what); }
	[[noreturn]] void expected(const char *wanted, const json_t *found) const
	{
		fail(std::string(wanted) + " expected, " + typeName(found) + " found");
	}
};

json_t *require(const json_t *object, const Field &field)
{
	json_t *value = json_object_get(object, field.key);
	if (value == nullptr)
		field.fail("missing");
	return value;
}

std::string_view readText(const json_t *object, const Field &field)
{
	const json_t *value = require(object, field);
	if (!json_is_string(value))
		field.expected("a string", value);
	return textOf(value);
}

std::string readName(const json_t *object, const Field &field)
{
	std::string_view text = readText(object, field);
	if (text.empty())
		field.fail("empty");
	return std::string(text);
}

template <typename Integer>
Integer readInteger(const json_t *object, const Field &field, Integer min = std::numeric_limits<Integer>::min())
{
	const json_t *value = require(object, field);
	if (!json_is_integer(value))
		field.expected("an integer", value);
	json_int_t number = json_integer_value(value);
	if (std::cmp_less(number, min) || std::cmp_greater(number, std::numeric_limits<Integer>::max()))
		field.fail("out of range: " + std::to_string(number));
	return static_cast<Integer>(number);
}

Hlc readHlc(const json_t *object, const Field &field)
{
	std::string_view text = readText(object, field);
	std::optional<Hlc> hlc = parseHlc(text);
	if (!hlc)
		field.fail("not a timestamp in UTC: " + quoted(text));
	return *hlc;
}

bool readBoolean(const json_t *object, const Field &field)
{
	const json_t *value = require(object, field);
	if (!json_is_boolean(value))
		field.expected("a boolean", value);
	return json_is_true(value);
}

uint64_t readLsn(const json_t *object, const Field &field)
{
	std::string_view text = readText(object, field);
	const char *end = text.data() + text.size();
	uint32_t high = 0;
	uint32_t low = 0;
	auto first = std::from_chars(text.data(), end, high, 16);
	if (first.ec != std::errc() || first.ptr == end || *first.ptr != '/')
		field.fail("not an LSN: " + quoted(text));
	auto second = std::from_chars(first.ptr + 1, end, low, 16);
	if (second.ec != std::errc() || second.ptr != end)
		field.fail("not an LSN: " + quoted(text));
	return static_cast<uint64_t>(high) << 32 | low;
}

Image readImage(json_t *object, std::string_view path)
{
	if (!json_is_object(object))
		refuse(path, std::string("an object expected, ") + typeName(object) + " found");
	Image image;
	image.reserve(json_object_size(object));
	const char *name = nullptr;
	json_t *value = nullptr;
	json_object_foreach(object, name, value)
	{
		if (json_is_string(value))
			image.push_back({name, std::string(textOf(value))});
		else if (json_is_null(value))
			image.push_back({name, std::nullopt});
		else
			refuse(std::string(path) + "." + quoted(name),
				   std::string("a string or null expected, ") + typeName(value) + " found");
	}
	return image;
}

std::optional<Image> readImageOrNull(const json_t *object, const Field &field)
{
	json_t *value = require(object, field);
	if (json_is_null(value))
		return std::nullopt;
	return readImage(value, field.key);
}

SeenVector readSeen(json_t *object, std::string_view path)
{
	if (!json_is_object(object))
		refuse(path, std::string("an object expected, ") + typeName(object) + " found");
	SeenVector seen;
	const char *region = nullptr;
	json_t *value = nullptr;
	json_object_foreach(object, region, value)
	{
		std::string entryPath = std::string(path) + "." + quoted(region);
		if (!json_is_object(value))
			refuse(entryPath, std::string("an object expected, ") + typeName(value) + " found");
		SeenEntry entry;
		entry.sequence = readInteger<uint64_t>(value, {entryPath, "sequence"});
		entry.hlc = readHlc(value, {entryPath, "hlc"});
		seen.emplace(region, entry);
	}
	return seen;
}

Envelope readEnvelope(const json_t *event)
{
	constexpr const char *name = "transaction";
	const json_t *object = require(event, {"", name});
	if (!json_is_object(object))
		Field{"", name}.expected("an object", object);

	// Before anything else: another version's fields need not look like ours.
	Field versionField{name, "version"};
	auto version = readInteger<int64_t>(object, versionField);
	if (version != kEventVersion)
		versionField.fail("this mrsync reads version " + std::to_string(kEventVersion) + ", the event has version " +
						  std::to_string(version));

	Envelope tx;
	tx.incarnation = readInteger<int64_t>(object, {name, "incarnation"}, 0);
	tx.sequence = readInteger<uint64_t>(object, {name, "sequence"});
	tx.previous = readInteger<uint64_t>(object, {name, "previous"});
	tx.commitLsn = readLsn(object, {name, "lsn"});
	tx.xid = readInteger<uint64_t>(object, {name, "xid"});
	tx.schemaVersion = readInteger<int64_t>(object, {name, "schema_version"}, 0);
	tx.position = readInteger<uint32_t>(object, {name, "position"}, 1);
	if (json_t *seen = json_object_get(object, "seen"); seen != nullptr)
		tx.seen = readSeen(seen, "transaction.seen");
	tx.last = readBoolean(object, {name, "last"});
	return tx;
}

// What an operation cannot do without.
void checkShape(const ChangeEvent &event)
{
	bool insertsOrUpdates = event.operation == Operation::Insert || event.operation == Operation::Update;
	if ((insertsOrUpdates || event.operation == Operation::Delete) && !event.pk)
		refuse("row_pk", std::string("null in the event of an ") + toText(event.operation));
	if (insertsOrUpdates && !event.after)
		refuse("after_image", std::string("null in the event of an ") + toText(event.operation));
}

ChangeEvent readEvent(json_t *object)
{
	if (!json_is_object(object))
		refuse("event", std::string("an object expected, ") + typeName(object) + " found");

	ChangeEvent event;
	event.tx = readEnvelope(object);

	std::string_view id = readText(object, {"", "event_id"});
	std::optional<Uuid> uuid = parseUuid(id);
	if (!uuid)
		refuse("event_id", "not a UUID: " + quoted(id));
	event.id = *uuid;
	event.region = readName(object, {"", "region_id"});
	event.table = readName(object, {"", "table_name"});
	event.pk = readImageOrNull(object, {"", "row_pk"});

	std::string_view op = readText(object, {"", "operation"});
	std::optional<Operation> operation = parseOperation(op);
	if (!operation)
		refuse("operation", "unknown: " + quoted(op));
	event.operation = *operation;
	event.before = readImageOrNull(object, {"", "before_image"});
	event.after = readImageOrNull(object, {"", "after_image"});
	event.committedAt = readHlc(object, {"", "committed_at"}).value;
	event.hlc = readHlc(object, {"", "hlc_timestamp"});
	checkShape(event);
	return event;
}

JsonPtr parse(std::string_view json)
{
	json_error_t error;
	JsonPtr root(json_loadb(json.data(), json.size(), JSON_REJECT_DUPLICATES, &error));
	if (root != nullptr)
		return root;

	// jansson quotes the input, and may cut a character in two.
	std::string text(error.text);
	for (char &c : text)
		if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7E)
			c = '?';
	refuse("not JSON", text + " (byte " + std::to_string(error.position) + ")");
}

template <typename Result, typename Reader>
std::variant<Result, DecodeError> reading(std::string_view json, Reader reader)
{
	try
	{
		JsonPtr root = parse(json);
		return reader(root.get());
	}
	catch (Refusal &refusal)
	{
		return DecodeError{std::move(refusal.message)};
	}
}

} // namespace

void encode(const ChangeEvent &event, std::string &out)
{
	out += "{\"event_id\":";
	putPlain(out, toText(event.id));
	out += ",\"region_id\":";
	putString(out, event.region);
	out += ",\"table_name\":";
	putString(out, event.table);
	out += ",\"row_pk\":";
	putImageOrNull(out, event.pk);
	out += ",\"operation\":";
	putPlain(out, toText(event.operation));
	out += ",\"before_image\":";
	putImageOrNull(out, event.before);
	out += ",\"after_image\":";
	putImageOrNull(out, event.after);
	out += ",\"committed_at\":";
	putPlain(out, toText(Hlc{event.committedAt}));
	out += ",\"hlc_timestamp\":";
	putPlain(out, toText(event.hlc));
	out += ",\"transaction\":";
	putEnvelope(out, event.tx);
	out += '}';
}

void markLast(std::string &encoded)
{
	constexpr std::string_view open = "false}}";
	if (encoded.ends_with(open))
		encoded.replace(encoded.size() - open.size(), open.size(), "true}}");
}

std::variant<ChangeEvent, DecodeError> decode(std::string_view json)
{
	return reading<ChangeEvent>(json, [](json_t *root) { return readEvent(root); });
}

std::string encodeImage(const Image &image)
{
	std::string out;
	putImage(out, image);
	return out;
}

std::variant<Image, DecodeError> decodeImage(std::string_view json)
{
	return reading<Image>(json, [](json_t *root) { return readImage(root, "image"); });
}

std::string encodeSeen(const SeenVector &seen)
{
	std::string out;
	putSeen(out, seen);
	return out;
}

std::variant<SeenVector, DecodeError> decodeSeen(std::string_view json)
{
	return reading<SeenVector>(json, [](json_t *root) { return readSeen(root, "seen"); });
}

} // namespace mrsync
