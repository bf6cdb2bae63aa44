// The incoming side, in the order that the design asks for: verify the chain, gather, wait for skew, adopt, wait for
// writers, decide, write, and all of it at once.
#include "sim/applier.h"

#include "sim/region.h"

#include "core/codec.h"

#include <algorithm>

namespace mrsync::sim
{

Applier::Applier(Context &context, Region &region, int source)
    : context_(context), region_(region), source_(source), isOwn_(source == region.index()), apply_(context, region)
{
}

void Applier::start()
{
	const LinkPosition &position = region_.database().links[static_cast<size_t>(source_)];
	offset_ = position.offset;
	made_ = position.made;
	chain_ = SequenceChain(position.incarnation, position.sequence);
	gate_ = TransactionGate();
	gap_.reset();
	if (isOwn_)
	{
		Envelope beginning;
		beginning.incarnation = position.incarnation;
		beginning.previous = position.sequence;
		gap_.emplace(Gap{offset_, position.incarnation, GapWatch(beginning, position.sequence)});
	}
	caughtUp_ = false;
	gathered_.clear();
	complete_ = false;
	promises_ = Promises();
	offered_ = Hlc{};
	++life_;
	schedule(context_.upTo(context_.plan.pollInterval));
}

void Applier::pause(int64_t duration)
{
	pausedUntil_ = context_.scheduler.now() + duration;
}

void Applier::schedule(int64_t delay)
{
	context_.scheduler.after(delay, [this, life = life_] { poll(life); });
}

void Applier::poll(uint64_t life)
{
	if (life != life_ || !region_.isUp())
		return;
	int64_t wait = std::max(context_.kafka.unavailableFor(), pausedUntil_ - context_.scheduler.now());
	if (wait > 0)
	{
		schedule(wait);
		return;
	}
	for (uint64_t budget = 1 + context_.random.below(20); budget > 0; --budget)
	{
		if (complete_ && tryApply() == Step::Waits)
		{
			bool skewed = region_.isBeyondSkew(gathered_.front().hlc);
			schedule(skewed ? kSecond : 1 + context_.upTo(10 * kMillisecond));
			return;
		}
		if (isOwn_ && !region_.database().setBack.takesBack)
			return;
		requireTopic();
		const Topic &topic = context_.kafka.topic(source_);
		if (offset_ == topic.records.size())
		{
			caughtUp_ = true;
			break;
		}
		read(topic.records[offset_++]);
	}
	retryParked();
	advanceWatermark();
	schedule(1 + context_.upTo(context_.plan.pollInterval));
}

// Another topic of this name, or one that begins later than we are: it is read from its beginning, and the chain will tell.
void Applier::requireTopic()
{
	const Topic &topic = context_.kafka.topic(source_);
	if (made_ == topic.made && offset_ >= topic.begin)
		return;
	made_ = topic.made;
	offset_ = topic.begin;
	if (gap_) // what stands behind it may be anywhere now
		gap_->offset = offset_;
	gate_ = TransactionGate();
	gathered_.clear();
	complete_ = false;
}

void Applier::read(const std::string &record)
{
	auto decoded = decode(record);
	if (const auto *error = std::get_if<DecodeError>(&decoded))
		throw CheckFailed("codec", error->message + ": " + record);
	auto &event = std::get<ChangeEvent>(decoded);
	if (context_.breaks(Break::NoIncarnation))
		event.tx.incarnation = 1;
	if (isOwn_ && event.tx.incarnation >= region_.database().setBack.incarnation)
	{
		takenBack();
		return;
	}
	if (!gap_ && !isNext(event) && !gap_)
		return;
	if (gap_ && !isBehindGap(event))
		return;
	complete_ = event.tx.last;
	adopted_ = false;
	gathered_.push_back(std::move(event));
}

// Is the record to be gathered? Opens the gap where something is missing before it.
bool Applier::isNext(const ChangeEvent &event)
{
	switch (chain_.judge(event.tx))
	{
	case SequenceChain::Verdict::Next:
		break;
	case SequenceChain::Verdict::Duplicate:
		if (context_.breaks(Break::NoDedup))
			break;
		return false;
	case SequenceChain::Verdict::Stale:
		return false;
	case SequenceChain::Verdict::Gap:
		gap_.emplace(Gap{offset_ - 1, event.tx.incarnation, GapWatch(event.tx, chain_.sequence())});
		return false;
	}
	switch (gate_.judge(event.tx))
	{
	case TransactionGate::Verdict::Begin:
		gathered_.clear();
		return true;
	case TransactionGate::Verdict::Continue:
		return true;
	case TransactionGate::Verdict::Ignore:
		return false;
	case TransactionGate::Verdict::Broken:
		break;
	}
	gap_.emplace(Gap{offset_ - 1, event.tx.incarnation, GapWatch(event.tx, chain_.sequence())});
	return false;
}

bool Applier::isBehindGap(const ChangeEvent &event)
{
	caughtUp_ = caughtUp_ || !isOwn_;
	switch (gap_->watch.judge(event.tx))
	{
	case TransactionGate::Verdict::Begin:
		gathered_.clear();
		return true;
	case TransactionGate::Verdict::Continue:
		return true;
	default:
		return false;
	}
}

// A stamp that is too far ahead is neither adopted nor applied; then the clock is raised to it, and writers are waited for.
bool Applier::mayNotApply(Hlc newest)
{
	if (region_.isBeyondSkew(newest))
		return true;
	if (!adopted_)
	{
		adopted_ = true;
		if (!context_.breaks(Break::NoAdopt))
			region_.adopt(newest);
		writers_ = region_.openTransactions();
	}
	return !context_.breaks(Break::NoLock) && apply_.mustWait(gathered_, writers_);
}

Applier::Step Applier::tryApply()
{
	const ChangeEvent &first = gathered_.front();
	if (first.tx.resent)
		return tryResent();
	bool isMark = first.table == kResendTable;
	if (gap_ && isMark && mends(first))
	{
		goOnBehindGap();
		return Step::Applied;
	}
	bool counts = !gap_ || (isOwn_ && !isMark);
	if (counts && mayNotApply(first.hlc))
		return Step::Waits;
	if (counts)
		apply();
	if (gap_)
		gap_->watch.complete(first.tx);
	complete_ = false;
	return Step::Applied;
}

void Applier::apply()
{
	const ChangeEvent &first = gathered_.front();
	const Transaction *real = context_.history.find(first.id);
	if (!real && first.table != kResendTable)
		throw CheckFailed("I2", state() + ": a transaction arrived that was never committed: " + toText(first.id));
	auto writer = std::make_shared<const Writer>(Writer{{first.hlc, first.region}, first.tx.sequence, *first.tx.seen});
	Database &database = region_.database();
	bool isNew = real && std::none_of(gathered_.begin(), gathered_.end(),
	                                  [this](const ChangeEvent &event) { return region_.wasApplied(event.id); });
	if (isOwn_)
	{
		if (isNew && !region_.wrote(*real))
			apply_.transaction(source_, gathered_, writer);
	}
	else if (Hlc watermark = database.applied[static_cast<size_t>(source_)]; isNew && first.hlc <= watermark)
		throw CheckFailed("W", state() + ": a transaction stamped " + toText(first.hlc) + " comes, though it was past " + toText(watermark));
	else if (isNew && mayPark() && context_.aside.oneIn(15))
		database.parked.push_back({source_, gathered_, writer, context_.scheduler.now() + context_.aside.between(0, 10 * kSecond)});
	else if (real)
		apply_.transaction(source_, gathered_, writer);
	progressed(real);
}

Applier::Step Applier::tryResent()
{
	Hlc newest, newestOfSource;
	for (const ChangeEvent &event : gathered_)
	{
		newest = std::max(newest, event.hlc);
		if (event.region == context_.nameOf(source_))
			newestOfSource = std::max(newestOfSource, event.hlc);
	}
	if (mayNotApply(newest))
		return Step::Waits;
	apply_.resent(gathered_);
	if (isOwn_)
		for (const ChangeEvent &event : gathered_)
			context_.history.revive({event.hlc, event.region}, event.pk ? keyOf(*event.pk) : -1);
	const Envelope &tx = gathered_.front().tx;
	if (gap_)
	{
		gap_->watch.applied(*tx.resent);
		gap_->watch.complete(tx);
		region_.commitApplied();
	}
	else
		progressed(nullptr);
	complete_ = false;
	return Step::Applied;
}

// What was gathered is applied: the position, and what has been seen by now.
void Applier::progressed(const Transaction *real)
{
	Database &database = region_.database();
	CausalPast &past = database.past;
	if (real)
	{
		for (size_t i = 0; i < past.size(); ++i)
			past[i] = std::max(past[i], real->past[i]);
		Hlc &own = past[static_cast<size_t>(source_)];
		own = std::max(own, real->version.hlc);
	}
	if (!isOwn_)
	{
		const ChangeEvent &first = gathered_.front();
		chain_.applied(first.tx.sequence);
		database.links[static_cast<size_t>(source_)] = {offset_, made_, chain_.incarnation(), chain_.sequence()};
		SeenEntry &seen = database.seen[context_.nameOf(source_)];
		seen.sequence = std::max(seen.sequence, first.tx.sequence);
		for (const ChangeEvent &event : gathered_)
			if (event.region == context_.nameOf(source_))
				seen.hlc = std::max(seen.hlc, event.hlc);
	}
	region_.commitApplied();
}

bool Applier::mends(const ChangeEvent &event) const
{
	auto read = resendMark(event);
	if (const auto *problem = std::get_if<std::string>(&read))
		throw CheckFailed("codec", *problem);
	ResendMark mark = std::get<ResendMark>(read);
	if (context_.breaks(Break::MendsBefore))
		mark.covers = UINT64_MAX;
	if (context_.breaks(Break::MendsBySome))
		mark.from = Hlc{};
	return !isOwn_ && gap_->watch.mends(mark);
}

// As if what is missing had been applied.
void Applier::goOnBehindGap()
{
	region_.database().mended[static_cast<size_t>(source_)].emplace_back(chain_.sequence(), gap_->watch.sequence());
	chain_ = SequenceChain(gap_->incarnation, gap_->watch.sequence());
	offset_ = gap_->offset;
	gap_.reset();
	gate_ = TransactionGate();
	gathered_.clear();
	complete_ = false;
}

// Everything that counts here has been read.
void Applier::takenBack()
{
	Database &database = region_.database();
	database.setBack.takesBack = false;
	database.links[static_cast<size_t>(source_)] = {offset_ - 1, made_, database.setBack.incarnation, 0};
	region_.flush();
	++life_;
}

// A truncation waits for writers of the time when its stamp was adopted; later, they are not known any more.
bool Applier::mayPark() const
{
	return !context_.breaks(Break::NoDedup) && std::none_of(gathered_.begin(), gathered_.end(), [](const ChangeEvent &event)
	                                                        { return event.operation == Operation::Truncate; });
}

void Applier::retryParked()
{
	std::vector<Parked> &parked = region_.database().parked;
	for (size_t i = 0; i < parked.size();)
	{
		bool isDue = parked[i].source == source_ && parked[i].retryAt <= context_.scheduler.now();
		if (!isDue || (!context_.breaks(Break::NoLock) && apply_.mustWait(parked[i].events, {})))
		{
			++i;
			continue;
		}
		Hlc stamp = parked[i].writer->version.hlc;
		if (Hlc watermark = region_.database().applied[static_cast<size_t>(source_)]; stamp <= watermark)
			throw CheckFailed("W", state() + ": a parked transaction stamped " + toText(stamp) + " is applied, though it was past " + toText(watermark));
		const Parked one = parked[i];
		if (one.isRest && !apply_.again(one.events.front(), one.writer))
		{
			parked[i++].retryAt += kSecond;
			continue;
		}
		parked.erase(parked.begin() + static_cast<std::ptrdiff_t>(i));
		if (!one.isRest)
			apply_.transaction(source_, one.events, one.writer);
		region_.commitApplied();
	}
}

void Applier::advanceWatermark()
{
	if (isOwn_)
		return;
	Database &database = region_.database();
	auto promised = database.statements.find({source_, source_});
	if (promised != database.statements.end() && promised->second.watermark > offered_)
	{
		offered_ = promised->second.watermark;
		promises_.add(promised->second.sequence, offered_);
	}
	std::optional<Hlc> oldest;
	for (const Parked &parked : database.parked)
		if (parked.source == source_ && !context_.breaks(Break::NotHeld))
			oldest = std::min(parked.writer->version.hlc, oldest.value_or(parked.writer->version.hlc));
	Hlc &applied = database.applied[static_cast<size_t>(source_)];
	applied = std::max(applied, belowParked(promises_.reached(chain_.sequence()), oldest));
}

bool Applier::isDegraded() const
{
	const Topic &topic = context_.kafka.topic(source_);
	return gap_ || (!complete_ && made_ == topic.made && offset_ == topic.records.size() && !isDrained());
}

bool Applier::isDrained() const
{
	const std::vector<Parked> &parked = region_.database().parked;
	if (std::any_of(parked.begin(), parked.end(), [this](const Parked &one) { return one.source == source_; }))
		return false;
	return !gap_ && chain_.sequence() == context_.newest[static_cast<size_t>(source_)];
}

std::string Applier::state() const
{
	return region_.name() + ": the link from " + std::to_string(source_) + " at record " + std::to_string(offset_) +
	       " of " + std::to_string(context_.kafka.topic(source_).records.size()) + ", applied up to " +
	       std::to_string(chain_.sequence()) + (gap_ ? ", at a gap up to " + std::to_string(gap_->watch.sequence()) : "") +
	       (complete_ ? ", waiting to apply" : "");
}

} // namespace mrsync::sim
