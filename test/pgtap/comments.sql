-- \d+ and \df+ are the manual at hand: nothing of schema mrsync goes without a comment. Needs no region.
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
BEGIN;
SELECT plan(6);

SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mrsync'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL$$,
	'every function says what it is');
SELECT is_empty($$SELECT oid::regclass FROM pg_class WHERE relnamespace = 'mrsync'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
	AND NOT relispartition AND obj_description(oid, 'pg_class') IS NULL$$, 'every table and view does');
SELECT is_empty($$SELECT c.oid::regclass, attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE relnamespace = 'mrsync'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
	AND attnum > 0 AND NOT attisdropped AND col_description(c.oid, attnum) IS NULL$$, 'and every column');
SELECT is_empty($$SELECT oid::regtype FROM pg_type WHERE typnamespace = 'mrsync'::regnamespace AND typrelid = 0 AND typelem = 0 AND obj_description(oid, 'pg_type') IS NULL$$,
	'and every type');
-- what people call; the rest belongs to types, triggers, or other functions
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mrsync'::regnamespace
	AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND proname !~ '^hlc_' AND proname NOT IN ('setting_entries', 'setting_change', 'setting_place', 'setting_advice', 'settings_advice')
	AND obj_description(oid, 'pg_proc') !~ 'Example: SELECT .*;$'$$, 'functions that people call have an example');
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mrsync'::regnamespace
	AND proname ~ '^(region|link|table|wait|apply_error|conflict|merge_function|merge_strategy)_' AND obj_description(oid, 'pg_proc') !~ 'Errors?: [0-9A-Z]{5} '$$, 'and tell their errors, by SQLSTATE');
SELECT * FROM finish();
ROLLBACK;
