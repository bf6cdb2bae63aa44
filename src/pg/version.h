// Every difference between PostgreSQL 15, 16, 17 and 18 that mrsync meets, and nothing else.
// Included by pg/server.h only.
#pragma once

extern "C"
{
#include "access/transam.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "parser/parse_relation.h"
#include "replication/message.h"
#include "replication/origin.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
}

// Before 16 this is empty, since nothing is hidden there; we hide everything by ourselves.
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(name)                                                                                      \
	PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                                                          \
	PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, name)(void);                                               \
	const Pg_finfo_record *CppConcat(pg_finfo_, name)(void)                                                            \
	{                                                                                                                  \
		static const Pg_finfo_record info = {1};                                                                       \
		return &info;                                                                                                  \
	}                                                                                                                  \
	extern int no_such_variable
#endif

namespace mrsync::version
{

#if PG_VERSION_NUM >= 170000
using DecodedTuple = HeapTuple;
inline HeapTuple tupleOf(DecodedTuple tuple) { return tuple; }
#else
using DecodedTuple = ReorderBufferTupleBuf *;
inline HeapTuple tupleOf(DecodedTuple tuple) { return tuple ? &tuple->tuple : nullptr; }
#endif

inline WaitEventSet *createWaitEventSet(int events)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(nullptr, events); // no resource owner: freed by hand, or with the process
#else
	return CreateWaitEventSet(TopMemoryContext, events);
#endif
}

inline void acquireSlot(const char *name)
{
#if PG_VERSION_NUM >= 180000
	ReplicationSlotAcquire(name, true, true);
#else
	ReplicationSlotAcquire(name, true);
#endif
}

inline bool isInvalidated(const ReplicationSlotPersistentData &slot)
{
#if PG_VERSION_NUM >= 160000
	return slot.invalidated != RS_INVAL_NONE;
#else
	return slot.restart_lsn == InvalidXLogRecPtr;
#endif
}

inline void setupOriginSession(RepOriginId origin)
{
#if PG_VERSION_NUM >= 160000
	replorigin_session_setup(origin, 0);
#else
	replorigin_session_setup(origin);
#endif
}

inline List *qualifiedNameList(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return stringToQualifiedNameList(name, nullptr);
#else
	return stringToQualifiedNameList(name);
#endif
}

// An executor's state for writing one relation row by row.
inline void initRangeTable(EState *estate, RangeTblEntry *entry)
{
#if PG_VERSION_NUM >= 180000
	List *permissions = NIL;
	addRTEPermissionInfo(&permissions, entry);
	ExecInitRangeTable(estate, list_make1(entry), permissions, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	List *permissions = NIL;
	addRTEPermissionInfo(&permissions, entry);
	ExecInitRangeTable(estate, list_make1(entry), permissions);
#else
	ExecInitRangeTable(estate, list_make1(entry));
#endif
}

inline void initEvalPlanQual(EPQState *state, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(state, estate, nullptr, NIL, -1, NIL);
#else
	EvalPlanQualInit(state, estate, nullptr, NIL, -1);
#endif
}

inline IndexScanDesc beginIndexScan(Relation table, Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
	return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

inline Oid primaryKeyIndex(Relation relation)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(relation, false);
#else
	return RelationGetPrimaryKeyIndex(relation);
#endif
}

inline VirtualTransactionId holderOf(const LockInstanceData &lock)
{
#if PG_VERSION_NUM >= 170000
	return lock.vxid;
#else
	VirtualTransactionId holder;
	holder.backendId = lock.backend;
	holder.localTransactionId = lock.lxid;
	return holder;
#endif
}

// An attribute as pg_attribute has it, at its place in a description being made.
inline void setAttribute(TupleDesc desc, Form_pg_attribute from)
{
	int i = from->attnum - 1;
	memcpy(TupleDescAttr(desc, i), from, ATTRIBUTE_FIXED_PART_SIZE);
#if PG_VERSION_NUM >= 180000
	populate_compact_attribute(desc, i);
#else
	TupleDescAttr(desc, i)->attcacheoff = -1;
#endif
}

// The place of this backend among all; below MaxBackends for whatever runs transactions.
inline int procNumber()
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}
// A message in the WAL that belongs to no transaction. Returns the end of its record.
inline XLogRecPtr logMessage(const char *prefix, const char *bytes, size_t size)
{
#if PG_VERSION_NUM >= 170000
	return LogLogicalMessage(prefix, bytes, size, false, false);
#else
	return LogLogicalMessage(prefix, bytes, size, false);
#endif
}

// Commit timestamps begin with a later transaction: that of this one is forgotten.
inline bool isBeforeCommitTimestamps(TransactionId xid)
{
	LWLockAcquire(CommitTsLock, LW_SHARED);
#if PG_VERSION_NUM >= 170000
	TransactionId oldest = TransamVariables->oldestCommitTsXid;
#else
	TransactionId oldest = ShmemVariableCache->oldestCommitTsXid;
#endif
	LWLockRelease(CommitTsLock);
	return !TransactionIdIsValid(oldest) || TransactionIdPrecedes(xid, oldest);
}

inline TimeLineID currentTimeline() { return GetWALInsertionTimeLine(); }

inline XLogRecPtr flushedUpTo(TimeLineID *timeline) { return GetFlushRecPtr(timeline); }

} // namespace mrsync::version
