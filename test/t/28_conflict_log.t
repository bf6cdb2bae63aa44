# The log of conflicts: what is kept, for how long, and what becomes of a conflict that somebody decides anew.
#
# The log is what people look at afterwards, so an entry goes when its time has come and not before, and pruning it holds nobody
# up: the coordinator, which does it, sends the heartbeats, too, and a session that works on the log may hold its locks for hours.
#
# A decision that was wrong is put right by conflict_redecide() in any region that has logged it. It has to reach every other one as the
# next write of the row (I1, I11), whoever won before, also where the region's clock is behind the winner's; and to be no new conflict.
#
# And the log is the same in every region, but for the time (I3): each is told of what others have met, whether it was away, crashed, or
# reads it twice; and both sides of an entry are events that the topics have.
use strict;
use warnings;
use File::Basename qw(dirname);
use JSON::PP;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid);

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions, settings => { 'mrsync.conflict_log_retention' => -1 });

sub sql { return $lab->sql(@_) }
sub retention
{
	my ($value) = @_;
	sql('us', "ALTER SYSTEM SET mrsync.conflict_log_retention = '$value'");
	sql('us', 'SELECT pg_reload_conf()');
}
my $held_up = "(SELECT cardinality(pg_blocking_pids(pid)) > 0 FROM mrsync.worker_status WHERE worker = 'coordinator')";
# The coordinator has gone round for so many seconds from now on, by its own clock; or it waits for a session, as it must not.
sub rounds
{
	my ($seconds) = @_;
	my $from = sql('us', 'SELECT clock_timestamp()');
	$lab->wait_for('us', "SELECT sent_at > '$from'::timestamptz + interval '$seconds s' OR $held_up FROM mrsync.heartbeat WHERE region_id = 'us'");
}
sub log_of { open my $file, '<', $lab->server_log($_[0]) or die; local $/; return scalar <$file> }
sub entries { return sql('us', q(SELECT string_agg(concat(d, ':', n), ' ' ORDER BY d) FROM (SELECT (row_pk ->> 'days')::integer d, count(*) n FROM mrsync.conflict_log WHERE table_name = 'public.none' GROUP BY 1) x)) }

# ---------------------------------------------------------------------------------------------------------------------
# How long it keeps an entry
# ---------------------------------------------------------------------------------------------------------------------
sql('us', <<'SQL');
INSERT INTO mrsync.conflict_log (conflict_id, conflict_type, table_name, row_pk, region_b, hlc_b, resolution_strategy, winner_region, resolved_at)
SELECT gen_random_uuid(), 'insert_exists', 'public.none', jsonb_build_object('days', d::text), 'eu', '2026-01-01 00:00:00Z', 'last_writer_wins', 'eu', now() - make_interval(days => d)
FROM unnest('{2,29,31,4000}'::integer[]) d, generate_series(1, 700);
SQL
rounds(6);
is entries(), '2:700 29:700 31:700 4000:700', 'for ever with -1';
retention(0);
$lab->wait_for('us', 'SHOW mrsync.conflict_log_retention', '0');
rounds(6);
is entries(), '2:700 29:700 31:700 4000:700', 'and with 0';

my $reader = $lab->session('us');
$reader->sql('BEGIN; SELECT count(*) FROM (SELECT FROM mrsync.conflict_log WHERE resolved_at < now() - interval \'3999 d\' LIMIT 5 FOR UPDATE) x');
retention('30d');
$lab->wait_until('what is older has gone', sub { entries() eq '2:700 29:700 4000:5' || sql('us', "SELECT $held_up") eq 't' });
rounds(6);
is entries(), '2:700 29:700 4000:5', 'what is older goes, but for what a session has locked, which is not waited for';
$reader->sql('COMMIT');
$lab->wait_until('those, too', sub { entries() eq '2:700 29:700' });
pass 'that goes when the session is done';

