#include "pg/catalog.h"

#include <cstdio>

namespace mrsync
{

Oid catalogRelation(const char *name)
{
	Oid schema = get_namespace_oid("mrsync", true);
	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

void slotName(Oid database, char (&name)[NAMEDATALEN]) { snprintf(name, sizeof name, "mrsync_%u", database); }

} // namespace mrsync
