// The source side. What AckLedger promises is used as the real extractor uses it: the slot moves by confirm() alone.
#include "sim/extractor.h"

#include "core/codec.h"

namespace mrsync::sim
{

void Extractor::start()
{
	session_ = std::make_shared<Session>();
	session_->incarnation = ++incarnation_;
	confirmed_ = slot_;
	next_ = slot_;
	cut_.clear();
	pump();
}

void Extractor::stop()
{
	if (!session_)
		return;
	session_->dead = true;
	if (context_.random.oneIn(2))
		session_->heldUntil = context_.scheduler.now() + context_.upTo(8 * kSecond);
	session_.reset();
}

void Extractor::pump()
{
	const std::vector<Transaction> &wal = context_.history.of(region_);
	while (session_ && next_ < wal.size() && session_->ledger.inFlight() < context_.plan.window)
	{
		if (cut_.empty())
		{
			cut_ = cut(wal[next_]);
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
	if (session_ && context_.breaks(Break::EarlyConfirm))
		slot_ = confirmed_ = next_;
}

// The records of a transaction. Ids are the same whoever sends them; positions need not be: the extractor that follows
// may be another version of mrsync. Here every other incarnation has something to say between the events.
std::vector<ChangeEvent> Extractor::cut(const Transaction &tx) const
{
	std::vector<ChangeEvent> records = tx.events;
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
	context_.kafka.topic(region_).push_back(std::move(session->underWay.front()));
	session->underWay.pop_front();
	context_.scheduler.after(context_.upTo(context_.plan.networkDelay), [this, session] { acknowledged(session); });
}

void Extractor::acknowledged(const std::shared_ptr<Session> &session)
{
	if (session->dead)
		return;
	session->ledger.acked(AckLedger::Data);
	confirm();
	pump();
}

void Extractor::confirm()
{
	uint64_t sequence = session_->ledger.confirm().sequence;
	const std::vector<Transaction> &wal = context_.history.of(region_);
	while (confirmed_ < wal.size() && wal[confirmed_].sequence <= sequence)
		++confirmed_;
	if (context_.random.oneIn(3)) // the slot reaches the disk now and then
		slot_ = confirmed_;
}

bool Extractor::isDrained() const
{
	return session_ && session_->ledger.drained() && confirmed_ == context_.history.of(region_).size();
}

} // namespace mrsync::sim
