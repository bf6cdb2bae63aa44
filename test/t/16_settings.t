# Settings that somebody gave the database as defaults do not reach the workers: a statement_timeout does not end them, a
# serializable or read-only default does not make them fail, and what the extractor has confirmed is durable.
#
# Proves what I2 and I8 need of the extractor (its position is durable before the slot moves) and of the applier (read
# committed: it decides on what it has just waited for) whatever ALTER DATABASE … SET says.
use strict;
use warnings;
use utf8;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(log_trouble);

my $lab = Mrsync::Lab->up(regions => ['us', 'eu']);
$lab->tables(<<'SQL', qw(t));
CREATE TABLE t (id integer PRIMARY KEY, n integer NOT NULL, at timestamptz, tags text[], f double precision);
SQL

# Each worker leaves the settings that it sees, in a transaction of its own.
my %row = (coordinator => 'heartbeat', extractor => 'extractor_position', applier => 'acknowledgement'); # its position is written without the executor
my @pinned = qw(default_transaction_isolation default_transaction_read_only default_transaction_deferrable lock_timeout
	role row_security search_path statement_timeout synchronous_commit transaction_isolation);
my $names = join ',', @pinned;
$lab->everywhere(<<"SQL");
CREATE TABLE seen (worker text, name text, value text, UNIQUE (worker, name, value));
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.seen SELECT replace(backend_type, 'mrsync ', ''), name, current_setting(name)
	FROM pg_stat_activity, unnest('{$names}'::text[]) name WHERE pid = pg_backend_pid() ON CONFLICT DO NOTHING;
	RETURN NULL;
END
\$\$;
@{[ join "\n", map { "CREATE TRIGGER look AFTER INSERT OR UPDATE ON mrsync.$_ FOR EACH ROW EXECUTE FUNCTION look(); ALTER TABLE mrsync.$_ ENABLE ALWAYS TRIGGER look;" } values %row ]}
CREATE ROLE nobody_@{[ $$ ]};
SQL

# ---- every region is started anew with defaults that would break a session

my %hostile = (
	default_transaction_isolation => 'serializable', default_transaction_read_only => 'on', default_transaction_deferrable => 'on',
	statement_timeout => '1ms', lock_timeout => '1ms', idle_in_transaction_session_timeout => '1ms', idle_session_timeout => '1ms',
	synchronous_commit => 'off', row_security => 'on', search_path => 'nowhere', role => "nobody_$$",
	datestyle => 'German', timezone => 'Asia/Kathmandu', array_nulls => 'off', extra_float_digits => -15, quote_all_identifiers => 'on',
	standard_conforming_strings => 'off', transform_null_equals => 'on', enable_indexscan => 'off',
);
for my $region ($lab->regions)
{
	$lab->sql($region, join ' ', (map { "ALTER DATABASE lab SET $_ = '$hostile{$_}';" } sort keys %hostile), 'TRUNCATE seen');
	$lab->stop($region);
	$lab->start($region);
}
# the test's own sessions have sane ones
$ENV{PGOPTIONS} = join ' ', map { "-c $_" } 'default_transaction_isolation=read\ committed', 'default_transaction_read_only=off', 'default_transaction_deferrable=off',
	'statement_timeout=0', 'lock_timeout=0', 'idle_in_transaction_session_timeout=0', 'idle_session_timeout=0', 'search_path=public', 'role=none',
	'datestyle=ISO', 'timezone=UTC', 'array_nulls=on', 'extra_float_digits=1', 'standard_conforming_strings=on', 'quote_all_identifiers=off';
is($lab->sql('us', 'SHOW synchronous_commit'), 'off', 'the database has asynchronous commit as its default');

# ---- replication works

for my $round (1 .. 5)
{
	for my $region ($lab->regions)
	{
		$lab->sql($region, <<"SQL");
INSERT INTO t SELECT id, $round, '2026-02-03 04:05:06.789+00', '{a,NULL}', 0.1 FROM generate_series(1, 50) id ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
DELETE FROM t WHERE id = $round;
SQL
	}
}
$lab->drain;
$lab->everywhere('ALTER DATABASE lab RESET ALL');    # for the sessions to come; the workers have read theirs
like($lab->same('SELECT * FROM t ORDER BY id', 'equal'), qr/^6\|\d+\|2026-02-03 04:05:06\.789\+00\|\{a,NULL\}\|0\.1$/m, 'with the values that were written');
$lab->healthy;
for my $region ($lab->regions)
{
	$lab->wait_for($region, "SELECT count(*) FROM mrsync.worker_status WHERE state <> 'running'", 0);    # for a moment it may wait for something
	is($lab->sql($region, "SELECT string_agg(worker || ' ' || state, ', ' ORDER BY worker) FROM mrsync.worker_status WHERE restarts > 0 OR last_error IS NOT NULL OR state <> 'running'"), '',
		"no worker of $region has failed");
}

