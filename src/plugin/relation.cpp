#include "plugin/relation.h"

#include "pg/catalog.h"
#include "pg/guard.h"

#include <cstring>

extern "C"
{
#include "catalog/partition.h"
#include "nodes/pg_list.h"
#include "utils/inval.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
}

namespace mrsync
{

namespace
{

RelationCache *caches = nullptr; // of this process; nearly always one
bool callbacksRegistered = false;

const char *qualifiedName(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

// The replicated table that a relation belongs to, or InvalidOid.
Oid replicatedRoot(Relation relation)
{
	Oid relid = RelationGetRelid(relation);
	if (isReplicated(relid))
		return relid;
	if (!relation->rd_rel->relispartition)
		return InvalidOid;
	ListCell *cell;
	foreach (cell, get_partition_ancestors(relid))
		if (isReplicated(lfirst_oid(cell)))
			return lfirst_oid(cell);
	return InvalidOid;
}

struct OwnTable // of ours, whose rows travel
{
	const char *name;
	DecodedRelation::Kind kind;
};
constexpr OwnTable kOwnTables[] = {
	{"heartbeat", DecodedRelation::Kind::Control},
	{"acknowledgement", DecodedRelation::Kind::Control},
	{"merge_definition", DecodedRelation::Kind::Control},
	{"merge_acknowledgement", DecodedRelation::Kind::Control},
	{"merge_failure", DecodedRelation::Kind::Control},
	{"conflict_report", DecodedRelation::Kind::Control},
	{"resend", DecodedRelation::Kind::Mark},
};

DecodedRelation::Kind ownKind(Relation relation)
{
	for (const OwnTable &table : kOwnTables)
		if (strcmp(RelationGetRelationName(relation), table.name) == 0 && RelationGetNamespace(relation) == get_namespace_oid("mrsync", true))
			return table.kind;
	return DecodedRelation::Kind::Ignored;
}

} // namespace

void relationCacheForget(Oid relation)
{
	for (RelationCache *cache = caches; cache; cache = cache->next_)
		for (auto &[oid, entry] : cache->entries_)
			if (!OidIsValid(relation) || oid == relation || entry.root == relation)
			{
				entry.valid = false;
				cache->stale_ = true;
			}
}

RelationCache::RelationCache() : next_(caches)
{
	pgCall(
		[]
		{
			if (!callbacksRegistered)
			{
				CacheRegisterRelcacheCallback([](Datum, Oid relation) { relationCacheForget(relation); }, 0);
				// a renamed schema changes names without touching its tables
				CacheRegisterSyscacheCallback(
					NAMESPACEOID, [](Datum, int, uint32) { relationCacheForget(InvalidOid); }, 0);
				callbacksRegistered = true;
			}
		});
	caches = this;
}

RelationCache::~RelationCache()
{
	for (RelationCache **at = &caches; *at; at = &(*at)->next_)
		if (*at == this)
		{
			*at = next_;
			break;
		}
}

const DecodedRelation &RelationCache::find(Relation relation)
{
	if (stale_)
	{
		// here, since nobody holds an entry now; with all their memory, also of tables that do not exist any more
		stale_ = false;
		std::erase_if(entries_, [](const auto &entry) { return !entry.second.valid; });
	}
	auto [at, isNew] = entries_.try_emplace(RelationGetRelid(relation));
	DecodedRelation &entry = at->second;
	if (!isNew)
		return entry;
	// an invalidation may arrive while the catalogs are being read
	entry.valid = true;
	const char *name = nullptr;
	const char *ownName = nullptr;
	List *keyAttributes = NIL;
	pgCall(
		[&]
		{
			entry.root = replicatedRoot(relation);
			if (OidIsValid(entry.root))
				entry.kind = DecodedRelation::Kind::Data;
			else
			{
				entry.kind = ownKind(relation);
				entry.root = RelationGetRelid(relation);
			}
			if (entry.kind == DecodedRelation::Kind::Ignored)
				return;
			name = qualifiedName(entry.root);
			ownName = qualifiedName(RelationGetRelid(relation));
			RelationGetIndexList(relation); // fills rd_pkindex
			if (OidIsValid(relation->rd_pkindex))
			{
				Relation index = index_open(relation->rd_pkindex, AccessShareLock);
				for (int i = 0; i < index->rd_index->indnkeyatts; ++i)
					keyAttributes = lappend_int(keyAttributes, index->rd_index->indkey.values[i]);
				index_close(index, AccessShareLock);
			}
		});
	if (entry.kind == DecodedRelation::Kind::Ignored)
		return entry;
	entry.name = name;
	entry.ownName = ownName;
	entry.context.reset(pgCall(
		[] { return AllocSetContextCreate(TopMemoryContext, "mrsync decoded relation", ALLOCSET_SMALL_SIZES); }));
	MemoryContext context = entry.context.get();
	TupleDesc desc = RelationGetDescr(relation);
	entry.columns.reserve(desc->natts);
	for (int i = 0; i < desc->natts; ++i)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		if (attribute->attisdropped)
			continue;
		DecodedColumn column;
		column.name = NameStr(attribute->attname);
		column.index = i;
		pgCall(
			[&]
			{
				Oid function;
				getTypeOutputInfo(attribute->atttypid, &function, &column.isVarlena);
				fmgr_info_cxt(function, &column.output, context);
			});
		entry.columns.push_back(std::move(column));
	}
	ListCell *cell;
	foreach (cell, keyAttributes)
		for (size_t i = 0; i < entry.columns.size(); ++i)
			if (entry.columns[i].index == lfirst_int(cell) - 1)
				entry.key.push_back(i);
	return entry;
}

} // namespace mrsync
