# What the output plugin says: exactly the documented event, the same at every decoding, whole and lossless.
#
# Proves I6 (complete images) and what I2 rests on (dedup: ids and sequences are a pure function of the WAL), by reading
# slots of our own beside the extractor's, under different session settings, and by comparing with what the topic holds
# and with what the peer has recorded as applied.
use strict;
use warnings;
use utf8;
use Encode qw(decode_utf8);
use Test::More;
use JSON::PP ();
use Time::Local qw(timegm);
use Mrsync::Lab;
use Mrsync::Schema qw(schema_read schema_errors);
use File::Basename qw(dirname);

my $top = dirname(__FILE__) . '/../..';
my $schema = schema_read("$top/docs/event.schema.json");
my $lab = Mrsync::Lab->up(regions => ['us', 'eu']);
$lab->keep_memory;    # stamps are read from mrsync.hlc_override
$lab->tables(<<'SQL', qw(item wide_row keyed odd.thing part));
CREATE TYPE place AS (name text, at timestamptz);
CREATE TABLE item (id integer PRIMARY KEY, name text, at timestamptz, took interval, f double precision, bin bytea, price money, home place, tags text[]);
CREATE TABLE wide_row (id integer PRIMARY KEY, n integer, large text, other text);
ALTER TABLE wide_row ALTER large SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
CREATE TABLE keyed (b integer, a text, v text, PRIMARY KEY (a, b));
CREATE SCHEMA odd;
CREATE TABLE odd.thing (id integer PRIMARY KEY, "Some ""column""" text);
CREATE TABLE part (id integer, kind text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b');
SQL
$lab->everywhere('CREATE TABLE local_only (id integer PRIMARY KEY)');
$lab->drain;

# Slots begin where nothing is in progress.
$lab->sql('us', "SELECT pg_create_logical_replication_slot('reader_$_', 'mrsync')") for 1, 2;

# ---------------------------------------------------------------------------------------------------------------------
# Transactions of all kinds, each known by its name
# ---------------------------------------------------------------------------------------------------------------------
my %xid;    # name => top-level xid
my %stamp_before;
sub transaction
{
	my ($name, $sql, %options) = @_;
	$xid{$name} = (split /\n/, $lab->sql('us', "BEGIN;\nSELECT pg_current_xact_id();\n$sql\nCOMMIT;", %options))[0];
}

transaction('three rows', <<'SQL');
INSERT INTO item VALUES (1, 'one', '2026-02-01 00:00+00', '1 mon -2 days 03:00:00.5', 0.1, '\x00ff', 12.5::numeric::money, ROW('x', '2026-02-01 00:00+00'), '{a,NULL,"b c"}'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE item SET name = E'two "quoted" \\ \x01 ü 🙂' WHERE id = 2;
DELETE FROM item WHERE id = 1;
SQL
transaction('savepoints', <<'SQL');
INSERT INTO keyed VALUES (1, 'top', 'kept');
SAVEPOINT a;
INSERT INTO keyed VALUES (2, 'sub', 'kept');
SAVEPOINT b;
INSERT INTO keyed VALUES (3, 'rolled back', 'never');
ROLLBACK TO b;
INSERT INTO keyed VALUES (4, 'after', 'kept');
DO $$ BEGIN
	BEGIN INSERT INTO keyed VALUES (5, 'block', 'never'); RAISE 'gone'; EXCEPTION WHEN OTHERS THEN INSERT INTO keyed VALUES (6, 'handler', 'kept'); END;
END $$;
RELEASE a;
SQL
$lab->sql('us', "BEGIN; INSERT INTO keyed VALUES (100, 'rolled back', 'never'); ROLLBACK;");
transaction('empty', '');
transaction('nothing replicated', 'INSERT INTO local_only VALUES (1); CREATE TABLE some_table (id integer);');
transaction('nothing left', "SAVEPOINT a; INSERT INTO keyed VALUES (101, 'rolled back', 'never'); ROLLBACK TO a;");
transaction('key change', "UPDATE keyed SET a = 'moved' WHERE b = 1; UPDATE part SET kind = kind;");
transaction('partitions', "INSERT INTO part VALUES (1, 'a'), (2, 'b'); UPDATE part SET kind = 'b' WHERE id = 1; DELETE FROM part_b WHERE id = 2;");
transaction('truncate', 'TRUNCATE part, odd.thing; TRUNCATE part_a;');
transaction('quoted', q{INSERT INTO odd.thing VALUES (1, 'x'); CREATE TABLE "Sche.ma" (id integer PRIMARY KEY);});
transaction('toast', "INSERT INTO wide_row SELECT 1, 1, string_agg(md5(i::text), ''), string_agg(md5((-i)::text), '') FROM generate_series(1, 20000) i;");
transaction('unchanged toast', 'UPDATE wide_row SET n = 2;');
transaction('one toast', "UPDATE wide_row SET other = 'short';");
transaction('toast moved', 'UPDATE wide_row SET id = 7;');
transaction('toast deleted', 'DELETE FROM wide_row;');
transaction('many', "INSERT INTO keyed SELECT i, 'many', 'v' FROM generate_series(1, 20000) i;");
transaction('override', <<'SQL', options => '-c mrsync.force_override=on');
INSERT INTO keyed VALUES (1, 'override', 'v');
SAVEPOINT a;
INSERT INTO keyed VALUES (2, 'override', 'v');
RELEASE a;
SQL
$lab->drain('us');
$lab->sql('eu', "INSERT INTO keyed VALUES (1, 'eu', 'v'); UPDATE keyed SET v = 'eu' WHERE a = 'sub';");
$lab->drain('eu');
transaction('after eu', "UPDATE keyed SET v = 'us' WHERE a = 'eu';");
$lab->drain;

# ---------------------------------------------------------------------------------------------------------------------
# The same at every decoding, whatever the session
# ---------------------------------------------------------------------------------------------------------------------
my $hostile = join ' ', map { "-c $_" } 'datestyle=German,DMY', 'timezone=Asia/Kathmandu', 'intervalstyle=sql_standard',
	'bytea_output=escape', 'extra_float_digits=-15', 'quote_all_identifiers=on', 'search_path=public', 'array_nulls=off',
	'xmloption=document', 'standard_conforming_strings=off', 'logical_decoding_work_mem=64kB';
my $peek = sub { $lab->sql('us', "SELECT data FROM pg_logical_slot_$_[1]_changes('reader_$_[0]', NULL, NULL)", options => $_[2] // '') };
my $text = $peek->(1, 'peek');
ok length $text > 1e6, 'a slot of our own can be read';
ok $peek->(1, 'peek', $hostile) eq $text, 'once more, under hostile settings: the same bytes';
ok $peek->(2, 'peek', $hostile) eq $text, 'another slot: the same bytes';
is $lab->sql('us', "SELECT count(*) FROM pg_logical_slot_peek_changes('reader_1', NULL, NULL); SHOW datestyle; SHOW timezone; SHOW extra_float_digits", options => '-c datestyle=German,DMY -c timezone=Asia/Kathmandu -c extra_float_digits=-15'),
	join("\n", scalar(split /\n/, $text), 'German, DMY', 'Asia/Kathmandu', '-15'), "and the session's settings are its own again";
ok $peek->(2, 'get') eq $text, 'get: the same bytes';
is $peek->(2, 'get'), '', 'and then nothing is left';
like +($lab->sql_try('us', "SELECT * FROM pg_logical_slot_peek_changes('reader_1', NULL, NULL, 'pretty', 'on')"))[2], qr/ERROR:  22023: .*no option "pretty"/, 'an option that there is not is refused';

# ---------------------------------------------------------------------------------------------------------------------
# Each event by itself
# ---------------------------------------------------------------------------------------------------------------------
my $json = JSON::PP->new;    # of characters
my @lines = split /\n/, $text;
my @events = map { $json->decode($_) } @lines;
{
	my %wrong;
	for my $i (0 .. $#events)
	{
		$wrong{$_} //= $lines[$i] for schema_errors($schema, $events[$i]);
	}
	is join("\n", map { "$_: " . substr $wrong{$_}, 0, 300 } sort keys %wrong), '', 'every event is valid by docs/event.schema.json';
}
is_deeply [ map { join ' ', sort keys %$_ } @events[0, 1, -1] ],
	[ ('after_image before_image committed_at event_id hlc_timestamp operation region_id row_pk table_name transaction') x 3 ], 'exactly the fields of the contract, and the transaction';
is scalar(grep { !/^\{"event_id":"[^"]*","region_id":"us","table_name":/ || !/,"last":(?:true|false)\}\}$/ } @lines), 0, 'in their order';
{
	my $broken = $json->decode($lines[0]);
	$broken->{event_id} =~ s/-7/-4/;
	delete $broken->{transaction}{seen};
	$broken->{after_image}{id} = 1;
	$broken->{before_image} = {};
	cmp_ok scalar(my @errors = schema_errors($schema, $broken)), '>=', 4, 'the schema does refuse';
}

my %seen_id;
is scalar(grep { $seen_id{ $_->{event_id} }++ } @events), 0, 'no id comes twice';

# 48 bits of the id are the stamp's milliseconds since 1970
sub milliseconds
{
	my ($y, $mo, $d, $h, $mi, $s, $us) = $_[0] =~ /^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)\.(\d{6})Z$/ or die $_[0];
	return timegm($s, $mi, $h, $d, $mo - 1, $y) * 1000 + int($us / 1000);
}
no warnings 'portable';    # 64 bits are at hand
is scalar(grep { my ($a, $b) = $_->{event_id} =~ /^(.{8})-(.{4})/; hex("$a$b") != milliseconds($_->{hlc_timestamp}) } @events), 0, 'an id says when, as version 7 wants it';

# ---------------------------------------------------------------------------------------------------------------------
# Transactions
# ---------------------------------------------------------------------------------------------------------------------
my (@transactions, %named);
for (@events)
{
	push @transactions, [] if $_->{transaction}{position} == 1;
	push @{ $transactions[-1] }, $_;
}
my %name_of = reverse %xid;
$named{ $name_of{ $_->[0]{transaction}{xid} } // 'unknown' } = $_ for @transactions;
ok !exists $named{unknown}, 'every transaction is one of ours: what the applier wrote is not decoded';
is join(', ', map { $name_of{ $_->[0]{transaction}{xid} } } @transactions),
	'three rows, savepoints, key change, partitions, truncate, quoted, toast, unchanged toast, one toast, toast moved, toast deleted, many, override, after eu',
	'all of them, in the order of their commits; of the empty ones nothing';
for my $part (qw(xid sequence previous lsn incarnation version))
{
	is scalar(grep { my $t = $_; grep { $_->{transaction}{$part} ne $t->[0]{transaction}{$part} } @$t } @transactions), 0, "one $part per transaction";
}
is scalar(grep { my $t = $_; grep { $t->[$_]{transaction}{position} != $_ + 1 || ($t->[$_]{transaction}{last} xor $_ == $#$t) || ($_ > 0 && $t->[$_]{event_id} le $t->[ $_ - 1 ]{event_id}) } 0 .. $#$t } @transactions), 0,
	'positions count, the last is marked, ids ascend';
is scalar(grep { my $t = $_; grep { exists $_->{transaction}{seen} } @$t[ 1 .. $#$t ] } @transactions), 0, 'seen is on the first only';
{
	my $before = 0;
	my @wrong;
	for (@transactions)
	{
		my $t = $_->[0]{transaction};
		my ($high, $low) = map hex, split m{/}, $t->{lsn};
		push @wrong, $t->{lsn} unless $t->{previous} == $before && $t->{sequence} > $before && $t->{sequence} == (1 << 48 | $high << 32 | $low);
		$before = $t->{sequence};
	}
	is "@wrong", '', 'sequences increase, each names the one before, and is the timeline and the LSN';
}
is join("\n", map { "$_->[0]{transaction}{xid}|$_->[0]{committed_at}" } @transactions),
	$lab->sql('us', "SELECT x, to_char(pg_xact_commit_timestamp(x::text::xid) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"Z\"') FROM unnest('{"
		. join(',', map { $_->[0]{transaction}{xid} } @transactions) . "}'::bigint[]) WITH ORDINALITY u(x, n) ORDER BY n"), 'committed_at is the commit timestamp';
is join(' ', map { $name_of{ $_->[0]{transaction}{xid} } } grep { $_->[0]{hlc_timestamp} ne $_->[0]{committed_at} } @transactions), 'override', 'and so is the stamp, but for the one under force_override';

is $lab->sql('eu', "SELECT string_agg(event_id || ' ' || last_event_id || ' ' || sequence || ' ' || hlc, E'\\n' ORDER BY sequence) FROM mrsync.applied_event WHERE region_id = 'us' AND sequence >= $transactions[0][0]{transaction}{sequence}"),
	join("\n", map { "$_->[0]{event_id} $_->[-1]{event_id} $_->[0]{transaction}{sequence} $_->[0]{hlc_timestamp}" } @transactions), 'the peer has applied transactions of just these ids, sequences and stamps';

{
	# the topic: the same events, with the two things that only the extractor knows
	my $group = $lab->state('group');
	my $topic = decode_utf8(`'$top/build/kafkactl' '@{[ $lab->broker ]}' cat mrsync.$group.us`);
	my %sent = map { /^\d+\t(.*)/ ? (substr($1, 13, 36) => $1) : () } split /\n/, $topic;
	my @different;
	for (@lines)
	{
		my $is = $sent{ substr $_, 13, 36 } // 'nothing';
		my $expected = $_;
		s/"incarnation":\d+,/"incarnation":0,/, s/"seen":\{(?:[^{}]|\{[^{}]*\})*\}/"seen":{}/, s/"previous":\d+/"previous":0/ for $is, $expected;
		push @different, substr($expected, 0, 200) . ' but ' . substr($is, 0, 200) if $is ne $expected;
	}
	is "@different[0 .. ($#different > 2 ? 2 : $#different)]", '', 'the topic holds the same events';
}

# ---------------------------------------------------------------------------------------------------------------------
# What they say
# ---------------------------------------------------------------------------------------------------------------------
my $short = sub { join "\n", map { join ' ', $_->{operation}, $_->{table_name}, map { defined $_ ? $json->canonical->encode($_) : '-' } @$_{qw(row_pk before_image after_image)} } @{ $named{ $_[0] } } };
{
	my $one = $named{'three rows'};
	is join(' ', map { $_->{operation} } @$one), 'INSERT INSERT UPDATE DELETE', 'one event per row and change';
	is_deeply $one->[0]{after_image}, { id => '1', name => 'one', at => '2026-02-01 00:00:00+00', took => '1 mon -2 days +03:00:00.5', f => '0.1', bin => '\x00ff',
		price => '$12.50', home => '(x,"2026-02-01 00:00:00+00")', tags => '{a,NULL,"b c"}' }, 'values in their fixed form, inside composites, too';
	is_deeply $one->[3]{before_image}, $one->[0]{after_image}, 'DELETE has the whole row';
	is_deeply [ grep { defined } values %{ $one->[2]{before_image} } ], ['2'], 'NULLs are null';
	is $one->[2]{after_image}{name}, "two \"quoted\" \\ \x01 ü 🙂", 'any character';
}
is $short->('savepoints'), <<'E' =~ s/\n\z//r, 'subtransactions in their order; what was rolled back is absent';
INSERT public.keyed {"a":"top","b":"1"} - {"a":"top","b":"1","v":"kept"}
INSERT public.keyed {"a":"sub","b":"2"} - {"a":"sub","b":"2","v":"kept"}
INSERT public.keyed {"a":"after","b":"4"} - {"a":"after","b":"4","v":"kept"}
INSERT public.keyed {"a":"handler","b":"6"} - {"a":"handler","b":"6","v":"kept"}
E
like $lines[4], qr/"row_pk":\{"a":"top","b":"1"\},.*"after_image":\{"b":"1","a":"top","v":"kept"\}/, "the key in the key's order, the image in the table's";
is $short->('key change'), <<'E' =~ s/\n\z//r, 'a key change is a DELETE and an INSERT';
DELETE public.keyed {"a":"top","b":"1"} {"a":"top","b":"1","v":"kept"} -
INSERT public.keyed {"a":"moved","b":"1"} - {"a":"moved","b":"1","v":"kept"}
E
is $short->('partitions'), <<'E' =~ s/\n\z//r, "a partition's rows are its table's";
INSERT public.part {"id":"1","kind":"a"} - {"id":"1","kind":"a"}
INSERT public.part {"id":"2","kind":"b"} - {"id":"2","kind":"b"}
DELETE public.part {"id":"1","kind":"a"} {"id":"1","kind":"a"} -
INSERT public.part {"id":"1","kind":"b"} - {"id":"1","kind":"b"}
DELETE public.part {"id":"2","kind":"b"} {"id":"2","kind":"b"} -
E
is $short->('truncate'), "TRUNCATE public.part - - -\nTRUNCATE odd.thing - - -\nTRUNCATE public.part_a - - -", 'TRUNCATE by table, and by a partition that was named';
is $short->('quoted'), q(INSERT odd.thing {"id":"1"} - {"Some \"column\"":"x","id":"1"}), 'names are as they are';

{
	my ($large, $other) = map { $named{toast}[0]{after_image}{$_} } qw(large other);
	is length $large, 640000, 'a value of 640 kB';
	my $update = $named{'unchanged toast'}[0];
	ok $update->{before_image}{large} eq $large && $update->{after_image}{large} eq $large && $update->{after_image}{other} eq $other, 'is whole in both images though it did not change';
	is "$update->{before_image}{n} $update->{after_image}{n}", '1 2', 'beside what did';
	$update = $named{'one toast'}[0];
	ok $update->{before_image}{other} eq $other && $update->{after_image}{other} eq 'short' && $update->{after_image}{large} eq $large, 'also beside another such value that changes';
	my $moved = $named{'toast moved'};
	is $moved->[1]{operation}, 'INSERT', 'and with a new key';
	ok $moved->[0]{before_image}{large} eq $large && $moved->[1]{after_image}{large} eq $large, 'in DELETE and INSERT';
	ok $named{'toast deleted'}[0]{before_image}{large} eq $large, 'and in the last DELETE';
}
is scalar @{ $named{many} }, 20000, 'a transaction that was spilled to disk is whole';

{
	my $override = $named{override};
	is scalar @$override, 2, 'a transaction under force_override';
	my %hlc = map { $_->{hlc_timestamp} => 1 } @$override;
	is join(' ', keys %hlc), $lab->sql('us', "SELECT hlc FROM mrsync.hlc_override WHERE xid = '$xid{override}'"), 'has the stamp that was written down';
	is $lab->sql('us', "SELECT count(*) FROM keyed k JOIN mrsync.hlc_override o ON o.xid::xid = k.xmin WHERE a = 'override' AND o.hlc = '@{[ keys %hlc ]}'"), 2, 'for its subtransaction, too';
	cmp_ok $override->[0]{hlc_timestamp}, 'le', $override->[0]{committed_at}, 'at or below its commit time';
	is $lab->sql('eu', "SELECT count(DISTINCT pg_xact_commit_timestamp(xmin)), (min(pg_xact_commit_timestamp(xmin)))::mrsync.hlc FROM keyed WHERE a = 'override'"), "1|@{[ keys %hlc ]}", 'the peer holds its rows under that stamp';
}
is_deeply $named{'after eu'}[0]{transaction}{seen}, { eu => { sequence => $lab->sql('us', "SELECT sequence FROM mrsync.link_position WHERE source_region = 'eu'"), hlc => $lab->sql('us', "SELECT hlc FROM mrsync.link_position WHERE source_region = 'eu'") } },
	'seen: how far eu had been applied by then';
is_deeply $named{'three rows'}[0]{transaction}{seen}, {}, 'and nothing before';
cmp_ok $named{'after eu'}[0]{hlc_timestamp}, 'gt', $named{'after eu'}[0]{transaction}{seen}{eu}{hlc}, 'a stamp is above all that was seen';

# ---------------------------------------------------------------------------------------------------------------------
# Where there is no region
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('us', 'CREATE DATABASE plain');
is $lab->sql('us', <<'SQL', db => 'plain'), 0, 'a database that is no region has no events';
\o /dev/null
SELECT pg_create_logical_replication_slot('plain', 'mrsync');
\o
CREATE TABLE t (id integer PRIMARY KEY);
INSERT INTO t VALUES (1);
SELECT count(*) FROM pg_logical_slot_get_changes('plain', NULL, NULL);
SQL
$lab->healthy;
done_testing;
