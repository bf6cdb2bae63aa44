# Rows that others exclude, in tables with a rule for them: they are made to fit, the same in every region, whatever came first.
#
# Proves I13 for them. The random writes and what has to come of them are those of 26_unique.t; here a loser gets NULL for a key, or what a
# function makes of it. Then what people do with such rows, functions that fail, and rules that change.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(log_trouble terminate worker_pid);
use Mrsync::Unique;

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions, settings => { 'mrsync.merge_function_timeout' => '1s' });
my $random = Mrsync::Unique->new($lab);
$lab->tables(<<'SQL', qw(named many journal));
CREATE TABLE journal (id bigint PRIMARY KEY, region text);
CREATE TABLE named (id integer PRIMARY KEY, name text UNIQUE, note text, CHECK (note <> 'must have a name' OR name IS NOT NULL));
CREATE TABLE many (id bigint PRIMARY KEY, name text UNIQUE, n integer UNIQUE);
SQL
$lab->drain;
my @all = $lab->links;
sub settle { $random->settle }
sub active { my ($id) = @_; $lab->sql('us', "SELECT mrsync.merge_function_wait('$id', '60 s')"); return $id }
sub strategy { my ($table, $strategy) = @_; return active($lab->sql('us', "SELECT mrsync.loser_strategy_set('$table', '$strategy')")) }
sub function { my ($table, $function) = @_; return active($lab->sql('us', "SELECT mrsync.loser_function_register('$table', '$function')")) }
# Whoever has left his place without an applier seeing it is found by and by.
sub equal
{
	my ($name, $table) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @is = ("SELECT * FROM $table ORDER BY id",
		"SELECT row_pk, region_id, hlc, image::jsonb, is_placed, made::jsonb, constraint_name FROM mrsync.row_aside WHERE relation = '$table'::regclass ORDER BY row_pk::text");
	$lab->wait_until("$name: the regions to be equal", sub
	{
		settle();
		return !grep { my $is = $_; my ($us, @others) = map { $lab->sql($_, $is) } @regions; grep { $_ ne $us } @others } @is;
	});
	$lab->same($is[0], "$name: the same everywhere");
	$lab->same($is[1], "$name: and so is what is held aside");
}
# All regions have these rows, and none other; then also the same held aside.
sub expect
{
	my ($name, $table, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	settle();
	$lab->wait_for($_, "SELECT string_agg(r::text, ' ' ORDER BY id) FROM $table r", $expected) for @regions;
	equal($name, $table);
	$lab->same("SELECT id, (mrsync.row_version(tableoid, ctid, xmin)).* FROM $table ORDER BY id", "$name: and so are the versions");
}
my $aside = "SELECT string_agg(image ->> 'name' || CASE WHEN is_placed THEN '' ELSE ' aside' END, ' ' ORDER BY image ->> 'id') FROM mrsync.row_aside WHERE relation = 'named'::regclass";

# ---------------------------------------------------------------------------------------------------------------------
# Random writes, in some orders of arrival
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('us', <<'SQL');
CREATE FUNCTION again(loser folded) RETURNS folded LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN loser.a := loser.a || loser.id; RETURN loser; END $$;
CREATE FUNCTION later(loser booked) RETURNS booked LANGUAGE sql IMMUTABLE AS $$ SELECT (loser).id, (loser).a + 20, (loser).b, (loser).note $$;
SQL
if ($lab->part('random writes'))
{
	strategy($_, 'set_null') for qw(two active nulls parted);
	function('folded', 'again(folded)');
	function('booked', 'later(booked)');
	my $to_null = sub { my ($row, @columns) = @_; return undef if grep { $_ eq '' } @columns; @$row{@columns} = (); return $row };
	$random->{made} = {
		(map { $_ => $to_null } qw(two active nulls parted)),
		folded => sub { my ($row) = @_; $row->{a} .= $row->{id}; return $row },
		booked => sub { my ($row) = @_; $row->{a} += 20; return $row },
	};
	$random->writes('links resumed together', [@all]);
	$random->writes('one link after another', map { [$_] } shuffle @all);
	$random->writes('a ring first', [ 'us>eu' ], [ 'eu>ap' ], [ 'ap>us' ], [ 'us>ap', 'ap>eu', 'eu>us' ]);
	cmp_ok $random->{placed}, '>', 20, "$random->{placed} of $random->{tried} random writes were made to fit in the end";
	cmp_ok $random->{out}, '>', 0, "$random->{out} were not";
	$random->clear($random->tables);
}

# ---------------------------------------------------------------------------------------------------------------------
# What people do
# ---------------------------------------------------------------------------------------------------------------------
sub collide    # (one, name) in us, then (two, name) in eu
{
	my ($one, $two, $name) = @_;
	$lab->pause;
	$lab->sql('us', "INSERT INTO named VALUES ($one, '$name', 'us')");
	$lab->sql('eu', "INSERT INTO named VALUES ($two, '$name', 'eu')");
	$lab->deliver(map { [$_] } shuffle @all);
	settle();
}
if ($lab->part('people'))
{
	collide(1, 2, 'ann');
	expect('no rule', 'named', '(2,ann,eu)');
	is $lab->sql('ap', $aside), 'ann aside', 'it is held aside';
	my $rule = strategy('named', 'set_null');
	expect('a rule', 'named', '(1,,us) (2,ann,eu)');
	is $lab->sql('ap', 'SELECT message FROM mrsync.row_aside WHERE relation = \'named\'::regclass'), 'in its table in another form: row {"id":"2"} excludes it by named_name_key', 'why it is so is said';
	is $lab->sql('ap', "SELECT source_region, held_aside FROM mrsync.link_status WHERE direction = 'incoming' ORDER BY 1"), "eu|0\nus|0", 'nothing is held aside';
	is $lab->sql('eu', "SELECT definition_id FROM mrsync.row_aside WHERE relation = 'named'::regclass"), $rule, 'by which rule, too';
	$lab->sql('ap', "UPDATE named SET name = 'anna' WHERE id = 2");
	expect('its holder renamed', 'named', '(1,ann,us) (2,anna,eu)');
	is $lab->sql($_, $aside), '', "nothing is left of it in $_" for @regions;

	collide(3, 4, 'cy');
	expect('another', 'named', '(1,ann,us) (2,anna,eu) (3,,us) (4,cy,eu)');
	$lab->sql('us', 'DELETE FROM named WHERE id = 4');
	expect('its holder deleted', 'named', '(1,ann,us) (2,anna,eu) (3,cy,us)');

	collide(5, 6, 'di');
	$lab->sql('ap', "UPDATE named SET note = 'ap' WHERE id = 5");
	$lab->sql('us', 'DELETE FROM named WHERE id IN (1, 2, 3, 6)');
	expect('written again as it is', 'named', '(5,,ap)');
	is $lab->sql($_, $aside), '', "that is a new write: nothing is left of the old one in $_" for @regions;

	collide(7, 8, 'ed');
	$lab->sql('ap', 'DELETE FROM named WHERE id IN (5, 7)');
	settle();
	$lab->sql('eu', 'DELETE FROM named WHERE id = 8');
	expect('deleted', 'named', '');
	is $lab->sql($_, $aside), '', "it does not come back in $_" for @regions;

	# of events on the row itself an older one comes late, and a newer one
	$lab->pause;
	$lab->sql('ap', "INSERT INTO named VALUES (9, 'old', 'ap')");
	$lab->sql('us', "INSERT INTO named VALUES (9, 'fay', 'us')");
	$lab->sql('eu', "INSERT INTO named VALUES (10, 'fay', 'eu')");
	$lab->deliver([ 'us>eu', 'eu>us', 'eu>ap' ], [@all]);
	expect('late and older', 'named', '(9,,us) (10,fay,eu)');
	like $lab->same("SELECT image_a ->> 'name', image_b ->> 'name', winner_region FROM mrsync.conflict_log WHERE table_name = 'public.named' AND row_pk ->> 'id' = '9' AND other_pk IS NULL", 'it is in the log everywhere'),
		qr/^old\|fay\|us$/, 'with the row as it was written';
	$lab->pause;
	$lab->sql('eu', "UPDATE named SET name = 'gus' WHERE id = 9");
	$lab->sql('us', "UPDATE named SET name = 'gus' WHERE id = 10");
	$lab->deliver(map { [$_] } shuffle @all);
	expect('and newer', 'named', '(9,,us) (10,gus,eu)');
	$lab->sql('ap', 'TRUNCATE named');
	expect('truncated', 'named', '');
}

# chains: each holds the next
if ($lab->part('chains'))
{
	my $write = sub { my ($region, $id, $name, $n) = @_; $lab->sql($region, "INSERT INTO many VALUES ($id, '$name', $n)") };
	$lab->pause;
	$write->('us', 1, 'x', 1);
	$write->('eu', 2, 'x', 2);
	$write->('ap', 3, 'y', 2);
	my $rule = $lab->sql('us', "SELECT mrsync.loser_strategy_set('many', 'set_null')");
	$lab->deliver(map { [$_] } shuffle @all);
	active($rule);
	expect('a chain', 'many', '(1,,1) (2,x,) (3,y,2)');
	$lab->sql('us', 'UPDATE many SET n = 3 WHERE id = 3');
	expect('its end goes', 'many', '(1,,1) (2,x,2) (3,y,3)');
	# what a row was made into has to leave, and is made anew
	$lab->pause;
	$lab->sql('us', "UPDATE many SET n = 4 WHERE id = 3");
	$write->('eu', 4, 'z', 6);
	$lab->sql('ap', 'DELETE FROM many WHERE id = 1');
	$write->('ap', 5, 'u', 1);
	$write->('eu', 6, 'x again', 5);
	$lab->resume;
	expect('one of them deleted', 'many', '(2,x,2) (3,y,4) (4,z,6) (5,u,1) (6,"x again",5)');
	$lab->pause;
	$write->('us', 7, 'w', 7);
	$write->('eu', 8, 'w', 8);
	$lab->resume;
	expect('a loser', 'many', '(2,x,2) (3,y,4) (4,z,6) (5,u,1) (6,"x again",5) (7,,7) (8,w,8)');
	$lab->pause('ap>us', 'us>ap', 'eu>ap', 'ap>eu');
	$lab->sql('us', 'DELETE FROM many WHERE id = 5');
	$lab->sql('ap', 'DELETE FROM many WHERE id = 7');
	$write->('ap', 9, 'v', 7);
	$lab->sql('us', 'UPDATE many SET n = 17 WHERE id = 2');
	$lab->resume;
	expect('it is deleted, and its other value taken', 'many', '(2,x,17) (3,y,4) (4,z,6) (6,"x again",5) (8,w,8) (9,v,7)');
	$lab->pause;
	$write->('us', 10, 'q', 10);
	$write->('eu', 11, 'q', 11);
	$lab->resume('us>eu', 'eu>us');
	$lab->wait_for($_, 'SELECT name IS NULL FROM many WHERE id = 10') for qw(us eu);
	$write->('ap', 12, 'p', 10);
	$lab->resume;
	expect('its other value taken', 'many', '(2,x,17) (3,y,4) (4,z,6) (6,"x again",5) (8,w,8) (9,v,7) (10,,) (11,q,11) (12,p,10)');
	is $lab->sql($_, "SELECT image_a ->> 'name', image_a ->> 'n' FROM mrsync.conflict_log WHERE table_name = 'public.many' AND row_pk ->> 'id' = '10' AND other_pk ->> 'id' = '12'"), 'q|10', "in the log of $_ it is as it was written" for qw(us eu);
	$lab->sql('us', 'DELETE FROM many WHERE id <> 10');
	expect('and all others deleted', 'many', '(10,q,10)');
	$lab->sql('us', 'DELETE FROM many');
	expect('and that, too', 'many', '');
}

# ---------------------------------------------------------------------------------------------------------------------
# Functions that fail, and rules that change
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('failures'))
{
	strategy('named', 'set_null');
	collide(20, 21, 'must');
	$lab->sql('us', "UPDATE named SET note = 'must have a name' WHERE id = 21");    # from here on the lower one must
	$lab->pause;
	$lab->sql('us', "INSERT INTO named VALUES (22, 'xx', 'must have a name')");
	$lab->sql('eu', "INSERT INTO named VALUES (23, 'xx', 'eu')");
	$lab->resume;
	expect('what the table does not take', 'named', '(20,,us) (21,must,"must have a name") (23,xx,eu)');
	like $lab->sql('ap', "SELECT message FROM mrsync.row_aside WHERE row_pk ->> 'id' = '22' AND relation = 'named'::regclass"), qr/excludes it by named_name_key; nothing is made of it: its table does not take it with NULL: 23514/, 'is held aside, and why';
	$lab->sql('us', 'TRUNCATE named');
	expect('empty', 'named', '');

	$lab->sql('us', <<'SQL');
CREATE FUNCTION rename(loser named) RETURNS named LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF loser.name = 'raises' THEN RAISE EXCEPTION 'no'; END IF;
	IF loser.name = 'is null' THEN RETURN NULL; END IF;
	IF loser.name = 'is refused' THEN loser.note := 'must have a name'; loser.name := NULL; RETURN loser; END IF;
	IF loser.name = 'sinks' THEN RETURN public.rename(loser); END IF;
	IF loser.name = 'is taken' THEN loser.name := 'works'; RETURN loser; END IF;
	IF loser.name = 'is another' THEN loser.id := 1000; END IF;
	WHILE loser.name = 'loops' OR loser.name = 'loops in eu' AND current_setting('cluster_name') = 'eu' LOOP END LOOP;
	loser.name := loser.name || '-' || loser.id;
	RETURN loser;
END $$;
SQL
	function('named', 'rename(named)');
	my @kinds = ('works', 'raises', 'is null', 'is refused', 'sinks', 'is taken', 'is another', 'loops', 'loops in eu');
	$lab->pause;
	$lab->sql('us', join '', map { "INSERT INTO named VALUES ($_, '$kinds[$_]', 'us');" } 0 .. $#kinds);
	$lab->sql('ap', join '', map { 'INSERT INTO named VALUES (' . ($_ + 100) . ", '$kinds[$_]', 'ap');" } 0 .. $#kinds);
	$lab->deliver([ 'us>ap', 'ap>us' ]);
	$lab->wait_for($_, 'SELECT name FROM named WHERE id = 8', 'loops in eu-8') for qw(us ap);
	is $lab->sql('eu', 'SELECT count(*) FROM named'), 0, 'eu has not heard of it';
	$lab->resume;
	my $winners = join ' ', map { my $name = $kinds[$_] =~ / / ? qq("$kinds[$_]") : $kinds[$_]; '(' . ($_ + 100) . ",$name,ap)" } 0 .. $#kinds;
	expect('functions that fail', 'named', "(0,works-0,us) (6,\"is another-1000\",us) $winners" =~ s/-1000"/-1000"/r);
	is $lab->sql($_, "SELECT count(*) FROM mrsync.merge_failure WHERE is_shared"), 3, "those that come to no end are given up in $_" for @regions;
	is $lab->sql('us', "SELECT string_agg(split_part(message, '; ', 2), E'\\n' ORDER BY (row_pk ->> 'id')::int) FROM mrsync.row_aside WHERE NOT is_placed AND relation = 'named'::regclass"), join("\n",
		'nothing is made of it: public.rename(public.named) failed: P0001 no',
		'nothing is made of it: public.rename(public.named) failed: 22004 it returned NULL',
		'nothing is made of it: public.rename(public.named) failed: 23514 new row for relation "named" violates check constraint "named_check"',
		'nothing is made of it: all regions have given public.rename(public.named) up for it (mrsync.merge_failure)',
		'what is made of it is excluded, too',
		('nothing is made of it: all regions have given public.rename(public.named) up for it (mrsync.merge_failure)') x 2), 'and why';
	strategy('named', 'hold_aside');
	expect('held aside again', 'named', $winners);
	$lab->sql('us', "SELECT mrsync.merge_function_rollback((SELECT definition_id FROM mrsync.merge_function WHERE table_name = 'public.named' AND status = 'active'))");
	expect('rolled back', 'named', "(0,works-0,us) (6,\"is another-1000\",us) $winners");
	$lab->sql('eu', "UPDATE named SET name = id WHERE id >= 100");
	$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside WHERE relation = \'named\'::regclass', 0) for @regions;
	is $lab->same('SELECT string_agg(name, \',\' ORDER BY id) FROM named WHERE id < 100', 'their holders renamed: the same everywhere'), join(',', @kinds), 'all come in as they were written';
}

# ---------------------------------------------------------------------------------------------------------------------
# Under load in all regions, with crashes
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('load'))
{
	strategy('many', 'set_null');
	my $n = 0;
	my @load;
	for my $region (@regions)
	{
		++$n;
		my $try = sub { "DO \$\$ BEGIN $_[0]; EXCEPTION WHEN unique_violation THEN NULL; END \$\$;\n" };
		my $set = "\\set i random(1, 1000000000)\n\\set a random(1, 8)\n\\set b random(1, 8)\n";
		push @load, Mrsync::Load->start($lab, $region, clients => 2, rate => 30, scripts => [
			[ $set . $try->("INSERT INTO many VALUES (${n}::bigint << 40 | :i, 'v' || :a, :b); INSERT INTO journal VALUES (${n}::bigint << 40 | :i, '$region')"), 2 ],
			[ $set . $try->("UPDATE many SET name = 'v' || :a WHERE n = :b"), 2 ],
			[ $set . $try->("UPDATE many SET n = :b WHERE name = 'v' || :a"), 2 ],
			[ $set . "DELETE FROM many WHERE name = 'v' || :a OR n = :b;\n", 1 ],
		]);
	}
	my $more = sub    # each region has written so many more rows itself
	{
		my (@where) = @_;
		my $mine = 'SELECT count(*) FROM journal WHERE region = current_setting(\'cluster_name\')';
		my %then = map { $_ => 30 + $lab->sql($_, $mine) } @where;
		$lab->wait_for($_, "SELECT ($mine) >= $then{$_}") for @where;
	};
	$lab->pause;    # what is written while nothing arrives is in each other's way for sure
	$more->(@regions);
	$lab->resume('us>eu', 'ap>eu');
	terminate($lab, 'eu', worker_pid($lab, 'eu', 'applier', 'us'));
	$lab->resume;
	$more->(@regions);
	$lab->pause('us>ap', 'eu>ap');
	$more->(@regions);
	$load[2]->finish;
	$lab->resume;
	$lab->kill9('ap');
	$lab->start('ap');
	$more->('us', 'eu');
	$lab->pause;
	$more->('us', 'eu');
	$_->finish for @load[ 0, 1 ];
	$lab->sql('us', "INSERT INTO many VALUES (1, 'one more', NULL)");
	$lab->sql('eu', "INSERT INTO many VALUES (2, 'one more', NULL)");
	is $load[$_]->errors, '', 'no failure under load' for 0 .. 2;
	$lab->resume;
	equal('under load', 'many');
	cmp_ok $lab->sql('eu', "SELECT count(*) FROM mrsync.row_aside WHERE relation = 'many'::regclass AND is_placed"), '>', 0, 'some rows are in the table in another form';
	# each that does not fit has its values by a row above it
	is $lab->sql($_, "SELECT count(*) FROM mrsync.row_aside a WHERE relation = 'many'::regclass AND NOT EXISTS (SELECT FROM many m WHERE m.name = a.image ->> 'name' OR m.n = (a.image ->> 'n')::int)"), 0, "in $_ each is excluded by one that is there" for @regions;
}

is $lab->sql($_, 'SELECT count(*) FROM mrsync.apply_error'), 0, "nothing is parked in $_" for @regions;
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
