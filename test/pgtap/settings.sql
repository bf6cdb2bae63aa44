-- What the server's settings must be, and how mrsync says so. Needs no region.
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
BEGIN;
SELECT plan(24);

SELECT results_eq('SELECT setting FROM mrsync.settings_check() WHERE setting <> ''output_plugin_libraries''',
	$$VALUES ('shared_preload_libraries'), ('wal_level'), ('track_commit_timestamp'), ('max_replication_slots'), ('max_worker_processes')$$,
	'every setting is reported');
SELECT is_empty('SELECT * FROM mrsync.settings_check() WHERE NOT ok', 'the test server is set up');
SELECT is_empty('SELECT * FROM mrsync.settings_check() WHERE ok AND line_to_add IS NOT NULL', 'what is in order needs no line');
SELECT is_empty('SELECT FROM mrsync.settings_advice() WHERE missing IS NOT NULL OR advice IS NOT NULL', 'nor advice');
SELECT is_empty($$SELECT FROM mrsync.settings_check() WHERE set_in <> 'default' AND set_in NOT LIKE '/%/postgresql.conf'$$, 'where each value is from');
SELECT results_eq($$SELECT setting FROM mrsync.settings_check() WHERE change_takes <> 'restart'$$, $$SELECT name FROM pg_settings WHERE name = 'output_plugin_libraries'$$, 'all but one need a restart');
SELECT is(mrsync.preloaded(), true, 'the library was preloaded');

SELECT is(mrsync.setting_entries(NULL), '{}', 'no value, no entries');
SELECT is(mrsync.setting_entries(''), '{}', 'an empty value, no entries');
SELECT is(mrsync.setting_entries('a, b,c'), '{a,b,c}', 'entries are trimmed');
SELECT is(mrsync.setting_entries('"a, b"'), '{a,b}', 'one quoted name that was meant to be a list is taken apart');

-- the trap of ALTER SYSTEM SET output_plugin_libraries = 'a, b': one name
SET output_plugin_libraries = 'pgoutput, mrsync';
SELECT is(ok, false, 'a list that is one quoted name does not do') FROM mrsync.settings_check() WHERE setting = 'output_plugin_libraries';
SELECT is(line_to_add, 'output_plugin_libraries = ''pgoutput, mrsync''', 'the line to add takes it apart')
FROM mrsync.settings_check() WHERE setting = 'output_plugin_libraries';
SELECT is(missing, 'output_plugin_libraries is "pgoutput, mrsync", required: mrsync among the entries.', 'what is wrong, in the value''s own quotes') FROM mrsync.settings_advice();
SELECT is(advice, E'Change it where it is set now (session), which goes before any file:\noutput_plugin_libraries = ''pgoutput, mrsync''\nThen: SELECT pg_reload_conf();', 'and where')
FROM mrsync.settings_advice();
SET output_plugin_libraries = pgoutput, test_decoding;
SELECT is(line_to_add, 'output_plugin_libraries = ''pgoutput, test_decoding, mrsync''', 'the line to add keeps what is there')
FROM mrsync.settings_check() WHERE setting = 'output_plugin_libraries';
SET output_plugin_libraries = pgoutput, mrsync;
SELECT is(ok, true, 'an unquoted list does') FROM mrsync.settings_check() WHERE setting = 'output_plugin_libraries';

-- mrsync's own: the one by which something is deleted
SELECT results_eq($$SELECT boot_val, unit, min_val, context FROM pg_settings WHERE name = 'mrsync.conflict_log_retention'$$,
	$$VALUES ('2592000', 's', '-1', 'sighup')$$, 'conflicts are kept for 30 days');

-- without a region
SELECT throws_ok('SELECT mrsync.wait_for_peers()', '55000', 'this database is not an mrsync region', 'wait_for_peers needs a region');
SELECT throws_ok('SELECT mrsync.wait_for(''2026-01-01 00:00:00Z'')', '55000', 'this database is not an mrsync region', 'wait_for needs a region');
SELECT throws_ok('SELECT mrsync.stable_point()', '55000', 'this database is not an mrsync region', 'stable_point needs a region');
SELECT throws_ok('SELECT mrsync.link_create(''a'', ''b'')', '55000', 'this database is not an mrsync region', 'link_create needs a region');
SELECT throws_ok('SELECT mrsync.region_connect(''b'')', '55000', 'this database is not an mrsync region', 'region_connect needs a region');
CREATE TABLE t (id int PRIMARY KEY);
SELECT throws_ok('SELECT mrsync.table_add(''t'')', '55000', 'this database is not an mrsync region', 'table_add needs a region');
SELECT * FROM finish();
ROLLBACK;
