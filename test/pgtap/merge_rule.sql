-- Rules for conflicts: what is refused, and why; and the way of a rule into force where there is one region. Needs a broker:
-- -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(140);
SELECT mrsync.region_init('tap-merge', :'brokers', 'tap') \g /dev/null
CREATE ROLE tap_owner;
CREATE ROLE tap_other;
GRANT CREATE ON SCHEMA public TO tap_owner;
CREATE TABLE stock (id int PRIMARY KEY, n int, label varchar(20), tags text[], price numeric(6, 2) DEFAULT 1, twice int GENERATED ALWAYS AS (n * 2) STORED);
ALTER TABLE stock OWNER TO tap_owner;
CREATE TABLE plain (id int PRIMARY KEY, n int);
CREATE TABLE coded (id int PRIMARY KEY, code text UNIQUE, n int);
CREATE TABLE spans (id int PRIMARY KEY, span int4range, n int, EXCLUDE USING gist (span WITH &&));
CREATE TABLE tree (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (100);
CREATE VIEW looks AS SELECT * FROM plain;
SELECT mrsync.table_add(t) FROM unnest('{stock,coded,spans,tree}'::regclass[]) t \g /dev/null
INSERT INTO stock VALUES (1, 5, 'lamp', '{a,b}');
CREATE FUNCTION three(int, int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $3';
CREATE FUNCTION rows_of(stock, stock, stock) RETURNS stock LANGUAGE sql IMMUTABLE AS 'SELECT $3';
CREATE FUNCTION two(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $2';
CREATE FUNCTION four(int, int, int, int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $2';
CREATE FUNCTION text_of(int, int, int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''x''';
CREATE FUNCTION big(bigint, bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $3';
CREATE FUNCTION many(int, int, VARIADIC int[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION stable_one(int, int, int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $3';
CREATE FUNCTION volatile_one(int, int, int) RETURNS int LANGUAGE sql AS 'SELECT $3';
CREATE FUNCTION several(int, int, int) RETURNS SETOF int LANGUAGE sql IMMUTABLE AS 'SELECT $3';
CREATE PROCEDURE proc(int, int, int) LANGUAGE sql AS '';
CREATE FUNCTION step(int, int, int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE AGGREGATE agg(int, int, int) (SFUNC = step, STYPE = int);
CREATE FUNCTION pg_temp.passing(int, int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $3';
CREATE FUNCTION secret(int, int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $3';
REVOKE ALL ON FUNCTION secret FROM PUBLIC;
DO $$ BEGIN EXECUTE format('CREATE FUNCTION large(int, int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS %L', 'BEGIN /*' || repeat('x', 262144) || '*/ RETURN 1; END'); END $$;

\ir include/refused.sql

SELECT throws_ok($$SELECT mrsync.merge_function_register(NULL, 'three(int,int,int)')$$, '22004', 'argument relation must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_register('stock', NULL)$$, '22004', 'argument function must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'n', NULL)$$, '22004', 'argument rollout must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_strategy_set(NULL, 'last_writer_wins')$$, '22004', 'argument relation must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_strategy_set('stock', NULL)$$, '22004', 'argument strategy must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_withdraw(NULL)$$, '22004', 'argument definition_id must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_promote(NULL)$$, '22004', 'argument definition_id must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_rollback(NULL)$$, '22004', 'argument definition_id must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_wait(NULL, '1 s')$$, '22004', 'argument definition_id must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_wait(gen_random_uuid(), NULL)$$, '22004', 'argument timeout must not be NULL');
SELECT throws_ok($$SELECT mrsync.merge_function_wait(gen_random_uuid(), '-1 s')$$, '22023', 'timeout must not be negative');

SELECT refused($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'n', 'soon')$$, '22023', 'unknown rollout "soon"', '',
	'Use ''staged'' (active when all regions are prepared), ''immediate'' (the same; an error where a region is away), or ''shadow'' (run beside the rule that decides).');
SELECT refused($$SELECT mrsync.merge_strategy_set('stock', 'merge_function', 'n')$$, '22023', 'unknown strategy "merge_function"', '',
	'Use ''last_writer_wins'' or ''column_last_writer_wins''; mrsync.merge_function_register() is for merge functions.');
SELECT refused(format($$SELECT mrsync.merge_function_register(%L, 'three(int,int,int)', 'n')$$, t), '55000', 'table public.' || t || ' is not replicated',
	'Rules for conflicts are for tables whose changes are sent; a partition has those of its whole table.',
	'SELECT mrsync.table_add(''public.' || t || '''); SELECT * FROM mrsync.replicated_table lists the tables that are.') FROM unnest('{plain,tree_1,looks}'::text[]) t;
SELECT refused($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'nothing')$$, '42703', 'column "nothing" of table public.stock does not exist', '',
	'\d public.stock lists its columns.');
SELECT is((said($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'xmin')$$)).state, '42703', 'nor is a system column one');
SELECT refused($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'id')$$, '22023', 'column "id" of table public.stock cannot have a rule for conflicts',
	'It is part of the primary key, by which regions know a row: it never differs between two versions of it.', 'Choose a column that is not part of the key.');
SELECT is((said($$SELECT mrsync.merge_strategy_set('stock', 'column_last_writer_wins', 'id')$$)).state, '22023', 'nor a strategy of its own');
SELECT refused($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'twice')$$, '428C9', 'column "twice" of table public.stock cannot have a rule for conflicts',
	'It is generated: made of other columns whenever its row is written.', 'Give those columns a rule.');