$reader->sql('BEGIN; LOCK TABLE mrsync.conflict_log IN SHARE MODE');
retention('1d');
rounds(6);
is entries(), '2:700 29:700', 'nor is a lock on the log';
$lab->wait_until('the log to say so', sub { log_of('us') =~ /could not prune mrsync\.conflict_log: could not obtain lock on relation "mrsync\.conflict_log"/ });
pass 'which the server\'s log tells';
$reader->sql('COMMIT');
retention('-1');
sql('us', 'DELETE FROM mrsync.conflict_log');

# ---------------------------------------------------------------------------------------------------------------------
# Decided anew
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', qw(decided parted));
CREATE TABLE decided (id numeric PRIMARY KEY, v text, large text, at timestamptz);
CREATE TABLE parted (id integer, kind text, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
SQL
sub conflicts { return join ' ', map { sql($_, "SELECT count(*) FROM mrsync.conflict_log") } @regions }
sub id_of { my ($region, $table, $id) = @_; return sql($region, "SELECT conflict_id FROM mrsync.conflict_log WHERE table_name = 'public.$table' AND row_pk ->> 'id' = '$id' ORDER BY hlc_b DESC LIMIT 1") }

$lab->clock('us', -300);    # a stamp above what it decides about has to come from the clock, not from the time
sql('us', <<'SQL');
INSERT INTO decided SELECT i, 'seed', (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 1000) j), '2026-01-02 03:04:05+06' FROM generate_series(1, 4) i;
INSERT INTO parted VALUES (1, 'a', 'seed');
SQL
$lab->drain;
$lab->pause;
sql('us', "UPDATE decided SET v = 'us' WHERE id <= 2; DELETE FROM decided WHERE id = 3; INSERT INTO decided VALUES (5.0, 'us', 'us'); UPDATE parted SET v = 'us'");
# eu is the last writer everywhere; us has begun anew some seconds ahead of its former clock, so of eu's, too
my $us = sql('us', 'SELECT mrsync.current_hlc()');
$lab->wait_for('eu', "SELECT clock_timestamp()::mrsync.hlc OPERATOR(mrsync.>) '$us'::mrsync.hlc");
sql('eu', "UPDATE decided SET v = 'eu', large = reverse(large), at = NULL WHERE id <= 3; INSERT INTO decided VALUES (5.00, 'eu', 'eu'); UPDATE parted SET v = 'eu'");
sql('eu', 'DELETE FROM decided WHERE id = 2');
$lab->resume;
$lab->drain;
is $lab->same('SELECT id, v FROM decided ORDER BY id', 'before: equal'), "1|eu\n3|eu\n4|seed\n5.00|eu", 'eu has won';
$lab->conflicts_told;
my $before = conflicts();
like $before, qr/^([5-9]) \1 \1$/, 'each region has the conflicts';

is sql('us', "SELECT mrsync.conflict_redecide('" . id_of('us', 'decided', 1) . "', 'a')"), 'updated', 'in us: for us, an UPDATE';
is sql('eu', "SELECT mrsync.conflict_redecide('" . id_of('eu', 'decided', 2) . "', 'a')"), 'inserted', 'in eu: for us, a row that eu had deleted';
is sql('ap', "SELECT mrsync.conflict_redecide('" . id_of('ap', 'decided', 3) . "', 'a')"), 'deleted', 'in ap: for us, which had deleted the row';
is sql('us', "SELECT mrsync.conflict_redecide(conflict_id, 'a') FROM mrsync.conflict_log WHERE table_name = 'public.decided' AND image_a ->> 'id' = '5.0'"), 'updated', 'a key in another text';
is sql('ap', "SELECT mrsync.conflict_redecide('" . id_of('ap', 'parted', 1) . "', 'a')"), 'updated', 'in a partition';
$lab->drain;
is $lab->same('SELECT id, v FROM decided ORDER BY id', 'decided anew: equal'), "1|us\n2|us\n4|seed\n5.0|us", 'and as decided';
is $lab->same('SELECT md5(large) = md5((SELECT large FROM decided WHERE id = 4)), at FROM decided WHERE id = 1', 'the whole row: equal'),
	't|2026-01-01 21:04:05+00', 'as the image has it';
