// The source side. What AckLedger promises is used as the real extractor uses it: the slot moves by confirm() alone.
#include "sim/extractor.h"

#include "core/codec.h"

namespace mrsync::sim
{

void Extractor::start()
{
	open();
	goOn();
}

void Extractor::open()
{
	session_ = std::make_shared<Session>();
	session_->incarnation = ++slot_.incarnation;
}

void Extractor::goOn()
{
	isFenced_ = false;
	confirmed_ = slot_.confirmed;
	next_ = slot_.confirmed;
	cut_.clear();
	pump();
}

void Extractor::fence()
{
	open();
	isFenced_ = true;
	ChangeEvent event;
	event.region = context_.nameOf(region_);
	event.table = "mrsync.incarnation";
	event.operation = Operation::Ddl;
	event.hlc = Hlc{1};
	event.tx.incarnation = session_->incarnation;
	event.tx.last = true;
	std::string json;
	encode(event, json);
	send(std::move(json));
}

void Extractor::stop()
{
	if (!session_)
		return;
	session_->dead = true;
	dead_.push_back(session_);
	if (context_.random.oneIn(2))
		session_->heldUntil = context_.scheduler.now() + context_.upTo(8 * kSecond);
	session_.reset();
}

void Extractor::forgetDead()
{
	for (const std::weak_ptr<Session> &dead : dead_)
		if (std::shared_ptr<Session> session = dead.lock())
			session->underWay.clear();
	dead_.clear();
}

uint64_t Extractor::newest() const
{
	if (wal_.size() > slot_.begin)
		return wal_.back()->sequence;
	return context_.breaks(Break::PromiseHole) ? 0 : slot_.hole;
}

void Extractor::makeSlotAnew(uint64_t hole)
{
	for (size_t i = slot_.confirmed; i < wal_.size(); ++i)
		context_.history.hole(wal_[i]->events.front().id);
	slot_.confirmed = slot_.begin = wal_.size();
	slot_.hole = hole;
}

void Extractor::pump()
{
	while (session_ && !isFenced_ && next_ < wal_.size() && session_->ledger.inFlight() < context_.plan.window)
	{
		if (cut_.empty())
		{
			cut_ = cut(*wal_[next_]);
			sent_ = 0;
		}
		const ChangeEvent &event = cut_[sent_++];
		std::string json;
		encode(event, json);
		if (sent_ == cut_.size())
			markLast(json);
		send(std::move(json));
		if (sent_ == cut_.size())
		{
			session_->ledger.commit(event.tx.commitLsn, event.tx.sequence);
			++next_;
			cut_.clear();
		}
	}
	if (session_ && !isFenced_ && context_.breaks(Break::EarlyConfirm))
		slot_.confirmed = confirmed_ = next_;
}

// The records of a transaction, or of what is sent like one. Ids are the same whoever sends them; positions need not be: the extractor that follows
// may be another version of mrsync. Here every other incarnation has something to say between the events.
std::vector<ChangeEvent> Extractor::cut(const WalRecord &record) const
{
	uint64_t previous = next_ == slot_.begin ? slot_.hole : wal_[next_ - 1]->sequence;
	std::vector<ChangeEvent> records = record.events;
	if (session_->incarnation % 2 == 1)
	{
		ChangeEvent aside = records.front();
		aside.operation = Operation::Ddl;
		aside.tx.seen.reset();
		records.insert(records.begin() + 1, std::move(aside));
	}
	for (size_t i = 0; i < records.size(); ++i)
	{
		records[i].tx.incarnation = session_->incarnation;
		records[i].tx.previous = previous;
		records[i].tx.position = static_cast<uint32_t>(i + 1);
	}
	return records;
}

void Extractor::send(std::string record)
{
	session_->ledger.sent(AckLedger::Data);
	session_->underWay.push_back(std::move(record));
	int64_t now = context_.scheduler.now();
	session_->lastLanding = std::max(session_->lastLanding, now + context_.upTo(context_.plan.networkDelay));
	context_.scheduler.after(session_->lastLanding - now, [this, session = session_] { land(session); });
}

// The first record under way arrives, whichever it is by now: a session's order is never broken.
void Extractor::land(const std::shared_ptr<Session> &session)
{
	int64_t now = context_.scheduler.now();
	int64_t wait = std::max(context_.kafka.unavailableFor(), session->heldUntil - now);
	if (wait > 0)
	{
		context_.scheduler.after(wait, [this, session] { land(session); });
		return;
	}
	if (session->dead && context_.random.oneIn(15))
		session->underWay.clear();
	if (session->underWay.empty())
		return;
	context_.kafka.topic(region_).records.push_back(std::move(session->underWay.front()));
	session->underWay.pop_front();
	context_.scheduler.after(context_.upTo(context_.plan.networkDelay), [this, session] { acknowledged(session); });
}

void Extractor::acknowledged(const std::shared_ptr<Session> &session)
{
	if (session->dead)
		return;
	session->ledger.acked(AckLedger::Data);
	if (!isFenced_)
		confirm();
	pump();
}

void Extractor::confirm()
{
	uint64_t sequence = session_->ledger.confirm().sequence;
	while (confirmed_ < wal_.size() && wal_[confirmed_]->sequence <= sequence)
		++confirmed_;
	if (context_.random.oneIn(3)) // the slot reaches the disk now and then
		slot_.confirmed = confirmed_;
}

bool Extractor::isDrained() const
{
	return session_ && !isFenced_ && session_->ledger.drained() && confirmed_ == wal_.size();
}

} // namespace mrsync::sim
