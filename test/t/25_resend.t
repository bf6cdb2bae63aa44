# What was lost is sent again: mrsync.resend() heals a lost slot, a topic made anew and one past its retention, to
# equality, also under load in every region.
#
# Proves I1 and I8 for what no topic holds any more, and I2: each row and each deletion arrives with the version that it
# has in its source, third regions' versions too; what is there already is not written again, and nothing of it is a
# conflict. First the kinds of change, one by one in a hole; then what happens while a resend is reading: a row that leaves
# row_aside, a table that is rewritten (it was empty in the snapshot, and its rows were lost), a write that is lost after the
# resend has begun; rows held aside that nobody else has; then all losses under load.
use strict;
use warnings;
use Test::More;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state log_trouble);

my $lab = Mrsync::Lab->up(own_broker => 1, settings => { 'mrsync.apply_error_retry_interval' => '1s' });
open my $file, '<', "$lab->{dir}/group" or die;
chomp(my $group = <$file>);
my $kafkactl = dirname(abs_path(__FILE__)) . '/../../build/kafkactl';

sub us { return $lab->sql('us', $_[0]) }
sub eu { return $lab->sql('eu', $_[0]) }
sub ap { return $lab->sql('ap', $_[0]) }
sub link_state { my ($at, $from) = @_; return $lab->sql($at, "SELECT state FROM mrsync.link_status WHERE source_region = '$from' AND direction = 'incoming'") }
sub lose_topic
{
	my ($region) = @_;
	my $topic = "mrsync.$group.$region";
	my $broker = $lab->broker;
	is(system("$kafkactl $broker delete $topic >/dev/null"), 0, "the topic of $region is deleted");
	$lab->wait_until('the topic to be made', sub { `$kafkactl $broker create $topic 2>/dev/null` =~ /^created/ });
}
sub end_of_topic { my ($region) = @_; return (split ' ', `$kafkactl @{[ $lab->broker ]} offsets mrsync.$group.$region`)[1] // 0 }
sub streaming
{
	for my $region ($lab->regions)
	{
		$lab->wait_for($region, "SELECT count(*) FROM mrsync.link_status WHERE state = 'streaming' AND status = 'active'", 4);
	}
}
# what becomes of a name that two have taken
$lab->tables('CREATE TABLE nicks (id int PRIMARY KEY, v text UNIQUE);', 'nicks');
my $rule = $lab->sql('us', "SELECT mrsync.loser_strategy_set('nicks', 'set_null')");
$lab->sql('us', "SELECT mrsync.merge_function_wait('$rule', '170 s')");
$lab->keep_memory;    # deletions are counted
# Everything that a region knows of its rows: what they are, who wrote them, when.
my @tables = qw(t keys wide empty parts);
sub same
{
	my ($name) = @_;
	for my $table (@tables)
	{
		$lab->same("SELECT * FROM $table x ORDER BY x::text COLLATE \"C\"", "$name: $table is the same everywhere");
	}
}
# What stands behind a hole in what comes from us is not applied: t has no row of this id.
sub stops
{
	my ($at, $behind) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $rows = "SELECT count(*) FROM t WHERE id = $behind";
	$lab->wait_until("$at to come to the hole", sub { link_state($at, 'us') =~ /^degraded: t.*SELECT mrsync\.resend\(\) in region us/ || $lab->sql($at, $rows) });
	is($lab->sql($at, $rows), 0, "$at stops at the hole");
}
sub position { my ($at) = @_; return $lab->sql($at, "SELECT sequence FROM mrsync.link_position WHERE source_region = 'us'") }
sub versions { my ($region) = @_; return join "\n", map { $lab->sql($region, "SELECT id, xmin FROM $_ x ORDER BY x::text") } @tables }
$lab->conflicts_apart;
sub conflicts { my ($region) = @_; return $lab->sql($region, 'SELECT count(*) FROM mrsync.conflict_log') }

$lab->tables(<<'', @tables);
	CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0, c regconfig);
	CREATE TABLE keys (id numeric, "Second Key" text COLLATE "C", v text, PRIMARY KEY (id, "Second Key"));
	CREATE TABLE wide (id int PRIMARY KEY, big text, small text, "a ""b""" int[], g int GENERATED ALWAYS AS (id + 1) STORED, i int GENERATED ALWAYS AS IDENTITY);
	CREATE TABLE empty (id int PRIMARY KEY);
	CREATE TABLE parts (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
	CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
	CREATE TABLE parts_3 PARTITION OF parts DEFAULT;

us("INSERT INTO t SELECT i, 'us' FROM generate_series(1, 100) i; INSERT INTO parts SELECT i, i % 3 + 1, 'us' FROM generate_series(1, 30) i; INSERT INTO empty SELECT i FROM generate_series(1, 10) i");
eu("INSERT INTO t SELECT i, 'eu' FROM generate_series(101, 200) i; INSERT INTO keys VALUES (1.0, 'a', 'eu'), (2.50, 'b', 'eu'), (3, 'c', 'eu')");
ap("INSERT INTO t SELECT i, 'ap' FROM generate_series(201, 300) i; INSERT INTO wide (id, big, small) SELECT i, repeat('x', 1000), 'ap' FROM generate_series(1, 20) i");
$lab->drain;

# ---- nothing is missing: nothing happens

my %before = map { $_ => versions($_) } $lab->regions;
my %conflicts = map { $_ => conflicts($_) } $lab->regions;
my $sent = us('SELECT mrsync.resend()');
is($sent, 300 + 3 + 20 + 10 + 30, "resend sends every row, whoever wrote it ($sent)");
$lab->drain;
is(versions($_), $before{$_}, "in $_ nothing was written") for $lab->regions;
is(conflicts($_), $conflicts{$_}, "and nothing was a conflict") for $lab->regions;
is(eu("SELECT region_id, rows, deletions, left_out, from_hlc FROM mrsync.resend"), "us|$sent|0|0|2000-01-01 00:00:00.000000Z", 'the others know of it');
is(us('SELECT mrsync.resend(mrsync.current_hlc())'), 0, 'nothing is newer than now');
like(($lab->sql_try('us', 'SELECT mrsync.resend(after_sequence => -5)'))[2], qr/22023: +a sequence is not negative: -5\nHINT:/, 'a sequence that is none');
my $stamp = us("SELECT mrsync.current_hlc()");
eu("UPDATE t SET v = 'newer' WHERE id = 1; DELETE FROM t WHERE id = 2");
$lab->drain;
is(us("SELECT mrsync.resend('$stamp')"), 2, 'from a stamp on: a row and a deletion, of another region');
like(($lab->sql_try('us', "SELECT mrsync.resend(region => 'eu')"))[2], qr/22023.*Call mrsync\.resend\(\) in region "eu"/s, 'of another region: there');
us('CREATE ROLE operator LOGIN');
like(($lab->sql_try('us', 'SELECT mrsync.resend()', user => 'operator'))[2], qr/42501/, 'not everybody may');
us('GRANT EXECUTE ON FUNCTION mrsync.resend(mrsync.hlc, text, bigint) TO operator');
is(($lab->sql_try('us', "SELECT mrsync.resend('$stamp')", user => 'operator'))[1], 2, 'who is granted it, may');
# Messages of the same name that others write are not believed.
us(<<'');
	SELECT pg_logical_emit_message(false, 'mrsync.resend', '{"event_id":"forged"}');
	SELECT pg_logical_emit_message(true, 'mrsync.resend', 'forged');

$lab->drain;
is(worker_state($lab, 'us', 'extractor'), 'running', 'messages of that name that somebody else writes are passed over');

# ---- every kind of change, in a hole

$lab->lose_slot('us');
us(<<'');
	INSERT INTO t VALUES (1001, 'inserted');
	UPDATE t SET v = 'of us, changed' WHERE id = 3;
	UPDATE t SET v = 'of eu, changed' WHERE id = 103;
	UPDATE t SET v = 'of ap, changed' WHERE id = 203;
	DELETE FROM t WHERE id IN (4, 104, 204);
	UPDATE t SET id = 1005 WHERE id = 5;
	BEGIN; DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (6, 'deleted and inserted'); COMMIT;
	BEGIN; INSERT INTO t VALUES (1007, 'in vain'); DELETE FROM t WHERE id = 1007; COMMIT;
	BEGIN; UPDATE t SET n = 1 WHERE id = 8; UPDATE t SET n = 2 WHERE id = 8; SAVEPOINT s; UPDATE t SET n = 3 WHERE id = 8; COMMIT;
	BEGIN; UPDATE t SET v = 'not meant'; ROLLBACK;
	DELETE FROM keys WHERE id = 1;
	UPDATE keys SET id = 2.5, v = NULL WHERE id = 2.50;
	UPDATE keys SET "Second Key" = E'\n"\\' WHERE id = 3;
	UPDATE wide SET small = 'us' WHERE id = 1;
	UPDATE wide SET big = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 100000) i), "a ""b""" = '{1,NULL}' WHERE id = 2;
	UPDATE wide SET big = NULL WHERE id = 3;
	UPDATE parts SET part = 2 WHERE id = 3;
	DELETE FROM parts_1 WHERE id = 6;
	TRUNCATE parts_3;
	BEGIN; TRUNCATE empty; INSERT INTO empty VALUES (1), (99); COMMIT;

