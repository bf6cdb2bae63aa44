// Behind a gap in a source's chain: what was lost may have been sent again since (mrsync.resend). Finds out whether it was.
//
// A reader at a gap applies nothing that stands behind it but resent parts, which carry their own versions. A resend mends
// the gap when it is whole, has everything that the source has, and was read where the gap's last transaction was visible.
// Then the reader goes on right behind the gap, as if it had applied what is missing: every row that the missing
// transactions wrote has reached it with the version that they gave it, or a higher one, and what they deleted is marked
// as deleted at that version or a higher one. The ordinary transactions behind the gap come after that, in their order;
// those that the resend had seen find their versions here, and do nothing.
// Relied on by: I8 (nothing is skipped), and by whoever takes a sequence that is acknowledged for applied.
#pragma once

#include "core/ledger.h"

#include <variant>

namespace mrsync
{

// What a source says when it has sent everything of a resend: a row of mrsync.resend, which travels as an event.
struct ResendMark
{
	Uuid resend;
	Hlc from;			 // what is at or below was left out; 0: nothing was
	uint64_t after = 0;	 // sequence: everything committed behind it is stamped above `from`; 0: not known
	uint64_t covers = 0; // sequence: everything committed up to it was visible to the resend
	uint64_t parts = 0;
};
constexpr char kResendTable[] = "mrsync.resend";
// Of an event of that table. An error: what is wrong with it.
std::variant<ResendMark, std::string> resendMark(const ChangeEvent &event);

class GapWatch
{
public:
	// tx: of the record behind the gap, which the chain or the gate has stopped at. applied: sequence of the last transaction
	// before it; 0: there is none.
	GapWatch(const Envelope &tx, uint64_t applied);

	// The gap's end: what was missing has sequences up to this one.
	uint64_t sequence() const { return sequence_; }

	// Of each record from the one behind the gap on. Begin and Continue: it is of a whole transaction as far as it goes.
	// Never Broken: another gap is as good as none, for the next resend mends them all.
	TransactionGate::Verdict judge(const Envelope &tx);
	// A resent part has been applied, with its transaction.
	void applied(const ResentPart &part);
	// The transaction of judge's last record is complete.
	void complete(const Envelope &tx) { chain_.applied(tx.sequence); }

	bool mends(const ResendMark &mark) const;

private:
	void lost(uint64_t upTo);

	uint64_t sequence_;
	uint64_t applied_;
	SequenceChain chain_;
	TransactionGate gate_;
	ResentPart newest_; // 1 up to this part have been applied, without a gap between; part 0: none
};

// Of a record that the chain stops at: what is missing has sequences up to this one.
uint64_t missingUpTo(const Envelope &tx);

} // namespace mrsync
