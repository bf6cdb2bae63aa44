-- table_add, table_add_all, table_remove and the event triggers: what is refused, what is set up, what is undone.
-- Needs a broker: -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(105);
SELECT mrsync.region_init('tap-table', :'brokers', 'tap') \g /dev/null
CREATE FUNCTION detail_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN detail;
END
$$;
CREATE FUNCTION hint_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END
$$;
CREATE FUNCTION refused(relation text, state text, detail text, what text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT throws_ok(format('SELECT mrsync.table_add(%L)', relation), state, NULL, 'refused: ' || what)
	UNION ALL
	SELECT is(detail_of(format('SELECT mrsync.table_add(%L)', relation)), detail, 'and why: ' || what)
$$;

BEGIN;
CREATE EXTENSION citext;
CREATE SCHEMA s;
CREATE TABLE s.plain (id int PRIMARY KEY, v text);
CREATE TABLE s.nokey (id int);
CREATE TABLE s.deferred (id int PRIMARY KEY DEFERRABLE);
CREATE TABLE s.bits (id bit(8) PRIMARY KEY);
CREATE COLLATION s.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE s.collated (id text COLLATE s.nocase PRIMARY KEY);
CREATE UNLOGGED TABLE s.unlogged (id int PRIMARY KEY);
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
CREATE VIEW s.view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW s.matview AS SELECT 1 AS id;
CREATE SEQUENCE s.sequence;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE s."foreign" (id int) SERVER nowhere;
CREATE TABLE s.parent (id int PRIMARY KEY);
CREATE TABLE s.child (PRIMARY KEY (id)) INHERITS (s.parent);
CREATE TABLE s.forced (id int PRIMARY KEY);
ALTER TABLE s.forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE TABLE s."Tree" (id int, part text, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE s.tree_a PARTITION OF s."Tree" FOR VALUES IN ('a');
CREATE TABLE s.tree_b (v text, gone int, part text NOT NULL, id int NOT NULL);
ALTER TABLE s.tree_b DROP COLUMN gone;
ALTER TABLE s."Tree" ATTACH PARTITION s.tree_b FOR VALUES IN ('b');
CREATE TABLE s.tree_cd PARTITION OF s."Tree" FOR VALUES IN ('c', 'd') PARTITION BY LIST (part);
CREATE TABLE s.tree_c PARTITION OF s.tree_cd FOR VALUES IN ('c');
CREATE TABLE s.mixed (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE UNLOGGED TABLE s.mixed_1 PARTITION OF s.mixed FOR VALUES IN (1);

SELECT throws_ok('SELECT mrsync.table_add(NULL)', '22004', 'argument relation must not be NULL', 'table_add: NULL');
SELECT throws_ok('SELECT mrsync.table_add(''s.nothere'')', '42P01', 'relation "s.nothere" does not exist', 'table_add: no such table');
SELECT throws_ok('SELECT mrsync.table_add(1234567)', '42P01', 'relation with OID 1234567 does not exist', 'table_add: no such OID');
SELECT throws_ok('SELECT mrsync.table_add(''s.plain'', ''best_writer'')', '22023', 'unknown strategy "best_writer"', 'table_add: unknown strategy');
SELECT throws_ok('SELECT mrsync.table_add(''s.plain'', NULL)', '22004', 'argument strategy must not be NULL', 'table_add: no strategy');
SELECT refused('s.nokey', '55000', 'It has no primary key, by which regions know a row.', 'no primary key');
SELECT is(hint_of('SELECT mrsync.table_add(''s.nokey'')'), 'ALTER TABLE s.nokey ADD PRIMARY KEY (…);', 'and what to do about it');
SELECT refused('s.deferred', '55000', 'Its primary key is DEFERRABLE: two rows may have the same key for a while.', 'deferrable key');
SELECT refused('s.bits', '0A000', 'Column "id" (bit(8)) of its primary key: its type has no hash operator class.', 'no hash');
SELECT refused('s.collated', '0A000', 'Column "id" (text) of its primary key: its collation is nondeterministic: keys that are equal here could differ in another region.', 'nondeterministic collation');
SELECT refused('s.unlogged', '42809', 'It is unlogged: its changes are not in the WAL, which is what is replicated.', 'unlogged');
SELECT refused('temporary', '42809', 'It is temporary.', 'temporary');
SELECT refused('s.view', '42809', 'It is a view.', 'view');
SELECT refused('s.matview', '42809', 'It is a materialized view.', 'materialized view');
SELECT refused('s.sequence', '42809', 'It is a sequence.', 'sequence');
SELECT refused('s.plain_pkey', '42809', 'It is an index.', 'index');
SELECT refused('s.foreign', '42809', 'It is a foreign table.', 'foreign table');
SELECT refused('pg_class', '42809', 'It is a system catalog.', 'system catalog');
SELECT refused('mrsync.heartbeat', '42809', 'It is a table of mrsync''s own.', 'own table');
SELECT refused('s.parent', '0A000', 'Other tables inherit from it.', 'inheritance parent');
SELECT refused('s.child', '0A000', 'It inherits from another table.', 'inheritance child');
SELECT refused('s.tree_a', '42809', 'It is a partition of s."Tree".', 'partition');
SELECT refused('s.tree_c', '42809', 'It is a partition of s."Tree".', 'partition of a partition');
SELECT refused('s.mixed', '42809', 'Its partition s.mixed_1 is unlogged: its changes are not in the WAL, which is what is replicated.', 'unlogged partition');
SELECT is(left(detail_of('SELECT mrsync.table_add(''s.forced'')'), 36), 'It has FORCE ROW LEVEL SECURITY: cha', 'refused: forced row security');

CREATE ROLE tap_other;
GRANT USAGE ON SCHEMA s TO tap_other;
SET ROLE tap_other;
SELECT throws_ok('SELECT mrsync.table_add(''s.plain'')', '42501', 'must be owner of table s.plain', 'not by others');
RESET ROLE;
ALTER TABLE s.plain OWNER TO tap_other;
SET ROLE tap_other;
SELECT lives_ok('SELECT mrsync.table_add(''s.plain'')', 'by its owner');
SELECT lives_ok('SELECT mrsync.table_remove(''s.plain'')', 'and removed by its owner');
RESET ROLE;

-- an owner who is no superuser: whoever makes a partition makes its triggers, too
GRANT CREATE ON SCHEMA s TO tap_other;
SET ROLE tap_other;
CREATE TABLE s.owned (id int, part text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
SELECT lives_ok('SELECT mrsync.table_add(''s.owned'')', 'a partitioned table, by its owner');
SELECT lives_ok('CREATE TABLE s.owned_a PARTITION OF s.owned FOR VALUES IN (''a'')', 'who makes a partition');
CREATE TABLE s.owned_b (id int, part text, PRIMARY KEY (id, part));
SELECT lives_ok('ALTER TABLE s.owned ATTACH PARTITION s.owned_b FOR VALUES IN (''b'')', 'and attaches another');
INSERT INTO s.owned VALUES (1, 'a'), (2, 'b'), (3, 'a');
DELETE FROM s.owned WHERE id = 1;
DELETE FROM s.owned_b;
UPDATE s.owned SET part = 'b' WHERE id = 3;
-- the function of those triggers is everybody's, and does nothing on other tables
CREATE TABLE s.unrelated (id int PRIMARY KEY);
CREATE TRIGGER mine AFTER DELETE OR UPDATE ON s.unrelated FOR EACH ROW EXECUTE FUNCTION mrsync.tombstone_row();
INSERT INTO s.unrelated VALUES (1), (2);
UPDATE s.unrelated SET id = 3 WHERE id = 2;
DELETE FROM s.unrelated;
CREATE TRIGGER before BEFORE DELETE ON s.owned_a FOR EACH ROW EXECUTE FUNCTION mrsync.tombstone_row();
INSERT INTO s.owned VALUES (4, 'a');
SELECT throws_ok('DELETE FROM s.owned WHERE id = 4', '39P01', 'a trigger of mrsync''s is defined for another event', 'a row that may yet stay is not remembered as deleted');
RESET ROLE;
SELECT results_eq('SELECT relation::regclass::text COLLATE "C", row_pk COLLATE "C" FROM mrsync.tombstone ORDER BY row_pk',
	$$VALUES ('s.owned' COLLATE "C", '{"id":"1","part":"a"}' COLLATE "C"), ('s.owned', '{"id":"2","part":"b"}'), ('s.owned', '{"id":"3","part":"a"}')$$,
	'what was deleted there is remembered, and nothing else');
DELETE FROM mrsync.tombstone;
DROP TABLE s.owned, s.unrelated;
SELECT is_empty('SELECT FROM mrsync.replicated_table', 'nothing of it is left');
SELECT throws_ok('SELECT mrsync.table_add_all(''nowhere'')', '3F000', 'schema "nowhere" does not exist', 'table_add_all: no such schema');
SELECT throws_ok('SELECT mrsync.table_add_all(''pg_catalog'')', '22023', 'the tables of schema "pg_catalog" cannot be replicated', 'table_add_all: system schema');
SELECT is(mrsync.table_add_all('s'), 2, 'table_add_all adds what it can');
SELECT results_eq('SELECT relation::text COLLATE "C" FROM mrsync.replicated_table ORDER BY 1', $$VALUES ('s."Tree"' COLLATE "C"), ('s.plain')$$, 'these two');
SELECT is(mrsync.table_add_all('s'), 0, 'again: nothing is left');
SELECT lives_ok('SELECT mrsync.table_add(''s.plain'')', 'adding twice is said, not refused');

SELECT is_empty($$SELECT relid FROM pg_partition_tree('s."Tree"') JOIN pg_class ON oid = relid WHERE relreplident <> 'f'$$, 'FULL in root and partitions');
SELECT results_eq($$SELECT tgrelid::regclass::text COLLATE "C", tgname::text COLLATE "C", tgenabled::text COLLATE "C" FROM pg_trigger WHERE tgname LIKE 'mrsync%' ORDER BY 1, 2$$,
	$$VALUES ('s."Tree"' COLLATE "C", 'mrsync_delete' COLLATE "C", 'A' COLLATE "C"), ('s."Tree"', 'mrsync_key', 'A'), ('s."Tree"', 'mrsync_truncate', 'A'),
	('s.plain', 'mrsync_delete', 'A'), ('s.plain', 'mrsync_key', 'A'), ('s.plain', 'mrsync_truncate', 'A'),
	('s.tree_a', 'mrsync_delete', 'A'), ('s.tree_a', 'mrsync_key', 'A'), ('s.tree_a', 'mrsync_truncate', 'A'),
	('s.tree_b', 'mrsync_delete', 'A'), ('s.tree_b', 'mrsync_key', 'A'), ('s.tree_b', 'mrsync_truncate', 'A'),
	('s.tree_c', 'mrsync_delete', 'A'), ('s.tree_c', 'mrsync_key', 'A'), ('s.tree_c', 'mrsync_truncate', 'A'),
	('s.tree_cd', 'mrsync_delete', 'A'), ('s.tree_cd', 'mrsync_key', 'A')$$, 'all triggers, always on');

-- what comes later
CREATE TABLE s.tree_d PARTITION OF s.tree_cd FOR VALUES IN ('d');
CREATE TABLE s.tree_e (id int, part text, v text, PRIMARY KEY (part, id));
ALTER TABLE s.tree_e DROP CONSTRAINT tree_e_pkey;
ALTER TABLE s."Tree" ATTACH PARTITION s.tree_e FOR VALUES IN ('e');
SELECT is_empty($$SELECT relid FROM pg_partition_tree('s."Tree"') JOIN pg_class ON oid = relid WHERE relreplident <> 'f'$$, 'new partitions: FULL');
SELECT results_eq($$SELECT count(*)::int FROM pg_trigger WHERE tgrelid IN ('s.tree_d'::regclass, 's.tree_e'::regclass) AND tgname LIKE 'mrsync%' AND tgenabled = 'A'$$, 'VALUES (6)', 'new partitions: all triggers');
ALTER TABLE s.plain DISABLE TRIGGER ALL;
ALTER TABLE s.plain ENABLE TRIGGER ALL;
SELECT is_empty($$SELECT FROM pg_trigger WHERE tgname LIKE 'mrsync%' AND tgenabled <> 'A'$$, 'DISABLE TRIGGER ALL does not get at them');

-- what would make it unfit
SELECT throws_ok('ALTER TABLE s.plain DROP CONSTRAINT plain_pkey', '55000', 'this would make it impossible to replicate s.plain', 'the primary key stays');
SELECT throws_ok('ALTER TABLE s.plain REPLICA IDENTITY DEFAULT', '55000', 'the replica identity of s.plain must stay FULL', 'the replica identity stays');
SELECT throws_ok('ALTER TABLE s.plain SET UNLOGGED', '42809', 'this would make it impossible to replicate s.plain', 'SET UNLOGGED');
SELECT throws_ok('ALTER TABLE s.plain FORCE ROW LEVEL SECURITY', '0A000', 'this would make it impossible to replicate s.plain', 'FORCE ROW LEVEL SECURITY');
SELECT throws_ok('CREATE TABLE s.heir () INHERITS (s.plain)', '0A000', 'this would make it impossible to replicate s.plain', 'no inheritance child');
SELECT throws_ok('CREATE UNLOGGED TABLE s.tree_f PARTITION OF s."Tree" FOR VALUES IN (''f'')', '42809', 'this would make it impossible to replicate s."Tree"', 'no unlogged partition');
SELECT lives_ok('ALTER TABLE s.plain DROP CONSTRAINT plain_pkey, ADD PRIMARY KEY (v, id)', 'another primary key in one command');
SELECT matches((SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 's.plain'::regclass AND tgname = 'mrsync_key'), 'old\.v = new\.v', 'and the key trigger follows');
SELECT lives_ok('ALTER TABLE s.plain RENAME COLUMN id TO number', 'a column may be renamed');

-- and by commands that do not name it: what could then not be sent would stop everything behind it
SELECT is(hint_of('ALTER TABLE s.tree_a REPLICA IDENTITY DEFAULT'), 'Take it out of replication first: SELECT mrsync.table_remove(''s."Tree"'');', 'the hint names the table, not its partition');
CREATE SCHEMA made
	CREATE TABLE tree_g PARTITION OF s."Tree" FOR VALUES IN ('g')
	CREATE TABLE unrelated (id int);
SELECT is_empty($$SELECT relid FROM pg_partition_tree('s."Tree"') JOIN pg_class ON oid = relid WHERE relreplident <> 'f'$$, 'a partition made by CREATE SCHEMA: FULL');
SELECT results_eq($$SELECT count(*)::int FROM pg_trigger WHERE tgrelid = 'made.tree_g'::regclass AND tgname LIKE 'mrsync%' AND tgenabled = 'A'$$, 'VALUES (3)', 'and with its triggers');
SELECT throws_ok('CREATE SCHEMA made2 CREATE TABLE heir () INHERITS (s.plain)', '0A000', 'this would make it impossible to replicate s.plain', 'no inheritance child by CREATE SCHEMA');
SELECT throws_ok('CREATE SCHEMA made2 CREATE UNLOGGED TABLE tree_h PARTITION OF s."Tree" FOR VALUES IN (''h'')', '42809', 'this would make it impossible to replicate s."Tree"', 'nor an unlogged partition');
CREATE FOREIGN TABLE s.number (number int NOT NULL, v text NOT NULL) SERVER nowhere;
SELECT throws_ok('ALTER FOREIGN TABLE s.number INHERIT s.plain', '0A000', 'this would make it impossible to replicate s.plain', 'nor one by ALTER FOREIGN TABLE');
CREATE TABLE s.copy AS SELECT * FROM s.plain;
SELECT is_empty($$SELECT FROM mrsync.former_identity WHERE relation = 's.copy'::regclass$$, 'CREATE TABLE AS makes a table of its own');

CREATE DOMAIN s.code AS text;
CREATE TYPE s.row AS (id int, v text, n int);
CREATE TABLE s.coded (id s.code PRIMARY KEY, other s.code, v text);
CREATE TABLE s.typed OF s.row (PRIMARY KEY (id));
CREATE TABLE s.coded_tree (id s.code, v text, PRIMARY KEY (id, v)) PARTITION BY LIST (v);
CREATE TABLE s.coded_tree_a PARTITION OF s.coded_tree FOR VALUES IN ('a');
CREATE TABLE s.citext (id citext PRIMARY KEY);
SELECT mrsync.table_add(t) FROM unnest('{s.coded, s.typed, s.coded_tree, s.citext}'::regclass[]) t \g /dev/null
SELECT throws_ok('DROP DOMAIN s.code CASCADE', '55000', NULL, 'DROP DOMAIN CASCADE does not take a key column');
SELECT throws_ok('DROP EXTENSION citext CASCADE', '55000', 'this would make it impossible to replicate s.citext', 'nor does DROP EXTENSION CASCADE');
SELECT is(hint_of('DROP EXTENSION citext CASCADE'), 'Change it in a single ALTER TABLE that leaves the table fit for replication, or take it out first: SELECT mrsync.table_remove(''s.citext'');', 'and what to do is said');
SELECT throws_ok('ALTER TYPE s.row DROP ATTRIBUTE id CASCADE', '55000', 'this would make it impossible to replicate s.typed', 'nor does ALTER TYPE DROP ATTRIBUTE CASCADE');
SELECT lives_ok('ALTER TYPE s.row DROP ATTRIBUTE n CASCADE', 'another column may go');
SELECT mrsync.table_remove('s.coded') \g /dev/null
SELECT throws_ok('DROP DOMAIN s.code CASCADE', '55000', 'this would make it impossible to replicate s.coded_tree', 'a partitioned table keeps its key');
DROP TABLE s.coded_tree;
SELECT lives_ok('DROP DOMAIN s.code CASCADE', 'where it is not replicated any more, it goes');
SELECT throws_ok('DROP TRIGGER mrsync_delete ON s.plain', '55000', 'trigger mrsync_delete must stay', 'a trigger that remembers deletes stays');
SELECT throws_ok('DROP TRIGGER mrsync_truncate ON s.tree_a', '55000', 'trigger mrsync_truncate must stay', 'also on a partition');
SELECT is(hint_of('DROP TRIGGER mrsync_truncate ON s.tree_a'), 'Take it out of replication first: SELECT mrsync.table_remove(''s."Tree"'');', 'and what to do is said');
ALTER TABLE s.typed NOT OF;
SELECT lives_ok('ALTER TABLE s.typed DROP COLUMN id CASCADE, ADD PRIMARY KEY (v)', 'ALTER TABLE may drop the key column when it brings another key');
SELECT is_empty($$SELECT FROM (VALUES ('mrsync_delete'), ('mrsync_key'), ('mrsync_truncate')) t (name) WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 's.typed'::regclass AND tgname = name AND tgenabled = 'A')$$, 'and all triggers are there');
SELECT lives_ok('DROP SCHEMA made CASCADE', 'a partition goes with its schema');
-- the index of the key does not hang on it, the memory of deleted keys does
ALTER EXTENSION citext DROP OPERATOR CLASS citext_ops USING hash;
ALTER EXTENSION citext DROP OPERATOR FAMILY citext_ops USING hash;
SELECT throws_ok('DROP OPERATOR CLASS citext_ops USING hash', '0A000', 'this would make it impossible to replicate s.citext', 'the hash operator class of a key stays');
SELECT throws_ok('DROP OPERATOR FAMILY citext_ops USING hash CASCADE', '0A000', 'this would make it impossible to replicate s.citext', 'also when its family is dropped');
SELECT mrsync.table_remove('s.citext') \g /dev/null
SELECT lives_ok('DROP OPERATOR CLASS citext_ops USING hash', 'where no key needs it, it goes');
SELECT refused('s.citext', '0A000', 'Column "id" (public.citext) of its primary key: its type has no hash operator class.', 'no hash of its own, and text''s does not do');
DROP TABLE s.typed, s.citext;

-- taken back
SELECT throws_ok('SELECT mrsync.table_remove(NULL)', '22004', 'argument relation must not be NULL', 'table_remove: NULL');
SELECT throws_ok('SELECT mrsync.table_remove(''s.nokey'')', '42704', 'table s.nokey is not replicated', 'table_remove: not replicated');
SELECT throws_ok('SELECT mrsync.table_remove(''s.tree_a'')', '42809', 'table s.tree_a cannot be taken out of replication by itself', 'table_remove: a partition');
SELECT lives_ok('SELECT mrsync.table_remove(''s."Tree"'')', 'table_remove');
SELECT is_empty($$SELECT FROM pg_trigger WHERE tgname LIKE 'mrsync%' AND tgrelid <> 's.plain'::regclass$$, 'its triggers are gone');
SELECT is_empty($$SELECT FROM pg_partition_tree('s."Tree"') JOIN pg_class ON oid = relid WHERE relreplident <> 'd'$$, 'its replica identity is what it was');
CREATE TABLE s.indexed (id int PRIMARY KEY, other int NOT NULL);
CREATE UNIQUE INDEX indexed_other ON s.indexed (other);
ALTER TABLE s.indexed REPLICA IDENTITY USING INDEX indexed_other;
SELECT mrsync.table_add('s.indexed'), mrsync.table_remove('s.indexed') \g /dev/null
SELECT is((SELECT relreplident::text || indisreplident FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid WHERE indexrelid = 's.indexed_other'::regclass), 'itrue', 'also when it was an index');
DROP TABLE s.plain;
SELECT is_empty('SELECT 1 FROM mrsync.replicated_table UNION ALL SELECT 1 FROM mrsync.former_identity', 'a dropped table leaves by itself');
SELECT * FROM finish();
ROLLBACK;
SELECT mrsync.region_leave() \g /dev/null
