// region_init, region_connect, region_leave: a database becomes a region, learns of its peers, and stops being one; and
// slot_recreate, for a region that has lost its slot.
#include "api/api.h"
#include "api/table.h"

#include "kafka/admin.h"
#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/exit.h"
#include "pg/guc.h"
#include "pg/horizon.h"

#include <csignal>
#include <cstring>

extern "C"
{
#include "mb/pg_wchar.h"
#include "storage/procarray.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(mrsync_preloaded);
PG_FUNCTION_INFO_V1(mrsync_region_init);
PG_FUNCTION_INFO_V1(mrsync_region_connect);
PG_FUNCTION_INFO_V1(mrsync_region_leave);
PG_FUNCTION_INFO_V1(mrsync_slot_recreate);
}

namespace mrsync::api
{

namespace
{

constexpr int kBrokerTimeoutMs = 10000;
constexpr int kLeaveTimeoutMs = 30000;

// One call of these at a time per database. Taken before anything is looked at; needs no transaction id, which the
// creation of a slot would refuse.
void lockRegionCalls()
{
	spi::Rows rows = spi::query("SELECT pg_catalog.pg_try_advisory_xact_lock(1836217209, 1)");
	if (rows[0][0] != "t")
		throw PgError(ERRCODE_OBJECT_IN_USE, "another session is changing this region right now")
			.hint("Wait until it has finished, then look at mrsync.region.");
}

std::optional<std::string> localRegion()
{
	spi::Rows rows = spi::query("SELECT region_id FROM mrsync.region WHERE is_local");
	if (rows.empty())
		return std::nullopt;
	return rows[0][0];
}

// All that is missing at once: nobody wants to restart a server five times.
void checkSettings()
{
	spi::Rows rows = spi::query("SELECT missing, advice FROM mrsync.settings_advice() WHERE missing IS NOT NULL");
	if (!rows.empty())
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "this server's settings do not allow a region yet")
			.detail(*rows[0][0])
			.hint(*rows[0][1]);
}

template <typename F> auto askBroker(const std::string &brokers, F &&f)
{
	pgCall([] { exitWithoutLibraries(); });
	try
	{
		return f();
	}
	catch (const kafka::Error &error)
	{
		throw PgError(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
					  "Kafka at \"" + brokers + "\" does not do what mrsync needs")
			.detail(error.what())
			.hint("Check that the brokers run, that this server reaches them under the names that they advertise, that "
				  "mrsync.kafka_options is what they want, and that topics may be created.");
	}
}

void checkBrokers(const std::string &brokers)
{
	if (brokers.find_first_not_of(" ,") == std::string::npos)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "kafka_brokers is empty")
			.hint("Give the addresses of one or more brokers: 'host:9092,host:9092'.");
	askBroker(brokers, [&] { kafka::brokerCheck({brokers, guc::kafkaOptions}, kBrokerTimeoutMs); });
}

std::string mySlotName()
{
	char name[NAMEDATALEN];
	slotName(MyDatabaseId, name);
	return name;
}

// A leftover: the database is no region, so nothing hangs on it.
void dropSlotIfThere(const std::string &slot)
{
	spi::Rows rows =
		spi::query("SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::name", {slot});
	if (rows.empty())
		return;
	if (rows[0][0])
		throw PgError(ERRCODE_OBJECT_IN_USE, "replication slot \"" + slot + "\" is in use by process " + *rows[0][0])
			.detail("It bears the name of this database's slot, but the database is not a region.")
			.hint("End that process, then call again.");
	spi::query("SELECT pg_catalog.pg_drop_replication_slot($1::name)", {slot});
}

// Where what it sends begins.
std::string createSlot(const std::string &slot)
{
	return *spi::query("SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot($1::name, 'mrsync')", {slot})[0][0];
}

