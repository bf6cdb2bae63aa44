// A column of a table as the applier writes it.
#pragma once

#include "pg/server.h"

namespace mrsync
{

struct TargetColumn
{
	std::string name;
	AttrNumber attnum;
	Oid type;
	int32 typmod;
	Oid collation;
	Oid inputParameter;
	FmgrInfo input;
	FmgrInfo output;
	bool isGenerated;
	bool isNotNull;
	bool isAlways;	 // GENERATED ALWAYS AS IDENTITY: SQL refuses to update it to a value
	bool isKey;
	bool isFixedKey; // in the key, and of a type whose equal values have equal texts: an UPDATE need not write it
	bool isExclusive; // a RivalIndex depends on it
};

} // namespace mrsync
