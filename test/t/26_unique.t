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

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->tables(<<'SQL', qw(marker two active folded nulls booked parted keyed named swapped hot journal));
CREATE TABLE marker (region text, batch integer, PRIMARY KEY (region, batch));
CREATE TABLE two (id integer PRIMARY KEY, a integer UNIQUE, b integer, note text);
CREATE UNIQUE INDEX two_b ON two (b) INCLUDE (note);
CREATE TABLE active (id integer PRIMARY KEY, a integer, b integer, note text);
CREATE UNIQUE INDEX active_a ON active (a) WHERE b <> 0;
CREATE TABLE folded (id integer PRIMARY KEY, a text, b integer, note text, g integer GENERATED ALWAYS AS (b % 4) STORED UNIQUE);
CREATE UNIQUE INDEX folded_a ON folded (lower(a));
CREATE TABLE nulls (id integer PRIMARY KEY, a integer, b integer, note text, UNIQUE NULLS NOT DISTINCT (a, b));
CREATE TABLE booked (id integer PRIMARY KEY, a integer, b integer, note text, EXCLUDE USING gist (int4range(a, a + b) WITH &&));
CREATE TABLE parted (id integer, a integer, b integer, note text, PRIMARY KEY (id, b), UNIQUE (a, b)) PARTITION BY LIST (b);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0, 1);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (2, 3, 4);
CREATE TABLE keyed (id numeric PRIMARY KEY, name text UNIQUE);
CREATE TABLE named (id integer PRIMARY KEY, name text UNIQUE, note text);
CREATE TABLE swapped (id integer PRIMARY KEY, name text UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE hot (id bigint PRIMARY KEY, name text UNIQUE, n integer UNIQUE);
CREATE TABLE journal (id bigint PRIMARY KEY);
SQL
# A statement that may fail for what its own region has; the transaction's xid if it did something. Its rows are written in
# a subtransaction.
$lab->everywhere(<<'SQL');
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	rows integer;
BEGIN
	EXECUTE statement;
	GET DIAGNOSTICS rows = ROW_COUNT;
	RETURN CASE WHEN rows > 0 THEN pg_current_xact_id()::text ELSE '-' END;
EXCEPTION WHEN unique_violation OR exclusion_violation THEN
	RETURN '-';
END $$;
SQL
$lab->drain;

my $batch = 0;
# Marks the end of what every region has written, and lets links run, one list after the other.
sub deliver
{
	my (@rounds) = @_;
	++$batch;
	$lab->sql($_, "INSERT INTO marker VALUES ('$_', $batch)") for @regions;
	for my $links (@rounds)
	{
		$lab->resume(@$links);
		for (@$links)
		{
			my ($source, $target) = split />/;
			$lab->wait_for($target, "SELECT count(*) FROM marker WHERE region = '$source' AND batch = $batch", 1);
		}
	}
}

# Everything has arrived, and what it has freed has come in.
sub settle
{
	$lab->drain;
	$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside WHERE holder_hash IS NULL', 0) for @regions;
}

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

# Empties tables, and takes along what they hold aside.
sub clear
{
	my (@tables) = @_;
	$lab->sql('us', 'TRUNCATE ' . join ', ', @tables);
	settle();
	for my $region (@regions)
	{
		$lab->wait_for($region, "SELECT count(*) FROM mrsync.row_aside WHERE relation = '$_'::regclass", 0) for @tables;
	}
}

sub stamps
{
	my ($region, @xids) = @_;
	return map { split /\|/ } split /\n/, $lab->sql($region,
		"SELECT x, coalesce(o.hlc, pg_xact_commit_timestamp(x::text::xid)::mrsync.hlc)::bigint FROM unnest('{" . join(',', @xids)
		. "}'::bigint[]) x LEFT JOIN mrsync.hlc_override o ON o.xid = x::text::xid8");
}

# ---------------------------------------------------------------------------------------------------------------------
# Random writes in three regions that know nothing of each other, delivered in some order
# ---------------------------------------------------------------------------------------------------------------------
sub equal { my ($x, $y) = @_; return defined $x && defined $y && $x eq $y }
# table => [values of a, values of b, do two rows exclude each other?]
my %tables = (
	two => [ [ undef, 1 .. 6 ], [ undef, 1 .. 6 ], sub { my ($x, $y) = @_; equal($x->{a}, $y->{a}) || equal($x->{b}, $y->{b}) } ],
	active => [ [ 1 .. 5 ], [ 0, 1 ], sub { my ($x, $y) = @_; $x->{a} == $y->{a} && $x->{b} && $y->{b} } ],
	folded => [ [ qw(a A b B c) ], [ undef, 1 .. 20 ], sub { my ($x, $y) = @_; lc $x->{a} eq lc $y->{a} || defined $x->{b} && defined $y->{b} && $x->{b} % 4 == $y->{b} % 4 } ],
	nulls => [ [ undef, 1, 2 ], [ undef, 1, 2 ], sub { my ($x, $y) = @_; ($x->{a} // 0) == ($y->{a} // 0) && ($x->{b} // 0) == ($y->{b} // 0) } ],
	booked => [ [ 1 .. 20 ], [ 1 .. 8 ], sub { my ($x, $y) = @_; $x->{a} < $y->{a} + $y->{b} && $y->{a} < $x->{a} + $x->{b} } ],
	parted => [ [ undef, 1 .. 3 ], [ 0 .. 4 ], sub { my ($x, $y) = @_; equal($x->{a}, $y->{a}) && $x->{b} == $y->{b} } ],
);
my @names = sort keys %tables;
my $rows = 12;
my ($kept_out, $tried) = (0, 0);

sub value { my ($v) = @_; return defined $v ? "'$v'" : 'NULL' }
sub key_of { my ($table, $row) = @_; return $table eq 'parted' ? "$row->{id}/$row->{b}" : $row->{id} }

sub random_writes
{
	my ($name, @rounds) = @_;
	my (%state, @writes);    # $state{table}{key} = { version, row or undef }
	clear(@names);
	$lab->pause;
	for my $turn (1 .. 4)
	{
		for my $region (shuffle @regions)
		{
			my ($sql, @order) = ('');
			for my $table (map { ($_) x 4 } @names)
			{
				my ($as, $bs) = @{ $tables{$table} };
				my $row = { id => 1 + int rand $rows, a => $as->[ rand @$as ], b => $bs->[ rand @$bs ], note => "$region " . ++$tried };
				my ($a, $b, $note) = map { value($row->{$_}) } qw(a b note);
				my $where = "id = $row->{id}" . ($table eq 'parted' ? " AND b = $b" : '');
				my $set = "a = $a, note = $note" . ($table eq 'parted' ? '' : ", b = $b");
				my $kind = rand;
				my $statement = $kind < 0.5 ? "INSERT INTO $table (id, a, b, note) VALUES ($row->{id}, $a, $b, $note)"
					: $kind < 0.85 ? "UPDATE $table SET $set WHERE $where" : "DELETE FROM $table WHERE $where";
				$sql .= "SELECT try(\$q\$$statement\$q\$);\n";
				push @order, [ $table, $row, $kind >= 0.85 ];
			}
			my @xids = split /\n/, $lab->sql($region, $sql);
			die 'an answer is missing' if @xids != @order;
			push @writes, map { [ $region, $xids[$_], @{ $order[$_] } ] } grep { $xids[$_] ne '-' } 0 .. $#xids;
		}
	}
	my %stamp = map { my $region = $_; $region => { stamps($region, map { $_->[1] } grep { $_->[0] eq $region } @writes) } } @regions;
	for (@writes)
	{
		my ($region, $xid, $table, $row, $is_delete) = @$_;
		my $version = sprintf '%020d %s', $stamp{$region}{$xid}, $region;
		my $known = $state{$table}{ key_of($table, $row) } //= { version => '' };
		@$known{qw(version row)} = ($version, $is_delete ? undef : $row) if $version gt $known->{version};
	}
	deliver(@rounds);
	settle();
	for my $table (@names)
	{
		my $excludes = $tables{$table}[2];
		my (@in, @out);
		for my $is (sort { $b->{version} cmp $a->{version} } grep { $_->{row} } values %{ $state{$table} })
		{
			my $fits = !grep { $excludes->($_, $is->{row}) } @in;
			push @{ $fits ? \@in : \@out }, $is->{row};
		}
		my $print = sub { join "\n", sort map { $_->{note} } @_ };
		my $expected = $print->(@in);
		my $is = $lab->same("SELECT note FROM $table ORDER BY note COLLATE \"C\"", "$name: $table is the same everywhere");
		ok $is eq $expected, "$name: what fits, from the highest version down: " . @in . ' rows of ' . keys %{ $state{$table} }
			or diag Mrsync::Lab::first_difference('expected', $expected, 'is', $is);
		my $aside = $lab->same("SELECT image ->> 'note', row_pk, region_id, hlc FROM mrsync.row_aside WHERE relation = '$table'::regclass ORDER BY image ->> 'note' COLLATE \"C\"",
			"$name: what $table holds aside is the same everywhere");
		is join("\n", map { (split /\|/)[0] } split /\n/, $aside), $print->(@out), "$name: the other " . @out . ' rows are held aside';
		$kept_out += @out;
	}
}

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
	deliver(['eu>ap']);
	$lab->sql('ap', "UPDATE named SET name = 'rob' WHERE id = $two");
	deliver(@rounds);
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
	random_writes("links resumed together$with", [@all]);
	random_writes("one link after another$with", one_by_one());
	random_writes("a ring first$with", [ 'us>eu' ], [ 'eu>ap' ], [ 'ap>us' ], [ 'us>ap', 'ap>eu', 'eu>us' ]) if $to eq 'off';
}
override('off');
cmp_ok $kept_out, '>', 20, "$kept_out of $tried random writes were held aside in the end";
is $lab->sql($_, 'SELECT count(*) FROM mrsync.apply_error'), 0, "none was parked in $_" for @regions;

# ---------------------------------------------------------------------------------------------------------------------
# What is said of it
# ---------------------------------------------------------------------------------------------------------------------
my %deleted;    # before that
sub collide    # (1, x) in us, then (2, x) in eu
{
	my ($table, $one, $two, $value) = @_;
	$lab->pause;
	$deleted{$_} = $lab->sql($_, 'SELECT count(*) FROM mrsync.tombstone') for @regions;
	$lab->sql('us', "INSERT INTO $table VALUES ($one, '$value')");
	$lab->sql('eu', "INSERT INTO $table VALUES ($two, '$value')");
	$lab->resume;
	settle();
}
clear(@names);
collide('named', 1, 2, 'ann');
is same('named', 'a collision'), '2|ann|', 'the last writer has the name';
is aside('us', 'named'), '1', 'the other is held aside';
is $lab->sql('ap', 'SELECT message FROM mrsync.row_aside'), 'held aside: row {"id":"2"} excludes it by named_name_key', 'and named';
like $lab->sql('ap', 'SELECT hint FROM mrsync.row_aside'), qr/Give that row another key.*insert row \{"id":"1"\}/, 'with what to do';
my $log = "SELECT conflict_id, conflict_type, row_pk, other_pk, constraint_name, region_a, region_b, hlc_a, hlc_b, image_a, image_b, result = image_b, winner_region FROM mrsync.conflict_log WHERE table_name = 'public.named' AND image_a ->> 'name' = 'ann'";
like $lab->same($log, 'the conflict has one id, one winner, and the same sides everywhere'),
	qr/^[0-9a-f-]{36}\|insert_exists\|\{"id": "1"\}\|\{"id": "2"\}\|named_name_key\|us\|eu\|.*\|t\|eu$/, 'it is logged, under its name';
is $lab->sql($_, "SELECT string_agg(status || ' ' || split_part(state, ':', 1), ',') FROM mrsync.link_status"), join(',', ('active streaming') x 4), "the links of $_ are in order" for @regions;
is $lab->sql('ap', "SELECT source_region, held_aside FROM mrsync.link_status WHERE direction = 'incoming' ORDER BY 1"), "eu|0\nus|1", 'and say that a row is held aside';
is $lab->sql('us', "SELECT held_aside FROM mrsync.link_status WHERE direction = 'outgoing' AND target_region = 'eu'"), 1, 'also where it was written';
is $lab->sql($_, 'SELECT count(*) FROM mrsync.tombstone'), $deleted{$_}, "nothing is remembered as deleted in $_" for @regions;

# ---------------------------------------------------------------------------------------------------------------------
# The ways out
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('ap', "UPDATE named SET name = 'anna' WHERE id = 2");
$lab->wait_for($_, "SELECT string_agg(name, ',' ORDER BY id) FROM named", 'ann,anna') for @regions;
settle();
is same('named', 'its holder renamed'), "1|ann|\n2|anna|", 'it comes in by itself';
is $lab->sql('us', "SELECT mrsync.version_below(xmin, (SELECT hlc_b FROM mrsync.conflict_log WHERE table_name = 'public.named' AND image_a ->> 'name' = 'ann'), '') FROM named WHERE id = 1"), 't', 'with the version that it had';

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
deliver(['eu>us', 'eu>ap', 'us>ap']);
is aside('ap', 'named'), '9', 'held aside';
is aside('us', 'named'), '9', 'also where it was written';
$lab->pause;
$lab->sql('us', "INSERT INTO named VALUES (9, 'gus', 'again')");
deliver(['us>ap'], ['us>eu', 'ap>us', 'ap>eu', 'eu>us', 'eu>ap']);
settle();
like same('named', 'written again'), qr/^9\|gus\|again\n10\|fay\|eu$/m, 'a later version is what counts';

# a TRUNCATE takes along what is held aside
collide('named', 11, 12, 'hal');
$lab->sql('ap', 'TRUNCATE named');
settle();
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside', 0) for @regions;
is same('named', 'truncated'), '', 'nothing is left, nor comes back';

# also those that its own transaction has just written
$lab->pause;
$lab->sql('us', "BEGIN; INSERT INTO named VALUES (13, 'ian', 'us'); TRUNCATE named; INSERT INTO named VALUES (14, 'jim', 'us'); COMMIT");
$lab->sql('eu', "INSERT INTO named VALUES (15, 'ian', 'eu')");
deliver(['eu>ap'], ['us>ap'], [ 'us>eu', 'eu>us', 'ap>us', 'ap>eu' ]);
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
deliver(one_by_one());
settle();
is same('keyed', 'a key in two texts'), "1.000|joe\n2.00|ida", 'is one row';

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
deliver(one_by_one());
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
deliver(one_by_one());
settle();
is same('two', 'one row against two'), "3|1|1|", 'the newer one has both keys';
is same('booked', 'one range against six'), "7|70|5|\n8|80|5|\n9|90|5|\n20|12|50|", 'the newer one has the time';
like $lab->sql('eu', "SELECT string_agg(DISTINCT conflict_type, ' ') FROM mrsync.conflict_log WHERE table_name = 'public.two' AND other_pk ->> 'id' = '3'"), qr/insert_exists/, 'both are logged';
$lab->sql('us', 'UPDATE booked SET b = 1 WHERE id = 20; UPDATE two SET b = 2 WHERE id = 3');
$lab->wait_for($_, 'SELECT count(*) FROM booked', 9) for @regions;
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
	for my $region (@regions)
	{
		$lab->wait_for($region, 'SELECT count(*) > 400 FROM journal');
	}
	$lab->wait_until('rows to be held aside', sub { $lab->sql('us', "SELECT count(*) FROM mrsync.row_aside WHERE relation = 'hot'::regclass") > 3 });
	$_->stop for @load;
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
