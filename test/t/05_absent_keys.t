# Two appliers meet at a key that is not there: one deletes it, the other inserts it, and neither has committed.
#
# Proves I12 where there is no row to lock: whoever deletes leaves its mark before it looks for a row, whoever inserts looks
# for marks that are not committed, too, and waits for them. Without that the row of the older INSERT comes back after the
# newer DELETE or TRUNCATE, in this region only.
#
# An applier is held in the middle of its transaction by a trigger that waits for an advisory lock.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu ap)]);
$lab->conflicts_apart;    # what each region says by itself
$lab->tables(<<'SQL', qw(t exact parted gate counted));
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE exact (id numeric PRIMARY KEY, v text);
CREATE TABLE parted (id int, kind int, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE gate (id int PRIMARY KEY);
CREATE TABLE counted (id int PRIMARY KEY, v text);
SQL
$lab->sql('ap', <<'SQL');
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_catalog.pg_advisory_xact_lock_shared(42);
	RETURN new;
END $$;
CREATE TRIGGER wait BEFORE INSERT ON gate FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
ALTER TABLE gate ENABLE ALWAYS TRIGGER wait;
SQL
my $gate = $lab->session('ap');
my $next = 0;

sub appliers_waiting
{
	my ($count) = @_;
	$lab->wait_for('ap', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mrsync applier' AND wait_event_type = 'Lock'", $count);
}
sub reached_gate
{
	$lab->wait_for('ap', "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE backend_type = 'mrsync applier' AND locktype = 'advisory' AND NOT granted", 1);
}

# eu inserts, us sees that and deletes; at ap the deletion comes first and is still uncommitted when the insert arrives.
sub deletion_first
{
	my ($name, $insert, $delete, $table) = @_;
	$lab->pause('eu>ap');
	$lab->sql('eu', $insert);
	$lab->wait_for('us', "SELECT count(*) > 0 FROM $table");
	$gate->sql('SELECT pg_advisory_lock(42)');
	$lab->sql('us', "BEGIN; $delete; INSERT INTO gate VALUES (" . ++$next . '); COMMIT');
	reached_gate();
	$lab->resume('eu>ap');
	appliers_waiting(2);
	pass("$name: the insert waits for the deletion in progress");
	$gate->sql('SELECT pg_advisory_unlock(42)');
	$lab->drain;
	is($lab->same("SELECT * FROM $table ORDER BY 1", "$name: all regions are the same"), '', "$name: the row does not come back");
}
# The other way about: the insert is uncommitted when the deletion arrives.
sub insert_first
{
	my ($name, $insert, $delete, $table) = @_;
	$lab->pause('us>ap');
	$gate->sql('SELECT pg_advisory_lock(42)');
	$lab->sql('eu', "BEGIN; $insert; INSERT INTO gate VALUES (" . ++$next . '); COMMIT');
	reached_gate();
	$lab->wait_for('us', "SELECT count(*) > 0 FROM $table");
	$lab->sql('us', $delete);
	$lab->resume('us>ap');
	appliers_waiting(2);
	pass("$name: the deletion waits for the insert in progress");
	$gate->sql('SELECT pg_advisory_unlock(42)');
	$lab->drain;
	is($lab->same("SELECT * FROM $table ORDER BY 1", "$name: all regions are the same"), '', "$name: the row is gone");
}

for ([ 'DELETE', "INSERT INTO t VALUES (1, 'eu')", 'DELETE FROM t', 't' ],
	[ 'DELETE in a partition', "INSERT INTO parted VALUES (1, 1, 'eu')", 'DELETE FROM parted', 'parted' ],
	[ 'TRUNCATE', "INSERT INTO t VALUES (2, 'eu')", 'TRUNCATE t', 't' ],
	[ 'TRUNCATE of a partition', "INSERT INTO parted VALUES (2, 1, 'eu')", 'TRUNCATE parted_1', 'parted' ])
{
	deletion_first(@$_);
	insert_first(@$_);
}

# A newer insert than the deletion in progress stays.
$lab->pause('eu>ap');
$lab->sql('eu', "INSERT INTO t VALUES (3, 'first')");
$lab->wait_for('us', 'SELECT count(*) FROM t', 1);
$gate->sql('SELECT pg_advisory_lock(42)');
$lab->sql('us', 'BEGIN; DELETE FROM t; INSERT INTO gate VALUES (' . ++$next . '); COMMIT');
reached_gate();
$lab->wait_for('eu', 'SELECT count(*) FROM t', 0);
$lab->sql('eu', "INSERT INTO t VALUES (3, 'second')");
$lab->resume('eu>ap');
appliers_waiting(2);
$gate->sql('SELECT pg_advisory_unlock(42)');
$lab->drain;
is($lab->same('SELECT * FROM t', 'a newer insert: all regions are the same'), '3|second', 'it stays');

# A TRUNCATE waits for those who write the table, and only for them: ANALYZE, VACUUM, CREATE INDEX CONCURRENTLY may take hours.
my $other = $lab->session('ap');
$other->sql('BEGIN; ANALYZE t');
$lab->sql('us', 'TRUNCATE t');
$lab->drain('us');
is($lab->same('SELECT * FROM t', 'TRUNCATE beside an ANALYZE in progress: all regions are the same'), '', 'it does not wait');
$lab->sql('us', "INSERT INTO t VALUES (4, 'us')");
$lab->drain('us');
$other->sql("INSERT INTO t VALUES (5, 'ap')");
$lab->sql('us', 'TRUNCATE t');
appliers_waiting(1);
$other->sql('COMMIT');
$other->close;
$lab->drain;
is($lab->same('SELECT * FROM t', 'TRUNCATE beside one who has written, too: all regions are the same'), '5|ap', 'it waits');

# What a user's own trigger counts is not done for a row that a deletion has beaten already.
$lab->sql('ap', <<'SQL');
CREATE SEQUENCE attempts;
CREATE FUNCTION count_attempt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_catalog.nextval('public.attempts');
	RETURN new;
END $$;
CREATE TRIGGER attempt BEFORE INSERT ON counted FOR EACH ROW EXECUTE FUNCTION count_attempt();
ALTER TABLE counted ENABLE ALWAYS TRIGGER attempt;
SQL
$lab->pause('eu>ap');
$lab->sql('eu', "INSERT INTO counted VALUES (1, 'eu')");
$lab->wait_for('us', 'SELECT count(*) FROM counted', 1);
$lab->sql('us', 'DELETE FROM counted');
$lab->drain('us');
$lab->resume('eu>ap');
$lab->drain;
is($lab->sql('ap', 'SELECT is_called FROM attempts'), 'f', 'a trigger does not fire for a row that was deleted before it came');

# The definition's catalog entries are touched in the middle of a transaction (as autovacuum does): it is not begun anew.
$gate->sql('SELECT pg_advisory_lock(42)');
$lab->sql('us', 'BEGIN; INSERT INTO counted VALUES (11, 1), (12, 1); INSERT INTO gate VALUES (' . ++$next
	. '); INSERT INTO counted VALUES (13, 1), (14, 1); COMMIT');
reached_gate();
$lab->sql('ap', 'ANALYZE counted; ALTER TABLE counted ALTER v SET STATISTICS 10; ANALYZE gate');
$gate->sql('SELECT pg_advisory_unlock(42)');
$lab->drain;
is($lab->sql('ap', 'SELECT last_value FROM attempts'), 4, 'a transaction goes on over ANALYZE of its tables');
$lab->same('SELECT * FROM counted ORDER BY id', 'counted is the same');

# A transaction writes a row twice, and loses: to a deletion, which holds nothing, and, by the time of its second event, to a row.
# eu meets both events with the deletion. Both regions name the last event, also where it was the first that met what it lost to.
# A key of several texts (1.0, 1.00) has its entries looked for by event alone.
for my $table (qw(t exact))
{
	$lab->sql('us', "INSERT INTO $table VALUES (6, 'seed')");
	$lab->drain;
	$lab->everywhere('TRUNCATE mrsync.conflict_log');
	$lab->pause('us>ap', 'us>eu', 'eu>us', 'ap>us', 'ap>eu');
	$lab->sql('us', "BEGIN; UPDATE $table SET v = 'first' WHERE id = 6; INSERT INTO gate VALUES (" . ++$next . "); UPDATE $table SET v = 'last' WHERE id = 6; COMMIT");
	$lab->sql('eu', "DELETE FROM $table WHERE id = 6");
	$lab->wait_for('ap', "SELECT count(*) FROM $table WHERE id = 6", 0);
	$lab->resume('us>eu');
	$lab->wait_for('eu', "SELECT count(*) FROM gate WHERE id = $next", 1);
	$gate->sql('SELECT pg_advisory_lock(42)');
	$lab->resume('us>ap');
	reached_gate();
	$lab->sql('ap', "INSERT INTO $table VALUES (6, 'ap')");
	$gate->sql('SELECT pg_advisory_unlock(42)');
	$lab->wait_for('ap', "SELECT count(*) FROM gate WHERE id = $next", 1);
	$lab->resume;
	$lab->drain;
	is($lab->same("SELECT * FROM $table WHERE id = 6", "$table: lost to a deletion and to a row: all regions are the same"), '6|ap', "$table: to the last writer");
	my $named = "SELECT string_agg(region_a || ' ' || region_b || ' ' || (image_a ->> 'v'), ', ' ORDER BY region_b DESC) FROM mrsync.conflict_log";
	is($lab->sql('eu', $named), 'us eu last', "$table: the deletion won over the last of two events, eu says");
	is($lab->sql('ap', $named), 'us eu last, us ap last', "$table: and so says ap, where another one met the deletion");
}
my $event = "SELECT event_id_a FROM mrsync.conflict_log WHERE region_b = 'eu'";
is($lab->sql('ap', $event), $lab->sql('eu', $event), 'by its event_id, too');

# The same, of one that wins over the deletion with its first event, which holds nothing either, and loses to the row with its last.
$lab->sql('us', "INSERT INTO t VALUES (7, 'seed')");
$lab->drain;
$lab->everywhere('TRUNCATE mrsync.conflict_log');
$lab->pause('us>ap', 'us>eu', 'eu>us', 'ap>us', 'ap>eu');
$lab->sql('eu', 'DELETE FROM t WHERE id = 7');
$lab->wait_for('ap', 'SELECT count(*) FROM t WHERE id = 7', 0);
$lab->sql('us', 'BEGIN; DELETE FROM t WHERE id = 7; INSERT INTO gate VALUES (' . ++$next . "); INSERT INTO t VALUES (7, 'last'); COMMIT");
$lab->resume('us>eu');
$lab->wait_for('eu', "SELECT count(*) FROM gate WHERE id = $next", 1);
$gate->sql('SELECT pg_advisory_lock(42)');
$lab->resume('us>ap');
reached_gate();
$lab->sql('ap', "INSERT INTO t VALUES (7, 'ap')");
$gate->sql('SELECT pg_advisory_unlock(42)');
$lab->wait_for('ap', "SELECT count(*) FROM gate WHERE id = $next", 1);
$lab->resume;
$lab->drain;
is($lab->same('SELECT * FROM t WHERE id = 7', 'won over a deletion and lost to a row: all regions are the same'), '7|ap', 'to the last writer');
my $won = "SELECT event_id_b || ' ' || (image_b ->> 'v') FROM mrsync.conflict_log WHERE region_a = 'eu' AND region_b = 'us'";
like($lab->sql('ap', $won), qr/ last$/, 'the winner is named by its last event where that lost to another one');
is($lab->sql('ap', $won), $lab->sql('eu', $won), 'as it is where that won, too');
$gate->close;
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