# the others go on meanwhile, also with what us has changed
eu("UPDATE t SET v = 'eu, meanwhile' WHERE id IN (3, 4, 8, 210); INSERT INTO t VALUES (1002, 'eu')");
ap("UPDATE t SET v = 'ap, meanwhile' WHERE id IN (103, 7); DELETE FROM t WHERE id IN (8, 105); INSERT INTO t VALUES (1003, 'ap')");
$lab->wait_for($_, 'SELECT count(*) FROM t WHERE id IN (1002, 1003)', 2) for $lab->regions;
us('SELECT mrsync.slot_recreate()');
us("INSERT INTO t VALUES (1010, 'behind the hole'); UPDATE t SET n = 10 WHERE id = 10");
stops($_, 1010) for qw(eu ap);
# one that leaves something out is not enough
my %position = map { $_ => position($_) } qw(eu ap);
us("SELECT mrsync.resend('$stamp')");
$lab->wait_until("$_ to say why it does not go on", sub { link_state($_, 'us') =~ /the resend \S+ left out what is not above $stamp/ }) for qw(eu ap);
is(position($_), $position{$_}, "$_ does not say that it was past the hole") for qw(eu ap);
%conflicts = map { $_ => conflicts($_) } $lab->regions;
us('SELECT mrsync.resend()');
$lab->drain;
same('every kind of change in a hole');
is(conflicts($_), $conflicts{$_}, "in $_ nothing that was sent again was a conflict") for $lab->regions;
is(us('SELECT id FROM empty ORDER BY id'), "1\n99", 'as it is in us');
streaming();
# versions have survived: who writes below them loses, who writes above wins
$lab->same("SELECT id, mrsync.version_below(tableoid, ctid, xmin, '$stamp', 'a') FROM t ORDER BY id", 'rows are as old as they are');
%before = map { $_ => versions($_) } $lab->regions;
us('SELECT mrsync.resend()');
eu('SELECT mrsync.resend()');
ap('SELECT mrsync.resend()');
$lab->drain;
is(versions($_), $before{$_}, "all is sent again by all, and nothing is written in $_") for $lab->regions;

