-- mrsync.kafka_options: who may see it, and what a wrong value is told. Needs no region, nor Kafka.
SET client_min_messages = warning;
CREATE EXTENSION mrsync;
CREATE EXTENSION dblink;
-- ALTER SYSTEM runs in no transaction block, so each is sent through a session of its own; its error comes back whole.
CREATE FUNCTION refusal(options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	PERFORM public.dblink_exec(format('host=127.0.0.1 port=%s dbname=%s user=%s', current_setting('port'), current_database(), current_user),
		format('ALTER SYSTEM SET mrsync.kafka_options = %L', options));
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, detail, nullif(hint, ''));
END
$$;
BEGIN;
SELECT plan(15);

SELECT is(refusal('acks=0'), '22023 | invalid value for parameter "mrsync.kafka_options" | "acks" cannot be set here. | Allowed are librdkafka''s options '
	'that begin with security., ssl. or sasl., and client.rack and broker.address.family.', 'an option that is not of the connection');
SELECT is(refusal('ssl.engine.location=/tmp/x.so'), '22023 | invalid value for parameter "mrsync.kafka_options" | "ssl.engine.location" cannot be set here: '
	'it would load code into the server.', 'one that loads code');
SELECT is(refusal('security.protocol=tls'), '22023 | invalid value for parameter "mrsync.kafka_options" | Option "security.protocol": Invalid value "tls" for '
	'configuration property "security.protocol".', 'librdkafka''s own reason');
SELECT is(refusal('ssl.ca.location=/ca.pem'), '22023 | invalid value for parameter "mrsync.kafka_options" | "ssl.ca.location" has no effect without '
	'security.protocol=ssl or sasl_ssl, which is not given. | Add security.protocol=ssl, or sasl_ssl when the brokers also want a login.', 'one without effect');
SELECT is(refusal('security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u'), '22023 | invalid value for parameter "mrsync.kafka_options" | The login '
	'needs "sasl.password", which is not given.', 'a login without a password');
SELECT is(refusal('client.rack=''a b'), '22023 | invalid value for parameter "mrsync.kafka_options" | The value of "client.rack" does not end: a quote is '
	'missing. | Write key=value key2=''a value with spaces''; within a value, \'' is a quote and \\ a backslash.', 'an open quote');
SELECT unalike(refusal('security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u sasl.password=correct horse=battery staple'), '%horse%',
	'no part of a password is said');
SELECT is(refusal(''), 'taken', 'nothing is a value');
SELECT is(refusal('client.rack=''a, b'' broker.address.family=v4'), 'taken', 'a right one is taken');
SELECT is((SELECT setting FROM pg_file_settings WHERE name = 'mrsync.kafka_options'), 'client.rack=''a, b'' broker.address.family=v4', 'and stands in the file');
SELECT throws_ok('SET mrsync.kafka_options = ''client.rack=a''', '55P02', NULL, 'no session has its own');

-- secrets are for superusers
SELECT is((SELECT context FROM pg_settings WHERE name = 'mrsync.kafka_options'), 'sighup', 'a superuser sees it');
CREATE ROLE kafka_options_user;
SET ROLE kafka_options_user;
SELECT throws_ok('SHOW mrsync.kafka_options', '42501', NULL, 'others do not');
SELECT throws_ok('SELECT current_setting(''mrsync.kafka_options'')', '42501', NULL, 'nor like this');
SELECT is_empty('SELECT FROM pg_settings WHERE name = ''mrsync.kafka_options''', 'nor like that');
RESET ROLE;
SELECT * FROM finish();
ROLLBACK;
ALTER SYSTEM RESET mrsync.kafka_options;
