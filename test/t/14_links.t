# What becomes of links and regions when somebody acts on them: paused, removed, created again, dropped, broken.
#
# Proves I8 for everything an operator does (nothing is lost while a link is paused, removed or broken; what is wrong is
# named, never skipped), that nothing outlives DROP EXTENSION, and that a server stops at once whatever its links do.
# Three regions in two servers: "alt" is another database of the server of "us".
use strict;
use warnings;
use Test::More;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Time::HiRes qw(time sleep);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state ask log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu)], own_broker => 1, settings => { 'mrsync.apply_error_retry_interval' => '1s' });
my $group = $lab->state('group');
my $brokers = $lab->broker;
my $kafkactl = dirname(abs_path(__FILE__)) . '/../../build/kafkactl';
my @alt = (db => 'alt');

sub us { return $lab->sql('us', $_[0]) }
sub eu { return $lab->sql('eu', $_[0]) }
sub alt { return $lab->sql('us', $_[0], @alt) }
sub link_state { my ($region, $source, %db) = @_; return $lab->sql($region, "SELECT state FROM mrsync.link_status WHERE source_region = '$source' AND direction = 'incoming'", %db) }
sub ids { my ($region, %db) = @_; return $lab->sql($region, "SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM t", %db) }
sub began { my ($region, $peer) = @_; return $lab->sql($region, "SELECT extract(epoch FROM started_at) FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = '$peer'") }    # its last attempt
sub in_vain    # what wait_for_peers says, once the extractor has got so far
{
	my ($region) = @_;
	my $said;
	$lab->wait_until("the extractor of $region", sub { ($said = ($lab->sql_try($region, "SELECT mrsync.wait_for_peers('1 s')"))[2]) !~ /has not sent everything yet/ });
	return $said;
}

my $ddl = "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT mrsync.table_add('t')";
us($ddl);
eu($ddl);

# ---- several regions in one server

us('CREATE DATABASE alt');
alt("CREATE EXTENSION mrsync; SELECT mrsync.region_init('alt', '$brokers', replication_group => '$group'); $ddl");
# a call that is rolled back leaves nothing behind: the next region gets the same replication origin
us("BEGIN; SELECT mrsync.region_connect('zz-never'); ROLLBACK");
eu("BEGIN; SAVEPOINT s; SELECT mrsync.region_connect('zz-never'); ROLLBACK TO s; COMMIT");
for my $peer (qw(us eu))
{
	my $code = $peer eq 'us' ? \&us : \&eu;
	$code->("SELECT mrsync.region_connect('alt'); SELECT mrsync.link_create('alt', '$peer'); SELECT mrsync.link_create('$peer', 'alt')");
	alt("SELECT mrsync.region_connect('$peer'); SELECT mrsync.link_create('alt', '$peer'); SELECT mrsync.link_create('$peer', 'alt')");
}
us("INSERT INTO t VALUES (1, 'us')");
eu("INSERT INTO t VALUES (2, 'eu')");
alt("INSERT INTO t VALUES (3, 'alt')");
$lab->drain;
alt("SELECT mrsync.wait_for_peers('170 s')");
is(ids('us'), '1,2,3', 'us has the rows of all, its own server\'s other database among them');
is(ids('eu'), '1,2,3', 'eu, too');
is(ids('us', @alt), '1,2,3', 'alt, too');
# whose version a row has: that of its source, by the origin that its transaction bears
my $version_below = "SELECT mrsync.version_below(tableoid, ctid, xmin, pg_xact_commit_timestamp(xmin)::mrsync.hlc, 'b') FROM t WHERE id";
is(us("$version_below = 3"), 't', 'us knows a row of alt as alt\'s, not as that of the region whose region_connect was rolled back');
is(eu("$version_below = 3"), 't', 'eu, too, where a savepoint was rolled back');
is(us('SELECT count(DISTINCT slot_name) FROM pg_replication_slots'), 2, 'each has a slot of its own');
# both change the row: the same winner in both databases
us("UPDATE t SET v = 'us again' WHERE id = 3");
alt("UPDATE t SET v = 'alt again' WHERE id = 3");
$lab->drain;
alt("SELECT mrsync.wait_for_peers('170 s')");
is(us('SELECT v FROM t WHERE id = 3'), alt('SELECT v FROM t WHERE id = 3'), 'and they agree');
is(eu('SELECT v FROM t WHERE id = 3'), alt('SELECT v FROM t WHERE id = 3'), 'with eu');

