// ChangeEvent <-> JSON.
//
// Writing runs once per changed row while the WAL is decoded, reading once per change and region: neither builds a
// tree. decode is where bytes from outside become a type: what it lets through, the applier may rely on without asking
// again (an INSERT has an after image, a position is not 0, a stamp is a timestamptz).
#include "core/codec.h"

#include "core/json.h"

#include <charconv>
#include <limits>
#include <type_traits>
#include <utility>

namespace mrsync
{
namespace
{

// ---- writing

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
		putJsonString(out, column.name);
		out += ':';
		if (column.value)
			putJsonString(out, *column.value);
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
		putJsonString(out, region);
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
	if (tx.resent)
	{
		out += ",\"resend\":{\"id\":";
		putPlain(out, toText(tx.resent->resend));
		out += ",\"part\":";
		putInteger(out, tx.resent->part);
		if (tx.step > 0)
		{
			out += ",\"step\":";
			putInteger(out, tx.step);
		}
		out += '}';
	}
	if (tx.seen)
	{
		out += ",\"seen\":";
		putSeen(out, *tx.seen);
	}
	out += tx.last ? ",\"last\":true}" : ",\"last\":false}";
}

// ---- reading

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
	putJsonString(out, text.substr(0, length));
	if (length < text.size())
		out += "...";
	return out;
}

[[noreturn]] void refuseKind(std::string_view field, const char *wanted, JsonKind found)
{
	refuse(field, std::string(wanted) + " expected, " + toText(found) + " found");
}

// An object and where it stands in the document, for messages.
class Reader
{
public:
	Reader(std::string_view text, std::string path) : path_(std::move(path)), members_(parse(text, path_)) {}

	const std::vector<JsonMember> &members() const { return members_; }

	[[noreturn]] void fail(std::string_view key, std::string_view what) const { refuse(pathOf(key), what); }

	const JsonValue *find(std::string_view key) const
	{
		for (const JsonMember &member : members_)
			if (member.key == key)
				return &member.value;
		return nullptr;
	}

	const JsonValue &require(std::string_view key) const
	{
		const JsonValue *value = find(key);
		if (value == nullptr)
			fail(key, "missing");
		return *value;
	}

	std::string text(std::string_view key) const { return stringOf(require(key, JsonKind::String, "a string")); }

	std::string name(std::string_view key) const
	{
		std::string name = text(key);
		if (name.empty())
			fail(key, "empty");
		return name;
	}

	template <typename Integer>
	Integer integer(std::string_view key, Integer min = std::numeric_limits<Integer>::min()) const
	{
		const JsonValue &value = require(key, JsonKind::Integer, "an integer");
		auto check = [&](auto number)
		{
			if (!number || std::cmp_less(*number, min) ||
			    std::cmp_greater(*number, std::numeric_limits<Integer>::max()))
				fail(key, "out of range: " + quoted(value.text));
			return static_cast<Integer>(*number);
		};
		if constexpr (std::is_unsigned_v<Integer>)
			return check(unsignedOf(value));
		else
			return check(integerOf(value));
	}

	bool boolean(std::string_view key) const { return require(key, JsonKind::Boolean, "a boolean").text == "true"; }

	Hlc hlc(std::string_view key) const
	{
		std::string value = text(key);
		std::optional<Hlc> hlc = parseHlc(value);
		if (!hlc)
			fail(key, "not a timestamp in UTC: " + quoted(value));
		return *hlc;
	}

	Uuid uuid(std::string_view key) const
	{
		std::string value = text(key);
		std::optional<Uuid> uuid = parseUuid(value);
		if (!uuid)
			fail(key, "not a UUID: " + quoted(value));
		return *uuid;
	}

	uint64_t lsn(std::string_view key) const
	{
		std::string value = text(key);
		const char *end = value.data() + value.size();
		uint32_t high = 0;
		uint32_t low = 0;
		auto first = std::from_chars(value.data(), end, high, 16);
		if (first.ec != std::errc() || first.ptr == end || *first.ptr != '/')
			fail(key, "not an LSN: " + quoted(value));
		auto second = std::from_chars(first.ptr + 1, end, low, 16);
		if (second.ec != std::errc() || second.ptr != end)
			fail(key, "not an LSN: " + quoted(value));
		return static_cast<uint64_t>(high) << 32 | low;
	}

	// An object within this one.
	Reader object(std::string_view key) const
	{
		return Reader(require(key, JsonKind::Object, "an object").text, pathOf(key));
	}

private:
	static std::vector<JsonMember> parse(std::string_view text, const std::string &path)
	{
		try
		{
			return parseJsonObject(text);
		}
		catch (JsonError &error)
		{
			refuse(path.empty() ? "event" : path, error.message);
		}
	}

