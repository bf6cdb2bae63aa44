# A merge function on trial: run beside what decides, in every region, on whatever conflicts come; looked at, then promoted or withdrawn.
#
# Proves I1 and I3 for it: rows are what they are without, whatever the shadow makes, raises, or does not come to the end of, and no link
# waits for it; promoted it decides from one stamp on, everywhere; and one call has the former rule back.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid log_trouble);

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
sub sql { my ($region, $sql) = @_; return $lab->sql($region, $sql) }
sub us { return sql('us', @_) }

$lab->tables(<<'SQL', qw(item vote part));
CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL, m int CHECK (m <= 5000), note text);
CREATE TABLE vote (id int PRIMARY KEY, yes int, by text);
CREATE TABLE part (id int PRIMARY KEY, n int, note text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 (note text, n int, id int NOT NULL);
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (200);
SQL
us(<<'SQL');
CREATE FUNCTION later(ancestor text, a text, b text) RETURNS text IMMUTABLE RETURN b;
CREATE FUNCTION lower_of(ancestor vote, a vote, b vote) RETURNS vote LANGUAGE sql IMMUTABLE AS 'SELECT ROW(b.id, least(a.yes, b.yes), b.by)::public.vote';
CREATE FUNCTION picky(ancestor int, a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	CASE b - ancestor
		WHEN 13 THEN RAISE 'not %', b;
		WHEN 14 THEN RETURN 6000;
		WHEN 15 THEN LOOP END LOOP;
		WHEN 16 THEN RETURN (SELECT count(*) FROM nowhere);
		ELSE RETURN a + b - ancestor + CASE WHEN b - ancestor = 10 THEN 1000 ELSE 0 END;
	END CASE;
END $$;
SQL

sub register
{
	my ($function, $column, $rollout) = @_;
	my $table = $function =~ /vote/ ? 'vote' : $column =~ s/^part\.// ? 'part' : 'item';
	return us("SELECT mrsync.merge_function_register('$table', '$function'" . ($column ? ", '$column'" : '') . ", rollout => '$rollout')");
}
sub wait_rule    # in every region
{
	my ($id) = @_;
	for my $region (@regions)
	{
		$lab->wait_for($region, "SELECT count(*) FROM mrsync.merge_definition WHERE definition_id = '$id'", 1);
		sql($region, "SELECT mrsync.merge_function_wait('$id', '60 s')");
	}
	return $id;
}
sub rule { my ($region, $id, $what) = @_; return sql($region, "SELECT $what FROM mrsync.merge_function WHERE definition_id = '$id'") }

# One statement for each region, in this order, before any has heard of the others' ones; then everything arrives, in any order.
sub conflict
{
	my (@writes) = @_;
	$lab->pause;
	sql(@$_) for @writes;
	$lab->resume($_) for shuffle($lab->links);
	$lab->drain;
}
sub differences { my ($region, $id, $what, $where) = @_; return sql($region, "SELECT $what FROM mrsync.merge_difference WHERE definition_id = '$id'" . ($where ? " AND $where" : '')) }

# ---- beside last writer wins: the first rule that the table has

my $counter = register('mrsync.merge_counter(int, int, int)', 'n', 'shadow');
my $later = register('later(text, text, text)', 'note', 'shadow');
my $lower = register('lower_of(vote, vote, vote)', undef, 'shadow');
my $parts = register('mrsync.merge_counter(int, int, int)', 'part.n', 'shadow');
wait_rule($_) for $counter, $later, $lower, $parts;
$lab->same("SELECT to_jsonb(f) FROM mrsync.merge_function f WHERE definition_id = '$counter'", 'a shadow stands the same in every region');
is(rule('eu', $counter, 'status, rollout, activation, acknowledged_by, waiting_for'), 'shadow|shadow||{ap,eu,us}|{}', 'prepared in all, and not active');
us("INSERT INTO item SELECT i, 100, 100, 'seed' FROM generate_series(1, 20) i; INSERT INTO vote VALUES (1, 5, '-'); INSERT INTO part VALUES (1, 100), (101, 100)");
$lab->drain;
conflict(map { my ($region, $more) = @$_; [ $region, "UPDATE item SET n = n + $more, note = '$region' WHERE id = 1; UPDATE vote SET yes = yes + $more, by = '$region'; UPDATE part SET n = n + $more" ] } [ us => 1 ], [ eu => 10 ], [ ap => 100 ]);
is($lab->same('SELECT id, n, note FROM item WHERE id = 1', 'three regions at once: equal'), '1|200|ap', 'the last writer has won');
is($lab->same('SELECT * FROM vote', 'and'), '1|105|ap', 'the whole row');
for my $region (@regions)
{
	is(differences($region, $counter, 'DISTINCT version, table_name, column_name, row_pk, result_active = b, result_shadow::int = a::int + b::int - ancestor::int, sqlstate, message'), '1|public.item|n|{"id": "1"}|t|t||', "$region has what the counter would have made of it");
	like(differences($region, $counter, "string_agg(DISTINCT region_id, ',') || min(hlc)::timestamptz::date"), qr/^(ap,)?eu\d|^ap\d/, "$region: of which event");
	is(rule($region, $later, 'compared > 0, differing, failed'), 't|0|0', "$region: a function that makes the same is compared, and does not differ");
	is(differences($region, $lower, "bool_and(a::jsonb ->> 'yes' < b::jsonb ->> 'yes' OR (result_shadow::jsonb ->> 'yes')::int < (result_active::jsonb ->> 'yes')::int), count(*) > 0"), 't|t', "$region: one of whole rows has rows");
	is(differences($region, $parts, q(string_agg(DISTINCT row_pk ->> 'id', ',' ORDER BY row_pk ->> 'id'), bool_and(result_active = b AND result_shadow::int = a::int + b::int - ancestor::int))), '1,101|t', "$region: partitions, whatever the order of their columns");
}
my @counts = map { rule($_, $counter, 'compared, differing, failed') } @regions;
like($_, qr/^([1-9]\d*)\|\1\|0$/, 'counted') for @counts;
us("UPDATE item SET n = n + 1 WHERE id = 2");
$lab->drain;
sql('eu', "UPDATE item SET n = n + 1, note = 'eu' WHERE id = 2");
$lab->drain;
is_deeply([ map { rule($_, $counter, 'compared, differing, failed') } @regions ], \@counts, 'who writes what he saw asks nobody');
conflict([ us => 'UPDATE item SET n = 1 WHERE id = 3' ], [ eu => "UPDATE item SET note = 'eu' WHERE id = 3" ]);
is($lab->same('SELECT n, note FROM item WHERE id = 3', 'a column that one side has changed'), '100|eu', 'is lost to the last writer');
is(sql($_, "SELECT ancestor, a, b, result_active, result_shadow FROM mrsync.merge_difference WHERE definition_id = '$counter' AND row_pk = '{\"id\": \"3\"}'"), '100|1|100|100|1', "$_: and would not be") for qw(us eu ap);

# ---- beside another function; what fails concerns nobody

us("SELECT mrsync.merge_function_withdraw('$_')") for $later, $lower;
my $active = wait_rule(register('mrsync.merge_counter(int, int, int)', 'm', 'staged'));
my $shadow = wait_rule(register('picky(int, int, int)', 'm', 'shadow'));
my %says = (11 => '', 10 => '||', 13 => 'P0001|not 113', 14 => '23514|new row for relation "item" violates check constraint "item_m_check"', 16 => '42P01|relation "nowhere" does not exist');
conflict([ us => 'UPDATE item SET m = m + 1 WHERE id > 9' ], (map { my $id = $_; [ eu => "UPDATE item SET m = m + $id WHERE id = $id" ] } sort keys %says), [ eu => 'UPDATE item SET m = m + 15 WHERE id = 20' ]);
is($lab->same('SELECT id, m FROM item WHERE id BETWEEN 10 AND 20 AND m <> 101 ORDER BY id', 'counters, whatever the shadow does: equal'), join("\n", '10|111', '11|112', '13|114', '14|115', '16|117', '20|116'), 'to what the counter makes');
for my $region (@regions)
{
	is(differences($region, $shadow, "count(*)", "row_pk = '{\"id\": \"11\"}'"), 0, "$region: nothing of what agrees");
	is(differences($region, $shadow, 'ancestor, a, b, result_active, result_shadow, sqlstate', "row_pk = '{\"id\": \"10\"}'"), '100|101|110|111|1111|', "$region: a difference");
	is(differences($region, $shadow, 'result_active, result_shadow, sqlstate, message', "row_pk = '{\"id\": \"13\"}'"), "114||$says{13}", "$region: an error");
	is(differences($region, $shadow, 'result_active, result_shadow, sqlstate, message', "row_pk = '{\"id\": \"14\"}'"), "115|6000|$says{14}", "$region: a row that the table does not take");
	is(differences($region, $shadow, 'result_active, result_shadow, sqlstate, message', "row_pk = '{\"id\": \"16\"}'"), "117||$says{16}", "$region: an error that is not one of values");
	is(differences($region, $shadow, 'sqlstate', "row_pk = '{\"id\": \"20\"}'"), '57014', "$region: one that does not come to an end");
	is(rule($region, $shadow, 'compared, differing, failed'), '6|1|4', "$region: counted");
}
$lab->healthy;

# ---- promoted; and back

$lab->stop('ap');
us("SELECT mrsync.merge_function_promote('$shadow')");
$lab->wait_for('us', "SELECT status, rollout, waiting_for FROM mrsync.merge_function WHERE definition_id = '$shadow'", 'active|staged|{ap}');
pass('a region that is away, and was prepared, does not hold the promotion');
my $held = register('mrsync.merge_counter(int, int, int)', 'n', 'shadow');
us("SELECT mrsync.merge_function_promote('$held')");
$lab->wait_for('eu', "SELECT status, rollout, waiting_for FROM mrsync.merge_function WHERE definition_id = '$held'", 'preparing|staged|{ap}');
pass('one that was not does');
$lab->start('ap');
wait_rule($_) for $shadow, $held;
my $rules = "SELECT definition_id, column_name, version, strategy, function, rollout, status, activation FROM mrsync.merge_function ORDER BY 1";
$lab->same($rules, 'active from the same stamps in every region');
is(rule('ap', $active, 'status'), 'superseded', 'in place of the former rule');
conflict([ us => 'UPDATE item SET m = m + 1 WHERE id = 17' ], [ eu => 'UPDATE item SET m = m + 10 WHERE id = 17' ], [ ap => 'UPDATE item SET m = m + 13 WHERE id = 18' ], [ us => 'UPDATE item SET m = m + 13 WHERE id = 18' ]);
is($lab->same('SELECT id, m FROM item WHERE id IN (17, 18) ORDER BY id', 'it decides: equal'), "17|1112\n18|114", 'as it was seen to do');
is(differences($_, $shadow, 'count(*)', "row_pk IN ('{\"id\": \"17\"}', '{\"id\": \"18\"}')"), 0, "$_: and is compared no more") for @regions;
my $back = sql('eu', "SELECT mrsync.merge_function_rollback('$shadow')");
wait_rule($back);
is(rule('us', $back, 'region_id, column_name, version, function, status'), 'eu|m|3|mrsync.merge_counter(integer,integer,integer)|active', 'rolled back, in another region: the former function, as a new version');
$lab->same($rules, 'the same everywhere');
conflict([ us => 'UPDATE item SET m = m + 1 WHERE id = 19' ], [ eu => 'UPDATE item SET m = m + 10 WHERE id = 19' ]);
is($lab->same('SELECT m FROM item WHERE id = 19', 'it decides again: equal'), 112, 'it counts');
$lab->same('SELECT id, m FROM item WHERE id IN (17, 18) ORDER BY id', 'what was decided stays');

# ---- topics read anew; a region that was set back and does not know how far its rule has come

my $known = "SELECT definition_id, status, rollout, activation FROM mrsync.merge_definition WHERE region_id = 'us' ORDER BY 1";
my $of_us = us($known);
us("UPDATE mrsync.merge_definition SET status = 'shadow', rollout = 'shadow', activation = NULL WHERE definition_id = '$shadow'; SELECT mrsync.merge_function_withdraw('$shadow')");
$lab->drain('us');
for my $region (qw(us eu))
{
	my $forgets = $lab->session($region);    # while nobody can read the position, nor write it down anew
	my $coordinator = worker_pid($lab, $region, 'coordinator');
	$forgets->sql("BEGIN; LOCK TABLE mrsync.control_position IN ACCESS EXCLUSIVE MODE");
	$forgets->sql("SELECT pg_terminate_backend($coordinator)");
	$lab->wait_for($region, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $coordinator)");
	$forgets->sql("DELETE FROM mrsync.control_position WHERE region_id = 'us'" . ($region eq 'us' ? '' : "; DELETE FROM mrsync.merge_definition WHERE region_id = 'us'") . '; COMMIT');
	$forgets->close;
	$lab->wait_until("the rules in $region", sub { sql($region, $known) eq $of_us });
}
is($lab->same($known, 'an activation is never taken back, by whoever knows of it or reads of it'), $of_us, 'and all ends are as they were');
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for @regions;
$lab->healthy;
done_testing;
