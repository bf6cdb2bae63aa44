#include "pg/fixed_settings.h"

#include "pg/server.h"

#include <cstring>

namespace mrsync
{

namespace
{

struct Setting
{
	const char *name;
	const char *value;	 // as it is set
	const char *current; // as the server shows it once set
};

constexpr Setting kTextForms[] = {
	{"datestyle", "ISO, YMD", "ISO, YMD"},
	{"timezone", "UTC", "UTC"},
	{"intervalstyle", "postgres", "postgres"},
	{"extra_float_digits", "1", "1"},
	{"bytea_output", "hex", "hex"},
	{"lc_monetary", "C", "C"},
	{"xmloption", "content", "content"},
	{"array_nulls", "on", "on"},
	{"search_path", "pg_catalog", "pg_catalog"},
	{"standard_conforming_strings", "on", "on"},
	{"quote_all_identifiers", "off", "off"}, // names of tables are compared, across regions
};

constexpr Setting kWorker[] = {
	{"role", "none", nullptr},
	// A position must be durable before the slot is moved to it; a standby that is away must not hold a worker up. The
	// applier, whose positions may be lost together with the rows, goes below it.
	{"synchronous_commit", "local", nullptr},
	{"default_transaction_isolation", "read committed", nullptr},
	{"default_transaction_read_only", "off", nullptr},
	{"default_transaction_deferrable", "off", nullptr},
	{"statement_timeout", "0", nullptr},
	{"lock_timeout", "0", nullptr},
	{"idle_in_transaction_session_timeout", "0", nullptr},
#if PG_VERSION_NUM >= 170000
	{"transaction_timeout", "0", nullptr},
#endif
	{"row_security", "off", nullptr},
	{"jit", "off", nullptr}, // what workers ask is short: compiling takes longer than asking, whatever the planner expects
	{"check_function_bodies", "off", nullptr},
};

} // namespace

int fixedSettingsBegin()
{
	int nestLevel = NewGUCNestLevel();
	for (const Setting &setting : kTextForms)
	{
		const char *current = GetConfigOption(setting.name, false, false);
		if (std::strcmp(current, setting.current) != 0)
			(void)set_config_option(setting.name, setting.value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
									false);
	}
	return nestLevel;
}

void fixedSettingsEnd(int nestLevel)
{
	AtEOXact_GUC(true, nestLevel);
}

void fixedSettingsForWorker()
{
	for (const Setting &setting : kTextForms)
		SetConfigOption(setting.name, setting.value, PGC_SUSET, PGC_S_OVERRIDE);
	for (const Setting &setting : kWorker)
		SetConfigOption(setting.name, setting.value, PGC_SUSET, PGC_S_OVERRIDE);
}

} // namespace mrsync