# ---- rows held aside are sent, too, also one that comes in meanwhile: all is as one snapshot saw it, also a table that
# ---- somebody rewrites

$lab->tables(<<'', qw(names later last));
	CREATE TABLE names (id int PRIMARY KEY, v text UNIQUE);
	CREATE TABLE later (id int PRIMARY KEY, c regconfig);
	CREATE TABLE last (id int PRIMARY KEY, n int);

us("INSERT INTO later VALUES (1, 'english'); INSERT INTO last VALUES (1, 1), (2, 2)");
$lab->pause;
us("INSERT INTO names VALUES (1, 'bob')");
eu("INSERT INTO names VALUES (2, 'bob')");
$lab->resume;
$lab->drain;
$lab->wait_for('us', "SELECT row_pk ->> 'id' FROM mrsync.row_aside", 1);
$sent = us('SELECT mrsync.resend()');
# It reads the tables in the order in which they were made, and waits at the first text of a regconfig.
sub resend_held
{
	my ($holder, $sender) = map { $lab->session('us') } 1 .. 2;
	$holder->sql('BEGIN; LOCK TABLE pg_ts_config');
	$sender->send('SELECT mrsync.resend()');
	$lab->wait_for('us', "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT mrsync.resend()%' AND wait_event_type = 'Lock'", 1);
	return ($holder, $sender);
}
my ($holder, $sender) = resend_held();
eu("UPDATE names SET v = 'bobby' WHERE id = 2");
$lab->wait_for('us', 'SELECT v FROM names WHERE id = 1', 'bob');
my $alter = $lab->session('us');
$alter->send('ALTER TABLE last ALTER n TYPE bigint');
$lab->wait_until('the rewrite to end, or to wait', sub { !$alter->busy || us("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%' AND wait_event_type = 'Lock'") });
$holder->sql('COMMIT');
is $sender->result, $sent, 'no row is missed that leaves row_aside for its table in the middle of a resend, none of a table that is rewritten';
$alter->result;
$_->close for $holder, $sender, $alter;
push @tables, qw(names later last nicks);

