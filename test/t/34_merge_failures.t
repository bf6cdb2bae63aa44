# Merge functions that fail, and those that do not come to an end: the event's own values are taken, in every region, and it is written down.
#
# Proves I3 for them. What fails by its values fails everywhere. Whether a function comes to an end in time can differ: here there is one
# that does so everywhere but in eu, which hears of the conflict last.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions, settings => { 'mrsync.merge_function_timeout' => '1s' });
$lab->tables(<<'SQL', qw(note whole));
CREATE TABLE note (id integer PRIMARY KEY, v text CHECK (length(v) < 100), other integer);
CREATE TABLE whole (id integer PRIMARY KEY, v text);
SQL
$lab->sql('us', <<'SQL');
CREATE FUNCTION fail(b text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF b = 'raises' THEN RAISE EXCEPTION 'no'; END IF;
	IF b = 'divides' THEN RETURN 1 / 0; END IF;
	IF b = 'is null' THEN RETURN NULL; END IF;
	IF b = 'is refused' THEN RETURN repeat('x', 100); END IF;
	IF b = 'sinks' THEN RETURN public.fail(b); END IF;
	WHILE b = 'loops' OR b = 'loops in eu' AND current_setting('cluster_name') = 'eu' LOOP END LOOP;
	RETURN NULL;
END $$;
CREATE FUNCTION tell(ancestor text, a text, b text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE
	failed text := public.fail(b);
BEGIN
	RETURN CASE WHEN b = 'is null' THEN NULL ELSE coalesce(failed, 'f(' || coalesce(a, '-') || ',' || b || ')') END;
END $$;
CREATE FUNCTION tell(ancestor whole, a whole, b whole) RETURNS whole LANGUAGE sql IMMUTABLE AS $$ SELECT ROW(b.id, public.tell(ancestor.v, a.v, b.v))::public.whole $$;
SQL
# what a rule's function calls is not sent with it
for my $function ('fail(text)', 'tell(text,text,text)')
{
	my $source = $lab->sql('us', "SELECT pg_get_functiondef('$function'::regprocedure)");
	$lab->sql($_, $source) for qw(eu ap);
}
for ([ 'note', 'tell(text, text, text)', ", 'v'" ], [ 'whole', 'tell(whole, whole, whole)', '' ])
{
	my ($table, $function, $column) = @$_;
	my $id = $lab->sql('us', "SELECT mrsync.merge_function_register('$table', '$function'$column)");
	$lab->sql('us', "SELECT mrsync.merge_function_wait('$id', '60 s')");
}

# What is written in ap, and what it is after us wrote x before, unseen
my %is = (
	'works' => 'f(x,works)', 'raises' => 'raises', 'divides' => 'divides', 'is null' => '', 'is refused' => 'is refused', 'sinks' => 'sinks', 'loops' => 'loops',
	'loops in eu' => 'loops in eu',
);
my @kinds = sort keys %is;
my %id = map { $kinds[$_] => $_ } 0 .. $#kinds;
$lab->sql('us', 'INSERT INTO note SELECT i, \'seed\', 0 FROM generate_series(0, 107) i; INSERT INTO whole SELECT id, v FROM note');
$lab->drain;
$lab->pause;
$lab->sql('us', "UPDATE note SET v = 'x'; UPDATE whole SET v = 'x'");
sub write_all
{
	my ($region, $from, %v) = @_;
	$lab->sql($region, join '', map { my $id = $id{$_} + $from; "UPDATE note SET v = '$v{$_}' WHERE id = $id; UPDATE whole SET v = '$v{$_}' WHERE id = $id;" } @kinds);
}
write_all('ap', $_, map { $_ => $_ } @kinds) for 0, 100;
write_all('eu', 100, map { $_ => 'then' } @kinds);    # later still

sub rows { my ($region, $table, $from) = @_; return $lab->sql($region, "SELECT id - $from, coalesce(v, '') FROM $table WHERE id BETWEEN $from AND $from + 7 ORDER BY id") }
sub expected { my (%v) = @_; return join "\n", map { "$id{$_}|$v{$_}" } @kinds }
my %before = (%is, 'loops in eu' => 'f(x,loops in eu)');
$lab->resume('us>ap', 'ap>us');
for my $region (qw(us ap))
{
	$lab->wait_for($region, "SELECT v LIKE 'f%' FROM whole WHERE id = 100 + $id{works}");    # the last
	is rows($region, 'note', 0), expected(%before), "in $region, without eu: what fails is the later writer's, what comes to an end is merged";
	is rows($region, 'whole', 0), expected(%before, 'is refused' => 'x' x 100), "in $region, without eu: the same of whole rows";
}

$lab->resume;
$lab->sql('us', 'UPDATE note SET other = 1 WHERE id = 50');
$lab->wait_for('eu', 'SELECT other FROM note WHERE id = 50', 1);
pass 'what cannot be merged holds nothing up';
$lab->kill9('us');
$lab->start('us');
my %then = map { $_ => 'f(' . ($is{$_} || '-') . ',then)' } @kinds;
for my $region (@regions)
{
	my @all = ([ 'note', 0, expected(%is) ], [ 'note', 100, expected(%then) ], [ 'whole', 0, expected(%is, 'is refused' => 'x' x 100) ], [ 'whole', 100, expected(%then, 'is refused' => 'f(' . 'x' x 100 . ',then)') ]);
	for (@all)
	{
		my ($table, $from, $expected) = @$_;
		$lab->wait_until("$region to have given up the same", sub { rows($region, $table, $from) eq $expected });
		is rows($region, $table, $from), $expected, "$region, $table from $from: what eu could not merge is given up here, too";
	}
}
$lab->drain;
$lab->conflicts_told;    # what is said of failures goes the same way
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.merge_failure f WHERE is_shared AND NOT EXISTS (SELECT FROM mrsync.merge_folded m WHERE m.id = f.failure_id)', 0) for @regions;
$lab->conflicts_told;
my $said = $lab->same('SELECT table_name, row_pk, column_name, event_region, sqlstate, region_id FROM mrsync.merge_failure WHERE is_shared ORDER BY table_name COLLATE "C", row_pk::text COLLATE "C"', 'every region holds to the same failures');
for my $kind (@kinds)
{
	my @of = $said =~ /^(public\.\w+\|\{"id": "(?:$id{$kind}|10$id{$kind})"\}.*)$/mg;
	is @of, $kind =~ /loops|sinks/ ? 4 : 0, "$kind: " . ($kind =~ /loops|sinks/ ? 'is shared, of both tables' : 'need not be said');
	is grep(/\|57014\|eu$/, @of), 4, 'by eu' if $kind eq 'loops in eu';
}
# us and ap had logged it before they heard of that
$lab->same('SELECT conflict_id, result, given_up FROM mrsync.conflict_log ORDER BY conflict_id', 'every region has the same results in its log');
is $lab->sql('us', "SELECT result ->> 'v', given_up, count(*) FROM mrsync.conflict_log WHERE region_a = 'us' AND image_b ->> 'v' = 'loops in eu' GROUP BY 1, 2"), 'loops in eu|1|4', 'and none that was given up';

for my $region (@regions)
{
	is $lab->sql($region, "SELECT column_name, function, sqlstate, message, ancestor, a, b, is_shared FROM mrsync.merge_failure WHERE table_name = 'public.note' AND row_pk = '{\"id\": \"$id{raises}\"}'"),
		'v|public.tell(text,text,text)|P0001|no|seed|x|raises|f', "$region has written down what has failed, and with what";
	is $lab->sql($region, "SELECT function IS NULL, sqlstate FROM mrsync.merge_failure WHERE table_name = 'public.note' AND row_pk = '{\"id\": \"$id{'is refused'}\"}'"), 't|23514', 'a CHECK constraint, too';
}

# ---- whose code it is: the owner's of the table, not of the partition

$lab->everywhere('CREATE ROLE whole_owner; CREATE ROLE part_owner; GRANT USAGE, CREATE ON SCHEMA public TO whole_owner');
$lab->tables(<<'SQL', 'part');
CREATE TABLE part (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (1) TO (10);
ALTER TABLE part OWNER TO whole_owner;
ALTER TABLE part_1 OWNER TO part_owner;
SQL
$lab->sql('us', 'CREATE FUNCTION who(ancestor text, a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT current_user::text $$; ALTER FUNCTION who(text, text, text) OWNER TO whole_owner');
my $rule = $lab->sql('us', "SELECT mrsync.merge_function_register('part', 'who(text, text, text)', 'v')");
$lab->sql('us', "SELECT mrsync.merge_function_wait('$rule', '60 s'); INSERT INTO part VALUES (1, 'seed')");
$lab->drain;
$lab->pause;
$lab->sql($_, "UPDATE part SET v = '$_'") for @regions;
$lab->resume;
$lab->drain;
is $lab->same('SELECT v FROM part', 'partitions: equal'), 'whole_owner', q(a rule's function has the rights of the owner of the table that was added);

$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_history', 0) for @regions;
$lab->same('SELECT * FROM note ORDER BY id', 'columns: equal');
$lab->same('SELECT * FROM whole ORDER BY id', 'rows: equal');
$lab->healthy;
done_testing;
