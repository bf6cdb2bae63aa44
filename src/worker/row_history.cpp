// Target: the histories of its rows, read and written (pg/rowhistory.h; core/fold.h).
#include "worker/as_owner.h"
#include "worker/target.h"

#include "core/codec.h"
#include "pg/rowhistory.h"
#include "pg/spi.h"

#include <algorithm>

namespace mrsync
{

namespace
{

constexpr size_t kMostKnown = 16 * 1024 * 1024; // bytes of images kept in memory, of one table

RowState stateOf(const spi::Value &json)
{
	if (!json)
		return std::nullopt;
	auto decoded = decodeImage(*json);
	if (auto *error = std::get_if<DecodeError>(&decoded))
		throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.row_history holds what is no row").detail(error->message);
	return std::get<Image>(std::move(decoded));
}

size_t sizeOf(const RowState &state)
{
	size_t size = 0;
	if (state)
		for (const Column &column : *state)
			size += sizeof(Column) + column.value.value_or("").size();
	return size;
}

} // namespace

std::vector<Image> historiesOf(Oid root)
{
	std::vector<Image> keys;
	for (const spi::Row &row : spi::query("SELECT DISTINCT ON (key_hash, row_pk::text) row_pk FROM mrsync.row_history WHERE relation = $1::oid", {std::to_string(root)}))
		keys.push_back(*stateOf(row[0]));
	return keys;
}

template <typename F> auto Target::withHistoryKey(const std::string &pkText, F &&f)
{
	AsOwner owner(owner_);
	return pgCall(
		[&, text = pkText.c_str()]
		{
			Relation rel = table_open(relation, NoLock);
			const KeyInfo &key = keyInfoUnguarded(rel);
			auto result = f(HistoryKey{&key, keyValues_, keyHash(key, keyValues_), text});
			table_close(rel, NoLock);
			return result;
		});
}

int Target::historyCount()
{
	return withHistoryKey("", [](const HistoryKey &key) { return mrsync::historyCount(key); });
}

// count: of all entries, those that are not asked for included. Where different keys have one hash, it says too much, and the history
// is read from its beginning each time.
std::vector<Target::HistoryRow> Target::historyRows(const std::string &pkText, int64_t behind, size_t &count)
{
	std::vector<HistoryRow> entries;
	count = 0;
	// one statement, so one snapshot; the count in its first row
	static spi::Statement *const statement = new spi::Statement("SELECT h.entry_id, h.row_pk, h.is_base, coalesce(h.hlc, v.hlc)::bigint, CASE WHEN h.is_base THEN h.region_id ELSE v.region_id END, "
					"CASE WHEN h.is_base THEN h.region_id IS NOT NULL ELSE v.exact END, h.before, h.after, n.entries FROM (SELECT count(*) FROM "
					"mrsync.row_history WHERE relation = $1::oid AND key_hash = $2::bigint) n (entries) LEFT JOIN (mrsync.row_history h CROSS JOIN "
					"LATERAL mrsync.row_version(h.tableoid, h.ctid, h.xmin) v) ON h.relation = $1::oid AND h.key_hash = $2::bigint AND h.entry_id > "
					"$3::bigint ORDER BY h.entry_id");
	for (const spi::Row &row : statement->query({std::to_string(root), std::to_string(static_cast<int64_t>(heldKeyHash())), std::to_string(behind)}))
	{
		count = std::stoull(*row[8]);
		if (row[0] && (*row[1] == pkText || heldKeyEquals(*row[1])))
			entries.push_back({std::stoll(*row[0]), row[2] == "t",
							   row[3] ? std::optional(Version{Hlc{std::stoll(*row[3])}, row[4].value_or("")}) : std::nullopt, row[5] != "f",
							   merger->normal(stateOf(row[6])), merger->normal(stateOf(row[7]))});
	}
	return entries;
}

// False: it has to be read from its beginning.
bool Target::readFurther(KnownHistory &known, std::vector<HistoryRow> rows, size_t count, const Version &mine) const
{
	const bool hasBegun = known.count > 0 || !known.pending.empty();
	if (hasBegun && (count != known.count + rows.size() || std::any_of(rows.begin(), rows.end(), [](const HistoryRow &row) { return row.isBase; })))
		return false; // forgotten in part, or there is one with an older number
	for (const HistoryRow &row : rows)
		if (row.isExact && !row.after)
			known.ended = std::max(known.ended, row.version.value_or(mine));
	auto isUnknown = [&](const HistoryRow &row) { return !row.isExact && row.version->hlc >= known.ended.hlc; };
	for (const HistoryRow &row : rows)
		if (!row.isBase && isUnknown(row))
			throw historyForgotten("An entry of mrsync.row_history was written by a transaction whose commit timestamp this server does not have any more.");
	// Where one was written while another was being forgotten, there are two: the newer one stands for more.
	const HistoryRow *base = nullptr;
	for (const HistoryRow &row : rows)
		if (row.isBase && (!base || *base->version < *row.version))
			base = &row;
	if (base)
		known.history = History(*base->version, base->after);
	if (base && isUnknown(*base))
		known.baseAtMost = base->version->hlc;
	std::set<int64_t> pending;
	for (HistoryRow &row : rows)
	{
		bool isKnown = known.pending.erase(row.id) > 0;
		if (isKnown && row.version && *row.version != *known.pendingVersion)
			return false;
		if (row.version)
		{
			++known.count;
			known.last = row.id;
		}
		else
			pending.insert(row.id);
		if (row.isBase || isKnown || !row.isExact)
			continue;
		known.size += sizeOf(row.before) + 2 * sizeOf(row.after); // the state after it is kept, too
		known.history.insert({row.version.value_or(mine), std::move(row.before), std::move(row.after)});
	}
	if (!known.pending.empty())
		return false; // their transaction was rolled back
	known.pending = std::move(pending);
	known.pendingVersion = mine;
	return true;
}

PgError Target::historyForgotten(const char *what) const
{
	return PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the history of a row of " + name + " has a version that is not known any more")
		.detail(what)
		.hint("Delete the row and insert it again, in one transaction, in any region, as it should be: then the event is the older one, and goes by "
			  "itself.");
}

History &Target::history(const std::string &pkText, const Version &mine)
{
	const std::string name = heldKeyName(pkText);
	if (historySize_ > kMostKnown) // but for this one, whatever its size: it would be read anew each time
	{
		auto kept = histories_.extract(name);
		histories_.clear();
		historySize_ = kept ? kept.mapped().size : 0;
		if (kept)
			histories_.insert(std::move(kept));
	}
	KnownHistory &known = histories_[name];
	size_t count;
	std::vector<HistoryRow> rows = historyRows(pkText, known.last, count);
	const size_t before = known.size;
	if (!readFurther(known, std::move(rows), count, mine))
	{
		known = KnownHistory();
		rows = historyRows(pkText, 0, count);
		readFurther(known, std::move(rows), count, mine);
	}
	historySize_ += known.size - before;
	if (known.baseAtMost && mine.hlc <= *known.baseAtMost && known.ended.hlc <= *known.baseAtMost)
		throw historyForgotten("The event may be older than the row was when its history began.");
	return known.history;
}

std::vector<HistoryEvent> Target::othersEvents(const std::string &pkText, const Version &version)
{
	std::vector<HistoryEvent> events;
	for (const HistoryEvent &event : history(pkText, version).events())
		if (event.version == version)
			events.push_back(event);
	const size_t mine = histories_.at(heldKeyName(pkText)).pending.size(); // behind those of others
	events.resize(events.size() - std::min(events.size(), mine));
	return events;
}

bool Target::forgetHistory(const Image &pk, Hlc upTo)
{
	keyName(pk);
	const std::string pkText = encodeImage(pk);
	size_t count;
	std::vector<HistoryRow> rows = historyRows(pkText, 0, count);
	// The table's truncations are in no history; they are remembered as long as there is one (worker/pruner.cpp).
	Version truncation;
	static spi::Statement *const truncations =
		new spi::Statement("SELECT v.hlc::bigint, v.region_id, v.exact FROM mrsync.tombstone t CROSS JOIN LATERAL mrsync.row_version(t.tableoid, t.ctid, t.xmin) v "
						   "WHERE t.relation IN ($1::oid, $2::oid) AND t.key_hash IS NULL");
	for (const spi::Row &row : truncations->query({std::to_string(root), std::to_string(relation)}))
		if (row[2] == "f")
			return true; // what it has ended cannot be told: the history stays
		else
			truncation = std::max(truncation, Version{Hlc{std::stoll(*row[0])}, row[1].value_or("")});
	std::string ids;
	size_t gone = 0;
	for (const HistoryRow &row : rows)
		if (row.isBase || row.version->hlc <= upTo || *row.version < truncation)
		{
			ids += (ids.empty() ? "{" : ",") + std::to_string(row.id);
			++gone;
		}
	if (ids.empty())
		return true;
	static spi::Statement *const forgotten =
		new spi::Statement("DELETE FROM mrsync.row_history WHERE relation = $1::oid AND key_hash = $2::bigint AND entry_id = ANY ($3::bigint[])");
	if (forgotten->execute({std::to_string(root), std::to_string(static_cast<int64_t>(heldKeyHash())), ids + "}"}) != gone)
		return false; // another applier has been here
	if (gone == rows.size())
		return historyCount() == 0;
	KnownHistory all;
	readFurther(all, std::move(rows), count, Version());
	if (all.history.baseVersion() < truncation)
		all.history.deleted(truncation);
	merger->row(pkText, heldKeyName(pkText), Version{Hlc{INT64_MAX}, ""});
	all.history.forget(upTo, merger->rules(), *merger);
	addHistoryBase(pkText, all.history.baseVersion(), std::nullopt, all.history.base());
	return true;
}

void Target::addHistory(const std::string &pkText, const RowState &before, const RowState &after)
{
	const std::string beforeText = before ? encodeImage(*before) : "", afterText = after ? encodeImage(*after) : "";
	withHistoryKey(pkText,
				   [&, from = before ? beforeText.c_str() : nullptr, to = after ? afterText.c_str() : nullptr](const HistoryKey &key)
				   {
					   historyAdd(key, from, to);
					   return true;
				   });
}

void Target::addHistoryBase(const std::string &pkText, const Version &version, const std::optional<Hlc> &atMost, const RowState &state)
{
	const std::string text = state ? encodeImage(*state) : "";
	const Hlc hlc = atMost.value_or(version.hlc);
	withHistoryKey(pkText,
				   [&, region = atMost ? nullptr : version.region.c_str(), row = state ? text.c_str() : nullptr](const HistoryKey &key)
				   {
					   historyAddBase(key, hlc, region, row);
					   return true;
				   });
}

void Target::keepVersion(const Version &version, const std::string &pkText)
{
	withHistoryKey(pkText,
				   [&, region = version.region.c_str()](const HistoryKey &key)
				   {
					   const TransactionId xid = GetCurrentTransactionId();
					   if (rowEntryOf(*key.key, key.values, xid).kind == RowEntry::Version)
						   return false; // an earlier event of this transaction has said it
					   RowEntryWriter writer{};
					   writer.open(myRegion(), relation, xid);
					   writer.write({RowEntry::Version, version.hlc, region}, key.hash, key.text);
					   writer.close();
					   CommandCounterIncrement();
					   return true;
				   });
}

} // namespace mrsync
