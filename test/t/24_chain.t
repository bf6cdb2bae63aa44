# What a topic or a slot can lose: made anew, longer or shorter than before, past its retention, without its tail, while a
# link is paused and while it runs; a slot dropped, a slot invalidated.
#
# Proves I8: where something is missing the link stops before it, says so in link_status within seconds, and skips
# nothing; where nothing is missing, which the chain of sequences shows, it goes on by itself. After each loss mrsync.resend()
# brings back what is missing. (Under load, and from every kind of row: 25_resend.t.)
use strict;
use warnings;
use Test::More;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Time::HiRes qw(time);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state terminate ask log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu)], own_broker => 1);
open my $file, '<', "$lab->{dir}/group" or die;
chomp(my $group = <$file>);
my $kafkactl = dirname(abs_path(__FILE__)) . '/../../build/kafkactl';
my $topic = "mrsync.$group.us";

sub us { return $lab->sql('us', $_[0]) }
sub eu { return $lab->sql('eu', $_[0]) }
sub link_state { return eu("SELECT state FROM mrsync.link_status WHERE source_region = 'us' AND direction = 'incoming'") }
sub outgoing { return us("SELECT state FROM mrsync.link_status WHERE direction = 'outgoing'") }
sub log_of { my ($region) = @_; open my $log, '<', $lab->server_log($region) or die; local $/; return scalar <$log> }

# ---- the topic by hand

