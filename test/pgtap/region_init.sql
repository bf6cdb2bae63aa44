-- region_init, region_connect, region_leave: bad input, and a whole life. Needs a broker: -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(50);

-- region_init refuses subtransactions, so its errors are read from psql's variables, not by throws_ok
\set ON_ERROR_STOP off
\set QUIET on
SELECT mrsync.region_init(NULL, :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22004 argument region_id must not be NULL', 'region_id NULL');
SELECT mrsync.region_init('tap-init', NULL);
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22004 argument kafka_brokers must not be NULL', 'brokers NULL');
SELECT mrsync.region_init('', :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22023 region_id "" is not valid', 'empty name');
SELECT mrsync.region_init('EU', :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22023 region_id "EU" is not valid', 'capitals');
SELECT mrsync.region_init('eu.west', :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22023 region_id "eu.west" is not valid', 'a dot');
SELECT mrsync.region_init('1eu', :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22023 region_id "1eu" is not valid', 'a digit first');
SELECT mrsync.region_init(repeat('a', 32), :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', '32 characters');
SELECT mrsync.region_init('tap-init', :'brokers', 'no group');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22023 replication_group "no group" is not valid', 'bad group');
SELECT mrsync.region_init('tap-init', ' , ');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '22023 kafka_brokers is empty', 'no brokers');
SELECT mrsync.region_init('tap-init', '127.0.0.1:1');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '08001 Kafka at "127.0.0.1:1" does not do what mrsync needs', 'a broker that does not answer');
SET output_plugin_libraries = pgoutput, test_decoding; -- what else may be missing, a running server cannot lack: t/19_unprepared.t
SELECT mrsync.region_init('tap-init', :'brokers');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '55000 this server''s settings do not allow a region yet', 'a setting is missing');
SELECT mrsync.region_init('tap-init', '127.0.0.1:1');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '55000 this server''s settings do not allow a region yet', 'which is told before a broker is asked');
RESET output_plugin_libraries;
BEGIN;
SELECT mrsync.region_init('tap-init', :'brokers');
ROLLBACK;
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '25001 mrsync.region_init cannot run inside a transaction block', 'in a transaction block');
SELECT throws_ok($$SELECT mrsync.region_init('tap-init', 'x:1')$$, '25001', 'mrsync.region_init cannot run inside a transaction block', 'in a subtransaction');

CREATE ROLE tap_plain;
SET ROLE tap_plain;
SELECT mrsync.region_init('tap-init', :'brokers');
RESET ROLE;
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '42501 permission denied for function region_init', 'not for everybody');
GRANT EXECUTE ON FUNCTION mrsync.region_init(text, text, text) TO tap_plain;
SET ROLE tap_plain;
SELECT mrsync.region_init('tap-init', :'brokers');
RESET ROLE;
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '42501 permission denied for mrsync.region_init', 'not by EXECUTE alone');
REVOKE ALL ON FUNCTION mrsync.region_init(text, text, text) FROM tap_plain;
DROP ROLE tap_plain;

SELECT is_empty('SELECT FROM mrsync.region', 'nothing remains of failed calls: no region');
SELECT is_empty('SELECT FROM pg_replication_slots WHERE database = current_database()', 'nor a slot');
SELECT mrsync.region_leave();
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '55000 this database is not an mrsync region', 'nothing to leave');

-- a leftover of a call that died half-way: this database's slot, and no region
SELECT pg_create_logical_replication_slot('mrsync_' || oid, 'test_decoding') IS NOT NULL AS made FROM pg_database WHERE datname = current_database() \gset
\set ON_ERROR_STOP on
SELECT mrsync.region_init('tap-init', :'brokers', 'tap') \g /dev/null
SELECT results_eq($$SELECT region_id COLLATE "default", is_local, replication_group FROM mrsync.region$$, $$VALUES ('tap-init', true, 'tap')$$, 'a region');
SELECT results_eq($$SELECT slot_name::text COLLATE "default", plugin::text COLLATE "default" FROM pg_replication_slots WHERE database = current_database()$$,
	$$SELECT 'mrsync_' || oid, 'mrsync' FROM pg_database WHERE datname = current_database()$$, 'with its slot');
SELECT isnt_empty('SELECT FROM mrsync.extractor_position', 'and a position');
SELECT lives_ok('SELECT mrsync.current_hlc()', 'its clock runs');
\set ON_ERROR_STOP off
SELECT mrsync.region_init('tap-init', :'brokers', 'tap');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '42710 this database is region "tap-init" already', 'not twice');
SELECT mrsync.region_init('tap-other', :'brokers', 'tap');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '42710 this database is region "tap-init" already', 'not under another name');

-- the workers come up
DO $$
BEGIN
	FOR i IN 1 .. 1200 LOOP
		EXIT WHEN (SELECT count(*) FROM mrsync.worker_status WHERE state = 'running') = 2; -- a young broker may keep the extractor waiting
		PERFORM pg_sleep(0.1);
	END LOOP;
END
$$;
SELECT results_eq('SELECT kind FROM mrsync.worker_stat() WHERE running', $$VALUES ('coordinator'), ('extractor')$$, 'coordinator and extractor run');
SELECT results_eq('SELECT worker, state FROM mrsync.worker_status', $$VALUES ('coordinator', 'running'), ('extractor', 'running')$$, 'and worker_status says so');

