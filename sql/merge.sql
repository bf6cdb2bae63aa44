-- The built-in merge functions: (ancestor, a, b) to one value.
SET client_min_messages = error; -- CREATE EXTENSION says which settings the server lacks
CREATE EXTENSION IF NOT EXISTS mrsync;
RESET client_min_messages;
SET search_path = public, mrsync;
\pset null NULL

CREATE FUNCTION error_of(call text) RETURNS text LANGUAGE plpgsql AS
	$$ BEGIN EXECUTE 'SELECT ' || call; RETURN 'none'; EXCEPTION WHEN OTHERS THEN RETURN sqlstate; END $$;

-- counters, of every number type
SELECT merge_counter(10::smallint, 12::smallint, 15::smallint), merge_counter(10, 12, 15), merge_counter(10::bigint, 12::bigint, 15::bigint),
	merge_counter(1.5, 2.0, 2.25), merge_counter(1.5::real, 2::real, 2.25::real), merge_counter(1.5::float8, 2::float8, 2.25::float8);
SELECT pg_typeof(merge_counter(10::smallint, 12::smallint, 15::smallint)), pg_typeof(merge_counter(1.5, 2.0, 2.25)), pg_typeof(merge_counter(1.5::real, 2::real, 2.25::real));
-- NULL, in every place
SELECT t.*, merge_counter(ancestor, a, b), merge_counter(ancestor::numeric, a::numeric, b::numeric) AS of_numeric, merge_counter(ancestor::float8, a::float8, b::float8) AS of_float8
FROM (VALUES (NULL::int, 5, 7), (NULL, NULL, 7), (NULL, 5, NULL), (10, NULL, 15), (10, 15, NULL), (10, 10, NULL), (10, NULL, 10), (10, NULL, NULL), (NULL, NULL, NULL)) t(ancestor, a, b);
-- what does not fit
SELECT merge_counter(0::smallint, 30000::smallint, 30000::smallint);
SELECT merge_counter(0, 2147483647, 1);
SELECT merge_counter(0, -9223372036854775808, -1);
SELECT merge_counter(0::real, '3e38'::real, '3e38'::real);
SELECT merge_counter(-9223372036854775808, 9223372036854775807, -9223372036854775808);
SELECT error_of('merge_counter(0::smallint, 30000::smallint, 30000::smallint)');
-- what is no number to count with: b
SELECT merge_counter(1::numeric, 'NaN', 3), merge_counter(1::numeric, 2, 'NaN'), merge_counter(1::numeric, 'Infinity', '-Infinity'), merge_counter('NaN'::numeric, 1, 2);
SELECT merge_counter(1::float8, 'NaN', 3), merge_counter(1::float8, 2, 'NaN'), merge_counter(1::float8, 'Infinity', '-Infinity'), merge_counter('NaN'::float8, 1, 2);
SELECT merge_counter(0::numeric, 1e1000, 1e-20) = 1e1000 + 1e-20 AS exact;

-- sets
SELECT merge_set(ARRAY['milk', 'bread'], ARRAY['milk', 'bread', 'eggs'], ARRAY['bread', 'tea']);
SELECT merge_set(ARRAY[1, 2, 3], ARRAY[3, 1], ARRAY[1, 2, 3, 4, 4]);
SELECT merge_set(NULL, ARRAY[1, 2], ARRAY[2, 3]), merge_set(ARRAY[1], NULL, ARRAY[1, 2]), merge_set(ARRAY[1], ARRAY[1, 2], NULL), merge_set(ARRAY[1], ARRAY[1], NULL), merge_set(ARRAY[1], NULL, NULL);
SELECT merge_set(ARRAY[1], ARRAY[1, NULL, NULL], ARRAY[2]), merge_set(ARRAY[NULL, 1], ARRAY[NULL, 1, 2], ARRAY[1]), merge_set(ARRAY[1, 2], ARRAY[1], '{}'::int[]), merge_set('{}'::int[], '{}', '{}');
SELECT merge_set('{1.0,2}'::numeric[], '{1.00,2,3}', '{2}') AS numeric, merge_set('{"[1,2)"}'::int4range[], '{"[1,1]",empty}', '{}') AS ranges;
SELECT merge_set('[0:1]={1,2}'::int[], '[0:2]={1,2,3}', '[5:5]={1}') AS bounds;
SELECT merge_set(string_to_array(repeat('a,', 2), ',') || ARRAY[repeat('x', 10000)], ARRAY[repeat('x', 10000), 'y'], ARRAY[repeat('x', 10000)]) = ARRAY[repeat('x', 10000), 'y'] AS large;
SELECT cardinality(merge_set((SELECT array_agg(i) FROM generate_series(1, 20000) i), (SELECT array_agg(i) FROM generate_series(1, 30000) i), (SELECT array_agg(i) FROM generate_series(10001, 20000) i)));
SELECT merge_set(ARRAY[[1, 2], [3, 4]], ARRAY[1], ARRAY[2]);
SELECT merge_set(ARRAY['1'::json], ARRAY['2'::json], ARRAY['3'::json]);
SELECT error_of('merge_set(ARRAY[[1, 2]], ARRAY[1], ARRAY[2])'), error_of('merge_set(ARRAY[''1''::json], ARRAY[''2''::json], ARRAY[''3''::json])'), error_of('merge_set(''[1]''::jsonb, ''[1]'', ''5'')');
-- equal as the collation says
CREATE COLLATION ignores_case (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false);
SELECT merge_set(ARRAY['A' COLLATE ignores_case], ARRAY['a', 'b'], ARRAY['B']);
DROP COLLATION ignores_case;
-- jsonb
SELECT merge_set('["milk", "bread"]'::jsonb, '["milk", "bread", "eggs"]', '["bread", "tea"]'), merge_set('[1, {"a": 1.0}]'::jsonb, '[1, {"a": 1}, 2]', '[{"a": 1.00}]');
SELECT merge_set(NULL::jsonb, '[1]', '[2]'), merge_set('[1]'::jsonb, NULL, '[1, 2]'), merge_set('[1]'::jsonb, NULL, NULL), merge_set('[]'::jsonb, '[null]', '[[]]');
SELECT merge_set('[1]'::jsonb, '{"a": 1}', '[1]');
SELECT merge_set('[1]'::jsonb, '[1]', '5');

