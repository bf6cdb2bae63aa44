# A server that is not prepared for mrsync: what is missing is said at once and whole, with the lines to add, and with these
# added it works. Without mrsync's shared memory no call of anything crashes the server. What a server runs out of
# (background workers, places for regions) is named where somebody looks for it.
#
# Proves what the other tests take for granted, since their servers are prepared, and I9: nothing that SQL can call takes
# the server down. The stories: region_init that failed for want of a place left its slot behind, which kept WAL for ever.
# A coordinator that found no background worker was "not started yet", without a word why.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(log_trouble);

my $lab = Mrsync::Lab->up(regions => ['us'], options => ['--solo'], settings => {
	shared_preload_libraries => '', wal_level => 'replica', track_commit_timestamp => 'off',
	max_replication_slots => 0, max_worker_processes => 2 });
my $broker = $lab->broker;
my $group = "t18_$$";
my $restricts = $lab->sql('us', "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'");

sub us { return $lab->sql('us', $_[0], @_[ 1 .. $#_ ]) }
sub configure    # lines of postgresql.conf; of two for a setting the later one counts
{
	open my $conf, '>>', $lab->data_dir('us') . '/postgresql.conf' or die $!;
	print $conf map { "$_\n" } @_;
	close $conf;
}
sub restart_with
{
	configure(@_);
	$lab->stop('us');
	$lab->start('us');
}
# SQLSTATE, message, DETAIL and HINT of an error or warning as psql prints it
sub parts
{
	my ($said) = @_;
	my %is;
	@is{qw(state message)} = $said =~ /^(?:ERROR|WARNING):  (\w{5}): (.*)$/m;
	for my $name (qw(DETAIL HINT)) { $is{ lc $name } = $said =~ /^$name:  (.*?)(?=\n[A-Z]+:  |\n?\z)/ms ? $1 : '' }
	return \%is;
}
sub refused
{
	my ($sql, $expected, $name, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($code, undef, $said) = $lab->sql_try('us', $sql, %options);
	return is_deeply(parts($said), $expected, $name) || diag($code ? $said : 'it was not refused');
}

# ---- nothing is there

configure("output_plugin_libraries = 'pgoutput'") if $restricts;
us('SELECT pg_reload_conf()');
$lab->wait_for('us', 'SHOW output_plugin_libraries', 'pgoutput') if $restricts;
my @missing = (    # what DETAIL says of it, and the line that HINT gives
	[ 'shared_preload_libraries is empty, required: mrsync among the entries.', "shared_preload_libraries = 'mrsync'" ],
	[ 'wal_level is replica, required: logical.', 'wal_level = logical' ],
	[ 'track_commit_timestamp is off, required: on.', 'track_commit_timestamp = on' ],
	[ 'output_plugin_libraries is pgoutput, required: mrsync among the entries.', "output_plugin_libraries = 'pgoutput, mrsync'" ],
	[ 'max_replication_slots is 0, required: one place besides the 0 in use.', 'max_replication_slots = 10' ],
	[ 'max_worker_processes is 2, required: three places (coordinator, extractor, first link) besides the 1 in use; one more per link.',
		'max_worker_processes = 17' ]);
splice @missing, 3, 1 unless $restricts;
sub expected    # the error or warning about these
{
	my ($state, $message, @of) = @_;
	return { state => $state, message => $message, detail => join("\n", map { $_->[0] } @of),
		hint => join "\n", 'Put into postgresql.conf:', (map { $_->[1] } @of), 'Then restart the server.' };
}
my @warned = ('01000', "this server's settings do not allow an mrsync region yet");
my @denied = ('55000', "this server's settings do not allow a region yet");

my ($code, undef, $said) = $lab->sql_try('us', 'CREATE EXTENSION mrsync');
is($code, 0, 'the extension can be created');
is_deeply(parts($said), expected(@warned, @missing), 'with a warning that names all that is missing, and the lines to add');
my $init = "SELECT mrsync.region_init('us', '$broker', '$group')";
refused($init, expected(@denied, @missing), 'region_init refuses with the same words');
is(us('SELECT count(*) FROM mrsync.region'), 0, 'and leaves nothing');

# ---- every function, without shared memory

us("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
my $unloaded = { state => '55000', message => 'mrsync is not loaded at server start',
	detail => 'Its shared memory does not exist, so no database of this server can be a region.',
	hint => 'SELECT * FROM mrsync.settings_check() says which line postgresql.conf needs; then restart the server.' };
my $id = "'00000000-0000-0000-0000-000000000000'";
my @need_region = ('mrsync.current_hlc()', "mrsync.version_below('1', '(0,1)', '3', '1', 'us')", "mrsync.row_version('1', '(0,1)', '3')", 'mrsync.resend()',
	"mrsync.region_connect('eu')", 'mrsync.region_leave()', "mrsync.table_add('t')", "mrsync.table_add_all('public')",
	"mrsync.link_create('us', 'eu')", "mrsync.link_pause($id)", "mrsync.link_resume($id)", "mrsync.link_remove($id)", 'mrsync.wait_for_peers()',
	'mrsync.apply_error_retry()', 'mrsync.apply_error_discard(1)', "mrsync.conflict_redecide($id, 'a')",
	"mrsync.merge_function_register('t', 'mrsync.merge_text(text, text, text)', 'v')", "mrsync.merge_strategy_set('t', 'column_last_writer_wins')",
	"mrsync.loser_function_register('t', 'mrsync.merge_text(text, text, text)')", "mrsync.loser_strategy_set('t', 'set_null')",
	"mrsync.merge_function_withdraw($id)", "mrsync.merge_function_wait($id)");
refused("SELECT $_", $unloaded, "$_ says that mrsync is not loaded") for @need_region;

# Each with plausible arguments and with NULLs, whatever it answers; triggers as functions, too.
sub call_everything
{
	my ($except) = @_;
	my %argument = (text => "'us'", bigint => '1', boolean => 'false', interval => "interval '1 s'", regclass => "'t'::regclass", uuid => "${id}::uuid",
		xid => "'3'::xid", oid => "'t'::regclass::oid", tid => "'(0,1)'::tid", 'text[]' => "'{a}'::text[]", 'mrsync.hlc' => "'1'::mrsync.hlc", cstring => "'1'::cstring", bytea => "'\\x00'::bytea",
		jsonb => "'[1]'::jsonb", name => "'v'::name", regprocedure => "'mrsync.merge_counter(integer, integer, integer)'::regprocedure", anyarray => "'{1}'::integer[]", map { $_ => "1::$_" } qw(smallint integer numeric real), 'double precision');
	my @functions = split /\n/, us("SELECT proname || ';' || array_to_string(array(SELECT format_type(a, NULL) FROM unnest(proargtypes) a), ';') FROM pg_proc "
		. "WHERE pronamespace = 'mrsync'::regnamespace AND prokind = 'f' AND NOT 'internal'::regtype = ANY (proargtypes::oid[]) ORDER BY oid");
	my $started = us('SELECT pg_postmaster_start_time()');
	my $session = $lab->session('us');
	my $backend = $session->sql('SELECT pg_backend_pid()');
	my ($calls, @unknown) = 0;
	for my $function (@functions)
	{
		my ($name, @types) = split /;/, $function;
		next if $name =~ $except;
		push @unknown, grep { !$argument{$_} } @types;
		for my $values ([ map { $argument{$_} // 'NULL' } @types ], [ map { 'NULL::' . ($_ eq 'anyarray' ? 'integer[]' : $_) } @types ])
		{
			$session->send("SELECT mrsync.$name(" . join(', ', @$values) . ')');
			my $answer = $session->result;    # dies when the session does
			++$calls;
			fail("$name: $answer") if $answer =~ /ERROR:  XX|server closed|FATAL|PANIC/;
		}
	}
	is("@unknown", '', 'an argument for every type');
	is($session->sql('SELECT pg_backend_pid()'), $backend, "$calls calls of " . @functions . ' functions end no session');
	$session->close;
	is(us('SELECT pg_postmaster_start_time()'), $started, 'nor the server');
	us('TABLE mrsync.link_status');
	is(us('SELECT count(*) FROM mrsync.worker_status'), 0, 'the views can be read; there is no worker');
}
call_everything(qr/^$/);

# ---- all but the library

my ($preload, @others) = @missing;
restart_with(map { $_->[1] } @others);
refused($init, expected(@denied, $preload), 'what was added is missing no more: shared_preload_libraries alone is named');
refused("SELECT pg_create_logical_replication_slot('s', 'mrsync')", $unloaded, 'the output plugin says so, too');
is(us('SELECT count(*) FROM pg_replication_slots'), 0, 'and no slot is left');

# ---- the last line, and it works: a region, and no place for a second one

restart_with($preload->[1], 'mrsync.max_regions = 1');
is(us('SELECT missing FROM mrsync.settings_advice()'), '', 'nothing is missing any more');
refused('SELECT mrsync.current_hlc()', { state => '55000', message => 'this database is not an mrsync region', detail => '',
		hint => 'Call mrsync.region_init(region_id, kafka_brokers) first.' }, 'functions ask for a region now');
us($init);
my $running = "SELECT string_agg(worker || ' ' || state, ', ') FROM mrsync.worker_status";
$lab->wait_for('us', $running, 'coordinator running, extractor running');
pass('the database is a region, and its workers run');
us('CREATE DATABASE another');
us('CREATE EXTENSION mrsync', db => 'another');
refused("SELECT mrsync.region_init('another', '$broker', '$group')", { state => '53400', message => 'this server has no place for another mrsync region',
		detail => 'mrsync.max_regions is 1.', hint => 'Raise mrsync.max_regions in postgresql.conf and restart the server.' },
	'mrsync.max_regions is named', db => 'another');
is(us('SELECT count(*) FROM mrsync.region', db => 'another'), 0, 'nothing remains of the failed call: no region');
is(us("SELECT count(*) FROM pg_replication_slots WHERE database = 'another'"), 0, 'nor a slot, which would keep WAL for ever');

# ---- background workers run out: for the coordinator, for a second link

us("SELECT mrsync.table_add('t')");
us("SELECT mrsync.region_connect('p1'); SELECT mrsync.region_connect('p2'); SELECT mrsync.link_create('p1', 'us'); SELECT mrsync.link_create('p2', 'us')");
my $none_left = 'down: no background worker is left — Raise max_worker_processes in postgresql.conf and restart the server.';
utf8::decode($none_left);
restart_with('max_worker_processes = 2');    # PostgreSQL's own launcher, and mrsync's
$lab->wait_for('us', "SELECT state FROM mrsync.worker_status WHERE worker = 'coordinator'", $none_left);
pass('worker_status says why there is no coordinator');
restart_with('max_worker_processes = 5');
$lab->wait_for('us', "SELECT count(*) FROM mrsync.worker_status WHERE state = '$none_left'", 1);
is(us("SELECT worker FROM mrsync.worker_status WHERE state = '$none_left'"), 'applier', 'and why there is one applier, not two');
is(us("SELECT count(*) FROM mrsync.link_status WHERE state = '$none_left'"), 1, 'its link says so, too');
$lab->wait_for('us', 'SELECT count(*) FROM mrsync.worker_stat() WHERE running', 3);
pass('the others run');
$lab->wait_until('the log to name both', sub
{
	open my $log, '<', $lab->server_log('us') or die $!;
	return join('', grep { /no background worker is left/ && /LOG:/ } <$log>) =~ /mrsync us coordinator: .*mrsync us applier from p[12]: /s;
});
pass('and the log names both');
restart_with('max_worker_processes = 6');
$lab->wait_for('us', 'SELECT count(*) FROM mrsync.worker_stat() WHERE running', 4);
pass('with one more all run');

# ---- a region whose server is started without the library

restart_with("shared_preload_libraries = ''");
refused("SELECT $_", $unloaded, "in a region, too: $_") for 'mrsync.current_hlc()', 'mrsync.wait_for_peers()', 'mrsync.region_leave()', "mrsync.link_create('us', 'p1')";
refused("SELECT * FROM pg_logical_slot_peek_changes((SELECT slot_name FROM pg_replication_slots), NULL, NULL)", $unloaded,
	'its slot is not read without a word');
is(us('SELECT count(*) FROM mrsync.region WHERE is_local'), 1, 'it stays a region');
us("DELETE FROM t WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2; INSERT INTO t VALUES (4, 'd'); CREATE TABLE u (id int PRIMARY KEY); DROP TABLE u");
is(us('SELECT row_pk FROM mrsync.tombstone ORDER BY row_pk COLLATE "C"'), qq({"id":"1"}\n{"id":"2"}), 'deletes are remembered');
call_everything(qr/^(region_leave|table_remove)$/);
restart_with($preload->[1]);
$lab->wait_for('us', 'SELECT count(*) FROM mrsync.worker_stat() WHERE running', 4);
$lab->wait_for('us', "SELECT transactions > 0 FROM mrsync.worker_stat() WHERE kind = 'extractor'");
pass('with the library again it goes on, and sends what was written meanwhile');
is(log_trouble($lab, 'us'), '', 'nothing internal in the log');
done_testing;