// Until the end of the transaction nobody else makes a peer known; readers are not in the way, nor are new links.
void checkPeerLimit()
{
	AsSuperuser rights;
	spi::execute("LOCK TABLE mrsync.region IN SHARE ROW EXCLUSIVE MODE");
	spi::Rows rows = spi::query("SELECT count(*) FROM mrsync.region WHERE NOT is_local");
	if (std::stoi(*rows[0][0]) >= kMaxPeers)
		throw PgError(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "this region has no place for another peer")
			.detail("It knows " + *rows[0][0] + " regions; a region can have at most " + std::to_string(kMaxPeers) + " peers.")
			.hint("There is no way to forget a peer but mrsync.region_leave(), which forgets all of them.");
}

// The server tracks a limited number of origins, from when they are used first; the applier would only learn at its start
// that none is left. So those that have not been used yet count, too.
void checkOriginLimit(const std::string &origin)
{
#if PG_VERSION_NUM >= 180000
	const char *setting = "max_active_replication_origins";
#else
	const char *setting = "max_replication_slots";
#endif
	spi::Rows rows = spi::query("SELECT count(*), pg_catalog.current_setting($2)::int, "
								"count(*) < pg_catalog.current_setting($2)::int "
								"FROM pg_catalog.pg_replication_origin WHERE roname <> $1",
								{origin, setting});
	if (rows[0][2] == "t")
		return;
	throw PgError(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "this server has no place for another replication origin")
		.detail("It has " + *rows[0][0] + "; " + setting + " is " + *rows[0][1] + ".")
		.hint(*spi::query("SELECT mrsync.setting_advice($1, $2)",
						  {setting, std::to_string(std::stoi(*rows[0][1]) * 2 + 8)})[0][0]);
}

// Its id.
std::string originCreate(const std::string &origin)
{
	return std::to_string(pgCall(
		[&]
		{
			RepOriginId known = replorigin_by_name(origin.c_str(), true);
			return known != InvalidRepOriginId ? known : replorigin_create(origin.c_str());
		}));
}

void regionInit(const std::string &region, const std::string &brokers, const std::string &group)
{
	requireNoTransactionBlock("region_init", "It creates a replication slot, which no rollback takes back.");
	requireSuperuser("region_init");
	checkName("region_id", region);
	checkName("replication_group", group);
	if (GetDatabaseEncoding() != PG_UTF8)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the encoding of this database is not UTF8")
			.detail(std::string("It is ") + GetDatabaseEncodingName() +
					"; every region must be able to store what any other can.")
			.hint("Create the region in a database made with ENCODING 'UTF8'.");
	lockRegionCalls();
	if (std::optional<std::string> former = localRegion())
		throw PgError(ERRCODE_DUPLICATE_OBJECT, "this database is region \"" + *former + "\" already")
			.hint(*former == region
					  ? "Nothing is to be done. SELECT * FROM mrsync.worker_status shows how it is."
					  : "A database is one region for its life. To give it up, call mrsync.region_leave().");
	if (!spi::query("SELECT FROM mrsync.region WHERE region_id = $1", {region}).empty())
		throw PgError(ERRCODE_DUPLICATE_OBJECT, "region \"" + region + "\" is known here as a peer")
			.hint("Choose a region_id that no other region has.");
	checkSettings();
	if (!myRegion())
		regionFree(); // rather now than at the commit; it may be taken until then
	const std::string origin = ownOriginName(MyDatabaseId, region, group);
	checkOriginLimit(origin);
	checkBrokers(brokers);
	std::string topic = "mrsync." + group + "." + region;
	for (const std::string &name : {topic, topic + ".control"})
	{
		kafka::Topic made = askBroker(
			brokers, [&] { return kafka::topicCreate({brokers, guc::kafkaOptions}, name, kafka::TopicSettings{}, kBrokerTimeoutMs); });
		if (!made.risk.empty())
			notice(WARNING, "Kafka topic \"" + name + "\" may lose events before they are read: " + made.risk,
				   "What a reader finds gone stops its link.",
				   "Set retention.ms above the longest absence of a region that you want to survive, and retention.bytes to -1.");
		if (made.created == kafka::TopicCreated::Existed)
			notice(NOTICE, "Kafka topic \"" + name + "\" exists already and is used as it is",
				   "A region of this name has written to it before.",
				   "If that was another database, choose another region_id, or delete the topic first.");
	}
	std::string slot = mySlotName();
	dropSlotIfThere(slot);
	dropSlotAtAbort(slot); // it would keep WAL for ever
	const std::string begin = createSlot(slot);
	// For rows of its own that appliers write again. A place is taken for it now: after a crash, recovery would fail without one.
	spi::execute("INSERT INTO mrsync.region (region_id, is_local, replication_group, kafka_brokers, link_origin) "
				 "VALUES ($1, true, $2, $3, $4::oid)",
				 {region, group, brokers, originCreate(origin)});
	spi::query("SELECT pg_catalog.pg_replication_origin_advance($1, '0/1')", {origin});
	spi::execute("INSERT INTO mrsync.extractor_position (lsn, first_incarnation, incarnation) SELECT $1::pg_lsn, now, now FROM (SELECT "
				 "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) clock",
				 {begin});
	horizonSample(nullptr); // bounds all rows that are older than the region
	registerAtCommit(region, group);
}

