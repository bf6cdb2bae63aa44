# The same rows written in three regions at once end the same everywhere, whichever order the links deliver in.
#
# Proves I1 (convergence), I3 (determinism: winner and conflict_id are the same wherever a conflict is met), I5 and I13 for
# single rows. The winner is not taken from mrsync: the test folds its own writes by (stamp, region), where the stamp is
# the transaction's commit timestamp, or the override that was written down for it.
#
# Two stories behind it. A region that has forgotten a delete brings the row back when an older update comes late. And:
# two columns of one row, one of them large and unchanged, are updated in two regions; with partial images each region
# keeps its own large value for ever, but only in one of the two orders of arrival.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load;

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->keep_memory;    # stamps are read from mrsync.hlc_override
$lab->conflicts_apart;
$lab->tables(<<'SQL', qw(matrix parted toasted hop truncated hot hot_parted numbered named));
CREATE TABLE matrix (id integer PRIMARY KEY, v text);
CREATE TABLE parted (id integer PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE toasted (id integer PRIMARY KEY, n text, large text);
ALTER TABLE toasted ALTER large SET STORAGE EXTERNAL;
CREATE TABLE hop (id integer PRIMARY KEY, v text);
CREATE TABLE truncated (id integer PRIMARY KEY, v text);
CREATE TABLE hot (id integer PRIMARY KEY, v text, n bigint);
CREATE TABLE hot_parted (id integer, kind integer, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE hot_parted_0 PARTITION OF hot_parted FOR VALUES IN (0);
CREATE TABLE hot_parted_1 PARTITION OF hot_parted FOR VALUES IN (1, 2);
-- to a key, or a partition, where somebody else may be at the same moment
CREATE FUNCTION hot_move(k integer, t integer, region text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	UPDATE hot SET id = t, v = region || ' moved' WHERE id = k;
EXCEPTION WHEN unique_violation THEN NULL; END $$;
CREATE FUNCTION hot_parted_move(k integer, f integer, t integer, region text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	UPDATE hot_parted SET kind = t, v = region || ' moved' WHERE id = k AND kind = f;
EXCEPTION WHEN unique_violation THEN NULL; END $$;
CREATE TABLE numbered (id numeric PRIMARY KEY, v text);
CREATE TABLE named (id character(8) PRIMARY KEY, v text);
SQL
$lab->drain;

# The stamps of transactions of a region, by xid: microseconds.
sub stamps
{
	my ($region, @xids) = @_;
	return map { split /\|/ } split /\n/, $lab->sql($region,
		"SELECT x, coalesce(o.hlc, pg_xact_commit_timestamp(x::text::xid)::mrsync.hlc)::bigint FROM unnest('{" . join(',', @xids)
		. "}'::bigint[]) x LEFT JOIN mrsync.hlc_override o ON o.xid = x::text::xid8");
}

# ---------------------------------------------------------------------------------------------------------------------
# All combinations of what three regions can do to a row
# ---------------------------------------------------------------------------------------------------------------------
# kind => transactions, each [SQL, effects on the key itself, effects on the key it moves to]; V is the new value
my %kinds = (
	nothing => [],
	update => [ [ "UPDATE T SET v = V WHERE id = K", 'V', undef ] ],
	delete => [ [ "DELETE FROM T WHERE id = K", '', undef ] ],
	delete_insert => [ [ "DELETE FROM T WHERE id = K", '', undef ], [ "INSERT INTO T VALUES (K, V)", 'V', undef ] ],
	replace => [ [ "DELETE FROM T WHERE id = K; INSERT INTO T VALUES (K, V)", 'V', undef ] ],
	move => [ [ "UPDATE T SET id = K + 1, v = V WHERE id = K", '', 'V' ] ],
	move_back => [ [ "UPDATE T SET id = K + 1, v = V WHERE id = K", '', 'V' ], [ "UPDATE T SET id = K, v = V WHERE id = K + 1", 'V', '' ] ],
	move_back_at_once => [ [ "UPDATE T SET id = K + 1 WHERE id = K; UPDATE T SET id = K, v = V WHERE id = K + 1", 'V', '' ] ],
	insert_there => [ [ "INSERT INTO T VALUES (K + 1, V)", undef, 'V' ] ],
	insert => [ [ "INSERT INTO T VALUES (K, V)", 'V', undef ] ],
	insert_update => [ [ "INSERT INTO T VALUES (K, 'first')", 'first', undef ], [ "UPDATE T SET v = V WHERE id = K", 'V', undef ] ],
	insert_delete => [ [ "INSERT INTO T VALUES (K, V)", 'V', undef ], [ "DELETE FROM T WHERE id = K", '', undef ] ],
);
my @on_rows = qw(nothing update delete delete_insert replace move);
my @on_two_keys = qw(move_back move_back_at_once insert_there);
my @on_nothing = qw(nothing insert insert_update insert_delete);

# All triples of one thing for each region to do, but nothing by all.
sub triples
{
	my (@ops) = @_;
	return grep { "@$_" ne 'nothing nothing nothing' } map { my $a = $_; map { my $b = $_; map { [ $a, $b, $_ ] } @ops } @ops } @ops;
}
# Where a key change meets what another region does with the key it goes to. There are very many; each matrix takes some.
my @two_key_triples = grep { my $triple = $_; grep { my $kind = $_; grep { $_ eq $kind } @$triple } @on_two_keys } triples(@on_rows, @on_two_keys);

my $base = 0;
my $conflicts_expected = 0;
# What the earlier one does, and the later one: the conflict's name.
my %type = (
	'update update' => 'update_origin_differs', 'update delete' => 'delete_origin_differs', 'delete update' => 'update_deleted',
	'delete delete' => 'delete_missing', 'insert insert' => 'insert_exists',
);

sub matrix
{
	my ($name, $table, @rounds) = @_;
	$base += 100000;
	my (%expected, %touched, @jobs, %row);    # $expected{key} = [stamp, region, value]; '' is no row
	my $key = $base;
	for my $on (1, 0)
	{
		for my $triple ($on ? (triples(@on_rows), (shuffle @two_key_triples)[ 0 .. 149 ]) : triples(@on_nothing))
		{
			$key += 2;
			$row{$key} = $triple;
			$expected{$key} = [ 0, '', 'seed' ] if $on;
			push @jobs, map { [ $regions[$_], $key, $triple->[$_] ] } 0 .. 2;
		}
	}
	$lab->sql('us', "INSERT INTO $table SELECT k, 'seed' FROM unnest('{" . join(',', grep { $expected{$_} } sort keys %row) . "}'::integer[]) k");
	$lab->drain;
	$lab->pause;

	# chunks of jobs, each region's turn in another order, so that anybody may be the last writer
	my @effects;    # [region, xid, key, value]
	my $chunks = 12;
	@jobs = shuffle @jobs;
	for my $chunk (0 .. $chunks - 1)
	{
		for my $region (shuffle @regions)
		{
			my ($sql, @order) = ('');
			for my $job (@jobs[ grep { $_ % $chunks == $chunk } 0 .. $#jobs ])
			{
				my ($where, $k, $kind) = @$job;
				next if $where ne $region;
				for my $transaction (@{ $kinds{$kind} })
				{
					my ($statement, $here, $there) = @$transaction;
					my $value = "$region $kind $k";
					s/\bV\b/$value/ for grep { defined } $here, $there;
					$statement =~ s/\bT\b/$table/g;
					$statement =~ s/\bK\b/$k/g;
					$statement =~ s/\bV\b/'$value'/g;
					$sql .= "BEGIN; $statement; SELECT pg_current_xact_id(); COMMIT;\n";
					push @order, [ defined $here ? [ $k, $here ] : (), defined $there ? [ $k + 1, $there ] : () ];
				}
			}
			my @xids = split /\n/, $lab->sql($region, $sql);
			die 'a transaction has vanished' if @xids != @order;
			for my $i (0 .. $#xids)
			{
				push @effects, map { [ $region, $xids[$i], @$_ ] } @{ $order[$i] };
			}
		}
	}
	my %stamp = map { my $region = $_; $region => { stamps($region, map { $_->[1] } grep { $_->[0] eq $region } @effects) } } @regions;
	for (@effects)
	{
		my ($region, $xid, $k, $value) = @$_;
		my $stamp = $stamp{$region}{$xid} or die "no stamp of $xid in $region";
		$touched{$k}{$region} = 1;
		my $best = $expected{$k} //= [ 0, '', '' ];
		$expected{$k} = [ $stamp, $region, $value ] if $stamp > $best->[0] || $stamp == $best->[0] && $region gt $best->[1];
	}

	$lab->deliver(@rounds);
	$lab->drain;
	my $expected = join "\n", map { "$_|$expected{$_}[2]" } grep { $expected{$_}[2] ne '' } sort { $a <=> $b } keys %expected;
	my $is = $lab->same("SELECT id, v FROM $table WHERE id >= $base AND id < $base + 100000 ORDER BY id", "$name: equal");
	ok $is eq $expected, "$name: to the last writer of each of " . keys(%expected) . ' keys'
		or diag Mrsync::Lab::first_difference('expected', $expected, 'is', $is);

	# every conflict is logged where it is met
	my %logged;    # region => key => types
	for my $region (@regions)
	{
		for (split /\n/, $lab->sql($region, "SELECT row_pk ->> 'id', string_agg(DISTINCT conflict_type, ' ') FROM mrsync.conflict_log WHERE table_name = 'public.$table' AND (row_pk ->> 'id')::integer >= $base GROUP BY 1"))
		{
			my ($k, $types) = split /\|/;
			$logged{$region}{$k} = $types;
		}
	}
	my @contested = grep { keys %{ $touched{$_} } > 1 } keys %touched;
	my @missing = map { my $k = $_; grep { !$logged{$_}{$k} } @regions } @contested;
	is scalar @missing, 0, "$name: each of " . @contested . ' contested keys is in the conflict log of each region';
	my @invented = map { my $region = $_; grep { keys %{ $touched{$_} } < 2 } keys %{ $logged{$region} } } @regions;
	is "@invented", '', "$name: and nothing else is";
	my (@wrong, $seen);
	for my $k (keys %row)
	{
		my ($us, $eu, $ap) = @{ $row{$k} };
		next if $ap ne 'nothing' || !$type{"$us $eu"};
		++$seen;
		my $is = $type{ $expected{$k}[1] eq 'eu' ? "$us $eu" : "$eu $us" };
		push @wrong, "$us in us and $eu in eu, $_ says: $logged{$_}{$k}, not $is" for grep { $logged{$_}{$k} ne $is } @regions;
	}
	is join("\n", @wrong), '', "$name: under its name";
	$conflicts_expected += @contested;
	$lab->sql($_, "SELECT count(*) FROM $table") for @regions;
}

my @all = $lab->links;
sub one_by_one { return map { [$_] } shuffle @all }
matrix('links resumed together', 'matrix', [@all]);
matrix('one link after another', 'matrix', one_by_one());
matrix('a ring first', 'matrix', [ 'us>eu' ], [ 'eu>ap' ], [ 'ap>us' ], [ 'us>ap', 'ap>eu', 'eu>us' ]);
matrix('partitions, one link after another', 'parted', one_by_one());

# ---------------------------------------------------------------------------------------------------------------------
# Two columns of one row, one of them large
# ---------------------------------------------------------------------------------------------------------------------
my $id = 0;
for my $first ('n', 'large')
{
	for my $rounds ([ ['us>eu'], ['eu>us'], [ grep { /ap/ } @all ] ], [ ['eu>us'], ['us>eu'], [ grep { /ap/ } reverse @all ] ], [ [ grep { />ap/ } @all ], [ grep { !/>ap/ } @all ] ])
	{
		++$id;
		$lab->sql('us', "INSERT INTO toasted SELECT $id, 'seed', string_agg(md5(i::text), '') FROM generate_series(1, 2000) i");
		$lab->drain;
		$lab->pause;
		my %change = (n => "UPDATE toasted SET n = 'changed' WHERE id = $id", large => "UPDATE toasted SET large = reverse(large) WHERE id = $id");
		my $second = $first eq 'n' ? 'large' : 'n';
		$lab->sql('us', $change{$first});
		$lab->sql('eu', $change{$second});
		$lab->deliver(@$rounds);
		$lab->drain;
		my $is = $lab->same("SELECT n, md5(large), length(large) FROM toasted WHERE id = $id", "$first, then $second in another region: equal");
		my $expected = $lab->sql('us', "SELECT " . ($second eq 'n' ? "'changed', md5(l)" : "'seed', md5(reverse(l))") . ", 64000 FROM (SELECT string_agg(md5(i::text), '') l FROM generate_series(1, 2000) i) x");
		is $is, $expected, 'and whole: the last writer has both columns';
	}
}

# ---------------------------------------------------------------------------------------------------------------------
# Keys that are equal in another text
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('ap', "INSERT INTO numbered VALUES (5.0, 'seed'), (6.0, 'seed'); INSERT INTO named VALUES ('e', 'seed')");
$lab->drain;
$lab->pause;
$lab->sql('us', "INSERT INTO numbered VALUES (1.0, 'us'); UPDATE numbered SET id = 5.00 WHERE id = 5; DELETE FROM numbered WHERE id = 6; INSERT INTO named VALUES ('a', 'us')");
$lab->sql('eu', "INSERT INTO numbered VALUES (1.000, 'eu'); UPDATE numbered SET v = 'eu' WHERE id = 5; UPDATE numbered SET id = 6.000, v = 'eu' WHERE id = 6; INSERT INTO named VALUES ('a   ', 'eu')");
$lab->sql('ap', "DELETE FROM numbered WHERE id = 5; INSERT INTO numbered VALUES (5.00000, 'ap'); INSERT INTO numbered VALUES (1, 'ap')");
$lab->deliver(one_by_one());
$lab->drain;
is $lab->same('SELECT id, v FROM numbered ORDER BY id', 'keys equal in another text: equal'), "1|ap\n5.00000|ap\n6.000|eu", 'to the last writer';
is $lab->same('SELECT id, v FROM named ORDER BY id', 'blank-padded keys: equal'), "a       |eu\ne       |seed", 'to the last writer';

# ---------------------------------------------------------------------------------------------------------------------
# TRUNCATE against writes
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('us', "INSERT INTO truncated SELECT i, 'seed' FROM generate_series(1, 6) i");
$lab->drain;
$lab->pause;
$lab->sql('eu', "UPDATE truncated SET v = 'before' WHERE id IN (1, 2); INSERT INTO truncated VALUES (10, 'before')");
$lab->sql('us', "UPDATE truncated SET v = 'gone' WHERE id = 3; TRUNCATE truncated; INSERT INTO truncated VALUES (4, 'new'), (20, 'new')");
$lab->sql('ap', "UPDATE truncated SET v = 'after' WHERE id IN (2, 5); DELETE FROM truncated WHERE id = 6; INSERT INTO truncated VALUES (30, 'after')");
$lab->deliver(one_by_one());
$lab->drain;
is $lab->same('SELECT id, v FROM truncated ORDER BY id', 'TRUNCATE against writes: equal'), "2|after\n4|new\n5|after\n20|new\n30|after", 'what was written after it stays';

# ---------------------------------------------------------------------------------------------------------------------
# The log
# ---------------------------------------------------------------------------------------------------------------------
sub check_log
{
	my ($when) = @_;
	my (%entry, %id_of, @wrong, $shared);
	for my $region (@regions)
	{
		for (split /\n/, $lab->sql($region, 'SELECT conflict_id, CASE WHEN table_name <> $$public.numbered$$ THEN row_pk END, table_name, region_a, region_b, hlc_a, hlc_b, winner_region, resolution_strategy, event_id_a, event_id_b, winner_event_id, (hlc_b, region_b) > (hlc_a, region_a), result IS NOT DISTINCT FROM image_b FROM mrsync.conflict_log'))
		{
			my ($id, $key, @rest) = split /\|/, $_, -1;    # numbered: equal keys have several texts
			my ($higher, $result) = splice @rest, -2;
			my ($event_a, $event_b, $winner) = splice @rest, -3;
			push @wrong, "$region: $_" if $higher ne 't' || $result ne 't' || $rest[5] ne $rest[2] || $winner ne $event_b || !($event_a || $event_b);
			my $known = $entry{$id} //= { rest => "@rest" };
			push @wrong, "$region says @rest of $id, not $known->{rest}" if $known->{rest} ne "@rest";
			push @wrong, "$region calls it $id, not $id_of{\"$key @rest\"}: $_" if $key ne '' && ($id_of{"$key @rest"} //= $id) ne $id;
			++$shared if $known->{times}++;
			for (['a', $event_a], ['b', $event_b])
			{
				my ($side, $event) = @$_;
				push @wrong, "$region: event $side of $id" if $event && ($known->{$side} //= $event) ne $event;
			}
		}
	}
	is join("\n", @wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]), '', "$when: each conflict has one id, one winner, the same sides wherever it was met";
	cmp_ok $shared // 0, '>', 0, "$when: " . ($shared // 0) . ' of ' . keys(%entry) . ' were met in more than one region';
	return scalar keys %entry;
}
cmp_ok check_log('links paused'), '>=', $conflicts_expected, 'none is missing';
my %types = map { map { $_ => 1 } split /\n/, $lab->sql($_, 'SELECT DISTINCT conflict_type FROM mrsync.conflict_log') } @regions;
is join(' ', sort keys %types), 'delete_missing delete_origin_differs insert_exists update_deleted update_origin_differs', 'every name has come up';
is $lab->sql('us', "SELECT count(*) FROM mrsync.conflict_log c WHERE table_name = 'public.matrix' AND result ->> 'id' <> row_pk ->> 'id'"), 0, 'images are of the row';
is $lab->sql('us', "SELECT count(DISTINCT conflict_id) FROM mrsync.conflict_log WHERE table_name = 'public.numbered'") > 0, 1, 'also of keys in another text';
$lab->conflicts_retold;
$lab->same($Mrsync::Lab::CONFLICTS, 'told of what the others have met: the logs are equal');
# a key in another text than the event's tells nothing
my $unnamed = "SELECT count(*) FROM mrsync.conflict_log WHERE (event_id_b IS NULL OR event_id_a IS NULL AND hlc_a IS NOT NULL) AND table_name <> 'public.numbered'";
is $lab->same($unnamed, 'events that are not named: equal'), 0, 'there are none';
$lab->healthy;

# ---------------------------------------------------------------------------------------------------------------------
# What is no conflict
# ---------------------------------------------------------------------------------------------------------------------
$lab->conflicts_apart;
$lab->everywhere('TRUNCATE mrsync.conflict_log');
$lab->tables('CREATE TABLE hop_parted (id integer, kind text, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind); CREATE TABLE hop_parted_a PARTITION OF hop_parted FOR VALUES IN (\'a\'); CREATE TABLE hop_parted_rest PARTITION OF hop_parted DEFAULT;', 'hop_parted');
my $log_size = sub { join ' ', map { $lab->sql($_, 'SELECT count(*) FROM mrsync.conflict_log') } @regions };
for my $round (1 .. 10)
{
	my ($a, $b, $c) = shuffle @regions;
	my $k = $round * 10;
	my $see = sub { $lab->wait_for($_[0], "SELECT coalesce((SELECT v FROM hop WHERE id = $_[1]), 'none')", $_[2]) };
	$lab->sql($a, "INSERT INTO hop SELECT $k + i, 'one' FROM generate_series(0, 4) i; INSERT INTO hop_parted VALUES ($k, 'a', 'one')");
	$see->($b, $k + 4, 'one');
	$lab->sql($b, "UPDATE hop SET v = 'two' WHERE id IN ($k, $k + 4); DELETE FROM hop WHERE id = $k + 1; UPDATE hop SET id = $k + 5 WHERE id = $k + 2");
	$lab->wait_for($b, "SELECT count(*) FROM hop_parted WHERE id = $k", 1);
	$lab->sql($b, "UPDATE hop_parted SET kind = 'b' WHERE id = $k");
	$see->($c, $k + 5, 'one');
	$lab->drain($a);    # c has what a wrote, too: what it writes before that comes is in conflict with it
	$lab->sql($c, "UPDATE hop SET v = 'three' WHERE id IN ($k, $k + 5); INSERT INTO hop VALUES ($k + 1, 'three'); DELETE FROM hop WHERE id = $k + 4");
	$see->($a, $k + 1, 'three');
	$lab->drain($b);    # its link to a may be the slower one: row $k + 2 would still be there
	$lab->sql($a, "UPDATE hop SET v = 'four' WHERE id IN ($k, $k + 1, $k + 5); INSERT INTO hop VALUES ($k + 2, 'four')");
	$see->($b, $k + 2, 'four');
	$lab->sql($b, "DELETE FROM hop WHERE id = $k + 3");
}
$lab->drain;
is $lab->same('SELECT id % 10, v, count(*) FROM hop GROUP BY 1, 2 ORDER BY 1', 'writes that follow each other through three regions: equal'), join("\n", map { "$_|four|10" } 0, 1, 2, 5), 'to the last one';
is $log_size->(), '0 0 0', 'none of them is a conflict';

# The detour is faster than the straight road: b's change of a's row is here before the row.
for my $case ([ 'UPDATE', "UPDATE hop SET v = 'b' WHERE id = 1000", 'b' ], [ 'DELETE', 'DELETE FROM hop WHERE id = 1000', 'none' ],
	[ 'INSERT after DELETE', "DELETE FROM hop WHERE id = 1000; INSERT INTO hop VALUES (1000, 'b')", 'b' ], [ 'key change', "UPDATE hop SET id = 1001 WHERE id = 1000; UPDATE hop SET id = 1000, v = 'b' WHERE id = 1001", 'b' ])
{
	my ($name, $sql, $expected) = @$case;
	for my $existing (0, 1)    # a's write is an INSERT, or an UPDATE of what everybody has
	{
		if ($existing)
		{
			$lab->sql('us', "INSERT INTO hop VALUES (1000, 'seed')");
			$lab->drain;
		}
		$lab->pause('us>ap');
		$lab->sql('us', "INSERT INTO hop VALUES (1000, 'a') ON CONFLICT (id) DO UPDATE SET v = 'a'");
		$lab->wait_for('eu', "SELECT coalesce((SELECT v FROM hop WHERE id = 1000), 'none')", 'a');
		$lab->sql('eu', $sql);
		$lab->deliver([ 'eu>ap' ], [ 'us>ap' ]);
		$lab->drain;
		is $lab->same("SELECT coalesce((SELECT v FROM hop WHERE id = 1000), 'none')", "$name overtakes the row's " . ($existing ? 'UPDATE' : 'INSERT') . ': equal'), $expected, 'to the last write';
		is $log_size->(), '0 0 0', 'and no conflict';
		$lab->sql('ap', 'DELETE FROM hop WHERE id >= 1000');
		$lab->drain;
	}
}

# Everything once more: the position of every link is put back to the topic's beginning.
{
	my %before = map { my $t = $_; $t => $lab->sql('us', "SELECT md5(string_agg(r::text, ',' ORDER BY r::text)) FROM $t r") } qw(matrix parted toasted hop truncated numbered);
	my $applied = sub { join ' ', map { $lab->sql($_, 'SELECT count(*) FROM mrsync.applied_event') } @regions };
	my $count = $applied->();
	$lab->pause;
	$lab->everywhere('UPDATE mrsync.link_position SET next_offset = 0, sequence = 0, incarnation = 0');
	$lab->deliver([@all]);
	$lab->drain;
	$lab->same("SELECT md5(string_agg(r::text, ',' ORDER BY r::text)) FROM $_ r", "$_ when every event came twice: equal") for sort keys %before;
	is join(' ', map { $lab->sql('ap', "SELECT md5(string_agg(r::text, ',' ORDER BY r::text)) FROM $_ r") } sort keys %before), join(' ', map { $before{$_} } sort keys %before), 'and as it was';
	is $log_size->(), '0 0 0', 'duplicates are no conflicts';
	is $applied->(), join(' ', map { $_ + 2 } split / /, $count), 'and were recognized: each region has applied two markers more, nothing else';
}

# Unequal from the beginning: that is said.
$lab->everywhere('CREATE TABLE unequal (id integer PRIMARY KEY, v text)');
$lab->sql('us', "INSERT INTO unequal VALUES (1, 'us'), (2, 'us')");
$lab->everywhere("SELECT mrsync.table_add('unequal')");
$lab->sql('us', "UPDATE unequal SET v = 'new' WHERE id = 1; DELETE FROM unequal WHERE id = 2");
$lab->drain;
is $lab->same('SELECT * FROM unequal', 'a row that was never sent: equal after its UPDATE'), '1|new', 'from its complete image';
is $lab->sql('eu', "SELECT string_agg(conflict_type || ' ' || coalesce(region_a, '-') || ' ' || region_b, ', ' ORDER BY hlc_b) FROM mrsync.conflict_log"), 'update_missing - us, delete_missing - us', 'and the log says that nothing was there';

# Equal from the beginning: the first write to a row that was loaded into every region by hand is no conflict, though what
# it meets was written here. A row that was loaded after a peer's write is newer, and stays; that is said.
$lab->everywhere("CREATE TABLE loaded (id integer PRIMARY KEY, v text) PARTITION BY HASH (id); CREATE TABLE loaded_0 PARTITION OF loaded FOR VALUES WITH (MODULUS 1, REMAINDER 0)");
$lab->sql($_, "INSERT INTO loaded SELECT i, 'base' FROM generate_series(1, 9) i; SELECT mrsync.table_add('loaded')") for qw(us ap);
$lab->pause('us>eu');
$lab->sql('us', "UPDATE loaded SET v = 'us, early' WHERE id = 9");
$lab->sql('eu', "INSERT INTO loaded SELECT i, 'base' FROM generate_series(1, 9) i; SELECT mrsync.table_add('loaded')");
$lab->resume('us>eu');
$lab->sql('us', "UPDATE loaded SET v = 'us' WHERE id = 1; DELETE FROM loaded WHERE id = 2");
$lab->sql('ap', "INSERT INTO loaded VALUES (3, 'ap') ON CONFLICT (id) DO UPDATE SET v = excluded.v");
$lab->drain;
is $lab->same('SELECT id, v FROM loaded WHERE id < 4 ORDER BY id', 'the first writes to rows loaded everywhere'), "1|us\n3|ap", 'are applied';
my $met = "SELECT string_agg(concat_ws(' ', row_pk, conflict_type, region_a, region_b, winner_region), ', ') FROM mrsync.conflict_log WHERE table_name = 'public.loaded'";
is $lab->sql($_, $met), '', "and $_ calls none of them a conflict" for qw(us ap);
is $lab->sql('eu', $met), '{"id": "9"} update_origin_differs us eu eu', 'what was loaded too late, eu keeps and says so';

# ---------------------------------------------------------------------------------------------------------------------
# Without pauses, under load on a few hot rows
# ---------------------------------------------------------------------------------------------------------------------
$lab->everywhere('TRUNCATE mrsync.conflict_log');
my @loads;
for my $region (@regions)
{
	push @loads, Mrsync::Load->start($lab, $region, clients => 3, rate => 150, scripts => [
		[ "\\set k random(1, 5)\nINSERT INTO hot VALUES (:k, '$region', 1) ON CONFLICT (id) DO UPDATE SET v = '$region', n = hot.n + 1;\n", 4 ],
		[ "\\set k random(1, 5)\nUPDATE hot SET n = n + 1, v = '$region up' WHERE id = :k;\n", 4 ],
		[ "\\set k random(1, 5)\nDELETE FROM hot WHERE id = :k;\n", 2 ],
		[ "\\set k random(1, 5)\nBEGIN;\nDELETE FROM hot WHERE id = :k;\nINSERT INTO hot VALUES (:k, '$region again', 0) ON CONFLICT DO NOTHING;\nSAVEPOINT a;\nUPDATE hot SET n = 7 WHERE id = :k;\nRELEASE a;\nCOMMIT;\n", 2 ],
		[ "\\set k random(1, 4)\nINSERT INTO hot_parted VALUES (:k, :k % 3, '$region') ON CONFLICT (id, kind) DO UPDATE SET v = '$region';\n", 2 ],
		[ "\\set k random(1, 4)\n\\set to random(0, 2)\nDELETE FROM hot_parted WHERE id = :k AND kind <> :to;\n", 1 ],
		[ "\\set k random(1, 5)\n\\set to random(1, 5)\nSELECT hot_move(:k, :to, '$region');\n", 2 ],
		[ "\\set k random(1, 4)\n\\set from random(0, 2)\n\\set to random(0, 2)\nSELECT hot_parted_move(:k, :from, :to, '$region');\n", 2 ],
		[ "\\set k random(1, 5)\nBEGIN;\nSET LOCAL mrsync.force_override = on;\nUPDATE hot SET n = n + 1, v = '$region override' WHERE id = :k;\nCOMMIT;\n", 1 ],
	]);
}
# until enough has met
$lab->wait_for($_, "SELECT count(*) > 400 FROM mrsync.conflict_log WHERE table_name LIKE 'public.hot%'") for @regions;
$_->finish for @loads;
like $_->errors, qr/\A(?:(?!ERROR).)*\z/s, "no error in $_->{region}" for @loads;
$lab->drain;
$lab->same('SELECT * FROM hot ORDER BY id', 'hot rows: equal');
$lab->same('SELECT tableoid::regclass, * FROM hot_parted ORDER BY id, kind', 'hot rows in partitions: equal');
check_log('under load');
$lab->conflicts_retold;
$lab->same($Mrsync::Lab::CONFLICTS, 'under load: the logs are equal');
is $lab->same($unnamed, 'under load, events that are not named: equal'), 0, 'there are none';
# the version is what decides the next conflict: it must be equal, too
my @versions = map { my $region = $_; $lab->sql($region, "SELECT id, n, v, coalesce(o.hlc, pg_xact_commit_timestamp(h.xmin)::mrsync.hlc) FROM hot h LEFT JOIN mrsync.hlc_override o ON o.xid::xid = h.xmin ORDER BY id") } @regions;
is $versions[1], $versions[0], "versions in eu are those in us";
is $versions[2], $versions[0], "versions in ap are those in us";
$lab->healthy;
done_testing;
