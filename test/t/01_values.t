# Whatever a table can hold arrives as it was: every type, every identifier, every size, every kind of table.
#
# Proves I6 (complete images) and the part of I1 that one writer at a time shows: after INSERT, UPDATE and DELETE both
# regions hold the same rows, bit by bit, though each has settings of its own for how values are written as text, and
# though those settings are in force in the workers, too (ALTER DATABASE and ALTER ROLE reach background workers).
#
# The story behind the settings: a timestamptz inside a composite was once written with one region's DateStyle and
# TimeZone and read with the other's. Wrong dates, no error.
use strict;
use warnings;
use utf8;
use Test::More;
use Mrsync::Lab;

my $lab = Mrsync::Lab->up(regions => ['us', 'eu'], settings => { max_wal_size => '4GB', xmloption => 'document' },
	needs_kafka => 'the mock broker keeps only 5 MB of a topic, and takes no message of 100 MB');

# ---------------------------------------------------------------------------------------------------------------------
# Settings at odds with each other, set after the workers started: they are restarted with them
# ---------------------------------------------------------------------------------------------------------------------
# Locales that differ from each other and from C in how they write numbers, money and dates.
my %locale = (us => 'de_DE.UTF-8', eu => 'fr_FR.UTF-8');
for my $name (sort values %locale)
{
	my $listed = $name =~ s/UTF-8/utf8/r;
	ok scalar(grep { $_ eq $listed } split /\n/, `locale -a`), "this machine has the locale $name"
		or BAIL_OUT("as root: localedef -i @{[ substr $name, 0, 5 ]} -f UTF-8 $name (package locales; ./lab test does it)");
}
my %hostile = (
	us => {
		datestyle => 'SQL, DMY', timezone => 'Asia/Kathmandu', intervalstyle => 'sql_standard', bytea_output => 'escape',
		extra_float_digits => -15, array_nulls => 'off', standard_conforming_strings => 'off', escape_string_warning => 'off',
		xmloption => 'document', quote_all_identifiers => 'on', default_transaction_isolation => 'serializable',
		map { ("lc_$_" => $locale{us}) } qw(messages monetary numeric time),
	},
	eu => {
		datestyle => 'German, MDY', timezone => 'America/St_Johns', intervalstyle => 'iso_8601', bytea_output => 'hex',
		extra_float_digits => -5, search_path => '"$user", public, pg_catalog', default_transaction_isolation => 'repeatable read',
		xmlbinary => 'hex', timezone_abbreviations => 'Australia',
		map { ("lc_$_" => $locale{eu}) } qw(messages monetary numeric time),
	},
);
for my $region ($lab->regions)
{
	my $i = 0;
	for my $name (sort keys %{ $hostile{$region} })
	{
		my $whom = $i++ % 2 ? 'DATABASE lab' : 'ROLE postgres';
		my $value = $hostile{$region}{$name};
		$value = "'$value'" unless $name =~ /^(datestyle|search_path)$/;
		$lab->sql($region, "ALTER $whom SET $name = $value");
	}
	$lab->stop($region);
	$lab->start($region);
}
is $lab->sql('us', "SELECT '2026-02-01'::date"), '01/02/2026', 'us writes dates in its own way';
is $lab->sql('eu', "SELECT '2026-02-01'::date"), '01.02.2026', 'eu in another';
my $written = "SELECT 1234567.89::numeric::money, to_char(date '2026-02-01', 'TMMonth')";
like $lab->sql('us', $written), qr/^1\.234\.567,89 €\|Februar$/, 'us writes money and months in German';
like $lab->sql('eu', $written), qr/^1\s234\s567,89 €\|Février$/i, 'eu in French';

# ---------------------------------------------------------------------------------------------------------------------
# Every type
# ---------------------------------------------------------------------------------------------------------------------
my $types = <<'SQL';
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'it''s', 'a,b', 'with "quotes"', 'back\slash', 'ü 🙂', ' blank ');
CREATE TYPE address AS (street text, moved_in timestamptz, rent numeric, "Tags" text[], stay interval, secret bytea);
CREATE TYPE person AS (name text, home address, birthdays date[], score float8);
CREATE TYPE nothing AS ();
CREATE TYPE float_range AS RANGE (subtype = float8, multirange_type_name = float_multirange);
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE DOMAIN at_most_three AS integer[] CHECK (cardinality(VALUE) <= 3);
CREATE DOMAIN deep AS positive CHECK (VALUE < 1000000) ;
CREATE DOMAIN zip AS person CHECK ((VALUE).name <> '');
SQL

