#include "worker/target.h"

#include "core/codec.h"
#include "pg/catalog.h"
#include "pg/guard.h"
#include "pg/rowhistory.h"
#include "worker/as_owner.h"

#include <cstring>
#include <set>

extern "C"
{
#include "access/tableam.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/execPartition.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"
}

namespace mrsync
{

namespace
{

constexpr AttrNumber kBaseHlcColumn = 4; // of mrsync.replicated_table
constexpr int64 kNotAdded = PG_INT64_MIN;

// Changes of relations' definitions since the last sweep.
bool invalidateAll = false;
std::set<Oid> *invalidated = nullptr;
// Counts the moments in which all locks on targets were let go.
uint64_t lockEpoch = 1;

// May ereport.
bool equalMeansSameText(Oid type)
{
	type = getBaseType(type);
	switch (type)
	{
	case BITOID:
	case CHAROID:
	case CIDROID:
	case INETOID:
	case MACADDROID:
	case MACADDR8OID:
	case NAMEOID:
	case PG_LSNOID:
	case TIMEOID:
	case VARBITOID:
	case XID8OID:
	case INT2OID:
	case INT4OID:
	case INT8OID:
	case OIDOID:
	case BOOLOID:
	case UUIDOID:
	case TEXTOID:
	case VARCHAROID:
	case BYTEAOID:
	case DATEOID:
	case TIMESTAMPOID:
	case TIMESTAMPTZOID:
		return true;
	default:
		return get_typtype(type) == TYPTYPE_ENUM;
	}
}

RootTable rootOf(Oid relation)
{
	RootTable root;
	root.name = pgCall([&] { return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation)); });
	pgCall(
		[&]
		{
			Relation rel = table_open(relation, AccessShareLock);
			root.rowType = rel->rd_rel->reltype;
			root.owner = rel->rd_rel->relowner;
			table_close(rel, NoLock);
		});
	return root;
}

} // namespace

Target::~Target()
{
	// SPI_freeplan and context deletion do not ereport
	for (SPIPlanPtr plan : {insertPlan_, updatePlan_, removePlan_, removeOlderPlan_})
		if (plan)
			SPI_freeplan(plan);
	if (context_)
		MemoryContextDelete(context_);
}

const TargetColumn *Target::column(const std::string &wanted) const
{
	for (const TargetColumn &column : columns_)
		if (column.name == wanted)
			return &column;
	return nullptr;
}

void Target::describe(Relation rel)
{
	relation = RelationGetRelid(rel);
	isPartitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	owner_ = rel->rd_rel->relowner;
	name = pgCall(
		[&]
		{
			return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											  RelationGetRelationName(rel));
		});
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; ++i)
	{
		const Trigger &trigger = rel->trigdesc->triggers[i];
		hasInsertTriggers |= TRIGGER_FOR_INSERT(trigger.tgtype) && (trigger.tgenabled == TRIGGER_FIRES_ALWAYS ||
																   trigger.tgenabled == TRIGGER_FIRES_ON_REPLICA);
	}
	const KeyInfo &key = keyInfo(rel);
	TupleDesc desc = RelationGetDescr(rel);
	pgCall(
		[&]
		{
			context_ = AllocSetContextCreate(TopMemoryContext, "mrsync target", ALLOCSET_SMALL_SIZES);
			MemoryContext former = MemoryContextSwitchTo(context_);
			searchSlot_ = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc), &TTSOpsVirtual);
			foundSlotKind_ = isPartitioned ? nullptr : table_slot_callbacks(rel);
			keyValues_ = static_cast<Datum *>(palloc0(sizeof(Datum) * key.count));
			MemoryContextSwitchTo(former);
		});
	for (int i = 0; i < desc->natts; ++i)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		if (attribute->attisdropped)
			continue;
		TargetColumn column{};
		column.name = NameStr(attribute->attname);
		column.attnum = attribute->attnum;
		column.type = attribute->atttypid;
		column.typmod = attribute->atttypmod;
		column.collation = attribute->attcollation;
		column.isGenerated = attribute->attgenerated != '\0';
		column.isNotNull = attribute->attnotnull;
		column.isAlways = attribute->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		for (int k = 0; k < key.count; ++k)
			if (key.columns[k].attnum == column.attnum)
			{
				column.isKey = true;
				column.isFixedKey = pgCall([&] { return equalMeansSameText(column.type); });
			}
		pgCall(
			[&]
			{
				Oid function;
				bool isVarlena;
				getTypeInputInfo(column.type, &function, &column.inputParameter);
				fmgr_info_cxt(function, &column.input, context_);
				getTypeOutputInfo(column.type, &function, &isVarlena);
				fmgr_info_cxt(function, &column.output, context_);
			});
		columns_.push_back(std::move(column));
	}
	if (!isPartitioned)
		describeRivals(rel);
	lockedIn_ = lockEpoch;
}