SELECT refused(format($$SELECT mrsync.merge_function_register(%L, 'three(int,int,int)', 'n')$$, t), '0A000', 'conflicts on table public.' || t || ' cannot be merged',
	'public.' || i || ' makes rows exclude each other; together with merges that is not supported yet.', 'Drop it, or make it an ordinary index; last_writer_wins works with it.')
	FROM (VALUES ('coded', 'coded_code_key'), ('spans', 'spans_span_excl')) v (t, i);
SELECT is((said($$SELECT mrsync.merge_strategy_set('coded', 'column_last_writer_wins')$$)).state, '0A000', 'which goes for merges by column, too');
SELECT refused(format($$SELECT mrsync.merge_function_register('stock', 'public.%s', 'n')$$, f), '42P13', 'public.' || replace(f, ' ', '') || ' does not fit column "n" of table public.stock',
	'It is (' || replace(a, ',', ', ') || ') RETURNS ' || r || '.', 'A merge function makes one value of three: (ancestor integer, a integer, b integer) RETURNS integer.')
	FROM (VALUES ('two(integer,integer)', 'integer,integer', 'integer'), ('text_of(integer,integer,integer)', 'integer,integer,integer', 'text'), ('big(bigint,bigint,bigint)', 'bigint,bigint,bigint', 'bigint'),
	('many(integer,integer,integer[])', 'integer,integer,VARIADIC integer[]', 'integer'), ('rows_of(public.stock,public.stock,public.stock)', 'public.stock,public.stock,public.stock', 'public.stock')) v (f, a, r);
SELECT is((said($$SELECT mrsync.merge_function_register('stock', 'four(int,int,int,int)', 'n')$$)).state, '42P13', 'four arguments, one with a default');
SELECT is((said($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'label')$$)).state, '42P13', 'another type');
SELECT is((said($$SELECT mrsync.merge_function_register('stock', 'mrsync.merge_set(anyarray,anyarray,anyarray)', 'n')$$)).state, '42P13', 'arrays for a column that is none');
SELECT refused($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)')$$, '42P13', 'public.three(integer,integer,integer) does not fit the rows of table public.stock',
	'It is (integer, integer, integer) RETURNS integer.', 'A merge function makes one value of three: (ancestor public.stock, a public.stock, b public.stock) RETURNS public.stock.');
SELECT refused(format($$SELECT mrsync.merge_function_register('stock', 'public.%s_one(integer,integer,integer)', 'n')$$, v), '42P13', 'public.' || v || '_one(integer,integer,integer) is not IMMUTABLE',
	'It must have the same result in every region, at any time.', 'If it depends on its arguments alone: ALTER FUNCTION public.' || v || '_one(integer,integer,integer) IMMUTABLE;') FROM unnest('{stable,volatile}'::text[]) v;