# type => values, as SQL expressions that mean the same under any settings
my @families = (
	[ boolean => 'true', 'false' ],
	[ smallint => '(-32768)', '32767', '0' ],
	[ integer => '(-2147483648)', '2147483647', '0' ],
	[ bigint => '(-9223372036854775808)', '9223372036854775807', '9007199254740993' ],
	[ oid => '4294967295', '0' ],
	[ numeric => q{'NaN'}, q{'Infinity'}, q{'-Infinity'}, '0', '0.000', '1.0', '1.00', '-0.1', q{('1' || repeat('0', 131071))},
		q{('0.' || repeat('0', 16382) || '1')}, q{(repeat('9876543210', 500) || '.' || repeat('0123456789', 500))} ],
	[ 'numeric(20,5)' => '123456789012345.67891', '-0.00001', q{'NaN'} ],
	[ 'numeric(3,-2)' => '12300', '-99900' ],
	[ real => q{'NaN'}, q{'Infinity'}, q{'-Infinity'}, q{'-0'}, '0', q{'1e-45'}, q{'3.4028235e38'}, q{'1.17549435e-38'}, '0.1', '16777217', '1.1754942e-38' ],
	[ 'double precision' => q{'NaN'}, q{'Infinity'}, q{'-Infinity'}, q{'-0'}, '0', q{'5e-324'}, q{'1.7976931348623157e308'},
		q{'2.2250738585072014e-308'}, q{'2.2250738585072011e-308'}, '0.1', '0.30000000000000004', '9007199254740993', 'pi()' ],
	[ money => '(-92233720368547758.08)::numeric', '92233720368547758.07::numeric', '1234567.89::numeric', '0.00::numeric' ],
	[ text => q{''}, q{'NULL'}, q{'null'}, q{' '}, q{E'line\nline\r\n\ttab'}, q{E'it''s "quoted" \\\\ back\\\\slash'}, q{'{"json": [1, null]}'},
		q{'$1 $body$ %s ; -- /* */'}, q{E'\\\\u0000 \\\\x41 \\\\N \\\\.'}, q{'ü ß 漢字 🙂 👩‍👩‍👧‍👦 é'}, q{'}.chr(0x202e).q{rtl'}, q{'}.chr(0xfeff).q{bom'},
		q{repeat('a', 3000)}, q{chr(1)}, q{chr(127)}, q{chr(65535)}, q{chr(1114111)}, q{'trailing   '} ],
	[ 'varchar(40)' => q{''}, q{'trailing  '}, q{'ü''"'} ],
	[ 'character(10)' => q{''}, q{'a'}, q{'a  '}, q{'ü        ü'}, q{'0123456789'} ],
	[ bpchar => q{''}, q{'trailing   '} ],
	[ name => q{''}, q{'Name with " and '''}, q{repeat('n', 63)} ],
	[ '"char"' => q{'a'}, q{''}, q{'"'}, q{chr(127)}, q{(-1)::"char"} ],
	[ citext => q{'MiXed'}, q{''} ],
	[ bytea => q{''}, q{decode('00', 'hex')}, q{decode('00ff5c27227f80', 'hex')}, q{convert_to('text', 'UTF8')},
		q{(SELECT string_agg(set_byte('\\000', 0, i), '') FROM generate_series(0, 255) i)} ],
	[ 'bit(5)' => q{B'10101'}, q{B'00000'} ],
	[ 'bit varying' => q{B''}, q{B'1'}, q{repeat('10', 5000)::varbit} ],
	[ date => q{'infinity'}, q{'-infinity'}, q{'4713-01-01 BC'}, q{'5874897-12-31'}, q{'0001-01-01'}, q{'2026-02-01'}, q{'1999-12-31'} ],
	[ time => q{'00:00:00'}, q{'24:00:00'}, q{'23:59:59.999999'} ],
	[ 'time with time zone' => q{'00:00:00+15:59:59'}, q{'23:59:59.999999-15:59:59'}, q{'12:00:00+05:45'} ],
	[ timestamp => q{'infinity'}, q{'-infinity'}, q{'4713-11-24 00:00:00 BC'}, q{'294276-12-31 23:59:59.999999'}, q{'2026-02-01 03:04:05.000006'}, q{'0044-03-15 12:00:00 BC'} ],
	[ 'timestamp(2)' => q{'2026-02-01 03:04:05.67'} ],
	[ 'timestamp with time zone' => q{'infinity'}, q{'-infinity'}, q{'4713-11-25 00:00:00+00 BC'}, q{'294276-12-31 23:59:59.999999+00'},
		q{'2026-03-29 01:30:00.000001+00'}, q{'1883-11-18 12:03:58+00'}, q{'0001-12-31 23:59:59+00 BC'}, q{'1900-01-01 00:00:00+00'} ],
	[ interval => q{'0'}, q{'178000000 years'}, q{'-178000000 years'}, q{'1 year 2 mons -3 days 04:05:06.000007'}, q{'-1 mons +1 day -00:00:00.000001'},
		q{'-1 day'}, q{'2540400:10:11.5'}, q{make_interval(years => -1, months => 2, days => -3, secs => 4.5)} ],
	[ 'interval year to month' => q{'14 months'} ],
	[ uuid => q{'00000000-0000-0000-0000-000000000000'}, q{'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF'} ],
	[ inet => q{'0.0.0.0/0'}, q{'192.168.1.5/24'}, q{'10.1.2.3'}, q{'::ffff:1.2.3.4'}, q{'2001:db8::1/64'} ],
	[ cidr => q{'192.168.0.0/16'}, q{'::/0'}, q{'10.0.0.1/32'} ],
	[ macaddr => q{'08:00:2b:01:02:03'}, q{'ff:ff:ff:ff:ff:ff'} ],
	[ macaddr8 => q{'08:00:2b:01:02:03:04:05'} ],
	[ json => q{'{"a":  1, "a": 2, "b": [1.0, 1.00, 1e400, null]}'}, q{E'"\\\\u00e9 \\\\u0000 escaped"'}, q{'null'}, q{' [ ] '} ],
	[ jsonb => q{'{"a": 1, "b": {"c": [1.0, 1.00, -0.0, null, true, "x"]}}'}, q{'null'}, q{'"str"'}, q{'1e1000'}, q{'[]'}, q{jsonb_build_object('q"uote', E'back\\\\slash \n')} ],
	[ jsonpath => q{'$.a[*] ? (@.b == 1)'}, q{'strict $."k\"ey"'} ],
	[ xml => q{xmlelement(name a, 'text & <more>')}, q{xmlparse(content 'two <b/> roots <c/>')}, q{xmlparse(document '<?xml version="1.0"?><r>ü</r>')} ],
	[ tsvector => q{$$'a':1A 'it''s':2B,3 'b c':16383$$}, q{''} ],
	[ tsquery => q{$$'a' & !('b' | 'it''s':*A) <-> 'c'$$}, q{''} ],
	[ point => q{'(1.5,-0)'}, q{'(NaN,Infinity)'}, q{point(0.1::float8, 1e-320::float8)} ],
	[ line => q{'{1,-1,0.1}'} ],
	[ lseg => q{'[(0.1,0.2),(3,4)]'} ],
	[ box => q{'(1,2),(0.3,0.4)'} ],
	[ path => q{'[(0,0),(1,1),(2,0.1)]'}, q{'((0,0),(1,1),(2,0.1))'} ],
	[ polygon => q{'((0,0),(1,1),(2,0.1))'} ],
	[ circle => q{'<(0.1,0.2),0.3>'} ],
	[ int4range => q{'empty'}, q{'[1,10)'}, q{'(,)'}, q{'[5,]'} ],
	[ int8range => q{'[-9223372036854775808,9223372036854775806]'} ],
	[ numrange => q{'[1.0,1.00]'}, q{'(-Infinity,Infinity)'}, q{'(,NaN]'} ],
	[ daterange => q{'[2026-01-01,infinity)'}, q{'(-infinity,2026-01-01]'} ],
	[ tsrange => q{'["2026-02-01 00:00","2026-02-02 00:00:00.000001")'} ],
	[ tstzrange => q{'["2026-02-01 00:00+00",infinity]'}, q{'("0044-03-15 00:00+00 BC","2026-03-29 01:30+00")'} ],
	[ float_range => q{'[0.1,0.30000000000000004)'}, q{'[-0,NaN]'} ],
	[ int4multirange => q{'{}'}, q{'{[1,3),[5,8)}'} ],
	[ int8multirange => q{'{}'}, q{'{[-9223372036854775808,0),[5,9223372036854775807)}'} ],
	[ nummultirange => q{'{[1.0,1.00],(2,)}'} ],
	[ datemultirange => q{'{[2026-01-01,2026-02-01),[2026-03-01,)}'} ],
	[ tsmultirange => q{'{("0044-03-15 12:00 BC","2026-02-01 00:00:00.000001"),[infinity,]}'} ],
	[ tstzmultirange => q{'{["2026-02-01 00:00+00","2026-02-02 00:00+00"),[infinity,]}'} ],
	[ float_multirange => q{'{[0.1,0.2),[0.30000000000000004,]}'} ],
	[ pg_lsn => q{'0/0'}, q{'FFFFFFFF/FFFFFFFF'} ],
	[ xid => q{'4294967295'} ],
	[ xid8 => q{'18446744073709551615'} ],
	[ cid => q{'7'} ],
	[ tid => q{'(4294967295,65535)'}, q{'(0,1)'} ],
	[ pg_snapshot => q{'10:20:10,14,15'} ],
	[ txid_snapshot => q{'10:20:10,14,15'} ],
	[ regclass => q{'pg_catalog.pg_class'}, q{'mrsync.region'}, q{'-'} ],
	[ regproc => q{'pg_catalog.now'} ],
	[ regprocedure => q{'pg_catalog.abs(numeric)'} ],
	[ regoper => q{'pg_catalog.||/'}, q{'0'} ],
	[ regoperator => q{'pg_catalog.+(integer,integer)'}, q{'pg_catalog.-(NONE,numeric)'}, q{'mrsync.<(mrsync.hlc,mrsync.hlc)'} ],
	[ regtype => q{'timestamp with time zone'}, q{'integer[]'} ],
	[ regrole => q{'postgres'} ],
	[ regnamespace => q{'pg_catalog'} ],
	[ regcollation => q{'pg_catalog."C"'}, q{'pg_catalog."default"'} ],
	[ regconfig => q{'simple'} ],
	[ regdictionary => q{'pg_catalog.english_stem'}, q{'simple'} ],
	[ int2vector => q{'1 2 3'} ],
	[ oidvector => q{'1 2 3'} ],
	[ refcursor => q{'"a cursor'} ],
	[ aclitem => q{'postgres=arwdDxt/postgres'}, 'text' ],
	[ 'mrsync.hlc' => q{'2026-02-01 00:00:00.000001Z'} ],
	[ mood => q{'sad'}, q{'it''s'}, q{'a,b'}, q{'with "quotes"'}, q{'ü 🙂'}, q{' blank '}, 'text' ],
	[ address => q{ROW('Main "St", (1)', '2026-02-01 00:00:00+00', 'NaN', ARRAY['a"b', NULL, '', 'NULL', '{}'], '-1 mons +2 days', decode('00ff5c', 'hex'))},
		q{ROW(NULL, '0044-03-15 00:00+00 BC', 1.00, '{}', NULL, '')}, q{ROW('', 'infinity', NULL, NULL, '1 year', NULL)}, 'text' ],
	[ person => q{ROW('N''ame', ROW('s', '2026-02-01 12:00:00.5+00', 1.0, ARRAY[['x', 'y']], '1 day', '')::address, ARRAY['2026-02-01', 'infinity']::date[], '-0')},
		q{ROW('', NULL, NULL, 0.30000000000000004)}, 'text' ],
	[ nothing => q{ROW()}, 'text' ],
	[ positive => '1.00', '0.10', 'text' ],
	[ at_most_three => 'ARRAY[1, NULL, 3]', q{'{}'}, 'text' ],
	[ deep => '999999.0', 'text' ],
	[ zip => q{ROW('z', NULL, NULL, 1)}, 'text' ],
);