// With the lock on the relation held: is what we know of it still so? Once we hold the lock it stays so until the end of
// the transaction; what is invalidated from then on are things like statistics.
void Target::locked()
{
	if (lockedIn_ == lockEpoch)
		return;
	if (invalidateAll || invalidated->count(relation) > 0)
		throw PgError(ERRCODE_T_R_SERIALIZATION_FAILURE, "the definition of a table changed while it was written to");
	lockedIn_ = lockEpoch;
}

// Its values are in keyValues_ then.
Relation Target::openFor(const Image &pk)
{
	Relation rel = pgCall([&] { return table_open(relation, RowExclusiveLock); });
	locked();
	keyFromImage(keyInfo(rel), pk, keyValues_);
	return rel;
}

Oid Target::partitionFor(const Image &pk)
{
	AsOwner owner(owner_);
	Relation rel = openFor(pk);
	const KeyInfo &key = keyInfo(rel);
	return pgCall(
		[&]
		{
			ExecClearTuple(searchSlot_);
			memset(searchSlot_->tts_isnull, true, searchSlot_->tts_tupleDescriptor->natts);
			for (int i = 0; i < key.count; ++i)
			{
				searchSlot_->tts_values[key.columns[i].attnum - 1] = keyValues_[i];
				searchSlot_->tts_isnull[key.columns[i].attnum - 1] = false;
			}
			ExecStoreVirtualTuple(searchSlot_);
			EState *estate = CreateExecutorState();
			ResultRelInfo *rootInfo = makeNode(ResultRelInfo);
			InitResultRelInfo(rootInfo, rel, 1, nullptr, 0);
			ModifyTableState *state = makeNode(ModifyTableState);
			state->ps.state = estate;
			state->operation = CMD_INSERT;
			state->resultRelInfo = rootInfo;
			state->rootResultRelInfo = rootInfo;
			PartitionTupleRouting *routing = ExecSetupPartitionTupleRouting(estate, rel);
			ResultRelInfo *leaf = ExecFindPartition(state, rootInfo, routing, searchSlot_, estate);
			Oid found = RelationGetRelid(leaf->ri_RelationDesc);
			ExecCleanupTupleRouting(state, routing);
			ExecResetTupleTable(estate->es_tupleTable, false); // a slot for a partition that has its columns in another order
			FreeExecutorState(estate);
			ExecClearTuple(searchSlot_);
			table_close(rel, NoLock);
			return found;
		});
}

HeldRow Target::hold(const Image &pk)
{
	AsOwner owner(owner_);
	Relation rel = openFor(pk);
	const KeyInfo &key = keyInfo(rel);
	return pgCall(
		[&]
		{
			HeldRow held{};
			ExecClearTuple(searchSlot_);
			memset(searchSlot_->tts_isnull, true, searchSlot_->tts_tupleDescriptor->natts);
			for (int i = 0; i < key.count; ++i)
			{
				searchSlot_->tts_values[key.columns[i].attnum - 1] = keyValues_[i];
				searchSlot_->tts_isnull[key.columns[i].attnum - 1] = false;
			}
			ExecStoreVirtualTuple(searchSlot_);
			// A new one for each search, in the event's memory: an error in the middle may leave it with a pinned buffer,
			// which the abort lets go behind its back. Cleared after that, it would fail, now and ever after.
			foundSlot_ = MakeSingleTupleTableSlot(searchSlot_->tts_tupleDescriptor, foundSlotKind_);
			held.found =
				RelationFindReplTupleByIndex(rel, key.index, LockTupleNoKeyExclusive, searchSlot_, foundSlot_);
			if (held.found)
			{
				bool isNull;
				held.tid = foundSlot_->tts_tid;
				held.xmin =
					DatumGetTransactionId(slot_getsysattr(foundSlot_, MinTransactionIdAttributeNumber, &isNull));
				ExecMaterializeSlot(foundSlot_); // a copy instead of a pinned buffer
			}
			else
				ExecClearTuple(foundSlot_); // a row that was deleted while its lock was waited for is still in it, pinned
			table_close(rel, NoLock);
			return held;
		});
}