void regionConnect(const std::string &region, const std::optional<std::string> &brokersGiven)
{
	(void)requireRegion();
	checkName("region_id", region);
	spi::Rows mine = spi::query("SELECT region_id, replication_group, kafka_brokers FROM mrsync.region WHERE is_local");
	if (mine.empty())
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "this database is not an mrsync region")
			.hint("Call mrsync.region_init(region_id, kafka_brokers) first.");
	if (region == mine[0][0])
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "region \"" + region + "\" is this region itself")
			.hint("Give the region_id of another region.");
	if (!spi::query("SELECT FROM mrsync.region WHERE region_id = $1", {region}).empty())
		throw PgError(ERRCODE_DUPLICATE_OBJECT, "region \"" + region + "\" is known here already")
			.hint("Create links with it by mrsync.link_create(source_region, target_region).");
	std::string brokers = brokersGiven.value_or(*mine[0][2]);
	checkBrokers(brokers);
	checkPeerLimit();
	checkOriginLimit(originName(MyDatabaseId, region));
	AsSuperuser rights;
	spi::execute("INSERT INTO mrsync.region (region_id, is_local, replication_group, kafka_brokers, link_origin) "
				 "VALUES ($1, false, $2, $3, $4::oid)",
				 {region, mine[0][1], brokers, originCreate(originName(MyDatabaseId, region))});
	wakeAtCommit(); // the coordinator makes the origin known to all processes
}

void endWorkers(const std::vector<pid_t> &pids)
{
	int64_t until = steadyNow() + kLeaveTimeoutMs * INT64CONST(1000);
	bool told = false;
	for (;;)
	{
		size_t alive = 0;
		pgCall(
			[&]
			{
				for (pid_t pid : pids)
					if (BackendPidGetProc(pid))
					{
						++alive;
						if (!told)
							kill(pid, SIGTERM);
					}
			});
		told = true;
		if (alive == 0)
			return;
		if (steadyNow() > until)
			throw PgError(ERRCODE_OBJECT_IN_USE, std::to_string(alive) + " worker processes of this region do not end")
				.hint("SELECT * FROM pg_stat_activity WHERE pid = " + std::to_string(pids[0]) +
					  " shows what one waits for. Then call mrsync.region_leave() again.");
		pgCall(
			[]
			{
				(void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20, PG_WAIT_EXTENSION);
				ResetLatch(MyLatch);
				CHECK_FOR_INTERRUPTS();
			});
	}
}

