-- link_create, link_pause, link_resume, link_remove, wait_for_peers, apply_error_*. Needs a broker: -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(53);
SELECT mrsync.region_init('tap-link', :'brokers', 'tap') \g /dev/null
SELECT lives_ok('SELECT mrsync.wait_for_peers(''120 s'')', 'no links: nothing to wait for');
SELECT lives_ok('SELECT mrsync.wait_for(mrsync.current_hlc(), ''120 s'')', 'wait_for: the same');
SELECT mrsync.region_connect('tap-a'), mrsync.region_connect('tap-b') \g /dev/null

SELECT throws_ok($$SELECT mrsync.link_create(NULL, 'tap-link')$$, '22004', 'argument source_region must not be NULL', 'link_create: NULL source');
SELECT throws_ok($$SELECT mrsync.link_create('tap-a', NULL)$$, '22004', 'argument target_region must not be NULL', 'link_create: NULL target');
SELECT throws_ok($$SELECT mrsync.link_create('tap-x', 'tap-link')$$, '42704', 'region "tap-x" is not known here', 'link_create: unknown source');
SELECT throws_ok($$SELECT mrsync.link_create('tap-link', 'tap-x')$$, '42704', 'region "tap-x" is not known here', 'link_create: unknown target');
SELECT throws_ok($$SELECT mrsync.link_create('tap-link', 'tap-link')$$, '22023', 'a region cannot be linked to itself', 'link_create: to itself');
SELECT throws_ok($$SELECT mrsync.link_create('tap-a', 'tap-b')$$, '22023', 'this is region "tap-link", which is no end of a link from "tap-a" to "tap-b"', 'link_create: between others');

-- in a transaction: links that wake no worker
BEGIN;
SELECT mrsync.link_create('tap-a', 'tap-link') AS incoming \gset
SELECT mrsync.link_create('tap-link', 'tap-a') AS outgoing \gset
SELECT isnt(:'incoming'::uuid, :'outgoing'::uuid, 'the two directions are two links');
SELECT throws_ok($$SELECT mrsync.link_create('tap-a', 'tap-link')$$, '42710', 'a link from "tap-a" to "tap-link" exists already', 'link_create: duplicate');
SELECT results_eq('SELECT direction, status, state FROM mrsync.link_status', $$VALUES ('incoming', 'active', 'down: no applier yet'), ('outgoing', 'active', 'waiting: nothing heard of tap-a yet')$$, 'link_status shows them')
WHERE (SELECT running FROM mrsync.worker_stat() WHERE kind = 'extractor');
SELECT pass('link_status shows them (no extractor yet)') WHERE coalesce((SELECT NOT running FROM mrsync.worker_stat() WHERE kind = 'extractor'), true);

SELECT throws_ok('SELECT mrsync.link_pause(NULL)', '22004', 'argument link_id must not be NULL', 'link_pause: NULL');
SELECT throws_ok($$SELECT mrsync.link_pause('00000000-0000-0000-0000-000000000000')$$, '42704', 'link 00000000-0000-0000-0000-000000000000 is not known here', 'link_pause: unknown');
SELECT throws_ok(format('SELECT mrsync.link_pause(%L)', :'outgoing'), '22023', 'the link from "tap-link" to "tap-a" cannot be changed in region "tap-link"', 'link_pause: not here');
SELECT throws_ok(format('SELECT mrsync.link_resume(%L)', :'outgoing'), '22023', 'the link from "tap-link" to "tap-a" cannot be changed in region "tap-link"', 'link_resume: not here');
SELECT throws_ok('SELECT mrsync.link_resume(NULL)', '22004', 'argument link_id must not be NULL', 'link_resume: NULL');
SELECT throws_ok($$SELECT mrsync.link_resume('00000000-0000-0000-0000-000000000000')$$, '42704', 'link 00000000-0000-0000-0000-000000000000 is not known here', 'link_resume: unknown');
SELECT lives_ok(format('SELECT mrsync.link_resume(%L)', :'incoming'), 'resuming an active link is said, not refused');
SELECT lives_ok(format('SELECT mrsync.link_pause(%L)', :'incoming'), 'link_pause');
SELECT is((SELECT status FROM mrsync.replication_link WHERE link_id = :'incoming'), 'paused', 'it is paused');
SELECT is((SELECT state FROM mrsync.link_status WHERE link_id = :'incoming'), 'paused', 'link_status says so');
SELECT lives_ok(format('SELECT mrsync.link_pause(%L)', :'incoming'), 'pausing a paused link is said, not refused');
SELECT lives_ok(format('SELECT mrsync.link_resume(%L)', :'incoming'), 'link_resume');
SELECT is((SELECT status FROM mrsync.replication_link WHERE link_id = :'incoming'), 'active', 'it is active');

