// The hybrid logical clock: one int64 on the microsecond scale of timestamptz.
//
// Invariants: a clock never goes back; of two stamps of one clock the later is the larger; a stamp taken after
// adopt(x) is larger than x. Relied on by I5 (causality) and I11 (local dominance): a write stamped at or below a
// version it overwrote would lose everywhere else to the very row it replaced.
//
// Time is a parameter: nothing here asks the machine what time it is.
#pragma once

#include <algorithm>
#include <atomic>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mrsync
{

// Microseconds since 2000-01-01 00:00:00 UTC. Zero is "no stamp".
struct Hlc
{
	int64_t value = 0;
	auto operator<=>(const Hlc &) const = default;
};

// The range of both the text form and timestamptz: years 1 to 294276 of our era.
constexpr int64_t kHlcMin = -63082281600000000;	  // 0001-01-01
constexpr int64_t kHlcMax = 9223371331200000000 - 1; // below timestamptz's end

// "2026-11-23 08:11:00.123456Z": always UTC, always six digits, so that it sorts as text within four-digit years.
std::string toText(Hlc hlc);

// Accepts the text form (with ' ' or 'T', one to six digits of fraction or none) and a plain integer of microseconds.
// Empty when the text is neither, or out of range.
std::optional<Hlc> parseHlc(std::string_view text);

struct Stamp
{
	Hlc hlc;
	bool isOverride = false; // the commit timestamp will not say this stamp: it must be written down
};

// The clock algorithm over a word that may lie in shared memory.
class Clock
{
public:
	explicit Clock(std::atomic<int64_t> &word) : word_(word) {}

	Hlc last() const { return Hlc{word_.load(std::memory_order_seq_cst)}; }

	// Raises the clock to at least hlc. Never lowers it.
	void adopt(Hlc hlc)
	{
		int64_t seen = word_.load();
		while (seen < hlc.value && !word_.compare_exchange_weak(seen, hlc.value))
		{
		}
	}

	// A moment that nothing stamped or adopted so far lies above; not a stamp. The clock only follows time for it, and
	// never counts: asked in a loop it would run ahead of time without limit. A microsecond behind time, since a commit
	// of this very microsecond would find a clock that is level with time, and write an override.
	template <typename Physical> Hlc now(Physical &&physical)
	{
		int64_t time = physical();
		adopt(Hlc{time - 1});
		return std::max(Hlc{time}, last());
	}

	// Stamps a commit. The clock is read first and the time second: the other way round, a commit that stamps
	// between the two makes every busy system look as if its clock had drifted.
	// Physical: a callable returning microseconds since 2000-01-01.
	template <typename Physical> Stamp stamp(Physical &&physical, bool forceOverride)
	{
		int64_t seen = word_.load();
		for (;;)
		{
			int64_t now = physical();
			bool ahead = now > seen;
			int64_t next = ahead ? now : seen + 1;
			if (word_.compare_exchange_weak(seen, next))
				return Stamp{Hlc{next}, !ahead || forceOverride};
		}
	}

private:
	std::atomic<int64_t> &word_;
};

} // namespace mrsync
