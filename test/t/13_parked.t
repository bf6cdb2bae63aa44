# What cannot be applied is parked, named, and tried again until it can; nothing else waits for it.
#
# Proves I2 for events that fail (nothing lost, nothing twice), I8 (nothing is skipped silently), I9 (the applier acts as
# the table's owner in a security-restricted context), and I4 at a deadlock: it is the applier that yields. What says "not
# now" (serialization failures, deadlocks) is never parked. Last, that nothing of all this comes back to where it came from
# (loop prevention): the receiver, which writes nothing of its own to these tables, has produced no transaction at all.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(ask log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu)], settings => { 'mrsync.apply_error_retry_interval' => '1s' });

sub us { return $lab->sql('us', $_[0]) }
sub eu { return $lab->sql('eu', $_[0]) }
# What is parked of a table, once there is so much of it.
sub parked
{
	my ($table, $count) = @_;
	$lab->wait_for('eu', "SELECT count(*) FROM mrsync.apply_error WHERE table_name = 'public.$table'", $count // 1);
	return eu("SELECT sqlstate, message FROM mrsync.apply_error WHERE table_name = 'public.$table' ORDER BY error_id");
}
sub nothing_parked
{
	my ($name) = @_;
	$lab->wait_for('eu', 'SELECT count(*) FROM mrsync.apply_error', 0);
	$lab->wait_for('eu', "SELECT status FROM mrsync.replication_link WHERE source_region = 'us'", 'active');
	pass($name);
}
sub produced { my ($region) = @_; return $lab->sql($region, "SELECT transactions FROM mrsync.worker_stat() WHERE kind = 'extractor'") }

# ---- a CHECK that only one region has

$lab->tables(<<'', qw(a b));
	CREATE TABLE a (id int PRIMARY KEY, v int);
	CREATE TABLE b (id int PRIMARY KEY, v int);

eu('ALTER TABLE a ADD CONSTRAINT only_here CHECK (v < 100)');
us('BEGIN; INSERT INTO a VALUES (1, 1), (2, 500), (3, 3); INSERT INTO b VALUES (1, 1); COMMIT');
$lab->drain('us');
is(eu('SELECT id FROM a ORDER BY id'), "1\n3", 'the other rows of the transaction are there');
is(eu('SELECT id FROM b'), 1, 'in other tables, too');
is(parked('a'), '23514|new row for relation "a" violates check constraint "only_here"', 'the one is parked, and named');
is(eu("SELECT row_pk, operation, source_region, detail FROM mrsync.apply_error"),
	'{"id": "2"}|INSERT|us|Failing row contains (2, 500).', 'with key, operation, source and detail');
$lab->wait_for('eu', "SELECT status FROM mrsync.replication_link WHERE source_region = 'us'", 'degraded');
like(eu("SELECT state FROM mrsync.link_status WHERE direction = 'incoming'"), qr/^degraded: .*1 event/, 'the link says so');
us('INSERT INTO b VALUES (2, 2); INSERT INTO a VALUES (4, 4)');
$lab->drain('us');
is(eu('SELECT count(*) FROM a NATURAL JOIN b'), 1, 'the link goes on'); # row 1
is(eu('SELECT count(*) FROM b'), 2, 'with both tables');
is(eu('SELECT count(*) FROM mrsync.apply_error'), 1, 'the event is still parked');
$lab->wait_for('eu', 'SELECT attempts > 1 FROM mrsync.apply_error');
pass('and is tried again');
eu('ALTER TABLE a DROP CONSTRAINT only_here');
nothing_parked('it is applied by itself once the constraint is gone; the link is active again');
$lab->same('SELECT * FROM a ORDER BY id', 'a is the same');

# later events of the row go on: an UPDATE that fits brings the row, and the parked INSERT comes too late to win
eu('ALTER TABLE a ADD CONSTRAINT only_here CHECK (v < 100) NOT VALID');
us('INSERT INTO a VALUES (5, 500)');
parked('a');
us('UPDATE a SET v = 50 WHERE id = 5');
$lab->wait_for('eu', 'SELECT v FROM a WHERE id = 5', 50);
pass('a later event of a parked row is applied');
nothing_parked('and the parked one ends without an effect');
# the same with a DELETE
us('INSERT INTO a VALUES (6, 600)');
parked('a');
us('DELETE FROM a WHERE id = 6');
nothing_parked('a parked INSERT whose row was deleted since ends without an effect');
is(eu('SELECT count(*) FROM a WHERE id = 6'), 0, 'the row stays deleted');
$lab->same('SELECT * FROM a ORDER BY id', 'a is the same');

# at once, when asked for
eu("ALTER SYSTEM SET mrsync.apply_error_retry_interval = '1h'");
eu('SELECT pg_reload_conf()');
us('INSERT INTO a VALUES (7, 700), (8, 800)');
is(parked('a', 2) =~ tr/\n//, 1, 'two events are parked');
$lab->wait_for('eu', "SELECT bool_and(retry_at > clock_timestamp() + interval '30 min') FROM mrsync.apply_error");    # when it has heard of the interval
eu('ALTER TABLE a DROP CONSTRAINT only_here');
my $error = eu("SELECT error_id FROM mrsync.apply_error WHERE row_pk = '{\"id\": \"8\"}'");
is(eu("SELECT mrsync.apply_error_retry($error)"), 1, 'apply_error_retry(id) asks for one');
$lab->wait_for('eu', 'SELECT v FROM a WHERE id = 8', 800);
is(eu('SELECT count(*) FROM a WHERE id = 7'), 0, 'the other one waits for its interval');
is(eu('SELECT mrsync.apply_error_retry()'), 1, 'apply_error_retry() asks for all that there are');
nothing_parked('and they are applied at once');
like(($lab->sql_try('eu', 'SELECT mrsync.apply_error_retry(4711)'))[2], qr/42704.*4711/s, 'an unknown error_id is refused');
eu("ALTER SYSTEM RESET mrsync.apply_error_retry_interval");
eu('SELECT pg_reload_conf()');
$lab->same('SELECT * FROM a ORDER BY id', 'a is the same');

# several of one transaction and row keep their order, and many are no burden
eu('ALTER TABLE a ADD CONSTRAINT only_here CHECK (v < 100) NOT VALID');
us('BEGIN; INSERT INTO a VALUES (9, 901); UPDATE a SET v = 902 WHERE id = 9; UPDATE a SET v = 903 WHERE id = 9; '
	. 'INSERT INTO a SELECT i, i FROM generate_series(2001, 3000) i; COMMIT');
parked('a', 1003);
is(eu('SELECT count(*) FROM mrsync.apply_error WHERE waits_for IS NULL'), 1001, 'behind a parked event those of its row wait');
is(eu('SELECT count(*) FROM mrsync.apply_error e JOIN mrsync.apply_error b ON e.waits_for = b.event_id WHERE b.event_id < e.event_id'), 2,
	'each for the one before it');
eu('ALTER TABLE a DROP CONSTRAINT only_here');
eu('SELECT mrsync.apply_error_retry()');
nothing_parked('a thousand are applied when the cause is gone');
is(eu('SELECT v FROM a WHERE id = 9'), 903, 'those of one row in their order');
# given up in the middle: the next one is not held any longer
eu('ALTER TABLE a ADD CONSTRAINT only_here CHECK (v < 100) NOT VALID');
us('BEGIN; INSERT INTO a VALUES (10, 911); UPDATE a SET v = 12 WHERE id = 10; COMMIT');
parked('a', 2);
eu('SELECT mrsync.apply_error_discard(error_id) FROM mrsync.apply_error WHERE waits_for IS NULL');
nothing_parked('one that waited for a discarded one is tried');
eu('ALTER TABLE a DROP CONSTRAINT only_here');
$lab->same('SELECT * FROM a ORDER BY id', 'a is the same');

# ---- somebody holds a parked event, or one that waits for it, in a transaction left open: nothing else waits for him

eu('ALTER TABLE a ADD CONSTRAINT only_here CHECK (v < 100) NOT VALID');
us('INSERT INTO a VALUES (11, 921), (12, 922)');
us('BEGIN; INSERT INTO a VALUES (13, 931); UPDATE a SET v = 33 WHERE id = 13; COMMIT');
parked('a', 4);
my $open = $lab->session('eu');
$open->sql("BEGIN; SELECT mrsync.apply_error_discard(error_id) FROM mrsync.apply_error WHERE row_pk ->> 'id' = '11' OR waits_for IS NOT NULL");
my $attempts = "SELECT attempts FROM mrsync.apply_error WHERE row_pk ->> 'id' = '12'";
my $tried = eu($attempts);
$lab->wait_until('two more attempts', sub { eu($attempts) > $tried + 1 });
pass('another parked event is tried again');
eu('ALTER TABLE a DROP CONSTRAINT only_here');
$lab->wait_for('eu', 'SELECT v FROM a WHERE id = 12', 922);
us('INSERT INTO b VALUES (13, 13)');
$lab->drain('us');
is(eu('SELECT v FROM b WHERE id = 13'), 13, 'and the link goes on');
is(eu('SELECT count(*) FROM mrsync.apply_error'), 3, 'what is held, and what it waits for, is left alone');
$open->sql('ROLLBACK');
$open->close;
nothing_parked('and applied when it is held no longer');
is(eu('SELECT v FROM a WHERE id = 13'), 33, 'in its order');
$lab->same('SELECT * FROM a ORDER BY id', 'a is the same');

# ---- a TRUNCATE in a transaction of which something is parked

# the table is not here: what stood before the TRUNCATE does not come back behind it
my $cut_tree = <<'';
	CREATE TABLE cut_tree (id int, kind int, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
	CREATE TABLE cut_tree_1 PARTITION OF cut_tree FOR VALUES IN (1);
	CREATE TABLE cut_tree_2 PARTITION OF cut_tree FOR VALUES IN (2);
	SELECT mrsync.table_add('cut_tree');

us("CREATE TABLE cut (id int PRIMARY KEY); SELECT mrsync.table_add('cut'); $cut_tree");
us('BEGIN; INSERT INTO cut VALUES (1); TRUNCATE cut; INSERT INTO cut VALUES (2); COMMIT');
parked('cut', 2);
eu("CREATE TABLE cut (id int PRIMARY KEY); SELECT mrsync.table_add('cut')");
nothing_parked('a TRUNCATE of a table that was not there is applied when it is');
is($lab->same('SELECT * FROM cut', 'cut is the same'), 2, 'with what stood behind it, and without what stood before');
us('BEGIN; INSERT INTO cut_tree VALUES (1, 1), (2, 2); TRUNCATE cut_tree_1; INSERT INTO cut_tree VALUES (3, 1); COMMIT');
parked('cut_tree', 3);
is(eu('SELECT count(*) FROM mrsync.apply_error WHERE waits_for IS NULL'), 1, 'that of a partition: all wait, each for the one before it');
eu($cut_tree);
nothing_parked('and are applied');
is($lab->same('SELECT * FROM cut_tree ORDER BY id', 'cut_tree is the same'), "2|2\n3|1", 'in their order');

# the TRUNCATE itself is parked: tried again, it takes away what its own transaction wrote before it
eu(<<'');
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
	CREATE TRIGGER refuse BEFORE DELETE ON cut_tree_1 FOR EACH ROW EXECUTE FUNCTION refuse();
	ALTER TABLE cut_tree_1 ENABLE ALWAYS TRIGGER refuse;

us('BEGIN; INSERT INTO cut_tree VALUES (4, 1); TRUNCATE cut_tree_1; INSERT INTO cut_tree VALUES (5, 1); COMMIT');
is(parked('cut_tree_1'), 'P0001|not now', 'a TRUNCATE that fails is parked');
is(parked('cut_tree'), '55000|an earlier event of the same transaction and table is parked', 'and so is what comes behind it');
is(eu('SELECT id FROM cut_tree WHERE kind = 1 ORDER BY id'), "3\n4", 'what came before it is there');
eu('DROP TRIGGER refuse ON cut_tree_1');
nothing_parked('both are applied when the trigger is gone');
is($lab->same('SELECT * FROM cut_tree ORDER BY id', 'cut_tree is the same'), "2|2\n5|1", 'and nothing is left of what came before it');

# a row is parked, the TRUNCATE of its transaction is not: it does not come back when it could
$lab->tables('CREATE TABLE cut_unique (id int PRIMARY KEY, v text UNIQUE);', 'cut_unique');
$lab->pause('us>eu');
us("BEGIN; INSERT INTO cut_unique VALUES (1, 'x'); TRUNCATE cut_unique; COMMIT");
eu("INSERT INTO cut_unique VALUES (100, 'x')");
$lab->resume('us>eu');
$lab->drain;
eu('DELETE FROM cut_unique');
$lab->drain;
nothing_parked('a row that its own transaction truncates waits for nothing');
is($lab->same('SELECT * FROM cut_unique', 'cut_unique is the same'), '', 'and does not come back');

# ---- one key, two texts: the order of a row's events holds

$lab->tables('CREATE TABLE texts (id numeric PRIMARY KEY, v int);', 'texts');
eu('ALTER TABLE texts ADD CONSTRAINT only_here CHECK (v < 100)');
us('BEGIN; INSERT INTO texts VALUES (1.0, 500); UPDATE texts SET id = 1.00, v = 5; COMMIT');
parked('texts', 3);
is(eu('SELECT count(*) FROM mrsync.apply_error WHERE waits_for IS NULL'), 1, '1.00 waits for 1.0');
eu('ALTER TABLE texts DROP CONSTRAINT only_here');
nothing_parked('they are applied when the cause is gone');
is($lab->same('SELECT id, v FROM texts', 'texts is the same'), '1.00|5', 'in their order');
# where the table is not there yet, nobody knows that they are one
us("CREATE TABLE late_texts (id numeric PRIMARY KEY, v int); SELECT mrsync.table_add('late_texts'); "
	. 'BEGIN; INSERT INTO late_texts VALUES (1.0, 500); UPDATE late_texts SET id = 1.00, v = 5; COMMIT');
parked('late_texts', 3);
eu("CREATE TABLE late_texts (id numeric PRIMARY KEY, v int CONSTRAINT only_here CHECK (v < 100)); SELECT mrsync.table_add('late_texts')");
$lab->wait_for('eu', "SELECT message FROM mrsync.apply_error WHERE row_pk ->> 'id' = '1.00'", 'an earlier event of the same transaction and row is parked');
is(eu('SELECT count(*) FROM late_texts'), 0, '1.00 does not overtake 1.0 when the table has come');
eu('ALTER TABLE late_texts DROP CONSTRAINT only_here');
nothing_parked('they are applied when the cause is gone, too');
is($lab->same('SELECT id, v FROM late_texts', 'late_texts is the same'), '1.00|5', 'in their order');

# ---- a table that the receiver does not have, or has not added

us("CREATE TABLE late (id int PRIMARY KEY, v text); SELECT mrsync.table_add('late'); INSERT INTO late VALUES (1, 'one')");
is(parked('late'), '42P01|table public.late does not exist in this region', 'events of a table that is not there are held');
eu('CREATE TABLE late (id int PRIMARY KEY, v text)');
$lab->wait_for('eu', "SELECT sqlstate, message FROM mrsync.apply_error", '55000|table public.late is not added in this region');
us("UPDATE late SET v = 'uno'; INSERT INTO late VALUES (2, 'two'); DELETE FROM late WHERE id = 2; INSERT INTO late VALUES (3, 'three')");
us('INSERT INTO b VALUES (3, 3)');
$lab->drain('us');
is(eu('SELECT count(*) FROM late'), 0, 'nothing is written before it is added');
is(eu('SELECT v FROM b WHERE id = 3'), 3, 'other tables go on');
eu("SELECT mrsync.table_add('late')");
nothing_parked('they are applied after table_add');
$lab->same('SELECT * FROM late ORDER BY id', 'in the right order');

# ---- a column that only the source has

$lab->tables('CREATE TABLE wide (id int PRIMARY KEY, v int);', 'wide');
us('INSERT INTO wide VALUES (1, 1)');
us("ALTER TABLE wide ADD COLUMN extra text; INSERT INTO wide VALUES (2, 2, 'more'); UPDATE wide SET extra = 'later' WHERE id = 1");
is(parked('wide', 2), join("\n", ('42703|column extra of public.wide does not exist in this region') x 2),
	'a column that is not there is named');
is(eu('SELECT * FROM wide'), '1|1', 'the row stays as it was');
eu('ALTER TABLE wide ADD COLUMN extra text');
nothing_parked('applied after ADD COLUMN');
$lab->same('SELECT id, v, extra FROM wide ORDER BY id', 'wide is the same');

# one that only the receiver has takes its default
eu("ALTER TABLE wide ADD COLUMN mine int DEFAULT 7");
us("INSERT INTO wide VALUES (3, 3, 'x')");
$lab->drain('us');
is(eu('SELECT mine FROM wide WHERE id = 3'), 7, 'a column that only the receiver has takes its default');

# ---- a trigger that raises

$lab->tables('CREATE TABLE guarded (id int PRIMARY KEY, v int);', 'guarded');
eu(<<'');
	CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF new.v < 0 THEN RAISE 'no % here', new.v USING ERRCODE = 'MR001', DETAIL = 'It is negative.', HINT = 'Use others.'; END IF;
		RETURN new;
	END $$;
	CREATE TRIGGER raise BEFORE INSERT OR UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION raise();

us('INSERT INTO guarded VALUES (1, -1)');
$lab->drain('us');
is(eu('SELECT v FROM guarded'), -1, 'an ordinary trigger does not fire for what is replicated');
eu('ALTER TABLE guarded ENABLE ALWAYS TRIGGER raise');
us('INSERT INTO guarded VALUES (2, 2), (3, -3), (4, 4)');
is(parked('guarded'), 'MR001|no -3 here', 'an ENABLE ALWAYS trigger that raises parks the row');
is(eu('SELECT detail, hint FROM mrsync.apply_error'), 'It is negative.|Use others.', 'with its own words');
is(eu('SELECT string_agg(id::text, \',\' ORDER BY id) FROM guarded'), '1,2,4', 'and only that row');
eu('DROP TRIGGER raise ON guarded');
nothing_parked('applied after the trigger is gone');
$lab->same('SELECT * FROM guarded ORDER BY id', 'guarded is the same');

# one that swallows the row silently is not believed
eu(<<'');
	CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
	CREATE TRIGGER swallow BEFORE UPDATE OR DELETE ON guarded FOR EACH ROW EXECUTE FUNCTION swallow();
	ALTER TABLE guarded ENABLE ALWAYS TRIGGER swallow;

us('UPDATE guarded SET v = 44 WHERE id = 4; DELETE FROM guarded WHERE id = 1');
like(parked('guarded', 2), qr/a trigger of public.guarded kept a row from being updated.*deleted/s, 'a trigger that swallows a row is named');
eu('DROP TRIGGER swallow ON guarded');
nothing_parked('applied after it is gone');
eu('CREATE TRIGGER swallow BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION swallow(); ALTER TABLE guarded ENABLE ALWAYS TRIGGER swallow');
us('INSERT INTO guarded VALUES (5, 5)');
like(parked('guarded'), qr/a trigger of public.guarded kept a row from being inserted/, 'the same with an INSERT');
eu('DROP TRIGGER swallow ON guarded');
nothing_parked('applied after it is gone, too');
$lab->same('SELECT * FROM guarded ORDER BY id', 'guarded is the same');

# ---- as the table's owner, and no further (and with no search_path: such a trigger names its schemas)

$lab->everywhere('CREATE ROLE alice; CREATE ROLE mallory; GRANT CREATE ON SCHEMA public TO alice, mallory');
$lab->tables(<<'', qw(owned trap));
	CREATE TABLE owned (id int PRIMARY KEY, v text);
	CREATE TABLE trap (id int PRIMARY KEY, v text);
	ALTER TABLE owned OWNER TO alice;
	ALTER TABLE trap OWNER TO mallory;

eu(<<'');
	SET ROLE alice;
	CREATE TABLE who (at text, "user" text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.who VALUES (tg_name, current_user);
		RETURN NULL;
	END $$;
	CREATE TRIGGER row AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER statement AFTER INSERT ON owned EXECUTE FUNCTION note();
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON owned DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE owned ENABLE ALWAYS TRIGGER row, ENABLE ALWAYS TRIGGER statement, ENABLE ALWAYS TRIGGER deferred;

us("INSERT INTO owned VALUES (1, 'x')");
$lab->drain('us');
is(eu('SELECT at, "user" FROM who ORDER BY at'), "deferred|alice\nrow|alice\nstatement|alice",
	"triggers run as the table's owner, deferred ones too");

my %escalation = (
	'becoming a superuser' => 'ALTER ROLE mallory SUPERUSER',
	'SET ROLE' => 'SET ROLE postgres',
	'RESET ROLE' => 'RESET ROLE',
	'SET SESSION AUTHORIZATION' => 'SET SESSION AUTHORIZATION postgres',
	'set_config' => "PERFORM set_config('role', 'postgres', false)",
	'reading a secret' => 'PERFORM rolpassword FROM pg_authid',
	'a deferred trigger' => 'SET CONSTRAINTS ALL DEFERRED; INSERT INTO public.later VALUES (1)',
	'reading a file' => "PERFORM pg_read_file('postgresql.conf')",
);
eu(<<'');
	CREATE TABLE stolen ("user" text);
	GRANT INSERT ON stolen TO PUBLIC;
	SET ROLE mallory;
	CREATE TABLE later (id int);
	CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.stolen VALUES (current_user); RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER later AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();
	ALTER TABLE later ENABLE ALWAYS TRIGGER later;

my $id = 0;
for my $name (sort keys %escalation)
{
	++$id;
	eu(<<"");
		SET ROLE mallory;
		CREATE OR REPLACE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
			$escalation{$name};
			RETURN new;
		END \$\$;
		DROP TRIGGER IF EXISTS trap ON trap;
		CREATE TRIGGER trap BEFORE INSERT ON trap FOR EACH ROW EXECUTE FUNCTION trap();
		ALTER TABLE trap ENABLE ALWAYS TRIGGER trap;

	us("INSERT INTO trap VALUES ($id, '$name')");
	like(parked('trap'), qr/^(42501|55000)\|/, "$name is refused: " . parked('trap'));
	eu('DROP TRIGGER trap ON trap');
	nothing_parked("$name: the row comes when the trigger is gone");
}
# What the owner's code sets does not outlast it: not a search_path in which the applier would find mallory's functions.
eu(<<'');
	CREATE SCHEMA evil AUTHORIZATION mallory;
	SET ROLE mallory;
	CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.stolen VALUES (current_user);
		RETURN pg_catalog.clock_timestamp();
	END $$;
	CREATE OR REPLACE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM set_config('search_path', 'evil, pg_catalog', false);
		RETURN new;
	END $$;
	CREATE TRIGGER trap BEFORE INSERT ON trap FOR EACH ROW EXECUTE FUNCTION trap();
	ALTER TABLE trap ENABLE ALWAYS TRIGGER trap;

us("INSERT INTO trap VALUES (100, 'search_path'); INSERT INTO trap VALUES (101, 'search_path')");
$lab->drain('us');
is(eu('SELECT count(*) FROM trap WHERE id >= 100'), 2, "a trigger may set its search_path");
is(eu('SELECT count(*) FROM stolen'), 0, 'and nobody else looks there');

is(eu("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), 'f', 'nothing has been gained');
is(eu("SELECT count(*) FROM stolen WHERE \"user\" <> 'mallory'"), 0, 'and nothing ran as anybody else');

# ---- what fails with "not now" is tried again by itself, the whole transaction

$lab->tables('CREATE TABLE later_on (id int PRIMARY KEY, v int);', 'later_on');
eu(<<'');
	CREATE SEQUENCE attempt;
	CREATE FUNCTION not_now() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('public.attempt') % 4 > 0 THEN RAISE 'not now' USING ERRCODE = 'serialization_failure'; END IF;
		RETURN new;
	END $$;
	CREATE TRIGGER not_now BEFORE INSERT ON later_on FOR EACH ROW WHEN (new.id = 2) EXECUTE FUNCTION not_now();
	ALTER TABLE later_on ENABLE ALWAYS TRIGGER not_now;

my $ever_parked = "SELECT parked FROM mrsync.worker_stat() WHERE kind = 'applier'";
my $parked_before = eu($ever_parked);
us('BEGIN; INSERT INTO later_on VALUES (1, 1), (2, 2), (3, 3); COMMIT');
$lab->drain('us');
is(eu('SELECT id FROM later_on ORDER BY id'), "1\n2\n3", 'a transaction with a serialization failure is applied, whole');
is(eu('SELECT last_value FROM attempt'), 4, 'at the fourth attempt');
is(eu($ever_parked), $parked_before, 'and nothing of it was parked on the way');
# beside a row that is parked: the event is not taken for one that cannot be applied
us('DELETE FROM later_on');
eu('ALTER TABLE later_on ADD CONSTRAINT only_here CHECK (v < 100)');
us('BEGIN; INSERT INTO later_on VALUES (1, 100), (2, 2), (3, 3); COMMIT');
$lab->drain('us');
like(parked('later_on'), qr/^23514\|.*\z/, 'beside a row that cannot be applied, only that one is parked');
is(eu('SELECT id FROM later_on ORDER BY id'), "2\n3", 'the other one is tried again');
is(eu('SELECT last_value FROM attempt'), 8, 'until it goes in, at its fourth attempt');
is(eu($ever_parked) - $parked_before, 1, 'and nothing else was ever parked');
eu('ALTER TABLE later_on DROP CONSTRAINT only_here');
nothing_parked('applied after the constraint is gone');
$lab->same('SELECT * FROM later_on ORDER BY id', 'later_on is the same');

# ---- deadlocks: whoever waited first, the user is never the victim

$lab->tables('CREATE TABLE rows (id int PRIMARY KEY, v text);', 'rows');
us("INSERT INTO rows SELECT i, '' FROM generate_series(1, 4) i");
$lab->drain('us');
my $before = produced('eu');
my $waiting = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mrsync applier' AND wait_event_type = 'Lock'";
my $user = $lab->session('eu', options => '-c deadlock_timeout=20s');    # the applier's is the server's
for my $round (1 .. 3)
{
	# the applier waits for the user first, the user closes the circle
	$user->sql("BEGIN; UPDATE rows SET v = 'user' WHERE id = 2");
	us("BEGIN; UPDATE rows SET v = 'us $round' WHERE id = 1; UPDATE rows SET v = 'us $round' WHERE id = 2; COMMIT");
	$lab->wait_for('eu', $waiting, 1);
	# longer than its own first look for a deadlock
	$user->sql('SELECT pg_sleep(0.1)');
	$user->send("UPDATE rows SET v = 'user' WHERE id = 1");
	my $said = $user->result;
	is($said, '', "round $round: the user's update goes through, though the applier had waited first");
	$user->sql('COMMIT');
	$lab->drain;
}
for my $round (1 .. 3)
{
	# the user waits for somebody else first, then the applier comes between
	my $other = $lab->session('eu');
	$other->sql("BEGIN; UPDATE rows SET v = 'other' WHERE id = 3");
	$user->sql("BEGIN; UPDATE rows SET v = 'user' WHERE id = 4");
	$user->send("UPDATE rows SET v = 'user' WHERE id = 3");
	$lab->wait_until('the user to wait', sub { eu("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Lock'") == 1 });
	us("BEGIN; UPDATE rows SET v = 'us $round' WHERE id = 3; UPDATE rows SET v = 'us $round' WHERE id = 4; COMMIT");
	$lab->wait_for('eu', $waiting, 1);
	$other->sql('COMMIT');
	is($user->result, '', "round $round: the user's update goes through behind somebody else's");
	$user->sql('COMMIT');
	$lab->drain;
}
$user->close;
$lab->same('SELECT * FROM rows ORDER BY id', 'rows are the same');
is(eu('SELECT count(*) FROM mrsync.apply_error'), 0, 'a deadlock is retried, not parked');
is(produced('eu') - $before, 9, "eu has produced exactly its users' transactions (two rounds of three, and the other's)");

# a statement of a database whose default is serializable changes nothing for the applier
eu('ALTER DATABASE lab SET default_transaction_isolation = serializable');
eu("SELECT pg_terminate_backend(pid) FROM mrsync.worker_stat() WHERE kind = 'applier'");
my $holder = $lab->session('eu', options => '-c default_transaction_isolation=read\ committed');
$holder->sql("BEGIN; UPDATE rows SET v = 'held' WHERE id = 1");
us("UPDATE rows SET v = 'waits' WHERE id = 1");
$lab->wait_for('eu', $waiting, 1);
$holder->sql('COMMIT');
$holder->close;
$lab->drain;
$lab->same('SELECT * FROM rows ORDER BY id', 'a wait for a row that changes meanwhile is no failure');
eu('ALTER DATABASE lab RESET default_transaction_isolation');

# ---- nothing comes back

my ($us, $eu) = (produced('us'), produced('eu'));
us("INSERT INTO a SELECT i, i FROM generate_series(1001, 1100) i");
us("UPDATE a SET v = -v WHERE id = $_") for 1001 .. 1050;
$lab->drain;
# the receivers' heartbeats since then say how far they have decoded: nothing of ours is left to come
$lab->sql($_, "SELECT mrsync.wait_for_peers('170 s')") for qw(eu us eu us);
is(produced('us') - $us, 51, 'us has produced its own transactions');
is(produced('eu') - $eu, 0, 'eu none: what it received does not come back');
is($lab->sql('us', "SELECT count(*) FROM mrsync.applied_event WHERE region_id = 'eu'"), $eu, 'us has applied what eu itself wrote, and no more');
$lab->same('SELECT * FROM a ORDER BY id', 'a is the same');
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
