#include "pg/catalog.h"

#include "pg/guard.h"

#include <charconv>
#include <cstdio>
#include <cstring>

extern "C"
{
#include "catalog/pg_replication_origin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
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

std::string originName(Oid database, const std::string &region) { return "mrsync_" + std::to_string(database) + "_" + region; }

std::string ownOriginName(Oid database, const std::string &region, const std::string &group)
{
	return originName(database, region) + "@" + group;
}

std::vector<KnownRegion> knownRegions()
{
	std::vector<KnownRegion> known;
	Relation rel = pgCall([] { return table_open(ReplicationOriginRelationId, AccessShareLock); });
	SysScanDesc scan = pgCall([&] { return systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr); });
	auto next = [&]() -> const char *
	{
		HeapTuple tuple = systable_getnext(scan);
		if (!tuple)
			return nullptr;
		bool isNull;
		return TextDatumGetCString(heap_getattr(tuple, Anum_pg_replication_origin_roname, RelationGetDescr(rel), &isNull));
	};
	while (const char *found = pgCall(next))
	{
		const std::string name = found;
		const size_t at = name.find('@');
		Oid database = InvalidOid;
		const char *digits = name.c_str() + strlen("mrsync_");
		if (at == name.npos || !name.starts_with("mrsync_"))
			continue;
		auto [end, problem] = std::from_chars(digits, name.c_str() + at, database);
		if (problem == std::errc() && *end == '_')
			known.push_back({database, name.substr(end + 1 - name.c_str(), at - (end + 1 - name.c_str())), name.substr(at + 1)});
	}
	pgCall(
		[&]
		{
			systable_endscan(scan);
			table_close(rel, AccessShareLock);
		});
	return known;
}

SlotState slotState(const char *name)
{
	SlotState state = SlotState::Missing;
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	if (ReplicationSlot *slot = SearchNamedReplicationSlot(name, false))
	{
		SpinLockAcquire(&slot->mutex);
		// in this order: one that is being made has no WAL reserved yet
		state = slot->active_pid != 0			   ? SlotState::InUse
				: version::isInvalidated(slot->data) ? SlotState::Invalidated
													   : SlotState::Free;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return state;
}

} // namespace mrsync
