#include "worker/tombstones.h"

#include "pg/catalog.h"
#include "pg/guard.h"
#include "pg/rowversion.h"

#include <algorithm>

extern "C"
{
#include "catalog/indexing.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
}

namespace mrsync
{

namespace
{

struct Candidate
{
	TransactionId xmin;
	bool inProgress; // written by another transaction that has not ended
	const char *pk;
};

// The tombstones with this hash (null: truncations), in the current memory context. Also those of transactions in
// progress: whoever deletes a key marks it first and looks for a row then, whoever inserts looks for marks last, so that
// of two who meet at an absent key at least one finds the other (I12).
List *candidates(Oid relation, const uint64_t *hash)
{
	return pgCall(
		[&]
		{
			List *found = NIL;
			Relation rel = table_open(catalogRelation("tombstone"), AccessShareLock);
			SnapshotData snapshot;
			InitDirtySnapshot(snapshot);
			ScanKeyData keys[2];
			ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
			if (hash)
				ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, UInt64GetDatum(*hash));
			else
				ScanKeyEntryInitialize(&keys[1], SK_ISNULL | SK_SEARCHNULL, 2, InvalidStrategy, InvalidOid, InvalidOid,
									   InvalidOid, 0);
			SysScanDesc scan = systable_beginscan(rel, catalogRelation("tombstone_key"), true, &snapshot, 2, keys);
			while (HeapTuple tuple = systable_getnext(scan))
			{
				bool isNull;
				Datum pk = heap_getattr(tuple, 3, RelationGetDescr(rel), &isNull);
				auto *candidate = static_cast<Candidate *>(palloc(sizeof(Candidate)));
				candidate->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
				candidate->inProgress = TransactionIdIsValid(snapshot.xmin);
				candidate->pk = isNull ? nullptr : TextDatumGetCString(pk);
				found = lappend(found, candidate);
			}
			systable_endscan(scan);
			table_close(rel, AccessShareLock);
			return found;
		});
}

// False: its writer was in progress and has ended by now; look again.
bool consider(RegionShared *region, const Candidate &candidate, Deletion &deletion)
{
	if (candidate.inProgress)
	{
		pgCall([&] { XactLockTableWait(candidate.xmin, nullptr, nullptr, XLTW_None); });
		return false;
	}
	RowVersion version = versionOfXid(region, candidate.xmin);
	if (version.mine)
	{
		deletion.mine = true;
		return true;
	}
	deletion.found = true;
	if (version.atMost)
		deletion.atMost = std::max(deletion.atMost, std::optional(version.hlc));
	else
		deletion.version = std::max(deletion.version, Version{version.hlc, version.region});
	return true;
}

bool look(RegionShared *region, Target &target, const std::string &pkText, Deletion &deletion)
{
	uint64_t hash = target.heldKeyHash();
	ListCell *cell;
	foreach (cell, candidates(target.root, &hash))
	{
		const auto &candidate = *static_cast<Candidate *>(lfirst(cell));
		if ((pkText == candidate.pk || target.heldKeyEquals(candidate.pk)) && !consider(region, candidate, deletion))
			return false;
	}
	foreach (cell, candidates(target.root, nullptr))
		if (!consider(region, *static_cast<Candidate *>(lfirst(cell)), deletion))
			return false;
	if (target.relation != target.root) // a partition can be truncated by itself
		foreach (cell, candidates(target.relation, nullptr))
			if (!consider(region, *static_cast<Candidate *>(lfirst(cell)), deletion))
				return false;
	return true;
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
	for (;;)
	{
		Deletion deletion;
		if (look(region, target, pkText, deletion))
			return deletion;
	}
}

bool wasTruncated(RegionShared *region, Oid relation, const Version &version)
{
	for (;;)
	{
		Deletion deletion;
		bool settled = true;
		ListCell *cell;
		foreach (cell, candidates(relation, nullptr))
			settled = settled && consider(region, *static_cast<Candidate *>(lfirst(cell)), deletion);
		if (settled)
			return deletion.mine || (deletion.found && deletion.version >= version);
	}
}

void rememberDeletion(Target &target, const std::string &pkText)
{
	uint64_t hash = target.heldKeyHash();
	write(target.root, &hash, &pkText);
}

void rememberTruncation(Oid relation) { write(relation, nullptr, nullptr); }

} // namespace mrsync