# ---- DROP EXTENSION without region_leave

my $pids = alt("SELECT string_agg(pid::text, ' ') FROM mrsync.worker_stat() WHERE running");
alt("SET deadlock_timeout = '1min'; DROP EXTENSION mrsync CASCADE");    # of it and a coordinator the latter gives way
$lab->wait_until('the workers of alt to end', sub { !grep { -e "/proc/$_" } split / /, $pids });
pass('DROP EXTENSION ends the workers (' . scalar(split / /, $pids) . ')');
$lab->wait_for('us', "SELECT count(*) FROM pg_replication_slots WHERE database = 'alt'", 0);
pass('and drops the slot, which would keep WAL for ever');
alt("INSERT INTO t VALUES (100, 'alone')");
is(ids('us', @alt), '1,2,3,100', 'the rows stay, and the table is an ordinary one');
# it can become a region again, under another name
alt("CREATE EXTENSION mrsync; SELECT mrsync.region_init('alt2', '$brokers', replication_group => '$group')");
$lab->wait_until('alt2 to run', sub { alt("SELECT count(*) FROM mrsync.worker_status WHERE state = 'running'") == 2 });
pass('the database can become a region again');
alt('SELECT mrsync.region_leave()');
alt('DROP EXTENSION mrsync CASCADE');
is(us("SELECT count(*) FROM pg_replication_slots WHERE database = 'alt'"), 0, 'region_leave leaves no slot behind');
is(us("SELECT count(*) FROM pg_replication_origin WHERE roname LIKE '%alt2%'"), 0, 'and no origin');
# DROP DATABASE of a region: its slot forbids it, as PostgreSQL says; after region_leave it goes
us('DROP DATABASE alt');
pass('and the database can be dropped');
# the others forget it
for my $code (\&us, \&eu)
{
	$code->("SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE 'alt' IN (source_region, target_region)");
}
$lab->drain;
pass('nobody waits for it after link_remove');

# ---- pause and resume

my $link = $lab->link_id('us', 'eu');
$lab->pause('us>eu');
is(link_state('eu', 'us'), 'paused', 'a paused link says so');
is(eu("SELECT status FROM mrsync.replication_link WHERE link_id = '$link'"), 'paused', 'in replication_link, too');
us("INSERT INTO t SELECT i, 'while paused' FROM generate_series(11, 20) i");
us("DELETE FROM t WHERE id = 20; UPDATE t SET v = 'changed' WHERE id = 19");
like(in_vain('us'), qr/55P03.*Behind are: "eu" \(has applied what was committed here until 20\S+ [0-9:.]+\+00; the newest commit is \d+ (?:bytes|kB) of WAL further on\)\./s,
	'wait_for_peers names who is behind, and how far');
eu("INSERT INTO t VALUES (21, 'the other way')");
$lab->drain('eu');
is(us('SELECT count(*) FROM t WHERE id = 21'), 1, 'the other direction goes on');
like(($lab->sql_try('eu', "SELECT mrsync.link_pause('$link')"))[2], qr/NOTICE.*paused already/s, 'pausing twice: a notice');
like(($lab->sql_try('us', "SELECT mrsync.link_pause('$link')"))[2], qr/22023.*target/s, 'it is paused at its target');
# the pause outlasts a restart of both, and a crash
$lab->stop('eu');
$lab->start('eu');
$lab->kill9('eu');
$lab->start('eu');
$lab->wait_until('the extractor of eu', sub { worker_pid($lab, 'eu', 'extractor') });
us("INSERT INTO t VALUES (22, 'still paused')");
# eu's coordinator has had its say when the other direction works again
eu("INSERT INTO t VALUES (23, 'the other way')");
$lab->drain('eu');
is(link_state('eu', 'us'), 'paused', 'the pause outlasts restart and crash');
is(worker_pid($lab, 'eu', 'applier', 'us'), undef, 'no applier runs');
is(ids('eu'), '1,2,3,21,23', 'nothing has come through');
$lab->wait_for('eu', "SELECT lag > interval '0' FROM mrsync.link_status WHERE source_region = 'us'", 't');
$lab->wait_for('us', "SELECT lag > interval '0' FROM mrsync.link_status WHERE target_region = 'eu'", 't');
my @lag = map { my $lag = eu("SELECT lag_ms FROM mrsync.replication_link WHERE link_id = '$link'"); $lab->wait_for('eu', "SELECT lag_ms > $lag FROM mrsync.replication_link WHERE link_id = '$link'"); $lag } 1 .. 2;
cmp_ok($lag[1], '>', $lag[0], 'the lag of a paused link grows as long as something waits at its source');
is(eu("SELECT mrsync.link_resume('$link')"), '', 'resumed');
$lab->drain;
is(ids('eu'), ids('us'), 'what had gathered has arrived');
$lab->same('SELECT * FROM t ORDER BY id', 'equal');
$lab->wait_for('eu', "SELECT state, lag FROM mrsync.link_status WHERE direction = 'incoming'", 'streaming|00:00:00');
$lab->wait_for('us', "SELECT state, lag, l.last_acked_event_id = a.event_id FROM mrsync.link_status l JOIN mrsync.acknowledgement a ON (region_id, a.source_region) = ('eu', 'us') WHERE direction = 'outgoing' AND target_region = 'eu'",
	'streaming|00:00:00|t');
