-- The triggers that remember deletes. Needs a broker: -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(41);
SELECT mrsync.region_init('tap-tomb', :'brokers', 'tap') \g /dev/null
BEGIN;
CREATE EXTENSION citext;
CREATE TABLE plain (id int PRIMARY KEY, v text);
CREATE TABLE number (id numeric PRIMARY KEY);
CREATE TABLE nocase (id citext PRIMARY KEY);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN name50 AS varchar(50);
CREATE TABLE wide (a timestamptz, b interval, c float8, d bytea, e mood, f name50, g int4range, h int[], i date, PRIMARY KEY (a, b, c, d, e, f, g, h, i));
CREATE TABLE tree (id int, part text, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE tree_a PARTITION OF tree FOR VALUES IN ('a');
CREATE TABLE tree_b (v text, gone int, part text NOT NULL, id int NOT NULL);
ALTER TABLE tree_b DROP COLUMN gone;
ALTER TABLE tree ATTACH PARTITION tree_b FOR VALUES IN ('b');
CREATE TABLE child (id int PRIMARY KEY, plain int REFERENCES plain ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE "odd ""name" ("the ""key" text PRIMARY KEY, "naïve" int);
SELECT mrsync.table_add_all('public') \g /dev/null

-- what has been remembered since the last look
CREATE FUNCTION news() RETURNS TABLE (relation text, row_pk text) LANGUAGE sql AS $$
	DELETE FROM mrsync.tombstone RETURNING relation::regclass::text COLLATE "C", coalesce(row_pk, '-') COLLATE "C"
$$;
CREATE FUNCTION news_are(expected text[], what text) RETURNS text LANGUAGE sql AS $$
	SELECT is((SELECT coalesce(array_agg(relation || ' ' || row_pk ORDER BY relation COLLATE "C", row_pk COLLATE "C"), '{}') FROM news()), expected, what)
$$;

INSERT INTO plain SELECT g, 'x' FROM generate_series(1, 20) g;
SELECT news_are('{}', 'INSERT leaves nothing');
UPDATE plain SET v = 'y';
SELECT news_are('{}', 'nor does an UPDATE of other columns');
UPDATE plain SET id = id;
SELECT news_are('{}', 'nor one of the key to the same key');
DELETE FROM plain WHERE id > 1000;
SELECT news_are('{}', 'nor a DELETE of nothing');
DELETE FROM plain WHERE id IN (1, 2);
SELECT news_are(ARRAY['plain {"id":"1"}', 'plain {"id":"2"}'], 'DELETE');
UPDATE plain SET id = -3 WHERE id = 3;
SELECT news_are(ARRAY['plain {"id":"3"}'], 'UPDATE of the key: the old one');
INSERT INTO plain VALUES (4, 'z') ON CONFLICT (id) DO UPDATE SET id = -4;
SELECT news_are(ARRAY['plain {"id":"4"}'], 'ON CONFLICT DO UPDATE of the key');
WITH d AS (DELETE FROM plain WHERE id = 5 RETURNING *) SELECT count(*) FROM d \g /dev/null
SELECT news_are(ARRAY['plain {"id":"5"}'], 'DELETE in a WITH');
MERGE INTO plain p USING (VALUES (6), (7), (100)) s (id) ON p.id = s.id
	WHEN MATCHED AND s.id = 6 THEN DELETE
	WHEN MATCHED THEN UPDATE SET id = -7
	WHEN NOT MATCHED THEN INSERT VALUES (s.id);
SELECT news_are(ARRAY['plain {"id":"6"}', 'plain {"id":"7"}'], 'MERGE');
CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN new.id = -8; RETURN new; END$$;
CREATE TRIGGER move BEFORE UPDATE ON plain FOR EACH ROW WHEN (old.id = 8) EXECUTE FUNCTION move();
UPDATE plain SET v = 'moves' WHERE id = 8;
SELECT news_are(ARRAY['plain {"id":"8"}'], 'a key that only a BEFORE trigger changes');
INSERT INTO child VALUES (1, 9), (2, 9), (3, 10);
DELETE FROM plain WHERE id = 9;
SELECT news_are(ARRAY['child {"id":"1"}', 'child {"id":"2"}', 'plain {"id":"9"}'], 'foreign key: ON DELETE CASCADE');
UPDATE plain SET id = -10 WHERE id = 10;
SELECT news_are(ARRAY['plain {"id":"10"}'], 'foreign key: ON UPDATE CASCADE changes no key of the child');
SET LOCAL session_replication_role = replica;
DELETE FROM plain WHERE id = 11;
UPDATE plain SET id = -12 WHERE id = 12;
SET LOCAL session_replication_role = origin;
SELECT news_are(ARRAY['plain {"id":"11"}', 'plain {"id":"12"}'], 'as the applier does it: in the replica role');
SAVEPOINT s;
DELETE FROM plain WHERE id = 13;
ROLLBACK TO s;
SELECT news_are('{}', 'what is rolled back is not remembered');
SAVEPOINT s;
DELETE FROM plain WHERE id = 13;
CREATE TABLE later ();
SELECT is((SELECT xmin::text FROM mrsync.tombstone), (SELECT xmin::text FROM pg_class WHERE relname = 'later'), 'a tombstone has the xid of its (sub)transaction');
SELECT news_are(ARRAY['plain {"id":"13"}'], 'but then it is');
TRUNCATE plain CASCADE;
SELECT news_are(ARRAY['child -', 'plain -'], 'TRUNCATE CASCADE: one row for each table');

-- equality is the type's
INSERT INTO number VALUES (1.0);
DELETE FROM number WHERE id = 1.00;
SELECT is((SELECT row_pk FROM mrsync.tombstone), '{"id":"1.0"}', 'the key as it was written');
INSERT INTO number VALUES (1.00);
DELETE FROM number;
SELECT is((SELECT count(DISTINCT key_hash)::int || ' of ' || count(*) FROM mrsync.tombstone), '1 of 2', '1.0 and 1.00 have one hash');
DELETE FROM mrsync.tombstone;
INSERT INTO number VALUES (2.0);
UPDATE number SET id = 2.000;
SELECT news_are('{}', '2.0 to 2.000 is no other key');
DELETE FROM number;
SELECT news_are(ARRAY['number {"id":"2.000"}'], 'NaN and infinities next');
INSERT INTO number VALUES ('NaN'), ('Infinity'), ('-Infinity');
DELETE FROM number;
SELECT news_are(ARRAY['number {"id":"-Infinity"}', 'number {"id":"Infinity"}', 'number {"id":"NaN"}'], 'NaN and infinities');
INSERT INTO nocase VALUES ('Ab');
UPDATE nocase SET id = 'aB';
SELECT news_are('{}', 'citext: Ab to aB is no other key');
DELETE FROM nocase;
INSERT INTO nocase VALUES ('AB');
DELETE FROM nocase;
SELECT is((SELECT count(DISTINCT key_hash)::int || ' of ' || count(*) FROM mrsync.tombstone), '1 of 2', 'aB and AB have one hash');
DELETE FROM mrsync.tombstone;

-- the text is the same under any settings
INSERT INTO wide VALUES ('2026-03-04 05:06:07.891234+00', '1 mon -2 days 03:04:05', 0.1, '\x00ff', 'happy', 'x"y', '[1,5)', ARRAY[1, NULL], '2026-03-04');
SET LOCAL datestyle = 'SQL, DMY';
SET LOCAL timezone = 'Asia/Kolkata';
SET LOCAL intervalstyle = 'iso_8601';
SET LOCAL extra_float_digits = -10;
SET LOCAL bytea_output = 'escape';
SET LOCAL search_path = '';
DELETE FROM public.wide;
SELECT current_setting('datestyle') || current_setting('timezone') || current_setting('search_path') AS settings \gset
SET LOCAL search_path = public;
SELECT is(:'settings'::text, 'SQL, DMYAsia/Kolkata""', 'the session''s settings are as they were');
SET LOCAL datestyle = 'ISO, MDY';
SET LOCAL timezone = 'UTC';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SELECT news_are(ARRAY['wide {"a":"2026-03-04 05:06:07.891234+00","b":"1 mon -2 days +03:04:05","c":"0.1","d":"\\x00ff","e":"happy","f":"x\"y","g":"[1,5)","h":"{1,NULL}","i":"2026-03-04"}'],
	'a key of many types, deleted under strange settings');

-- partitions
INSERT INTO tree VALUES (1, 'a'), (2, 'b'), (3, 'a'), (4, 'b'), (5, 'a'), (6, 'b');
DELETE FROM tree WHERE id IN (1, 2);
SELECT news_are(ARRAY['tree {"id":"1","part":"a"}', 'tree {"id":"2","part":"b"}'], 'DELETE by the root: the root''s name');
DELETE FROM tree_b WHERE id = 4;
SELECT news_are(ARRAY['tree {"id":"4","part":"b"}'], 'DELETE by the leaf: the root''s name, and columns in another order');
UPDATE tree SET part = 'b' WHERE id = 3;
SELECT news_are(ARRAY['tree {"id":"3","part":"a"}'], 'UPDATE across partitions');
UPDATE tree_b SET id = 66 WHERE id = 6;
SELECT news_are(ARRAY['tree {"id":"6","part":"b"}'], 'UPDATE of the key in a leaf');
TRUNCATE tree_a;
SELECT news_are(ARRAY['tree_a -'], 'TRUNCATE of a leaf does not stand for the others');
TRUNCATE tree;
SELECT news_are(ARRAY['tree -', 'tree_a -', 'tree_b -'], 'TRUNCATE of the root');

INSERT INTO "odd ""name" VALUES (E'a"b\\c\n\u00e9');
DELETE FROM "odd ""name";
SELECT news_are(ARRAY[E'"odd ""name" {"the \\"key":"a\\"b\\\\c\\né"}'], 'odd names and odd keys');
INSERT INTO "odd ""name" SELECT repeat('x', 2600);
DELETE FROM "odd ""name";
SELECT is((SELECT length(row_pk) FROM news()), 2600 + length('{"the \"key":""}'), 'a long key');

-- who may delete needs no right on anything of mrsync's
CREATE ROLE tap_clerk;
GRANT SELECT, INSERT, DELETE, UPDATE, TRUNCATE ON plain, child, tree TO tap_clerk;
REVOKE ALL ON SCHEMA mrsync FROM PUBLIC;
INSERT INTO plain VALUES (1), (2);
INSERT INTO tree VALUES (1, 'a');
SET LOCAL ROLE tap_clerk;
SELECT lives_ok('DELETE FROM plain WHERE id = 1', 'a user without privileges: DELETE');
SELECT lives_ok('UPDATE plain SET id = 3 WHERE id = 2', 'a user without privileges: UPDATE of the key');
SELECT lives_ok('DELETE FROM tree', 'a user without privileges: DELETE in a partitioned table');
SELECT lives_ok('TRUNCATE plain, child', 'a user without privileges: TRUNCATE');
SELECT throws_ok('DELETE FROM mrsync.tombstone', '42501', NULL, 'and cannot touch what is remembered');
RESET ROLE;
SELECT news_are(ARRAY['child -', 'plain -', 'plain {"id":"1"}', 'plain {"id":"2"}', 'tree {"id":"1","part":"a"}'], 'all of it is remembered');

INSERT INTO plain SELECT generate_series(1, 100000);
DELETE FROM plain;
SET LOCAL enable_seqscan = off;
SELECT is((SELECT count(*)::int FROM mrsync.tombstone WHERE relation = 'plain'::regclass AND key_hash IS NOT NULL), 100000, 'a hundred thousand, found by the index');
SELECT * FROM finish();
ROLLBACK;
SELECT mrsync.region_leave() \g /dev/null
