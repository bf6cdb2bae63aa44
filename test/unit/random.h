// Randomness for tests: a seed in, the same numbers out on every machine and library.
#pragma once

#include <cstdint>
#include <random>

namespace mrsync::test
{

class Random
{
public:
	explicit Random(uint64_t seed) : engine_(seed) {}

	uint64_t bits() { return engine_(); }

	// 0 to below - 1. (The distributions of <random> differ from library to library.)
	uint64_t below(uint64_t below) { return engine_() % below; }

	// Both ends included.
	int64_t between(int64_t low, int64_t high)
	{
		auto from = static_cast<uint64_t>(low); // unsigned: the span may be wider than an int64_t
		return static_cast<int64_t>(from + below(static_cast<uint64_t>(high) - from + 1));
	}

	bool oneIn(uint64_t n) { return below(n) == 0; }

private:
	std::mt19937_64 engine_; // its sequence is fixed by the standard
};

} // namespace mrsync::test