$lab->wait_for('eu', "SELECT lag_ms FROM mrsync.replication_link WHERE link_id = '$link'", 0);
pass('drained, both ends say so: streaming, no lag, the newest event acknowledged');
like(($lab->sql_try('eu', "SELECT mrsync.link_resume('$link')"))[2], qr/NOTICE.*active already/s, 'resuming twice: a notice');

# an applier that a user's lock holds up is not in order, though it was a moment ago: status derives from progress
my $user = $lab->session('eu');
$user->sql('BEGIN; SELECT v FROM t WHERE id = 22 FOR UPDATE');
us("UPDATE t SET v = 'held up' WHERE id = 22");
$lab->wait_for('eu', "SELECT state, lag > interval '0' FROM mrsync.link_status WHERE direction = 'incoming'", 'catching up|t');
$lab->wait_for('eu', "SELECT state ~ '^stalled: no progress for 00:00:3' FROM mrsync.link_status WHERE direction = 'incoming'", 't');
$lab->wait_for('eu', "SELECT lag_ms >= 30000 FROM mrsync.replication_link WHERE link_id = '$link'", 't');
pass('a link held up by a lock shows it: catching up, then stalled, with its lag');
$user->sql('ROLLBACK');
$lab->wait_for('eu', "SELECT state, lag FROM mrsync.link_status WHERE direction = 'incoming'", 'streaming|00:00:00');
$user->close;

# a transaction that holds the row of a link holds up nobody else: the coordinator describes it another time
my $holder = $lab->session('eu');
$holder->sql("BEGIN; SELECT mrsync.link_pause('$link'); SELECT FROM mrsync.replication_link FOR UPDATE");
us("INSERT INTO t VALUES (24, 'while a pause is open')");
$lab->wait_for('eu', 'SELECT count(*) FROM t WHERE id = 24', 1);
eu("INSERT INTO t VALUES (25, 'while a pause is open')");
# by then it has wanted to write down both of these events
my $since = us('SELECT clock_timestamp()');
$lab->wait_for('us', "SELECT coalesce(max(sent_at) > '$since'::timestamptz + interval '3 s', false) FROM mrsync.heartbeat WHERE region_id = 'eu'", 't');
pass('an open link_pause does not stop the heartbeats of its region');
eu("INSERT INTO t VALUES (26, 'while a pause is open'); SELECT mrsync.wait_for_peers('170 s')");
pass('nor what the peers acknowledge to it');
isnt(eu("SELECT l.last_acked_event_id = p.event_id FROM mrsync.replication_link l JOIN mrsync.link_position p USING (source_region) WHERE link_id = '$link'"), 't',
	'the row itself stays as it is until then');
$holder->sql('ROLLBACK');
$lab->wait_for('eu', "SELECT l.last_acked_event_id = p.event_id FROM mrsync.replication_link l JOIN mrsync.link_position p USING (source_region) WHERE link_id = '$link'", 't');
pass('and is brought up to date afterwards');
$holder->close;

# ---- remove and create again

