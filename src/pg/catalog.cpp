#include "pg/catalog.h"

#include <cstdio>

extern "C"
{
#include "utils/fmgroids.h"
}

namespace mrsync
{

Oid catalogRelation(const char *name)
{
	Oid schema = get_namespace_oid("mrsync", true);
	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

bool isReplicated(Oid relation)
{
	Oid table = catalogRelation("replicated_table");
	if (!OidIsValid(table))
		return false;
	Relation rel = table_open(table, AccessShareLock);
	ScanKeyData key;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	SysScanDesc scan =
		systable_beginscan(rel, catalogRelation("replicated_table_pkey"), true, nullptr, 1, &key);
	bool found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

void slotName(Oid database, char (&name)[NAMEDATALEN]) { snprintf(name, sizeof name, "mrsync_%u", database); }

} // namespace mrsync
