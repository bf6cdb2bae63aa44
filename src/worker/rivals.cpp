// Target: the rows that exclude a row, by unique indexes besides the primary key's and by exclusion constraints.
//
// The search is the one by which the server checks such constraints (execIndexing.c), but it finds all rivals at once
// instead of failing at the first, and it looks at deferrable constraints as at any other. What it looks through is what
// an insertion looks through: every index that is ready for insertions, valid or not.
#include "worker/as_owner.h"
#include "worker/target.h"

#include "pg/guard.h"

#include <algorithm>
#include <set>

extern "C"
{
#include "access/tableam.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
}

namespace mrsync
{

namespace
{

struct Described // a RivalIndex without a destructor
{
	Oid index;
	const char *name;
	bool isPrimary;
	IndexInfo *info;
	const char *nullable;
};

// The last column of an index, or the last that an expression in it depends on, that may be set NULL; "": none. May ereport.
const char *nullableOf(Relation rel, const IndexInfo *info, const Bitmapset *keys)
{
	TupleDesc desc = RelationGetDescr(rel);
	auto mayBeNull = [&](int number)
	{
		if (number <= 0 || bms_is_member(number, keys))
			return false;
		Form_pg_attribute attribute = TupleDescAttr(desc, number - 1);
		return !attribute->attnotnull && attribute->attgenerated == '\0';
	};
	int expression = list_length(info->ii_Expressions);
	for (int i = info->ii_NumIndexKeyAttrs - 1; i >= 0; --i)
	{
		Bitmapset *of = nullptr;
		if (info->ii_IndexAttrNumbers[i] != 0)
			of = bms_make_singleton(info->ii_IndexAttrNumbers[i] - FirstLowInvalidHeapAttributeNumber);
		else
			pull_varattnos(static_cast<Node *>(list_nth(info->ii_Expressions, --expression)), 1, &of);
		int last = -1;
		for (int member = -1; (member = bms_next_member(of, member)) >= 0;)
			if (mayBeNull(member + FirstLowInvalidHeapAttributeNumber))
				last = member + FirstLowInvalidHeapAttributeNumber;
		if (last > 0)
			return pstrdup(NameStr(TupleDescAttr(desc, last - 1)->attname));
	}
	return "";
}

// Which columns of the table an index depends on; offset as pull_varattnos has it.
Bitmapset *columnsOf(const IndexInfo *info)
{
	Bitmapset *columns = nullptr;
	for (int i = 0; i < info->ii_NumIndexKeyAttrs; ++i)
		if (info->ii_IndexAttrNumbers[i] != 0)
			columns = bms_add_member(columns, info->ii_IndexAttrNumbers[i] - FirstLowInvalidHeapAttributeNumber);
	pull_varattnos(reinterpret_cast<Node *>(info->ii_Expressions), 1, &columns);
	pull_varattnos(reinterpret_cast<Node *>(info->ii_Predicate), 1, &columns);
	return columns;
}

bool contains(Bitmapset *columns, AttrNumber column)
{
	return bms_is_member(column - FirstLowInvalidHeapAttributeNumber, columns) ||
		   bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, columns); // the whole row
}

struct Found
{
	ItemPointerData tid;
	TransactionId xmin;
	HeapTuple tuple;
	Bitmapset *by; // positions in rivalIndexes_
};

struct Value // of a column, as text
{
	const TargetColumn *column;
	const char *text;
};

struct Search
{
	Relation table;
	TupleTableSlot *row;
	TupleTableSlot *existing;
	EState *estate;
	const ItemPointerData *own; // null: none
	bool waits;
	List *found; // of Found
};

void add(Search &search, TransactionId xmin, int position)
{
	ListCell *cell;
	foreach (cell, search.found)
	{
		auto *known = static_cast<Found *>(lfirst(cell));
		if (ItemPointerEquals(&known->tid, &search.existing->tts_tid))
		{
			known->by = bms_add_member(known->by, position);
			return;
		}
	}
	auto *found = static_cast<Found *>(palloc(sizeof(Found)));
	found->tid = search.existing->tts_tid;
	found->xmin = xmin;
	found->tuple = ExecCopySlotHeapTuple(search.existing);
	found->by = bms_make_singleton(position);
	search.found = lappend(search.found, found);
}

// Does an entry that the index is not certain of really match? As index_recheck_constraint in the server.
bool matches(Relation index, const Oid *functions, const Datum *existing, const bool *nulls, const Datum *values, int count)
{
	for (int i = 0; i < count; ++i)
		if (nulls[i] || !DatumGetBool(OidFunctionCall2Coll(functions[i], index->rd_indcollation[i], existing[i], values[i])))
			return false;
	return true;
}

// False: a writer had to be waited for, so everything may be different now. May ereport.
bool look(Search &search, const RivalIndex &rival, int position)
{
	IndexInfo *info = rival.info;
	info->ii_ExpressionsState = NIL; // of another executor state
	info->ii_PredicateState = nullptr;
	ExprContext *context = GetPerTupleExprContext(search.estate);
	context->ecxt_scantuple = search.row;
	if (info->ii_Predicate != NIL)
	{
		info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, search.estate);
		if (!ExecQual(info->ii_PredicateState, context))
			return true;
	}
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];
	FormIndexDatum(info, search.row, search.estate, values, nulls);
	int count = info->ii_NumIndexKeyAttrs;
	for (int i = 0; i < count; ++i)
		if (nulls[i] && !info->ii_NullsNotDistinct)
			return true;
	const Oid *functions = info->ii_ExclusionOps ? info->ii_ExclusionProcs : info->ii_UniqueProcs;
	const uint16 *strategies = info->ii_ExclusionOps ? info->ii_ExclusionStrats : info->ii_UniqueStrats;
	Relation index = index_open(rival.index, AccessShareLock);
	ScanKeyData keys[INDEX_MAX_KEYS];
	for (int i = 0; i < count; ++i)
		ScanKeyEntryInitialize(&keys[i], nulls[i] ? SK_ISNULL | SK_SEARCHNULL : 0, i + 1, strategies[i], InvalidOid,
							   index->rd_indcollation[i], functions[i], values[i]);
	SnapshotData snapshot;
	InitDirtySnapshot(snapshot);
	IndexScanDesc scan = version::beginIndexScan(search.table, index, &snapshot, count);
	index_rescan(scan, keys, count, nullptr, 0);
	TransactionId inProgress = InvalidTransactionId;
	uint32 speculation = 0;
	while (index_getnext_slot(scan, ForwardScanDirection, search.existing))
	{
		if (search.own && ItemPointerEquals(const_cast<ItemPointerData *>(search.own), &search.existing->tts_tid))
			continue;
		if (scan->xs_recheck)
		{
			Datum existing[INDEX_MAX_KEYS];
			bool existingNulls[INDEX_MAX_KEYS];
			context->ecxt_scantuple = search.existing;
			FormIndexDatum(info, search.existing, search.estate, existing, existingNulls);
			if (!matches(index, functions, existing, existingNulls, values, count))
				continue;
		}
		if (search.waits)
			inProgress = TransactionIdIsValid(snapshot.xmin) ? snapshot.xmin : snapshot.xmax;
		else if (TransactionIdIsValid(snapshot.xmin))
			continue; // not yet
		if (TransactionIdIsValid(inProgress))
		{
			speculation = snapshot.speculativeToken;
			break;
		}
		bool isNull;
		add(search, DatumGetTransactionId(slot_getsysattr(search.existing, MinTransactionIdAttributeNumber, &isNull)), position);
	}
	ItemPointerData tid = search.existing->tts_tid;
	index_endscan(scan);
	index_close(index, AccessShareLock);
	ExecClearTuple(search.existing);
	if (!TransactionIdIsValid(inProgress))
		return true;
	if (speculation)
		SpeculativeInsertionWait(inProgress, speculation);
	else
		XactLockTableWait(inProgress, search.table, &tid, XLTW_RecheckExclusionConstr);
	return false;
}

} // namespace

