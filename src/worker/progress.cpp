#include "worker/progress.h"

#include "pg/catalog.h"
#include "pg/guard.h"

extern "C"
{
#include "catalog/indexing.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/fmgroids.h"
#include "utils/partcache.h"
#include "utils/uuid.h"
}

namespace mrsync
{

namespace
{

Relation openKnown(const char *name, LOCKMODE lock)
{
	Oid oid = catalogRelation(name);
	if (!OidIsValid(oid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"mrsync.%s\" does not exist", name)));
	return table_open(oid, lock);
}

// The partition of mrsync.applied_event for this id, open.
Relation openPartition(Relation parent, Datum id)
{
	PartitionKey key = RelationGetPartitionKey(parent);
	PartitionDesc partitions = RelationGetPartitionDesc(parent, false);
	PartitionBoundInfo bounds = partitions->boundinfo;
	bool isEqual;
	int below = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, bounds, 1, &id, &isEqual);
	int index = bounds->indexes[below + 1];
	if (index < 0)
		index = bounds->default_index;
	if (index < 0)
		ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION), errmsg("mrsync.applied_event has no partition for an event"),
						errhint("mrsync.applied_event_default takes what no other partition does; it must not be dropped.")));
	return table_open(partitions->oids[index], RowExclusiveLock);
}

Datum text(const std::string &value)
{
	return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

Datum uuid(const Uuid &id) { return PointerGetDatum(const_cast<uint8_t *>(id.bytes.data())); }

} // namespace

bool recordApplied(const AppliedRecord &record)
{
	return pgCall(
		[&]
		{
			Relation parent = openKnown("applied_event", RowExclusiveLock);
			Relation rel = openPartition(parent, uuid(record.first));
			ScanKeyData key;
			ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, uuid(record.first));
			SysScanDesc scan = systable_beginscan(rel, version::primaryKeyIndex(rel), true, GetActiveSnapshot(), 1, &key);
			bool isKnown = HeapTupleIsValid(systable_getnext(scan));
			systable_endscan(scan);
			if (!isKnown)
			{
				// a partition made by CREATE TABLE … PARTITION OF has its parent's columns in its parent's order
				Datum values[8] = {uuid(record.first),
								   uuid(record.last),
								   text(record.region),
								   Int64GetDatum(static_cast<int64>(record.sequence)),
								   Int64GetDatum(record.hlc.value),
								   text(record.seen),
								   TimestampTzGetDatum(GetCurrentTimestamp()),
								   text(record.rows)}; // bytea, which has the same form
				bool nulls[8] = {};
				nulls[7] = record.rows.empty();
				HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
				CatalogTupleInsert(rel, tuple);
				heap_freetuple(tuple);
			}
			table_close(rel, NoLock);
			table_close(parent, NoLock);
			return !isKnown;
		});
}

void recordPosition(const LinkPosition &position)
{
	pgCall(
		[&]
		{
			Relation rel = openKnown("link_position", RowExclusiveLock);
			Datum source = text(position.source);
			Datum values[10] = {source,
							   text(position.topic),
							   Int64GetDatum(position.nextOffset),
							   Int64GetDatum(position.incarnation),
							   Int64GetDatum(static_cast<int64>(position.sequence)),
							   Int64GetDatum(position.hlc.value),
							   uuid(position.event),
							   TimestampTzGetDatum(position.committedAt),
							   TimestampTzGetDatum(GetCurrentTimestamp()),
							   Int64GetDatum(position.eventOffset)};
			bool nulls[10] = {};
			HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
			ScanKeyData key;
			ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, source);
			SysScanDesc scan = systable_beginscan(rel, version::primaryKeyIndex(rel), true, GetActiveSnapshot(), 1, &key);
			if (HeapTuple former = systable_getnext(scan))
			{
				tuple->t_self = former->t_self;
				CatalogTupleUpdate(rel, &tuple->t_self, tuple);
			}
			else
				CatalogTupleInsert(rel, tuple);
			systable_endscan(scan);
			heap_freetuple(tuple);
			table_close(rel, NoLock);
		});
}

} // namespace mrsync
