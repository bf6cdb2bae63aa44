-- The type mrsync.hlc: text forms, errors, ordering, casts, indexes.
SET client_min_messages = error; -- CREATE EXTENSION says which settings the server lacks
CREATE EXTENSION mrsync;
RESET client_min_messages;
SET search_path = public, mrsync; -- where the operators are
SET timezone = 'America/New_York'; -- of no influence
SET datestyle = 'SQL, DMY';

-- text forms in
SELECT hlc FROM (VALUES
	('2026-11-23 08:11:00.123456Z'::mrsync.hlc),
	('2026-11-23T08:11:00.123456Z'),
	('2026-11-23 08:11:00Z'),
	('2026-11-23 08:11:00.1Z'),
	('0'),
	('1'),
	('-1'),
	('848736660123456'),
	('0001-01-01 00:00:00Z'),
	('9999-12-31 23:59:59.999999Z'),
	('10000-01-01 00:00:00Z'),
	('294276-12-31 23:59:59.999999Z'),
	('2024-02-29 00:00:00Z'),
	('2000-02-29 12:00:00.000001Z')) v(hlc);

-- and what is refused
SELECT ''::mrsync.hlc;
SELECT 'now'::mrsync.hlc;
SELECT '2026-11-23'::mrsync.hlc;
SELECT '2026-11-23 08:11:00'::mrsync.hlc;
SELECT '2026-11-23 08:11:00+00'::mrsync.hlc;
SELECT '2026-11-23 08:11:00.1234567Z'::mrsync.hlc;
SELECT '2026-02-29 00:00:00Z'::mrsync.hlc;
SELECT '2026-13-01 00:00:00Z'::mrsync.hlc;
SELECT '2026-11-23 24:00:00Z'::mrsync.hlc;
SELECT '2026-11-23 08:60:00Z'::mrsync.hlc;
SELECT '0000-12-31 00:00:00Z'::mrsync.hlc;
SELECT '294277-01-01 00:00:00Z'::mrsync.hlc;
SELECT '99999999999999999999'::mrsync.hlc;
SELECT '12 '::mrsync.hlc;
SELECT '0x10'::mrsync.hlc;

-- casts: none of them moves the value
SELECT '2026-11-23 08:11:00.123456Z'::mrsync.hlc::bigint;
SELECT 848736660123456::bigint::mrsync.hlc;
SELECT '2026-11-23 08:11:00.123456Z'::mrsync.hlc::timestamptz;
SELECT '2026-11-23 08:11:00.123456Z'::timestamptz::mrsync.hlc;
SELECT '2026-11-23 08:11:00.123456Z'::mrsync.hlc::timestamptz::mrsync.hlc::bigint::mrsync.hlc::text;

-- ordering
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt
FROM (VALUES ('1'::mrsync.hlc, '2'::mrsync.hlc), ('2', '2'), ('2', '1'), ('-1', '1')) v(a, b);
SELECT min(h), max(h) FROM (VALUES ('3'::mrsync.hlc), ('1'), ('2')) v(h);
SELECT h FROM (VALUES ('3'::mrsync.hlc), ('1'), (NULL), ('-2')) v(h) ORDER BY h DESC NULLS LAST;
SELECT h, count(*) FROM (VALUES ('3'::mrsync.hlc), ('1'), ('3')) v(h) GROUP BY h ORDER BY h;

-- indexes
CREATE TABLE stamped (h mrsync.hlc);
INSERT INTO stamped SELECT g::bigint::mrsync.hlc FROM generate_series(1, 1000) g;
CREATE INDEX stamped_btree ON stamped (h);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM stamped WHERE h = '500'::mrsync.hlc;
SELECT * FROM stamped WHERE h = '500'::mrsync.hlc;
SELECT count(*) FROM stamped WHERE h > '990'::mrsync.hlc;
EXPLAIN (COSTS OFF) SELECT max(h) FROM stamped;
SELECT max(h) FROM stamped;
DROP INDEX stamped_btree;
CREATE INDEX stamped_hash ON stamped USING hash (h);
EXPLAIN (COSTS OFF) SELECT * FROM stamped WHERE h = '500'::mrsync.hlc;
SELECT * FROM stamped WHERE h = '500'::mrsync.hlc;
RESET enable_seqscan;
SET enable_mergejoin = off;
SET enable_nestloop = off;
SELECT count(*) FROM stamped a JOIN stamped b USING (h);
SET enable_hashjoin = off;
SET enable_mergejoin = on;
SELECT count(*) FROM stamped a JOIN stamped b USING (h);

-- binary out: an int8
SELECT mrsync.hlc_send('1'), mrsync.hlc_send('-1'), mrsync.hlc_send('2026-11-23 08:11:00.123456Z');

-- partitioning by hash uses the extended hash
CREATE TABLE parted (h mrsync.hlc) PARTITION BY HASH (h);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parted SELECT * FROM stamped;
SELECT count(*) FROM parted WHERE h = '7'::mrsync.hlc;

-- the clock belongs to regions
SELECT mrsync.current_hlc();
DROP TABLE stamped, parted;
DROP EXTENSION mrsync;