void Target::describeRivals(Relation rel)
{
	Bitmapset *columns = nullptr, *keys = nullptr;
	List *described = pgCall(
		[&]
		{
			List *all = NIL;
			for (const TargetColumn &column : columns_)
				if (column.isKey)
					keys = bms_add_member(keys, column.attnum);
			bool some = false;
			MemoryContext former = MemoryContextSwitchTo(context_);
			ListCell *cell;
			foreach (cell, RelationGetIndexList(rel))
			{
				Relation index = index_open(lfirst_oid(cell), AccessShareLock);
				const FormData_pg_index *form = index->rd_index;
				if ((form->indisunique || form->indisexclusion) && form->indisready)
				{
					IndexInfo *info = BuildIndexInfo(index);
					if (!info->ii_ExclusionOps)
						BuildSpeculativeIndexInfo(index, info);
					auto *one = static_cast<Described *>(palloc0(sizeof(Described)));
					one->index = RelationGetRelid(index);
					one->isPrimary = form->indisprimary;
					one->info = info;
					one->name = pstrdup(RelationGetRelationName(index));
					one->nullable = nullableOf(rel, info, keys);
					all = lappend(all, one);
					if (!form->indisprimary)
					{
						some = true;
						columns = bms_union(columns, columnsOf(info));
					}
				}
				index_close(index, AccessShareLock);
			}
			MemoryContextSwitchTo(former);
			return some ? all : NIL;
		});
	ListCell *cell;
	foreach (cell, described)
	{
		const auto &one = *static_cast<Described *>(lfirst(cell));
		rivalIndexes_.push_back(RivalIndex{one.index, one.name, one.isPrimary, one.info, one.nullable});
	}
	for (TargetColumn &column : columns_)
		column.isExclusive = !rivalIndexes_.empty() && contains(columns, column.attnum);
}

bool Target::changesExclusion(const Image &row)
{
	for (const Column &value : row)
		if (const TargetColumn *column = this->column(value.name); column && column->isExclusive)
			if (differsFromHeld(*column, value.value))
				return true;
	return false;
}

std::vector<Rival> Target::rivals(const Image &row, const HeldRow &held) { return findRivals(row, &held, true); }