us("SELECT mrsync.link_remove('$link')");
eu("SELECT mrsync.link_remove('$link')");
$lab->wait_until('its applier to end', sub { !worker_pid($lab, 'eu', 'applier', 'us') });
us("INSERT INTO t VALUES (31, 'while removed')");
us("SELECT mrsync.wait_for_peers('170 s')");
pass('nobody waits for the target of a removed link');
is(eu('SELECT count(*) FROM t WHERE id = 31'), 0, 'nothing goes over it');
is(us("SELECT mrsync.link_create('us', 'eu')"), $link, 'created again, it has its former id');
is(eu("SELECT mrsync.link_create('us', 'eu')"), $link, 'in both regions');
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'it goes on where it had stopped');
like(($lab->sql_try('eu', "SELECT mrsync.link_create('us', 'eu')"))[2], qr/42710/, 'a second one is refused');

# with its position forgotten it reads everything again, and nothing happens twice
my $applied = eu('SELECT count(*) FROM mrsync.applied_event');
my $versions = eu('SELECT string_agg(id || \':\' || xmin, \',\' ORDER BY id) FROM t');
like(($lab->sql_try('eu', "SELECT mrsync.link_remove('$link', reset => true)"))[2], qr/55006/, 'a link that is read cannot be reset');
$lab->pause('us>eu');
eu("SELECT mrsync.link_remove('$link', reset => true)");
eu("SELECT mrsync.link_create('us', 'eu')");
us("INSERT INTO t VALUES (32, 'after the reset')");
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'equal after reading everything again');
is(eu('SELECT count(*) FROM mrsync.applied_event'), $applied + 1, 'nothing was recorded twice');
is(eu('SELECT string_agg(id || \':\' || xmin, \',\' ORDER BY id) FROM t WHERE id <> 32'), $versions, 'nothing was written twice');

# ---- DROP TABLE of a replicated table

$lab->tables('CREATE TABLE gone (id int PRIMARY KEY);', 'gone');
us('INSERT INTO gone VALUES (1)');
$lab->drain;
# at the source, with changes that are not sent yet: the extractor has to read the table as it was
$lab->kafka('stop');
us('INSERT INTO gone SELECT i FROM generate_series(2, 1000) i');
us("INSERT INTO t VALUES (41, 'before'); DROP TABLE gone; INSERT INTO t VALUES (42, 'after')");
is(us("SELECT count(*) FROM mrsync.replicated_table r WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = r.relation)"), 0,
	'a dropped table leaves replication by itself');
$lab->kafka('start');
$lab->drain;
is(eu('SELECT count(*) FROM gone'), 1000, 'what was written before DROP TABLE still arrives elsewhere');
is(eu('SELECT count(*) FROM t WHERE id IN (41, 42)'), 2, 'and what was written after');
# at the target, with changes on their way
us("CREATE TABLE gone (id int PRIMARY KEY); SELECT mrsync.table_add('gone')");
$lab->pause('us>eu');
us("INSERT INTO gone VALUES (2001); INSERT INTO t VALUES (43, 'goes on')");
eu('DROP TABLE gone');
$lab->resume('us>eu');
$lab->drain;
is(eu('SELECT count(*) FROM t WHERE id = 43'), 1, 'a table that the target has dropped holds nothing up');
is(eu('SELECT sqlstate, table_name FROM mrsync.apply_error'), '42P01|public.gone', 'its events are parked and named');
$lab->wait_until('degraded', sub { link_state('eu', 'us') =~ /^degraded: 1 event/ });
eu('SELECT mrsync.apply_error_discard(error_id) FROM mrsync.apply_error');
$lab->wait_for('eu', "SELECT status FROM mrsync.replication_link WHERE source_region = 'us'", 'active');
pass('apply_error_discard gives them up, and the link is in order');
us('DROP TABLE gone');

# ---- a worker that fails

# the dedup table is not to be found: the applier can do nothing at all
eu('ALTER TABLE mrsync.applied_event RENAME TO hidden');
us("INSERT INTO t VALUES (51, 'fails first')");
$lab->wait_until('restarts', sub { eu("SELECT restarts FROM mrsync.worker_status WHERE worker = 'applier' AND source_region = 'us'") >= 2 });
like(eu("SELECT last_error FROM mrsync.worker_status WHERE worker = 'applier' AND source_region = 'us'"), qr/applied_event.*does not exist/,
	'worker_status has the last error of a worker that fails');
