// The primary key of a replicated table: its columns, how its values hash, compare, become text and come back.
//
// Two keys are the same when the key type's own equality says so (numeric 1.0 and 1.00, citext), so the hash is that of
// the type, too. A hash never leaves this server. The text of a key is the image that ChangeEvents carry as row_pk: the
// key's columns in the primary key's order.
// Relied on by: the delete triggers (write tombstones) and the applier (finds rows and tombstones).
#pragma once

#include "pg/guard.h"

#include "core/event.h"

namespace mrsync
{

struct KeyColumn
{
	NameData name;
	AttrNumber attnum; // in `relation`
	Oid type;
	int32 typmod;
	int16 length;
	bool byValue;
	Oid collation; // the index's
	Oid inputParameter;
	FmgrInfo hash; // extended, 64 bits
	FmgrInfo equal;
	FmgrInfo output;
	FmgrInfo input;
};

// Plain memory in a context of its own: it lives in a cache that knows no destructors.
struct KeyInfo
{
	Oid relation; // a replicated table, or a partition of one
	Oid root;	  // the top of its partition tree; `relation` itself when it is no partition
	Oid index;	  // the primary key's
	int count;
	bool isReplicated; // root is in mrsync.replicated_table
	bool settingsSensitive; // the text of some column depends on settings: use fixedSettingsBegin
	KeyColumn *columns;
};
static_assert(std::is_trivially_destructible_v<KeyInfo>);

// From a cache of this process; valid until the next call for the same relation. Throws PgError when the relation has no
// primary key, or one whose values cannot be hashed.
const KeyInfo &keyInfo(Relation relation);

// The same without the guard, for a caller that has one: throws and ereports.
const KeyInfo &keyInfoUnguarded(Relation relation);

// One of its own, of the columns as `desc` has them, which need not be how they are now. May ereport: under the guard.
KeyInfo *keyInfoMake(Relation relation, TupleDesc desc, Form_pg_index index, const Oid *collations, MemoryContext context);

// Why a column of this type and collation cannot be in the key of a replicated table; null: it can. May ereport.
const char *keyTypeProblem(Oid type, Oid collation);

// `values` are in the order of columns; none of them is NULL. These two may ereport: under the guard.
uint64_t keyHash(const KeyInfo &key, const Datum *values);
bool keyEqual(const KeyInfo &key, const Datum *a, const Datum *b);

// The texts of the values, in the current memory context, under the settings that are set: begin fixed settings first
// where key.settingsSensitive. May ereport: under the guard.
void keyOutput(const KeyInfo &key, const Datum *values, const char **texts);

// Column names with no values yet; for many keys of one table it is made once and filled by keyText.
Image keyImage(const KeyInfo &key);
std::string keyText(Image &image, const char *const *texts);

// All of it for one key, with guard and settings. Throws PgError.
std::string keyText(const KeyInfo &key, const Datum *values);

// The opposite: a row_pk to values, in the current memory context. Names are matched, order is not.
// Throws PgError when the text is not the key of such a row. Under fixed settings.
void keyFromText(const KeyInfo &key, std::string_view json, Datum *values);
void keyFromImage(const KeyInfo &key, const Image &image, Datum *values);

} // namespace mrsync
