#include "api/api.h"

#include <cstring>

extern "C"
{
#include "catalog/pg_authid.h"
#include "replication/slot.h"
#include "utils/uuid.h"
}

namespace mrsync::api
{

namespace
{

// Plain memory: read by the transaction callback.
struct Pending
{
	bool wake;
	bool registration;
	bool registered; // by this transaction, in PRE_COMMIT
	char region[kRegionIdLength];
	char group[kRegionIdLength];
	char slot[NAMEDATALEN]; // to be dropped at an abort; "": none
};
Pending pending;
bool callbackRegistered = false;

// The registration is made before the commit record, where an error (no place left, disk full) can still abort. Should
// the server die in between, the launcher finds a region without a catalog and the next region_init mends it; the other
// way round the catalog would say "region" for ever and no worker would start.
void preCommit()
{
	if (!pending.registration)
		return;
	RegionShared *stale = regionByDatabase(MyDatabaseId);
	if (stale && (std::strcmp(stale->region, pending.region) != 0 || std::strcmp(stale->group, pending.group) != 0))
		regionForget(MyDatabaseId);
	regionRegister(MyDatabaseId, pending.region, pending.group, true);
	pending.registered = true;
}

// Nothing may leave an abort, and each of them is tried whatever becomes of the other.
template <typename F> void undo(const char *what, F &&f)
{
	char why[500] = "unknown C++ exception";
	try
	{
		f();
		return;
	}
	catch (const std::exception &error)
	{
		strlcpy(why, error.what(), sizeof why);
	}
	catch (...)
	{
	}
	LWLockReleaseAll(); // those that the failure has left behind
	ereport(WARNING, (errmsg("could not undo %s of a failed region_init: %s", what, why)));
}

void aborted()
{
	if (pending.registered)
		undo("the registration", [] { regionForget(MyDatabaseId); });
	if (pending.slot[0] != '\0')
		undo("the replication slot",
			 []
			 {
				 pgCall(
					 []
					 {
						 // one that is still being made goes by itself
						 if (!MyReplicationSlot && SearchNamedReplicationSlot(pending.slot, true))
							 ReplicationSlotDrop(pending.slot, true);
					 });
			 });
}

void committed()
{
	if (pending.registration)
		launcherWake();
	if (!pending.wake)
		return;
	if (RegionShared *region = myRegion())
	{
		workerWake(region->coordinatorLatch);
		for (WorkerShared &worker : region->workers)
			if (worker.kind == WorkerKind::Applier)
				workerWake(worker.latch);
	}
	else
		launcherWake();
}

void onXact(XactEvent event, void *)
{
	switch (event)
	{
	case XACT_EVENT_PRE_COMMIT:
		enter([] { preCommit(); });
		break;
	case XACT_EVENT_PRE_PREPARE:
		if (pending.registration)
			enter([] { throw PgError(ERRCODE_FEATURE_NOT_SUPPORTED, "region_init cannot be prepared"); });
		break;
	case XACT_EVENT_COMMIT:
		committed();
		pending = Pending{};
		break;
	case XACT_EVENT_ABORT:
		aborted();
		pending = Pending{};
		break;
	case XACT_EVENT_PREPARE:
		pending = Pending{};
		break;
	default:
		break;
	}
}

void arm()
{
	if (callbackRegistered)
		return;
	pgCall([] { RegisterXactCallback(onXact, nullptr); });
	callbackRegistered = true;
}

} // namespace

void requireArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		throw PgError(ERRCODE_NULL_VALUE_NOT_ALLOWED, std::string("argument ") + name + " must not be NULL");
}

std::string textArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	requireArgument(fcinfo, n, name);
	return pgCall([&]() -> const char * { return text_to_cstring(PG_GETARG_TEXT_PP(n)); });
}

std::optional<std::string> optionalTextArgument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return std::nullopt;
	return textArgument(fcinfo, n, "");
}

std::string uuidArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	requireArgument(fcinfo, n, name);
	return pgCall([&]() -> const char *
				  { return DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(n))); });
}

AsSuperuser::AsSuperuser()
{
	GetUserIdAndSecContext(&user_, &context_);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context_ | SECURITY_LOCAL_USERID_CHANGE);
}

AsSuperuser::~AsSuperuser() { SetUserIdAndSecContext(user_, context_); }

void requireSuperuser(const char *function)
{
	if (!pgCall([] { return superuser(); }))
		throw PgError(ERRCODE_INSUFFICIENT_PRIVILEGE, std::string("permission denied for mrsync.") + function)
			.detail("Only a superuser may call it.")
			.hint("Call it as a superuser of this server.");
}

void requireNoTransactionBlock(const char *function, const char *why)
{
	if (IsTransactionBlock() || GetCurrentTransactionNestLevel() > 1)
		throw PgError(ERRCODE_ACTIVE_SQL_TRANSACTION,
					  std::string("mrsync.") + function + " cannot run inside a transaction block")
			.detail(why)
			.hint("Call it in a statement of its own, outside of BEGIN and COMMIT.");
}

RegionShared *requireRegion()
{
	RegionShared *region = myRegion();
	if (region)
		return region;
	shmemRequire();
	throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "this database is not an mrsync region")
		.hint("Call mrsync.region_init(region_id, kafka_brokers) first.");
}

void checkName(const char *what, const std::string &name)
{
	bool good = !name.empty() && name.size() <= 31 && name[0] >= 'a' && name[0] <= 'z';
	for (char c : name)
		good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-');
	if (!good)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, std::string(what) + " \"" + name + "\" is not valid")
			.detail("It becomes part of the names of Kafka topics and replication origins.")
			.hint("Use 1 to 31 characters: a lower-case letter first, then lower-case letters, digits, _ or -.");
}

void notice(int level, const std::string &message, const std::string &detail, const std::string &hint)
{
	const char *text = message.c_str();
	const char *more = detail.empty() ? nullptr : detail.c_str();
	const char *help = hint.empty() ? nullptr : hint.c_str();
	pgCall(
		[&]
		{
			// by hand: the macro makes a constant of its level
			if (errstart(level, TEXTDOMAIN))
			{
				errcode(level >= WARNING ? ERRCODE_WARNING : ERRCODE_SUCCESSFUL_COMPLETION);
				errmsg("%s", text);
				if (more)
					errdetail("%s", more);
				if (help)
					errhint("%s", help);
				errfinish(__FILE__, __LINE__, __func__);
			}
		});
}

void wakeAtCommit()
{
	arm();
	pending.wake = true;
}

void registerAtCommit(const std::string &region, const std::string &group)
{
	arm();
	pending.registration = true;
	strlcpy(pending.region, region.c_str(), sizeof pending.region);
	strlcpy(pending.group, group.c_str(), sizeof pending.group);
}

void dropSlotAtAbort(const std::string &slot)
{
	arm();
	strlcpy(pending.slot, slot.c_str(), sizeof pending.slot);
}

} // namespace mrsync::api