$lab->wait_until('degraded', sub { link_state('eu', 'us') =~ /^degraded: .*applied_event.* does not exist/ });
pass('its link is degraded and says why');
# backoff: the pause between two attempts grows
my @began;
$lab->wait_until('more restarts', sub {
	my $at = began('eu', 'us');
	push @began, $at if $at ne '' && (!@began || $began[-1] != $at);
	return @began >= 3;
});
cmp_ok($began[2] - $began[1], '>', 1.5, sprintf 'it is restarted with a growing pause (%.1f s by now)', $began[2] - $began[1]);
is(us('SELECT count(*) FROM pg_stat_activity WHERE backend_type = \'mrsync applier\''), 1, 'others go on');
eu('ALTER TABLE mrsync.hidden RENAME TO applied_event');
$lab->drain;
is(eu('SELECT v FROM t WHERE id = 51'), 'fails first', 'it goes on by itself when the cause is gone');
$lab->wait_for('eu', "SELECT state FROM mrsync.link_status WHERE direction = 'incoming'", 'streaming');
pass('and so is the link');

# ---- brokers and topics

like(($lab->sql_try('us', "SELECT mrsync.region_connect('far', '127.0.0.1:1')"))[2], qr/08001.*127\.0\.0\.1:1/s, 'a broker that does not answer is named');
$lab->kafka('stop');
# the first thing that is said of it may be that all of them have hung up
$lab->wait_until('eu to name the broker', sub { link_state('eu', 'us') =~ m{^waiting: no answer from the broker: (?!\d+/\d+ brokers are down)} });
like(worker_state($lab, 'eu', 'applier', 'us'), qr/\Q$brokers\E/, 'a link names the broker that has gone');
$lab->kafka('start');
$lab->wait_until('streaming again', sub { link_state('eu', 'us') eq 'streaming' });
pass('and goes on when it is back');
# a region that is known, but has never been: its topic does not exist
eu("SELECT mrsync.region_connect('nowhere'); SELECT mrsync.link_create('nowhere', 'eu')");
$lab->wait_until('the missing topic to be named', sub { link_state('eu', 'nowhere') =~ /topic "mrsync\.$group\.nowhere" does not exist/ });
pass('a topic that does not exist is named: ' . link_state('eu', 'nowhere'));
isnt(eu("SELECT status FROM mrsync.link_status WHERE source_region = 'us'"), 'degraded', 'the other links do not mind');
# as the target of a link it is waited for, and has never said a word
eu("SELECT mrsync.link_create('eu', 'nowhere')");
like(in_vain('eu'), qr/55P03.*Behind are: "nowhere" \(has not acknowledged anything yet\)\./s,
	'wait_for_peers tells a peer that is behind from one that was never heard');
eu("SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE target_region = 'nowhere'");
eu("SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE source_region = 'nowhere'");
# taken away by hand; the next region gets its origin
$lab->wait_until('its applier to end', sub { !worker_pid($lab, 'eu', 'applier', 'nowhere') });
my $origin = eu("SELECT link_origin FROM mrsync.region WHERE region_id = 'nowhere'");
eu("DELETE FROM mrsync.region WHERE region_id = 'nowhere'");
$lab->wait_until('its origin to be free', sub { ($lab->sql_try('eu', "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roident = $origin"))[0] == 0 });

# ---- another database under a name that is known, and a topic without its beginning

us('CREATE DATABASE second');
my @second = (db => 'second');
my $known = "SELECT mrsync.region_connect('reborn'); SELECT mrsync.link_create('reborn', 'eu')";
my $make = "CREATE EXTENSION mrsync; SELECT mrsync.region_init('reborn', '$brokers', replication_group => '$group'); $ddl";
$lab->sql('us', $make, @second);
eu($known);
$lab->sql('us', "INSERT INTO t VALUES (61, 'of the first')", @second);
$lab->wait_for('eu', 'SELECT v FROM t WHERE id = 61', 'of the first');
is(eu("SELECT link_origin FROM mrsync.region WHERE region_id = 'reborn'"), $origin, 'an origin that was dropped serves again');
is(eu("SELECT mrsync.version_below(tableoid, ctid, xmin, pg_xact_commit_timestamp(xmin)::mrsync.hlc, 'o') FROM t WHERE id = 61"), 'f',
	'and its rows are those of the new region');