SELECT refused(format($$SELECT mrsync.merge_function_register('stock', 'public.%s(integer,integer,integer)', 'n')$$, f), '42809', 'public.' || f || '(integer,integer,integer) cannot be a merge function',
	'It is ' || w || '.', 'Give an ordinary function (ancestor integer, a integer, b integer) RETURNS integer.') FROM (VALUES ('several', 'a function that returns a set'), ('proc', 'a procedure'), ('agg', 'an aggregate')) v (f, w);
SELECT is((s.state, s.detail, s.hint)::text, ('0A000', 'It is in a temporary schema, and goes with its session.', 'Create it in a schema of your own.')::text, 'a temporary function')
	FROM said($$SELECT mrsync.merge_function_register('stock', 'pg_temp.passing(int,int,int)', 'n')$$) s;
SELECT refused($$SELECT mrsync.merge_function_register('stock', 'secret(int,int,int)', 'n')$$, '42501', 'the owner of table public.stock may not call public.secret(integer,integer,integer)',
	'Changes of other regions are merged and written with the rights of the table''s owner.', 'GRANT EXECUTE ON FUNCTION public.secret(integer,integer,integer) TO tap_owner;');
SELECT is((s.state, s.message, s.hint)::text, ('54000', 'the source of public.large(integer,integer,integer) is too large to be sent to the other regions',
	'Put the larger part of it into functions that it calls, and create these in every region.')::text, 'a source above 256 kB') FROM said($$SELECT mrsync.merge_function_register('stock', 'large(int,int,int)', 'n')$$) s;
SET ROLE tap_other;
SELECT is((s.state, s.message)::text, ('42501', 'must be owner of table public.stock')::text, 'for the table''s owner: merge_function_register') FROM said($$SELECT mrsync.merge_function_register('stock', 'three(int,int,int)', 'n')$$) s;
SELECT is((said($$SELECT mrsync.merge_strategy_set('stock', 'column_last_writer_wins')$$)).state, '42501', 'and merge_strategy_set');
RESET ROLE;
SELECT is_empty($$SELECT attname FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid WHERE attrelid = 'mrsync.merge_function'::regclass AND typcollation <> 0 AND attcollation = 0$$,
	'all texts of the view can be compared');
SELECT is_empty('SELECT FROM mrsync.merge_definition', 'nothing remains of what was refused');
SELECT refused(format('SELECT mrsync.merge_function_%s(''00000000-0000-0000-0000-000000000000'')', f), '42704', 'there is no rule with definition_id 00000000-0000-0000-0000-000000000000', '',
	'SELECT * FROM mrsync.merge_function lists them.') FROM unnest('{withdraw,promote,rollback}'::text[]) f;
SELECT is((said('SELECT mrsync.merge_function_wait(''00000000-0000-0000-0000-000000000000'', ''0'')')).state, '42704', 'nor can it be waited for');

-- The way into force, by the table's owner.
SET ROLE tap_owner;
SELECT mrsync.merge_function_register('stock', 'public.three(int,int,int)', 'n') AS first \gset
SELECT mrsync.merge_function_wait(:'first', '120 s') \g /dev/null
RESET ROLE;
SELECT is((SELECT (relation, table_name, column_name, version, strategy, function, status, activation IS NOT NULL, acknowledged_by, waiting_for, why, region_id)::text FROM mrsync.merge_function),
	'(stock,public.stock,n,1,merge_function,"public.three(integer,integer,integer)",active,t,{tap-merge},{},,tap-merge)', 'a rule becomes active');
SELECT is((SELECT activation::timestamptz BETWEEN registered_at AND clock_timestamp() FROM mrsync.merge_function), true, 'from a stamp of now on');
SELECT is((SELECT checksum FROM mrsync.merge_function), encode(sha256(convert_to(pg_get_functiondef('three(int,int,int)'::regprocedure), 'UTF8')), 'hex'), 'with the checksum of its source');
SELECT refused(format('SELECT mrsync.merge_function_withdraw(%L)', :'first'), '55000', 'the rule is active: conflicts have been decided by it', '',
	format('mrsync.merge_function_rollback(%L) has what was before it decide again, from another stamp on.', :'first'));
