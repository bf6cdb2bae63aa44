// The checks that need to know everything: I3 as events meet, I5 and the fold of I1 at the end.
#include "sim/history.h"

#include "core/codec.h"

#include <algorithm>

namespace mrsync::sim
{
namespace
{

std::string nameOf(const Transaction &tx)
{
	return tx.version.region + "/" + std::to_string(tx.sequence) + " (" + toText(tx.version.hlc) + ")";
}

} // namespace

void History::commit(Transaction transaction)
{
	std::vector<Transaction> &own = committed_[static_cast<size_t>(transaction.region)];
	byVersion_[transaction.version] = {transaction.region, own.size()};
	if (!byFirst_.emplace(transaction.events.front().id, std::pair(transaction.region, own.size())).second)
		throw CheckFailed("I2", "two events share the id " + toText(transaction.events.front().id));
	own.push_back(std::move(transaction));
}

const Transaction *History::find(const Uuid &first) const
{
	auto found = byFirst_.find(first);
	return found == byFirst_.end() ? nullptr : &of(found->second.first)[found->second.second];
}

const Transaction &History::find(const Version &version) const
{
	auto [region, index] = byVersion_.at(version);
	return of(region)[index];
}

void History::settle(int region, const std::function<bool(const Transaction &)> &has)
{
	for (Transaction &tx : committed_[static_cast<size_t>(region)])
		tx.lost = !has(tx);
}

void History::hole(const Uuid &first)
{
	if (auto found = byFirst_.find(first); found != byFirst_.end())
		committed_[static_cast<size_t>(found->second.first)][found->second.second].isHole = true;
}

bool History::areConcurrent(const Version &a, const Version &b) const
{
	auto saw = [](const Transaction &later, const Transaction &earlier)
	{
		auto entry = later.seen.find(earlier.version.region);
		return entry != later.seen.end() && entry->second.sequence >= earlier.sequence;
	};
	return !saw(find(a), find(b)) && !saw(find(b), find(a));
}

void History::verdict(int key, const Version &local, const Version &incoming, const Decision &decision, bool isExact)
{
	// Two events of one region do not meet as rivals: their own order is the order of their sequences.
	if (local.region == incoming.region)
		return;
	Uuid id = conflictId(kTable, encodeImage(pkOf(key)), local.hlc, local.region, incoming.hlc, incoming.region);
	Verdict now{decision.incomingWins ? incoming : local, std::nullopt};
	if (isExact)
		now.conflict = decision.conflict != ConflictType::None;
	Verdict &known = verdicts_.emplace(id, Verdict{now.winner, std::nullopt}).first->second;
	std::string pair = "row " + std::to_string(key) + ": " + local.region + " " + toText(local.hlc) + " and " + incoming.region +
	                   " " + toText(incoming.hlc);
	if (isExact && !known.conflict && now.conflict != areConcurrent(local, incoming))
		throw CheckFailed("I3", pair + (*now.conflict ? " are called a conflict, but one had seen the other"
		                                              : " are called sequential, but neither had seen the other"));
	if (!known.conflict)
		known.conflict = now.conflict;
	if (known.winner == now.winner && (!isExact || known.conflict == now.conflict))
		return;
	auto describe = [](const Verdict &verdict)
	{ return verdict.winner.region + " wins, " + (verdict.conflict.value_or(false) ? "a conflict" : "no conflict"); };
	throw CheckFailed("I3", pair + ": " + describe(known) + " in one region; " + describe(now) + " in another");
}

void History::checkCausality() const
{
	for (const std::vector<Transaction> &own : committed_)
	{
		std::set<Hlc> stamps;
		for (const Transaction &tx : own)
		{
			if (tx.lost)
				continue;
			if (!stamps.insert(tx.version.hlc).second)
				throw CheckFailed("I5", nameOf(tx) + " has the stamp of another transaction of its region");
			for (size_t region = 0; region < committed_.size(); ++region)
				if (tx.past[region] >= tx.version.hlc)
					throw CheckFailed("I5", nameOf(tx) + " had seen a commit of region " +
					                            committed_[region].front().version.region + " stamped " + toText(tx.past[region]));
		}
	}
}

std::map<int, Folded> History::fold(int rows) const
{
	std::vector<const ChangeEvent *> events;
	std::set<Uuid> ids;
	for (const std::vector<Transaction> &own : committed_)
		for (const Transaction &tx : own)
			for (const ChangeEvent &event : tx.events)
			{
				if (tx.lost && !revived_.contains({tx.version, event.operation == Operation::Truncate ? -1 : keyOf(*event.pk)}))
					continue;
				events.push_back(&event);
				if (!ids.insert(event.id).second)
					throw CheckFailed("I2", "two events share the id " + toText(event.id));
			}
	std::sort(events.begin(), events.end(),
	          [](const ChangeEvent *a, const ChangeEvent *b)
	          { return std::tie(a->hlc, a->region, a->id) < std::tie(b->hlc, b->region, b->id); });

	std::map<int, Folded> state;
	for (const ChangeEvent *event : events)
		for (int key = 0; key < rows; ++key)
		{
			bool truncates = event->operation == Operation::Truncate;
			if (!truncates && keyOf(*event->pk) != key)
				continue;
			if (truncates || event->operation == Operation::Delete)
				state.erase(key);
			else
				state[key] = {contentOf(*event->after), {event->hlc, event->region}};
		}
	return state;
}

size_t History::events() const
{
	size_t count = 0;
	for (const std::vector<Transaction> &own : committed_)
		for (const Transaction &tx : own)
			count += tx.events.size();
	return count;
}

Image pkOf(int key)
{
	return {{"id", std::to_string(key)}};
}

Image imageOf(int key, const Content &content)
{
	std::optional<std::string> unique;
	if (content.unique != 0)
		unique = std::to_string(content.unique);
	return {{"id", std::to_string(key)}, {"v", content.value}, {"u", unique}};
}

int keyOf(const Image &image)
{
	return std::stoi(*image.at(0).value);
}

Content contentOf(const Image &image)
{
	return {*image.at(1).value, image.at(2).value ? std::stoi(*image.at(2).value) : 0};
}

} // namespace mrsync::sim