$lab->sql('us', 'SELECT mrsync.region_leave(); DROP EXTENSION mrsync CASCADE; ', @second);
us('DROP DATABASE second');
# a new server has a new WAL, whose positions begin low; here that of eu's own server serves, moved up
eu("UPDATE mrsync.link_position SET sequence = sequence + (1::bigint << 48) WHERE source_region = 'reborn'");
eu("SELECT pg_terminate_backend(pid) FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'reborn'");
us('CREATE DATABASE second');
$lab->sql('us', $make, @second);
$lab->sql('us', "INSERT INTO t VALUES (62, 'of the second')", @second);
$lab->wait_until('eu to name it', sub { link_state('eu', 'reborn') =~ /^degraded: .*another history than that of the region reborn/ });
pass('another database under the name of a known region is named');
is(eu('SELECT count(*) FROM t WHERE id = 62'), 0, 'and nothing of it is skipped or applied');
eu("SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE source_region = 'reborn'; DELETE FROM t WHERE id = 61");
$lab->sql('us', 'SELECT mrsync.region_leave(); DROP EXTENSION mrsync CASCADE; ', @second);

# ---- records that are none: somebody else writes to the topics

sub produce
{
	my ($topic, @lines) = @_;
	open my $pipe, '|-', $kafkactl, $lab->broker, 'produce', $topic or die "$kafkactl: $!";
	print $pipe map { "$_\n" } @lines;
	close $pipe or die "kafkactl produce has failed";
}
sub cat { return split /\n/, `$kafkactl $brokers cat $_[0]` }
sub log_of { open my $file, '<', $lab->server_log($_[0]) or die; local $/; return scalar <$file> }

