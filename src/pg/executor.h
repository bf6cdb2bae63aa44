// PostgreSQL's executor for one row of a table, without SQL.
#pragma once

#include "pg/version.h"

extern "C"
{
#include "executor/executor.h"
#include "utils/rel.h"
}

namespace mrsync
{

// Call inside pgCall; FreeExecutorState frees both. info: the table, which is open, as what is written.
inline EState *executorOf(Relation relation, ResultRelInfo *&info)
{
	EState *estate = CreateExecutorState();
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(relation);
	entry->relkind = relation->rd_rel->relkind;
	entry->rellockmode = RowExclusiveLock;
	version::initRangeTable(estate, entry);
	info = makeNode(ResultRelInfo);
	InitResultRelInfo(info, relation, 1, nullptr, 0);
	return estate;
}

} // namespace mrsync