SELECT throws_ok('SELECT mrsync.link_remove(NULL)', '22004', 'argument link_id must not be NULL', 'link_remove: NULL');
SELECT throws_ok($$SELECT mrsync.link_remove('00000000-0000-0000-0000-000000000000')$$, '42704', 'link 00000000-0000-0000-0000-000000000000 is not known here', 'link_remove: unknown');
SELECT throws_ok(format('SELECT mrsync.link_remove(%L, reset => true)', :'outgoing'), '22023', 'the link from "tap-link" to "tap-a" cannot be changed in region "tap-link"', 'link_remove: reset at the source');
SELECT throws_ok(format('SELECT mrsync.link_remove(%L, reset => true)', :'incoming'), '55006', 'the link from "tap-a" to "tap-link" is still being read', 'link_remove: reset of an active link');
INSERT INTO mrsync.link_position VALUES ('tap-a', 'mrsync.tap.tap-a', 5, 1, 7, '2026-01-01 00:00:00Z', NULL, NULL, now());
SELECT lives_ok(format('SELECT mrsync.link_remove(%L)', :'incoming'), 'link_remove');
SELECT isnt_empty('SELECT FROM mrsync.link_position', 'the position is kept');
SELECT is(mrsync.link_create('tap-a', 'tap-link'), :'incoming'::uuid, 'created again, it is the same link');
SELECT mrsync.link_pause(:'incoming') \g /dev/null
SELECT lives_ok(format('SELECT mrsync.link_remove(%L, reset => true)', :'incoming'), 'link_remove with reset, paused');
SELECT is_empty('SELECT FROM mrsync.link_position', 'the position is forgotten');
SELECT lives_ok(format('SELECT mrsync.link_remove(%L)', :'outgoing'), 'link_remove at the source');
SELECT is_empty('SELECT FROM mrsync.replication_link', 'both are gone');

SET ROLE pg_monitor;
SELECT throws_ok($$SELECT mrsync.link_create('tap-a', 'tap-link')$$, '42501', 'permission denied for function link_create', 'link_create: not for everybody');
SELECT throws_ok($$SELECT mrsync.apply_error_retry()$$, '42501', 'permission denied for function apply_error_retry', 'apply_error_retry: not for everybody');
RESET ROLE;
GRANT EXECUTE ON FUNCTION mrsync.link_create(text, text) TO pg_monitor;
SET ROLE pg_monitor;
SELECT lives_ok($$SELECT mrsync.link_create('tap-link', 'tap-b')$$, 'link_create: whoever is granted it');
RESET ROLE;

-- a peer that never answers
SELECT throws_ok('SELECT mrsync.wait_for_peers(NULL)', '22004', 'argument timeout must not be NULL', 'wait_for_peers: NULL');
SELECT throws_ok('SELECT mrsync.wait_for_peers(''-1 s'')', '22023', 'timeout must not be negative', 'wait_for_peers: negative');
SELECT throws_ok('SELECT mrsync.wait_for(NULL)', '22004', 'argument hlc must not be NULL', 'wait_for: no stamp');
SELECT throws_ok('SELECT mrsync.wait_for(mrsync.current_hlc(), NULL)', '22004', 'argument timeout must not be NULL', 'wait_for: no timeout');
SELECT throws_ok('SELECT mrsync.wait_for(mrsync.current_hlc(), ''-1 s'')', '22023', 'timeout must not be negative', 'wait_for: negative');
SELECT throws_ok('SELECT mrsync.wait_for((clock_timestamp() + interval ''1 day'')::mrsync.hlc)', '22023', 'the stamp is too far in the future', 'wait_for: the far future');
ROLLBACK;
CREATE TABLE t (id int PRIMARY KEY);
SELECT mrsync.table_add('t'), mrsync.link_create('tap-link', 'tap-b') \g /dev/null
INSERT INTO t VALUES (1);
SELECT throws_ok('SELECT mrsync.wait_for_peers(''300 ms'')', '55P03', 'peers have not applied everything within the timeout', 'wait_for_peers: timeout');
SET statement_timeout = '200 ms';
\set ON_ERROR_STOP off
SELECT mrsync.wait_for_peers('20 s');
RESET statement_timeout;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '57014', 'wait_for_peers can be cancelled');
\set ON_ERROR_STOP on
SELECT mrsync.link_create('tap-b', 'tap-link') \g /dev/null
SELECT throws_like('SELECT mrsync.wait_for(mrsync.current_hlc(), ''300 ms'')', 'what is stamped up to % has not all been applied here within the timeout', 'wait_for: timeout');
SELECT ok(mrsync.stable_point() IS NULL, 'no stable point with regions that are not heard of');

SELECT throws_ok('SELECT mrsync.apply_error_retry(1)', '42704', 'apply error 1 does not exist', 'apply_error_retry: unknown');
SELECT throws_ok('SELECT mrsync.apply_error_discard(1)', '42704', 'apply error 1 does not exist', 'apply_error_discard: unknown');
SELECT throws_ok('SELECT mrsync.apply_error_discard(NULL)', '22004', 'argument error_id must not be NULL', 'apply_error_discard: NULL');
BEGIN;
INSERT INTO mrsync.apply_error (source_region, event_id, table_name, operation, hlc, event, sqlstate, message, retry_at)
SELECT 'tap-a', gen_random_uuid(), 'public.t', 'INSERT', '2026-01-01 00:00:00Z', '{}', '23514', 'no', 'infinity' FROM generate_series(1, 3);
SELECT is(mrsync.apply_error_retry(), 3::bigint, 'apply_error_retry: all');
SELECT mrsync.apply_error_discard(max(error_id)) FROM mrsync.apply_error \g /dev/null
SELECT is((SELECT count(*)::int FROM mrsync.apply_error WHERE retry_at <= clock_timestamp()), 2, 'apply_error_discard takes one away, the others are due');
ROLLBACK;
SELECT mrsync.region_leave() \g /dev/null
SELECT * FROM finish();
