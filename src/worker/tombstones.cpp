#include "worker/tombstones.h"

#include "pg/catalog.h"
#include "pg/guard.h"

extern "C"
{
#include "catalog/indexing.h"
#include "utils/fmgroids.h"
}

namespace mrsync
{

namespace
{

struct Candidate
{
	TransactionId xmin;
	const char *pk;
};

// The tombstones with this hash (null: truncations), in the current memory context.
List *candidates(Oid relation, const uint64_t *hash)
{
	return pgCall(
		[&]
		{
			List *found = NIL;
			Relation rel = table_open(catalogRelation("tombstone"), AccessShareLock);
			Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
			ScanKeyData keys[2];
			ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
			if (hash)
				ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, UInt64GetDatum(*hash));
			else
				ScanKeyEntryInitialize(&keys[1], SK_ISNULL | SK_SEARCHNULL, 2, InvalidStrategy, InvalidOid, InvalidOid,
									   InvalidOid, 0);
			SysScanDesc scan = systable_beginscan(rel, catalogRelation("tombstone_key"), true, snapshot, 2, keys);
			while (HeapTuple tuple = systable_getnext(scan))
			{
				bool isNull;
				Datum pk = heap_getattr(tuple, 3, RelationGetDescr(rel), &isNull);
				auto *candidate = static_cast<Candidate *>(palloc(sizeof(Candidate)));
				candidate->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
				candidate->pk = isNull ? nullptr : TextDatumGetCString(pk);
				found = lappend(found, candidate);
			}
			systable_endscan(scan);
			UnregisterSnapshot(snapshot);
			table_close(rel, AccessShareLock);
			return found;
		});
}

void consider(RegionShared *region, TransactionId xmin, Deletion &deletion)
{
	XidVersion version = versionOf(region, xmin);
	if (version.mine)
	{
		deletion.mine = true;
		return;
	}
	Version candidate{version.hlc, version.region};
	if (!deletion.found || candidate > deletion.version)
		deletion.version = std::move(candidate);
	deletion.found = true;
}

void write(Oid relation, const uint64_t *hash, const std::string *pkText)
{
	pgCall(
		[&]
		{
			Relation rel = table_open(catalogRelation("tombstone"), RowExclusiveLock);
			Datum values[3] = {ObjectIdGetDatum(relation), hash ? UInt64GetDatum(*hash) : 0,
							   pkText ? CStringGetTextDatum(pkText->c_str()) : 0};
			bool nulls[3] = {false, !hash, !pkText};
			HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
			CatalogTupleInsert(rel, tuple);
			heap_freetuple(tuple);
			table_close(rel, RowExclusiveLock);
			CommandCounterIncrement();
		});
}

} // namespace

Deletion newestDeletion(RegionShared *region, Target &target, const std::string &pkText)
{
	Deletion deletion;
	uint64_t hash = target.heldKeyHash();
	ListCell *cell;
	foreach (cell, candidates(target.root, &hash))
	{
		auto *candidate = static_cast<Candidate *>(lfirst(cell));
		if (pkText == candidate->pk || target.heldKeyEquals(candidate->pk))
			consider(region, candidate->xmin, deletion);
	}
	foreach (cell, candidates(target.root, nullptr))
		consider(region, static_cast<Candidate *>(lfirst(cell))->xmin, deletion);
	if (target.relation != target.root) // a partition can be truncated by itself
		foreach (cell, candidates(target.relation, nullptr))
			consider(region, static_cast<Candidate *>(lfirst(cell))->xmin, deletion);
	return deletion;
}

void rememberDeletion(Target &target, const std::string &pkText)
{
	uint64_t hash = target.heldKeyHash();
	write(target.root, &hash, &pkText);
}

void rememberTruncation(Oid relation) { write(relation, nullptr, nullptr); }

} // namespace mrsync
