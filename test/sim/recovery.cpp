#include "sim/recovery.h"

#include "sim/region.h"

#include "core/codec.h"
#include "core/gap.h"

#include <algorithm>

namespace mrsync::sim
{

void Recovery::start()
{
	looked_ = false;
	resends_ = false;
	++life_;
	if (!context_.plan.setBacks) // it knows
	{
		looked_ = true;
		region_.extractor().start();
		return;
	}
	look(life_);
}

void Recovery::look(uint64_t life)
{
	if (life != life_ || !region_.isUp())
		return;
	if (!region_.extractor().isRunning())
	{
		region_.extractor().fence();
		region_.watermarks().fence();
	}
	if (!isFenced())
	{
		context_.scheduler.after(context_.later.between(1, 100) * kMillisecond, [this, life] { look(life); });
		return;
	}
	if (Found found = read(); found.isSetBack)
		open(found);
	looked_ = true;
	region_.extractor().goOn();
	if (region_.database().setBack.takesBack)
		region_.own().start();
	if (!isDone())
		turn(life);
}

// What is of an older incarnation and not yet in the topics does not count any more, for anybody.
bool Recovery::isFenced() const
{
	if (context_.breaks(Break::NoFence))
		return context_.kafka.unavailableFor() == 0;
	int64_t incarnation = region_.extractor().incarnation();
	const std::vector<std::string> &records = context_.kafka.topic(region_.index()).records;
	const std::vector<Statement> &statements = context_.kafka.control(region_.index());
	return std::any_of(records.rbegin(), records.rend(), [&](const std::string &record)
	                   { return std::get<ChangeEvent>(decode(record)).tx.incarnation == incarnation; }) &&
	       std::any_of(statements.begin(), statements.end(),
	                   [&](const Statement &statement) { return statement.incarnation == incarnation; });
}

// What counts for the topic's readers, and is not here.
Recovery::Found Recovery::read() const
{
	Found found;
	const Database &database = region_.database();
	const Topic &topic = context_.kafka.topic(region_.index());
	const LinkPosition &position = database.links[static_cast<size_t>(region_.index())];
	// What it knows to lack already stands before this one.
	int64_t known = database.setBack.takesBack ? database.setBack.incarnation : 0;
	Envelope beginning;
	beginning.incarnation = position.incarnation;
	beginning.previous = position.sequence;
	GapWatch watch(beginning, position.sequence);
	bool isUnknown = false; // what is being gathered
	for (size_t offset = topic.begin; offset < topic.records.size(); ++offset)
	{
		const ChangeEvent event = std::get<ChangeEvent>(decode(topic.records[offset]));
		if (event.region == region_.name())
			found.newest = std::max(found.newest, event.hlc);
		found.sequence = std::max(found.sequence, event.tx.sequence);
		if (position.made == topic.made && offset < position.offset)
			continue;
		TransactionGate::Verdict verdict = watch.judge(event.tx);
		if (verdict == TransactionGate::Verdict::Ignore)
			continue;
		if (verdict == TransactionGate::Verdict::Begin)
			isUnknown = event.tx.incarnation >= known && !region_.wrote(event.id) && !region_.wasApplied(event.id);
		if (event.tx.last)
			watch.complete(event.tx);
		found.isSetBack |= isUnknown && event.tx.last;
		if (event.tx.last)
			isUnknown = false;
	}
	found.isSetBack |= isUnknown && context_.breaks(Break::NoFence); // the rest may still come
	// A piece of a transaction counts for nobody; but readers stand before it, and would wait for a resend that covers it.
	found.isSetBack |= found.sequence > region_.position();
	if (context_.breaks(Break::OneTopic))
		return found;
	Hlc remembered;
	for (const auto &[pair, statement] : database.statements)
		if (pair.first == region_.index())
			remembered = std::max(remembered, statement.saidAt);
	for (const Statement &statement : context_.kafka.control(region_.index()))
	{
		found.isSetBack |= statement.saidAt > remembered;
		found.newest = std::max({found.newest, statement.saidAt, statement.watermark});
	}
	return found;
}

void Recovery::open(const Found &found)
{
	Database &database = region_.database();
	Extractor &extractor = region_.extractor();
	if (!context_.breaks(Break::OldHistory))
		database.history = std::max(database.history, static_cast<uint32_t>(found.sequence >> 48)) + 1;
	if (!context_.breaks(Break::KeepSlot))
		extractor.makeSlotAnew(region_.position());
	if (!context_.breaks(Break::OldClock))
		region_.adopt(found.newest);
	database.setBack = {!context_.breaks(Break::NoTakeBack), extractor.incarnation(), !context_.breaks(Break::NoResend)};
	region_.flush();
}

bool Recovery::isWhole() const
{
	return looked_ && (!region_.database().setBack.takesBack || (context_.breaks(Break::NoFence) && region_.own().hasCaughtUp()));
}

bool Recovery::isDone() const
{
	const SetBack &setBack = region_.database().setBack;
	return looked_ && !setBack.takesBack && !setBack.owesResend;
}

void Recovery::turn(uint64_t life)
{
	if (life != life_ || !region_.isUp() || isDone())
		return;
	bool isReady = context_.breaks(Break::ResendEarly) || (isWhole() && region_.hasCaughtUp());
	if (region_.database().setBack.owesResend && isReady && !resends_)
	{
		resends_ = true;
		region_.resend(Hlc{},
		               [this]
		               {
			               region_.database().setBack.owesResend = false;
			               region_.flush();
		               });
	}
	context_.scheduler.after(context_.later.between(1, 500) * kMillisecond, [this, life] { turn(life); });
}

} // namespace mrsync::sim
