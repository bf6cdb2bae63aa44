# Tables with merge rules: what three regions do to a row at once, they all have in it in the end.
#
# Proves I1 for the fold, by examples and under load; all that can happen to one row, under every strategy, is in 35_orders.t.
# Links are paused, so that nobody sees what the others write.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(terminate worker_pid);

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->tables(<<'SQL', qw(stock cart doc story vote));
CREATE TABLE stock (id integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0, note text, twice bigint GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE cart (id integer PRIMARY KEY, items text[], d jsonb, t text);
CREATE TABLE doc (id integer PRIMARY KEY, a text, b text, c text);
CREATE TABLE story (id integer PRIMARY KEY, v text);
CREATE TABLE vote (yes integer, id integer PRIMARY KEY, no integer, by text, CHECK (yes + no <= 10));
SQL
$lab->drain;

# From here on everywhere.
sub rule
{
	my ($table, $column, $function) = @_;
	my $call = $function =~ /\(/ ? "merge_function_register('$table', '$function'" : "merge_strategy_set('$table', '$function'";
	my $id = $lab->sql('us', "SELECT mrsync.$call" . (defined $column ? ", '$column')" : ')'));
	$lab->sql('us', "SELECT mrsync.merge_function_wait('$id', '60 s')");
	return $id;
}
rule('stock', 'n', 'mrsync.merge_counter(bigint, bigint, bigint)');
rule('cart', 'items', 'mrsync.merge_set(anyarray, anyarray, anyarray)');
rule('cart', 'd', 'mrsync.merge_json(jsonb, jsonb, jsonb)');
rule('cart', 't', 'mrsync.merge_text(text, text, text)');
rule('doc', undef, 'column_last_writer_wins');
# of the users' own, made in one region: one that hangs on the order and may fail, and one on whole rows
$lab->sql('us', <<'SQL');
CREATE FUNCTION tell(ancestor text, a text, b text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF b = 'unspeakable' THEN RAISE EXCEPTION 'no'; END IF;
	RETURN 'f(' || ancestor || ',' || a || ',' || b || ')';
END $$;
CREATE FUNCTION tally(ancestor vote, a vote, b vote) RETURNS vote LANGUAGE sql IMMUTABLE AS $$
	SELECT ROW(a.yes + b.yes - ancestor.yes, b.id, a.no + b.no - ancestor.no, a.by || '+' || b.by)::public.vote
$$;
SQL
rule('story', 'v', 'tell(text, text, text)');
rule('vote', undef, 'tally(vote, vote, vote)');

if ($lab->part('values'))
{
	$lab->sql('us', "INSERT INTO stock (id, n) SELECT i, 100 FROM generate_series(1, 20) i; INSERT INTO cart VALUES (1, '{tea,milk}', '{\"a\": 1}', E'one\\ntwo\\nthree'); INSERT INTO doc VALUES (1, 'a', 'b', 'c')");
	$lab->drain;
	for my $round (1 .. 3)
	{
		$lab->pause;
		$lab->sql('us', "UPDATE stock SET n = n - 1 WHERE id = $round; UPDATE stock SET n = n - 1 WHERE id = $round");
		$lab->sql('eu', "UPDATE stock SET n = n + 10 WHERE id = $round");
		$lab->sql('ap', "UPDATE stock SET note = 'ap $round' WHERE id = $round; UPDATE stock SET n = n + 100 WHERE id = $round");
		$lab->deliver(map { [$_] } shuffle($lab->links));
		$lab->drain;
		is $lab->same("SELECT id, n, note, twice FROM stock WHERE id = $round", "round $round: equal"), "$round|208|ap $round|416", 'all have counted';
	}
	$lab->pause;
	$lab->sql('us', "UPDATE cart SET items = '{tea,milk,bread}', d = d || '{\"us\": 1}', t = E'ONE\\ntwo\\nthree'");
	$lab->sql('eu', "UPDATE cart SET items = '{milk,honey}', d = d || '{\"eu\": 2}', t = E'one\\ntwo\\nTHREE'");
	$lab->sql('us', "UPDATE doc SET a = 'us'");
	$lab->sql('eu', "UPDATE doc SET b = 'eu'");
	$lab->sql('ap', "UPDATE doc SET c = 'ap'");
	$lab->deliver(map { [$_] } shuffle($lab->links));
	$lab->drain;
	is $lab->same('SELECT items, d, t FROM cart', 'cart: equal'), qq({milk,bread,honey}|{"a": 1, "eu": 2, "us": 1}|ONE\ntwo\nTHREE), 'all that both did';
	is $lab->same('SELECT a, b, c FROM doc', 'disjoint columns: equal'), 'us|eu|ap', 'survive';

	# functions of the users' own: asked in the order of the stamps; where one fails, or the table refuses what it gives, the event's value is taken
	$lab->sql('us', "INSERT INTO story VALUES (1, 'o'), (2, 'o'); INSERT INTO vote VALUES (1, 1, 1, '-'), (1, 2, 1, '-')");
	$lab->drain;
	for my $order ([qw(us eu ap)], [qw(ap us eu)])
	{
		my ($x, $y, $z) = @$order;
		$lab->pause;
		$lab->sql($_, "UPDATE story SET v = '$_'; UPDATE vote SET yes = yes + 1, by = '$_'") for $x;
		$lab->sql($_, "UPDATE story SET v = CASE id WHEN 1 THEN '$_' ELSE 'unspeakable' END; UPDATE vote SET no = no + 1, by = '$_' WHERE id = 1; UPDATE vote SET no = 9, by = '$_' WHERE id = 2") for $y;
		$lab->sql($_, "UPDATE story SET v = '$_'; UPDATE vote SET yes = yes + 1, by = '$_'") for $z;
		$lab->deliver(map { [$_] } shuffle($lab->links));
		$lab->drain;
		is $lab->same('SELECT id, v FROM story ORDER BY id', "a function on a column: @$order: equal"), "1|f(o,f(o,$x,$y),$z)\n2|f(o,unspeakable,$z)", 'in the order of the stamps';
		# the second: 2 + 9 is too much, so it is y's row, 1 + 9; then z's, since 2 + 9 is too much again
		is $lab->same('SELECT id, yes, no, by FROM vote ORDER BY id', "a function on rows: @$order: equal"), "1|3|2|$x+$y+$z\n2|2|1|$z", 'that the table takes';
		$lab->sql('us', "UPDATE story SET v = 'o'; UPDATE vote SET yes = 1, no = 1, by = '-'");
		$lab->drain;
	}

	$lab->conflicts_told;
	$lab->same($Mrsync::Lab::CONFLICTS, 'the logs of conflicts are equal');
	is $lab->sql('us', 'SELECT count(*) FROM mrsync.conflict_log WHERE hlc_a IS NOT NULL AND (event_id_a IS NULL OR event_id_b IS NULL)'), 0, 'and both events are named';
}

# ---------------------------------------------------------------------------------------------------------------------
# Counters under load, with pauses and kills: exact
# ---------------------------------------------------------------------------------------------------------------------
my $times = $ENV{MRSYNC_TEST_INCREMENTS} || 1000;    # in each region
$lab->sql('us', 'INSERT INTO stock (id, n) SELECT i, 0 FROM generate_series(1001, 1010) i');
$lab->drain;
$lab->everywhere('CREATE TABLE done (i integer PRIMARY KEY); CREATE PROCEDURE bump(times int) LANGUAGE plpgsql AS $$ BEGIN
	FOR k IN 1 .. times LOOP
		IF NOT EXISTS (SELECT FROM done WHERE i = k) THEN
			UPDATE stock SET n = n + 1 WHERE id = 1001 + (k * 7) % 10;
			INSERT INTO done VALUES (k);
			COMMIT;
		END IF;
	END LOOP;
END $$');
my %writer;
my $written = sub { my ($region, $count) = @_; $lab->wait_until("$region to have written $count times", sub { $lab->sql($region, 'SELECT count(*) FROM done') >= $count }, 300) };
if ($lab->part('load'))
{
	$writer{$_} = $lab->session($_) for @regions;
	my $backend = $writer{ap}->sql('SELECT pg_backend_pid()');
	$writer{$_}->send("CALL bump($times)") for @regions;
	$lab->pause('us>eu', 'ap>eu');
	$written->('us', $times / 4);
	terminate($lab, 'ap', worker_pid($lab, 'ap', 'applier', 'us'));
	$lab->resume('us>eu', 'ap>eu');
	$written->('ap', $times / 2);
	$lab->kill9('ap');
	kill 'TERM', $backend;    # it is busy, and would not notice before it is done; not with 9: others may wait for what it holds
	$lab->start('ap');
	$writer{ap} = $lab->session('ap');
	$writer{ap}->send("CALL bump($times)");
	$written->('eu', $times / 2);
	terminate($lab, 'us', worker_pid($lab, 'us', 'extractor'));
	$written->($_, $times) for @regions;
	$lab->drain;
	is $lab->same('SELECT count(*), sum(n) FROM stock WHERE id BETWEEN 1001 AND 1010', 'increments in three regions, pauses and kills: equal'), '10|' . 3 * $times, 'exact';
	$writer{$_}->close for @regions;
}

# ---------------------------------------------------------------------------------------------------------------------
# A clock that is behind: stamps are not those of the commits. They are forgotten below the stable point, while histories are kept
# and forgotten beside; the versions of what is left of these stay what they were.
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('a clock behind'))
{
	$lab->clock('us', -90);
	$lab->wait_until('us to be there', sub { !($lab->sql_try('us', 'SELECT 1'))[0] });
	$lab->sql('us', "INSERT INTO story VALUES (10, 'o')");
	$lab->drain;
	$lab->sql('us', "UPDATE story SET v = 'u1' WHERE id = 10");
	$lab->drain;
	$lab->sql('eu', "UPDATE story SET v = 'e1' WHERE id = 10");
	$lab->drain;
	# a row that is being written keeps its history
	my $open = $lab->session('us');
	$open->sql("UPDATE story SET v = 'u2' WHERE id = 10");
	$open->sql("BEGIN; UPDATE story SET v = 'u3' WHERE id = 10");
	my $pruned = $lab->sql('us', 'SELECT (mrsync.row_version(tableoid, ctid, xmin)).hlc FROM story WHERE id = 10');
	for my $pass (1, 2)    # the second is behind the first for sure
	{
		$lab->wait_until('what is below that stamp to be forgotten', sub
		{
			$lab->sql('eu', 'UPDATE stock SET n = n + 1 WHERE id = 1002');
			my $now = $lab->sql('us', 'SELECT pruned_up_to FROM mrsync.pruning');
			return $now gt $pruned && ($pruned = $now);
		});
	}
	$lab->pause('eu>us');
	$lab->sql('eu', "UPDATE story SET v = 'late' WHERE id = 10");
	$lab->wait_for('ap', 'SELECT v FROM story WHERE id = 10', 'late');
	my $n = $lab->sql('ap', 'UPDATE stock SET n = n + 1 WHERE id = 1003 RETURNING n');
	$lab->wait_for('us', 'SELECT n FROM stock WHERE id = 1003', $n);    # whose clock is above then
	$open->sql('COMMIT');
	$open->close;
	$lab->resume('eu>us');
	$lab->drain;
	is $lab->same('SELECT v FROM story WHERE id = 10', 'a late event, with the clock of us behind: equal'), 'f(u2,late,u3)', 'in its place';

	$lab->sql('us', 'UPDATE stock SET n = 0 WHERE id BETWEEN 1001 AND 1010');
	$lab->everywhere('TRUNCATE done');
	$lab->drain;
	$writer{$_} = $lab->session($_) for @regions;
	$writer{$_}->send("CALL bump(3 * $times)") for @regions;
	$written->($_, 3 * $times) for @regions;
	$lab->drain;
	is $lab->same('SELECT count(*), sum(n) FROM stock WHERE id BETWEEN 1001 AND 1010', 'increments with the clock of us behind: equal'), '10|' . 9 * $times, 'exact';
	cmp_ok $lab->sql('us', 'SELECT count(*) FROM mrsync.hlc_override'), '>', 0, 'there are stamps';
	$lab->clock('us', 0);
}

# What all have seen is forgotten.
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_history', 0) for @regions;
$lab->wait_for('us', 'SELECT count(*) < 100 FROM mrsync.hlc_override');    # a few are newer
$lab->healthy;
done_testing;
