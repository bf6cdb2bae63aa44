// What can be asked of the simulation, and the deliberate bugs that prove its checks to have teeth.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mrsync::sim
{

// Each leaves out one rule of the design. The self-test asks that the check which the rule protects notices.
enum class Break
{
	None,
	NoAdopt,       // the applier does not raise the clock to what it applies
	Ceiling,       // after a crash the clock starts from physical time alone
	LazyCeiling,   // the ceiling is renewed each second, but does not bound what is stamped between
	NoLock,        // the applier does not wait for local writers of a key
	NoTombstone,   // deletions are forgotten
	ArrivalWins,   // the resolver is not asked: what comes later is written
	NoTiebreak,    // equal stamps of two regions: what comes later is written
	NoDedup,       // neither sequences nor event ids tell a repetition
	EarlyConfirm,  // a position is confirmed when it is sent, not when it is acknowledged
	NoIncarnation, // a dead producer's late records count
	OneSidedSeen,  // a conflict is judged by what the incoming event had seen alone
	SeenByHlc,     // "had seen" is judged by stamps alone, as if commits never overtook each other
	GuessForgotten, // a version that is not known any more counts as older than everything
};

struct BreakInfo
{
	Break value;
	const char *name;
	const char *checks; // those that may notice first
};

constexpr BreakInfo kBreaks[] = {
    {Break::NoAdopt, "no-adopt", "I11 I5"},         {Break::Ceiling, "ceiling", "I11 I5"},
    {Break::LazyCeiling, "lazy-ceiling", "I11 I5"}, {Break::NoLock, "no-lock", "I11 I1"},
    {Break::NoTombstone, "no-tombstone", "I1"},     {Break::ArrivalWins, "arrival-wins", "I1 I3"},
    {Break::NoTiebreak, "no-tiebreak", "I1 I3"},    {Break::NoDedup, "no-dedup", "I2"},
    {Break::EarlyConfirm, "early-confirm", "I2"},   {Break::NoIncarnation, "no-incarnation", "I2"},
    {Break::OneSidedSeen, "one-sided-seen", "I3"},  {Break::SeenByHlc, "seen-by-hlc", "I3"},
    {Break::GuessForgotten, "guess-forgotten", "I1 I3"},
};

struct Options
{
	std::optional<int> regions; // otherwise the seed says
	Break broken = Break::None;
};

} // namespace mrsync::sim
