# Tables whose rows exclude each other in many ways, random writes to them in regions that know nothing of each other, and what has to
# come of these: folded by (stamp, region), from the highest version down what fits, or is made to fit.
package Mrsync::Unique;

use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;

my $rows = 12;    # of each table

sub equal { my ($x, $y) = @_; return defined $x && defined $y && $x eq $y }
# table => [values of a, values of b, by what two rows exclude each other: the column that may be NULL, whether they do]
my %tables = (
	two => [ [ undef, 1 .. 6 ], [ undef, 1 .. 6 ], [ a => sub { my ($x, $y) = @_; equal($x->{a}, $y->{a}) } ], [ b => sub { my ($x, $y) = @_; equal($x->{b}, $y->{b}) } ] ],
	active => [ [ 1 .. 5 ], [ 0, 1 ], [ a => sub { my ($x, $y) = @_; equal($x->{a}, $y->{a}) && $x->{b} && $y->{b} } ] ],
	folded => [ [ qw(a A b B c) ], [ undef, 1 .. 20 ], [ a => sub { my ($x, $y) = @_; lc $x->{a} eq lc $y->{a} } ],
		[ undef, sub { my ($x, $y) = @_; defined $x->{b} && defined $y->{b} && $x->{b} % 4 == $y->{b} % 4 } ] ],
	nulls => [ [ undef, 1, 2 ], [ undef, 1, 2 ], [ b => sub { my ($x, $y) = @_; ($x->{a} // 0) == ($y->{a} // 0) && ($x->{b} // 0) == ($y->{b} // 0) } ] ],
	booked => [ [ 1 .. 20 ], [ 1 .. 8 ], [ b => sub { my ($x, $y) = @_; $x->{a} < $y->{a} + $y->{b} && $y->{a} < $x->{a} + $x->{b} } ] ],
	parted => [ [ undef, 1 .. 3 ], [ 0 .. 4 ], [ a => sub { my ($x, $y) = @_; equal($x->{a}, $y->{a}) && $x->{b} == $y->{b} } ] ],
);
my @names = sort keys %tables;

sub new
{
	my ($class, $lab) = @_;
	$lab->tables(<<'SQL', @names);
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
	# made: table => what becomes of a row that others exclude (the row, the columns to be set NULL; a column may be none): a row, or nothing.
	return bless { lab => $lab, tried => 0, out => 0, placed => 0, made => {} }, $class;
}

sub tables { return @names }

# Everything has arrived, and what it has freed has come in.
sub settle
{
	my ($self) = @_;
	my $lab = $self->{lab};
	$lab->drain;
	$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside WHERE holder_hash IS NULL', 0) for $lab->regions;
}

# Empties tables, and takes along what they hold aside.
sub clear
{
	my ($self, @tables) = @_;
	my $lab = $self->{lab};
	$lab->sql('us', 'TRUNCATE ' . join ', ', @tables);
	$self->settle;
	for my $region ($lab->regions)
	{
		$lab->wait_for($region, "SELECT count(*) FROM mrsync.row_aside WHERE relation = '$_'::regclass", 0) for @tables;
	}
}

sub stamps
{
	my ($self, $region, @xids) = @_;
	return map { split /\|/ } split /\n/, $self->{lab}->sql($region,
		"SELECT x, coalesce(o.hlc, pg_xact_commit_timestamp(x::text::xid)::mrsync.hlc)::bigint FROM unnest('{" . join(',', @xids)
		. "}'::bigint[]) x LEFT JOIN mrsync.hlc_override o ON o.xid = x::text::xid8");
}

sub value { my ($v) = @_; return defined $v ? "'$v'" : 'NULL' }
sub key_of { my ($table, $row) = @_; return $table eq 'parted' ? "$row->{id}/$row->{b}" : $row->{id} }
sub print_row { my ($row, @more) = @_; return join '|', $row->{note}, map({ $_ // '' } @$row{qw(a b)}), @more }

# What is in a table, and what was to be; of rows by version.
sub placed
{
	my ($self, $table, @versions) = @_;
	my (undef, undef, @by) = @{ $tables{$table} };
	my (@in, @placed, @out);
	for my $row (map { $_->{row} } sort { $b->{version} cmp $a->{version} } @versions)
	{
		my $taken = sub { my ($row) = @_; return map { $_->[0] // '' } grep { my $by = $_; grep { $by->[1]->($_, $row) } @in } @by };
		my @columns = $taken->($row);
		my $made = @columns && $self->{made}{$table} ? $self->{made}{$table}->({%$row}, @columns) : undef;
		if (!@columns) { push @in, $row }
		elsif ($made && !$taken->($made)) { push @in, $made; push @placed, $row }
		else { push @out, $row }
	}
	return (\@in, \@placed, \@out);
}

# The rounds: of links that deliver.
sub writes
{
	my ($self, $name, @rounds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $lab = $self->{lab};
	my (%state, @writes);    # $state{table}{key} = { version, row or undef }
	$self->clear(@names);
	$lab->pause;
	for my $turn (1 .. 4)
	{
		for my $region (shuffle $lab->regions)
		{
			my ($sql, @order) = ('');
			for my $table (map { ($_) x 4 } @names)
			{
				my ($as, $bs) = @{ $tables{$table} };
				my $row = { id => 1 + int rand $rows, a => $as->[ rand @$as ], b => $bs->[ rand @$bs ], note => "$region " . ++$self->{tried} };
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
	my %stamp = map { my $region = $_; $region => { $self->stamps($region, map { $_->[1] } grep { $_->[0] eq $region } @writes) } } $lab->regions;
	for (@writes)
	{
		my ($region, $xid, $table, $row, $is_delete) = @$_;
		my $version = sprintf '%020d %s', $stamp{$region}{$xid}, $region;
		my $known = $state{$table}{ key_of($table, $row) } //= { version => '' };
		@$known{qw(version row)} = ($version, $is_delete ? undef : $row) if $version gt $known->{version};
	}
	$lab->deliver(@rounds);
	$self->settle;
	for my $table (@names)
	{
		my ($in, $placed, $out) = $self->placed($table, grep { $_->{row} } values %{ $state{$table} });
		my $expected = join "\n", sort map { print_row($_) } @$in;
		my $table_is = "SELECT note, a, b FROM $table ORDER BY concat_ws('|', note, coalesce(a::text, ''), coalesce(b::text, '')) COLLATE \"C\"";
		my $aside_is = "SELECT image ->> 'note', image ->> 'a', image ->> 'b', is_placed, row_pk, region_id, hlc, made::text FROM mrsync.row_aside WHERE relation = '$table'::regclass ORDER BY image ->> 'note' COLLATE \"C\"";
		if ($self->{made}{$table})    # what a row is made into is looked at again now and then
		{
			$lab->wait_for($_, "SELECT string_agg(concat_ws('|', note, coalesce(a::text, ''), coalesce(b::text, '')), E'\\n' ORDER BY concat_ws('|', note, coalesce(a::text, ''), coalesce(b::text, '')) COLLATE \"C\") FROM $table", $expected) for $lab->regions;
		}
		my $is = $lab->same($table_is, "$name: $table is the same everywhere");
		ok $is eq $expected, "$name: what fits, from the highest version down: " . @$in . ' rows of ' . keys %{ $state{$table} }
			or diag Mrsync::Lab::first_difference('expected', $expected, 'is', $is);
		my $aside = $lab->same($aside_is, "$name: what $table holds aside is the same everywhere");
		is join("\n", map { join '|', (split /\|/, $_, -1)[ 0 .. 3 ] } split /\n/, $aside), join("\n", map { $_->[1] } sort { $a->[0] cmp $b->[0] } map({ [ $_->{note}, print_row($_, 't') ] } @$placed), map { [ $_->{note}, print_row($_, 'f') ] } @$out),
			"$name: of the others " . @$out . ' are held aside, ' . @$placed . ' are made to fit';
		$self->{out} += @$out;
		$self->{placed} += @$placed;
	}
}

1;
