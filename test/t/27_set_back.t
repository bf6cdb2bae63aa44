# A region that is set back: restored from a base backup, or a physical standby of it promoted that had not received the last
# commits, while all of them are in its topic, and have been applied by the others.
#
# Proves I1 and I2 there: the region takes back what its topic holds and its database lacks, once; what it commits from then on
# arrives, whatever position of the WAL it has; and what it committed before it was found out, too.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state kill9 log_trouble);

my $lab = Mrsync::Lab->up(own_broker => 1, settings => { max_prepared_transactions => 5 });
my @regions = $lab->regions;

sub us { return $lab->sql('us', $_[0]) }
sub log_of { my ($region) = @_; open my $log, '<', $lab->server_log($region) or die; local $/; return scalar <$log> }
sub recoveries { return us('SELECT count(*) FROM mrsync.recovery') }
sub caught_up
{
	my ($region, $count) = @_;
	$lab->wait_for($region, 'SELECT count(*) FROM mrsync.recovery WHERE finished_at IS NOT NULL', $count);
	$lab->wait_for($region, 'SELECT count(*) FROM mrsync.recovery WHERE finished_at IS NULL OR note IS NOT NULL', 0);
	$lab->drain;
}
sub same_everywhere
{
	my ($name) = @_;
	$lab->same('SELECT * FROM t ORDER BY id', "$name: the rows");
	is($lab->sql($_, 'SELECT conflict_type, row_pk, region_a, hlc_a, region_b, hlc_b, image_a, image_b FROM mrsync.conflict_log'), '', "no conflict in $_") for @regions;
	$lab->healthy;
}

# Whatever is written in a region, by whomever, is counted there: id and value.
$lab->tables(<<'', 't');
	CREATE TABLE t (id int PRIMARY KEY, v text, by text);
	CREATE TABLE marks (id int, v text, op text);
	CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.marks VALUES (coalesce(new.id, old.id), new.v, tg_op); RETURN NULL; END $$;
	CREATE TRIGGER mark AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION mark();
	ALTER TABLE t ENABLE ALWAYS TRIGGER mark;

sub once
{
	my ($name) = @_;
	is($lab->sql($_, 'SELECT id, v, op, count(*) FROM marks GROUP BY id, v, op HAVING count(*) > 1 ORDER BY 1, 2'), '', "$name: nothing twice in $_") for @regions;
}

# Round by round: every kind of change, by each region on its own rows and then by the next one on the same, one after the other.
my $round = 0;
sub before    # rows that are to be changed later
{
	$round++;
	my $base = $round * 1000;
	$lab->sql($_, "INSERT INTO t SELECT $base + i, 'first', '$_' FROM generate_series(" . { us => 1, eu => 101, ap => 201 }->{$_} . ', ' . { us => 40, eu => 140, ap => 240 }->{$_} . ') i') for @regions;
	$lab->drain;
}
sub change    # what will be lost in us
{
	my $base = $round * 1000;
	us("UPDATE t SET v = 'second' WHERE id BETWEEN $base + 1 AND $base + 10");
	us("DELETE FROM t WHERE id BETWEEN $base + 11 AND $base + 20");
	us("INSERT INTO t SELECT $base + i, 'new', 'us' FROM generate_series(301, 340) i");
	us("DELETE FROM t WHERE id = $base + 21; INSERT INTO t VALUES ($base + 21, 'again', 'us')");
	us("UPDATE t SET id = id + 400 WHERE id = $base + 22");
	us("INSERT INTO t VALUES ($base + 500, 'short', 'us')");
	us("DELETE FROM t WHERE id = $base + 500");
	us("BEGIN; INSERT INTO t VALUES ($base + 501, 'sub', 'us'); SAVEPOINT s; UPDATE t SET v = 'sub 2' WHERE id = $base + 23; COMMIT");
	$lab->drain;
	$lab->sql('eu', "UPDATE t SET v = 'eu after us' WHERE id IN ($base + 1, $base + 24, $base + 301)");
	$lab->sql('ap', "DELETE FROM t WHERE id IN ($base + 2, $base + 302, $base + 101)");
	$lab->drain;
	us("UPDATE t SET v = 'us after eu' WHERE id IN ($base + 24, $base + 102)");
	$lab->drain;
}
sub after    # at once, before us can have found out
{
	my $base = $round * 1000;
	us("INSERT INTO t SELECT $base + i, 'after', 'us' FROM generate_series(601, 640) i");
	us("UPDATE t SET v = 'after' WHERE id = $base + 30; DELETE FROM t WHERE id = $base + 31");
}