-- documents
SELECT merge_json('{"name": "Ann", "address": {"city": "Rome", "zip": "1"}}', '{"name": "Ann", "address": {"city": "Paris", "zip": "1"}}', '{"name": "Anna", "address": {"city": "Rome", "zip": "2"}}');
SELECT merge_json('{"a": 1}', '{"a": 2}', '{"a": 3}'), merge_json('{"a": 1, "b": 1}', '{"b": 1}', '{"a": 1, "b": 2}'), merge_json('{"a": 1}', '{}', '{"a": 2}'), merge_json('{"a": 1}', '{"a": 2}', '{}');
SELECT merge_json('{"a": [1]}', '{"a": [1, 2]}', '{"a": [1, 3]}'), merge_json('1', '2', '3'), merge_json('{}', '"text"', '{"a": null}'), merge_json('{"a": true}', '{"a": false}', '{"a": true, "b": "é\n\"\u0001"}');
SELECT merge_json(NULL, '{"a": 1}', '{"b": 1}'), merge_json('{"a": 1}', NULL, '{"a": 2}'), merge_json('{"a": 1}', '{"a": 2}', NULL), merge_json('{"a": 1}', NULL, NULL), merge_json(NULL, NULL, NULL), merge_json('null', '{}', 'null');
SELECT merge_json('{"views": 1, "tags": ["x"], "stock": {"red": {"quantity": 5}, "blue": {"quantity": 5}}}', '{"views": 3, "tags": ["x", "y"], "stock": {"red": {"quantity": 4}, "blue": {"quantity": 5}}}',
	'{"views": 2, "tags": ["z"], "stock": {"red": {"quantity": 2}}}', counters => '{/views,/stock/*/quantity}', sets => '{/tags}');
SELECT merge_json('{"n": 0.1}', '{"n": 100000000000000000000.1}', '{"n": 1e-30}', '{/n}'), merge_json('{"n": 1}', '{"n": "many"}', '{"n": 2}', '{/n}'), merge_json('[1]', '[1, 2]', '[3]', '{}', '{""}'), merge_json('{"a": 1}', '{"a": 2}', '{"a": 3}', NULL, NULL);
SELECT merge_json('{}', '{}', '{}', '{views}');
SELECT merge_json('{}', '{}', '{}', '{}', '{/a,NULL}');
SELECT error_of('merge_json(''{}'', ''{}'', ''{}'', ''{views}'')');
-- deep ones
CREATE FUNCTION deep(levels int, inside text) RETURNS jsonb LANGUAGE sql RETURN (repeat('{"a":', levels) || inside || repeat('}', levels))::jsonb;
SELECT merge_json(deep(1000, '1'), deep(1000, '2'), deep(1000, '1,"b":1')) #> array_fill('a'::text, ARRAY[999]);
SELECT merge_json(deep(1001, '1'), '{}', '{"b": 1}');
SELECT error_of('merge_json(deep(1001, ''1''), ''{}'', ''{}'')');
SELECT merge_json('[]', '[]', (repeat('[', 1001) || repeat(']', 1001))::jsonb);
DROP FUNCTION deep(int, text);

-- texts
SELECT merge_text(E'one\ntwo\nthree', E'One\ntwo\nthree', E'one\ntwo\nthree\nfour');
SELECT merge_text(E'a\nb', E'a\nb\nof a', E'a\nb\nof b'), merge_text(E'a\nb\nc', E'a\nof a\nc', E'a\nof b\nc');
SELECT merge_text(NULL, 'of a', 'of b'), merge_text('x', NULL, 'of b'), merge_text('x', 'of a', NULL), merge_text('x', 'x', NULL), merge_text('x', NULL, NULL), merge_text('', 'a', 'a');

-- they are what they say
SELECT proname, count(*), bool_and(provolatile = 'i' AND proparallel = 's' AND NOT proisstrict) FROM pg_proc WHERE pronamespace = 'mrsync'::regnamespace AND proname IN ('merge_counter', 'merge_json', 'merge_set', 'merge_text') GROUP BY 1 ORDER BY 1;
DROP FUNCTION error_of(text);
DROP EXTENSION mrsync;
