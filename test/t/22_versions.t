# A row's version, and the memory of a deleted one, survive whatever is done to the table between a write and a peer's late
# event: the decision is the one that would have been without it. Where the version is lost for good nothing is guessed.
#
# Proves I1 and I12 in the corners: rewrites of a table (another type of a column, a volatile default, another access
# method), also of partitions, in subtransactions that are rolled back, twice in one transaction, with writes before,
# between and after, or prepared and committed after a restart; VACUUM FULL, CLUSTER, VACUUM FREEZE; a peer's late
# TRUNCATE of such a table. DELETE through a leaf, UPDATE across partitions and of keys, MERGE, cascades, TRUNCATE …
# CASCADE, delete and insert again in one transaction; keys that are equal and look different. Commit timestamps that
# are gone, by track_commit_timestamp and by freezing: an event above the horizon wins, one at or below it is parked and
# says why, and ends by itself when the row is written. With mrsync.force_override off and on.
#
# A late event: the link from eu to us is paused, eu writes, us does what the test is about, the link is resumed.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(log_trouble);

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions, settings => { 'mrsync.apply_error_retry_interval' => '1s', 'autovacuum' => 'off', max_prepared_transactions => 10 });
$lab->everywhere('CREATE EXTENSION citext; CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler');
$lab->tables(<<'SQL', qw(t parted leafed keyed parent child num cit cut));
CREATE TABLE t (id integer PRIMARY KEY, v text, n integer DEFAULT 0, m integer DEFAULT 0);
CREATE TABLE parted (id integer PRIMARY KEY, v text, n integer DEFAULT 0, m integer DEFAULT 0) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (1000000);
CREATE TABLE leafed (id integer, kind integer, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE leafed_1 PARTITION OF leafed FOR VALUES IN (1);
CREATE TABLE leafed_2 PARTITION OF leafed FOR VALUES IN (2);
CREATE TABLE keyed (id integer PRIMARY KEY, v text);
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, v text, parent integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE num (id numeric PRIMARY KEY, v text, n integer DEFAULT 0);
CREATE TABLE cit (id citext PRIMARY KEY, v text, n integer DEFAULT 0);
CREATE TABLE cut (id integer PRIMARY KEY, v text, n integer DEFAULT 0);
SQL
$lab->drain;
$lab->keep_memory;    # versions are compared: a stamp that decides nothing any more would be forgotten in between

my $next = 0;
sub ids { my ($count) = @_; $next += $count; return $next - $count + 1 .. $next }
sub value { my ($region, $table, $id) = @_; return $lab->sql($region, "SELECT coalesce((SELECT v FROM $table WHERE id = $id), 'none')") }
sub stamp { my ($region, $table, $id) = @_; return $lab->sql($region, "SELECT (mrsync.row_version(tableoid, ctid, xmin)).hlc FROM $table WHERE id = $id") }
# Of these rows: values are as expected, and everywhere the same, with the same versions.
sub expect
{
	my ($name, $table, %expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$lab->resume('eu>us', 'us>eu');
	$lab->drain;
	my $ids = join ', ', sort { $a <=> $b } keys %expected;
	my $is = $lab->same("SELECT id, v FROM $table WHERE id IN ($ids) ORDER BY id", "$name: rows are equal");
	is $is, join("\n", map { "$_|$expected{$_}" } sort { $a <=> $b } grep { $expected{$_} ne 'none' } keys %expected), "$name: as without it";
	$lab->same("SELECT id, (mrsync.row_version(tableoid, ctid, xmin)).* FROM $table WHERE id IN ($ids) ORDER BY id", "$name: and so are versions");
}
sub apart { $lab->pause('eu>us', 'us>eu') }

# What is done in every region between the writes and the late event's arrival; it gives rows another xmin, or not.
my @types = ('bigint', 'numeric', 'integer');
my $column = 0;
my %between = (
	'a column of another type' => [ 1, sub { my ($t) = @_; push @types, shift @types; return "ALTER TABLE $t ALTER n TYPE $types[-1]" } ],
	'a volatile default' => [ 1, sub { my ($t) = @_; $column++; return "ALTER TABLE $t ADD c$column double precision DEFAULT random(); ALTER TABLE $t DROP c$column" } ],
	'another access method' => [ 1, sub { my ($t) = @_; $t = 'parted_low' if $t eq 'parted'; return "ALTER TABLE $t SET ACCESS METHOD heap2" }, sub { my ($t) = @_; $t = 'parted_low' if $t eq 'parted'; return "ALTER TABLE $t SET ACCESS METHOD heap" } ],
	'two rewrites in one transaction' => [ 1, sub { my ($t) = @_; return "BEGIN; ALTER TABLE $t ADD x double precision DEFAULT random(); SAVEPOINT a; ALTER TABLE $t ADD y double precision DEFAULT random(); RELEASE a; ALTER TABLE $t DROP x, DROP y; COMMIT" } ],
	'a rewrite that is rolled back' => [ 0, sub { my ($t) = @_; return "BEGIN; SAVEPOINT a; ALTER TABLE $t ADD x double precision DEFAULT random(); ROLLBACK TO a; COMMIT" } ],
	'rewrites of which one is rolled back' => [ 1, sub { my ($t) = @_; return "BEGIN; ALTER TABLE $t ADD x double precision DEFAULT random(); SAVEPOINT a; ALTER TABLE $t ADD y double precision DEFAULT random(); ROLLBACK TO a; ALTER TABLE $t DROP x; COMMIT" } ],
	'VACUUM FULL' => [ 0, sub { "VACUUM FULL $_[0]" } ],
	'VACUUM FREEZE' => [ 0, sub { "VACUUM FREEZE $_[0]" } ],
	'a rewrite, CLUSTER, and VACUUM FULL' => [ 1, sub { my ($t) = @_; my $leaf = $t eq 'parted' ? 'parted_low' : $t; return "ALTER TABLE $t ADD x double precision DEFAULT random(); ALTER TABLE $t DROP x; CLUSTER $leaf USING ${leaf}_pkey; VACUUM FULL $leaf" } ],
);

sub late_events
{
	my ($table, $name) = @_;
	my ($rewrites, $do, $undo) = @{ $between{$name} };
	my ($lose, $win, $lose_delete, $win_delete) = ids(4);
	$lab->sql('us', "INSERT INTO $table (id, v) VALUES " . join ', ', map { "($_, 'seed')" } $lose, $win, $lose_delete, $win_delete);
	$lab->drain('us');
	apart();
	$lab->sql('eu', "UPDATE $table SET v = 'late' WHERE id = $lose; DELETE FROM $table WHERE id = $lose_delete");
	$lab->sql('us', "UPDATE $table SET v = 'us' WHERE id IN ($lose, $lose_delete, $win, $win_delete)");
	$lab->sql('eu', "UPDATE $table SET v = 'eu' WHERE id = $win; DELETE FROM $table WHERE id = $win_delete");
	my $before = $lab->sql('us', "SELECT xmin FROM $table WHERE id = $win");
	$lab->everywhere($do->($table));
	my $after = $lab->sql('us', "SELECT xmin FROM $table WHERE id = $win");
	is $after ne $before ? 1 : 0, $rewrites, "$name of $table: " . ($rewrites ? 'rows have another xmin' : 'rows keep their xmin');
	expect("$name of $table", $table, $lose => 'us', $lose_delete => 'us', $win => 'eu', $win_delete => 'none');
	$lab->everywhere($undo->($table)) if $undo;
}

for my $force ($lab->part('late events') ? ('off', 'on') : ())
{
	$lab->everywhere("ALTER SYSTEM SET mrsync.force_override = $force; SELECT pg_reload_conf()");
	$lab->wait_for($_, 'SHOW mrsync.force_override', $force) for @regions;
	note "mrsync.force_override = $force";

	late_events('t', $_) for sort keys %between;
	late_events('parted', $_) for 'a column of another type', 'another access method', 'a rewrite, CLUSTER, and VACUUM FULL';

	# Writes of the very transaction that rewrites are new; what it did not write is as old as it was.
	my ($first, $second) = $force eq 'off' ? ('bigint', 'numeric') : ('bigint', 'integer');
	for my $table ('t', 'parted')
	{
		my @ids = ids(8);
		my ($before, $between, $after, $inserted, $nested, $untouched, $again, $undone) = @ids;
		$lab->sql('us', "INSERT INTO $table (id, v) VALUES " . join ', ', map { "($_, 'seed')" } grep { $_ != $inserted } @ids);
		$lab->drain('us');
		apart();
		$lab->sql('us', "UPDATE $table SET v = 'us' WHERE id IN ($untouched, $undone)");
		$lab->sql('eu', "UPDATE $table SET v = 'eu' WHERE id IN (" . join(', ', grep { $_ != $inserted } @ids) . "); INSERT INTO $table VALUES ($inserted, 'eu')");
		$lab->sql('us', <<"SQL");
BEGIN;
UPDATE $table SET v = 'new' WHERE id IN ($before, $again);
ALTER TABLE $table ALTER m TYPE $first;
UPDATE $table SET v = 'new' WHERE id = $between;
DELETE FROM $table WHERE id = $again;
INSERT INTO $table (id, v) VALUES ($again, 'new');
ALTER TABLE $table ALTER m TYPE $second;
SAVEPOINT a;
UPDATE $table SET v = 'new' WHERE id = $nested;
RELEASE a;
SAVEPOINT b;
UPDATE $table SET v = 'new' WHERE id = $undone;
ROLLBACK TO b;
UPDATE $table SET v = 'new' WHERE id = $after;
INSERT INTO $table (id, v) VALUES ($inserted, 'new');
COMMIT;
SQL
		expect("writes around rewrites of $table in one transaction", $table, (map { $_ => 'new' } $before, $between, $after, $inserted, $nested, $again), $untouched => 'eu', $undone => 'eu');
	}

	# The last statement of a multi-statement query, after a rewrite in it
	{
		my ($row) = ids(1);
		$lab->sql('us', "INSERT INTO t (id, v) VALUES ($row, 'seed')");
		$lab->drain('us');
		apart();
		$lab->sql('eu', "UPDATE t SET v = 'eu' WHERE id = $row");
		my $psql = join ' ', $lab->psql_command('us');
		system("$psql -c \"ALTER TABLE t ADD x double precision DEFAULT random(); ALTER TABLE t DROP x; UPDATE t SET v = 'new' WHERE id = $row\" >/dev/null") == 0 or die;
		expect('a rewrite and a write in one query', 't', $row => 'new');
	}

	# A peer's TRUNCATE comes late to a table that was rewritten.
	{
		my ($older, $newer, $newest) = ids(3);
		$lab->sql('us', "INSERT INTO cut (id, v) VALUES ($older, 'older')");
		$lab->drain('us');
		apart();
		$lab->sql('eu', 'TRUNCATE cut');
		$lab->sql('us', "INSERT INTO cut (id, v) VALUES ($newer, 'newer')");
		$lab->everywhere("ALTER TABLE cut ADD x double precision DEFAULT random(); ALTER TABLE cut DROP x");
		$lab->sql('us', "INSERT INTO cut (id, v) VALUES ($newest, 'newest')");
		expect('a late TRUNCATE of a rewritten table', 'cut', $older => 'none', $newer => 'newer', $newest => 'newest');
	}

	# Deleted in us in one way or other: a peer's late UPDATE does not bring the row back.
	my @gone = (
		[ 'DELETE through a leaf', 'leafed', "INSERT INTO leafed VALUES (%d, 1, 'seed')", 'DELETE FROM leafed_1 WHERE id = %d', 'none' ],
		[ 'UPDATE across partitions', 'leafed', "INSERT INTO leafed VALUES (%d, 1, 'seed')", 'UPDATE leafed SET kind = 2 WHERE id = %d', 'seed' ],
		[ 'UPDATE of the key', 'keyed', "INSERT INTO keyed VALUES (%d, 'seed')", 'UPDATE keyed SET id = -id WHERE id = %d', 'none' ],
		[ 'MERGE', 'keyed', "INSERT INTO keyed VALUES (%d, 'seed')", 'MERGE INTO keyed k USING (SELECT %d AS id) s ON k.id = s.id WHEN MATCHED THEN DELETE', 'none' ],
		[ 'a cascade', 'child', "INSERT INTO parent VALUES (%1\$d); INSERT INTO child VALUES (%1\$d, 'seed', %1\$d)", 'DELETE FROM parent WHERE id = %d', 'none' ],
		[ 'TRUNCATE … CASCADE', 'child', "INSERT INTO parent VALUES (%1\$d); INSERT INTO child VALUES (%1\$d, 'seed', %1\$d)", 'TRUNCATE parent CASCADE', 'none' ],
		[ 'DELETE and INSERT in one transaction', 'keyed', "INSERT INTO keyed VALUES (%d, 'seed')", "BEGIN; DELETE FROM keyed WHERE id = %1\$d; INSERT INTO keyed VALUES (%1\$d, 'again'); COMMIT", 'again' ],
		[ 'INSERT and DELETE in subtransactions', 'keyed', "INSERT INTO keyed VALUES (%d, 'seed')", "BEGIN; SAVEPOINT a; DELETE FROM keyed WHERE id = %1\$d; RELEASE a; SAVEPOINT b; INSERT INTO keyed VALUES (%1\$d, 'again'); ROLLBACK TO b; COMMIT", 'none' ],
	);
	for (@gone)
	{
		my ($name, $table, $insert, $delete, $remains) = @$_;
		my ($row) = ids(1);
		$lab->sql('us', sprintf $insert, $row);
		$lab->drain('us');
		apart();
		$lab->sql('eu', "UPDATE $table SET v = 'late' WHERE id = $row");
		$lab->sql('us', $delete =~ /%/ ? sprintf $delete, $row : $delete);
		expect($name, $table, $row => $remains);
	}

	# Keys that are equal and look different
	for ([ 'num', '1.0', '1.00', '1.000' ], [ 'cit', "'Key'", "'KEY'", "'key'" ])
	{
		my ($table, $one, $two, $three) = @$_;
		my $rows = "SELECT id, v FROM $table";
		$lab->sql('us', "DELETE FROM $table; INSERT INTO $table VALUES ($one, 'seed')");
		$lab->drain;
		apart();
		$lab->sql('eu', "UPDATE $table SET v = 'late' WHERE id = $two");
		$lab->sql('us', "DELETE FROM $table WHERE id = $three");
		$lab->resume('eu>us', 'us>eu');
		$lab->drain;
		is $lab->same($rows, "$table: a deletion under another spelling"), '', 'the row stays deleted';
		$lab->sql('us', "INSERT INTO $table VALUES ($one, 'seed')");
		$lab->drain;
		apart();
		$lab->sql('eu', "UPDATE $table SET id = $two, v = 'late' WHERE id = $one");
		$lab->sql('us', "UPDATE $table SET v = 'us' WHERE id = $three");
		$lab->everywhere("ALTER TABLE $table ADD x double precision DEFAULT random(); ALTER TABLE $table DROP x");
		$lab->resume('eu>us', 'us>eu');
		$lab->drain;
		is $lab->same("SELECT v FROM $table", "$table: a rewrite, and an event under another spelling"), 'us', 'the newer write stays';
		apart();
		$lab->sql('us', "UPDATE $table SET v = 'us' WHERE id = $three");
		$lab->sql('eu', "UPDATE $table SET v = 'eu' WHERE id = $two");
		$lab->everywhere("ALTER TABLE $table ADD x double precision DEFAULT random(); ALTER TABLE $table DROP x");
		$lab->resume('eu>us', 'us>eu');
		$lab->drain;
		is $lab->same("SELECT v FROM $table", "$table: the other way about"), 'eu', 'the newer event wins';
	}
}
$lab->everywhere('ALTER SYSTEM RESET mrsync.force_override; SELECT pg_reload_conf()');
$lab->wait_for($_, 'SHOW mrsync.force_override', 'off') for @regions;
$lab->healthy;

# A rewrite that is prepared before a restart and committed after it
if ($lab->part('late events'))
{
	my ($row) = ids(1);
	$lab->sql('us', "INSERT INTO t (id, v) VALUES ($row, 'seed')");
	$lab->drain('us');
	apart();
	$lab->sql('us', "UPDATE t SET v = 'us' WHERE id = $row");
	$lab->sql('eu', "UPDATE t SET v = 'eu' WHERE id = $row");
	$lab->sql('us', "BEGIN; SAVEPOINT a; ALTER TABLE t ADD x double precision DEFAULT random(); ALTER TABLE t DROP x; RELEASE a; PREPARE TRANSACTION 'rewrite'");
	$lab->stop('us');
	$lab->start('us');
	$lab->wait_for('us', "SELECT bool_or(running) FROM mrsync.worker_stat() WHERE kind = 'extractor'", 't');
	$lab->sql('us', "COMMIT PREPARED 'rewrite'");
	expect('a rewrite that is prepared before a restart', 't', $row => 'eu');
}

like +($lab->sql_try('us', 'ALTER TABLE t SET UNLOGGED'))[2], qr/ERROR:  42809:/, 'a replicated table stays logged';
like +($lab->sql_try('us', 'ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (n), ADD x double precision DEFAULT random()'))[2],
	qr/ERROR:  0A000:.*HINT:  Use two/s, 'another primary key is not made by a command that rewrites';

# ---------------------------------------------------------------------------------------------------------------------
# Lost for good
# ---------------------------------------------------------------------------------------------------------------------
my $parked = "SELECT string_agg(operation || ' ' || coalesce(row_pk ->> 'id', '*'), ', ' ORDER BY error_id) FROM mrsync.apply_error";
sub lost
{
	my ($how, $lose) = @_;
	my ($live, $gone, $above, $above_gone, $rewritten) = ids(5);
	my @all = ($live, $gone, $above, $above_gone, $rewritten);
	my $table = 'keyed';
	$lab->sql('us', "INSERT INTO $table VALUES " . join ', ', map { "($_, 'seed')" } @all);
	$lab->drain('us');
	apart();
	# no stamp is written down: right after a start the clock is ahead
	$lab->wait_for('us', 'SELECT mrsync.current_hlc()::timestamptz <= clock_timestamp()');
	# below the horizon: what is older than the write of which the stamp gets lost
	$lab->sql('eu', "UPDATE $table SET v = 'eu' WHERE id IN ($live, $gone, $rewritten)");
	$lab->sql('us', "UPDATE $table SET v = 'us' WHERE id IN ($live, $above, $rewritten); DELETE FROM $table WHERE id IN ($gone, $above_gone)");
	my $theirs = stamp('eu', $table, $live);
	my $xmin = $lab->sql('us', 'SELECT pg_current_xact_id()');    # above both transactions
	$lab->wait_for('us', "SELECT mrsync.max(hlc) > '$theirs' AND max(xid::text::bigint) > $xmin FROM mrsync.horizon");
	# above it: from a sample on
	$lab->sql('eu', "UPDATE $table SET v = 'eu' WHERE id IN ($above, $above_gone)");
	$lose->($live, $table);
	is $lab->sql('us', "SELECT pg_xact_commit_timestamp(xmin) IS NULL FROM $table WHERE id = $live"), 't', "$how: the commit timestamp is gone";
	like $lab->sql('us', "SELECT hlc > '$theirs', region_id IS NULL, exact FROM $table, mrsync.row_version(tableoid, ctid, xmin) WHERE id = $live"), qr/^t\|t\|f$/, 'row_version says what is known';
	$lab->sql('us', "ALTER TABLE $table ADD x double precision DEFAULT random(); ALTER TABLE $table DROP x") if $how =~ /rewrite/;
	$lab->resume('eu>us', 'us>eu');
	$lab->wait_for('us', "SELECT v FROM $table WHERE id = $above", 'eu');    # the others have come before it
	is $lab->sql('us', $parked), "UPDATE $live, UPDATE $gone, UPDATE $rewritten", "$how: what cannot be decided is parked";
	is value('us', $table, $above_gone), 'eu', "$how: what is above the horizon wins";
	is value('us', $table, $live) . ' ' . value('us', $table, $gone), 'us none', 'what is not is not decided';
	my $said = $lab->sql('us', "SELECT sqlstate || ': ' || message || ' - ' || detail || ' - ' || hint FROM mrsync.apply_error WHERE row_pk ->> 'id' = '$live'");
	like $said, qr/^55000: it is not known .* public\.$table is newer .*commit timestamp.*not newer than .*stamped \Q$theirs\E.*Write the row again/, 'the parked event says what is unknown and what to do';
	$lab->wait_for('us', "SELECT status FROM mrsync.replication_link WHERE source_region = 'eu' AND target_region = 'us'", 'degraded');
	# what it says helps
	$lab->sql('us', "UPDATE $table SET v = 'decided' WHERE id IN ($live, $rewritten); INSERT INTO $table VALUES ($gone, 'decided'); DELETE FROM $table WHERE id = $gone");
	$lab->wait_for('us', 'SELECT count(*) FROM mrsync.apply_error', 0);
	expect($how, $table, $live => 'decided', $rewritten => 'decided', $gone => 'none', $above => 'eu', $above_gone => 'eu');
}

sub track_off_and_on
{
	for my $on ('off', 'on')
	{
		$lab->sql('us', "ALTER SYSTEM SET track_commit_timestamp = $on");
		$lab->stop('us');
		$lab->start('us');
		next if $on eq 'on';
		$lab->wait_for('us', "SELECT bool_and(state LIKE 'down: track_commit_timestamp is off%') FROM mrsync.worker_status WHERE worker = 'applier' AND state <> 'paused'");
		pass('without commit timestamps nothing is applied, and the workers say why');
	}
}
sub freeze
{
	my ($row, $table) = @_;
	$lab->sql('us', 'UPDATE pg_database SET datallowconn = true', db => 'postgres');
	$lab->wait_until('the commit timestamps to be frozen away', sub
	{
		$lab->sql('us', 'VACUUM FREEZE', db => $_) for qw(template0 template1 postgres lab);
		return $lab->sql('us', "SELECT pg_xact_commit_timestamp(xmin) IS NULL FROM $table WHERE id = $row") eq 't';
	});
	$lab->sql('us', "UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'", db => 'postgres');
}
if ($lab->part('lost for good'))
{
	lost('track_commit_timestamp off and on', \&track_off_and_on);
	lost('the same, and a rewrite', \&track_off_and_on);
	lost('VACUUM FREEZE of all databases', \&freeze);
}

# A TRUNCATE that comes late to rows of unknown version waits, too, and no row goes before it is known.
if ($lab->part('a late TRUNCATE'))
{
	my ($row, $newer) = ids(2);
	$lab->sql('us', "INSERT INTO cut (id, v) VALUES ($row, 'us')");
	$lab->drain('us');
	apart();
	$lab->sql('eu', 'TRUNCATE cut');
	$lab->sql('us', "UPDATE cut SET v = 'us again' WHERE id = $row");
	my $at = $lab->sql('eu', 'SELECT mrsync.current_hlc()');
	$lab->wait_for('us', "SELECT mrsync.max(hlc) > '$at' FROM mrsync.horizon");
	track_off_and_on();
	$lab->resume('eu>us', 'us>eu');
	$lab->wait_for('us', $parked, 'TRUNCATE *');
	is value('us', 'cut', $row), 'us again', 'a late TRUNCATE of rows whose version is lost: nothing is deleted';
	$lab->sql('us', "UPDATE cut SET v = 'kept'");
	$lab->wait_for('us', 'SELECT count(*) FROM mrsync.apply_error', 0);
	expect('and when they were written again it goes by itself', 'cut', $row => 'kept');
}

# table_add takes a sample of the horizon, also where the coordinator took the same one after the transaction's snapshot.
if ($lab->part('one sample, twice'))
{
	my $oldest = $lab->session('us');
	my $xid = $oldest->sql('BEGIN; SELECT pg_current_xact_id()');
	my $adding = $lab->session('us');
	# its snapshot: that one is the oldest transaction, and the coordinator's sample is still to come
	$lab->wait_until('a snapshot from before the sample', sub
	{
		return 1 if $adding->sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_snapshot_xmin(pg_current_snapshot()) = '$xid' AND NOT EXISTS (SELECT FROM mrsync.horizon WHERE xid = '$xid')") eq 't';
		$adding->sql('ROLLBACK');
		$lab->sql('us', "DELETE FROM mrsync.horizon WHERE xid = '$xid'");
		return 0;
	});
	$lab->wait_for('us', "SELECT count(*) > 0 FROM mrsync.horizon WHERE xid = '$xid'");
	$adding->sql("CREATE TABLE twice (id integer PRIMARY KEY); SELECT mrsync.table_add('twice'); COMMIT");
	is $lab->sql('us', "SELECT count(*) FROM mrsync.horizon WHERE xid = '$xid'"), 2, 'both samples are there';
	$oldest->sql('COMMIT');
	$_->close for $oldest, $adding;
	$lab->sql($_, "CREATE TABLE twice (id integer PRIMARY KEY); SELECT mrsync.table_add('twice')") for qw(eu ap);
}

# Rows from before table_add are the common beginning, also where their commit timestamps are gone.
if ($lab->part('from before'))
{
	$lab->everywhere("CREATE TABLE loaded (id integer PRIMARY KEY, v text); INSERT INTO loaded SELECT i, 'loaded' FROM generate_series(1, 3) i");
	$lab->everywhere("SELECT mrsync.table_add('loaded')");
	track_off_and_on();
	$lab->sql('eu', "UPDATE loaded SET v = 'eu' WHERE id = 1; DELETE FROM loaded WHERE id = 2");
	$lab->drain;
	is $lab->same('SELECT * FROM loaded ORDER BY id', 'rows from before table_add whose commit timestamps are gone: equal'), "1|eu\n3|loaded", 'a peer\'s first write to them wins';
	is $lab->sql('us', "SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.loaded'"), 0, 'no conflict';
}
$lab->healthy;
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
