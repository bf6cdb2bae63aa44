#include "worker/aside.h"

#include "core/codec.h"
#include "pg/catalog.h"
#include "pg/guard.h"
#include "pg/spi.h"

#include <utility>

extern "C"
{
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
}

namespace mrsync
{

namespace
{

// Columns of mrsync.row_aside.
constexpr AttrNumber kId = 1;
constexpr AttrNumber kRelation = 2;
constexpr AttrNumber kKeyHash = 3;
constexpr AttrNumber kRowPk = 4;
constexpr AttrNumber kRegion = 5;
constexpr AttrNumber kHlc = 6;
constexpr AttrNumber kHolderHash = 7;
constexpr AttrNumber kIsPlaced = 11;

struct Stored
{
	int64 id;
	int64 hlc;
	const char *region;
	const char *pk;
	bool isPlaced;
};

// The rows aside of a table, in the current memory context: those with this hash in the index's second column, or one of
// all (hash null). Past the executor, since it is asked for each row that is written.
List *scan(Oid root, const char *indexName, AttrNumber column, const uint64_t *hash)
{
	return pgCall(
		[&]
		{
			List *found = NIL;
			Relation rel = table_open(catalogRelation("row_aside"), AccessShareLock);
			ScanKeyData keys[2];
			ScanKeyInit(&keys[0], kRelation, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(root));
			if (hash)
				ScanKeyInit(&keys[1], column, BTEqualStrategyNumber, F_INT8EQ, UInt64GetDatum(*hash));
			SysScanDesc scan = systable_beginscan(rel, catalogRelation(indexName), true, nullptr, hash ? 2 : 1, keys);
			while (HeapTuple tuple = systable_getnext(scan))
			{
				TupleDesc desc = RelationGetDescr(rel);
				bool isNull;
				auto *entry = static_cast<Stored *>(palloc(sizeof(Stored)));
				entry->id = DatumGetInt64(heap_getattr(tuple, kId, desc, &isNull));
				entry->hlc = DatumGetInt64(heap_getattr(tuple, kHlc, desc, &isNull));
				entry->region = TextDatumGetCString(heap_getattr(tuple, kRegion, desc, &isNull));
				entry->pk = TextDatumGetCString(heap_getattr(tuple, kRowPk, desc, &isNull));
				entry->isPlaced = DatumGetBool(heap_getattr(tuple, kIsPlaced, desc, &isNull));
				found = lappend(found, entry);
				if (!hash)
					break;
			}
			systable_endscan(scan);
			table_close(rel, AccessShareLock);
			return found;
		});
}

void lockRows(Oid root, LOCKMODE mode)
{
	pgCall([&] { LockDatabaseObject(catalogRelation("row_aside"), root, 0, mode); });
}

template <typename T> T decoded(std::variant<T, DecodeError> &&result, const std::string &id)
{
	if (auto *error = std::get_if<DecodeError>(&result))
		throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.row_aside row " + id + " is damaged").detail(error->message);
	return std::get<T>(std::move(result));
}

std::string hashText(uint64_t hash) { return std::to_string(static_cast<int64_t>(hash)); }

} // namespace

Aside::State &Aside::state(Oid root)
{
	auto known = states_.find(root);
	if (known != states_.end())
		return known->second;
	lockRows(root, ShareLock);
	bool any = scan(root, "row_aside_key", kKeyHash, nullptr) != NIL;
	return states_.emplace(root, State{false, any}).first->second;
}

void Aside::share(Oid root) { (void)state(root); }

bool Aside::own(Oid root)
{
	State &known = state(root);
	if (known.isOwned)
		return true;
	lockRows(root, ExclusiveLock);
	known.isOwned = true;
	known.any = scan(root, "row_aside_key", kKeyHash, nullptr) != NIL;
	return false;
}

std::optional<AsideKey> Aside::find(Target &target, uint64_t keyHash, const std::string &pkText)
{
	if (!state(target.root).any)
		return std::nullopt;
	ListCell *cell;
	foreach (cell, scan(target.root, "row_aside_key", kKeyHash, &keyHash))
	{
		const auto &entry = *static_cast<Stored *>(lfirst(cell));
		if (pkText == entry.pk || target.keysEqual(pkText, entry.pk))
			return AsideKey{std::to_string(entry.id), Version{Hlc{entry.hlc}, entry.region}, entry.isPlaced};
	}
	return std::nullopt;
}

Image Aside::image(const std::string &id)
{
	spi::Rows rows = spi::query("SELECT image FROM mrsync.row_aside WHERE aside_id = $1::bigint", {id});
	return decoded(decodeImage(*rows[0][0]), id);
}

std::vector<std::pair<AsideKey, Image>> Aside::upTo(Oid root, const Version &version)
{
	std::vector<std::pair<AsideKey, Image>> rows;
	if (!state(root).any)
		return rows;
	(void)own(root);
	for (const spi::Row &row :
		 spi::query("SELECT aside_id, region_id, hlc::bigint, row_pk, is_placed FROM mrsync.row_aside WHERE relation = $1::oid AND (hlc "
					"OPERATOR(mrsync.<) $2::mrsync.hlc OR hlc OPERATOR(mrsync.=) $2::mrsync.hlc AND region_id <= $3)",
					{std::to_string(root), toText(version.hlc), version.region}))
		rows.emplace_back(AsideKey{*row[0], Version{Hlc{std::stoll(*row[2])}, *row[1]}, row[4] == "t"}, decoded(decodeImage(*row[3]), *row[0]));
	return rows;
}

void Aside::put(const Target &target, const std::optional<AsideKey> &former, const Entry &entry)
{
	const std::string by = "row " + entry.holder.key + " excludes it by " + entry.constraint;
	std::string message = (entry.isPlaced ? "in its table in another form: " : "held aside: ") + by;
	if (!entry.isPlaced && entry.made)
		message += "; what is made of it is excluded, too";
	else if (!entry.why.empty())
		message += "; nothing is made of it: " + entry.why;
	std::string hint = entry.isPlaced ? "Give that row another key, and this one is as it was written by itself. Or give this one another key: that is a new write."
									  : "Give that row another key, and this one comes in by itself. Or insert row " + entry.row.key +
											" anew, with another key: that replaces this one.";
	// The same version behind another holder has been aside since then.
	spi::execute("INSERT INTO mrsync.row_aside AS a (aside_id, relation, key_hash, row_pk, region_id, hlc, holder_hash, holder_pk, "
				 "constraint_name, image, message, hint, is_placed, made, definition_id) OVERRIDING SYSTEM VALUE VALUES (coalesce($1::bigint, "
				 "nextval('mrsync.row_aside_aside_id_seq')), $2::oid, $3::bigint, $4::json, $5, $6::mrsync.hlc, $7::bigint, "
				 "$8::json, $9, $10::json, $11, $12, $13::boolean, $14::json, $15::uuid) ON CONFLICT (aside_id) DO UPDATE SET row_pk = excluded.row_pk, "
				 "region_id = excluded.region_id, hlc = excluded.hlc, holder_hash = excluded.holder_hash, holder_pk = excluded.holder_pk, "
				 "constraint_name = excluded.constraint_name, image = excluded.image, message = excluded.message, hint = excluded.hint, is_placed = "
				 "excluded.is_placed, made = excluded.made, definition_id = excluded.definition_id, held_at = CASE WHEN a.region_id = "
				 "excluded.region_id AND a.hlc OPERATOR(mrsync.=) excluded.hlc THEN a.held_at ELSE excluded.held_at END, retry_at = excluded.retry_at",
				 {former ? spi::Value(former->id) : std::nullopt, std::to_string(target.root), hashText(entry.keyHash), entry.row.key,
				  entry.row.version.region, toText(entry.row.version.hlc), hashText(entry.holderHash), entry.holder.key, entry.constraint,
				  encodeImage(entry.image), message, hint, entry.isPlaced ? "t" : "f", entry.made ? spi::Value(encodeImage(*entry.made)) : std::nullopt,
				  target.loser && !target.loser->rule().empty() ? spi::Value(target.loser->rule()) : std::nullopt});
	states_[target.root].any = true;
}

void Aside::evicted(const AsideKey &row)
{
	spi::execute("UPDATE mrsync.row_aside SET is_placed = false, holder_hash = NULL, retry_at = '-infinity' WHERE aside_id = $1::bigint", {row.id});
	freed_ = true;
}

void Aside::due(const Target &target, uint64_t keyHash)
{
	spi::execute("UPDATE mrsync.row_aside SET holder_hash = NULL WHERE relation = $1::oid AND key_hash = $2::bigint", {std::to_string(target.root), hashText(keyHash)});
	freed_ = true;
}

void Aside::drop(const AsideKey &row)
{
	spi::execute("DELETE FROM mrsync.row_aside WHERE aside_id = $1::bigint", {row.id});
}

void Aside::freed(Oid root, const uint64_t *keyHash)
{
	if (!state(root).any || (keyHash && scan(root, "row_aside_holder", kHolderHash, keyHash) == NIL))
		return;
	spi::execute("UPDATE mrsync.row_aside SET holder_hash = NULL, retry_at = '-infinity' WHERE relation = $1::oid AND "
				 "($2 IS NULL OR holder_hash = $2::bigint)",
				 {std::to_string(root), keyHash ? spi::Value(hashText(*keyHash)) : std::nullopt});
	freed_ = true;
}

bool Aside::takeFreed() { return std::exchange(freed_, false); }

std::optional<AsideDue> asideDue(const std::optional<Version> &of)
{
	spi::Rows rows = spi::query("SELECT aside_id, region_id, hlc::bigint FROM mrsync.row_aside WHERE holder_hash IS NULL AND retry_at "
								"<= clock_timestamp() AND ($1 IS NULL OR hlc OPERATOR(mrsync.=) $1::mrsync.hlc AND region_id = $2) "
								"ORDER BY hlc DESC, region_id DESC, row_pk::text COLLATE \"C\" DESC LIMIT 1",
								{of ? spi::Value(toText(of->hlc)) : std::nullopt, of ? spi::Value(of->region) : std::nullopt});
	if (rows.empty())
		return std::nullopt;
	return AsideDue{*rows[0][0], Version{Hlc{std::stoll(*rows[0][2])}, *rows[0][1]}};
}

std::optional<AsideRow> asideRead(const std::string &id)
{
	spi::Rows rows = spi::query("SELECT a.relation::oid, a.region_id, a.hlc::bigint, a.row_pk, a.image, a.holder_hash IS NULL, e.sequence, e.seen, "
								"a.is_placed, a.made, a.definition_id, a.constraint_name FROM "
								"mrsync.row_aside a LEFT JOIN mrsync.applied_event e ON e.region_id = a.region_id AND e.hlc "
								"OPERATOR(mrsync.=) a.hlc WHERE a.aside_id = $1::bigint LIMIT 1",
								{id});
	if (rows.empty())
		return std::nullopt;
	const spi::Row &row = rows[0];
	AsideRow aside{};
	aside.root = static_cast<Oid>(std::stoul(*row[0]));
	aside.version = Version{Hlc{std::stoll(*row[2])}, *row[1]};
	aside.pk = decoded(decodeImage(*row[3]), id);
	aside.image = decoded(decodeImage(*row[4]), id);
	aside.isDue = row[5] == "t";
	aside.sequence = row[6] ? std::stoull(*row[6]) : UINT64_MAX;
	if (row[7])
		aside.seen = decoded(decodeSeen(*row[7]), id);
	aside.isPlaced = row[8] == "t";
	if (row[9])
		aside.made = decoded(decodeImage(*row[9]), id);
	aside.rule = row[10].value_or("");
	aside.constraint = *row[11];
	return aside;
}

std::vector<AsideWaiting> asideWaiting(const std::string &after)
{
	std::vector<AsideWaiting> waiting;
	for (const spi::Row &row :
		 spi::query("SELECT a.aside_id, EXISTS (SELECT FROM mrsync.tombstone t WHERE (t.relation = a.relation AND (t.key_hash = "
					"a.key_hash OR t.key_hash IS NULL) OR t.key_hash IS NULL AND t.relation IN (SELECT relid FROM "
					"pg_partition_tree(a.relation))) AND (mrsync.row_version(t.tableoid, t.ctid, t.xmin)).hlc OPERATOR(mrsync.>) a.hlc) FROM "
					"mrsync.row_aside a JOIN mrsync.replicated_table r ON r.relation = a.relation WHERE a.holder_hash IS NOT NULL "
					"AND a.aside_id > $1::bigint ORDER BY a.aside_id LIMIT $2::integer",
					{after, std::to_string(kAsideLooks)}))
		waiting.push_back(AsideWaiting{*row[0], *row[1] == "t"});
	return waiting;
}

void asideIsDue(const std::string &id)
{
	spi::execute("UPDATE mrsync.row_aside SET holder_hash = NULL, retry_at = '-infinity' WHERE aside_id = $1::bigint", {id});
}

void asideFailed(const std::string &id, const PgError &error, int seconds)
{
	spi::execute("UPDATE mrsync.row_aside SET message = $2, hint = $3, retry_at = clock_timestamp() + $4::interval WHERE aside_id = "
				 "$1::bigint",
				 {id, "held aside: its holder has left, but it cannot be written: " + error.sqlStateText() + " " + error.message(),
				  error.hint().empty() ? std::nullopt : spi::Value(error.hint()),
				  std::to_string(seconds) + " s"});
}

} // namespace mrsync