# ---- a resend that had begun before what is missing was committed does not have it

us("UPDATE t SET c = 'english' WHERE id = 10");    # in the first table: nothing is sent yet
$lab->drain;
$lab->pause('us>eu', 'us>ap');
($holder, $sender) = resend_held();
us('INSERT INTO empty VALUES (1008)');
my $lsn = us('SELECT pg_current_wal_lsn()');
$lab->wait_for('us', "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE plugin = 'mrsync'");
my $former = end_of_topic('us');
lose_topic('us');
# The broker may take some for the former topic: what is sent from here on is to stand in the new one.
my $row = 1008;
$lab->wait_until('the new topic to take what comes', sub { us('INSERT INTO empty VALUES (' . ++$row . ')'); return end_of_topic('us') < $former && end_of_topic('us') > 0 });
$holder->sql('COMMIT');
$sender->result;
$_->close for $holder, $sender;
%position = map { $_ => position($_) } qw(eu ap);
$lab->resume('us>eu', 'us>ap');
for my $region (qw(eu ap))
{
	$lab->wait_until("$region to come to its end", sub { link_state($region, 'us') =~ /the resend \S+ had begun before what is missing was committed/ || position($region) ne $position{$region} });
	is(position($region), $position{$region}, "$region does not go on behind a resend that had begun before what is missing was committed");
}
us('SELECT mrsync.resend()');
$lab->drain;
same('one that begins later does');
is(eu('SELECT count(*) FROM empty WHERE id = 1008'), 1, 'it has what was missing');
streaming();

# ---- a resend that was cut short, one that does not reach the topic, a restart in the middle

$lab->lose_slot('us');
us("UPDATE t SET v = 'in the second hole' WHERE id <= 20; DELETE FROM t WHERE id = 21");
# a row that is held aside, and was sent to nobody; and one that is in its table in another form
$lab->pause('eu>us');
us("INSERT INTO names VALUES (3, 'before'); BEGIN; DELETE FROM names WHERE id = 3; INSERT INTO names VALUES (3, 'carl'); COMMIT; INSERT INTO nicks VALUES (3, 'carl')");
eu("INSERT INTO names VALUES (4, 'carl'); INSERT INTO nicks VALUES (4, 'carl')");
$lab->resume('eu>us');
my $aside = "SELECT relation, row_pk ->> 'id', is_placed FROM mrsync.row_aside ORDER BY relation::text";
$lab->wait_for('us', $aside, "names|3|f\nnicks|3|t");
us('SELECT mrsync.slot_recreate()');
us("INSERT INTO t VALUES (1011, 'behind')");
stops('eu', 1011);
($lab->sql_try('us', "BEGIN; SELECT mrsync.resend(); ROLLBACK"));
is(us('SELECT count(*) FROM mrsync.resend WHERE region_id = \'us\''), eu("SELECT count(*) FROM mrsync.resend WHERE region_id = 'us'"), 'one that was rolled back has no end');
$lab->drain('eu', 'ap');
like(link_state('eu', 'us'), qr/^degraded: t/, 'and mends nothing');
# the applier dies in the middle
$lab->stop('eu');
us('SELECT mrsync.resend()');
$lab->start('eu');
$lab->kill9('eu');
$lab->start('eu');
$lab->wait_until('the workers of eu', sub { worker_pid($lab, 'eu', 'applier', 'us') });
$lab->drain;
same('a resend met after a restart');
is($lab->same($aside, 'and what is held aside is, too'), "names|3|f\nnicks|3|t", 'the rows of the hole');
eu("UPDATE $_ SET v = 'carla' WHERE id = 4") for qw(names nicks);
for my $table (qw(names nicks))
{
	$lab->wait_for($_, "SELECT v FROM $table WHERE id = 3", 'carl') for $lab->regions;
}
streaming();

# ---- a new link, whose source has no beginning any more

