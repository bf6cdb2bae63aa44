// The server. A local write is stamped while its rows are locked and commits a little later, so that commits overtake
// each other by hlc; whatever it overwrites is checked against its stamp (I11).
#include "sim/region.h"

#include "sim/resend.h"

#include "core/codec.h"

#include <algorithm>
#include <cstring>

namespace mrsync::sim
{
namespace
{

constexpr uint64_t kRecordBytes = 64;
constexpr int64_t kCeilingAhead = 5 * kSecond;
constexpr int64_t kTrueTime = 848'736'660'000'000; // some day in 2026: what now() == 0 means on a wall clock

} // namespace

size_t Region::UuidHash::operator()(const Uuid &uuid) const
{
	uint64_t low;
	std::memcpy(&low, uuid.bytes.data() + 8, sizeof(low));
	return low * 0x9E3779B97F4A7C15;
}

Region::Region(Context &context, int index)
    : context_(context), index_(index), name_(context.nameOf(index)), extractor_(context, index, wal_),
      watermarks_(context, *this), recovery_(context, *this), own_(context, *this, index)
{
	database_.store = Store(context.plan.loser);
	database_.links.resize(static_cast<size_t>(context.plan.regions));
	database_.mended.resize(static_cast<size_t>(context.plan.regions));
	database_.past.resize(static_cast<size_t>(context.plan.regions));
	database_.applied.resize(static_cast<size_t>(context.plan.regions));
	database_.controlIncarnation.resize(static_cast<size_t>(context.plan.regions));
	database_.controlRead.resize(static_cast<size_t>(context.plan.regions));
	flushed_ = database_;
	for (int source = 0; source < context.plan.regions; ++source)
		if (source != index)
			appliers_.push_back(std::make_unique<Applier>(context, *this, source));
}

void Region::start()
{
	up_ = true;
	++life_;
	bool trustsPhysical = context_.breaks(Break::Ceiling);
	word_ = trustsPhysical ? 0 : ceiling_.value;
	renewCeiling();
	lookAside();
	recovery_.start();
	for (auto &applier : appliers_)
		applier->start();
	watermarks_.start();
}

void Region::crash()
{
	up_ = false;
	++life_;
	said_ = std::max(said_, clock_.last());
	extractor_.stop();
	open_.clear();
	database_ = flushed_;
	while (applied_.size() > database_.appliedEvents)
	{
		appliedIds_.erase(applied_.back());
		applied_.pop_back();
	}
}

std::vector<Uuid> Region::flushedApplied() const
{
	return {applied_.begin(), applied_.begin() + static_cast<std::ptrdiff_t>(flushed_.appliedEvents)};
}

void Region::restore(const Disk &disk)
{
	database_ = flushed_ = disk.database;
	wal_ = disk.wal;
	written_.clear();
	for (const auto &record : wal_)
		written_.insert(record->events.front().id);
	// Two lives do not write at the same place: within a millisecond, two events there would share their id.
	lsn_ = disk.lsn / kRecordBytes * kRecordBytes + 8 * (++restored_ % (kRecordBytes / 8));
	ceiling_ = disk.ceiling;
	applied_ = disk.applied;
	appliedIds_ = {applied_.begin(), applied_.end()};
	Slot slot = disk.slot;
	if (!context_.breaks(Break::OldIncarnation)) // the time is in its number
		slot.incarnation = extractor_.slot().incarnation;
	extractor_.restore(slot);
	context_.newest[static_cast<size_t>(index_)] = extractor_.newest();
	relapsed_ = true;
}

bool Region::hasCaughtUp() const
{
	return std::all_of(appliers_.begin(), appliers_.end(), [](const auto &applier) { return applier->hasCaughtUp(); });
}

bool Region::has(const Transaction &transaction) const
{
	return wrote(transaction) || wasApplied(transaction.events.front().id);
}

void Region::resend(Hlc from, std::function<void()> done)
{
	std::make_shared<Resend>(context_, *this, from)->run(std::move(done));
}

bool Region::loseTopic(const std::function<void()> &lose)
{
	if (!up_ || !recovery_.isDone())
		return false;
	lose();
	++losses_;
	// A topic does not lose the beginning of an incarnation while what came before it is still under way.
	if (context_.plan.setBacks)
		extractor_.forgetDead();
	return true;
}

void Region::loseSlot()
{
	if (!up_ || !recovery_.hasLooked())
		return;
	extractor_.stop();
	extractor_.makeSlotAnew(position());
	extractor_.start();
}

// ---- the clock

int64_t Region::physical() const
{
	int64_t time = kTrueTime + context_.scheduler.now() + offset_;
	return time - time % context_.plan.granularity;
}

void Region::ensureCeiling(Hlc hlc)
{
	if (!context_.breaks(Break::LazyCeiling) && ceiling_ < hlc)
		ceiling_.value = hlc.value + kCeilingAhead;
}

void Region::renewCeiling()
{
	ceiling_ = std::max(ceiling_, Hlc{std::max(clock_.last().value, physical()) + kCeilingAhead});
	context_.scheduler.after(kSecond,
	                         [this, life = life_]
	                         {
		                         if (life == life_)
			                         renewCeiling();
	                         });
}

bool Region::isBeyondSkew(Hlc hlc) const
{
	return hlc.value > physical() + context_.plan.maxClockSkew;
}

void Region::adopt(Hlc hlc)
{
	ensureCeiling(hlc); // before: the versions that are written below it may survive a crash
	clock_.adopt(hlc);
}

Hlc Region::tick()
{
	Hlc hlc = clock_.stamp([this] { return physical(); }, false).hlc;
	ensureCeiling(hlc);
	return hlc;
}

std::optional<Hlc> Region::lowestBound() const
{
	std::optional<Hlc> lowest;
	for (const OpenTransaction &tx : open_)
		if (tx.bound)
			lowest = std::min(*tx.bound, lowest.value_or(*tx.bound));
	return lowest;
}

// ---- local writers

bool Region::isLocked(int key) const
{
	return std::any_of(open_.begin(), open_.end(),
	                   [key](const OpenTransaction &tx) { return tx.locksTable || tx.keys.contains(key); });
}

bool Region::isTaken(int unique) const
{
	return std::any_of(open_.begin(), open_.end(),
	                   [unique](const OpenTransaction &tx) { return tx.locksTable || tx.uniques.contains(unique); });
}

// Does an open transaction hold what decides where the row belongs?
bool Region::isInTheWay(int key, const Content &content) const
{
	auto holds = [&](int unique)
	{
		std::optional<int> rival = database_.store.rival(key, unique);
		return (unique != 0 && isTaken(unique)) || (rival && isLocked(*rival));
	};
	std::optional<Content> made = makeFit(context_.plan.loser, content);
	return holds(content.unique) || (made && holds(made->unique));
}

bool Region::isOpen(uint64_t transaction) const
{
	return std::any_of(open_.begin(), open_.end(),
	                   [transaction](const OpenTransaction &tx) { return tx.id == transaction; });
}

std::vector<uint64_t> Region::openTransactions() const
{
	std::vector<uint64_t> ids;
	for (const OpenTransaction &tx : open_)
		ids.push_back(tx.id);
	return ids;
}

void Region::write()
{
	open_.emplace_back();
	auto tx = std::prev(open_.end());
	tx->id = ++opened_;
	tx->past = database_.past;
	Rows rows = database_.store.table();
	for (uint64_t count = 1 + context_.random.below(5); count > 0; --count)
		runStatement(*tx, rows);
	if (tx->statements.empty())
	{
		open_.erase(tx);
		return;
	}
	context_.scheduler.after(context_.upTo(context_.plan.statementTime),
	                         [this, tx, life = life_]
	                         {
		                         if (life != life_)
			                         return;
		                         tx->bound = clock_.last();
		                         tx->stamp = clock_.stamp([this] { return physical(); }, context_.plan.forceOverride);
		                         ensureCeiling(tx->stamp.hlc);
		                         context_.scheduler.after(context_.upTo(context_.plan.statementTime),
		                                                  [this, tx, life]
		                                                  {
			                                                  if (life == life_)
				                                                  commit(tx);
		                                                  });
	                         });
}

void Region::writeAnew(int key)
{
	open_.emplace_back();
	auto tx = std::prev(open_.end());
	tx->id = ++opened_;
	tx->past = database_.past;
	if (!lock(*tx, key))
	{
		open_.erase(tx);
		return;
	}
	Rows rows = database_.store.table();
	auto old = rows.find(key);
	Content value{name_ + std::to_string(++values_), 0};
	if (old == rows.end())
		tx->statements.push_back({Operation::Insert, key, std::nullopt, value});
	else
		tx->statements.push_back({Operation::Update, key, old->second, value});
	tx->bound = clock_.last();
	tx->stamp = clock_.stamp([this] { return physical(); }, context_.plan.forceOverride);
	ensureCeiling(tx->stamp.hlc);
	commit(tx);
}

void Region::forgetVersions()
{
	for (Database *database : {&database_, &flushed_})
		database->store.forgetVersions(clock_.last());
}

// Takes the row's lock; false when another transaction holds it.
bool Region::lock(OpenTransaction &tx, int key) const
{
	for (const OpenTransaction &other : open_)
		if (&other != &tx && (other.locksTable || other.keys.contains(key)))
			return false;
	tx.keys.insert(key);
	return true;
}

// Takes hold of a value of the unique column, to give it to a row, or away from it; false when another row or another
// transaction has it.
bool Region::take(OpenTransaction &tx, const Rows &rows, int unique, int forKey) const
{
	if (unique == 0)
		return true;
	for (const auto &[key, content] : rows)
		if (key != forKey && content.unique == unique)
			return false;
	for (const OpenTransaction &other : open_)
		if (&other != &tx && other.uniques.contains(unique))
			return false;
	tx.uniques.insert(unique);
	return true;
}

void Region::runStatement(OpenTransaction &tx, Rows &rows)
{
	test::Random &random = context_.random;
	uint64_t kind = random.below(100);
	if (kind < 3)
	{
		if (open_.size() > 1)
			return; // others hold locks on the table
		tx.locksTable = true;
		tx.statements.push_back({Operation::Truncate, 0, std::nullopt, std::nullopt});
		rows.clear();
		return;
	}
	int key = static_cast<int>(random.below(static_cast<uint64_t>(context_.plan.rows)));
	if (!lock(tx, key))
		return;
	Content value{name_ + std::to_string(++values_), 0};
	auto old = rows.find(key);
	if (context_.plan.uniques > 0)
	{
		value.unique = random.oneIn(5) ? 0 : 1 + static_cast<int>(random.below(static_cast<uint64_t>(context_.plan.uniques)));
		if ((old != rows.end() && !take(tx, rows, old->second.unique, key)) || !take(tx, rows, value.unique, key))
			return;
	}
	if (old == rows.end())
	{
		tx.statements.push_back({Operation::Insert, key, std::nullopt, value});
		rows[key] = value;
		return;
	}
	Content before = old->second;
	if (kind < 50)
	{
		tx.statements.push_back({Operation::Update, key, before, value});
		old->second = value;
		return;
	}
	// A deletion: alone, with the row inserted again, or as the first half of a change of the key.
	int target = static_cast<int>(random.below(static_cast<uint64_t>(context_.plan.rows)));
	bool inserts = kind >= 75;
	if (inserts && target != key && (rows.contains(target) || !lock(tx, target)))
		inserts = false;
	rows.erase(old);
	tx.statements.push_back({Operation::Delete, key, before, std::nullopt});
	if (!inserts)
		return;
	rows[target] = value;
	tx.statements.push_back({Operation::Insert, target, std::nullopt, value});
}

void Region::commit(std::list<OpenTransaction>::iterator open)
{
	OpenTransaction tx = std::move(*open);
	open_.erase(open);

	relapsed_ = relapsed_ && !hasCaughtUp();
	std::vector<ChangeEvent> events;
	for (const Statement &statement : tx.statements)
		events.push_back(eventOf(statement, tx.stamp.hlc));
	const WalRecord &record = append(std::move(events), context_.random);
	auto writer = std::make_shared<const Writer>(Writer{{tx.stamp.hlc, name_}, record.sequence, database_.seen});
	for (const Statement &statement : tx.statements)
		writeLocally(statement, writer);
	context_.history.commit({index_, writer->version, writer->sequence, writer->seen, record.events, std::move(tx.past), relapsed_});
	Hlc &past = database_.past[static_cast<size_t>(index_)];
	past = std::max(past, tx.stamp.hlc);
	sendAppended();
}

// Completes the envelopes.
const WalRecord &Region::append(std::vector<ChangeEvent> events, test::Random &random)
{
	lsn_ += kRecordBytes * (5 + random.below(100));
	for (size_t i = 0; i < events.size(); ++i)
	{
		ChangeEvent &event = events[i];
		event.committedAt = physical();
		event.tx.sequence = position();
		event.tx.commitLsn = lsn_;
		event.tx.xid = opened_;
		if (i == 0)
			event.tx.seen = database_.seen;
		event.id = eventId(event.tx.resent ? Hlc{context_.scheduler.now()} : event.hlc, name_, lsn_, i);
	}
	written_.insert(events.front().id);
	wal_.push_back(std::make_shared<const WalRecord>(WalRecord{position(), lsn_, std::move(events)}));
	context_.newest[static_cast<size_t>(index_)] = position();
	return *wal_.back();
}

void Region::sendAppended()
{
	flush(); // a user's commit waits for the disk, and with it comes everything before it
	extractor_.pump();
}

void Region::log(std::vector<ChangeEvent> events, test::Random &random)
{
	append(std::move(events), random);
	sendAppended();
}

// I11: the row's version, or the memory of its deletion, is below what replaces it.
void Region::checkDominance(int key, const WriterPtr &writer) const
{
	std::optional<Row> row = database_.store.find(key);
	if (row && row->writer != writer && row->writer->version.hlc >= writer->version.hlc)
		throw CheckFailed("I11", name_ + " wrote row " + std::to_string(key) + " with the stamp " +
		                             toText(writer->version.hlc) + " over the version " +
		                             toText(row->writer->version.hlc) + " of " + row->writer->version.region);
}

void Region::writeLocally(const Statement &statement, const WriterPtr &writer)
{
	bool remembers = !context_.breaks(Break::NoTombstone);
	Store &store = database_.store;
	auto remove = [&](int key)
	{
		checkDominance(key, writer);
		if (remembers)
			store.remove(key, writer);
		else
			store.forget(key);
	};
	if (statement.op == Operation::Truncate)
	{
		for (const auto &[key, content] : store.rows(LocalKind::Live))
			remove(key);
		if (remembers)
			store.rememberTruncation(writer);
	}
	else if (statement.op == Operation::Delete)
		remove(statement.key);
	else
	{
		checkDominance(statement.key, writer);
		store.put(statement.key, *statement.after, writer);
	}
}

ChangeEvent Region::eventOf(const Statement &statement, Hlc hlc) const
{
	ChangeEvent event;
	event.region = name_;
	event.table = kTable;
	event.operation = statement.op;
	if (statement.op != Operation::Truncate)
		event.pk = pkOf(statement.key);
	if (statement.before)
		event.before = imageOf(statement.key, *statement.before);
	if (statement.after)
		event.after = imageOf(statement.key, *statement.after);
	event.hlc = hlc;
	return event;
}

// ---- the applier's commits

void Region::recordApplied(const Uuid &event)
{
	applied_.push_back(event);
	appliedIds_.insert(event);
	database_.appliedEvents = applied_.size();
}

void Region::commitApplied()
{
	if (context_.random.oneIn(3)) // synchronous_commit = off: it reaches the disk sooner or later
		flush();
}

Store::Rule Region::rule() const
{
	return context_.breaks(Break::UniqueArrival) ? Store::Rule::Arrival : Store::Rule::Version;
}

void Region::releaseAside()
{
	if (context_.breaks(Break::UniqueStuck))
		return;
	Store &store = database_.store;
	store.dropDeletedAside();
	for (bool again = true; again;)
	{
		again = false;
		for (int key : store.released(rule()))
		{
			const Row row = *store.find(key);
			if (row.made && context_.breaks(Break::MadeStays))
				continue;
			if (isLocked(key) || isInTheWay(key, row.content))
				continue;
			store.place(key, row.content, row.writer, rule());
			again = true;
			break;
		}
	}
}

// What users' writes have freed is found by looking.
void Region::lookAside()
{
	releaseAside();
	context_.scheduler.after(kSecond,
	                         [this, life = life_]
	                         {
		                         if (life == life_)
			                         lookAside();
	                         });
}

void Region::flush()
{
	flushed_ = database_;
}

} // namespace mrsync::sim