sub kafkactl { my $said = `$kafkactl @{[ $lab->broker ]} @_ 2>&1`; return $? ? undef : $said }
sub end_of_topic { my ($low, $high) = split ' ', kafkactl('offsets', $topic); return $high }
sub records { return map { s/^\d+\t//r } split /\n/, kafkactl('cat', $topic) }
sub remove_topic { defined kafkactl('delete', $topic) or die 'the topic cannot be deleted' }
sub create_topic
{
	$lab->wait_until('the topic to be made', sub { (kafkactl('create', $topic) // '') =~ /^created/ });
	# the controller has made it; until the broker knows, it takes records into the former one, which is on its way out
	$lab->wait_until('the broker to have the new topic', sub { (kafkactl('offsets', $topic) // '') =~ /^0\s+0\s*$/ });
}
sub make_anew
{
	my (@records) = @_;
	remove_topic();
	create_topic();
	return unless @records;
	open my $pipe, '|-', $kafkactl, $lab->broker, 'produce', $topic or die "$kafkactl: $!";
	print $pipe map { "$_\n" } @records;
	close $pipe or die 'kafkactl produce has failed';
}
# What us has committed so far has been acknowledged by the broker.
sub sent
{
	my $sequence = us('SELECT sequence FROM mrsync.worker_stat() WHERE kind = \'extractor\'');
	my $lsn = us('SELECT pg_current_wal_lsn()');
	$lab->wait_for('us', "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE plugin = 'mrsync'");
}
my $id = 0;
sub write_rows { my ($n) = @_; $id += $n; us(join '', map { "INSERT INTO t VALUES ($_, 'row $_');" } $id - $n + 1 .. $id) }

# The link says so within seconds, and what stands behind it is not applied: so many rows, the last ones that us has written.
sub named
{
	my ($pattern, $name, $behind) = @_;
	my $began = time;
	$lab->wait_until("the link to say: $pattern", sub { link_state() =~ $pattern });
	ok(1, "$name: " . link_state());
	note(sprintf 'after %.1f s', time - $began);
	$lab->wait_for('eu', "SELECT status FROM mrsync.replication_link WHERE source_region = 'us'", 'degraded');
	is(eu('SELECT count(*) FROM t WHERE id > ' . ($id - $behind)), 0, 'and nothing behind it is applied');
}
sub mended
{
	my ($name) = @_;
	us('SELECT mrsync.resend()');
	$lab->drain;
	$lab->same('SELECT * FROM t ORDER BY id', $name);
	$lab->wait_for('eu', "SELECT state FROM mrsync.link_status WHERE source_region = 'us' AND direction = 'incoming'", 'streaming');
	$lab->wait_for('eu', "SELECT status FROM mrsync.replication_link WHERE source_region = 'us'", 'active');
}

$lab->tables('CREATE TABLE t (id int PRIMARY KEY, v text);', 't');
write_rows(20);
$lab->drain;

# ---- nothing is missing

make_anew();
write_rows(3);
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'a topic made anew, of which everything had been applied: the link goes on');

$lab->pause('us>eu');
make_anew(records(), records());
write_rows(30);
$lab->resume('us>eu');
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'made anew and longer than before, nothing missing: the link goes on');

$lab->pause('us>eu');
sent();
ok(defined kafkactl('expire', $topic, end_of_topic()), 'everything that was applied expires');
write_rows(3);
$lab->resume('us>eu');
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'retention has passed what was applied, and no more: the link goes on');
like(log_of('eu'), qr/topic $topic does not reach offset \d+, up to where it had been read: it is read from its beginning/, 'the log says so');

# ---- made anew, and something is missing

$lab->pause('us>eu');
write_rows(5);
sent();
make_anew();
write_rows(1);
$lab->resume('us>eu');
named(qr/^degraded: transactions of region us are missing in topic $topic: .*SELECT mrsync\.resend\(\) in region us/, 'a topic made anew, with rows missing', 1);
write_rows(2);
mended('what was missing is sent again');

$lab->pause('us>eu');
write_rows(5);
sent();
my $position = eu("SELECT next_offset FROM mrsync.link_position WHERE source_region = 'us'");
make_anew();
write_rows($position + 20);
sent();
cmp_ok(end_of_topic(), '>', $position + 10, 'a topic made anew has grown longer than the position');
$lab->resume('us>eu');
named(qr/^degraded: transactions of region us are missing in topic $topic: .* holds something else at offset \d+/, 'it is not taken for the former one', $position + 20);
mended('what was missing is sent again');

# ---- retention

$lab->pause('us>eu');
write_rows(5);
sent();
kafkactl('expire', $topic, end_of_topic() - 2);
$lab->resume('us>eu');
named(qr/^degraded: transactions of region us are missing in topic $topic: /, 'retention has passed the position', 2);
mended('what has expired is sent again');

# ---- the tail

$lab->pause('us>eu');
sent();
my @head = records();
write_rows(4);
sent();
make_anew(@head);
$lab->resume('us>eu');
named(qr/^degraded: topic $topic ends before the newest transactions of region us: /, 'a topic that has lost its tail', 4);
write_rows(1);
named(qr/^degraded: transactions of region us are missing in topic $topic: /, 'and when it goes on', 1);
mended('its tail is sent again');

# ---- while the link runs

my $applier = worker_pid($lab, 'eu', 'applier', 'us');
kill 'STOP', $applier;    # it is slow
write_rows(5);
sent();
make_anew();
write_rows(200);
sent();
kill 'CONT', $applier;
named(qr/^degraded: transactions of region us are missing in topic $topic: /, 'made anew under a running applier, with rows missing', 200);
mended('what was missing is sent again');

$applier = worker_pid($lab, 'eu', 'applier', 'us');
kill 'STOP', $applier;
write_rows(5);
sent();
make_anew();
write_rows(1);
sent();
kill 'CONT', $applier;
named(qr/^degraded: transactions of region us are missing in topic $topic: /, 'the same, and the new topic ends before the position', 1);
mended('what was missing is sent again');

remove_topic();
$lab->wait_until('the link to miss its topic', sub { link_state() =~ /^degraded: topic "$topic" does not exist/ });
pass('a topic that is gone is named: ' . link_state());
create_topic();
write_rows(1);
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'it is back, and nothing is missing: the link goes on');
$lab->wait_for('eu', "SELECT state FROM mrsync.link_status WHERE source_region = 'us' AND direction = 'incoming'", 'streaming');

# ---- a transaction whose middle is missing

$lab->pause('us>eu');
us("INSERT INTO t SELECT i, 'one of many' FROM generate_series($id + 1, $id + 20) i");
$id += 20;
write_rows(2);
sent();
my @records = records();
my ($seventh) = grep { $records[$_] =~ /one of many/ && $records[$_] =~ /"position":7,/ } 0 .. $#records;
make_anew(@records[ 0 .. $seventh - 1, $seventh + 1 .. $#records ]);
$lab->resume('us>eu');
named(qr/^degraded: a transaction of region us is incomplete in topic $topic: /, 'a transaction of which a record is missing', 22);
mended('it is sent again');

# ---- the slot

sub slot_lost
{
	my ($pattern, $name) = @_;
	$lab->wait_until("us to say: $pattern", sub { worker_state($lab, 'us', 'extractor') =~ $pattern && outgoing() =~ $pattern });
	like(worker_state($lab, 'us', 'extractor'), qr/^degraded: replication slot "mrsync_\d+" $pattern.*SELECT mrsync\.slot_recreate\(\), then SELECT mrsync\.resend\(\)/,
		"$name: worker_status says " . worker_state($lab, 'us', 'extractor'));
	like(outgoing(), qr/^degraded: extractor: replication slot /, 'link_status, too');
	is(us("SELECT status FROM mrsync.link_status WHERE direction = 'outgoing'"), 'degraded', 'in one word');
	like(($lab->sql_try('us', 'SELECT mrsync.resend()'))[2], qr/55000.*would not be sent.*HINT:\s+Call mrsync\.slot_recreate\(\) first/s, 'nor can anything be sent again before');
	is(us("SELECT count(*) FROM mrsync.worker_status WHERE state LIKE 'degraded%'"), 1, 'no other worker');
	like(($lab->sql_try('us', "SELECT mrsync.wait_for_peers('1 s')"))[2], qr/55P03/, 'nobody is told that the peers have everything');
}
sub recreate
{
	like(($lab->sql_try('us', 'SELECT mrsync.slot_recreate()'))[2], qr/NOTICE.*is not sent.*SELECT mrsync\.resend\(\)/s, 'slot_recreate makes it anew');
	like(($lab->sql_try('us', 'SELECT mrsync.slot_recreate()'))[2], qr/55000.*is in order/s, 'once');
	# the new slot says by itself what is missing; the first change behind it is not applied
	write_rows(1);
	named(qr/^degraded: t\w+ .*SELECT mrsync\.resend\(\) in region us/, 'the link stops before what comes next', 1);
	mended('what was committed meanwhile is sent again');
	$lab->wait_until('the extractor to be at work', sub { worker_state($lab, 'us', 'extractor') eq 'running' });
}

$lab->drain;
$lab->lose_slot('us');
write_rows(3);
us('DELETE FROM t WHERE id = 1');
slot_lost(qr/does not exist any more/, 'a slot that was dropped');
recreate();

# made anew by hand: the hole is seen all the same
$lab->lose_slot('us');
us(<<'');
	INSERT INTO t VALUES (-1, 'in the hole');
	SELECT pg_create_logical_replication_slot('mrsync_' || oid, 'mrsync') FROM pg_database WHERE datname = 'lab';

named(qr/^degraded: topic $topic ends before the newest transactions of region us: /, 'a slot dropped and made anew by hand', 0);
mended('what was committed meanwhile is sent again');

$lab->kafka('stop');
us("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; SELECT pg_reload_conf()");
for (1 .. 6)
{
	write_rows(1);
	us('SELECT pg_switch_wal()');
}
us('CHECKPOINT');
slot_lost(qr/has been invalidated/, 'a slot that max_slot_wal_keep_size has cost');
$lab->kafka('start');
us('ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()');
recreate();

is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
