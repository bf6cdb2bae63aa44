#include "pg/key.h"

#include "core/codec.h"
#include "pg/catalog.h"
#include "pg/fixed_settings.h"

#include <cstring>

extern "C"
{
#include "access/relation.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/relcache.h"
#include "utils/typcache.h"
}

namespace mrsync
{

namespace
{

struct CacheEntry
{
	Oid relation; // hash key
	bool valid;
	MemoryContext context; // of info and all it points to
	KeyInfo *info;
};

HTAB *cache = nullptr;

// Only marks: an entry may be in use when this comes.
void forget(Datum, Oid relation)
{
	if (OidIsValid(relation))
	{
		auto *entry = static_cast<CacheEntry *>(hash_search(cache, &relation, HASH_FIND, nullptr));
		if (entry)
			entry->valid = false;
		return;
	}
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, cache);
	while (auto *entry = static_cast<CacheEntry *>(hash_seq_search(&scan)))
		entry->valid = false;
}

void cacheInit()
{
	HASHCTL control;
	std::memset(&control, 0, sizeof control);
	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(CacheEntry);
	cache = hash_create("mrsync keys", 64, &control, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(forget, 0);
}

// Types whose text is the same under any settings. What is not listed is looked at with settings fixed.
bool isSettingsSensitive(Oid type)
{
	switch (type)
	{
	case BOOLOID:
	case CHAROID:
	case NAMEOID:
	case INT2OID:
	case INT4OID:
	case INT8OID:
	case OIDOID:
	case NUMERICOID:
	case TEXTOID:
	case VARCHAROID:
	case BPCHAROID:
	case UUIDOID:
	case INETOID:
	case CIDROID:
	case MACADDROID:
		return false;
	default:
		return get_typtype(type) != TYPTYPE_ENUM;
	}
}

} // namespace

KeyInfo *keyInfoMake(Relation relation, TupleDesc desc, Form_pg_index index, const Oid *collations, MemoryContext context)
{
	MemoryContext former = MemoryContextSwitchTo(context);
	auto *key = static_cast<KeyInfo *>(palloc0(sizeof(KeyInfo)));
	key->relation = RelationGetRelid(relation);
	key->root = key->relation;
	if (relation->rd_rel->relispartition)
		key->root = llast_oid(get_partition_ancestors(key->relation));
	key->isReplicated = isReplicated(key->root); // who adds or removes a table invalidates all of its tree
	key->index = index->indexrelid;
	key->count = index->indnkeyatts;
	key->columns = static_cast<KeyColumn *>(palloc0(sizeof(KeyColumn) * key->count));
	for (int i = 0; i < key->count; ++i)
	{
		KeyColumn &column = key->columns[i];
		column.attnum = index->indkey.values[i];
		Form_pg_attribute attribute = TupleDescAttr(desc, column.attnum - 1);
		column.name = attribute->attname;
		column.type = attribute->atttypid;
		column.typmod = attribute->atttypmod;
		column.length = attribute->attlen;
		column.byValue = attribute->attbyval;
		column.collation = collations[i];
		TypeCacheEntry *type = lookup_type_cache(column.type, TYPECACHE_EQ_OPR | TYPECACHE_HASH_EXTENDED_PROC);
		if (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_extended_proc))
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("column \"%s\" of the primary key of \"%s\" has type %s, which cannot be hashed",
								   NameStr(column.name), RelationGetRelationName(relation), format_type_be(column.type)),
							errhint("Take the table out of replication with mrsync.table_remove(), or change the type.")));
		fmgr_info_cxt(type->hash_extended_proc, &column.hash, context);
		fmgr_info_cxt(get_opcode(type->eq_opr), &column.equal, context);
		Oid function;
		bool isVarlena;
		getTypeOutputInfo(column.type, &function, &isVarlena);
		fmgr_info_cxt(function, &column.output, context);
		getTypeInputInfo(column.type, &function, &column.inputParameter);
		fmgr_info_cxt(function, &column.input, context);
		if (isSettingsSensitive(getBaseType(column.type)))
			key->settingsSensitive = true;
	}
	MemoryContextSwitchTo(former);
	return key;
}

namespace
{

KeyInfo *build(Relation relation, MemoryContext context)
{
	RelationGetIndexList(relation); // fills rd_pkindex
	if (!OidIsValid(relation->rd_pkindex))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("replicated table \"%s\" has no primary key", RelationGetRelationName(relation)),
						errhint("Give it a primary key, or take it out of replication with mrsync.table_remove().")));
	Relation index = index_open(relation->rd_pkindex, AccessShareLock);
	KeyInfo *key = keyInfoMake(relation, RelationGetDescr(relation), index->rd_index, index->rd_indcollation, context);
	index_close(index, AccessShareLock);
	return key;
}

} // namespace

