-- Rules for rows that others exclude: what is refused, and why; and what becomes of a row where there is one region, which releases its
-- own. Needs a broker: -v brokers=host:port
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
SELECT plan(36);
SELECT mrsync.region_init('tap-loser', :'brokers', 'tap') \g /dev/null
CREATE ROLE tap_owner;
CREATE ROLE tap_other;
GRANT CREATE ON SCHEMA public TO tap_owner;
CREATE TABLE member (id int PRIMARY KEY, nick text UNIQUE, n int);
ALTER TABLE member OWNER TO tap_owner;
CREATE TABLE plain (id int PRIMARY KEY, n int UNIQUE);
CREATE TABLE coded (id int PRIMARY KEY, code text NOT NULL UNIQUE, g int GENERATED ALWAYS AS (id) STORED UNIQUE, UNIQUE (id, code));
CREATE TABLE free (id int PRIMARY KEY, n int);
CREATE TABLE lowered (id int PRIMARY KEY, code text NOT NULL, note text);
CREATE UNIQUE INDEX lowered_code ON lowered (lower(code));
CREATE TABLE tree (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (100);
ALTER TABLE tree_1 ADD UNIQUE (n);
SELECT mrsync.table_add(t) FROM unnest('{member,coded,free,lowered,tree}'::regclass[]) t \g /dev/null
CREATE FUNCTION renamed(member) RETURNS member LANGUAGE sql IMMUTABLE AS 'SELECT $1.id, $1.nick || $1.id, $1.n';
CREATE FUNCTION three(member, member, member) RETURNS member LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION of_text(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION to_text(member) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.nick';
CREATE FUNCTION volatile_one(member) RETURNS member LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION several(member) RETURNS SETOF member LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION pg_temp.passing(member) RETURNS member LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION secret(member) RETURNS member LANGUAGE sql IMMUTABLE AS 'SELECT $1';
REVOKE ALL ON FUNCTION secret FROM PUBLIC;

\ir include/refused.sql

SELECT throws_ok($$SELECT mrsync.loser_function_register(NULL, 'renamed(member)')$$, '22004', 'argument relation must not be NULL');
SELECT throws_ok($$SELECT mrsync.loser_function_register('member', NULL)$$, '22004', 'argument function must not be NULL');
SELECT throws_ok($$SELECT mrsync.loser_strategy_set(NULL, 'set_null')$$, '22004', 'argument relation must not be NULL');
SELECT throws_ok($$SELECT mrsync.loser_strategy_set('member', NULL)$$, '22004', 'argument strategy must not be NULL');
SELECT refused($$SELECT mrsync.loser_strategy_set('member', 'last_writer_wins')$$, '22023', 'unknown strategy "last_writer_wins"', '',
	'Use ''hold_aside'' or ''set_null''; mrsync.loser_function_register() is for functions.');
SELECT is((said($$SELECT mrsync.merge_strategy_set('member', 'set_null')$$)).state, '22023', 'which are no strategies of merges');
SELECT refused($$SELECT mrsync.loser_strategy_set('plain', 'set_null')$$, '55000', 'table public.plain is not replicated',
	'Rules for conflicts are for tables whose changes are sent; a partition has those of its whole table.',
	'SELECT mrsync.table_add(''public.plain''); SELECT * FROM mrsync.replicated_table lists the tables that are.');
SELECT refused($$SELECT mrsync.loser_strategy_set('coded', 'set_null')$$, '55000', 'no key by which rows of table public.coded exclude each other may be NULL',
	'All columns of coded_code_key, coded_g_key, coded_id_code_key are NOT NULL, generated, or part of the primary key.',
	'Give the loser another key by a function: mrsync.loser_function_register(); or ALTER TABLE … ALTER COLUMN … DROP NOT NULL, in every region.');
SELECT is((said(format('SELECT mrsync.loser_strategy_set(%L, %L)', t, s))).state, 'none', 'none of that stands in the way of ' || s || ' on ' || t)
	FROM (VALUES ('coded', 'hold_aside'), ('free', 'set_null'), ('tree', 'set_null'), ('lowered', 'set_null')) v (t, s);
SELECT refused(format($$SELECT mrsync.loser_function_register('member', 'public.%s')$$, f), '42P13', 'public.' || f || ' does not fit the rows of table public.member',
	'It is (' || replace(a, ',', ', ') || ') RETURNS ' || r || '.', 'It is given the row and returns it with another key: (loser public.member) RETURNS public.member.')
	FROM (VALUES ('three(public.member,public.member,public.member)', 'public.member,public.member,public.member', 'public.member'), ('of_text(text)', 'text', 'text'),
	('to_text(public.member)', 'public.member', 'text')) v (f, a, r);
SELECT refused($$SELECT mrsync.loser_function_register('member', 'volatile_one(member)')$$, '42P13', 'public.volatile_one(public.member) is not IMMUTABLE',
	'It must have the same result in every region, at any time.', 'If it depends on its arguments alone: ALTER FUNCTION public.volatile_one(public.member) IMMUTABLE;');
SELECT refused($$SELECT mrsync.loser_function_register('member', 'several(member)')$$, '42809', 'public.several(public.member) cannot be a function for rows that others exclude',
	'It is a function that returns a set.', 'Give an ordinary function (loser public.member) RETURNS public.member.');
SELECT is((said($$SELECT mrsync.loser_function_register('member', 'pg_temp.passing(member)')$$)).state, '0A000', 'a temporary function');
SELECT is((said($$SELECT mrsync.loser_function_register('member', 'secret(member)')$$)).state, '42501', 'one that the owner may not call');
SET ROLE tap_other;
SELECT is((said($$SELECT mrsync.loser_function_register('member', 'renamed(member)')$$)).state, '42501', 'for the table''s owner: loser_function_register');
SELECT is((said($$SELECT mrsync.loser_strategy_set('member', 'set_null')$$)).state, '42501', 'and loser_strategy_set');
SET ROLE tap_owner;
SELECT mrsync.loser_function_register('member', 'public.renamed(public.member)') AS rule \gset
SELECT mrsync.merge_function_wait(:'rule', '120 s') \g /dev/null
RESET ROLE;
SELECT is((SELECT (relation, table_name, column_name, version, strategy, function, status, acknowledged_by, waiting_for, rollout)::text FROM mrsync.merge_function WHERE relation = 'member'::regclass),
	'(member,public.member,,1,loser_function,"public.renamed(public.member)",active,{tap-loser},{},staged)', 'a rule becomes active');
SELECT is((SELECT keeps_history FROM mrsync.replicated_table WHERE relation = 'member'::regclass), false, 'and keeps no histories');
SELECT is((said('CREATE UNIQUE INDEX member_n ON member (n)')).state, 'none', 'a table with such a rule may have further unique indexes');
SELECT is((said($$SELECT mrsync.merge_strategy_set('member', 'column_last_writer_wins')$$)).state, '0A000', 'but no merges');
CREATE OR REPLACE FUNCTION renamed(member) RETURNS member LANGUAGE sql IMMUTABLE AS 'SELECT $1';
SELECT is((said($$SELECT mrsync.loser_function_register('member', 'renamed(member)')$$)).state, '42723', 'a registered function cannot be another one later');
SELECT mrsync.merge_function_rollback(:'rule') AS back \gset
SELECT mrsync.merge_function_wait(:'back', '120 s') \g /dev/null
SELECT results_eq($$SELECT version, strategy, status FROM mrsync.merge_function WHERE relation = 'member'::regclass ORDER BY version$$,
	$$VALUES (1, 'loser_function', 'superseded'), (2, 'hold_aside', 'active')$$, 'rolled back: held aside, as before');
SELECT mrsync.merge_strategy_set('member', 'last_writer_wins') AS merge \gset
SELECT mrsync.merge_function_wait(:'merge', '120 s') \g /dev/null
SELECT is((SELECT count(*) FROM mrsync.merge_function WHERE relation = 'member'::regclass AND status = 'active'), 2::bigint, 'rules for losers and for merges stand beside each other');
SELECT * FROM finish();
SELECT mrsync.region_leave() \g /dev/null
DROP OWNED BY tap_owner CASCADE;
DROP ROLE tap_owner, tap_other;