SELECT refused($$SELECT mrsync.merge_function_register('stock', 'rows_of(stock,stock,stock)')$$, '55000', 'single columns of table public.stock have merge functions',
	'There is one of column "n", which is active. A merge function on whole rows decides all columns.', 'End it first: SELECT mrsync.merge_strategy_set(''public.stock'', ''last_writer_wins'', ''n'');');
SELECT mrsync.merge_function_register('stock', 'mrsync.merge_text(text,text,text)', 'label') AS label \gset
SELECT mrsync.merge_function_register('stock', 'mrsync.merge_set(anyarray,anyarray,anyarray)', 'tags') AS tags \gset
SELECT mrsync.merge_function_wait(:'label', '120 s'), mrsync.merge_function_wait(:'tags', '120 s') \g /dev/null
SELECT results_eq($$SELECT column_name, status, checksum FROM mrsync.merge_function WHERE column_name <> 'n' ORDER BY 1$$,
	$$VALUES ('label', 'active', NULL), ('tags', 'active', NULL)$$, 'mrsync''s own functions, on varchar and on an array: they are everywhere, without a source');
SELECT refused('CREATE UNIQUE INDEX stock_label ON stock (label)', '0A000', 'this would make it impossible to merge conflicts on public.stock',
	'public.stock_label makes rows exclude each other; together with merges that is not supported yet.',
	'End the rule first, and wait for that: SELECT mrsync.merge_strategy_set(''public.stock'', ''last_writer_wins'', column_name) FROM mrsync.merge_function WHERE status = ''active'' AND table_name = ''public.stock''; or make an ordinary index.');
