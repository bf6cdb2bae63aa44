# Two regions give the same unique value to two rows. Both commit; there can be only one of them in a table.
#
# Proves I13: which row is in the table and which is held aside does not depend on the order of arrival, and nothing is lost.
# The test does not ask mrsync what is right: it folds its own writes by (stamp, region) and lets rows in from the highest
# version down. With several unique columns, partial and expression indexes, NULLS NOT DISTINCT and exclusion constraints.
#
# The story behind it: (1, 'bob') is written here, (2, 'bob') there, and a third region, which knows only of 2, renames
# that. A system that keeps what came first has bob as 1 in one region and nothing in another; one that loops on "duplicate
# key" stands still for good.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(log_trouble);
use Mrsync::Unique;

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->tables(<<'SQL', qw(keyed named swapped hot journal));
CREATE TABLE keyed (id numeric PRIMARY KEY, name text UNIQUE);
CREATE TABLE named (id integer PRIMARY KEY, name text UNIQUE, note text);
CREATE TABLE swapped (id integer PRIMARY KEY, name text UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE hot (id bigint PRIMARY KEY, name text UNIQUE, n integer UNIQUE);
CREATE TABLE journal (id bigint PRIMARY KEY);
SQL
my $random = Mrsync::Unique->new($lab);
$lab->drain;

sub settle { $random->settle }
sub clear { $random->clear(@_) }

# Which of several holders a row stands behind may differ.
my $held = 'SELECT relation, row_pk, region_id, hlc, image::jsonb FROM mrsync.row_aside';
sub same
{
	my ($table, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $rows = $lab->same("SELECT * FROM $table ORDER BY id", "$name: the table is the same everywhere");
	$lab->same("$held WHERE relation = '$table'::regclass ORDER BY row_pk::text", "$name: and so is what is held aside");
	return $rows;
}
sub aside { my ($region, $table) = @_; return $lab->sql($region, "SELECT string_agg(row_pk ->> 'id', ',' ORDER BY row_pk ->> 'id') FROM mrsync.row_aside WHERE relation = '$table'::regclass") }

my @all = $lab->links;
sub one_by_one { return map { [$_] } shuffle @all }
sub override
{
	my ($to) = @_;
	for my $region (@regions)
	{
		$lab->sql($region, "ALTER SYSTEM SET mrsync.force_override = $to; SELECT pg_reload_conf()");
		$lab->wait_for($region, 'SHOW mrsync.force_override', $to);
	}
}

# ---------------------------------------------------------------------------------------------------------------------
# (1, 'bob') here, (2, 'bob') there, 2 renamed in a third
# ---------------------------------------------------------------------------------------------------------------------
my $id = 0;
sub bob
{
	my ($name, @rounds) = @_;
	my $one = ++$id;
	my $two = ++$id;
	$lab->pause;
	$lab->sql('us', "INSERT INTO named VALUES ($one, 'bob', 'us')");
	$lab->sql('eu', "INSERT INTO named VALUES ($two, 'bob', 'eu')");
	$lab->deliver(['eu>ap']);
	$lab->sql('ap', "UPDATE named SET name = 'rob' WHERE id = $two");
	$lab->deliver(@rounds);
	settle();
	is same('named', "bob, $name"), "$one|bob|us\n$two|rob|eu", 'both are there';
	clear('named');
}

for my $to ('off', 'on')
{
	override($to);
	my $with = $to eq 'on' ? ', stamps written down' : '';
	bob("links resumed together$with", [@all]);
	my @rest = grep { $_ ne 'eu>ap' } @all;
	bob("the newest first$with", map { [$_] } 'ap>us', 'eu>us', 'us>eu', 'us>ap', 'ap>eu', 'eu>ap');
	bob("the newest last$with", map { [$_] } 'us>ap', 'us>eu', 'eu>us', 'ap>eu', 'ap>us', 'eu>ap');
	bob('in the order ' . join(' ', map { @$_ } @$_) . $with, @$_, ['eu>ap']) for map { [ map { [$_] } shuffle @rest ] } 1 .. ($to eq 'off' ? 3 : 1);
	$random->writes("links resumed together$with", [@all]);
	$random->writes("one link after another$with", one_by_one());
	$random->writes("a ring first$with", [ 'us>eu' ], [ 'eu>ap' ], [ 'ap>us' ], [ 'us>ap', 'ap>eu', 'eu>us' ]) if $to eq 'off';
}
override('off');
cmp_ok $random->{out}, '>', 20, "$random->{out} of $random->{tried} random writes were held aside in the end";
is $lab->sql($_, 'SELECT count(*) FROM mrsync.apply_error'), 0, "none was parked in $_" for @regions;

# ---------------------------------------------------------------------------------------------------------------------
# What is said of it
# ---------------------------------------------------------------------------------------------------------------------
sub collide    # (1, x) in us, then (2, x) in eu
{
	my ($table, $one, $two, $value) = @_;
	$lab->pause;
	$lab->sql('us', "INSERT INTO $table VALUES ($one, '$value')");
	$lab->sql('eu', "INSERT INTO $table VALUES ($two, '$value')");
	$lab->resume;
	settle();
}
clear($random->tables);
collide('named', 1, 2, 'ann');
is same('named', 'a collision'), '2|ann|', 'the last writer has the name';
is aside('us', 'named'), '1', 'the other is held aside';
is $lab->sql('ap', 'SELECT message FROM mrsync.row_aside'), 'held aside: row {"id":"2"} excludes it by named_name_key', 'and named';
like $lab->sql('ap', 'SELECT hint FROM mrsync.row_aside'), qr/Give that row another key.*insert row \{"id":"1"\}/, 'with what to do';
my $log = "SELECT conflict_id, conflict_type, row_pk, other_pk, constraint_name, region_a, region_b, hlc_a, hlc_b, image_a, image_b, result = image_b, winner_region FROM mrsync.conflict_log WHERE table_name = 'public.named' AND image_a ->> 'name' = 'ann'";
like $lab->same($log, 'the conflict has one id, one winner, and the same sides everywhere'),
	qr/^[0-9a-f-]{36}\|insert_exists\|\{"id": "1"\}\|\{"id": "2"\}\|named_name_key\|us\|eu\|.*\|t\|eu$/, 'it is logged, under its name';
$lab->wait_for($_, "SELECT count(*) FROM mrsync.link_status WHERE state !~ '^(down|catching up)'", 4) for @regions;    # those that carried nothing were waited for by nobody
is $lab->sql($_, "SELECT string_agg(status || ' ' || split_part(state, ':', 1), ',') FROM mrsync.link_status"), join(',', ('active streaming') x 4), "the links of $_ are in order" for @regions;
is $lab->sql('ap', "SELECT source_region, held_aside FROM mrsync.link_status WHERE direction = 'incoming' ORDER BY 1"), "eu|0\nus|1", 'and say that a row is held aside';
is $lab->sql('us', "SELECT held_aside FROM mrsync.link_status WHERE direction = 'outgoing' AND target_region = 'eu'"), 1, 'also where it was written';
is $lab->sql($_, "SELECT count(*) FROM mrsync.tombstone WHERE relation = 'named'::regclass AND row_pk IN ('{\"id\":\"1\"}', '{\"id\":\"2\"}')"), 0, "nothing is remembered as deleted in $_" for @regions;

# ---------------------------------------------------------------------------------------------------------------------
# The ways out
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('ap', "UPDATE named SET name = 'anna' WHERE id = 2");
$lab->wait_for($_, "SELECT string_agg(name, ',' ORDER BY id) FROM named", 'ann,anna') for @regions;
settle();
is same('named', 'its holder renamed'), "1|ann|\n2|anna|", 'it comes in by itself';
is $lab->sql('us', "SELECT mrsync.version_below(tableoid, ctid, xmin, (SELECT hlc_b FROM mrsync.conflict_log WHERE table_name = 'public.named' AND image_a ->> 'name' = 'ann'), '') FROM named WHERE id = 1"), 't', 'with the version that it had';

collide('named', 3, 4, 'cy');
$lab->sql('us', "DELETE FROM named WHERE id = 4");
$lab->wait_for($_, 'SELECT name FROM named WHERE id = 3', 'cy') for @regions;
pass('its holder deleted: it comes in');

collide('named', 5, 6, 'di');
$lab->sql('us', "INSERT INTO named VALUES (5, 'dina')");
settle();
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside', 0) for @regions;
like same('named', 'inserted anew'), qr/^5\|dina\|\n6\|di\|$/m, 'its key inserted anew: that replaces it';

collide('named', 7, 8, 'ed');
$lab->sql('eu', "INSERT INTO named VALUES (7, 'eddy'); DELETE FROM named WHERE id = 7");
settle();
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside', 0) for @regions;
$lab->sql('eu', 'DELETE FROM named WHERE id = 8');
settle();
is $lab->same('SELECT count(*) FROM named WHERE id IN (7, 8)', 'inserted anew and deleted: the same everywhere'), 0, 'it is gone';

# later events of a row that is held aside
$lab->pause;
$lab->sql('us', "INSERT INTO named VALUES (9, 'fay', 'us')");
$lab->sql('eu', "INSERT INTO named VALUES (10, 'fay', 'eu')");
$lab->deliver(['eu>us', 'eu>ap', 'us>ap']);
is aside('ap', 'named'), '9', 'held aside';
is aside('us', 'named'), '9', 'also where it was written';
$lab->pause;
$lab->sql('us', "INSERT INTO named VALUES (9, 'gus', 'again')");
$lab->deliver(['us>ap'], ['us>eu', 'ap>us', 'ap>eu', 'eu>us', 'eu>ap']);
settle();
$lab->wait_for($_, "SELECT count(*) FROM mrsync.row_aside WHERE relation = 'named'::regclass", 0) for @regions;
like same('named', 'written again'), qr/^9\|gus\|again\n10\|fay\|eu$/m, 'a later version is what counts';

# a TRUNCATE takes along what is held aside
collide('named', 11, 12, 'hal');
$lab->sql('ap', 'TRUNCATE named');
settle();
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside', 0) for @regions;
is same('named', 'truncated'), '', 'nothing is left, nor comes back';

# that of a partition, too, and those of its partition only
$lab->pause;
$lab->sql('us', "INSERT INTO parted VALUES (1, 1, 0), (3, 1, 2)");
$lab->sql('eu', "INSERT INTO parted VALUES (2, 1, 0), (4, 1, 2)");
$lab->resume;
settle();
is aside('ap', 'parted'), '1,3', 'one is held aside in each partition';
$lab->sql('ap', 'TRUNCATE parted_0');
settle();
$lab->wait_for($_, "SELECT row_pk ->> 'id' FROM mrsync.row_aside", 3) for @regions;
is same('parted', 'a partition truncated'), '4|1|2|', 'of that one nothing is left';
clear('parted');

# also those that its own transaction has just written
$lab->pause;
$lab->sql('us', "BEGIN; INSERT INTO named VALUES (13, 'ian', 'us'); TRUNCATE named; INSERT INTO named VALUES (14, 'jim', 'us'); COMMIT");
$lab->sql('eu', "INSERT INTO named VALUES (15, 'ian', 'eu')");
$lab->deliver(['eu>ap'], ['us>ap'], [ 'us>eu', 'eu>us', 'ap>us', 'ap>eu' ]);
settle();
is same('named', 'written and truncated'), "14|jim|us\n15|ian|eu", 'what was truncated does not come in';
$lab->sql('eu', 'DELETE FROM named WHERE id = 15');
settle();
is same('named', 'its holder deleted'), '14|jim|us', 'nor does it then';
clear('named');

# keys that are equal in another text
$lab->pause;
$lab->sql('us', "INSERT INTO keyed VALUES (1.0, 'ida')");
$lab->sql('eu', "INSERT INTO keyed VALUES (2.00, 'ida')");
$lab->sql('ap', "INSERT INTO keyed VALUES (1.000, 'joe')");
$lab->deliver(one_by_one());
settle();
is same('keyed', 'a key in two texts'), "1.000|joe\n2.00|ida", 'is one row';

# what it is called in the log
clear('two');
$lab->sql('us', 'INSERT INTO two VALUES (901, 901, 901), (902, 902, 902)');
settle();
$lab->pause;
$lab->sql('us', 'UPDATE two SET a = 990 WHERE id = 901; INSERT INTO two VALUES (903, 993, 903), (904, 904, 994), (906, 996, 906)');
$lab->sql('eu', 'UPDATE two SET a = 990 WHERE id = 902; INSERT INTO two VALUES (905, 993, 994), (907, 996, 907)');
$lab->deliver(one_by_one());
settle();
$lab->conflicts_told;
is $lab->same("SELECT conflict_type, row_pk ->> 'id', other_pk ->> 'id', constraint_name FROM mrsync.conflict_log WHERE table_name = 'public.two' AND (row_pk ->> 'id')::int > 900 ORDER BY 2", 'what the conflicts are called: the same everywhere'),
	"update_exists|901|902|two_a_key\nmultiple_unique_conflicts|903|905|two_a_key\nmultiple_unique_conflicts|904|905|two_b\ninsert_exists|906|907|two_a_key", 'by what the writers did';
clear('two');

# ---------------------------------------------------------------------------------------------------------------------
# Values that change hands within a transaction
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('us', "INSERT INTO named VALUES (1, 'kit', 'us'), (2, 'leo', 'us'); INSERT INTO swapped VALUES (1, 'kit'), (2, 'leo'), (3, 'max')");
settle();
$lab->sql('us', "BEGIN; UPDATE named SET name = '' WHERE id = 1; UPDATE named SET name = 'kit' WHERE id = 2; UPDATE named SET name = 'leo' WHERE id = 1; COMMIT");
settle();
is same('named', 'a swap by a third value'), "1|leo|us\n2|kit|us", 'ends right';
$lab->sql('eu', "UPDATE swapped SET name = CASE name WHEN 'kit' THEN 'leo' WHEN 'leo' THEN 'max' ELSE 'kit' END");
settle();
is same('swapped', 'three rows in a ring, under a deferrable constraint'), "1|leo\n2|max\n3|kit", 'end right';
$lab->sql('us', "BEGIN; UPDATE swapped SET name = 'max' WHERE id = 1; INSERT INTO swapped VALUES (4, 'kit'); UPDATE swapped SET name = 'kit' WHERE id = 2; "
	. "UPDATE swapped SET name = 'leo' WHERE id = 4; DELETE FROM swapped WHERE id = 3; COMMIT");
settle();
is same('swapped', 'values that two rows have for a while'), "1|max\n2|kit\n4|leo", 'end right';
collide('swapped', 5, 6, 'nan');
is aside('ap', 'swapped'), '5', 'a deferrable constraint is kept';
# at one moment: nobody sees the transaction half done
$lab->pause('us>eu');
$lab->sql('us', "BEGIN; UPDATE swapped SET name = 'kit' WHERE id = 1; UPDATE swapped SET name = 'max' WHERE id = 2; COMMIT");
$lab->sql('eu', "UPDATE swapped SET name = 'other' WHERE id = 1");
$lab->resume('us>eu');
settle();
like same('swapped', 'a swap against another write'), qr/^1\|other\n2\|max\n/, 'the last writer of each row counts';

# a swap in one region, one of the values taken by a newer row in another
$lab->pause;
$lab->sql('us', "BEGIN; UPDATE named SET name = '' WHERE id = 1; UPDATE named SET name = 'leo' WHERE id = 2; UPDATE named SET name = 'kit' WHERE id = 1; COMMIT");
$lab->sql('eu', "UPDATE named SET name = 'zoe' WHERE id = 1; INSERT INTO named VALUES (3, 'leo', 'eu')");
$lab->deliver(one_by_one());
settle();
is same('named', 'a swap against a newer row'), "1|zoe|eu\n3|leo|eu" =~ s/eu\n/us\n/r, 'what fits is there';
is aside('ap', 'named'), '2', 'and the rest is held aside';
$lab->sql('ap', 'DELETE FROM named WHERE id = 3');
$lab->wait_for($_, 'SELECT name FROM named WHERE id = 2', 'leo') for @regions;
same('named', 'after its holder is gone');

# ---------------------------------------------------------------------------------------------------------------------
# Several rivals at once
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('us', 'DELETE FROM two; DELETE FROM booked');
settle();
$lab->pause;
$lab->sql('us', "INSERT INTO two VALUES (1, 1, NULL), (2, NULL, 1); INSERT INTO booked SELECT i, 10 * i, 5 FROM generate_series(1, 9) i");
$lab->sql('eu', "INSERT INTO two VALUES (3, 1, 1); INSERT INTO booked VALUES (20, 12, 50)");
$lab->deliver(one_by_one());
settle();
is same('two', 'one row against two'), "3|1|1|", 'the newer one has both keys';
is same('booked', 'one range against six'), "7|70|5|\n8|80|5|\n9|90|5|\n20|12|50|", 'the newer one has the time';
$lab->conflicts_told;
is $lab->same("SELECT row_pk ->> 'id', conflict_type, constraint_name FROM mrsync.conflict_log WHERE table_name = 'public.two' AND other_pk ->> 'id' = '3' AND image_b ->> 'note' IS NULL ORDER BY 1", 'one row against two: the log is the same everywhere'),
	"1|multiple_unique_conflicts|two_a_key\n2|multiple_unique_conflicts|two_b", 'has both, and the name says that they were two';
$lab->sql('us', 'UPDATE booked SET b = 1 WHERE id = 20; UPDATE two SET b = 2 WHERE id = 3');
$lab->wait_for($_, 'SELECT count(*) FROM booked', 9) for @regions;
$lab->wait_for($_, 'SELECT count(*) FROM two', 2) for @regions;
settle();
is same('booked', 'the range is shortened'), join("\n", map { ($_ == 1 ? () : "$_|${_}0|5|") } 1 .. 9) . "\n20|12|1|", 'all but one come in';
is same('two', 'one of the keys is given back'), "2||1|\n3|1|2|", 'one row comes in';

# ---------------------------------------------------------------------------------------------------------------------
# Hot values under load in all regions; then all names are made different, and everything is there
# ---------------------------------------------------------------------------------------------------------------------
for my $to ('off', 'on')
{
	override($to);
	my $n = 0;
	my @load;
	for my $region (@regions)
	{
		my $number = ++$n + ($to eq 'on' ? 10 : 0);
		my $try = sub { "DO \$\$ BEGIN $_[0]; EXCEPTION WHEN unique_violation THEN NULL; END \$\$;\n" };
		my $set = "\\set i random(1, 1000000000)\n\\set a random(1, 8)\n\\set b random(1, 8)\n";
		my $value = 'CASE WHEN :a > 6 THEN NULL ELSE :a END';
		push @load, Mrsync::Load->start($lab, $region, clients => 2, rate => 40, scripts => [
			[ $set . $try->("INSERT INTO hot VALUES (${number}::bigint << 40 | :i, 'v' || $value, CASE WHEN :b > 6 THEN NULL ELSE :b END); INSERT INTO journal VALUES (${number}::bigint << 40 | :i)"), 2 ],
			[ $set . $try->("UPDATE hot SET name = 'v' || $value WHERE n = :b"), 2 ],
			[ $set . $try->("UPDATE hot SET n = :b WHERE name = 'v' || :a"), 2 ],
			[ $set . $try->("UPDATE hot SET name = name WHERE n = :b"), 1 ],
			[ $set . "BEGIN;\nUPDATE hot SET name = NULL WHERE name = 'v' || :a;\nUPDATE hot SET n = NULL WHERE n = :b;\nCOMMIT;\n", 1 ],
		]);
	}
	my $more = sub    # each region has inserted so many more itself
	{
		my ($rows) = @_;
		my $n = $to eq 'on' ? 10 : 0;
		my %mine = map { $_ => "SELECT count(*) FROM journal WHERE id >> 40 = " . ++$n } @regions;
		my %then = map { $_ => $rows + $lab->sql($_, $mine{$_}) } @regions;
		$lab->wait_for($_, "SELECT ($mine{$_}) >= $then{$_}") for @regions;
	};
	$more->(100);
	for my $last (0, 1)    # what is written while nothing arrives is in each other's way for sure
	{
		$lab->pause;
		$more->(30);
		$_->finish for $last ? @load : ();
		$lab->resume;
		$more->(50) if !$last;
	}
	is $_->errors, '', 'no failure under load' for @load;
	settle();
	my $with = $to eq 'on' ? ', stamps written down' : '';
	same('hot', "under load$with");
	cmp_ok $lab->sql('eu', "SELECT count(*) FROM mrsync.row_aside WHERE relation = 'hot'::regclass"), '>', 0, 'some rows are held aside';
	# whoever holds a value lets it go, until nothing is held aside any more
	for my $region (@regions, @regions, 'us')
	{
		$lab->sql($region, "UPDATE hot SET name = 'n' || id, n = NULL WHERE name LIKE 'v%' OR n IS NOT NULL");
		settle();
	}
	$lab->wait_until('all rows to come in', sub
	{
		$lab->sql('eu', "UPDATE hot SET name = 'n' || id, n = NULL WHERE name LIKE 'v%' OR n IS NOT NULL");
		settle();
		return !grep { $lab->sql($_, "SELECT count(*) FROM mrsync.row_aside WHERE relation = 'hot'::regclass") } @regions;
	});
	same('hot', "names made different$with");
	is $lab->sql($_, '(TABLE journal EXCEPT SELECT id FROM hot) UNION ALL (SELECT id FROM hot EXCEPT TABLE journal)'), '', "nothing is lost in $_$with" for @regions;
}
override('off');

is $lab->sql($_, 'SELECT count(*) FROM mrsync.apply_error'), 0, "nothing is parked in $_" for @regions;
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