-- peers
SELECT throws_ok('SELECT mrsync.region_connect(NULL)', '22004', 'argument region_id must not be NULL', 'region_connect: NULL');
SELECT throws_ok($$SELECT mrsync.region_connect('No')$$, '22023', 'region_id "No" is not valid', 'region_connect: bad name');
SELECT throws_ok($$SELECT mrsync.region_connect('tap-init')$$, '22023', 'region "tap-init" is this region itself', 'region_connect: itself');
SELECT throws_ok($$SELECT mrsync.region_connect('tap-peer', '127.0.0.1:1')$$, '08001', 'Kafka at "127.0.0.1:1" does not do what mrsync needs', 'region_connect: no broker there');
SELECT lives_ok($$SELECT mrsync.region_connect('tap-peer')$$, 'region_connect');
SELECT throws_ok($$SELECT mrsync.region_connect('tap-peer')$$, '42710', 'region "tap-peer" is known here already', 'region_connect: twice');
SELECT results_eq($$SELECT r.region_id COLLATE "default", r.is_local, r.replication_group, o.roname COLLATE "default" FROM mrsync.region r JOIN pg_replication_origin o ON o.roident = r.link_origin WHERE NOT is_local$$,
	$$SELECT 'tap-peer', false, 'tap', 'mrsync_' || oid || '_tap-peer' FROM pg_database WHERE datname = current_database()$$, 'the peer has an origin');
SELECT is((SELECT kafka_brokers FROM mrsync.region WHERE region_id = 'tap-peer'), :'brokers'::text, 'and the brokers of this region');

-- at most 64 of them; a coordinator that is told of more (here by hand) says so and goes on
BEGIN;
INSERT INTO mrsync.region (region_id, is_local, replication_group, kafka_brokers) SELECT 'tap-p' || i, false, 'tap', '127.0.0.1:1' FROM generate_series(1, 63) i;
SELECT throws_ok($$SELECT mrsync.region_connect('tap-more')$$, '53400', 'this region has no place for another peer', 'region_connect: the 65th');
ROLLBACK;
SELECT pid AS coordinator FROM mrsync.worker_stat() WHERE kind = 'coordinator' \gset
INSERT INTO mrsync.region (region_id, is_local, replication_group, kafka_brokers, link_origin) SELECT 'tap-p' || i, false, 'tap', '127.0.0.1:1', 61000 + i FROM generate_series(1, 64) i;
CREATE FUNCTION waited(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
BEGIN
	FOR i IN 1 .. 2400 LOOP
		EXECUTE 'SELECT ' || condition INTO met;
		EXIT WHEN met;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RETURN met;
END
$$;
SELECT ok(waited($$EXISTS (SELECT FROM mrsync.worker_status WHERE worker = 'coordinator' AND state = 'waiting: not all peers have a place: a region can have at most 64')$$), 'too many peers: the coordinator says so');
DELETE FROM mrsync.region WHERE region_id <> 'tap-peer' AND NOT is_local;
SELECT ok(waited($$EXISTS (SELECT FROM mrsync.worker_status WHERE worker = 'coordinator' AND state = 'running')$$), 'until there are fewer');
SELECT is((SELECT pid FROM mrsync.worker_stat() WHERE kind = 'coordinator'), :coordinator, 'and lives on');

-- dedup records: a link that is new reads its topic from a week ago; what is older than that goes
SELECT ok(waited($$(SELECT count(*) > 10 FROM pg_inherits WHERE inhparent = 'mrsync.applied_event'::regclass)$$), 'a partition for each day that topics keep');
INSERT INTO mrsync.applied_event (event_id, last_event_id, region_id, sequence, hlc)
SELECT id, id, 'tap-peer', 1, now()::mrsync.hlc FROM unnest('{6, 30}'::int[]) days
CROSS JOIN LATERAL (SELECT (extract(epoch FROM now() - days * interval '1 day') * 1000)::bigint) m (ms)
CROSS JOIN LATERAL (SELECT (lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || '-7000-8000-000000000000')::uuid) u (id);
SELECT is((SELECT count(*)::int FROM mrsync.applied_event_default), 1, 'of a record of last week and one of last month, one is in the default partition');
SELECT pg_terminate_backend(:coordinator) \g /dev/null
SELECT ok(waited($$(SELECT count(*) = 1 AND bool_and(tableoid <> 'mrsync.applied_event_default'::regclass) FROM mrsync.applied_event)$$), 'and is not kept');

SET ROLE pg_monitor;
SELECT throws_ok($$SELECT mrsync.region_connect('tap-peer2')$$, '42501', 'permission denied for function region_connect', 'region_connect: not for everybody');
SELECT throws_ok($$SELECT mrsync.region_leave()$$, '42501', 'permission denied for function region_leave', 'region_leave: not for everybody');
SELECT lives_ok('SELECT * FROM mrsync.worker_status, mrsync.link_status, mrsync.region', 'everybody may look');
SELECT throws_ok('SELECT * FROM mrsync.tombstone', '42501', 'permission denied for table tombstone', 'but not at row data');
RESET ROLE;

-- and leave
SELECT throws_ok('SELECT mrsync.region_leave()', '25001', 'mrsync.region_leave cannot run inside a transaction block', 'region_leave in a subtransaction');
CREATE TABLE t (id int PRIMARY KEY);
SELECT mrsync.table_add('t') \g /dev/null
\set ON_ERROR_STOP on
SELECT mrsync.region_leave() \g /dev/null
SELECT is_empty('SELECT 1 FROM mrsync.region UNION ALL SELECT 1 FROM mrsync.replicated_table UNION ALL SELECT 1 FROM mrsync.worker_stat()', 'nothing of the region is left');
SELECT is_empty($$SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()
	UNION ALL SELECT roname FROM pg_replication_origin, pg_database WHERE datname = current_database() AND starts_with(roname, 'mrsync_' || oid || '_')
	UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass$$, 'no slot, no origin, no trigger');
SELECT lives_ok('DROP EXTENSION mrsync', 'then the extension can go');
SELECT * FROM finish();
