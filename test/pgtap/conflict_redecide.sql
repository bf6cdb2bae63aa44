-- conflict_redecide: what it writes, with whose rights, and what it refuses. Needs a broker: -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(49);
SELECT throws_ok($$SELECT mrsync.conflict_redecide(gen_random_uuid(), 'a')$$, '55000', 'this database is not an mrsync region', 'needs a region');
SELECT mrsync.region_init('tap-conflict', :'brokers', 'tap') \g /dev/null
CREATE FUNCTION error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws('|', SQLSTATE, SQLERRM, detail, hint);
END
$$;

BEGIN;
CREATE EXTENSION citext;
CREATE SCHEMA s;
CREATE DOMAIN s.short AS text CHECK (length(value) < 10);
CREATE TABLE s."Rows" (id numeric, "na""me" citext, v s.short, at timestamptz, g int GENERATED ALWAYS AS (length(v)) STORED, raw bytea, PRIMARY KEY ("na""me", id));
CREATE TABLE s.numbered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE s.only (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE s.counted (id int PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, v text);
CREATE TABLE s.parted (id int, kind text, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE s.parted_a PARTITION OF s.parted FOR VALUES IN ('a');
CREATE TABLE s.gone (id int PRIMARY KEY);
CREATE TABLE s.rekeyed (id int, other int PRIMARY KEY);
SELECT mrsync.table_add(t) FROM unnest('{"s.\"Rows\"",s.numbered,s.only,s.counted,s.parted,s.rekeyed}'::regclass[]) t \g /dev/null

CREATE FUNCTION logged(n int, relation text, pk jsonb, a jsonb, b jsonb, region_a text DEFAULT 'eu', by text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	INSERT INTO mrsync.conflict_log (conflict_id, conflict_type, table_name, row_pk, region_a, hlc_a, image_a, region_b, hlc_b, image_b, resolution_strategy, winner_region, constraint_name, other_pk)
	VALUES (lpad(n::text, 32, '0')::uuid, 'insert_exists', relation, pk, region_a, '2026-01-01 00:00:00Z', a, 'us', '2026-01-01 00:00:01Z', b, 'last_writer_wins', 'us', by, CASE WHEN by IS NOT NULL THEN '{"id":"2"}'::jsonb END)
$$;
CREATE FUNCTION redecide(n int, side text) RETURNS text LANGUAGE sql AS $$ SELECT mrsync.conflict_redecide(lpad(n::text, 32, '0')::uuid, side) $$;
CREATE FUNCTION refusal(n int, side text) RETURNS text LANGUAGE sql AS $$ SELECT error_of(format('SELECT redecide(%s, %L)', n, side)) $$;

-- what it writes
SELECT logged(1, 's."Rows"', '{"id":"1.0","na\"me":"Ann"}', '{"id":"1.0","na\"me":"Ann","v":"a","at":"2026-02-03 04:05:06+00","g":"77","raw":"\\x00ff"}', '{"id":"1.00","na\"me":"ANN","v":"it''s b","at":null,"g":"78","raw":null}');
SET TIME ZONE 'Asia/Tokyo';
SET datestyle = 'SQL, DMY';
SET search_path = s, public;
SELECT is(redecide(1, 'b'), 'inserted', 'no row: inserted');
SELECT results_eq('SELECT * FROM s."Rows"', $$VALUES (1.00, 'ANN'::citext, 'it''s b'::s.short, NULL::timestamptz, 6, NULL::bytea)$$, 'as the image has it; generated columns are generated');
SELECT is(redecide(1, 'a'), 'updated', 'a row: updated, found by the equality of the key''s types');
SELECT results_eq('SELECT * FROM s."Rows"', $$VALUES (1.0, 'Ann'::citext, 'a'::s.short, timestamptz '2026-02-03 04:05:06+00', 1, '\x00ff'::bytea)$$, 'whatever the session''s settings');
SELECT is("na""me"::text || id, 'Ann1.0', 'also in the key''s text') FROM "Rows";
SELECT is(redecide(1, 'a'), 'updated', 'also when it is so already: it is stamped anew');
SELECT is(current_setting('timezone') || ' ' || current_setting('datestyle') || ' ' || current_setting('search_path'), 'Asia/Tokyo SQL, DMY s, public', 'which are as before');
SELECT logged(2, 's."Rows"', '{"id":"1","na\"me":"ann"}', NULL, '{"id":"1","na\"me":"ann","v":"much too long"}');
SELECT throws_ok($$SELECT redecide(2, 'b')$$, '23514', 'value for domain s.short violates check constraint "short_check"', 'an image that the table does not take');
SELECT is(redecide(2, 'a'), 'deleted', 'no image: deleted');
SELECT is_empty('SELECT FROM s."Rows"', 'it is');
SELECT is(redecide(2, 'a'), 'nothing', 'nothing to delete');
SELECT logged(3, 's.numbered', '{"id":"9"}', '{"id":"9","v":"a"}', '{"id":"9","v":"b"}');
SELECT is(redecide(3, 'a'), 'inserted', 'a key that is GENERATED ALWAYS');
SELECT is(redecide(3, 'b'), 'updated', 'stays');
SELECT results_eq('SELECT * FROM s.numbered', $$VALUES (9::bigint, 'b')$$, 'as it is');
SELECT logged(4, 's.only', '{"id":"9"}', '{"id":"9"}', '{"id":"9"}');
SELECT is(redecide(4, 'a'), 'inserted', 'a row that is nothing but its key');
SELECT is(redecide(4, 'b'), 'nothing', 'is as it is');
SELECT logged(5, 's.parted', '{"id":"1","kind":"a"}', '{"id":"1","kind":"a","v":"a"}', '{"id":"1","kind":"a","v":"b"}');
SELECT is(redecide(5, 'a') || ' ' || redecide(5, 'b'), 'inserted updated', 'in a partition');
SELECT results_eq('SELECT * FROM s.parted_a', $$VALUES (1, 'a', 'b')$$, 'too');
ALTER TABLE s.parted ADD COLUMN added text DEFAULT 'default';
UPDATE s.parted SET added = 'kept';
SELECT is(redecide(5, 'a'), 'updated', 'a column that the image lacks');
SELECT results_eq('SELECT * FROM s.parted', $$VALUES (1, 'a', 'a', 'kept')$$, 'keeps what it has');
DELETE FROM s.parted;
SELECT is(redecide(5, 'a'), 'inserted', 'in a new row');
SELECT results_eq('SELECT * FROM s.parted', $$VALUES (1, 'a', 'a', 'default')$$, 'it has its default');

-- as an ordinary write: triggers fire, and find what they are used to
CREATE TABLE s.journal (v text);
CREATE FUNCTION s.write_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO journal VALUES (TG_OP || ' ' || current_user || ' ' || current_setting('timezone')); RETURN NULL; END $$;
CREATE TRIGGER write_down AFTER INSERT OR UPDATE OR DELETE ON s.numbered FOR EACH ROW EXECUTE FUNCTION s.write_down();
SELECT is(redecide(3, 'a'), 'updated', 'with a trigger');
SELECT results_eq('SELECT v FROM s.journal', format('VALUES (%L)', 'UPDATE ' || current_user || ' Asia/Tokyo'), 'it fires under the session''s settings');
CREATE FUNCTION s.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON s.numbered FOR EACH ROW EXECUTE FUNCTION s.refuse();
SELECT is(redecide(3, 'b'), 'nothing', 'a trigger that lets no write pass');
DROP TRIGGER refuse ON s.numbered;

-- with the caller's rights
CREATE ROLE tap_conflict;
GRANT USAGE ON SCHEMA s, public TO tap_conflict;
SET ROLE tap_conflict;
SELECT throws_ok($$SELECT redecide(5, 'a')$$, '42501', 'permission denied for table conflict_log', 'not without the right to read the log');
RESET ROLE;
GRANT SELECT ON mrsync.conflict_log TO tap_conflict;
SET ROLE tap_conflict;
SELECT throws_ok($$SELECT redecide(5, 'a')$$, '42501', 'permission denied for table parted', 'not without the right to write the table');
RESET ROLE;
GRANT SELECT, INSERT, UPDATE ON s.parted TO tap_conflict;
SET ROLE tap_conflict;
SELECT is(redecide(5, 'b'), 'updated', 'with both: yes');
RESET ROLE;
SELECT logged(6, 's.parted', '{"id":"1","kind":"a"}', NULL, '{"id":"1","kind":"a","v":"b"}');
SET ROLE tap_conflict;
SELECT throws_ok($$SELECT redecide(6, 'a')$$, '42501', 'permission denied for table parted', 'but no DELETE without that right');
RESET ROLE;
ALTER TABLE s.parted ENABLE ROW LEVEL SECURITY;
CREATE POLICY only_b ON s.parted TO tap_conflict USING (true) WITH CHECK (v = 'b');
SET ROLE tap_conflict;
SELECT throws_ok($$SELECT redecide(5, 'a')$$, '42501', 'new row violates row-level security policy for table "parted"', 'nor past row-level security');
RESET ROLE;

-- what it refuses
SELECT throws_ok($$SELECT mrsync.conflict_redecide(NULL, 'a')$$, '22004', 'argument conflict_id must not be NULL', 'NULL conflict');
SELECT throws_ok($$SELECT mrsync.conflict_redecide(gen_random_uuid(), NULL)$$, '22004', 'argument side must not be NULL', 'NULL side');
SELECT is(refusal(99, 'a'), '42704|conflict 00000000-0000-0000-0000-000000000099 is not in mrsync.conflict_log|Within moments all regions have the same entries; each keeps them for mrsync.conflict_log_retention.|SELECT conflict_id, table_name, row_pk FROM mrsync.conflict_log lists those that are.', 'no such conflict');
SELECT is(refusal(5, 'c'), '22023|a conflict has no side "c"|Side b is the one with the higher stamp, side a the other.|The sides are ''a'' and ''b'', as in image_a and image_b.', 'another side');
SELECT is(refusal(5, 'A'), '22023|a conflict has no side "A"|Side b is the one with the higher stamp, side a the other.|The sides are ''a'' and ''b'', as in image_a and image_b.', 'as it is written');
SELECT logged(7, 's.parted', '{"id":"1","kind":"a"}', NULL, '{"id":"1","kind":"a","v":"b"}', NULL);
SELECT is(refusal(7, 'a'), '22023|conflict 00000000-0000-0000-0000-000000000007 has no side a|Neither a row nor the memory of one was here when side b came.|To have no row, delete it. Or decide for side b.', 'no side a');
SELECT is(redecide(7, 'b'), 'updated', 'but a side b');
SELECT logged(8, 's.numbered', '{"id":"1"}', '{"id":"1","v":"x"}', '{"id":"2","v":"x"}', 'eu', 'numbered_v_key');
SELECT is(refusal(8, 'a'), '0A000|conflict 00000000-0000-0000-0000-000000000008 is one of two rows that exclude each other|By numbered_v_key, row {"id": "1"} of s.numbered and row {"id": "2"} cannot both be in the table.|Change or delete the row that is in the table: then the one in mrsync.row_aside comes in by itself.', 'two rows that exclude each other');
SELECT is(left(refusal(8, 'b'), 5), '0A000', 'either side');
SELECT logged(9, 's.gone', '{"id":"1"}', NULL, NULL);
SELECT is(refusal(9, 'a'), '55000|table s.gone is not replicated any more|What is written to it stays in this region.|Add it with mrsync.table_add(), or write the row yourself.', 'a table that is not replicated');
DROP TABLE s.gone;
SELECT is(refusal(9, 'b'), '42P01|table s.gone does not exist any more|Conflict 00000000-0000-0000-0000-000000000009 is of a row of it.|If it was renamed, take the values that you want from mrsync.conflict_log, and write the row yourself.', 'a table that is gone');
SELECT logged(10, 's.numbered', '{"id":"9"}', '{"id":"9","v":"a","V":"lost"}', NULL);
SELECT is(refusal(10, 'a'), '42703|column "V" of s.numbered does not exist any more|The row in mrsync.conflict_log has it.|Take the values that you want from there, and write the row yourself.', 'a column that is gone');
SELECT is(redecide(10, 'b'), 'deleted', 'which does not matter to a deletion');
SELECT logged(11, 's.rekeyed', '{"id":"1"}', '{"id":"1","other":"1"}', NULL);
SELECT is(refusal(11, 'b'), '55000|column id is not in the primary key of s.rekeyed any more|The row in mrsync.conflict_log has the key {"id":"1"}.|Take the values that you want from mrsync.conflict_log, and write the row yourself.', 'another primary key');
SELECT logged(12, 's.counted', '{"id":"1"}', '{"id":"1","n":"1","v":"a"}', '{"id":"1","n":"2","v":"b"}');
SELECT is(redecide(12, 'b'), 'inserted', 'a column that is GENERATED ALWAYS AS IDENTITY, besides the key');
SELECT is(redecide(12, 'b'), 'updated', 'and does not change');
SELECT is(refusal(12, 'a'), '428C9|the sides of this conflict differ in a column that is GENERATED ALWAYS AS IDENTITY|SQL does not update such a column to a value.|Delete the row, then decide again: it is inserted then.', 'and would');
SELECT results_eq('SELECT * FROM s.counted', $$VALUES (1, 2::bigint, 'b')$$, 'leaves the row as it was');
SELECT * FROM finish();
ROLLBACK;
SELECT mrsync.region_leave() \g /dev/null