void slotRecreate()
{
	requireNoTransactionBlock("slot_recreate", "It creates a replication slot, which no rollback takes back.");
	requireSuperuser("slot_recreate");
	(void)requireRegion();
	lockRegionCalls();
	std::string slot = mySlotName();
	SlotState state = pgCall([&] { return slotState(slot.c_str()); });
	if (state != SlotState::Missing && state != SlotState::Invalidated)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "replication slot \"" + slot + "\" is in order")
			.hint("Nothing is to be done. SELECT * FROM mrsync.worker_status shows what the extractor waits for.");
	dropSlotIfThere(slot);
	(void)createSlot(slot);
	notice(NOTICE, "what was committed while there was no slot is not sent",
		   "The links to the other regions stop before what comes next, and name it.",
		   "SELECT mrsync.resend() sends what is missing; then they go on by themselves.");
}

// Can be called again after it failed half-way: what is gone already is passed over.
void regionLeave()
{
	requireNoTransactionBlock("region_leave", "It ends worker processes and drops a replication slot, which no rollback "
											  "takes back.");
	requireSuperuser("region_leave");
	lockRegionCalls();
	shmemRequire(); // without it the durable file would go on calling the database a region
	RegionShared *shared = myRegion();
	std::optional<std::string> local = localRegion();
	if (!shared && !local)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "this database is not an mrsync region")
			.hint("Nothing is to be done.");
	if (shared)
	{
		const std::vector<pid_t> pids = regionForget(MyDatabaseId); // first, so that the launcher does not start them again
		launcherWake();
		endWorkers(pids);
	}
	dropSlotIfThere(mySlotName());
	for (const spi::Row &row : spi::query("SELECT t.relation::oid FROM mrsync.replicated_table t "
										  "JOIN pg_catalog.pg_class c ON c.oid = t.relation"))
		tableRemoveUnchecked(static_cast<Oid>(std::stoul(*row[0])));
	spi::execute("TRUNCATE mrsync.region, mrsync.replicated_table, mrsync.former_identity, mrsync.replication_link, "
				 "mrsync.link_position, mrsync.extractor_position, mrsync.recovery, mrsync.resend, mrsync.control_position, mrsync.heartbeat, "
				 "mrsync.acknowledgement, mrsync.applied_event, mrsync.tombstone, mrsync.hlc_override, mrsync.pruning, "
				 "mrsync.row_entry, mrsync.base_marker, mrsync.horizon, mrsync.apply_error, mrsync.row_aside, mrsync.row_history, "
				 "mrsync.merge_definition, mrsync.merge_acknowledgement, mrsync.merge_folded, mrsync.merge_failure, mrsync.merge_comparison, "
				 "mrsync.merge_difference, mrsync.conflict_untold, mrsync.conflict_report");
	spi::Rows origins = spi::query(
		"SELECT roname FROM pg_catalog.pg_replication_origin WHERE pg_catalog.starts_with(roname, $1)",
		{mySlotName() + "_"});
	for (const spi::Row &row : origins)
		spi::query("SELECT pg_catalog.pg_replication_origin_drop($1)", {row[0]});
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_preloaded(PG_FUNCTION_ARGS)
{
	(void)fcinfo;
	return enter([] { return BoolGetDatum(shmemReady()); });
}

Datum mrsync_region_init(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			regionInit(textArgument(fcinfo, 0, "region_id"), textArgument(fcinfo, 1, "kafka_brokers"),
					   textArgument(fcinfo, 2, "replication_group"));
		});
	return Datum(0);
}

Datum mrsync_region_connect(PG_FUNCTION_ARGS)
{
	enter([&] { regionConnect(textArgument(fcinfo, 0, "region_id"), optionalTextArgument(fcinfo, 1)); });
	return Datum(0);
}

Datum mrsync_slot_recreate(PG_FUNCTION_ARGS)
{
	(void)fcinfo;
	enter([] { slotRecreate(); });
	return Datum(0);
}

Datum mrsync_region_leave(PG_FUNCTION_ARGS)
{
	(void)fcinfo;
	enter([] { regionLeave(); });
	return Datum(0);
}