Image Target::heldImage() { return imageOf(foundSlot_); }

RowVersion Target::version(RegionShared *region, const HeldRow &held)
{
	if (!mayHaveEntries(region, held.xmin))
		return versionOfXid(region, held.xmin);
	AsOwner owner(owner_);
	Relation rel = pgCall([&] { return table_open(relation, NoLock); });
	RowVersion version = versionOfRow(region, keyInfo(rel), keyValues_, held.xmin);
	pgCall([&] { table_close(rel, NoLock); });
	return version;
}

Image Target::imageOf(TupleTableSlot *slot)
{
	Image image;
	for (TargetColumn &column : columns_)
	{
		const char *text = pgCall(
			[&]() -> const char *
			{
				bool isNull;
				Datum value = slot_getattr(slot, column.attnum, &isNull);
				return isNull ? nullptr : OutputFunctionCall(&column.output, value);
			});
		image.push_back(Column{column.name, text ? std::optional<std::string>(text) : std::nullopt});
	}
	return image;
}

uint64_t Target::heldKeyHash()
{
	AsOwner owner(owner_);
	return pgCall(
		[&]
		{
			Relation rel = table_open(relation, NoLock);
			uint64_t hash = keyHash(keyInfoUnguarded(rel), keyValues_);
			table_close(rel, NoLock);
			return hash;
		});
}

bool Target::heldKeyEquals(const std::string &pkText)
{
	AsOwner owner(owner_);
	Relation rel = pgCall([&] { return table_open(relation, NoLock); });
	const KeyInfo &key = keyInfo(rel);
	std::vector<Datum> other(key.count);
	keyFromText(key, pkText, other.data());
	return pgCall(
		[&]
		{
			table_close(rel, NoLock);
			return keyEqual(key, keyValues_, other.data());
		});
}

bool Target::keyIsText() const
{
	for (const TargetColumn &column : columns_)
		if (column.isKey && !column.isFixedKey)
			return false;
	return true;
}

std::string Target::keyName(const Image &pk)
{
	AsOwner owner(owner_);
	Relation rel = openFor(pk);
	pgCall([&] { table_close(rel, NoLock); });
	return heldKeyName(encodeImage(pk));
}

// Equal keys may have different texts (1.0 and 1.00).
std::string Target::heldKeyName(const std::string &pkText)
{
	return keyIsText() ? pkText : std::to_string(heldKeyHash());
}

bool Target::keysEqual(const std::string &pkText, const std::string &other)
{
	AsOwner owner(owner_);
	Relation rel = pgCall([&] { return table_open(relation, NoLock); });
	const KeyInfo &key = keyInfo(rel);
	std::vector<Datum> values(key.count), others(key.count);
	keyFromText(key, pkText, values.data());
	keyFromText(key, other, others.data());
	return pgCall(
		[&]
		{
			table_close(rel, NoLock);
			return keyEqual(key, values.data(), others.data());
		});
}

std::vector<TableWriter> writersOf(Oid relation)
{
	// rows are written under the first, TRUNCATE and rewrites have the second
	constexpr LOCKMASK writing = LOCKBIT_ON(RowExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock);
	const LockData *held = nullptr;
	// whoever wrote a partition through its root holds a lock on the partition, too
	List *tree = pgCall(
		[&]
		{
			List *members = find_all_inheritors(relation, NoLock, nullptr);
			held = GetLockStatusData();
			return members;
		});
	std::vector<TableWriter> writers;
	for (int i = 0; i < held->nelements; ++i)
	{
		const LockInstanceData &lock = held->locks[i];
		const LOCKTAG &tag = lock.locktag;
		if (lock.pid != MyProcPid && (lock.holdMask & writing) && tag.locktag_type == LOCKTAG_RELATION && tag.locktag_field1 == MyDatabaseId &&
			list_member_oid(tree, tag.locktag_field2))
			writers.push_back({lock.pid, version::holderOf(lock)});
	}
	return writers;
}

// Not WaitForLockers: no lock mode conflicts with those of writers and not with those of VACUUM, ANALYZE and CREATE INDEX
// CONCURRENTLY, which may take hours.
void Target::waitForWriters()
{
	for (const TableWriter &writer : writersOf(relation))
		pgCall([&] { return VirtualXactLock(writer.transaction, true); });
}