std::vector<Rival> Target::rivalsNow(const Image &row) { return findRivals(row, nullptr, false); }

std::vector<Rival> Target::findRivals(const Image &row, const HeldRow *held, bool waits)
{
	AsOwner owner(owner_);
	Relation rel = pgCall([&] { return table_open(relation, waits ? RowExclusiveLock : AccessShareLock); });
	locked();
	std::vector<Value> values;
	for (const Column &value : row)
		if (const TargetColumn *column = this->column(value.name); column && (column->isExclusive || column->isKey))
			values.push_back(Value{column, value.value ? value.value->c_str() : nullptr});
	List *found = pgCall(
		[&]
		{
			TupleDesc desc = searchSlot_->tts_tupleDescriptor;
			ExecClearTuple(searchSlot_);
			memset(searchSlot_->tts_isnull, true, desc->natts);
			if (held && held->found) // columns that the image does not have stay as they are
			{
				slot_getallattrs(foundSlot_);
				memcpy(searchSlot_->tts_values, foundSlot_->tts_values, sizeof(Datum) * desc->natts);
				memcpy(searchSlot_->tts_isnull, foundSlot_->tts_isnull, desc->natts);
			}
			for (const Value &value : values)
			{
				const TargetColumn &column = *value.column;
				searchSlot_->tts_values[column.attnum - 1] =
					InputFunctionCall(const_cast<FmgrInfo *>(&column.input), const_cast<char *>(value.text),
									  column.inputParameter, column.typmod);
				searchSlot_->tts_isnull[column.attnum - 1] = !value.text;
			}
			ExecStoreVirtualTuple(searchSlot_);
			Search search{};
			search.table = rel;
			search.row = searchSlot_;
			search.existing = table_slot_create(rel, nullptr);
			search.estate = CreateExecutorState();
			search.own = held && held->found ? &held->tid : nullptr;
			search.waits = waits;
			for (size_t i = 0; i < rivalIndexes_.size();)
			{
				const RivalIndex &rival = rivalIndexes_[i];
				if ((waits && rival.isPrimary) || look(search, rival, static_cast<int>(i)))
				{
					++i;
					continue;
				}
				i = 0;
				search.found = NIL;
			}
			FreeExecutorState(search.estate);
			ExecDropSingleTupleTableSlot(search.existing);
			ExecClearTuple(searchSlot_);
			return search.found;
		});
	std::vector<Rival> rivals;
	const KeyInfo &key = keyInfo(rel);
	ListCell *cell;
	foreach (cell, found)
	{
		const auto &one = *static_cast<Found *>(lfirst(cell));
		Rival rival{};
		rival.tid = one.tid;
		rival.xmin = one.xmin;
		std::vector<Datum> keyValues(key.count);
		TupleTableSlot *slot = pgCall(
			[&]
			{
				TupleTableSlot *of = MakeSingleTupleTableSlot(searchSlot_->tts_tupleDescriptor, &TTSOpsHeapTuple);
				ExecStoreHeapTuple(one.tuple, of, false);
				for (int i = 0; i < key.count; ++i)
				{
					bool isNull;
					keyValues[i] = slot_getattr(of, key.columns[i].attnum, &isNull);
				}
				rival.keyHash = keyHash(key, keyValues.data());
				return of;
			});
		rival.version = versionOfRow(myRegion(), key, keyValues.data(), one.xmin);
		rival.pk = keyText(key, keyValues.data());
		rival.keyName = keyIsText() ? rival.pk : std::to_string(rival.keyHash);
		for (size_t i = 0; i < rivalIndexes_.size(); ++i)
			if (bms_is_member(static_cast<int>(i), one.by))
			{
				rival.by.push_back(i);
				rival.sameKey |= rivalIndexes_[i].isPrimary;
			}
		rival.constraint = namesOf({rival.by.begin(), rival.by.end()});
		if (waits)
			rival.image = imageOf(slot);
		rivals.push_back(std::move(rival));
	}
	pgCall([&] { table_close(rel, NoLock); });
	return rivals;
}

std::string Target::namesOf(const std::set<size_t> &positions) const
{
	std::set<std::string> names;
	for (size_t position : positions)
		names.insert(rivalIndexes_[position].name);
	std::string text;
	for (const std::string &name : names)
		text += (text.empty() ? "" : ", ") + name;
	return text;
}

bool Target::lock(const Rival &rival)
{
	return pgCall(
		[&]
		{
			Relation rel = table_open(relation, RowExclusiveLock);
			TupleTableSlot *slot = table_slot_create(rel, nullptr);
			ItemPointerData tid = rival.tid;
			TM_FailureData failure;
			PushActiveSnapshot(GetLatestSnapshot());
			TM_Result result = table_tuple_lock(rel, &tid, GetLatestSnapshot(), slot, GetCurrentCommandId(false),
												LockTupleExclusive, LockWaitBlock, 0, &failure);
			PopActiveSnapshot();
			ExecDropSingleTupleTableSlot(slot);
			table_close(rel, NoLock);
			return result == TM_Ok;
		});
}

} // namespace mrsync
