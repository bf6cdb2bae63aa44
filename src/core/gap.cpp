#include "core/gap.h"

#include "core/mutant.h"

#include <charconv>

namespace mrsync
{

namespace
{

const std::optional<std::string> &valueOf(const Image &image, std::string_view column)
{
	static const std::optional<std::string> *const nothing = new std::optional<std::string>;
	for (const Column &candidate : image)
		if (candidate.name == column)
			return candidate.value;
	return *nothing;
}

std::optional<uint64_t> numberOf(const Image &image, std::string_view column)
{
	const std::optional<std::string> &text = valueOf(image, column);
	if (!text)
		return std::nullopt;
	uint64_t number = 0;
	const char *end = text->data() + text->size();
	auto [at, problem] = std::from_chars(text->data(), end, number);
	return problem == std::errc() && at == end ? std::optional(number) : std::nullopt;
}

} // namespace

std::variant<ResendMark, std::string> resendMark(const ChangeEvent &event)
{
	if (!event.after)
		return "it has no row";
	std::optional<Uuid> resend = parseUuid(valueOf(*event.after, "resend_id").value_or(""));
	std::optional<Hlc> from = parseHlc(valueOf(*event.after, "from_hlc").value_or(""));
	std::optional<uint64_t> covers = numberOf(*event.after, "covers");
	std::optional<uint64_t> parts = numberOf(*event.after, "parts");
	std::optional<uint64_t> after = numberOf(*event.after, "after_sequence");
	if (!resend || !from || !after || !covers || !parts)
		return "it lacks a resend_id, from_hlc, after_sequence, covers or parts";
	return ResendMark{*resend, *from, *after, *covers, *parts};
}

uint64_t missingUpTo(const Envelope &tx)
{
	// of a transaction whose beginning is gone, nothing can be applied
	return tx.position == 1 ? tx.previous : tx.sequence;
}

GapWatch::GapWatch(const Envelope &tx, uint64_t applied) : sequence_(missingUpTo(tx)), applied_(applied), chain_(tx.incarnation, sequence_) {}

void GapWatch::lost(uint64_t upTo)
{
	chain_ = SequenceChain(chain_.incarnation(), upTo);
	newest_ = ResentPart{};
}

TransactionGate::Verdict GapWatch::judge(const Envelope &tx)
{
	switch (chain_.judge(tx))
	{
	case SequenceChain::Verdict::Next:
		break;
	case SequenceChain::Verdict::Duplicate:
	case SequenceChain::Verdict::Stale:
		return TransactionGate::Verdict::Ignore;
	case SequenceChain::Verdict::Gap:
		lost(missingUpTo(tx));
		break;
	}
	TransactionGate::Verdict verdict = gate_.judge(tx);
	if (verdict != TransactionGate::Verdict::Broken)
		return verdict;
	lost(tx.sequence);
	return TransactionGate::Verdict::Ignore;
}

void GapWatch::applied(const ResentPart &part)
{
	if (part.part == 1)
		newest_ = part;
	else if (part.resend == newest_.resend && part.part == newest_.part + 1)
		newest_ = part;
}

bool GapWatch::mends(const ResendMark &mark) const
{
	// Stamps of a region's transactions do not grow with its sequences: one that is missing may be below all that was
	// applied. So nothing may have been left out, but for what a watermark of the source says to be before the gap.
	bool hasAll = mark.from.value == 0 || (mark.after != 0 && applied_ >= mark.after);
	return hasAll && (mark.covers >= sequence_ || mutated("mends_too_early")) &&
		   (mark.parts == 0 || (newest_.resend == mark.resend && newest_.part == mark.parts));
}

} // namespace mrsync
