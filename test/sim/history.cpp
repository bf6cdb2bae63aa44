// The checks that need to know everything: I3 as events meet, I5 and the fold of I1 at the end.
#include "sim/history.h"

#include "core/codec.h"

#include <algorithm>
#include <set>

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
	own.push_back(std::move(transaction));
}

const Transaction &History::find(int region, uint64_t sequence) const
{
	const std::vector<Transaction> &own = of(region);
	auto found = std::lower_bound(own.begin(), own.end(), sequence,
	                              [](const Transaction &tx, uint64_t wanted) { return tx.sequence < wanted; });
	if (found == own.end() || found->sequence != sequence)
		throw CheckFailed("I2", "a transaction arrived that was never committed: " + std::to_string(sequence));
	return *found;
}

bool History::areConcurrent(const Version &a, const Version &b) const
{
	auto find = [this](const Version &version) -> const Transaction &
	{
		auto [region, index] = byVersion_.at(version);
		return of(region)[index];
	};
	auto saw = [](const Transaction &later, const Transaction &earlier)
	{
		auto entry = later.seen.find(earlier.version.region);
		return entry != later.seen.end() && entry->second.sequence >= earlier.sequence;
	};
	return !saw(find(a), find(b)) && !saw(find(b), find(a));
}

void History::verdict(int key, const Version &local, const Version &incoming, const Decision &decision)
{
	// Two events of one region do not meet as rivals: their own order is the order of their sequences.
	if (local.region == incoming.region)
		return;
	Uuid id = conflictId(kTable, encodeImage(pkOf(key)), local.hlc, local.region, incoming.hlc, incoming.region);
	Verdict now{decision.incomingWins ? incoming : local, decision.conflict != ConflictType::None};
	auto [known, isNew] = verdicts_.emplace(id, now);
	if (isNew && now.conflict != areConcurrent(local, incoming))
		throw CheckFailed("I3", "row " + std::to_string(key) + ": " + local.region + " " + toText(local.hlc) + " and " +
		                            incoming.region + " " + toText(incoming.hlc) +
		                            (now.conflict ? " are called a conflict, but one had seen the other"
		                                          : " are called sequential, but neither had seen the other"));
	if (isNew || known->second == now)
		return;
	auto describe = [](const Verdict &verdict)
	{ return verdict.winner.region + " wins, " + (verdict.conflict ? "a conflict" : "no conflict"); };
	throw CheckFailed("I3", "row " + std::to_string(key) + ": " + local.region + " " + toText(local.hlc) + " and " +
	                            incoming.region + " " + toText(incoming.hlc) + ": " + describe(known->second) +
	                            " in one region; " + describe(now) + " in another");
}

void History::checkCausality() const
{
	// Of each region, the highest stamp of its first n commits, at n.
	std::vector<std::vector<Hlc>> highest;
	for (const std::vector<Transaction> &own : committed_)
	{
		highest.emplace_back(1);
		std::set<Hlc> stamps;
		for (const Transaction &tx : own)
		{
			highest.back().push_back(std::max(highest.back().back(), tx.version.hlc));
			if (!stamps.insert(tx.version.hlc).second)
				throw CheckFailed("I5", nameOf(tx) + " has the stamp of another transaction of its region");
		}
	}
	for (const std::vector<Transaction> &own : committed_)
		for (const Transaction &tx : own)
			for (size_t region = 0; region < highest.size(); ++region)
				if (Hlc before = highest[region][tx.past[region]]; before >= tx.version.hlc)
					throw CheckFailed("I5", nameOf(tx) + " had seen a commit of region " +
					                            committed_[region].front().version.region + " stamped " +
					                            toText(before));
}

std::map<int, Folded> History::fold(int rows) const
{
	std::vector<const ChangeEvent *> events;
	std::set<Uuid> ids;
	for (const std::vector<Transaction> &own : committed_)
		for (const Transaction &tx : own)
			for (const ChangeEvent &event : tx.events)
			{
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