TargetCache::TargetCache(RegionShared *region) : region_(region)
{
	if (invalidated)
		return;
	invalidated = new std::set<Oid>; // for the life of the process
	pgCall(
		[]
		{
			CacheRegisterRelcacheCallback(
				[](Datum, Oid relation)
				{
					if (OidIsValid(relation))
						invalidated->insert(relation);
					else
						invalidateAll = true;
				},
				0);
			CacheRegisterSyscacheCallback(
				NAMESPACEOID, [](Datum, int, uint32) { invalidateAll = true; }, 0);
		});
}

void TargetCache::locksGone() { ++lockEpoch; }

void TargetCache::sweep()
{
	locksGone();
	if (!invalidateAll && invalidated->empty())
		return;
	// what an invalidated relation means for others (its partitions, its root) is not worth finding out
	bool concerned = invalidateAll;
	for (Oid relation : *invalidated)
		concerned |= targets_.count(relation) > 0;
	for (const auto &[oid, target] : targets_)
		concerned |= invalidated->count(target->root) > 0;
	invalidateAll = false;
	invalidated->clear();
	if (!concerned)
		return;
	targets_.clear();
	names_.clear();
}

Target &TargetCache::byOid(Oid relation)
{
	std::unique_ptr<Target> &place = targets_[relation];
	if (place && place->valid_)
		return *place;
	place = std::make_unique<Target>();
	Relation rel = pgCall([&] { return table_open(relation, RowExclusiveLock); });
	place->describe(rel);
	place->root = pgCall(
		[&]
		{
			Oid root = relation;
			if (rel->rd_rel->relispartition)
				root = llast_oid(get_partition_ancestors(relation));
			return root;
		});
	int64 base = pgCall(
		[root = place->root]() -> int64
		{
			Relation added = table_open(catalogRelation("replicated_table"), AccessShareLock);
			ScanKeyData key;
			ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(root));
			SysScanDesc scan =
				systable_beginscan(added, catalogRelation("replicated_table_pkey"), true, nullptr, 1, &key);
			HeapTuple tuple = systable_getnext(scan);
			bool isNull;
			int64 stamp =
				tuple ? DatumGetInt64(heap_getattr(tuple, kBaseHlcColumn, RelationGetDescr(added), &isNull)) : kNotAdded;
			systable_endscan(scan);
			table_close(added, AccessShareLock);
			return stamp;
		});
	const bool keeps = base != kNotAdded && pgCall([&] { return keepsHistory(rel); });
	if (keeps)
		place->merger = std::make_unique<Merger>(region_, relation, place->owner_, rootOf(place->root), place->columns_);
	else if (base != kNotAdded && hasMergeRule(rootOf(place->root).name))
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table " + place->name + " has a merge rule, and no histories of its rows are kept here")
			.hint("Its trigger mrsync_history is missing: SELECT mrsync.row_history_begin('" + place->name + "'); the event is tried again by itself.");
	else if (base != kNotAdded && place->excludes())
		place->loser = std::make_unique<Loser>(region_, relation, place->owner_, rootOf(place->root), place->columns_);
	pgCall([&] { table_close(rel, NoLock); });
	place->valid_ = true;
	place->isAdded = base != kNotAdded;
	if (place->isAdded)
		place->base = Hlc{base};
	return *place;
}

std::vector<MergeFailure> TargetCache::takeFailures()
{
	std::vector<MergeFailure> failures;
	for (auto &[oid, target] : targets_)
		if (std::optional<MergeFailure> failure = target->merger  ? target->merger->takeFailure()
												  : target->loser ? target->loser->takeFailure()
																  : std::nullopt)
			failures.push_back(std::move(*failure));
	return failures;
}

Target &TargetCache::byName(const std::string &name)
{
	auto known = names_.find(name);
	if (known != names_.end())
		return byOid(known->second);
	Oid relation = pgCall(
		[&]
		{
			List *parts = version::qualifiedNameList(name.c_str());
			return RangeVarGetRelid(makeRangeVarFromNameList(parts), NoLock, true);
		});
	if (!OidIsValid(relation))
		throw PgError(ERRCODE_UNDEFINED_TABLE, "table " + name + " does not exist in this region")
			.hint("Create it and call mrsync.table_add; the event is tried again by itself.");
	Target &target = byOid(relation);
	if (!target.isAdded)
	{
		targets_.erase(relation);
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table " + name + " is not added in this region")
			.hint("Call mrsync.table_add('" + name + "') here; the event is tried again by itself.");
	}
	names_.emplace(name, relation);
	return target;
}

} // namespace mrsync