is $lab->same('SELECT * FROM parted_a', 'in the partition: equal'), '1|a|us', 'too';
is conflicts(), $before, 'none of it is a conflict';

# in another region, the other way round; and a second time
is sql('eu', "SELECT mrsync.conflict_redecide('" . id_of('us', 'decided', 1) . "', 'b')"), 'updated', 'another region decides the same conflict for the other side';
$lab->drain;
is $lab->same('SELECT id, v FROM decided WHERE id = 1', 'equal'), '1|eu', 'the later decision counts';
is conflicts(), $before, 'nor is this one';

# ap hears of the decision before it hears of the write that had won
$lab->pause(qw(us>eu eu>us eu>ap));
sql('us', "UPDATE decided SET v = 'us, late' WHERE id = 4");
sql('eu', "UPDATE decided SET v = 'eu, late' WHERE id = 4");
$lab->resume(qw(us>eu eu>us));
$lab->wait_for('us', 'SELECT v FROM decided WHERE id = 4', 'eu, late');
is sql('us', "SELECT mrsync.conflict_redecide('" . id_of('us', 'decided', 4) . "', 'a')"), 'updated', 'decided where both are known';
sql('us', "INSERT INTO decided VALUES (7, 'marker')");
$lab->wait_for('ap', 'SELECT count(*) FROM decided WHERE id = 7', 1);
$lab->resume('eu>ap');
$lab->drain;
is $lab->same('SELECT id, v FROM decided WHERE id = 4', 'equal'), '4|us, late', 'and not undone by what comes late';
# ---------------------------------------------------------------------------------------------------------------------
# The same in every region
# ---------------------------------------------------------------------------------------------------------------------
# What the topics have: by region, stamp, table and key, the last event of the transaction on the row.
my $group = $lab->state('group');
my $top = dirname(__FILE__) . '/../..';
my $kafkactl = "'$top/build/kafkactl' '" . $lab->broker . "'";
sub name_of { my ($region, $hlc, $table, $pk) = @_; return join ' ', $region, $hlc, $table, map { /^[\d.]+$/ ? $_ + 0 : $_ } map { $pk->{$_} } sort keys %$pk }
sub topic { my ($name) = @_; return map { /^\d+\t(.*)/ ? $1 : () } split /\n/, `$kafkactl cat mrsync.$group.$name` }
sub logs_equal
{
	my ($what) = @_;
	$lab->conflicts_told;
	my @entries = split /\n/, $lab->same($Mrsync::Lab::CONFLICTS, "$what: the logs are equal");
	my %event;
	for my $region (@regions)
	{
		for (topic($region))
		{
			my $event = decode_json($_);
			next if !$event->{row_pk};
			$event{ name_of($region, @$event{qw(hlc_timestamp table_name row_pk)}) } = $event->{event_id};
		}
	}
	my (@unknown, @other);
	for (map { decode_json($_) } @entries)
	{
		for my $side (qw(a b))
		{
			my $key = name_of(@$_{ "region_$side", "hlc_$side", qw(table_name row_pk) });
			my $event = $_->{"event_id_$side"};
			push @unknown, $key if !defined $event;
			push @other, "$key: $event, not $event{$key}" if defined $event && $event ne ($event{$key} // 'nothing');
		}
	}
	is "@unknown", '', "$what: both sides' events are named";
	is "@other", '', "$what: as the topics have them";
	return scalar @entries;
}
logs_equal('what was met so far');
is $lab->same("SELECT image_a ->> 'v', image_b ->> 'v' FROM mrsync.conflict_log WHERE table_name = 'public.decided' AND row_pk ->> 'id' = '4'", 'its conflicts: equal'), 'us, late|eu, late',
	'which is no conflict with the decision: that knew of it';
$lab->tables('CREATE TABLE told (id integer PRIMARY KEY, v text); ALTER TABLE told ALTER v SET STORAGE EXTERNAL; CREATE TABLE thrice (id integer PRIMARY KEY, v text);', 'told', 'thrice');
sub collide
{
	my ($a, $b, @ids) = @_;
	$lab->pause(grep { $_ eq "$a>$b" || $_ eq "$b>$a" } $lab->links);
	sql($a, "UPDATE told SET v = '$a' WHERE id = $_") for @ids;
	sql($b, "BEGIN; UPDATE told SET v = 'first' WHERE id = $_; UPDATE told SET v = '$b' WHERE id = $_; COMMIT") for @ids;
	$lab->resume("$a>$b", "$b>$a");
}
sql('us', "INSERT INTO $_ SELECT i, 'seed' FROM generate_series(1, 20) i") for qw(told thrice);
$lab->drain;

# one after the other through three regions
sql('us', "UPDATE told SET v = 'one' WHERE id = 1");
$lab->drain;
sql('eu', "UPDATE told SET v = 'two' WHERE id = 1");
$lab->drain;
sql('ap', 'DELETE FROM told WHERE id = 1');
$lab->drain;

# Three regions write a row at once, and the last of them is heard first: the two others never meet, but are in conflict, too. So is a
# fourth write with each of three, but for the one that it had seen. us is the earliest.
{
	$lab->pause;
	sql('us', "UPDATE thrice SET v = 'us' WHERE id <= 4");
	sql('eu', "UPDATE thrice SET v = 'eu' WHERE id <= 3; DELETE FROM thrice WHERE id = 4");
	sql('ap', "UPDATE thrice SET v = 'ap' WHERE id <> 3; DELETE FROM thrice WHERE id = 3");
	$lab->resume('ap>us', 'ap>eu');
	$lab->wait_for($_, 'SELECT v FROM thrice WHERE id = 4', 'ap') for qw(us eu);
	sql('eu', "UPDATE thrice SET v = 'eu, later' WHERE id = 2");
	$lab->resume;
	$lab->drain;
	logs_equal('three writers');
	my $pairs = "SELECT row_pk ->> 'id', coalesce(image_a ->> 'v', 'gone'), region_a, coalesce(image_b ->> 'v', 'gone'), region_b, conflict_type FROM mrsync.conflict_log WHERE table_name = 'public.thrice' AND (row_pk ->> 'id')::integer <= 4 ORDER BY 1, hlc_a, hlc_b";
	is $lab->same($pairs, 'each pair of three writers: equal'), join("\n",
		'1|us|us|eu|eu|update_origin_differs', '1|us|us|ap|ap|update_origin_differs', '1|eu|eu|ap|ap|update_origin_differs',
		'2|us|us|eu|eu|update_origin_differs', '2|us|us|ap|ap|update_origin_differs', '2|us|us|eu, later|eu|update_origin_differs', '2|eu|eu|ap|ap|update_origin_differs',
		'3|us|us|eu|eu|update_origin_differs', '3|us|us|gone|ap|delete_origin_differs', '3|eu|eu|gone|ap|delete_origin_differs',
		'4|us|us|gone|eu|delete_origin_differs', '4|us|us|ap|ap|update_origin_differs', '4|gone|eu|ap|ap|update_deleted'), 'is there, whether they have met or not';
}

# an image that travels in chunks
$lab->pause('us>eu', 'eu>us');
sql('us', "UPDATE told SET v = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 100000) i) WHERE id = 2");
sql('eu', "UPDATE told SET v = 'short' WHERE id = 2");
$lab->resume('us>eu', 'eu>us');
$lab->drain;
logs_equal('a value of 3 MB');
is $lab->same("SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.told' AND row_pk ->> 'id' = '1'", 'writes that follow each other: equal'), 0, 'are in no log';
is $lab->same("SELECT length(image_a ->> 'v') FROM mrsync.conflict_log WHERE table_name = 'public.told'", 'it is in all logs'), 3200000, 'whole';

# a region that is away, one that crashes and applies anew
$lab->stop('ap');
collide('us', 'eu', 3 .. 6);
$lab->wait_for('eu', "SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.told'", 5);
$lab->kill9('eu');
$lab->start('eu');
$lab->wait_for('us', "SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.told'", 5);
$lab->kill9('us');
$lab->start('us');
$lab->start('ap');
$lab->drain;
logs_equal('a region was away, the others have crashed');
like conflicts(), qr/^(\d+) \1 \1$/, 'all have as many';

# what a topic brings twice, garbled, or anew
my $count = conflicts();
my $rows = 'SELECT md5(string_agg(concat(xmin, ctid), chr(44) ORDER BY conflict_id)) FROM mrsync.conflict_log';
my %rows = map { $_ => sql($_, $rows) } @regions;
my @told = topic('us.control');
my ($incarnation) = $told[-1] =~ /"incarnation":(\d+)/;
my @reports = map { s/"incarnation":\d+/"incarnation":$incarnation/r } grep { /"mrsync\.conflict_report"/ && length() < 10000 } @told;
cmp_ok scalar @reports, '>', 4, 'us has told the others';
open my $producer, '|-', "$kafkactl produce mrsync.$group.us.control" or die;
print $producer "$_\n" for @reports, map { my $garbled = $_; $garbled =~ s/("hlc_b":")[^"]*/$1garbled/; $garbled } $reports[0];
close $producer or die;
for my $region (qw(eu ap))
{
	$lab->wait_until("$region to skip what is garbled", sub { log_of($region) =~ /skipped the record at offset \d+ of topic mrsync\.$group\.us\.control: invalid input syntax for type (?:mrsync\.)?hlc/ });
}
my $read = sql('ap', "SELECT next_offset FROM mrsync.control_position WHERE region_id = 'us'");
my $forgets = $lab->session('ap');    # while nobody can read the positions, nor write them down anew
my $coordinator = worker_pid($lab, 'ap', 'coordinator');
$forgets->sql('BEGIN; LOCK TABLE mrsync.control_position IN ACCESS EXCLUSIVE MODE');
$forgets->sql("SELECT pg_terminate_backend($coordinator)");
$lab->wait_for('ap', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $coordinator)");
$forgets->sql('UPDATE mrsync.control_position SET next_offset = 0, incarnation = 0; COMMIT');
$forgets->close;
$lab->wait_for('ap', "SELECT next_offset >= $read FROM mrsync.control_position WHERE region_id = 'us'");
$lab->conflicts_told;
is conflicts(), $count, 'what is told twice, or read from the beginning, adds nothing';
is sql($_, $rows), $rows{$_}, "and changes nothing in $_" for qw(eu ap);

# what the log does not keep any more does not come back
sql('eu', "ALTER SYSTEM SET mrsync.conflict_log_retention = '1d'");
sql('eu', 'SELECT pg_reload_conf()');
$lab->wait_for('eu', 'SHOW mrsync.conflict_log_retention', '1d');
sql('us', "WITH old AS (UPDATE mrsync.conflict_log SET resolved_at = now() - interval '2 d', conflict_id = gen_random_uuid() WHERE row_pk ->> 'id' = '3' AND table_name = 'public.told' RETURNING conflict_id) INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM old");
$lab->conflicts_told;
my $third = "SELECT count(*) FROM mrsync.conflict_log WHERE table_name = 'public.told' AND row_pk ->> 'id' = '3'";
is sql('ap', $third), 2, 'an old one is told';
is sql('eu', $third), 1, 'and left out where it would have gone by now';

$lab->healthy;
done_testing;