eu("SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE source_region = 'us'");
$lab->wait_until('its applier to end', sub { !worker_pid($lab, 'eu', 'applier', 'us') });
eu("DELETE FROM mrsync.link_position WHERE source_region = 'us'");
us("INSERT INTO t SELECT 2000 + i, 'while there was no link' FROM generate_series(1, 50) i; DELETE FROM t WHERE id = 22");
my ($low, $high) = split ' ', `$kafkactl @{[ $lab->broker ]} offsets mrsync.$group.us`;
is(system("$kafkactl @{[ $lab->broker ]} expire mrsync.$group.us $high >/dev/null"), 0, 'what the topic holds expires');
us("INSERT INTO t VALUES (1012, 'after that')");
eu("SELECT mrsync.link_create('us', 'eu')");
$lab->wait_until('eu to miss the beginning', sub { link_state('eu', 'us') =~ /^degraded: topic \S+ does not begin with the first transaction of region us/ });
us('SELECT mrsync.resend()');
$lab->drain;
same('a new link to a source whose topic has lost its beginning');
streaming();

# ---- everything under load, while deletions are forgotten as soon as they decide nothing any more

$lab->everywhere("DELETE FROM mrsync.region WHERE region_id = 'nobody'");

# Rows of one's own, rows of everybody's, deletes, keys that come and go.
my @loads = map { my $region = $_; Mrsync::Load->start($lab, $region, clients => 2, rate => 40, scripts => [
	[ "\\set id random(1, 60)\nINSERT INTO t VALUES (3000 + :id, '$region') ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = t.n + 1;", 3 ],
	[ "\\set id random(1, 60)\nDELETE FROM t WHERE id = 3000 + :id;", 1 ],
	[ "\\set id random(1, 1000000)\nBEGIN; INSERT INTO t VALUES (1000000 + :id, '$region') ON CONFLICT DO NOTHING; UPDATE t SET n = n + 1 WHERE id = 1000000 + :id - 1; COMMIT;", 2 ],
	[ "\\set id random(1, 20)\n\\set part random(1, 4)\nBEGIN; DELETE FROM parts WHERE id = 100 + :id; INSERT INTO parts VALUES (100 + :id, :part, '$region') ON CONFLICT DO NOTHING; COMMIT;", 1 ],
]) } $lab->regions;
my $of = { us => "v = 'us' AND id > 1000000", eu => "v = 'eu' AND id > 1000000", ap => "v = 'ap' AND id > 1000000" };
sub rows_of { my ($at, $region) = @_; return $lab->sql($at, "SELECT count(*) FROM t WHERE $of->{$region}") }
sub goes_on { my ($region) = @_; my $n = rows_of($region, $region); $lab->wait_until("the load in $region", sub { rows_of($region, $region) > $n + 20 }) }
goes_on($_) for $lab->regions;
# The links from a region are mended while everybody writes.
sub mended
{
	my ($region, $name) = @_;
	my @peers = $lab->peers($region);
	$lab->wait_until("$_ to name it", sub { link_state($_, $region) =~ /^degraded: t/ }) for @peers;
	goes_on($_) for $lab->regions;
	$lab->sql($region, 'SELECT mrsync.resend()');
	my $n = rows_of($region, $region);
	$lab->wait_until("$_ to have it", sub { rows_of($_, $region) >= $n && link_state($_, $region) !~ /^degraded/ }) for @peers;
	pass("$name: the links go on by themselves");
}
$lab->lose_slot('us');
goes_on('us');
us('SELECT mrsync.slot_recreate()');
mended('us', 'a lost slot under load');

my @paused = ('eu>us', 'eu>ap');
$lab->pause(@paused);
goes_on('eu');
lose_topic('eu');
$lab->resume(@paused);
mended('eu', 'a topic made anew under load');

@paused = ('ap>us', 'ap>eu');
$lab->pause(@paused);
goes_on('ap');
($low, $high) = split ' ', `$kafkactl @{[ $lab->broker ]} offsets mrsync.$group.ap`;
is(system("$kafkactl @{[ $lab->broker ]} expire mrsync.$group.ap $high >/dev/null"), 0, 'the topic of ap has passed its retention');
goes_on('ap');
$lab->resume(@paused);
mended('ap', 'a topic past its retention under load');

# two at once, and the slot of a third
$lab->lose_slot($_) for qw(us eu);
goes_on($_) for $lab->regions;
$lab->sql($_, 'SELECT mrsync.slot_recreate()') for qw(us eu);
mended($_, "two lost slots at once, $_") for qw(us eu);

$_->finish for @loads;
$lab->drain;
same('after all that under load');
streaming();
my $rows = us('SELECT count(*) FROM t');
diag("$rows rows, resends: " . us('SELECT count(*) FROM mrsync.resend'));

is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