{
	my @tables;
	my $ddl = $types;
	my ($insert, $update, $nulls, $delete) = ('') x 4;
	for my $family (@families)
	{
		my ($type, @values) = @$family;
		my $as_text = $values[-1] eq 'text' && pop @values;    # no binary form, or one with oids of user-defined types
		my $table = 'type_' . @tables;
		push @tables, [ $table, $type, $as_text ];
		$ddl .= "CREATE TABLE $table (id integer PRIMARY KEY, v $type, a $type\[]);\n";
		my $all = join ', ', map { "($_)::$type" } @values;
		my $id = 0;
		for my $value (@values)
		{
			++$id;
			$insert .= "INSERT INTO $table VALUES ($id, ($value)::$type, ARRAY[NULL, $all, NULL]::$type\[]);\n";
		}
		my $count = @values;
		$insert .= "INSERT INTO $table VALUES (101, NULL, NULL), (102, NULL, '{}'), (103, NULL, array_fill(($values[0])::$type, ARRAY[2, 3], ARRAY[-1, 5])),"
			. " (104, ($values[0])::$type, ARRAY[NULL, NULL]::$type\[]);\n";
		$insert .= "UPDATE $table SET a[7:8] = ARRAY[$all, ($values[0])::$type]::$type\[] WHERE id = 104;\n" unless $type =~ /vector/;
		# each value becomes the next one; NULL becomes a value and a value NULL
		$update .= "UPDATE $table t SET v = o.v FROM $table o WHERE o.id = t.id % $count + 1 AND t.id <= $count;\n";
		$nulls .= "UPDATE $table SET v = CASE WHEN v IS NULL THEN ($values[0])::$type END, a = NULL WHERE id IN (1, 103);\n";
		$delete .= "DELETE FROM $table WHERE id IN (2, 102);\n";
	}
	$lab->tables($ddl, map { $_->[0] } @tables);
	my $compare = sub
	{
		my ($when) = @_;
		my @different;
		for (@tables)
		{
			my ($table, $type, $as_text) = @$_;
			my $binary = $as_text ? "'-'" : 'md5(record_send(ROW(v, a)))';
			my $query = "SELECT id, $binary, v, a FROM $table ORDER BY id";
			my ($us, $eu) = map { $lab->sql($_, $query, options => $Mrsync::Lab::COMPARABLE) } 'us', 'eu';
			next if $us eq $eu && $us ne '';
			push @different, $type;
			diag "$type: " . Mrsync::Lab::first_difference('us', $us, 'eu', $eu);
		}
		is "@different", '', scalar(@tables) . " types are equal after $when";
	};
	$lab->sql('us', "SET standard_conforming_strings = on; BEGIN; $insert COMMIT;");
	$lab->drain;
	$lab->healthy;
	$compare->('INSERT in us');
	$lab->sql('eu', $update);
	$lab->drain;
	$compare->('UPDATE in eu');
	$lab->sql('us', "SET standard_conforming_strings = on; $nulls");
	$lab->drain;
	$compare->('UPDATE to and from NULL in us');
	$lab->sql('eu', $delete);
	$lab->drain;
	$compare->('DELETE in eu');
	$lab->healthy;
}