# ---- a base backup; the server's timeline stays

before();
$lab->lab('backup', 'us');
change();
us("INSERT INTO t VALUES ($_, 'far on in the WAL', 'us')"), us('SELECT pg_switch_wal()') for 1701 .. 1704;    # beyond where the restored server goes on
$lab->drain;
my $lost = us('SELECT string_agg(format(\'%s %s\', id, v), \', \' ORDER BY id) FROM t');
$lab->lab('restore', 'us');
after();
caught_up('us', 1);
same_everywhere('restored from a base backup');
is(us("SELECT string_agg(format('%s %s', id, v), ', ' ORDER BY id) FROM t WHERE v <> 'after'"),
	join(', ', grep { !/^103[01] / } split /, /, $lost), 'all that was lost is back');
once('restored');
like(log_of('us'), qr/this region was set back: its topics hold transaction \d+, which it does not have/, 'the log says so');
is(us('SELECT number_shift FROM mrsync.recovery'), 1, 'sequences go on under another number');
us("INSERT INTO t VALUES (0, 'and on', 'us')");
$lab->drain;
$lab->same('SELECT * FROM t WHERE id = 0', 'and on');
is(us("SELECT count(*) FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'us' AND running"), 0, 'nobody reads the own topic any more');

# ---- from the same backup again: what the topic had not got between, was sent again, and counts as taken back

us("UPDATE t SET v = 'after the first' WHERE id = 1032");
$lab->drain;
$lab->lab('restore', 'us');
us("UPDATE t SET v = 'after the second' WHERE id = 1033");
caught_up('us', 1);
same_everywhere('restored again from the same backup');
is(us("SELECT string_agg(v, ', ' ORDER BY id) FROM t WHERE id IN (0, 1030, 1032, 1033)"), 'and on, after, after the first, after the second', 'with all that was committed in between');

# ---- prepared transactions in the backup: the new slot waits for them, and what is sent again waits for the slot; before it,
# it would be in no topic

before();
us("BEGIN; UPDATE t SET v = 'prepared' WHERE id IN (2032, 2033); PREPARE TRANSACTION 'to be committed'");
us("BEGIN; UPDATE t SET v = 'never' WHERE id = 2034; PREPARE TRANSACTION 'undecided'");
$lab->lab('backup', 'us');
us("COMMIT PREPARED 'to be committed'");
us("UPDATE t SET v = 'after prepared' WHERE id = 2032");
change();
$lab->lab('restore', 'us');
after();
$lab->wait_until('the extractor to wait for them', sub { worker_state($lab, 'us', 'extractor') =~ /is being made anew, .*prepared ones included/ });
us("ROLLBACK PREPARED 'to be committed'");
$lab->wait_for('us', 'SELECT taken_back_at IS NOT NULL FROM mrsync.recovery ORDER BY recovery_id DESC LIMIT 1');
is($lab->sql('us', "SELECT string_agg(v, ', ' ORDER BY id) FROM t WHERE id IN (2032, 2033)"), 'after prepared, prepared', 'what had been prepared and then committed is back');
$lab->wait_until('the applier to wait for the slot, or to pass it', sub { worker_state($lab, 'us', 'applier', 'us') !~ /^waiting: takes back/ });
is(us('SELECT resent_at FROM mrsync.recovery ORDER BY recovery_id DESC LIMIT 1'), '', 'nothing is sent again before the slot is there');
us("ROLLBACK PREPARED 'undecided'");
caught_up('us', 2);
same_everywhere('restored with prepared transactions');
once('restored with prepared transactions');
$lab->wait_for('us', "SELECT count(*) FROM mrsync.worker_status WHERE state LIKE 'waiting: no answer from the broker%'", 0);
is(us("SELECT count(*) FROM mrsync.worker_status WHERE state !~ '^(running|catching up)'"), 0, 'no worker is shown that is not to run');

# ---- once more, and the WAL outgrows the positions that were sent before anybody can look: the broker is away