	const JsonValue &require(std::string_view key, JsonKind kind, const char *wanted) const
	{
		const JsonValue &value = require(key);
		if (value.kind != kind)
			refuseKind(pathOf(key), wanted, value.kind);
		return value;
	}

	std::string pathOf(std::string_view key) const
	{
		std::string path = path_;
		if (!path.empty())
			path += '.';
		path += key;
		return path;
	}

	std::string path_; // "" for the event itself
	std::vector<JsonMember> members_;
};

Image imageOf(const Reader &object)
{
	Image image;
	image.reserve(object.members().size());
	for (const JsonMember &member : object.members())
	{
		if (member.value.kind == JsonKind::String)
			image.push_back({member.key, stringOf(member.value)});
		else if (member.value.kind == JsonKind::Null)
			image.push_back({member.key, std::nullopt});
		else
			object.fail(quoted(member.key),
			            std::string("a string or null expected, ") + toText(member.value.kind) + " found");
	}
	return image;
}

std::optional<Image> imageOrNull(const Reader &event, std::string_view key)
{
	if (event.require(key).kind == JsonKind::Null)
		return std::nullopt;
	return imageOf(event.object(key));
}

SeenVector seenOf(const Reader &object)
{
	SeenVector seen;
	for (const JsonMember &member : object.members())
	{
		Reader entry = object.object(member.key);
		seen.emplace(member.key, SeenEntry{entry.integer<uint64_t>("sequence"), entry.hlc("hlc")});
	}
	return seen;
}

Envelope envelopeOf(const Reader &object)
{
	// Before anything else: another version's fields need not look like ours.
	auto version = object.integer<int64_t>("version");
	if (version != kEventVersion)
		object.fail("version", "this mrsync reads version " + std::to_string(kEventVersion) +
		                           ", the event has version " + std::to_string(version));

	Envelope tx;
	tx.incarnation = object.integer<int64_t>("incarnation", 0);
	tx.sequence = object.integer<uint64_t>("sequence");
	tx.previous = object.integer<uint64_t>("previous");
	tx.commitLsn = object.lsn("lsn");
	tx.xid = object.integer<uint64_t>("xid");
	tx.schemaVersion = object.integer<int64_t>("schema_version", 0);
	tx.position = object.integer<uint32_t>("position", 1);
	if (object.find("resend") != nullptr)
	{
		Reader resend = object.object("resend");
		tx.resent = ResentPart{resend.uuid("id"), resend.integer<uint64_t>("part", 1)};
		if (resend.find("step") != nullptr)
			tx.step = resend.integer<uint32_t>("step", 1);
	}
	if (object.find("seen") != nullptr)
		tx.seen = seenOf(object.object("seen"));
	tx.last = object.boolean("last");
	return tx;
}

// What an operation cannot do without.
void checkShape(const ChangeEvent &event)
{
	bool writes = event.operation == Operation::Insert || event.operation == Operation::Update;
	if ((writes || event.operation == Operation::Delete) && !event.pk)
		refuse("row_pk", std::string("null, but the operation is ") + toText(event.operation));
	if (writes && !event.after)
		refuse("after_image", std::string("null, but the operation is ") + toText(event.operation));
}

ChangeEvent eventOf(const Reader &object)
{
	ChangeEvent event;
	event.tx = envelopeOf(object.object("transaction"));

	event.id = object.uuid("event_id");
	event.region = object.name("region_id");
	event.table = object.name("table_name");
	event.pk = imageOrNull(object, "row_pk");

	std::string name = object.text("operation");
	std::optional<Operation> operation = parseOperation(name);
	if (!operation)
		object.fail("operation", "unknown: " + quoted(name));
	event.operation = *operation;
	event.before = imageOrNull(object, "before_image");
	event.after = imageOrNull(object, "after_image");
	event.committedAt = object.hlc("committed_at").value;
	event.hlc = object.hlc("hlc_timestamp");
	checkShape(event);
	return event;
}

// Runs read over the text's object; path names the object in messages.
template <typename Result, typename Read>
std::variant<Result, DecodeError> reading(std::string_view json, const char *path, Read read)
{
	try
	{
		return read(Reader(json, path));
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
	putJsonString(out, event.region);
	out += ",\"table_name\":";
	putJsonString(out, event.table);
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
	return reading<ChangeEvent>(json, "", eventOf);
}

std::string encodeImage(const Image &image)
{
	std::string out;
	putImage(out, image);
	return out;
}

std::variant<Image, DecodeError> decodeImage(std::string_view json)
{
	return reading<Image>(json, "image", imageOf);
}

std::string encodeSeen(const SeenVector &seen)
{
	std::string out;
	putSeen(out, seen);
	return out;
}

std::variant<SeenVector, DecodeError> decodeSeen(std::string_view json)
{
	return reading<SeenVector>(json, "seen", seenOf);
}

} // namespace mrsync
