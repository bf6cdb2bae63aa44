// The server. A local write is stamped while its rows are locked and commits a little later, so that commits overtake
// each other by hlc; whatever it overwrites is checked against its stamp (I11).
#include "sim/region.h"

#include "core/codec.h"

#include <algorithm>
#include <cstring>

namespace mrsync::sim
{
namespace
{

// Their order as bytes is not the order of their numbers.
constexpr const char *kNames[] = {"eu", "us", "ap", "Af", "sa", "\xC3\xA9", "eu2", "EU"};
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
    : context_(context), index_(index), name_(kNames[index]), extractor_(context, index)
{
	database_.links.resize(static_cast<size_t>(context.plan.regions));
	database_.past.resize(static_cast<size_t>(context.plan.regions));
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
	extractor_.start();
	for (auto &applier : appliers_)
		applier->start();
}

void Region::crash()
{
	up_ = false;
	++life_;
	extractor_.stop();
	open_.clear();
	database_ = flushed_;
	while (applied_.size() > database_.appliedEvents)
	{
		appliedIds_.erase(applied_.back());
		applied_.pop_back();
	}
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

// ---- local writers

bool Region::isLocked(int key) const
{
	return std::any_of(open_.begin(), open_.end(),
	                   [key](const OpenTransaction &tx) { return tx.locksTable || tx.keys.contains(key); });
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
	Rows rows = database_.store.liveRows();
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

void Region::forgetVersions()
{
	// of what is on disk, too: a crash does not bring them back
	for (Database *database : {&database_, &flushed_})
		database->store.forgetVersions(clock_.last());
}

void Region::writeAnew(int key)
{
	open_.emplace_back();
	auto tx = std::prev(open_.end());
	tx->id = ++opened_;
	tx->past = database_.past;
	std::string value = name_ + std::to_string(++values_);
	std::map<int, std::string> rows = database_.store.liveRows();
	if (auto old = rows.find(key); old != rows.end())
		tx->statements.push_back({Operation::Update, key, old->second, value});
	else
		tx->statements.push_back({Operation::Insert, key, std::nullopt, value});
	tx->stamp = clock_.stamp([this] { return physical(); }, context_.plan.forceOverride);
	ensureCeiling(tx->stamp.hlc);
	commit(tx);
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
	std::string value = name_ + std::to_string(++values_);
	auto old = rows.find(key);
	if (old == rows.end())
	{
		tx.statements.push_back({Operation::Insert, key, std::nullopt, value});
		rows[key] = value;
		return;
	}
	std::string before = old->second;
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

	const std::vector<Transaction> &wal = context_.history.of(index_);
	uint64_t previous = wal.empty() ? 0 : wal.back().sequence;
	lsn_ += 8 * (5 + context_.random.below(100));
	auto writer =
	    std::make_shared<const Writer>(Writer{{tx.stamp.hlc, name_}, uint64_t{1} << 48 | lsn_, database_.seen});

	Transaction real{index_, writer->version, writer->sequence, writer->seen, {}, std::move(tx.past)};
	for (const Statement &statement : tx.statements)
	{
		writeLocally(statement, writer);
		real.events.push_back(eventOf(statement, *writer, real.events.size(), previous));
	}
	context_.history.commit(std::move(real));
	++database_.past[static_cast<size_t>(index_)];
	flush(); // a user's commit waits for the disk, and with it comes everything before it
	extractor_.pump();
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
		for (const auto &[key, value] : store.liveRows())
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

ChangeEvent Region::eventOf(const Statement &statement, const Writer &writer, size_t index, uint64_t previous) const
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
	event.hlc = writer.version.hlc;
	event.committedAt = physical();
	event.tx.sequence = writer.sequence;
	event.tx.previous = previous;
	event.tx.commitLsn = lsn_;
	event.tx.xid = opened_;
	if (index == 0)
		event.tx.seen = writer.seen;
	event.id = eventId(event.hlc, name_, event.tx.commitLsn, index);
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

void Region::flush()
{
	flushed_ = database_;
}

} // namespace mrsync::sim