# The control topic: what cannot be read is skipped, for the next record says the same and more.
my $control = "mrsync.$group.us.control";
my ($beat) = map { s/^\d+\t//r } grep { /"table_name":"mrsync.heartbeat"/ } reverse cat($control);
my ($ack) = map { s/^\d+\t//r } grep { /"table_name":"mrsync.acknowledgement".*"source_region":"eu"/ } reverse cat($control);
sub changed { my ($json, $key, $value) = @_; $json =~ s/("after_image":\{.*?"$key":)(?:null|"[^"]*")/$1$value/ or die "no $key in $json"; return $json }
# of a row of its own: of each row only the newest record counts
my $made = 0;
sub alone { return $_[0] =~ s/"row_pk":\{/sprintf '"row_pk":{"made":"up %d",', ++$made/er }
my %bad = (
	'no JSON' => 'garbage',
	'nothing' => '',
	'another region' => $beat =~ s/"region_id":"us"/"region_id":"xx"/r,
	'a sequence that is no number' => changed($beat, 'sequence', '"many"'),
	'a sequence below 0' => changed($ack, 'sequence', '"-1"'),
	'a sequence beyond all' => changed($ack, 'sequence', '"99999999999999999999"'),
	'no sequence' => changed($ack, 'sequence', 'null'),
	'a time that is none' => alone(changed($beat, 'sent_at', '"yesterday at noon"')),
	'a stamp that is none' => alone(changed($ack, 'hlc', '"soon"')),
	'a name that no index holds' => alone(changed($ack, 'source_region', '"' . join('', map { sprintf '%08x', int rand 2**32 } 1 .. 1000) . '"')),
);
my $coordinator = worker_pid($lab, 'eu', 'coordinator');
my $heard = eu("SELECT hlc FROM mrsync.heartbeat WHERE region_id = 'us'");
produce($control, @bad{ sort keys %bad });
my %offset = map { /^(\d+)\t(.*)$/s ? ($2 => $1) : () } cat($control);
for (sort keys %bad)
{
	my $said = "skipped the record at offset $offset{$bad{$_}} of topic $control: ";
	$lab->wait_until("eu to skip: $_", sub { index(log_of('eu'), $said) >= 0 });
	pass("a control record with $_ is skipped, and the log says which");
}
$lab->wait_for('eu', "SELECT hlc OPERATOR(mrsync.>) '$heard' FROM mrsync.heartbeat WHERE region_id = 'us'");
is(worker_pid($lab, 'eu', 'coordinator'), $coordinator, 'the coordinator does not mind');
eu("INSERT INTO t VALUES (71, 'acknowledged')");
us("SELECT mrsync.link_pause(link_id) FROM mrsync.replication_link WHERE source_region = 'eu' AND target_region = 'us'");
$lab->wait_until('the applier of us to end', sub { !worker_pid($lab, 'us', 'applier', 'eu') });
eu("INSERT INTO t VALUES (72, 'not acknowledged')");
like(in_vain('eu'), qr/55P03.*Behind are: "us" \(has applied/s, 'and nobody is told that a peer has applied what it has not');

# The data topic: nothing may be skipped, so the link stops and says where.
$lab->wait_until('72 in the topic', sub { grep { /not acknowledged/ } cat("mrsync.$group.eu") });
produce("mrsync.$group.eu", 'garbage');
us("SELECT mrsync.link_resume(link_id) FROM mrsync.replication_link WHERE source_region = 'eu' AND target_region = 'us'");
eu("INSERT INTO t VALUES (73, 'behind it')");
my $named = qr/the record at offset (\d+) of topic mrsync\.$group\.eu is no event: /;
$lab->wait_until('us to name it', sub { link_state('us', 'eu') =~ /^degraded: $named/ });
my ($at) = link_state('us', 'eu') =~ $named;
is((grep { /^$at\t/ } cat("mrsync.$group.eu"))[0], "$at\tgarbage", 'a data record that is none stops its link, named by its offset');
# from now on it stays so, through the attempts to go on, which become rare
my (@states, @tried);
$lab->wait_until('more attempts', sub {
	push @states, link_state('us', 'eu');
	my $at = began('us', 'eu');
	push @tried, $at if $at ne '' && (!@tried || $tried[-1] != $at);
	return @tried >= 3;
});
is_deeply([ grep { !/^degraded: $named/ } @states ], [], 'the link says so all the time');
cmp_ok($tried[2] - $tried[1], '>', 3, sprintf 'it is tried again at a growing pause (%.1f s by now)', $tried[2] - $tried[1]);
is(us('SELECT count(*) FROM t WHERE id IN (72, 73)'), 1, 'what stood before it is there, and nothing behind it is');
isnt(us("SELECT status FROM mrsync.link_status WHERE direction = 'outgoing' AND target_region = 'eu'"), 'degraded', 'the other direction goes on');
# the way on that docs/operations.md describes, for a record between two transactions
us("SELECT mrsync.link_pause(link_id) FROM mrsync.replication_link WHERE source_region = 'eu' AND target_region = 'us'");
us("UPDATE mrsync.link_position SET next_offset = $at + 1 WHERE source_region = 'eu' AND next_offset = $at");
us("SELECT mrsync.link_resume(link_id) FROM mrsync.replication_link WHERE source_region = 'eu' AND target_region = 'us'");
$lab->drain('eu');
is(us("SELECT v FROM t WHERE id = 73"), 'behind it', 'it goes on behind the record when told to');
$lab->wait_for('us', "SELECT state FROM mrsync.link_status WHERE direction = 'incoming' AND source_region = 'eu'", 'streaming');
pass('and is in order again');

# ---- stopping at once, with links that work

my @loads = map { Mrsync::Load->start($lab, $_, clients => 2, rate => 50,
		scripts => [ "\\set id random(1000, 1000000000)\nINSERT INTO t VALUES (:id, '$_') ON CONFLICT DO NOTHING;" ]) } $lab->regions;
$lab->wait_until('the load', sub { us("SELECT count(*) FROM t WHERE v = 'us' AND id > 1000") > 50 });
for my $region (qw(us eu us))
{
	$lab->sql($region, 'CHECKPOINT');    # else the time it takes may be the disk's
	my $began = time;
	my ($code, $output) = $lab->lab_try('stop', $region);
	my $took = time - $began;
	is($code, 0, "$region stops with its links running") or diag($output);
	cmp_ok($took, '<', 10, sprintf 'within seconds (%.1f s)', $took);
	$lab->start($region);
	$lab->wait_until("$region to be at work", sub { worker_pid($lab, $region, 'extractor') });
}
$_->finish for @loads;
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'equal at the end');

# ---- a topic without its beginning

eu("SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE source_region = 'us'");
$lab->wait_until('its applier to end', sub { !worker_pid($lab, 'eu', 'applier', 'us') });
eu("DELETE FROM mrsync.link_position WHERE source_region = 'us'");
is(system($kafkactl, $lab->broker, 'expire', "mrsync.$group.us", 3), 0, 'the head of a topic expires');
eu("SELECT mrsync.link_create('us', 'eu')");
$lab->wait_until('eu to name it', sub { link_state('eu', 'us') =~ /^degraded: .*does not begin with the first transaction/ });
pass('a new link that would begin in the middle says so: ' . link_state('eu', 'us'));

# (Here the first transaction's beginning has expired, and its end is there.)
us('SELECT mrsync.resend()');
us("INSERT INTO t VALUES (70, 'after the loss')");
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'a link goes on when what is missing was sent again');

is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
