# A resend of tables with merge rules: the events that rows were merged of are sent again, too, so that regions that lack some of them
# merge them, and those that have them do not twice.
#
# Proves I8 for merged rows: counters are exact, and a text to which each event appends has every event once, in the order of their
# stamps, everywhere. Events are lost with a slot while all regions write; they come by a resend and in the ordinary way, in either order.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(terminate worker_pid log_trouble);

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->tables(<<'SQL', qw(stock story parts));
CREATE TABLE stock (id integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0, note text);
CREATE TABLE story (id numeric PRIMARY KEY, v text);
CREATE TABLE parts (id integer, part integer, n bigint, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 (n bigint, part integer NOT NULL, id integer NOT NULL);
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES IN (2);
SQL
# neither commutative nor associative
$lab->sql('us', <<'SQL');
CREATE FUNCTION append(ancestor text, a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT a || substr(b, length(ancestor) + 1) $$;
SQL
$lab->drain;
for ([ 'stock', 'mrsync.merge_counter(bigint, bigint, bigint)', 'n' ], [ 'story', 'append(text, text, text)', 'v' ], [ 'parts', 'mrsync.merge_counter(bigint, bigint, bigint)', 'n' ])
{
	my ($table, $function, $column) = @$_;
	my $id = $lab->sql('us', "SELECT mrsync.merge_function_register('$table', '$function', '$column')");
	$lab->sql('us', "SELECT mrsync.merge_function_wait('$id', '60 s')");
}
my $conflicts = 'SELECT conflict_id, conflict_type, table_name, row_pk, event_id_a, event_id_b, image_a, image_b, result, resolution_strategy FROM mrsync.conflict_log ORDER BY 1';
my $told = 0;
sub add { my ($region, $id) = @_; ++$told; $lab->sql($region, "UPDATE story SET v = v || ' $region$told' WHERE id = $id") }
sub equal
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $table (qw(stock story parts))
	{
		$lab->same("SELECT * FROM $table ORDER BY id", "$name: $table is the same everywhere");
		$lab->same("SELECT id, (mrsync.row_version(tableoid, ctid, xmin)).* FROM $table ORDER BY id", "$name: and so are its versions");
	}
}
my $story = "SELECT id, array_length(string_to_array(v, ' '), 1) - 1, (SELECT count(DISTINCT w) FROM unnest(string_to_array(v, ' ')) w) - 1 FROM story WHERE id = ";

$lab->sql('us', "INSERT INTO stock SELECT i, 100, 'seed' FROM generate_series(1, 20) i; INSERT INTO story SELECT i, '.' FROM generate_series(1, 5) i; INSERT INTO parts SELECT i, 1 + i % 2, 0 FROM generate_series(1, 10) i");
$lab->drain;

# ---- what us writes is lost on its way, and the others write meanwhile
$lab->lose_slot('us');
$lab->sql('us', <<'SQL');
UPDATE stock SET n = n + 1;
BEGIN; UPDATE stock SET n = n + 1 WHERE id = 2; UPDATE stock SET n = n - 1 WHERE id = 2; UPDATE stock SET n = n + 1 WHERE id = 2; COMMIT;
BEGIN; DELETE FROM stock WHERE id = 3; INSERT INTO stock VALUES (3, 7, 'again'); UPDATE stock SET n = n + 1 WHERE id = 3; COMMIT;
DELETE FROM stock WHERE id = 4;
INSERT INTO stock VALUES (101, 5, 'new'), (102, 5, 'both');
UPDATE stock SET n = n + 1 WHERE id = 101;
UPDATE parts SET n = n + 1;
SQL
add('us', 1), add('us', '2.0');
$lab->sql('eu', "UPDATE stock SET n = n + 10 WHERE id <= 10; INSERT INTO stock VALUES (102, 7, 'eu'); UPDATE parts SET n = n + 10");
add('eu', 1), add('eu', 2);
$lab->sql('ap', "UPDATE stock SET n = n + 1000, note = 'ap' WHERE id <= 20; UPDATE parts SET n = n + 1000");
add('ap', 1);
$lab->wait_for('us', "SELECT bool_and(v LIKE '%eu%') AND bool_or(id = 1 AND v LIKE '%ap%') FROM story WHERE id IN (1, 2)");
add('us', 1);
$lab->sql('us', 'SELECT mrsync.slot_recreate()');
add('us', 1);
$lab->sql('us', 'UPDATE stock SET n = n + 1 WHERE id = 1');
$lab->sql('us', 'SELECT mrsync.resend()');
add('us', 1);
$lab->drain;
equal('lost with a slot');
$lab->conflicts_told;
my $log = $lab->same($conflicts, 'so are the conflicts, also those that us has met and told meanwhile');
cmp_ok scalar(split /\n/, $log), '>', 20, 'there are some';
is $lab->sql('ap', $story . 1), '1|6|6', 'every event is there once';
is $lab->sql('ap', $story . 2), '2|2|2', 'also under a key in another text';
is $lab->sql('eu', 'SELECT string_agg(n::text, \',\' ORDER BY id) FROM stock WHERE id NOT IN (3, 4)'), join(',', 1112, 1112, (1111) x 6, (1101) x 10, 6, 12), 'counters are exact';
is $lab->sql('eu', 'SELECT string_agg(n::text, \',\' ORDER BY id) FROM parts'), join(',', (1011) x 10), 'in partitions, too';

# ---- sent again by all, nothing changes
my %before = map { $_ => $lab->sql($_, 'SELECT id, n, xmin, ctid FROM stock ORDER BY id') } @regions;
for my $region (@regions)
{
	$lab->sql($region, 'SELECT mrsync.resend()');
}
$lab->drain;
is $lab->sql($_, 'SELECT id, n, xmin, ctid FROM stock ORDER BY id'), $before{$_}, "all is sent again by all, and nothing is written in $_" for @regions;

# ---- the sender has not seen all that is below what it sends
$lab->lose_slot('us');
$lab->pause('ap>us', 'ap>eu');
$lab->sql('ap', 'UPDATE stock SET n = n + 1000 WHERE id IN (12, 13)');
$lab->sql('us', 'UPDATE stock SET n = n + 1 WHERE id IN (12, 13)');
add('ap', 4), add('us', 4);
$lab->sql('us', 'SELECT mrsync.slot_recreate()');
$lab->sql('us', 'SELECT mrsync.resend()');
$lab->wait_for('ap', "SELECT v LIKE '%us%' FROM story WHERE id = 4");
$lab->resume;
$lab->drain;
equal('seen in part');
is $lab->sql('ap', 'SELECT n FROM stock WHERE id = 12'), 2102, 'what was below stays';
is $lab->sql('ap', $story . 4), '4|2|2', 'every event is there once';

# ---- what comes by a resend first, and then as it was sent
for my $round (1 .. 3)
{
	$lab->pause;
	$lab->sql('eu', 'BEGIN; UPDATE stock SET n = n + 1 WHERE id IN (5, 6); UPDATE stock SET n = n + 1 WHERE id IN (5, 6); COMMIT');
	add('eu', 3);
	$lab->sql('ap', 'UPDATE stock SET n = n + 1 WHERE id IN (6, 7); DELETE FROM stock WHERE id = 8; INSERT INTO stock VALUES (8, 5)');
	add('ap', 3);
	$lab->sql('us', 'UPDATE stock SET n = n + 1 WHERE id IN (5, 6, 7, 8)');
	add('us', 3);
	my %sum = map { $_ => $lab->sql('us', "SELECT n FROM stock WHERE id = $_") } 5, 6, 7;
	$lab->deliver([ shuffle('eu>us', 'ap>us') ]);
	$lab->sql('us', 'SELECT mrsync.resend()');
	$lab->deliver(map { [$_] } shuffle('us>eu', 'us>ap', 'eu>ap', 'ap>eu'));
	$lab->drain;
	equal("round $round, by a resend first");
	is $lab->sql('ap', $story . 3), '3|' . 3 * $round . '|' . 3 * $round, 'every event is there once';
	is $lab->sql('ap', "SELECT string_agg(n::text, ',' ORDER BY id) FROM stock WHERE id IN (5, 6, 7)"), join(',', $sum{5} + 2, $sum{6} + 3, $sum{7} + 1), 'counters are exact';
}

# ---- under load, with crashes
$lab->everywhere('CREATE TABLE done (i bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)');
my $start = $lab->sql('us', 'SELECT sum(n) FROM stock WHERE id BETWEEN 11 AND 16');
my @load = map { Mrsync::Load->start($lab, $_, clients => 2, rate => 60, scripts => [
	[ "\\set id random(11, 16)\nBEGIN; UPDATE stock SET n = n + 1 WHERE id = :id; UPDATE stock SET n = n + 1 WHERE id = :id; INSERT INTO done DEFAULT VALUES; COMMIT;", 1 ] ]) } @regions;
sub more { my ($region, $rows) = @_; my $then = $rows + $lab->sql($region, 'SELECT count(*) FROM done'); $lab->wait_for($region, "SELECT count(*) >= $then FROM done") }
more('us', 30);
$lab->lose_slot('us');
more('us', 60);
$lab->sql('us', 'SELECT mrsync.slot_recreate()');
more('us', 30);
my $sender = $lab->session('us');
$sender->send('SELECT mrsync.resend()');
more('eu', 10);
terminate($lab, 'eu', worker_pid($lab, 'eu', 'applier', 'us'));
$lab->kill9('ap');
$lab->start('ap');
$sender->result;
$lab->wait_until('the workers of ap', sub { worker_pid($lab, 'ap', 'applier', 'us') });
$lab->keep_memory;    # versions are compared, and every row is written from here on: a stamp that decides nothing any more would be forgotten
more('us', 30);
$_->finish for @load;
$lab->drain;
equal('under load');
my $done = 0;
$done += $lab->sql($_, 'SELECT count(*) FROM done') for @regions;
is $lab->sql('us', 'SELECT sum(n) FROM stock WHERE id BETWEEN 11 AND 16'), $start + 2 * $done, "$done transactions of two increments: exact";
is $lab->sql($_, 'SELECT count(*) FROM mrsync.apply_error'), 0, "nothing is parked in $_" for @regions;
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
