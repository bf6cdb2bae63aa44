// Rows first: a transaction may have truncated, and written a row again.
#include "sim/resend.h"

#include "sim/region.h"

#include "core/gap.h"

namespace mrsync::sim
{

Resend::Resend(Context &context, Region &region, Hlc from)
    : context_(context), region_(region), life_(region.life()), from_(from), covers_(region.position()),
      pace_(context.later.oneIn(4) ? 2 * kSecond : context.plan.statementTime),
      id_(eventId(Hlc{context.scheduler.now()}, region.name(), context.later.bits(), 0))
{
	std::vector<ChangeEvent> deletions;
	auto add = [&](std::vector<ChangeEvent> &to, Operation op, const Version &version) -> ChangeEvent &
	{
		ChangeEvent event;
		event.operation = op;
		event.table = kTable;
		event.region = version.region;
		event.hlc = version.hlc;
		to.push_back(std::move(event));
		return to.back();
	};
	const Store &store = region.database().store;
	for (const auto &[key, row] : store.all())
	{
		const Version &version = row.writer->version;
		if (version.hlc <= from)
			continue;
		bool isDeleted = row.kind == LocalKind::Tombstone;
		ChangeEvent &event = add(isDeleted ? deletions : events_, isDeleted ? Operation::Delete : Operation::Insert, version);
		event.pk = pkOf(key);
		if (!isDeleted)
			event.after = imageOf(key, context.breaks(Break::MadeSent) ? row.placed() : row.content);
	}
	if (const WriterPtr &truncation = store.truncation(); truncation && truncation->version.hlc > from)
		add(deletions, Operation::Truncate, truncation->version);
	events_.insert(events_.end(), deletions.begin(), deletions.end());
}

void Resend::run(std::function<void()> done)
{
	done_ = std::move(done);
	next(context_.later.oneIn(2) ? 10 * kSecond : context_.plan.statementTime);
}

void Resend::next(int64_t within)
{
	context_.scheduler.after(context_.later.between(0, within), [self = shared_from_this()] { self->step(); });
}

void Resend::step()
{
	if (!region_.isUp() || region_.life() != life_)
		return;
	if (sent_ == events_.size())
	{
		mark();
		done_();
		return;
	}
	part();
	next(pace_);
}

void Resend::part()
{
	std::vector<ChangeEvent> part;
	++parts_;
	for (uint64_t size = 1 + context_.later.below(3); size > 0 && sent_ < events_.size(); --size)
	{
		part.push_back(events_[sent_++]);
		part.back().tx.resent = ResentPart{id_, parts_};
	}
	region_.log(std::move(part), context_.later);
}

void Resend::mark()
{
	ChangeEvent event;
	event.operation = Operation::Insert;
	event.table = kResendTable;
	event.region = region_.name();
	event.hlc = region_.tick();
	event.pk = Image{{"resend_id", toText(id_)}};
	event.after = Image{{"resend_id", toText(id_)},
	                    {"from_hlc", from_.value == 0 ? "0" : toText(from_)},
	                    {"after_sequence", "0"},
	                    {"covers", std::to_string(covers_)},
	                    {"parts", std::to_string(parts_)}};
	region_.log({event}, context_.later);
}

} // namespace mrsync::sim
