-- mrsync.conflict_log as people ask it. Needs no region.
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
BEGIN;
SELECT plan(6);
CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS off) ' || query; END $$;
CREATE FUNCTION uses(index text, query text, what text) RETURNS text LANGUAGE sql AS $$
	SELECT matches(string_agg(line, E'\n'), '(Index Scan using|Bitmap Index Scan on) ' || index, what) FROM plan_of(query) line
$$;
INSERT INTO mrsync.conflict_log (conflict_id, conflict_type, table_name, row_pk, region_b, hlc_b, resolution_strategy, winner_region)
SELECT gen_random_uuid(), 'insert_exists', 'public.t' || (i % 50), jsonb_build_object('id', (i % 1000)::text), 'eu', '2026-01-01 00:00:00Z', 'last_writer_wins', 'eu'
FROM generate_series(1, 4000) i;
ANALYZE mrsync.conflict_log;
SET enable_seqscan = off;

SELECT uses('conflict_log_row', $$SELECT * FROM mrsync.conflict_log WHERE table_name = 'public.t1' AND row_pk = '{"id":"1"}'$$, 'the conflicts of a row are found by an index');
SELECT is((SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.t1' AND row_pk = '{"id":"1"}'), 4::bigint, 'and are all there');
SELECT uses('conflict_log_table', $$SELECT * FROM mrsync.conflict_log WHERE table_name = 'public.t1' AND resolved_at > now() - interval '1 d'$$, 'those of a table');
SELECT uses('conflict_log_time', $$SELECT * FROM mrsync.conflict_log WHERE resolved_at > now() + interval '1 h'$$, 'those of a time');

-- longer than an index of another kind takes, and not to be compressed
SELECT string_agg(md5(i::text), '') AS long FROM generate_series(1, 1000) i \gset
SELECT lives_ok(format($$INSERT INTO mrsync.conflict_log (conflict_id, conflict_type, table_name, row_pk, region_b, hlc_b, resolution_strategy, winner_region)
	VALUES (gen_random_uuid(), 'insert_exists', 'public.t1', %L, 'eu', '2026-01-01 00:00:00Z', 'last_writer_wins', 'eu')$$, jsonb_build_object('id', :'long')), 'a key of 32 kB');
SELECT is((SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.t1' AND row_pk = jsonb_build_object('id', :'long')), 1::bigint, 'is found, too');
SELECT * FROM finish();
ROLLBACK;
