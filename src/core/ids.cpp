// UUIDs by SHA-1 (version 5) and by layout (version 7).
//
// Names are composed with the length before each part: two different lists of parts never give the same name, whatever
// characters regions, tables and keys are made of.
#include "core/ids.h"

#include "core/mutant.h"

#include <openssl/evp.h>

#include <cstring>
#include <stdexcept>

namespace mrsync
{
namespace
{

using Sha1 = std::array<uint8_t, 20>;

Sha1 sha1(std::string_view data)
{
	Sha1 digest;
	unsigned int length = 0;
	if (EVP_Digest(data.data(), data.size(), digest.data(), &length, EVP_sha1(), nullptr) != 1 ||
	    length != digest.size())
		throw std::runtime_error("libcrypto refuses SHA-1, which identities are made of");
	return digest;
}

// Drawn once at random; every version 5 id of ours hangs on it.
constexpr Uuid kNamespace{
    {0xca, 0xee, 0xfc, 0x40, 0xad, 0x32, 0x43, 0x6c, 0xa7, 0x66, 0x68, 0xfd, 0xc3, 0xee, 0x7e, 0xec}};

void addPart(std::string &name, std::string_view part)
{
	name += std::to_string(part.size());
	name += ':';
	name += part;
}

uint64_t hashRegion(std::string_view region)
{
	Sha1 digest = sha1(region);
	return (static_cast<uint64_t>(digest[0]) << 8 | digest[1]) >> 1;
}

// SHA-1 costs more than all the rest of an event id, and an extractor asks for one region all its life. Plain data, so
// that no destructor runs when a backend dies.
struct RegionCache
{
	char region[64];
	size_t length;
	uint64_t hash;
};

uint64_t regionBits(std::string_view region)
{
	thread_local RegionCache cache{};
	if (region.empty() || region.size() > sizeof(cache.region))
		return hashRegion(region);
	if (region.size() != cache.length || std::memcmp(cache.region, region.data(), region.size()) != 0)
	{
		cache.hash = hashRegion(region);
		std::memcpy(cache.region, region.data(), region.size());
		cache.length = region.size();
	}
	return cache.hash;
}

// Milliseconds since 1970, rounded down, as much as 48 bits hold (until the year 10889).
uint64_t unixMillis(Hlc hlc)
{
	constexpr int64_t millisFrom1970To2000 = 946684800000;
	int64_t millis = hlc.value / 1000 - (hlc.value % 1000 < 0 ? 1 : 0);
	return static_cast<uint64_t>(millis + millisFrom1970To2000) & 0xFFFFFFFFFFFF;
}

// Of an event id: where in its region's WAL, and which event there.
constexpr int indexBits = 26;
constexpr int placeBits = 33 + indexBits;
constexpr uint64_t placeMask = (uint64_t{1} << placeBits) - 1;

int hexDigit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool hyphenAt(size_t i)
{
	return i == 8 || i == 13 || i == 18 || i == 23;
}

} // namespace

std::string toText(const Uuid &uuid)
{
	std::string text(36, '-');
	size_t at = 0;
	for (uint8_t byte : uuid.bytes)
	{
		if (hyphenAt(at))
			++at;
		text[at++] = "0123456789abcdef"[byte >> 4];
		text[at++] = "0123456789abcdef"[byte & 15];
	}
	return text;
}

std::optional<Uuid> parseUuid(std::string_view text)
{
	if (text.size() != 36)
		return std::nullopt;
	Uuid uuid;
	size_t at = 0;
	for (uint8_t &byte : uuid.bytes)
	{
		if (hyphenAt(at) && text[at++] != '-')
			return std::nullopt;
		int high = hexDigit(text[at++]);
		int low = hexDigit(text[at++]);
		if (high < 0 || low < 0)
			return std::nullopt;
		byte = static_cast<uint8_t>(high << 4 | low);
	}
	return uuid;
}

Uuid nameId(const Uuid &nameSpace, std::string_view name)
{
	std::string input(reinterpret_cast<const char *>(nameSpace.bytes.data()), nameSpace.bytes.size());
	input += name;
	Sha1 digest = sha1(input);
	Uuid uuid;
	std::memcpy(uuid.bytes.data(), digest.data(), uuid.bytes.size());
	uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0F) | 0x50);
	uuid.bytes[8] = static_cast<uint8_t>((uuid.bytes[8] & 0x3F) | 0x80);
	return uuid;
}

Uuid eventIdFrom(Hlc hlc)
{
	Uuid uuid;
	for (size_t i = 0; i < 6; ++i)
		uuid.bytes[i] = static_cast<uint8_t>(unixMillis(hlc) >> (40 - 8 * i));
	return uuid;
}

Uuid eventIdBehind(const Uuid &id, uint64_t count)
{
	uint64_t low = 0;
	for (size_t i = 8; i < 16; ++i)
		low = low << 8 | id.bytes[i];
	low = (low & ~placeMask) | ((low + count) & placeMask);
	Uuid behind = id;
	for (size_t i = 0; i < 8; ++i)
		behind.bytes[8 + i] = static_cast<uint8_t>(low >> (56 - 8 * i));
	return behind;
}

Uuid eventId(Hlc hlc, std::string_view region, uint64_t commitLsn, uint64_t index)
{
	// The sum, not a concatenation: an index beyond its bits carries into the LSN's.
	uint64_t place = (((commitLsn >> 3) << indexBits) + index) & placeMask;
	uint64_t region15 = regionBits(region);

	// The 74 free bits are split 12 and 62 by the version's and the variant's places.
	uint64_t randA = region15 >> 3;
	uint64_t randB = (region15 & 7) << placeBits | place;
	uint64_t high = unixMillis(hlc) << 16 | uint64_t{7} << 12 | randA;
	uint64_t low = uint64_t{2} << 62 | randB;

	Uuid uuid;
	for (size_t i = 0; i < 8; ++i)
	{
		uuid.bytes[i] = static_cast<uint8_t>(high >> (56 - 8 * i));
		uuid.bytes[8 + i] = static_cast<uint8_t>(low >> (56 - 8 * i));
	}
	return uuid;
}

Uuid linkId(std::string_view group, std::string_view source, std::string_view target)
{
	std::string name = "link";
	addPart(name, group);
	addPart(name, source);
	addPart(name, target);
	return nameId(kNamespace, name);
}

Uuid conflictId(std::string_view table, std::string_view rowPk, Hlc hlcA, std::string_view regionA, Hlc hlcB,
                std::string_view regionB)
{
	// Which side was the incoming one depends on the region that looks; the order of the versions does not.
	bool swap = (hlcB != hlcA ? hlcB < hlcA : regionB < regionA) && !mutated("conflict_id_by_arrival");
	std::string name = "conflict";
	addPart(name, table);
	addPart(name, rowPk);
	addPart(name, std::to_string((swap ? hlcB : hlcA).value));
	addPart(name, swap ? regionB : regionA);
	addPart(name, std::to_string((swap ? hlcA : hlcB).value));
	addPart(name, swap ? regionA : regionB);
	return nameId(kNamespace, name);
}

Uuid stepId(std::string_view table, std::string_view rowPk, std::string_view column, Hlc hlc, std::string_view region)
{
	std::string name = "step";
	addPart(name, table);
	addPart(name, rowPk);
	addPart(name, column);
	addPart(name, std::to_string(hlc.value));
	addPart(name, region);
	return nameId(kNamespace, name);
}

} // namespace mrsync