const KeyInfo &keyInfoUnguarded(Relation relation)
{
	if (!cache)
		cacheInit();
	Oid relid = RelationGetRelid(relation);
	bool found;
	auto *entry = static_cast<CacheEntry *>(hash_search(cache, &relid, HASH_ENTER, &found));
	if (!found)
	{
		entry->valid = false;
		entry->context = nullptr;
		entry->info = nullptr;
	}
	if (entry->valid && entry->info)
		return *entry->info;
	if (entry->context)
	{
		MemoryContext former = entry->context;
		entry->info = nullptr;
		entry->context = nullptr;
		MemoryContextDelete(former);
	}
	entry->context = AllocSetContextCreate(CacheMemoryContext, "mrsync key", ALLOCSET_SMALL_SIZES);
	entry->valid = true; // an invalidation may arrive while the catalogs are being read
	entry->info = build(relation, entry->context); // entries never move and never go
	return *entry->info;
}

const KeyInfo &keyInfo(Relation relation)
{
	return *pgCall([&] { return &keyInfoUnguarded(relation); });
}

const char *keyTypeProblem(Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR | TYPECACHE_HASH_EXTENDED_PROC);
	if (!OidIsValid(entry->eq_opr) || !OidIsValid(entry->hash_extended_proc))
		return "its type has no hash operator class";
	if (OidIsValid(collation) && collation != DEFAULT_COLLATION_OID && !get_collation_isdeterministic(collation))
		return "its collation is nondeterministic: keys that are equal here could differ in another region";
	return nullptr;
}

uint64_t keyHash(const KeyInfo &key, const Datum *values)
{
	uint64_t hash = 0;
	for (int i = 0; i < key.count; ++i)
	{
		auto &column = const_cast<KeyColumn &>(key.columns[i]); // fmgr keeps its private data in FmgrInfo
		uint64_t part = DatumGetUInt64(FunctionCall2Coll(&column.hash, column.collation, values[i], UInt64GetDatum(0)));
		hash = i == 0 ? part : hash_combine64(hash, part);
	}
	return hash;
}

bool keyEqual(const KeyInfo &key, const Datum *a, const Datum *b)
{
	for (int i = 0; i < key.count; ++i)
	{
		auto &column = const_cast<KeyColumn &>(key.columns[i]);
		if (!DatumGetBool(FunctionCall2Coll(&column.equal, column.collation, a[i], b[i])))
			return false;
	}
	return true;
}

void keyOutput(const KeyInfo &key, const Datum *values, const char **texts)
{
	for (int i = 0; i < key.count; ++i)
		texts[i] = OutputFunctionCall(&const_cast<KeyColumn &>(key.columns[i]).output, values[i]);
}

Image keyImage(const KeyInfo &key)
{
	Image image(key.count);
	for (int i = 0; i < key.count; ++i)
		image[i] = Column{NameStr(key.columns[i].name), std::string()};
	return image;
}

std::string keyText(Image &image, const char *const *texts)
{
	for (size_t i = 0; i < image.size(); ++i)
		*image[i].value = texts[i];
	return encodeImage(image);
}

std::string keyText(const KeyInfo &key, const Datum *values)
{
	const char *texts[INDEX_MAX_KEYS];
	pgCall(
		[&]
		{
			int nestLevel = key.settingsSensitive ? fixedSettingsBegin() : 0;
			keyOutput(key, values, texts);
			if (key.settingsSensitive)
				fixedSettingsEnd(nestLevel);
		});
	Image image = keyImage(key);
	return keyText(image, texts);
}

void keyFromText(const KeyInfo &key, std::string_view json, Datum *values)
{
	std::variant<Image, DecodeError> decoded = decodeImage(json);
	if (const auto *error = std::get_if<DecodeError>(&decoded))
		throw PgError(ERRCODE_INVALID_TEXT_REPRESENTATION, "not the text of a key: " + std::string(json))
			.detail(error->message);
	keyFromImage(key, std::get<Image>(decoded), values);
}

void keyFromImage(const KeyInfo &key, const Image &image, Datum *values)
{
	const char *texts[INDEX_MAX_KEYS];
	for (int i = 0; i < key.count; ++i)
	{
		texts[i] = nullptr;
		for (const Column &column : image)
			if (column.value && column.name == NameStr(key.columns[i].name))
				texts[i] = column.value->c_str();
		if (!texts[i])
			throw PgError(ERRCODE_INVALID_TEXT_REPRESENTATION, "not a key of this table: " + encodeImage(image))
				.detail(std::string("It has no value for the primary key's column \"") + NameStr(key.columns[i].name) +
						"\".")
				.hint("The table must have the same primary key in every region.");
	}
	if (static_cast<int>(image.size()) != key.count)
		throw PgError(ERRCODE_INVALID_TEXT_REPRESENTATION, "not a key of this table: " + encodeImage(image))
			.detail("It has other columns than the primary key here.")
			.hint("The table must have the same primary key in every region.");
	pgCall(
		[&]
		{
			for (int i = 0; i < key.count; ++i)
			{
				auto &column = const_cast<KeyColumn &>(key.columns[i]);
				values[i] = InputFunctionCall(&column.input, const_cast<char *>(texts[i]), column.inputParameter,
											  column.typmod);
			}
		});
}

} // namespace mrsync
