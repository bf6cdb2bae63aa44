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
	NoBounds,      // a watermark says nothing of those who are about to commit
	GuessForgotten, // a version that is not known any more counts as older than everything
	NotHeld,       // a parked event does not hold its source's watermark down
	PruneEarly,    // deletions are forgotten below this region's own clock
	PruneAtStable, // deletions are forgotten below the stable point, though events that have not seen them are on their way
	UniqueArrival, // of rows that exclude each other the one that came first stays
	UniqueStuck,   // what is held aside stays there
	MadeStays,     // what is in its table in another form stays so
	MadeSent,      // and is sent again in that form
	MendsBefore,   // a resend that began before the gap's last transaction mends it
	MendsBySome,   // a resend that left something out mends a gap
	ResentPruned,  // what is sent again counts where deletions of its time are forgotten
	NoTakeBack,    // a region that was set back lacks what its topic has
	OldHistory,    // its sequences go on from where its copy was
	OldIncarnation, // its incarnations, too
	OldClock,      // its clock is that of the copy
	KeepSlot,      // its slot, too: what it has committed since is sent as if nothing had been before
	ResendEarly,   // it sends everything again before it has everything
	NoResend,      // it does not send anything again
	NoFence,       // it looks, though what it had under way before may still land
	OneTopic,      // it looks at its transactions alone, not at what it had promised and acknowledged
	WriteEarly,    // it writes before it has looked, with a clock behind what it had said before
	PromiseHole,   // its promises do not speak of what was not sent
};

// In which worlds a rule matters: where the seed says so, or in all that are asked for a break of it.
enum class Timeline
{
	Any,
	Losses,
	SetBacks,
	Both,
};

struct BreakInfo
{
	Break value;
	const char *name;
	const char *checks; // those that may notice first
	Timeline in = Timeline::Any;
	uint64_t from = 1; // the self-test's first seed: where it is noticed rarely, one shortly before
};

constexpr const char *kTimelines[] = {"any", "losses", "set-backs", "both"};

constexpr BreakInfo kBreaks[] = {
    {Break::NoAdopt, "no-adopt", "I11 I5"},
    {Break::Ceiling, "ceiling", "I11 I5"},
    {Break::LazyCeiling, "lazy-ceiling", "I11 I5"},
    {Break::NoLock, "no-lock", "I11 I1"},
    {Break::NoTombstone, "no-tombstone", "I1"},
    {Break::ArrivalWins, "arrival-wins", "I1 I3"},
    {Break::NoTiebreak, "no-tiebreak", "I1 I3"},
    {Break::NoDedup, "no-dedup", "I2"},
    {Break::EarlyConfirm, "early-confirm", "I2"},
    {Break::NoIncarnation, "no-incarnation", "I2"},
    {Break::OneSidedSeen, "one-sided-seen", "I3"},
    {Break::SeenByHlc, "seen-by-hlc", "I3"},
    {Break::GuessForgotten, "guess-forgotten", "I1 I3"},
    {Break::NoBounds, "no-bounds", "W"},
    {Break::NotHeld, "not-held", "W"},
    {Break::PruneEarly, "prune-early", "W I3"},
    {Break::PruneAtStable, "prune-at-stable", "I3"},
    {Break::UniqueArrival, "unique-arrival", "I13"},
    {Break::UniqueStuck, "unique-stuck", "I13"},
    {Break::MadeStays, "made-stays", "I13"},
    {Break::MadeSent, "made-sent", "I1 I13", Timeline::Losses},
    {Break::MendsBefore, "mends-before", "I1", Timeline::Losses},
    {Break::MendsBySome, "mends-by-some", "I1", Timeline::Losses},
    {Break::ResentPruned, "resent-pruned", "W", Timeline::Losses, 680},
    {Break::NoTakeBack, "no-take-back", "I1 I2", Timeline::SetBacks},
    {Break::OldHistory, "old-history", "I1 I2", Timeline::SetBacks},
    {Break::OldIncarnation, "old-incarnation", "I1 I2", Timeline::SetBacks},
    {Break::OldClock, "old-clock", "W", Timeline::SetBacks},
    {Break::KeepSlot, "keep-slot", "I1 I2 W", Timeline::SetBacks},
    {Break::ResendEarly, "resend-early", "I1 I2 W", Timeline::Both, 350},
    {Break::NoResend, "no-resend", "I2", Timeline::SetBacks},
    {Break::NoFence, "no-fence", "I1 I2 W", Timeline::SetBacks},
    {Break::OneTopic, "one-topic", "W I1", Timeline::SetBacks},
    {Break::WriteEarly, "write-early", "I1 I2 W I5", Timeline::SetBacks},
    {Break::PromiseHole, "promise-hole", "W I1", Timeline::SetBacks},
};

struct Options
{
	std::optional<int> regions; // otherwise the seed says
	Timeline timeline = Timeline::Any;
	Break broken = Break::None;
};

} // namespace mrsync::sim