before();
$lab->lab('backup', 'us');
change();
my $sent = us("SELECT sequence & ((1::bigint << 48) - 1) FROM mrsync.extractor_position");
$lab->kafka('stop');
$lab->lab('restore', 'us');
$lab->wait_until('the extractor to say what it waits for', sub { worker_state($lab, 'us', 'extractor') =~ /the broker does not say/ });
like(worker_state($lab, 'us', 'extractor'), qr/^degraded: replication slot "mrsync_\d+" does not exist; what is to be done hangs on what the region's topics hold/, 'without the broker nothing is decided');
after();
us("INSERT INTO t SELECT 100000 + i, repeat('x', 1000), 'us' FROM generate_series(1, 100) i ON CONFLICT (id) DO UPDATE SET v = excluded.v; SELECT pg_switch_wal()")
	until us("SELECT pg_current_wal_insert_lsn() - '0/0'") > $sent || $round > 50;
us('DELETE FROM t WHERE id > 100000; SELECT pg_switch_wal()') for 1 .. 2;
cmp_ok(us("SELECT pg_current_wal_insert_lsn() - '0/0'"), '>', $sent, 'the WAL has grown beyond what was sent');
$lab->kafka('start');
# and it dies on the way
sub restarts { my $times = () = log_of('us') =~ /all server processes terminated; reinitializing/g; return $times }
for (1 .. 3)
{
	my $restarts = restarts();
	$lab->wait_until('a worker to kill', sub { my $pid = worker_pid($lab, 'us', $_ == 1 ? 'extractor' : 'applier', $_ == 1 ? undef : 'eu'); $pid && kill9($lab, 'us', $pid) });
	$lab->wait_until('us to notice', sub { restarts() > $restarts });
	$lab->wait_until('us to be back', sub { ($lab->sql_try('us', 'SELECT 1'))[0] == 0 });
}
caught_up('us', 3);
same_everywhere('restored while the broker was away');
once('restored again');

# ---- a standby that has not received the last commits

sub standby
{
	my ($sql) = @_;
	my @command = $lab->psql_command('us');
	s/^\d+$/$lab->state('region\/us\/standby.port')/e for @command;
	open my $psql, '-|', @command, '-c', $sql or die "psql: $!";
	chomp(my $said = do { local $/; <$psql> } // '');
	return $said;
}
sub received
{
	my $lsn = us('SELECT pg_current_wal_lsn()');
	$lab->wait_until('the standby to have it', sub { standby("SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' });
}
sub cut
{
	received();
	standby("ALTER SYSTEM SET primary_conninfo = ''");
	standby('SELECT pg_reload_conf()');
	$lab->wait_until('the standby to be cut off', sub { standby('SELECT count(*) FROM pg_stat_wal_receiver') eq '0' });
}

before();
$lab->lab('standby', 'us');
cut();
change();
$lab->lab('promote', 'us');
after();
caught_up('us', 4);
same_everywhere('promoted');
once('promoted');

# ---- a switchover: the standby has everything; only the slot is gone

before();
$lab->lab('standby', 'us');
change();
received();
$lab->lab('promote', 'us');
after();
caught_up('us', 5);
same_everywhere('switched over');
once('switched over');

# ---- two servers at the same time: nobody follows the one that is left behind, and it says so. It goes on when it is started anew, be
# it that it then opens the very incarnation that the other one had

us('UPDATE mrsync.extractor_position SET incarnation = incarnation + 1000000000');    # ahead of time: the next ones come one by one
before();
$lab->lab('standby', 'us');
received();
standby('SELECT pg_promote()');
$lab->wait_until('the promoted one to have caught up', sub { standby('SELECT count(*) FROM mrsync.recovery WHERE finished_at IS NOT NULL') eq '6' });
standby("INSERT INTO t VALUES (-1, 'of the promoted one', 'us')");
$lab->wait_for('eu', 'SELECT count(*) FROM t WHERE id = -1', 1);
us("INSERT INTO t VALUES (-2, 'of the one left behind', 'us')");
$lab->wait_for('us', "SELECT bool_and(state ~ '^degraded: extractor: another server sends in this one''s place: region (eu|ap) has applied') FROM mrsync.link_status WHERE direction = 'outgoing'");
my ($code, undef, $error) = $lab->sql_try('us', "SELECT mrsync.wait_for_peers('60 s')");
like($error, qr/55000: peers have not applied everything\nDETAIL:  Another server sends in this one's place/, 'nobody is told that peers have what they do not have');
is($lab->sql('eu', 'SELECT count(*) FROM t WHERE id = -2'), 0, 'for nobody follows it');
# It promises, all the same, to be past it: what it sends again later may not be left out for that.
$lab->wait_for('us', "SELECT h.watermark OPERATOR(mrsync.>) (mrsync.row_version(t.tableoid, t.ctid, t.xmin)).hlc FROM t, mrsync.heartbeat h WHERE t.id = -2 AND h.region_id = 'us'");
us('UPDATE mrsync.extractor_position SET incarnation = ' . standby('SELECT incarnation - 1 FROM mrsync.extractor_position'));
kill 'INT', $lab->state('region/us/standby/postmaster.pid');
$lab->wait_until('the promoted one to be gone', sub { !-e "$lab->{dir}/region/us/standby/postmaster.pid" });
$lab->stop('us');
$lab->lab('start', 'us');
caught_up('us', 6);
$lab->wait_for($_, 'SELECT count(*) FROM t WHERE id IN (-1, -2)', 2) for @regions;
same_everywhere('one of two servers');

# ---- two regions at the same time

before();
$lab->lab('backup', $_) for qw(us eu);
change();
$lab->lab('restore', $_) for qw(us eu);
after();
caught_up('us', 7);
caught_up('eu', 1);
same_everywhere('two restored at once');
once('two restored at once');

# ---- a clock that is ahead of time, for it has seen stamps of a peer that was: a promoted server keeps it, though the file with
# the clock's ceiling is as old as the standby

before();
$lab->lab('standby', 'us');
$lab->clock('eu', 300);
$lab->drain;    # its workers are there again
$lab->sql('eu', "UPDATE t SET v = 'of the future' WHERE id < 8000");
$lab->drain;
cmp_ok(us("SELECT extract(epoch FROM mrsync.current_hlc()::timestamptz - clock_timestamp())"), '>', 20, 'the clock of us is ahead of time');
received();
$lab->lab('promote', 'us');
us("UPDATE t SET v = 'of the present, and later' WHERE id BETWEEN 7001 AND 7010");
$lab->clock('eu', 0);
caught_up('us', 8);
same_everywhere('promoted with a clock ahead of time');
is(us("SELECT count(*) FROM t WHERE v = 'of the present, and later'"), $lab->sql('eu', 'SELECT count(*) FROM t WHERE id BETWEEN 7001 AND 7010'), 'what was written after the promotion has won');

# ---- a standby from before its database was a region

my $late = Mrsync::Lab->up(regions => [qw(us eu)], options => ['--solo']);
$late->lab('standby', 'us');
$late->everywhere('CREATE EXTENSION mrsync; CREATE TABLE t (id int PRIMARY KEY, v text)');
my $broker = $late->broker;
$late->sql($_, "SELECT mrsync.region_init('$_', '$broker', replication_group => 'late$$')") for qw(us eu);
$late->sql('us', "SELECT mrsync.region_connect('eu', '$broker'), mrsync.link_create('us', 'eu'), mrsync.link_create('eu', 'us'), mrsync.table_add('t')");
$late->sql('eu', "SELECT mrsync.region_connect('us', '$broker'), mrsync.link_create('us', 'eu'), mrsync.link_create('eu', 'us'), mrsync.table_add('t')");
$late->sql('us', "INSERT INTO t VALUES (1, 'one')");
$late->drain;
$lab = $late;
received();
$late->lab('promote', 'us');
$late->sql('us', "INSERT INTO t VALUES (2, 'two')");
$late->sql('eu', "INSERT INTO t VALUES (3, 'three')");
$late->wait_for('us', 'SELECT count(*) FROM mrsync.recovery WHERE finished_at IS NOT NULL', 1);
$late->drain;
is($late->same('SELECT * FROM t ORDER BY id', 'promoted from before the region was there'), "1|one\n2|two\n3|three", 'with what both have written since');
$late->healthy;

# ---- a topic of another database, which was a region of this name: that is nothing to take back

my $other = Mrsync::Lab->up(regions => ['us'], options => ['--solo']);
$other->sql('us', 'CREATE EXTENSION mrsync');
$other->sql('us', "SELECT mrsync.region_init('us', '$broker', replication_group => 'late$$')");
$other->wait_for('us', "SELECT events > 0 FROM mrsync.worker_stat() WHERE kind = 'extractor'");
is($other->sql('us', 'SELECT count(*) FROM mrsync.recovery'), 0, 'the topic of another database is no history of this one');

done_testing;