# ---------------------------------------------------------------------------------------------------------------------
# Many values
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', 'code_point', 'random_number');
CREATE TABLE code_point (first integer PRIMARY KEY, characters text, label varchar, as_json jsonb);
CREATE TABLE random_number (id integer PRIMARY KEY, f4 real, f8 double precision, n numeric, i interval, t timestamptz);
SQL
$lab->sql('us', <<'SQL');
INSERT INTO code_point
	SELECT c / 1024, string_agg(chr(c), ''), reverse(string_agg(chr(c), '')), to_jsonb(string_agg(chr(c), ''))
	FROM generate_series(1, 1114111) c WHERE c NOT BETWEEN 55296 AND 57343 GROUP BY 1;
SQL
$lab->sql('eu', <<'SQL');
INSERT INTO random_number
	SELECT i, ((random() - 0.5) * 10 ^ (random() * 70 - 35))::real, (random() - 0.5) * 10 ^ (random() * 600 - 300),
		((random() - 0.5) * 1e15)::numeric / (1 + (random() * 1e6)::integer), random() * interval '100 years' - random() * interval '5000 days',
		'2000-01-01 00:00+00'::timestamptz + (random() - 0.5) * interval '4000 years'
	FROM generate_series(1, 5000) i;
SQL
$lab->drain;
$lab->same("SELECT first, md5(characters), length(characters), md5(label), md5(as_json::text) FROM code_point ORDER BY 1", 'every code point arrives');
$lab->same("SELECT id, record_send(r) FROM random_number r ORDER BY 1", 'random numbers arrive bit by bit');

# ---------------------------------------------------------------------------------------------------------------------
# Names, and many columns
# ---------------------------------------------------------------------------------------------------------------------
my $odd = q{"Sche""ma ü.x"."Ta'ble "" .🙂"};
$lab->tables(<<"SQL", $odd, 'public."SELECT"', 'wide');
CREATE SCHEMA "Sche""ma ü.x";
CREATE TYPE "Sche""ma ü.x"."Ty pe" AS ENUM ('On', 'Off');
CREATE TABLE $odd ("Key Col" integer, "key""2" text, "a b" text, "Q""uo'te" text, "UPPER" text, upper text, "sélect" text, "select" text,
	"\$1" text, "{""json"":1}" text, "back\\slash" text, "🙂" "Sche""ma ü.x"."Ty pe", "line\nbreak" text, "ctid " text, " xmin" text,
	"${\('n' x 63)}" text, gone text, PRIMARY KEY ("key""2", "Key Col"));
ALTER TABLE $odd DROP COLUMN gone;
CREATE TABLE "SELECT" ("FROM" integer PRIMARY KEY, "WHERE" text);
CREATE TABLE wide (id integer PRIMARY KEY, ${\ join ', ', map { "c$_ " . (qw(text integer timestamptz numeric jsonb))[$_ % 5] } 2 .. 300});
SQL
$lab->sql('us', <<"SQL");
INSERT INTO $odd SELECT i, 'k' || i, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', CASE WHEN i < 3 THEN 'On'::"Sche""ma ü.x"."Ty pe" END, 'k', 'l', 'm', 'n' FROM generate_series(1, 4) i;
INSERT INTO "SELECT" VALUES (1, 'ORDER BY'), (2, NULL);
INSERT INTO wide (id, ${\ join ', ', map { "c$_" } 2 .. 299}) SELECT i, ${\ join ', ', map { ("'v' || i", 'i', "'2026-01-01 00:00+00'::timestamptz + i * interval '1 s'", 'i / 3.0', 'to_jsonb(i)')[$_ % 5] } 2 .. 299} FROM generate_series(1, 5) i;
SQL
$lab->drain;
$lab->sql('eu', <<"SQL");
UPDATE $odd SET "UPPER" = '1', upper = '2', "\$1" = NULL, "🙂" = 'Off', "back\\slash" = '3' WHERE "Key Col" <> 2;
UPDATE $odd SET "key""2" = 'other "key"' WHERE "Key Col" = 3;
DELETE FROM $odd WHERE "Key Col" = 4;
UPDATE "SELECT" SET "WHERE" = 'UNION' WHERE "FROM" = 2;
UPDATE wide SET c150 = 'changed', c299 = NULL, c300 = 'last' WHERE id < 4;
DELETE FROM wide WHERE id = 5;
SQL
$lab->drain;
my $rows = $lab->same(qq{SELECT * FROM $odd ORDER BY "Key Col"}, 'quoted identifiers');
like $rows, qr/^3\|other "key"\|a\|b\|1\|2\|e\|f\|\|h\|3\|Off\|k/m, 'and each value in its own column';
is $lab->same(qq{SELECT * FROM "SELECT" ORDER BY 1}, 'keywords as names'), "1|ORDER BY\n2|UNION", 'their rows';
$lab->same('SELECT * FROM wide ORDER BY id', '300 columns');
is $lab->sql('us', 'SELECT count(*), count(c300) FROM wide'), '4|3', 'their rows';

