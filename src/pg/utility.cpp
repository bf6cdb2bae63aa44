#include "pg/utility.h"

#include "pg/guard.h"
#include "pg/twophase.h"

extern "C"
{
#include "access/xact.h"
#include "tcop/utility.h"
}

namespace mrsync
{

namespace
{

ProcessUtility_hook_type previousHook = nullptr;
CommandId alterBegan = InvalidCommandId;

// No object with a destructor may live in here while the command runs: it may end by a longjmp.
void onUtility(PlannedStmt *statement, const char *query, bool readOnlyTree, ProcessUtilityContext context, ParamListInfo parameters,
			   QueryEnvironment *environment, DestReceiver *destination, QueryCompletion *completion)
{
	auto next = previousHook ? previousHook : standard_ProcessUtility;
	const char *committing = nullptr;
	if (IsA(statement->utilityStmt, TransactionStmt))
	{
		auto *transaction = reinterpret_cast<TransactionStmt *>(statement->utilityStmt);
		if (transaction->kind == TRANS_STMT_COMMIT_PREPARED && context == PROCESS_UTILITY_TOPLEVEL)
			committing = transaction->gid;
	}
	if (committing)
		enter([&] { commitPreparedBegin(committing); });
	CommandId outer = alterBegan; // an ALTER TABLE in an event trigger's function; after an error the next one sets it
	if (IsA(statement->utilityStmt, AlterTableStmt))
		alterBegan = GetCurrentCommandId(false);
	next(statement, query, readOnlyTree, context, parameters, environment, destination, completion);
	alterBegan = outer;
	if (committing)
		enter([] { commitPreparedEnd(); });
}

} // namespace

CommandId alterTableBegan() { return alterBegan; }

void utilityInit()
{
	previousHook = ProcessUtility_hook;
	ProcessUtility_hook = onUtility;
}

} // namespace mrsync
