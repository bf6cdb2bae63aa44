# A rule for conflicts on its way into force: registered in one region, prepared for in all, active from one stamp on. What holds
# it is named, in every region, and when that is mended it goes on by itself; nobody waits for it meanwhile.
#
# Proves I3 for rules (the same activation and the same order of rules everywhere, also when two regions register at once, when
# one is away, when a coordinator dies), and I9: what comes from a topic runs as the table's owner, and never ends a coordinator.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid kill9 log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu ap)]);
my @regions = $lab->regions;
sub sql { my ($region, $sql, %options) = @_; return $lab->sql($region, $sql, %options) }
sub us { return sql('us', @_) }

# The table and what is in its schema belong to an ordinary role.
$lab->everywhere('CREATE ROLE app LOGIN; CREATE SCHEMA shop AUTHORIZATION app');
$lab->everywhere('CREATE TABLE shop.item (id int PRIMARY KEY, n int, label text); ALTER TABLE shop.item OWNER TO app');
$lab->everywhere("SELECT mrsync.table_add('shop.item')");
us("INSERT INTO shop.item VALUES (1, 10, 'ten')");
$lab->drain;

sub merge    # the source of a merge function: the later value, after this
{
	my ($name, $before) = @_;
	return "CREATE FUNCTION $name(ancestor int, a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$f\$ BEGIN " . ($before // '') . ' RETURN b; END $f$';
}
sub register { my ($region, $name, $column, %options) = @_; return sql($region, "SELECT mrsync.merge_function_register('shop.item', '$name(int,int,int)', '$column')", %options) }
sub wait_active    # also in a region that has not heard of it yet
{
	my ($region, $id, $seconds) = @_;
	$lab->wait_for($region, "SELECT count(*) FROM mrsync.merge_function WHERE definition_id = '$id'", 1);
	return sql($region, "SELECT mrsync.merge_function_wait('$id', '" . ($seconds // 60) . " s')");
}
sub rule { my ($region, $id, $what) = @_; return sql($region, "SELECT $what FROM mrsync.merge_function WHERE definition_id = '$id'") }
sub held    # until a region's view says this
{
	my ($region, $id, $why, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$lab->wait_until("in $region: $why", sub { rule($region, $id, 'why') =~ $why });
	like(rule($region, $id, 'why'), $why, $name);
}
sub same_rule
{
	my ($id, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_active('us', $id);
	# what each region says reaches the others in its own time
	my $said = "SELECT string_agg(concat_ws(' ', region_id, prepared, knows_activation, hlc), ', ' ORDER BY region_id) FROM mrsync.merge_acknowledgement WHERE definition_id = '$id'";
	$lab->wait_until("what each says of $id to be known everywhere", sub { my ($first, @others) = map { sql($_, $said) } @regions; !grep { $_ ne $first } @others });
	return $lab->same("SELECT to_jsonb(f) - 'why' FROM mrsync.merge_function f WHERE definition_id = '$id'", $name);
}

# ---- the way into force

us(merge('shop.plain', q(IF current_user <> 'app' THEN RAISE 'as %', current_user; END IF;)), user => 'app');
my $plain = register('us', 'shop.plain', 'n', user => 'app');
wait_active('us', $plain);
is(rule('us', $plain, 'status, acknowledged_by, waiting_for, why'), 'active|{ap,eu,us}|{}|', 'registered in one region, active in all');
wait_active('ap', $plain);
same_rule($plain, 'the same rule everywhere, with the same activation');
isnt(rule('ap', $plain, 'activation'), '', 'which is known everywhere');
is(sql($_, "SELECT proowner::regrole FROM pg_proc WHERE oid = 'shop.plain(int,int,int)'::regprocedure"), 'app', "in $_ the function belongs to the table's owner, with whose rights it was made and tried") for qw(eu ap);

# ---- a function that is replaced where it is in force, or dropped

us(merge('shop.replaced'));
my $replaced = register('us', 'shop.replaced', 'n');
wait_active($_, $replaced) for @regions;
sql('ap', merge('shop.replaced', 'b := -1;') =~ s/CREATE/CREATE OR REPLACE/r);
held($_, $replaced, qr/^ap: 42723 function shop\.replaced\(integer,integer,integer\) is another one here/, "replaced in one region: $_ says so") for @regions;
is(rule('us', $replaced, 'status, waiting_for'), 'active|{ap}', 'the rule stays active');
$lab->pause;
us('UPDATE shop.item SET n = 11 WHERE id = 1');
sql('eu', 'UPDATE shop.item SET n = 12 WHERE id = 1');
$lab->resume;
$lab->wait_for('ap', "SELECT DISTINCT sqlstate, message FROM mrsync.apply_error", '42723|function shop.replaced(integer,integer,integer) is another one here');
$lab->wait_for($_, 'SELECT n FROM shop.item WHERE id = 1', 12) for qw(us eu);
isnt(sql('ap', 'SELECT n FROM shop.item WHERE id = 1'), -1, 'nothing is decided by what was not registered: the event waits');
sql('ap', 'DROP FUNCTION shop.replaced');
wait_active('us', $replaced);
$lab->wait_for('ap', 'SELECT count(*) FROM mrsync.apply_error', 0);
$lab->drain;
is($lab->same('SELECT n FROM shop.item WHERE id = 1', 'dropped, it is made as it was registered, and decides'), 12, 'as everywhere');

# ---- what is sent, and compared

# A value that a row does not hold by itself is sent whole, also when only the row's other columns change.
my $large = join '', map { "-- '\\\" \x{e9} $_\n" } 1 .. 16800;
us("SET client_encoding = 'UTF8'; CREATE FUNCTION shop.large(ancestor text, a text, b text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS \$f\$ BEGIN\n$large RETURN b; END \$f\$");
my $large_id = us("SELECT mrsync.merge_function_register('shop.item', 'shop.large(text,text,text)', 'label')");
wait_active('us', $large_id);
cmp_ok(us("SELECT octet_length(source) FROM mrsync.merge_definition WHERE definition_id = '$large_id'"), '>', 250_000, 'a source of almost 256 kB');
$lab->same("SELECT md5(prosrc) FROM pg_proc WHERE oid = 'shop.large(text,text,text)'::regprocedure", 'is the same function everywhere');
$lab->same("SELECT definition_id, md5(source), status FROM mrsync.merge_definition ORDER BY 1", 'and the same source');

# What a session prefers does not get into names and sources, which are compared.
us("CREATE FUNCTION shop.since(ancestor int, a int, b int) RETURNS int IMMUTABLE RETURN b + extract(day FROM interval '1 day 2 hours')::int");
my $since = us("SELECT mrsync.merge_function_register('shop.item', 'shop.since(int,int,int)', 'n')", options => '-c quote_all_identifiers=on -c intervalstyle=iso_8601 -c search_path=shop');
wait_active('us', $since);
is(rule('us', $since, 'table_name, function'), 'shop.item|shop.since(integer,integer,integer)', 'registered by a session with settings of its own: names as in any other');
same_rule($since, 'and the same rule everywhere');

# ---- what holds it

sql('eu', merge('shop.taken', 'a := b;'));
us(merge('shop.taken'));
my $taken = register('us', 'shop.taken', 'n');
held($_, $taken, qr/^eu: 42723 function shop\.taken\(integer,integer,integer\) is another one here .*Drop or rename it here/, "a function of that name with another body: $_ says which region holds the rule, and why") for @regions;
$lab->wait_for($_, "SELECT waiting_for FROM mrsync.merge_function WHERE definition_id = '$taken'", '{eu}') for @regions;
is(rule('us', $taken, 'status, acknowledged_by, waiting_for'), 'preparing|{ap,us}|{eu}', 'the others are prepared');
is(rule('us', $since, 'status'), 'active', 'the former rule holds until then');
my ($code, undef, $said) = $lab->sql_try('ap', "SELECT mrsync.merge_function_wait('$taken', '0.1 s')");
like($said, qr/55P03: the rule is not active in all regions within the timeout\nDETAIL:  It is preparing, and waits for: eu\. eu: 42723 /, 'the wait names it, too');
us("INSERT INTO shop.item VALUES (2, 20, 'meanwhile')");
$lab->drain;
$lab->same('TABLE shop.item ORDER BY id', 'nobody waits for it');
sql('eu', 'DROP FUNCTION shop.taken');
wait_active('us', $taken);
same_rule($taken, 'mended, it goes on by itself');
is(rule('eu', $since, 'status'), 'superseded', 'and supersedes the former one');

sql($_, 'ALTER TABLE shop.item ADD COLUMN extra int') for qw(us eu);
my $missing = register('us', 'shop.plain', 'extra');
held('us', $missing, qr/^ap: 42703 column "extra" of table shop\.item does not exist/, 'a column that one region lacks');
sql('ap', 'ALTER TABLE shop.item ADD COLUMN extra int');
wait_active('us', $missing);
pass('once it is there, it goes on');

us('CREATE SCHEMA closed; GRANT USAGE ON SCHEMA closed TO app; ' . merge('closed.f'));
my $closed = register('us', 'closed.f', 'extra');
held('us', $closed, qr/^ap: 3F000 schema "closed" does not exist.*; eu: 3F000/, 'a schema that two regions lack');
sql('eu', 'CREATE SCHEMA closed AUTHORIZATION app');
sql('ap', 'CREATE SCHEMA closed; GRANT USAGE ON SCHEMA closed TO app');
held('us', $closed, qr/^ap: 42501 permission denied for schema closed/, 'a schema where the table\'s owner may not create: nothing is made with more rights');
is(sql('ap', "SELECT count(*) FROM pg_proc WHERE pronamespace = 'closed'::regnamespace"), 0, 'nothing is there');
sql('ap', 'GRANT CREATE ON SCHEMA closed TO app');
wait_active('us', $closed);

# ---- withdrawn, and what a function can do

us(merge('shop.bomb', q(PERFORM pg_terminate_backend(pg_backend_pid()); RAISE 'it said %', b;)), user => 'app');
my $bomb = register('us', 'shop.bomb', 'n', user => 'app');
held('eu', $bomb, qr/^ap: 42501 must be a superuser to terminate superuser process.*; eu: 42501 .*; us: 42501/, 'a function that would end its process: the rule\'s failure, in every region');
($code, undef, $said) = $lab->sql_try('eu', "SELECT mrsync.merge_function_withdraw('$bomb')");
like($said, qr/55000: the rule was registered in region "us"/, 'it is withdrawn where it was registered');
us("SELECT mrsync.merge_function_withdraw('$bomb')", user => 'app');
$lab->wait_for($_, "SELECT status, waiting_for, why FROM mrsync.merge_function WHERE definition_id = '$bomb'", 'withdrawn|{}|') for @regions;
pass('withdrawn everywhere');

# ---- what else a topic may bring

my %garbage = (
	'two statements' => [ 'shop.item', 'shop.evil(integer,integer,integer)', merge('shop.evil') =~ s/CREATE/CREATE OR REPLACE/r . '; ALTER ROLE app SUPERUSER', qr/42P13 the source of function .* is not a statement/ ],
	'another statement' => [ 'shop.item', 'shop.evil(integer,integer,integer)', 'ALTER ROLE app SUPERUSER', qr/42P13 the source of function .* is not a statement/ ],
	'another function' => [ 'shop.item', 'shop.evil(integer,integer,integer)', merge('shop.other') =~ s/CREATE/CREATE OR REPLACE/r, qr/42P13 the source of function .* makes another function/ ],
	'a language for superusers' => [ 'shop.item', 'shop.evil(integer,integer,integer)', q(CREATE OR REPLACE FUNCTION shop.evil(a integer, b integer, c integer) RETURNS integer LANGUAGE c IMMUTABLE AS 'evil', 'evil'), qr/42501 function .* language c is not trusted/ ],
	'no table\'s name' => [ 'a.b.c."d', 'shop.plain(integer,integer,integer)', undef, qr/55000 table a\.b\.c\."d is not replicated/ ],
	'no function\'s name' => [ 'shop.item', '((', undef, qr/42602 invalid name syntax/ ],
	'a body that is there, with a source that differs' => [ 'shop.item', 'shop.plain(integer,integer,integer)', merge('shop.plain', 'a := 1;'), qr/42723/ ]);
my @before = map { worker_pid($lab, $_, 'coordinator') } @regions;
my %id;
for my $what (sort keys %garbage)
{
	my ($table, $function, $source) = @{ $garbage{$what} };
	$source = defined $source ? "\$source\$$source\$source\$" : 'NULL';
	$id{$what} = us("INSERT INTO mrsync.merge_definition (region_id, definition_id, hlc, table_name, column_name, version, strategy, function, source, checksum, status, registered_at)
		SELECT 'us', gen_random_uuid(), mrsync.current_hlc(), \$t\$$table\$t\$, 'n', 1, 'merge_function', '$function', $source, encode(sha256(convert_to($source, 'UTF8')), 'hex'), 'preparing', now() RETURNING definition_id");
}
for my $what (sort keys %garbage)
{
	$lab->wait_until("$what is refused", sub { sql('eu', "SELECT sqlstate || ' ' || message FROM mrsync.merge_acknowledgement WHERE definition_id = '$id{$what}' AND region_id = 'eu'") =~ $garbage{$what}[3] });
	pass("refused, with the reason: $what");
}
$lab->everywhere("SELECT 1 / (SELECT count(*) FROM pg_roles WHERE rolname = 'app' AND NOT rolsuper)");
is(sql('eu', "SELECT count(*) FROM pg_proc WHERE proname IN ('evil', 'other')"), 0, 'nothing of it was run');
is_deeply([ map { worker_pid($lab, $_, 'coordinator') } @regions ], \@before, 'no coordinator has ended since');
us("SELECT mrsync.merge_function_withdraw('$_')") for values %id;

# ---- a region that is away

$lab->stop('ap');
us(merge('shop.away'));
my $away = register('us', 'shop.away', 'n');
$lab->wait_for('us', "SELECT acknowledged_by, waiting_for FROM mrsync.merge_function WHERE definition_id = '$away'", '{eu,us}|{ap}');
like(rule('us', $away, 'status, why'), qr/^preparing\|ap: (?:has not said yet that it is prepared|nothing heard of it for [\d:]+)$/, 'a region that is away holds the rule, and is named');
$lab->start('ap');
wait_active('us', $away);
wait_active('ap', $away);
same_rule($away, 'when it comes back the rule becomes active everywhere');

# ---- sessions that hold what the coordinator needs

sub beats { my ($region) = @_; return sql($region, 'SELECT sent_at FROM mrsync.heartbeat h JOIN mrsync.region r USING (region_id) WHERE is_local') }
sub goes_on    # a region's coordinator
{
	my ($region, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $from = beats($region);
	$lab->wait_for($region, "SELECT sent_at > '$from'::timestamptz + interval '6 s' FROM mrsync.heartbeat h JOIN mrsync.region r USING (region_id) WHERE is_local", 't');
	pass($name);
}
my $holder = $lab->session('eu');
$holder->sql('BEGIN; LOCK TABLE shop.item');
us(merge('shop.locked'));
my $locked = register('us', 'shop.locked', 'n');
held('us', $locked, qr/^eu: 55P03 canceling statement due to lock timeout/, 'a locked table holds the rule');
goes_on('eu', 'and not the coordinator');
$holder->sql('COMMIT');
$holder->close;
wait_active('us', $locked);
sql('eu', merge('shop.undecided', 'a := b;'));
us(merge('shop.undecided'));
my $undecided = register('us', 'shop.undecided', 'n');
held('us', $undecided, qr/^eu: 42723/, 'held by eu');
$holder = $lab->session('us');
$holder->sql("BEGIN; SELECT mrsync.merge_function_withdraw('$undecided')");
sql('eu', 'DROP FUNCTION shop.undecided');
$lab->wait_for('us', "SELECT prepared FROM mrsync.merge_acknowledgement WHERE definition_id = '$undecided' AND region_id = 'eu'");
goes_on('us', 'an open withdrawal holds up nothing but its rule');
is(rule('us', $undecided, 'status, waiting_for, why'), 'preparing|{us}|', 'which waits for the region that has to activate it');
$holder->sql('ROLLBACK');
$holder->close;
wait_active('us', $undecided);

# ---- two regions at once

us(merge('shop.from_us'));
sql('eu', merge('shop.from_eu'));
my @sessions = map { $lab->session($_) } qw(us eu);
$_->sql('BEGIN') for @sessions;
my @both = ($sessions[0]->sql("SELECT mrsync.merge_function_register('shop.item', 'shop.from_us(int,int,int)', 'n')"),
	$sessions[1]->sql("SELECT mrsync.merge_function_register('shop.item', 'shop.from_eu(int,int,int)', 'n')"));
$_->sql('COMMIT') for @sessions;
$_->close for @sessions;
wait_active('ap', $_) for @both;
$lab->wait_for($_, "SELECT count(*) FROM mrsync.merge_definition WHERE activation IS NOT NULL AND definition_id IN ('$both[0]', '$both[1]')", 2) for @regions;
is(us("SELECT count(DISTINCT version) FROM mrsync.merge_function WHERE definition_id IN ('$both[0]', '$both[1]')"), 1, 'two regions register at once: the same version number');
my $order = $lab->same("SELECT region_id, status, activation FROM mrsync.merge_function WHERE definition_id IN ('$both[0]', '$both[1]') ORDER BY activation", 'the later activation counts, the same everywhere');
like($order, qr/\|superseded\|.*\n.*\|active\|/, 'one of them supersedes the other');

# ---- a coordinator that dies in between

sql('eu', merge('shop.killed', 'a := b;'));
us(merge('shop.killed'));
my $killed = register('us', 'shop.killed', 'n');
held('us', $killed, qr/^eu: 42723/, 'held by eu');
kill9($lab, 'us', worker_pid($lab, 'us', 'coordinator'));    # the server restarts all its processes
sql('eu', 'DROP FUNCTION shop.killed');
kill9($lab, 'eu', worker_pid($lab, 'eu', 'coordinator'));
$lab->wait_until('the servers', sub { !grep { ($lab->sql_try($_, 'SELECT 1'))[0] } @regions });
$lab->wait_until('the rule', sub { !($lab->sql_try('ap', "SELECT mrsync.merge_function_wait('$killed', '5 s')"))[0] });
same_rule($killed, 'kill -9 of the coordinators of both: the rule becomes active');

# ---- what was tried once is not tried again on the rows of the day

us("UPDATE shop.item SET label = '1'");
us("CREATE FUNCTION shop.number(ancestor text, a text, b text) RETURNS text IMMUTABLE RETURN greatest(a::int, b::int)::text");
my $number = us("SELECT mrsync.merge_function_register('shop.item', 'shop.number(text,text,text)', 'label')");
wait_active($_, $number) for @regions;
us("UPDATE shop.item SET label = 'no number'");
$lab->drain;
sql('eu', 'SELECT pg_terminate_backend(' . worker_pid($lab, 'eu', 'coordinator') . ')');
sql('us', merge('shop.looked'));
wait_active('us', register('us', 'shop.looked', 'extra'));    # in eu by another coordinator, which has looked at those before
is(rule($_, $number, 'status, waiting_for, why'), 'active|{}|', "a value that an active function does not take, and a new coordinator: for $_ it is prepared as before") for @regions;

# ---- a region that has forgotten its own rule, as one that was set back

us("DELETE FROM mrsync.merge_definition WHERE definition_id = '$killed'; DELETE FROM mrsync.merge_acknowledgement WHERE definition_id = '$killed' AND region_id = 'us'");
my $coordinator = worker_pid($lab, 'us', 'coordinator');
us("SELECT pg_terminate_backend($coordinator)");
$lab->wait_until('the rule to come back', sub { rule('us', $killed, 'status') eq 'active' });
wait_active('us', $killed);
same_rule($killed, 'takes it back from its topic, with its activation');

# ---- what is said once is said again, for topics that do not keep it

my $former = us("UPDATE mrsync.merge_definition SET hlc = '2020-01-01 00:00:00Z' WHERE definition_id = '$killed' RETURNING (SELECT hlc FROM mrsync.merge_definition d WHERE d.definition_id = '$killed')");
us('SELECT pg_terminate_backend(' . worker_pid($lab, 'us', 'coordinator') . ')');
$lab->wait_for('eu', "SELECT hlc OPERATOR(mrsync.>) '$former' FROM mrsync.merge_definition WHERE definition_id = '$killed'");
same_rule($killed, 'what was said long ago is sent again');

# ---- a topic that is read anew: what earlier incarnations said of rules holds

us("INSERT INTO shop.item VALUES (3, 30, 'of the present incarnation')");
$lab->drain('us');
my $of_us = "SELECT definition_id, status, activation, md5(source) FROM mrsync.merge_definition WHERE region_id = 'us' ORDER BY 1";
my $forgets = $lab->session('eu');    # while nobody can read the position, nor write it down anew
$coordinator = worker_pid($lab, 'eu', 'coordinator');
$forgets->sql("BEGIN; LOCK TABLE mrsync.control_position IN ACCESS EXCLUSIVE MODE");
$forgets->sql("SELECT pg_terminate_backend($coordinator)");
$lab->wait_for('eu', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $coordinator)");
$forgets->sql("DELETE FROM mrsync.control_position WHERE region_id = 'us'; DELETE FROM mrsync.merge_definition WHERE region_id = 'us'; COMMIT");
$forgets->close;
$lab->wait_until('the rules to come back', sub { sql('eu', $of_us) eq us($of_us) });
pass('rules that were registered under earlier incarnations come back from the beginning of a topic');

# ---- a region that joins later

my ($group, $brokers) = ($lab->state('group'), $lab->broker);
my @alt = (db => 'alt');
us('CREATE DATABASE alt');
us("CREATE EXTENSION mrsync; SELECT mrsync.region_init('alt', '$brokers', replication_group => '$group')", @alt);
sql($_, "SELECT mrsync.region_connect('alt')") for @regions;
us("SELECT mrsync.region_connect('$_')", @alt) for @regions;
$lab->wait_until('alt to hear of the rules', sub { us("SELECT count(*) FROM mrsync.merge_function WHERE status = 'active'", @alt) eq us("SELECT count(*) FROM mrsync.merge_function WHERE status = 'active'") });
held('us', $killed, qr/^alt: 55000 table shop\.item is not replicated/, 'a region that joins later hears of all rules, and says that it is not prepared');
is(rule('us', $killed, 'status, waiting_for'), 'active|{alt}', 'they stay active');
us('CREATE SCHEMA shop AUTHORIZATION app; CREATE SCHEMA closed AUTHORIZATION app; CREATE TABLE shop.item (id int PRIMARY KEY, n int, label text, extra int); ALTER TABLE shop.item OWNER TO app; SELECT mrsync.table_add(\'shop.item\')', @alt);
wait_active('us', $killed);
my $rules = "SELECT definition_id, status, activation FROM mrsync.merge_function WHERE status IN ('active', 'superseded') ORDER BY 1";
$lab->wait_until('alt to know all of them', sub { us($rules, @alt) eq us($rules) });
$lab->wait_until('alt to have made the functions', sub { us("SELECT count(*) FROM pg_proc WHERE proname IN ('killed', 'large', 'f') AND proowner = 'app'::regrole", @alt) == 3 });
pass('with the table it has the functions, too');

# ---- and one that leaves, and is made again

my $of_alt = us("SELECT mrsync.merge_strategy_set('shop.item', 'column_last_writer_wins', 'label')", @alt);
us("SELECT mrsync.merge_function_wait('$of_alt', '60 s')", @alt);
my $left = us("SELECT status, activation FROM mrsync.merge_function WHERE definition_id = '$of_alt'", @alt);
us('SELECT mrsync.region_leave()', @alt);
is(us('SELECT count(*) FROM mrsync.merge_definition', @alt), 0, 'region_leave forgets the rules');
us("SELECT mrsync.region_init('alt', '$brokers', replication_group => '$group')", @alt);
$lab->wait_until('its rule to come back', sub { us("SELECT status, activation FROM mrsync.merge_function WHERE definition_id = '$of_alt'", @alt) eq $left });
is(us("SELECT status, activation FROM mrsync.merge_function WHERE definition_id = '$of_alt'"), $left, 'made again under its name, it has those that it had registered, and that hold elsewhere');

is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for @regions;
$lab->healthy;
done_testing;