# ---------------------------------------------------------------------------------------------------------------------
# Generated and identity columns
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', 'person_name', 'always_key', 'default_key', 'derived_only');
CREATE TABLE person_name (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n bigint GENERATED ALWAYS AS IDENTITY, m bigint GENERATED BY DEFAULT AS IDENTITY, s serial,
	first text, last text, full_name text GENERATED ALWAYS AS (first || ' ' || last) STORED);
CREATE TABLE always_key (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE default_key (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE derived_only (id integer PRIMARY KEY, double integer GENERATED ALWAYS AS (id * 2) STORED);
SQL
$lab->sql('us', <<'SQL');
INSERT INTO person_name (first, last) SELECT 'f' || i, 'l' || i FROM generate_series(1, 5) i;
INSERT INTO always_key (v) VALUES ('a'), ('b'), ('c');
INSERT INTO default_key (v) VALUES ('a'), ('b');
INSERT INTO default_key VALUES (77, 'given');
INSERT INTO derived_only (id) VALUES (1), (2), (3);
SQL
$lab->drain;
$lab->sql('eu', <<'SQL');
UPDATE person_name SET last = 'changed' WHERE first IN ('f1', 'f2');
ALTER TABLE person_name ALTER n RESTART WITH 1000;
UPDATE person_name SET n = DEFAULT, last = 'renumbered' WHERE first = 'f3';    -- what SQL allows to its user only
ALTER TABLE always_key ALTER id RESTART WITH 1000;
UPDATE always_key SET v = 'B', id = DEFAULT WHERE v = 'b';
UPDATE always_key SET v = 'A' WHERE v = 'a';
INSERT INTO always_key OVERRIDING SYSTEM VALUE VALUES (500, 'five hundred');
UPDATE default_key SET v = 'changed' WHERE id = 77;
DELETE FROM always_key WHERE v = 'c';
UPDATE derived_only SET id = 20 WHERE id = 2;
DELETE FROM derived_only WHERE id = 3;
SQL
$lab->drain;
$lab->same('SELECT * FROM person_name ORDER BY first', 'generated and identity columns keep the values of the writer');
is $lab->sql('us', "SELECT string_agg(full_name, ',' ORDER BY first) FROM person_name"), 'f1 changed,f2 changed,f3 renumbered,f4 l4,f5 l5', 'and are right';
is $lab->sql('us', "SELECT string_agg(n::text, ',' ORDER BY first) FROM person_name"), '1,2,1000,4,5', 'a new number, too';
is $lab->same('SELECT v FROM always_key ORDER BY v', 'an ALWAYS identity as key'), "A\nB\nfive hundred", 'its rows';
$lab->same('SELECT * FROM always_key ORDER BY id', 'its values');
is $lab->same('SELECT * FROM default_key ORDER BY id', 'a BY DEFAULT identity as key'), "1|a\n2|b\n77|changed", 'its rows';
is $lab->same('SELECT * FROM derived_only ORDER BY id', 'a key and what is derived from it'), "1|2\n20|40", 'its rows';

# ---------------------------------------------------------------------------------------------------------------------
# Keys
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', qw(moved composite_key numeric_key citext_key float_key blank_key only_key date_key));
CREATE TABLE moved (id integer PRIMARY KEY, v text);
CREATE TABLE composite_key (a text, b integer, c timestamptz, v text, PRIMARY KEY (c, a, b));
CREATE TABLE numeric_key (id numeric PRIMARY KEY, v text);
CREATE TABLE citext_key (id citext PRIMARY KEY, v text);
CREATE TABLE float_key (id double precision PRIMARY KEY, v text);
CREATE TABLE blank_key (id character(6) PRIMARY KEY, v text);
CREATE TABLE only_key (a integer, b text, PRIMARY KEY (a, b));
CREATE TABLE date_key (id date, at tstzrange, v text, PRIMARY KEY (id, at));
SQL
$lab->sql('us', <<'SQL');
INSERT INTO moved SELECT i, 'v' || i FROM generate_series(1, 10) i;
INSERT INTO composite_key SELECT 'a' || i, i, '2026-01-01 00:00+00'::timestamptz + i * interval '1 day', 'v' FROM generate_series(1, 6) i;
INSERT INTO numeric_key VALUES (1.0, 'one'), (2.00, 'two'), (3, 'three'), ('NaN', 'nan'), ('Infinity', 'inf'), (5.50, 'deleted');
INSERT INTO citext_key VALUES ('Abc', 'one'), ('DEF', 'two'), ('ghi', 'deleted');
INSERT INTO float_key VALUES (0, 'zero'), ('NaN', 'nan'), ('5e-324', 'tiny'), (0.1, 'tenth'), ('-Infinity', 'deleted');
INSERT INTO blank_key VALUES ('a', 'one'), ('b ', 'two'), ('c', 'deleted');
INSERT INTO only_key VALUES (1, 'x'), (2, 'y'), (3, 'z'), (4, ''), (5, ' ');
INSERT INTO date_key VALUES ('2026-02-01', '["2026-02-01 00:00+00",)', 'a'), ('infinity', 'empty', 'b'), ('0044-03-15 BC', '(,)', 'c');
SQL
$lab->drain;
$lab->sql('eu', <<'SQL');
UPDATE moved SET id = id + 1000 WHERE id IN (1, 2);
BEGIN;    -- a chain: each key is left and taken again in one transaction
UPDATE moved SET id = 99 WHERE id = 5;
UPDATE moved SET id = 5 WHERE id = 4;
UPDATE moved SET id = 4, v = 'moved twice' WHERE id = 3;
UPDATE moved SET id = 3 WHERE id = 99;
COMMIT;
BEGIN;
DELETE FROM moved WHERE id = 6;
INSERT INTO moved VALUES (6, 'again');
UPDATE moved SET id = 106 WHERE id = 6;
UPDATE moved SET id = 6, v = 'and back' WHERE id = 106;
COMMIT;
BEGIN;
INSERT INTO moved VALUES (700, 'gone at once');
DELETE FROM moved WHERE id = 700;
DELETE FROM moved WHERE id = 7;
COMMIT;
UPDATE composite_key SET b = b + 100, v = 'moved' WHERE b < 3;
UPDATE composite_key SET v = 'w' WHERE b = 4;
DELETE FROM composite_key WHERE b = 5;
UPDATE numeric_key SET id = 1.000 WHERE id = 1;      -- the same key in another text
UPDATE numeric_key SET v = 'II' WHERE id = 2;
UPDATE numeric_key SET id = 3.10 WHERE id = 3;
UPDATE numeric_key SET v = 'N' WHERE id = 'NaN';
UPDATE numeric_key SET v = 'I' WHERE id = 'Infinity';
DELETE FROM numeric_key WHERE id = 5.5;
UPDATE citext_key SET id = 'aBC' WHERE id = 'abc';
UPDATE citext_key SET v = 'II' WHERE id = 'def';
DELETE FROM citext_key WHERE id = 'GHI';
UPDATE float_key SET id = '-0' WHERE id = 0;
UPDATE float_key SET v = 'N' WHERE id = 'NaN';
UPDATE float_key SET v = 't' WHERE id = '5e-324';
DELETE FROM float_key WHERE id = '-Infinity';
UPDATE blank_key SET v = 'I' WHERE id = 'a';
UPDATE blank_key SET id = 'b' WHERE id = 'b     ';
DELETE FROM blank_key WHERE id = 'c';
UPDATE only_key SET b = 'xx' WHERE a = 1;
UPDATE only_key SET a = a WHERE a = 2;               -- nothing changes but the version
DELETE FROM only_key WHERE a = 3;
DELETE FROM only_key WHERE a = 5;
UPDATE date_key SET v = v || v;
DELETE FROM date_key WHERE id = '0044-03-15 BC';
SQL
$lab->drain;
is $lab->same('SELECT * FROM moved ORDER BY id', 'changed keys'),
	"3|v5\n4|moved twice\n5|v4\n6|and back\n8|v8\n9|v9\n10|v10\n1001|v1\n1002|v2", 'each where it should be';
is $lab->same('SELECT a, b, v FROM composite_key ORDER BY b', 'keys of several columns'), "a3|3|v\na4|4|w\na6|6|v\na1|101|moved\na2|102|moved", 'their rows';
is $lab->same('SELECT * FROM numeric_key ORDER BY id', 'numeric keys that are equal in another text'), "1.000|one\n2.00|II\n3.10|three\nInfinity|I\nNaN|N", 'their rows';
is $lab->same('SELECT * FROM citext_key ORDER BY id', 'citext keys'), "aBC|one\nDEF|II", 'their rows';
is $lab->same('SELECT * FROM float_key ORDER BY id', 'float keys'), "-0|zero\n5e-324|t\n0.1|tenth\nNaN|N", 'their rows';
is $lab->same("SELECT id || '|', v FROM blank_key ORDER BY id", 'blank-padded keys'), "a||I\nb||two", 'their rows';
is $lab->same('SELECT * FROM only_key ORDER BY a', 'a table of nothing but its key'), "1|xx\n2|y\n4|", 'its rows';
is $lab->same('SELECT id, v FROM date_key ORDER BY id', 'dates and ranges as keys'), "2026-02-01|aa\ninfinity|bb", 'their rows';
$lab->sql('us', "INSERT INTO numeric_key VALUES (5.5000, 'again'); INSERT INTO citext_key VALUES ('gHi', 'again'); INSERT INTO blank_key VALUES ('c   ', 'again')");
$lab->drain;
is $lab->same("SELECT v FROM numeric_key WHERE id = 5.5 UNION ALL SELECT v FROM citext_key WHERE id = 'ghi' UNION ALL SELECT v FROM blank_key WHERE id = 'c'", 'deleted keys come back in another text'),
	"again\nagain\nagain", 'all three';
is $lab->sql('us', 'SELECT count(*) FROM mrsync.conflict_log') + $lab->sql('eu', 'SELECT count(*) FROM mrsync.conflict_log'), 0, 'none of this was a conflict';

# ---------------------------------------------------------------------------------------------------------------------
# Partitions
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', qw(by_hash by_range by_list two_levels));
CREATE TABLE by_hash (id integer PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE by_hash_1 PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE by_hash_2 PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE TABLE by_range (at date, id integer, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE by_range_old PARTITION OF by_range FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE by_range_new (v text, dropped integer, id integer NOT NULL, at date NOT NULL);    -- another column order
ALTER TABLE by_range_new DROP COLUMN dropped;
ALTER TABLE by_range ATTACH PARTITION by_range_new FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE by_list (kind text, id integer, v text, PRIMARY KEY (kind, id)) PARTITION BY LIST (kind);
CREATE TABLE by_list_a PARTITION OF by_list FOR VALUES IN ('a', 'A');
CREATE TABLE by_list_rest PARTITION OF by_list DEFAULT;
CREATE SCHEMA elsewhere;
CREATE TABLE two_levels (kind text, at date, id integer, v text, PRIMARY KEY (kind, at, id)) PARTITION BY LIST (kind);
CREATE TABLE two_levels_a PARTITION OF two_levels FOR VALUES IN ('a') PARTITION BY RANGE (at);
CREATE TABLE elsewhere.two_levels_a_old PARTITION OF two_levels_a FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE elsewhere.two_levels_a_new PARTITION OF two_levels_a FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
CREATE TABLE two_levels_b PARTITION OF two_levels FOR VALUES IN ('b') PARTITION BY HASH (id);
CREATE TABLE two_levels_b_0 PARTITION OF two_levels_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE two_levels_b_1 PARTITION OF two_levels_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SQL
$lab->sql('us', <<'SQL');
INSERT INTO by_hash SELECT i, 'v' || i FROM generate_series(1, 30) i;
INSERT INTO by_range SELECT '2025-12-25'::date + i, i, 'v' || i FROM generate_series(1, 20) i;
INSERT INTO by_list SELECT (ARRAY['a', 'A', 'b', 'c'])[i % 4 + 1], i, 'v' || i FROM generate_series(1, 20) i;
INSERT INTO two_levels SELECT (ARRAY['a', 'b'])[i % 2 + 1], '2025-12-25'::date + i, i, 'v' || i FROM generate_series(1, 30) i;
SQL
$lab->drain;
$lab->sql('eu', <<'SQL');
UPDATE by_hash SET v = 'changed' WHERE id % 3 = 0;
UPDATE by_hash SET id = id + 100 WHERE id % 5 = 0;
DELETE FROM by_hash WHERE id % 7 = 0;
UPDATE by_range SET at = at + 10 WHERE id <= 5;                       -- into the other partition
UPDATE by_range SET at = at - 30, v = 'back' WHERE id IN (18, 19);
UPDATE by_range_new SET v = 'leaf' WHERE id = 12;
DELETE FROM by_range_old WHERE id = 6;
INSERT INTO by_range_new (v, id, at) VALUES ('leaf', 500, '2026-06-06');
DELETE FROM by_range WHERE id = 13;
UPDATE by_list SET kind = 'z' WHERE kind = 'a' AND id < 10;
UPDATE by_list SET kind = 'A' WHERE kind = 'b' AND id < 10;
INSERT INTO by_list_rest VALUES ('ü', 1, 'leaf');
UPDATE two_levels SET kind = 'b' WHERE kind = 'a' AND id < 8;
UPDATE two_levels SET at = at - 20 WHERE kind = 'a' AND id > 25;
UPDATE two_levels_a SET v = 'middle' WHERE id = 12;
UPDATE elsewhere.two_levels_a_new SET v = 'leaf' WHERE id = 14;
DELETE FROM two_levels_b WHERE id = 9;
DELETE FROM two_levels_b_0 WHERE id > 24;
SQL
$lab->drain;
my $dump = sub { join "\n", map { "SELECT '$_', tableoid::regclass, * FROM $_ ORDER BY id, 2;" } qw(by_hash by_range by_list two_levels) };
$lab->same($dump->(), 'partitioned tables: hash, range, list, two levels');
is $lab->sql('us', 'SELECT count(*) FROM by_hash WHERE id > 100'), 5, 'rows moved';
is $lab->sql('us', "SELECT string_agg(id::text, ',' ORDER BY id) FROM by_range_new"), '1,2,3,4,5,7,8,9,10,11,12,14,15,16,17,20,500', 'between partitions, too';
is $lab->sql('us', "SELECT v FROM two_levels WHERE id IN (12, 14) ORDER BY id"), "middle\nleaf", 'through middle and leaf';

$lab->everywhere(<<'SQL');
CREATE TABLE by_range_next (LIKE by_range INCLUDING ALL);
ALTER TABLE by_range ATTACH PARTITION by_range_next FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
CREATE TABLE two_levels_c PARTITION OF two_levels FOR VALUES IN ('c') PARTITION BY RANGE (at);
CREATE TABLE two_levels_c_all PARTITION OF two_levels_c DEFAULT;
SQL
$lab->sql('us', <<'SQL');
INSERT INTO by_range SELECT '2027-02-01', i, 'next' FROM generate_series(900, 905) i;
UPDATE by_range SET at = '2027-03-01' WHERE id = 7;
INSERT INTO two_levels SELECT 'c', '2026-02-02', i, 'c' FROM generate_series(900, 905) i;
SQL
$lab->drain;
$lab->sql('eu', <<'SQL');
UPDATE by_range_next SET v = 'leaf' WHERE id = 901;
DELETE FROM by_range_next WHERE id = 902;
DELETE FROM two_levels_c_all WHERE id = 903;
UPDATE two_levels SET kind = 'b' WHERE id = 904;
SQL
$lab->drain;
$lab->same($dump->(), 'partitions that came later');
is $lab->sql('us', "SELECT count(*) FROM by_range_next"), 6, 'hold their rows';

$lab->sql('eu', 'TRUNCATE by_range_old; TRUNCATE by_hash_1, by_list; TRUNCATE two_levels_b');
$lab->drain;
$lab->same($dump->(), 'TRUNCATE of leaves, of a middle, of a root');
is $lab->sql('us', "SELECT (SELECT count(*) FROM by_range_old), (SELECT count(*) FROM by_hash_1), (SELECT count(*) FROM by_list), (SELECT count(*) FROM two_levels_b), (SELECT count(*) > 5 FROM two_levels)"), '0|0|0|0|t', 'are empty';
$lab->sql('us', "INSERT INTO by_list VALUES ('a', 1, 'after'); INSERT INTO by_range VALUES ('2025-06-06', 1, 'after'); TRUNCATE two_levels; INSERT INTO two_levels VALUES ('b', '2025-06-06', 1, 'after')");
$lab->drain;
$lab->same($dump->(), 'and take rows again');
is $lab->sql('eu', "SELECT string_agg(v, ',') FROM (SELECT v FROM by_list UNION ALL SELECT v FROM by_range_old UNION ALL SELECT v FROM two_levels) x"), 'after,after,after', 'each of them';

# ---------------------------------------------------------------------------------------------------------------------
# TRUNCATE of ordinary tables
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', qw(parent child grandchild lonely));
CREATE TABLE parent (id integer PRIMARY KEY, v text);
CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE grandchild (id bigserial PRIMARY KEY, child integer REFERENCES child ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE lonely (id integer PRIMARY KEY, v text);
SQL
my $family = <<'SQL';
INSERT INTO parent SELECT i, 'p' FROM generate_series(1, 5) i;
INSERT INTO child SELECT i, (i - 1) % 5 + 1 FROM generate_series(1, 10) i;
INSERT INTO grandchild (child) SELECT (i - 1) % 10 + 1 FROM generate_series(1, 20) i;
INSERT INTO lonely SELECT i, 'l' FROM generate_series(1, 5) i;
SQL
my $count = 'SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), (SELECT count(*) FROM grandchild), (SELECT count(child) FROM grandchild), (SELECT count(*) FROM lonely)';
$lab->sql('us', $family);
$lab->drain;
$lab->sql('eu', 'DELETE FROM parent WHERE id = 1; UPDATE child SET id = 1000 WHERE id = 2;');
$lab->drain;
is $lab->same($count, 'the effects of foreign keys'), '4|8|20|16|5', 'arrive once';
$lab->same('SELECT * FROM grandchild ORDER BY id', 'row by row');
$lab->sql('us', 'TRUNCATE parent RESTART IDENTITY CASCADE');
$lab->drain;
is $lab->same($count, 'TRUNCATE ... CASCADE'), '0|0|0|0|5', 'empties the referencing tables';
$lab->sql('eu', "BEGIN; TRUNCATE lonely; INSERT INTO lonely VALUES (1, 'new'), (9, 'new'); COMMIT; INSERT INTO lonely VALUES (2, 'later')");
$lab->drain;
is $lab->same('SELECT * FROM lonely ORDER BY id', 'TRUNCATE and INSERT in one transaction'), "1|new\n2|later\n9|new", 'the new rows';
$lab->sql('us', "BEGIN; INSERT INTO lonely VALUES (3, 'x'); TRUNCATE lonely; COMMIT");
$lab->drain;
is $lab->same('SELECT count(*) FROM lonely', 'INSERT and TRUNCATE in one transaction'), 0, 'no row';

# ---------------------------------------------------------------------------------------------------------------------
# Large values. Those of 100 MB make events of 400 MB: an UPDATE has both images, and a byte is two digits.
# ---------------------------------------------------------------------------------------------------------------------
$lab->tables(<<'SQL', 'large');
CREATE TABLE large (id integer PRIMARY KEY, n integer, t text, b bytea, j jsonb);
ALTER TABLE large ALTER COLUMN t SET STORAGE EXTERNAL, ALTER COLUMN b SET STORAGE EXTERNAL;
SQL
my $digest = 'SELECT id, n, octet_length(t), md5(t), octet_length(b), md5(b), md5(j::text) FROM large ORDER BY id';
for my $mb (10, 100)
{
	my $blocks = $mb * 1024;    # of 1 kB
	for ([ 1, "text", "t", "(SELECT string_agg(repeat(md5(i::text) || E'ü\"\\\\\n', 28), '') FROM generate_series(1, $blocks) i)" ],
		[ 2, "bytea", "b", "(SELECT string_agg(decode(repeat(md5(i::text), 64), 'hex'), '') FROM generate_series(1, $blocks) i)" ])
	{
		my ($kind, $name, $column, $value) = @$_;
		my $id = $mb * 10 + $kind;
		$lab->sql('us', "INSERT INTO large (id, n, $column) VALUES ($id, 1, $value)");
		$lab->drain('us');
		my $is = $lab->same($digest, "$mb MB of $name: INSERT");
		$lab->sql('eu', "UPDATE large SET n = n + 1 WHERE id = $id");
		$lab->drain('eu');
		$is = $lab->same($digest, "$mb MB of $name: UPDATE of another column");
		like $is, qr/^$id\|2\|/m, 'which has arrived';
		cmp_ok $lab->sql('eu', "SELECT octet_length($column) FROM large WHERE id = $id"), '>=', $mb * 1024 * 1000, 'and has not touched the value';
	}
}
$lab->sql('eu', "UPDATE large SET j = jsonb_build_object('text', left(t, 3000000)), t = t || 'x' WHERE id = 101");
$lab->sql('eu', 'DELETE FROM large WHERE id > 1000');
$lab->drain;
like $lab->same($digest, 'large values changed and deleted'), qr/^101\|.*\n102\|.*\z/, 'two are left';

$lab->healthy;
is $lab->sql($_, 'SELECT count(*) FROM mrsync.conflict_log'), 0, "no conflict in $_" for $lab->regions;

# ---------------------------------------------------------------------------------------------------------------------
# What cannot be sent: 600 MB of bytea are 1.2 GB of text. That is said, with the column and with the way on.
# ---------------------------------------------------------------------------------------------------------------------
$lab->sql('us', "INSERT INTO large (id, b) SELECT 9000, v || v FROM (SELECT decode(repeat('ab', 300000000), 'hex') AS v) x; INSERT INTO lonely VALUES (77, 'behind it')");
for my $view ("worker_status WHERE worker = 'extractor'", "link_status WHERE direction = 'outgoing'")
{
	my $is = '';
	$lab->wait_until("$view to name the column", sub { ($is = $lab->sql('us', "SELECT state FROM mrsync.$view")) =~ /cannot be sent/ });
	like $is, qr/^down: .*a value of column b of public\.large cannot be sent: /, "a value that cannot be sent is named in " . ($view =~ /(\w+)/)[0];
}
$lab->sql('eu', "INSERT INTO lonely VALUES (78, 'the other way')");
$lab->wait_for('us', 'SELECT v FROM lonely WHERE id = 78', 'the other way');
pass('the other way is open');
my $position = do { open my $log, '<', $lab->server_log('us') or die; local $/; <$log> =~ /ends at WAL position ([0-9A-F]+\/[0-9A-F]+)/ ? $1 : 'nowhere' };
# between two attempts of the extractor, which holds the slot
$lab->wait_until('the slot to be free', sub { !($lab->sql_try('us', "SELECT pg_replication_slot_advance(slot_name, '$position') FROM pg_replication_slots WHERE plugin = 'mrsync' AND database = 'lab'"))[0] });
$lab->wait_for('eu', "SELECT state LIKE 'degraded: t%SELECT mrsync.resend() in region us%' FROM mrsync.link_status WHERE source_region = 'us' AND direction = 'incoming'");
pass('the link does not pass over it in silence');
like +($lab->sql_try('us', 'SELECT mrsync.resend()'))[2], qr/01000: a row of public\.large is too large to be sent again/, 'it cannot be sent again either, which is said';
$lab->wait_for('eu', 'SELECT v FROM lonely WHERE id = 77', 'behind it');
pass('and the way on, as the hint in the log says: what comes behind it arrives');
is $lab->sql('eu', 'SELECT count(*) FROM large WHERE id = 9000'), 0, 'without it';
done_testing;
