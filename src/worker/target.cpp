#include "worker/target.h"

#include "pg/catalog.h"
#include "pg/guard.h"

#include <cstring>
#include <set>

extern "C"
{
#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
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

// Acts as the table's owner, whose code may set what it likes until the end (its search_path must not become ours).
// Nothing in here can fail; an abort in between puts the superuser and the settings back by itself.
class AsOwner
{
public:
	explicit AsOwner(Oid owner) : settings_(NewGUCNestLevel())
	{
		GetUserIdAndSecContext(&user_, &context_);
		SetUserIdAndSecContext(owner, context_ | SECURITY_RESTRICTED_OPERATION | SECURITY_LOCAL_USERID_CHANGE);
	}
	~AsOwner()
	{
		AtEOXact_GUC(false, settings_);
		SetUserIdAndSecContext(user_, context_);
	}
	AsOwner(const AsOwner &) = delete;
	AsOwner &operator=(const AsOwner &) = delete;

private:
	int settings_;
	Oid user_;
	int context_;
};

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

std::string quoted(const std::string &identifier) { return quote_identifier(identifier.c_str()); }

SPIPlanPtr prepare(const std::string &sql, const std::vector<Oid> &types)
{
	return pgCall(
		[&]
		{
			MemoryContext context = CurrentMemoryContext;
			SPIPlanPtr plan =
				SPI_prepare(sql.c_str(), static_cast<int>(types.size()), const_cast<Oid *>(types.data()));
			MemoryContextSwitchTo(context);
			if (!plan)
				elog(ERROR, "could not prepare (%s): %s", SPI_result_code_string(SPI_result), sql.c_str());
			if (SPI_keepplan(plan) != 0)
				elog(ERROR, "could not keep a plan");
			return plan;
		});
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
		column.isGenerated = attribute->attgenerated != '\0';
		column.isAlways = attribute->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		for (int k = 0; k < key.count; ++k)
			if (key.columns[k].attnum == column.attnum)
			{
				column.isKey = true;
				column.isFixedKey = equalMeansSameText(column.type);
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

Oid Target::partitionFor(const Image &pk)
{
	AsOwner owner(owner_);
	Relation rel = pgCall([&] { return table_open(relation, RowExclusiveLock); });
	locked();
	const KeyInfo &key = keyInfo(rel);
	keyFromImage(key, pk, keyValues_);
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
			FreeExecutorState(estate);
			ExecClearTuple(searchSlot_);
			table_close(rel, NoLock);
			return found;
		});
}

HeldRow Target::hold(const Image &pk)
{
	AsOwner owner(owner_);
	Relation rel = pgCall([&] { return table_open(relation, RowExclusiveLock); });
	locked();
	const KeyInfo &key = keyInfo(rel);
	keyFromImage(key, pk, keyValues_);
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

Image Target::heldImage()
{
	Image image;
	for (TargetColumn &column : columns_)
	{
		const char *text = pgCall(
			[&]() -> const char *
			{
				bool isNull;
				Datum value = slot_getattr(foundSlot_, column.attnum, &isNull);
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

std::string Target::heldKeyName(const std::string &pkText)
{
	for (const TargetColumn &column : columns_)
		if (column.isKey && !column.isFixedKey)
			return std::to_string(heldKeyHash());
	return pkText;
}

void Target::plansFor(const Image &row)
{
	bool same = insertPlan_ && planColumns_.size() == row.size();
	for (size_t i = 0; same && i < row.size(); ++i)
		same = planColumns_[i] == row[i].name;
	if (same)
		return;
	for (SPIPlanPtr *plan : {&insertPlan_, &updatePlan_})
	{
		if (*plan)
			SPI_freeplan(*plan);
		*plan = nullptr;
	}
	planColumns_.clear();
	insertColumns_.clear();

	std::string names, parameters, assignments, conflict;
	std::vector<Oid> types;
	for (const Column &value : row)
	{
		const TargetColumn *column = this->column(value.name);
		if (!column)
			throw PgError(ERRCODE_UNDEFINED_COLUMN,
						  "column " + quoted(value.name) + " of " + name + " does not exist in this region")
				.hint("Add the column here; the event is tried again by itself. If it was dropped on purpose: "
					  "mrsync.apply_error_discard().");
		insertColumns_.push_back(column->isGenerated ? nullptr : column);
		planColumns_.push_back(value.name);
		types.push_back(column->type);
		if (column->isGenerated)
			continue;
		std::string parameter = "$" + std::to_string(types.size());
		names += (names.empty() ? "" : ", ") + quoted(value.name);
		parameters += (parameters.empty() ? "" : ", ") + parameter;
		if (!column->isFixedKey && !column->isAlways)
			assignments += (assignments.empty() ? "" : ", ") + quoted(value.name) + " = " + parameter;
	}
	Relation rel = pgCall([&] { return table_open(relation, NoLock); });
	const KeyInfo &key = keyInfo(rel);
	for (int i = 0; i < key.count; ++i)
		conflict += (i ? ", " : "") + quoted(NameStr(key.columns[i].name));
	pgCall([&] { table_close(rel, NoLock); });
	AsOwner owner(owner_);
	std::vector<Oid> updateTypes = types;
	updateTypes.push_back(TIDOID);
	// a table of nothing but its key: the row is rewritten as it is, for its version
	if (assignments.empty())
		assignments = quoted(NameStr(key.columns[0].name)) + " = " + quoted(NameStr(key.columns[0].name));
	updatePlan_ = prepare("UPDATE ONLY " + name + " SET " + assignments + " WHERE ctid = $" +
							  std::to_string(updateTypes.size()),
						  updateTypes);
	// last: while it is missing, both are made anew
	insertPlan_ = prepare("INSERT INTO " + name + " (" + names + ") OVERRIDING SYSTEM VALUE VALUES (" + parameters +
							  ") ON CONFLICT (" + conflict + ") DO NOTHING",
						  types);
}

void Target::execute(SPIPlanPtr plan, Datum *values, char *nulls, int expected, uint64_t &processed)
{
	processed = pgCall(
		[&]() -> uint64_t
		{
			// SPI leaves its own context behind as the current one: what is allocated after it would stay until commit
			MemoryContext context = CurrentMemoryContext;
			int result = SPI_execute_plan(plan, values, nulls, false, 0);
			MemoryContextSwitchTo(context);
			if (result != expected)
				elog(ERROR, "SPI failed on %s: %s", name.c_str(), SPI_result_code_string(result));
			return SPI_processed;
		});
}

namespace
{

// The values of a row for its plan; with room for one more parameter.
struct Parameters
{
	Datum *values;
	char *nulls;
};

Parameters parametersOf(const Image &row, const std::vector<const TargetColumn *> &columns)
{
	return pgCall(
		[&]
		{
			Parameters parameters;
			parameters.values = static_cast<Datum *>(palloc0(sizeof(Datum) * (row.size() + 1)));
			parameters.nulls = static_cast<char *>(palloc(row.size() + 2));
			for (size_t i = 0; i < row.size(); ++i)
			{
				const TargetColumn *column = columns[i];
				const std::optional<std::string> &text = row[i].value;
				parameters.nulls[i] = text && column ? ' ' : 'n';
				if (column) // a domain's input function checks NULL, too
					parameters.values[i] =
						InputFunctionCall(const_cast<FmgrInfo *>(&column->input),
										  text ? const_cast<char *>(text->c_str()) : nullptr, column->inputParameter,
										  column->typmod);
			}
			parameters.nulls[row.size()] = ' ';
			parameters.nulls[row.size() + 1] = '\0';
			return parameters;
		});
}

} // namespace

bool Target::insert(const Image &row)
{
	plansFor(row);
	AsOwner owner(owner_);
	Parameters parameters = parametersOf(row, insertColumns_);
	uint64_t processed;
	execute(insertPlan_, parameters.values, parameters.nulls, SPI_OK_INSERT, processed);
	return processed == 1;
}

bool Target::differsFromHeld(const TargetColumn &column, const std::optional<std::string> &text)
{
	return pgCall(
		[&]
		{
			bool isNull;
			Datum value = slot_getattr(foundSlot_, column.attnum, &isNull);
			if (isNull || !text)
				return isNull != !text;
			return *text != OutputFunctionCall(const_cast<FmgrInfo *>(&column.output), value);
		});
}

// Without SQL, which would refuse a column that is GENERATED ALWAYS AS IDENTITY. Such a column differs only where its
// user set it to DEFAULT, or where two regions inserted the same key.
void Target::updateAnyColumn(const Image &row)
{
	AsOwner owner(owner_);
	Parameters parameters = parametersOf(row, insertColumns_);
	pgCall(
		[&]
		{
			Relation rel = table_open(relation, RowExclusiveLock);
			EState *estate = CreateExecutorState();
			RangeTblEntry *entry = makeNode(RangeTblEntry);
			entry->rtekind = RTE_RELATION;
			entry->relid = relation;
			entry->relkind = rel->rd_rel->relkind;
			entry->rellockmode = RowExclusiveLock;
			version::initRangeTable(estate, entry);
			ResultRelInfo *info = makeNode(ResultRelInfo);
			InitResultRelInfo(info, rel, 1, nullptr, 0);
			estate->es_output_cid = GetCurrentCommandId(true);
			ExecOpenIndices(info, false);
			EPQState epq;
			version::initEvalPlanQual(&epq, estate);
			TupleTableSlot *slot = ExecInitExtraTupleSlot(estate, RelationGetDescr(rel), table_slot_callbacks(rel));
			slot_getallattrs(foundSlot_);
			ExecClearTuple(slot);
			memcpy(slot->tts_values, foundSlot_->tts_values, sizeof(Datum) * slot->tts_tupleDescriptor->natts);
			memcpy(slot->tts_isnull, foundSlot_->tts_isnull, slot->tts_tupleDescriptor->natts);
			for (size_t i = 0; i < row.size(); ++i)
				if (const TargetColumn *column = insertColumns_[i])
				{
					slot->tts_values[column->attnum - 1] = parameters.values[i];
					slot->tts_isnull[column->attnum - 1] = parameters.nulls[i] == 'n';
				}
			ExecStoreVirtualTuple(slot);
			AfterTriggerBeginQuery();
			ExecSimpleRelationUpdate(info, estate, &epq, foundSlot_, slot);
			AfterTriggerEndQuery(estate);
			ExecCloseIndices(info);
			EvalPlanQualEnd(&epq);
			ExecResetTupleTable(estate->es_tupleTable, false);
			FreeExecutorState(estate);
			table_close(rel, NoLock);
			CommandCounterIncrement();
		});
}

void Target::update(const HeldRow &held, const Image &row)
{
	plansFor(row);
	for (size_t i = 0; i < row.size(); ++i)
		if (insertColumns_[i] && insertColumns_[i]->isAlways && differsFromHeld(*insertColumns_[i], row[i].value))
			return updateAnyColumn(row);
	AsOwner owner(owner_);
	Parameters parameters = parametersOf(row, insertColumns_);
	ItemPointerData tid = held.tid;
	parameters.values[row.size()] = PointerGetDatum(&tid);
	uint64_t processed;
	execute(updatePlan_, parameters.values, parameters.nulls, SPI_OK_UPDATE, processed);
	if (processed != 1)
		throw PgError(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION, "a trigger of " + name + " kept a row from being updated");
}

void Target::remove(const HeldRow &held)
{
	if (!removePlan_)
		removePlan_ = prepare("DELETE FROM ONLY " + name + " WHERE ctid = $1", {TIDOID});
	AsOwner owner(owner_);
	ItemPointerData tid = held.tid;
	Datum value = PointerGetDatum(&tid);
	uint64_t processed;
	execute(removePlan_, &value, nullptr, SPI_OK_DELETE, processed);
	if (processed != 1)
		throw PgError(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION, "a trigger of " + name + " kept a row from being deleted");
}

void Target::takeBack(const HeldRow &held)
{
	pgCall(
		[&]
		{
			Relation rel = table_open(relation, RowExclusiveLock);
			ItemPointerData tid = held.tid;
			simple_heap_delete(rel, &tid);
			table_close(rel, NoLock);
			CommandCounterIncrement();
		});
}

void Target::removeOlder(Hlc hlc, const std::string &region)
{
	if (!removeOlderPlan_)
		removeOlderPlan_ =
			prepare("DELETE FROM " + name + " AS t WHERE mrsync.version_below(t.tableoid, t.ctid, t.xmin, $1::mrsync.hlc, $2)", {INT8OID, TEXTOID});
	AsOwner owner(owner_);
	Datum values[2] = {Int64GetDatum(hlc.value), pgCall([&] { return CStringGetTextDatum(region.c_str()); })};
	uint64_t processed;
	execute(removeOlderPlan_, values, nullptr, SPI_OK_DELETE, processed);
}

void Target::waitForWriters()
{
	pgCall(
		[&]
		{
			// whoever wrote a partition through its root holds a lock on the partition, too
			ListCell *cell;
			foreach (cell, find_all_inheritors(relation, NoLock, nullptr))
			{
				LOCKTAG tag;
				SET_LOCKTAG_RELATION(tag, MyDatabaseId, lfirst_oid(cell));
				WaitForLockers(tag, ShareLock, false);
			}
		});
}

TargetCache::TargetCache()
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
			table_close(rel, NoLock);
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
	place->valid_ = true;
	place->isAdded = base != kNotAdded;
	if (place->isAdded)
		place->base = Hlc{base};
	return *place;
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
