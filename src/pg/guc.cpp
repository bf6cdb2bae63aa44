#include "pg/guc.h"

#include "pg/guard.h"

#include "kafka/options.h"

#include <climits>
#include <cstring>

namespace mrsync::guc
{

int maxRegions = 8;
int maxClockSkewSeconds = 900;
bool forceOverride = false;
int applierWorkMemKb = 65536;
int heartbeatIntervalMs = 1000;
int ackIntervalMs = 50;
int applyErrorRetrySeconds = 10;
int conflictLogRetentionSeconds = 30 * 86400;
int mergeFunctionTimeoutMs = 1000;
int producerQueueMb = 64;
char *kafkaOptions = const_cast<char *>("");

namespace
{

constexpr char kKafkaOptions[] = "mrsync.kafka_options";

// Our own message: PostgreSQL's would show the value, and the password in it.
bool kafkaOptionsCheck(char **value, void **, GucSource)
{
	guard::Report report;
	bool valid = false;
	try
	{
		auto parsed = kafka::parseOptions(*value);
		if (auto *error = std::get_if<kafka::OptionsError>(&parsed))
			report.set(PgError(ERRCODE_INVALID_PARAMETER_VALUE, std::string("invalid value for parameter \"") + kKafkaOptions + "\"")
						   .detail(error->detail)
						   .hint(error->hint));
		else
			valid = true;
	}
	catch (const std::exception &error)
	{
		report.set(error);
	}
	catch (...)
	{
		report.setUnknown();
	}
	if (valid)
		return true;
	GUC_check_errcode(report.sqlState);
	GUC_check_errmsg("%s", report.message);
	if (report.detail[0])
		GUC_check_errdetail("%s", report.detail);
	if (report.hint[0])
		GUC_check_errhint("%s", report.hint);
	return false;
}

void defineKafkaOptions()
{
	// What the files say, known before the setting is. If it is refused, PostgreSQL warns and goes on with the default,
	// which speaks to Kafka in the clear: then rather no server, as with its own settings.
	const char *given = GetConfigOption(kKafkaOptions, true, false);
	char *wanted = given ? pstrdup(given) : nullptr;
	DefineCustomStringVariable(kKafkaOptions, "How Kafka is spoken to: encryption and login.",
							   "librdkafka's options: security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.password='…' …", &kafkaOptions, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, kafkaOptionsCheck, nullptr, nullptr);
	if (wanted && strcmp(wanted, kafkaOptions) != 0)
		ereport(FATAL, (errcode(ERRCODE_CONFIG_FILE_ERROR), errmsg("invalid value for parameter \"%s\"", kKafkaOptions),
						errdetail("The warning before says what is wrong with it."),
						errhint("The server does not start with it: without encryption and login it would speak to Kafka in the clear.")));
}

} // namespace

void define()
{
	DefineCustomIntVariable("mrsync.max_regions", "Most databases of this server that can be regions.",
							"Each takes about 330 kB of shared memory.", &maxRegions, 8, 1, 64, PGC_POSTMASTER, 0,
							nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.max_clock_skew",
							"How far ahead of this server's clock a peer's stamp may be.",
							"A link waits in front of a transaction stamped further ahead, and goes on by itself.",
							&maxClockSkewSeconds, 900, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr,
							nullptr);
	DefineCustomBoolVariable("mrsync.force_override", "Writes down the stamp of every transaction.",
							 "For tests: the path taken when the clock has drifted.", &forceOverride, false, PGC_SUSET, 0,
							 nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.applier_work_mem",
							"A transaction of a peer that is larger than this is spooled to disk.", nullptr,
							&applierWorkMemKb, 65536, 64, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_KB, nullptr, nullptr,
							nullptr);
	DefineCustomIntVariable("mrsync.heartbeat_interval", "How often a region gives a sign of life to its peers.", nullptr,
							&heartbeatIntervalMs, 1000, 50, 60000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.ack_interval",
							"How often, at most, a link acknowledges to its source what it has applied.", nullptr,
							&ackIntervalMs, 50, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.apply_error_retry_interval", "How often a parked event is tried again.", nullptr,
							&applyErrorRetrySeconds, 10, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.conflict_log_retention", "How long mrsync.conflict_log keeps a conflict.",
							"-1 or 0: for ever.", &conflictLogRetentionSeconds, 30 * 86400, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S,
							nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.merge_function_timeout", "How long a call of a merge function may take.",
							"Of what takes longer the later writer's values are taken, in every region.", &mergeFunctionTimeoutMs, 1000, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("mrsync.producer_queue", "Most that waits in memory for the broker's acknowledgement.",
							"When it is full, decoding waits; WAL is kept on disk meanwhile.", &producerQueueMb, 64, 1, 1024,
							PGC_POSTMASTER, GUC_UNIT_MB, nullptr, nullptr, nullptr);
	defineKafkaOptions();
	MarkGUCPrefixReserved("mrsync");
}

} // namespace mrsync::guc