SELECT is((said('ALTER TABLE stock ADD EXCLUDE USING btree (label WITH =)')).state, '0A000', 'the same of a constraint');
SELECT is((said('CREATE INDEX stock_label ON stock (label)')).state, 'none', 'but not of an ordinary index');
CREATE OR REPLACE FUNCTION three(int, int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $2';
SELECT is((s.state, s.message, s.hint)::text, ('42723', 'function public.three(integer,integer,integer) is not the one that was registered before', 'Create the new version under a name of its own, and register that.')::text,
	'a registered function cannot be another one later') FROM said($$SELECT mrsync.merge_function_register('tree', 'three(int,int,int)', 'n')$$) s;
SELECT mrsync.merge_strategy_set('stock', 'last_writer_wins', c) FROM unnest('{n,label,tags}'::name[]) c \g /dev/null
SELECT mrsync.merge_function_wait(definition_id, '120 s') FROM mrsync.merge_function WHERE status = 'preparing' \g /dev/null
SELECT mrsync.merge_function_register('stock', 'rows_of(stock,stock,stock)') AS whole \gset
SELECT mrsync.merge_function_wait(:'whole', '120 s') \g /dev/null
SELECT results_eq($$SELECT column_name, version, strategy, status FROM mrsync.merge_function WHERE column_name IS NULL OR column_name = 'n' ORDER BY activation$$,
	$$VALUES ('n', 1, 'merge_function', 'superseded'), ('n', 2, 'last_writer_wins', 'superseded'), (NULL, 1, 'merge_function', 'active')$$, 'a later rule supersedes an earlier one, one of whole rows those of columns');
SELECT refused($$SELECT mrsync.merge_strategy_set('stock', 'column_last_writer_wins', 'n')$$, '55000', 'whole rows of table public.stock have a merge function',
	'There is one of whole rows, which is active. A merge function on whole rows decides all columns.', 'End it first: SELECT mrsync.merge_strategy_set(''public.stock'', ''last_writer_wins'');');

-- One that is not prepared: the region says why, who may not see the rows sees the SQLSTATE alone; mended, it goes on.
CREATE FUNCTION picky(int, int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN IF $1 IS NULL THEN RETURN NULL; END IF; RAISE 'no % here', $1 USING HINT = 'Use another.'; END $$;
INSERT INTO tree VALUES (1, 77);
SELECT mrsync.merge_function_register('tree', 'picky(int,int,int)', 'n') AS picky \gset
DO $$ BEGIN FOR i IN 1 .. 2400 LOOP PERFORM pg_sleep(0.05); COMMIT; EXIT WHEN EXISTS (SELECT FROM mrsync.merge_function WHERE status = 'preparing' AND why LIKE '%P0001%'); END LOOP; END $$;
SELECT is((SELECT (status, waiting_for, why)::text FROM mrsync.merge_function WHERE definition_id = :'picky'), ('preparing', '{tap-merge}'::text[], 'tap-merge: P0001 no 77 here — Use another.')::text, 'it is tried on a row, and the view says what it said');
SELECT is((s.state, s.detail)::text, ('55P03', 'It is preparing, and waits for: tap-merge. tap-merge: P0001 no 77 here — Use another.')::text, 'so does the wait') FROM said(format('SELECT mrsync.merge_function_wait(%L, ''0'')', :'picky')) s;
SET ROLE tap_other;
SELECT is((SELECT why FROM mrsync.merge_function WHERE definition_id = :'picky'), 'tap-merge: P0001', 'others see the SQLSTATE: the text may quote a row');
SELECT is((said(format('SELECT mrsync.merge_function_withdraw(%L)', :'picky'))).state, '42501', 'nor may they withdraw it');
RESET ROLE;
UPDATE tree SET n = NULL;
SELECT mrsync.merge_function_wait(:'picky', '60 s') \g /dev/null
SELECT is((SELECT status FROM mrsync.merge_function WHERE definition_id = :'picky'), 'active', 'mended, it goes on by itself');

-- Withdrawn; and a time limit on what a function does.
CREATE FUNCTION endless(int, int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN LOOP END LOOP; END $$;
SELECT mrsync.merge_function_register('tree', 'endless(int,int,int)', 'n') AS endless \gset
SELECT version AS is_version FROM mrsync.merge_function WHERE definition_id = :'endless' \gset
SELECT is(:is_version, 2, 'versions count up');
DO $$ BEGIN FOR i IN 1 .. 2400 LOOP PERFORM pg_sleep(0.05); COMMIT; EXIT WHEN EXISTS (SELECT FROM mrsync.merge_function WHERE status = 'preparing' AND why LIKE '%57014%'); END LOOP; END $$;
SELECT is((SELECT why FROM mrsync.merge_function WHERE definition_id = :'endless'), 'tap-merge: 57014 canceling statement due to statement timeout', 'an endless function holds itself alone');
SELECT mrsync.merge_function_withdraw(:'endless') \g /dev/null
SELECT is((SELECT (status, waiting_for, why)::text FROM mrsync.merge_function WHERE definition_id = :'endless'), ('withdrawn', '{}'::text[], NULL::text)::text, 'withdrawn');
SELECT is((said(format('SELECT mrsync.merge_function_withdraw(%L)', :'endless'))).state, 'none', 'twice is no error');
SELECT is((said(format('SELECT mrsync.merge_function_wait(%L, ''1 s'')', :'endless'))).state, '55000', 'nobody waits for it');
BEGIN;
SELECT mrsync.merge_strategy_set('tree', 'column_last_writer_wins') AS mine \gset
SELECT is((said(format('SELECT mrsync.merge_function_wait(%L, ''1 s'')', :'mine'))).state, '25001', 'who has not committed does not wait for it');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is((said(format('SELECT mrsync.merge_function_wait(%L, ''1 s'')', :'picky'))).state, '25001', 'nor who would not see it');
ROLLBACK;

-- A shadow: prepared, but it decides nothing until it is promoted; and back.
CREATE TABLE tray (id int PRIMARY KEY, n int, m int);
ALTER TABLE tray OWNER TO tap_owner;
SELECT mrsync.table_add('tray') \g /dev/null
CREATE FUNCTION rows_of(tray, tray, tray) RETURNS tray LANGUAGE sql IMMUTABLE AS 'SELECT $3';
CREATE FUNCTION stands(id uuid) RETURNS text LANGUAGE sql AS $$ SELECT (strategy, function, rollout, status, activation IS NOT NULL, waiting_for)::text FROM mrsync.merge_function WHERE definition_id = id $$;
SET ROLE tap_owner;
SELECT mrsync.merge_function_register('tray', 'mrsync.merge_counter(int,int,int)', 'n', rollout => 'shadow') AS shadow \gset
SELECT mrsync.merge_function_wait(:'shadow', '120 s') \g /dev/null
RESET ROLE;
SELECT is(stands(:'shadow'), '(merge_function,"mrsync.merge_counter(integer,integer,integer)",shadow,shadow,f,{})', 'a shadow is prepared for and not active');
SELECT is((SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tray'::regclass AND tgname = 'mrsync_history'), 1::bigint, 'histories are kept for it');
SELECT refused(format('SELECT mrsync.merge_function_rollback(%L)', :'shadow'), '55000', 'the rule is not active: it is shadow', '', 'mrsync.merge_function_withdraw() gives it up.');
SET ROLE tap_other;
SELECT is((said(format('SELECT mrsync.merge_function_%s(%L)', f, :'shadow'))).state, '42501', 'for the table''s owner: merge_function_' || f) FROM unnest('{promote,withdraw,rollback}'::text[]) f;
SELECT is((said('TABLE mrsync.' || t)).state, '42501', 'the rows'' contents are for superusers: ' || t) FROM unnest('{merge_difference,merge_comparison}'::text[]) t;
RESET ROLE;
SELECT mrsync.merge_function_register('tray', 'rows_of(tray,tray,tray)', rollout => 'shadow') AS rows_shadow \gset
SELECT mrsync.merge_function_wait(:'rows_shadow', '120 s') \g /dev/null
SELECT is(stands(:'rows_shadow'), '(merge_function,"public.rows_of(public.tray,public.tray,public.tray)",shadow,shadow,f,{})', 'one of whole rows beside one of a column');
SET ROLE tap_owner;
SELECT mrsync.merge_function_promote(:'shadow') \g /dev/null
RESET ROLE;
SELECT mrsync.merge_function_wait(:'shadow', '120 s') \g /dev/null
SELECT is(stands(:'shadow'), '(merge_function,"mrsync.merge_counter(integer,integer,integer)",staged,active,t,{})', 'promoted, it becomes active');
SELECT is((said(format('SELECT mrsync.merge_function_promote(%L)', :'shadow'))).state, 'none', 'twice is no error');
SELECT is((s.state, s.message)::text, ('55000', 'single columns of table public.tray have merge functions')::text, 'one of whole rows is not promoted beside it') FROM said(format('SELECT mrsync.merge_function_promote(%L)', :'rows_shadow')) s;
SELECT mrsync.merge_function_withdraw(:'rows_shadow') \g /dev/null
SELECT is(stands(:'rows_shadow'), '(merge_function,"public.rows_of(public.tray,public.tray,public.tray)",shadow,withdrawn,f,{})', 'a shadow is withdrawn');
SELECT refused(format('SELECT mrsync.merge_function_promote(%L)', :'rows_shadow'), '55000', 'the rule is withdrawn', '', 'Register the function again.');
INSERT INTO mrsync.merge_definition (region_id, definition_id, hlc, table_name, column_name, version, strategy, function, status, rollout, registered_at)
	VALUES ('elsewhere', gen_random_uuid(), mrsync.current_hlc(), 'public.tray', 'n', 1, 'merge_function', 'public.three(integer,integer,integer)', 'shadow', 'shadow', now()) RETURNING definition_id AS elsewhere \gset
SELECT refused(format('SELECT mrsync.merge_function_%s(%L)', f, :'elsewhere'), '55000', 'the rule was registered in region "elsewhere"', '', 'Call mrsync.merge_function_' || f || '() there.') FROM unnest('{promote,withdraw}'::text[]) f;
DELETE FROM mrsync.merge_definition WHERE definition_id = :'elsewhere';
SELECT throws_ok(format('UPDATE mrsync.merge_definition SET %s WHERE definition_id = %L', change, :'shadow'), '23514', NULL, 'a table''s own: ' || change)
	FROM unnest('{"rollout = ''shadow''","rollout = ''soon''","status = ''shadow''"}'::text[]) change;
SELECT throws_ok(format('UPDATE mrsync.merge_definition SET strategy = ''last_writer_wins'', function = NULL WHERE definition_id = %L', :'rows_shadow'), '23514', NULL, 'a shadow is a function');

SET ROLE tap_owner;
SELECT mrsync.merge_function_rollback(:'shadow') AS back \gset
RESET ROLE;
SELECT mrsync.merge_function_wait(:'back', '120 s') \g /dev/null
SELECT is(stands(:'back'), '(last_writer_wins,,staged,active,t,{})', 'rolled back: where there was no rule, the last writer wins');
SELECT is(stands(:'shadow'), '(merge_function,"mrsync.merge_counter(integer,integer,integer)",staged,superseded,t,{})', 'by a new version, which supersedes it');
SELECT refused(format('SELECT mrsync.merge_function_rollback(%L)', :'shadow'), '55000', 'the rule is not active: it is superseded', '', 'SELECT * FROM mrsync.merge_function WHERE status = ''active'' shows the rules that are.');
SELECT is((said(format('SELECT mrsync.merge_function_promote(%L)', :'shadow'))).state, '55000', 'nor is it promoted again');
SELECT mrsync.merge_function_rollback(:'back') AS again \gset
SELECT mrsync.merge_function_wait(:'again', '120 s') \g /dev/null
SELECT is(stands(:'again'), '(merge_function,"mrsync.merge_counter(integer,integer,integer)",staged,active,t,{})', 'a rollback is rolled back');
SELECT mrsync.merge_strategy_set('tray', 'column_last_writer_wins') AS whole \gset
SELECT mrsync.merge_function_wait(:'whole', '120 s') \g /dev/null
SELECT mrsync.merge_function_register('tray', 'mrsync.merge_counter(int,int,int)', 'm', 'immediate') AS m \gset
SELECT mrsync.merge_function_wait(:'m', '120 s') \g /dev/null
SELECT is(stands(:'m'), '(merge_function,"mrsync.merge_counter(integer,integer,integer)",immediate,active,t,{})', 'immediate');
SELECT mrsync.merge_function_rollback(:'m') AS m_back \gset
SELECT mrsync.merge_function_wait(:'m_back', '120 s') \g /dev/null
SELECT is(stands(:'m_back'), '(column_last_writer_wins,,staged,active,t,{})', 'a column without a rule of its own has had the table''s');
SELECT mrsync.region_connect('tap-silent') \g /dev/null
SELECT refused($$SELECT mrsync.merge_function_register('tray', 'mrsync.merge_counter(int,int,int)', 'm', 'immediate')$$, '55000', 'the rule cannot become active at once',
	'Every region has to be prepared for it first, and nothing was heard for 30 s of: tap-silent.', 'rollout => ''staged'' waits for them.');
DELETE FROM mrsync.region WHERE region_id = 'tap-silent';

-- A table that goes leaves its rules without effect, and in nobody's way.
DROP TABLE tree;
SELECT is((SELECT (relation, table_name, status)::text FROM mrsync.merge_function WHERE definition_id = :'picky'), '(,public.tree,active)', 'rules of a dropped table stay');
DO $$ BEGIN FOR i IN 1 .. 2400 LOOP PERFORM pg_sleep(0.05); COMMIT; EXIT WHEN EXISTS (SELECT FROM mrsync.merge_function WHERE table_name = 'public.tree' AND why LIKE '%not replicated%'); END LOOP; END $$;
SELECT matches(why, '^tap-merge: 55000 table public.tree is not replicated', 'the region says that it has no such table') FROM mrsync.merge_function WHERE definition_id = :'picky';
CREATE TABLE tree (id int PRIMARY KEY, n int);
SELECT mrsync.table_add('tree') \g /dev/null
SELECT mrsync.merge_function_wait(:'picky', '60 s') \g /dev/null
SELECT is((SELECT (relation, status)::text FROM mrsync.merge_function WHERE definition_id = :'picky'), '(tree,active)', 'a table of that name has them again');
SELECT is((SELECT count(*) FROM mrsync.worker_status WHERE worker = 'coordinator' AND restarts = 0), 1::bigint, 'nothing of this has ended the coordinator');
SELECT * FROM finish();
SELECT mrsync.region_leave() \g /dev/null
DROP OWNED BY tap_owner CASCADE;
DROP ROLE tap_owner, tap_other;
