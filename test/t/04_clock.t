# Clocks that are minutes apart, that go back, that are wrong: who wrote after seeing, wins; nothing is stamped twice.
#
# Proves I5 (causality), I11 (local dominance) and the stories of docs/clock.md: a slow region's answer to a fast
# region's write is stamped above it; a server that comes back with its clock in the past goes on where its stamps ended,
# also after kill -9; a stamp beyond mrsync.max_clock_skew is waited for in front of the link, neither adopted nor applied;
# the version of a row is found where it is not its commit timestamp, subtransactions and foreign origins included.
#
# Nothing here depends on how long anything takes: clocks are shifted by minutes against true time.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions, settings => { 'mrsync.max_clock_skew' => '1800' });
$lab->keep_memory;    # stamps are read from mrsync.hlc_override
$lab->tables(<<'SQL', qw(note nested));
CREATE TABLE note (id integer PRIMARY KEY, v text);
CREATE TABLE nested (id integer PRIMARY KEY, v text);
CREATE TABLE counted (i integer);
SQL
$lab->drain;

# A stamp is text that sorts.
my $stamp_of = 'coalesce((SELECT o.hlc FROM mrsync.hlc_override o WHERE o.xid::xid = t.xmin), pg_xact_commit_timestamp(t.xmin)::mrsync.hlc)';
sub stamp { my ($region, $id, $table) = @_; return $lab->sql($region, "SELECT $stamp_of FROM " . ($table // 'note') . " t WHERE id = $id") }
sub hlc { return $lab->sql($_[0], 'SELECT mrsync.current_hlc()') }
sub physical { return $lab->sql($_[0], 'SELECT clock_timestamp()::mrsync.hlc') }
sub see { my ($region, $id, $v) = @_; return $lab->wait_for($region, "SELECT coalesce((SELECT v FROM note WHERE id = $id), 'none')", $v) }
sub conflicts { return join ' ', map { $lab->sql($_, 'SELECT count(*) FROM mrsync.conflict_log') } @regions }
sub equal
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$lab->drain;
	return $lab->same("SELECT t.id, t.v, $stamp_of FROM note t ORDER BY id", "$what: rows and versions are equal");
}

is $lab->sql('us', "SELECT bool_and(h >= before) FROM (SELECT h, lag(h) OVER (ORDER BY i) AS before FROM (SELECT i, mrsync.current_hlc() AS h FROM generate_series(1, 10000) i) a) b WHERE before IS NOT NULL"), 't', 'current_hlc() does not go back';

# ---------------------------------------------------------------------------------------------------------------------
# Ten minutes between two regions
# ---------------------------------------------------------------------------------------------------------------------
$lab->clock('eu', -300);
$lab->clock('ap', +300);
cmp_ok $lab->sql('ap', "SELECT extract(epoch FROM clock_timestamp() - '" . physical('eu') . "'::timestamptz)"), '>=', 595, 'ap is ten minutes ahead of eu';
is $lab->sql($_->[0], "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '%mrsync%' AND backend_start $_->[1] '" . physical('us') . "'::timestamptz $_->[2]"), 0, "$_->[0]: workers, too"
	for [ 'eu', '>', "- interval '100 s'" ], [ 'ap', '<', "+ interval '100 s'" ];

$lab->sql('ap', "INSERT INTO note VALUES (1, 'ap')");
see('eu', 1, 'ap');
$lab->sql('eu', "UPDATE note SET v = 'eu saw ap' WHERE id = 1");
see($_, 1, 'eu saw ap') for @regions;
$lab->drain('ap');    # us has ap's row itself, too: a DELETE before that comes is in conflict with it
# Anybody may ask the clock, in a loop as well: one that is ahead of time is not pushed further by that.
cmp_ok $lab->sql('eu', 'SELECT mrsync.max(h)::bigint - mrsync.min(h)::bigint FROM (SELECT mrsync.current_hlc() AS h FROM generate_series(1, 100000)) a'), '<', 1000, 'current_hlc() does not push a clock that is ahead of time';
cmp_ok stamp('eu', 1), 'gt', physical('us'), 'the answer of a slow region is stamped above what it answers';
is $lab->sql('eu', "SELECT pg_xact_commit_timestamp(xmin) < '" . physical('us') . "'::timestamptz - interval '200 s' FROM note WHERE id = 1"), 't', 'though its commit timestamp is minutes older';
$lab->sql('us', "DELETE FROM note WHERE id = 1");
$lab->wait_for($_, 'SELECT count(*) FROM note', 0) for @regions;
$lab->sql('eu', "INSERT INTO note VALUES (1, 'again')");
see($_, 1, 'again') for @regions;
for my $round (1 .. 30)
{
	my ($a, $b) = shuffle @regions;
	my $id = 10 + $round % 5;
	$lab->sql($a, "INSERT INTO note VALUES ($id, '$round by $a') ON CONFLICT (id) DO UPDATE SET v = excluded.v");
	see($b, $id, "$round by $a");
	$lab->sql($b, $round % 3 ? "UPDATE note SET v = '$round answered by $b' WHERE id = $id" : "UPDATE note SET id = id WHERE id = $id; DELETE FROM note WHERE id = $id; INSERT INTO note VALUES ($id, '$round answered by $b')");
	see($_, $id, "$round answered by $b") for @regions;
	$lab->drain($a);    # and the question, for whoever writes the row next
}
equal('thirty questions and answers');
is conflicts(), '0 0 0', 'no conflict among them';

# Not seen: the clocks decide, everywhere the same
$lab->pause;
$lab->sql('ap', "UPDATE note SET v = 'fast' WHERE id IN (10, 11)");
$lab->sql('us', "UPDATE note SET v = 'true' WHERE id IN (10, 12)");
$lab->sql('eu', "UPDATE note SET v = 'slow' WHERE id IN (11, 12)");
my %of = (10 => { map { $_ => stamp($_, 10) } 'ap', 'us' }, 11 => { map { $_ => stamp($_, 11) } 'ap', 'eu' }, 12 => { map { $_ => stamp($_, 12) } 'us', 'eu' });
$lab->resume;
equal('concurrent writes');
for my $id (sort keys %of)
{
	my ($winner) = sort { $of{$id}{$b} cmp $of{$id}{$a} || $b cmp $a } keys %{ $of{$id} };
	is $lab->sql('us', "SELECT v FROM note WHERE id = $id"), { ap => 'fast', us => 'true', eu => 'slow' }->{$winner}, "the higher stamp of row $id has won, of $winner";
}

# ---------------------------------------------------------------------------------------------------------------------
# Back in time
# ---------------------------------------------------------------------------------------------------------------------
sub restart_back
{
	my ($region, $shift, $how) = @_;
	my $id = 100 + int rand 1e6;
	my ($other) = grep { $_ ne $region } @regions;
	$lab->sql($other, "INSERT INTO note VALUES ($id, 'seen')");
	see($region, $id, 'seen');
	$lab->sql($region, "INSERT INTO note VALUES (-$id, 'mine')");
	my ($clock, $seen, $mine) = (hlc($region), stamp($region, $id), stamp($region, -$id));
	$lab->kill9($region) if $how eq 'kill -9';
	$lab->clock($region, $shift);
	my $after = hlc($region);
	cmp_ok $after, 'gt', $clock, "$how of $region, its clock at $shift s: current_hlc() goes on above";
	cmp_ok physical($region), 'lt', $clock, 'though time is behind' if $shift < 0;
	$lab->sql($region, "UPDATE note SET v = 'after the restart' WHERE abs(id) = $id");
	cmp_ok stamp($region, $id), 'gt', $seen, 'a write after it is above what was seen before it';
	cmp_ok stamp($region, -$id), 'gt', $mine, 'and above its own';
	for my $r (@regions)
	{
		see($r, $_, 'after the restart') for $id, -$id;
	}
	pass('and wins everywhere');
	return $id;
}
restart_back('us', -600, 'restart');
restart_back('us', -700, 'kill -9');
restart_back('us', 0, 'restart');
restart_back('eu', -900, 'kill -9');
restart_back('eu', -300, 'restart');
restart_back('ap', 0, 'restart');
restart_back('ap', -250, 'kill -9');
restart_back('ap', 300, 'restart');
equal('eight restarts');
{
	# The ceiling holds what was promised a moment before the crash, without a write and without a checkpoint.
	my @before = map { hlc('eu') } 1 .. 200;
	my $last = hlc('eu');
	$lab->kill9('eu');
	$lab->start('eu');
	my $first = $lab->sql('eu', "INSERT INTO note VALUES (50, 'first after the crash') RETURNING mrsync.current_hlc()");
	cmp_ok $first, 'gt', $last, 'kill -9 right after a stamp: the next one is above';
	cmp_ok stamp('eu', 50), 'gt', $last, 'also that of the first transaction, which no worker has prepared';
	cmp_ok +(sort @before)[-1], 'eq', $before[-1], 'they had not gone back';
}
equal('another crash');

# ---------------------------------------------------------------------------------------------------------------------
# Versions that are not commit timestamps. eu is minutes slow and has adopted the stamps of ap: it writes overrides.
# ---------------------------------------------------------------------------------------------------------------------
my %nested = (
	1 => "SAVEPOINT a; UPDATE nested SET v = 'eu' WHERE id = 1; RELEASE a",
	2 => "SAVEPOINT a; UPDATE nested SET v = 'lost' WHERE id = 2; ROLLBACK TO a; UPDATE nested SET v = 'eu' WHERE id = 2",
	3 => "SAVEPOINT a; SAVEPOINT b; SAVEPOINT c; UPDATE nested SET v = 'eu' WHERE id = 3; RELEASE c; RELEASE a",
	4 => "DO \$\$ BEGIN BEGIN UPDATE nested SET v = 'eu' WHERE id = 4; RAISE 'no'; EXCEPTION WHEN raise_exception THEN UPDATE nested SET v = 'eu' WHERE id = 4; END; END \$\$",
	5 => join('; ', map { "SAVEPOINT s$_; UPDATE nested SET v = 'eu' WHERE id = 5" } 1 .. 100),    # more than a backend shows
	6 => "UPDATE nested SET v = 'eu' WHERE id = 6",
	7 => "SAVEPOINT a; DELETE FROM nested WHERE id = 7; RELEASE a",
	8 => "SAVEPOINT a; UPDATE nested SET id = 80, v = 'eu' WHERE id = 8; RELEASE a",
);
for my $restart (0, 1)
{
	my $how = $restart ? ', after a restart' : '';
	$lab->sql('ap', "DELETE FROM nested; INSERT INTO nested SELECT i, 'seed' FROM generate_series(1, 8) i");
	$lab->drain;
	$lab->pause;
	my $top = join "\n", map { "BEGIN; $nested{$_}; SELECT pg_current_xact_id(); COMMIT;" } sort keys %nested;
	$lab->sql('us', "UPDATE nested SET v = 'us'; UPDATE nested SET v = 'us once more'");
	# both clocks are ahead of time, where they only count: eu's is made to have counted further
	$lab->sql('eu', "SET synchronous_commit = off; DO \$\$ BEGIN FOR i IN 1 .. 3000 LOOP INSERT INTO counted VALUES (i); COMMIT; END LOOP; END \$\$");
	my %xid;
	@xid{ sort keys %nested } = split /\n/, $lab->sql('eu', $top);
	if ($restart)
	{
		$lab->kill9('eu');
		$lab->start('eu');
	}
	is $lab->sql('eu', "SELECT count(*) FROM nested t WHERE id IN (1, 2, 3, 5, 80) AND EXISTS (SELECT FROM mrsync.hlc_override o WHERE o.xid::xid = t.xmin) AND xmin::text NOT IN (" . join(', ', map { "'$_'" } values %xid) . ')'),
		5, "rows of subtransactions have their stamp$how";
	cmp_ok stamp('us', 1, 'nested'), 'gt', $lab->sql('eu', 'SELECT pg_xact_commit_timestamp(xmin)::mrsync.hlc FROM nested WHERE id = 1'), 'the commit timestamp alone would say that us was later';
	$lab->resume(shuffle $lab->links);
	$lab->drain;
	is $lab->same("SELECT id, v FROM nested ORDER BY id", "us wrote before, by true time after: equal$how"), join("\n", (map { "$_|eu" } 1 .. 6), '80|eu'), 'eu has won, whose stamps are above';
	is $lab->sql('eu', "SELECT count(DISTINCT row_pk) FROM mrsync.conflict_log WHERE table_name = 'public.nested' AND (row_pk ->> 'id')::integer <= 8 AND region_a = 'us' AND winner_region = 'eu'"), 8, "each as a conflict that us has lost$how";
	$lab->everywhere('TRUNCATE mrsync.conflict_log');
}

# A transaction of another replication tool carries a timestamp of somebody else's.
$lab->sql('us', <<'SQL');
INSERT INTO note VALUES (60, 'seed'), (61, 'seed');
SELECT pg_replication_origin_create('another tool');
SELECT pg_replication_origin_session_setup('another tool');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/100', '2001-01-01 00:00:00+00');
UPDATE note SET v = 'of another tool' WHERE id = 60;
COMMIT;
BEGIN;
SELECT pg_replication_origin_xact_setup('0/200', '2100-01-01 00:00:00+00');
SAVEPOINT a;
UPDATE note SET v = 'of another tool' WHERE id = 61;
COMMIT;
SQL
see($_, 60, 'of another tool') for @regions;
see($_, 61, 'of another tool') for @regions;
is $lab->sql('us', "SELECT string_agg(extract(year FROM pg_xact_commit_timestamp(xmin))::text, ' ' ORDER BY id) FROM note WHERE id IN (60, 61)"), '2001 2100', "another tool's transactions";
my $now = hlc('us');
cmp_ok stamp('us', $_), 'le', $now, "have a stamp of now: row $_" for 60, 61;
$lab->sql('eu', "UPDATE note SET v = 'answered' WHERE id IN (60, 61)");
see($_, 61, 'answered') for @regions;
equal('a foreign origin');
is $lab->sql('us', "SELECT count(*) FROM mrsync.conflict_log WHERE row_pk ->> 'id' IN ('60', '61')"), 0, 'and are written here, not received';

# ---------------------------------------------------------------------------------------------------------------------
# Too far ahead
# ---------------------------------------------------------------------------------------------------------------------
my $limit = sub { $lab->sql('eu', "ALTER SYSTEM SET mrsync.max_clock_skew = $_[0]; SELECT pg_reload_conf()"); };
my $state = "SELECT state FROM mrsync.link_status WHERE source_region = 'ap' AND target_region = 'eu'";
my $waiting = sub
{
	my $is;
	$lab->wait_until('eu to wait for its clock', sub { ($is = $lab->sql('eu', $state)) =~ /ahead/ });
	return $is;
};
$lab->sql('ap', "INSERT INTO note VALUES (70, 'seed'), (71, 'seed')");
$lab->drain;
my $pid = $lab->sql('eu', "SELECT pid FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'ap'");
$limit->(60);
$lab->wait_for('eu', 'SHOW mrsync.max_clock_skew', '1min');
$lab->sql('ap', "UPDATE note SET v = 'too early' WHERE id IN (70, 71)");
my $said = $waiting->();
$lab->wait_for('eu', "SELECT lag > interval '2 s' FROM mrsync.link_status WHERE source_region = 'ap' AND direction = 'incoming'", 't');
pass 'the link has a lag meanwhile';
like $said, qr/^waiting: the next transaction is stamped \d+ s ahead of this server's clock \(mrsync\.max_clock_skew is 60 s\)$/, 'a stamp beyond max_clock_skew: the link says what it waits for';
like $lab->sql('eu', "SELECT state FROM mrsync.worker_status WHERE worker = 'applier' AND source_region = 'ap'"), qr/^waiting: .*max_clock_skew/, 'and so does the worker';
see('us', 70, 'too early');
is $lab->sql('eu', 'SELECT v FROM note WHERE id = 70'), 'seed', 'it is not applied';
cmp_ok hlc('eu'), 'lt', stamp('ap', 70), 'nor adopted';
my $told;
$lab->wait_until('what ap has committed to be sent', sub { $told = ($lab->sql_try('ap', "SELECT mrsync.wait_for_peers('1 s')"))[2]; $told !~ /has not sent everything yet/ });
like $told, qr/ERROR:  55P03:.*\beu\b/s, 'whoever waits for eu is told so';
$lab->sql('us', "INSERT INTO note VALUES (72, 'from us')");
$lab->sql('eu', "UPDATE note SET v = 'eu did not know' WHERE id = 71");
$lab->wait_for('us', 'SELECT count(*) FROM mrsync.conflict_log WHERE row_pk ->> \'id\' = \'71\'', 1);
is $lab->sql('us', 'SELECT v FROM note WHERE id = 71'), 'too early', 'a write of eu meanwhile loses elsewhere';
# us itself has adopted ap's stamps, so that what it writes is too far ahead, too
$lab->sql('eu', "SELECT mrsync.link_pause(link_id) FROM mrsync.replication_link WHERE source_region = 'ap' AND target_region = 'eu'");
$lab->wait_for('eu', "SELECT NOT running FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'ap'");
pass('a link that waits can be paused');
$lab->resume('ap>eu');
$waiting->();
$pid = $lab->sql('eu', "SELECT pid FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'ap'");

# As much as is missing for some seconds: then time has caught up, and it goes on without being told.
my ($ahead) = $waiting->() =~ /stamped (\d+) s ahead/;
$limit->($ahead - 4);
see('eu', 70, 'too early');
see('eu', 71, 'too early');
pass('time has caught up: it is applied');

$limit->(60);
$lab->wait_for('eu', 'SHOW mrsync.max_clock_skew', '1min');
$lab->sql('ap', "UPDATE note SET v = 'early again' WHERE id = 70");
$waiting->();
is $lab->sql('eu', 'SELECT v FROM note WHERE id = 70'), 'too early', 'the next one waits again';
$limit->(1800);
see('eu', 70, 'early again');
is $lab->sql('eu', "SELECT pid FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'ap'"), $pid, 'the limit is raised: the same worker goes on';
$lab->sql('eu', "UPDATE note SET v = 'eu knows' WHERE id = 70");
see($_, 70, 'eu knows') for @regions;
see('eu', 72, 'from us');
equal('after all that');
$lab->wait_for('eu', $state, 'streaming');
$lab->healthy;

# ---------------------------------------------------------------------------------------------------------------------
# And back to the truth: clocks that were ahead go back by minutes
# ---------------------------------------------------------------------------------------------------------------------
my %before = map { $_ => hlc($_) } @regions;
$lab->clock($_, 0) for 'eu', 'ap';
cmp_ok hlc($_), 'gt', $before{$_}, "true time again: $_ goes on above" for @regions;
for my $region (@regions)
{
	$lab->sql($region, "UPDATE note SET v = v || ' $region' WHERE id = 70");
	my $v = $lab->sql($region, 'SELECT v FROM note WHERE id = 70');
	see($_, 70, $v) for @regions;
}
like equal('true time again'), qr/^70\|eu knows us eu ap\|/m, 'each write after the other';
done_testing;