# ---- since each worker has its own settings

my %expected = (default_transaction_isolation => 'read committed', default_transaction_read_only => 'off', default_transaction_deferrable => 'off',
	lock_timeout => 0, role => 'none', row_security => 'off', search_path => 'pg_catalog', statement_timeout => 0, transaction_isolation => 'read committed');
for my $worker (sort keys %row)
{
	$lab->wait_for('us', "SELECT count(*) > 0 FROM seen WHERE worker = '$worker'");
	$expected{synchronous_commit} = $worker eq 'applier' ? 'off' : 'local';
	is($lab->sql('us', "SELECT name || ' = ' || value FROM seen WHERE worker = '$worker' ORDER BY name COLLATE \"C\", value"),
		join("\n", map { "$_ = $expected{$_}" } sort keys %expected), "the $worker has its own");
}

# ---- what is missing, and where it has to be put

SKIP:
{
	skip 'this server does not restrict output plugins', 6 unless $lab->sql('us', "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'");
	my $broker = $lab->broker;
	my $init = "SELECT mrsync.region_init('another', '$broker')";
	$lab->sql('us', 'CREATE DATABASE another');
	# the trap: quotes make one name of the list, in a file that goes before postgresql.conf
	my $reloaded = sub { $lab->sql('us', 'SELECT pg_reload_conf()'); $lab->wait_for('us', "SELECT ok FROM mrsync.settings_check() WHERE setting = 'output_plugin_libraries'", $_[0]) };
	$lab->sql('us', "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput, test_decoding, mrsync'");
	$reloaded->('f');
	my ($code, undef, $warning) = $lab->sql_try('us', 'CREATE EXTENSION mrsync', db => 'another');
	is($code, 0, 'the extension can be created');
	like($warning, qr/WARNING.*^DETAIL:  output_plugin_libraries is "pgoutput, test_decoding, mrsync", required:/ms, 'and what is missing is said');
	my ($advice) = ($lab->sql_try('us', $init, db => 'another'))[2] =~ /ERROR:  55000: .*^HINT:  (.*?)\nLOCATION/ms;
	like($advice, qr/\ARun, since the value is in \S+\/postgresql\.auto\.conf, which goes before postgresql\.conf:\nALTER SYSTEM SET .*;\nThen: SELECT pg_reload_conf\(\);\z/, 'region_init refuses, and says which file has the value, and that a reload is enough');
	$lab->sql('us', "$1;") while $advice =~ /^(ALTER SYSTEM .*);$/mg;
	$reloaded->('t');
	is($lab->sql('us', 'SHOW output_plugin_libraries'), 'pgoutput, test_decoding, mrsync', 'what it advises mends it');
	like($lab->sql('us', "SELECT set_in || ' ' || change_takes FROM mrsync.settings_check() WHERE setting = 'output_plugin_libraries'"), qr/postgresql\.auto\.conf reload$/, 'settings_check shows the file');
	$lab->sql('us', $init, db => 'another');
	pass('and the region can be made');
	$lab->sql('us', 'SELECT mrsync.region_leave()', db => 'another');
}
# the same when a region becomes known and the server has no place for its origin
my ($setting) = grep { $lab->sql('us', "SELECT count(*) FROM pg_settings WHERE name = '$_'") } qw(max_active_replication_origins max_replication_slots);
$lab->sql('us', "ALTER SYSTEM SET $setting = '@{[ $lab->sql('us', qq{SHOW $setting}) ]}'");
$lab->sql('us', 'SELECT pg_reload_conf()');
$lab->wait_for('us', "SELECT sourcefile LIKE '%/postgresql.auto.conf' FROM pg_settings WHERE name = '$setting'");
$lab->sql('us', <<"SQL");
SELECT pg_replication_origin_create('filler_' || i) FROM generate_series((SELECT count(*) + 1 FROM pg_replication_origin_status), current_setting('$setting')::int) i;
SELECT pg_replication_origin_advance(roname, '0/1') FROM pg_replication_origin WHERE roname LIKE 'filler%';
SQL
my ($advice) = ($lab->sql_try('us', "SELECT mrsync.region_connect('more')"))[2] =~ /ERROR:  53400: .*^HINT:  (.*?)\nLOCATION/ms;
like($advice, qr/\ARun, since the value is in \S+\/postgresql\.auto\.conf, which goes before postgresql\.conf:\nALTER SYSTEM SET $setting = \d+;\nThen restart the server\.\z/,
	'region_connect says what to do when there is no place for an origin, and where');
$lab->sql('us', $1) if $advice =~ /^(ALTER SYSTEM .*;)$/m;
$lab->stop('us');
$lab->start('us');
is(($lab->sql_try('us', "SELECT mrsync.region_connect('more')"))[0], 0, 'and that mends it');

is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
done_testing;
