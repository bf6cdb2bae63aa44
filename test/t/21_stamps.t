# Every committed write has a stamp above what it overwrote and what it could see, in the corners where its commit timestamp
# does not say so by itself; and that stamp is what is sent, and what every region finds in the row.
#
# Proves I5 and I11 where they are hardest: a local commit while the applier adopts a stamp far ahead, its conflicting
# row written by a subtransaction; PREPARE, then COMMIT PREPARED after a stamp ahead of physical time, and a wait_for
# meanwhile; another tool's transactions under a foreign origin, by a native subscription into the same table, also late ones; two
# regions with equal stamps, whose names a locale would sort the other way; an extractor that starts again in the middle
# of a transaction; a clock that steps back between a commit's stamp and its commit record, and back and forth under
# load; a crash while it is shifted.
# All of it with mrsync.force_override off and on.
#
# Clocks are shifted by minutes. Only COMMIT PREPARED is really waited for, some seconds.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid terminate log_trouble);

# By a locale's order a_b comes before a0, byte by byte behind it.
my @regions = qw(us a_b a0);
my $lab = Mrsync::Lab->up(regions => \@regions,
	settings => { 'mrsync.max_clock_skew' => '3600', max_prepared_transactions => 10, log_autovacuum_min_duration => -1 });
$lab->tables(<<'SQL', qw(note sub hot));
CREATE TABLE note (id integer PRIMARY KEY, v text);
CREATE TABLE sub (id integer PRIMARY KEY, v text);
CREATE TABLE hot (id integer PRIMARY KEY, n integer NOT NULL, v text);
CREATE TABLE scratch (i integer);
SQL
$lab->keep_memory;    # stamps are compared that would be forgotten as soon as they decide nothing any more
$lab->drain;

sub version { my ($region, $id, $table) = @_; return $lab->sql($region, 'SELECT (mrsync.row_version(tableoid, ctid, xmin)).* FROM ' . ($table // 'note') . " WHERE id = $id") }
sub stamp { return (split /\|/, version(@_))[0] }
sub hlc { return $lab->sql($_[0], 'SELECT mrsync.current_hlc()') }
sub value { my ($region, $id) = @_; return $lab->sql($region, "SELECT coalesce((SELECT v FROM note WHERE id = $id), 'none')") }
sub see { my ($region, $id, $v) = @_; return $lab->wait_for($region, "SELECT coalesce((SELECT v FROM note WHERE id = $id), 'none')", $v) }
sub conflicts { my ($id) = @_; return join ' ', map { $lab->sql($_, "SELECT count(*) FROM mrsync.conflict_log WHERE row_pk ->> 'id' = '$id'") } @regions }
# Rows, and who wrote them when by what each region finds.
sub equal
{
	my ($what, $table) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$lab->drain;
	$table //= 'note';
	return $lab->same("SELECT t.*, (mrsync.row_version(tableoid, ctid, xmin)).* FROM $table t ORDER BY id", "$what: rows and versions are equal");
}
my $base = 0;    # all clocks stand here, against true time; it moves on when stamps of the future are not to be there any more
my $next = 0;
sub ids { my ($count) = @_; $next += $count; return $next - $count + 1 .. $next }
# A write of a0 that us has applied, stamped so many seconds ahead of us.
sub ahead
{
	my ($seconds) = @_;
	my ($id) = ids(1);
	$lab->clock_step('a0', $base + $seconds);
	$lab->sql('a0', "INSERT INTO note VALUES ($id, 'ahead')");
	see('us', $id, 'ahead');
	$lab->clock_step('a0', $base);
	return stamp('a0', $id);
}

is $lab->sql('us', "SELECT 'a0' < 'a_b' COLLATE \"C\", 'a0' < 'a_b' COLLATE \"en-x-icu\""), 't|f', 'names that a locale sorts the other way';
$lab->clock_now($_, 0) for @regions;

for my $force ('off', 'on')
{
	$lab->everywhere("ALTER SYSTEM SET mrsync.force_override = $force; SELECT pg_reload_conf()");
	$lab->wait_for($_, 'SHOW mrsync.force_override', $force) for @regions;
	note "mrsync.force_override = $force";

	# Prepared, then committed when the region has stamps ahead of its clock.
	if ($lab->part('two-phase commit'))
	{
		my ($row, $nested, $gone, $moved, $unseen) = ids(5);
		$lab->sql('us', join ' ', map { "INSERT INTO note VALUES ($_, 'seed');" } $row, $nested, $gone, $moved, $unseen);
		$lab->drain;
		$lab->pause('a_b>us');
		$lab->sql('a_b', "UPDATE note SET v = 'late' WHERE id = $unseen");
		my $late = stamp('a_b', $unseen);
		my $session = $lab->session('us');
		my $pid = $session->sql('SELECT pg_backend_pid()');
		ahead(12);    # from here on twelve seconds run
		$lab->clock_step('a0', $base + 12);
		$lab->sql('a0', "UPDATE note SET v = 'a0' WHERE id IN ($row, $nested, $gone, $moved)");
		see('us', $moved, 'a0');
		my $theirs = stamp('a0', $row);
		$lab->sql('us', <<"SQL");
BEGIN;
UPDATE note SET v = 'prepared' WHERE id = $row;
SAVEPOINT a;
UPDATE note SET v = 'prepared' WHERE id = $nested;
DELETE FROM note WHERE id IN ($gone, $unseen);
RELEASE a;
SAVEPOINT b;
UPDATE note SET v = 'rolled back' WHERE id = $moved;
ROLLBACK TO b;
UPDATE note SET id = -id, v = 'prepared' WHERE id = $moved;
PREPARE TRANSACTION 'two';
SQL
		$session->send("COMMIT PREPARED 'two'");
		my $waits = 0;
		$lab->wait_until('COMMIT PREPARED to wait, or to end', sub
		{
			$waits = $lab->sql('us', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid AND state = 'active'") eq 'Extension';
			return $waits || !$session->busy;
		});
		ok $waits, 'COMMIT PREPARED waits until time is past all stamps';
		$lab->sql('us', "SELECT pg_cancel_backend($pid)");
		my $said = $session->result;
		like $said, qr/NOTICE:.* COMMIT PREPARED waits \d+ s for this server's clock/, 'it says so';
		like $said, qr/ERROR:  57014:/, 'and can be cancelled';
		is $lab->sql('us', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'the transaction stays prepared';
		is $session->sql("COMMIT PREPARED 'two'; SELECT 'done'") =~ /done\z/, 1, 'and is committed when time has come';
		$session->close;
		$lab->clock_step('a0', $base);
		cmp_ok stamp('us', $row), 'gt', $theirs, 'its stamp is above what it overwrote';
		is stamp('us', $nested), stamp('us', $row), 'so is that of its subtransaction';
		is $lab->sql('us', "SELECT hlc = pg_xact_commit_timestamp(xmin)::mrsync.hlc FROM note, mrsync.row_version(tableoid, ctid, xmin) WHERE id = $nested"), 't', 'it is its commit timestamp';
		$lab->resume('a_b>us');
		equal("force $force: two-phase commit");
		is join(' ', map { value($_, $row) . ' ' . value($_, $nested) . ' ' . value($_, -$moved) } @regions), join(' ', ('prepared prepared prepared') x 3), 'it wins everywhere';
		is join(' ', map { value($_, $gone) . ' ' . value($_, $moved) } @regions), join(' ', ('none none') x 3), 'what it deleted stays deleted';
		cmp_ok $late, 'lt', stamp('us', $row), 'a write that it did not see';
		is join(' ', map { value($_, $unseen) } @regions), 'none none none', 'does not come back';
		is conflicts($_), '0 0 0', "sequential writes are no conflict: row $_" for $row, $nested, $gone;
		isnt conflicts($unseen), '0 0 0', 'the one that it did not see is';
	}
	if ($lab->part('two-phase commit'))
	{
		my ($row) = ids(1);
		$lab->sql('us', "BEGIN; INSERT INTO note VALUES ($row, 'prepared'); PREPARE TRANSACTION 'at once'");
		$lab->wait_for('us', 'SELECT mrsync.current_hlc()::timestamptz <= clock_timestamp()');
		$lab->sql('us', "COMMIT PREPARED 'at once'");
		see($_, $row, 'prepared') for @regions;
		$lab->sql('us', "BEGIN; DELETE FROM note WHERE id = $row; PREPARE TRANSACTION 'never'; ROLLBACK PREPARED 'never'");
		is value('us', $row), 'prepared', 'ROLLBACK PREPARED';
		like +($lab->sql_try('us', "COMMIT PREPARED 'nothing'"))[2], qr/ERROR:  42704:/, 'COMMIT PREPARED of nothing says so';
		like +($lab->sql_try('us', "BEGIN; COMMIT PREPARED 'nothing'"))[2], qr/ERROR:  25001:/, 'and in a transaction block, too';
		my $tool = $lab->session('us');
		$tool->sql("SELECT pg_replication_origin_create('tool $force'); SELECT pg_replication_origin_session_setup('tool $force')");
		$tool->send("BEGIN; SELECT pg_replication_origin_xact_setup('0/100', '2001-01-01 00:00:00+00'); INSERT INTO note VALUES (-1, 'no'); PREPARE TRANSACTION 'foreign'");
		like $tool->result, qr/ERROR:  0A000: a transaction of another replication origin cannot be prepared.*DETAIL:.*HINT:.*two_phase = false/s, 'PREPARE under a foreign origin is refused';
		$lab->sql('us', "BEGIN; INSERT INTO note VALUES (-1, 'no'); PREPARE TRANSACTION 'mine'");
		$tool->send("COMMIT PREPARED 'mine'");
		like $tool->result, qr/ERROR:  55000:.*HINT:.*session_reset/s, 'so is COMMIT PREPARED there';
		$tool->sql('SELECT pg_replication_origin_session_reset()');
		$tool->close;
		$lab->sql('us', "ROLLBACK PREPARED 'mine'; SELECT pg_replication_origin_drop('tool $force')");
	}

	# While it waits, a stamp far ahead is adopted: nobody is promised meanwhile that what is below that one is complete.
	if ($lab->part('a promise'))
	{
		my ($row) = ids(1);
		my $session = $lab->session('us');
		my $pid = $session->sql('SELECT pg_backend_pid()');
		ahead(12);    # from here on twelve seconds run
		$lab->sql('us', "BEGIN; INSERT INTO note VALUES ($row, 'prepared'); PREPARE TRANSACTION 'promise'");
		$session->send("COMMIT PREPARED 'promise'");
		$lab->wait_for('us', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid AND state = 'active'", 'Extension');
		my $far = ahead(600);
		like $lab->sql('a_b', "SELECT mrsync.wait_for('$far', '170 s'); SELECT v FROM note WHERE id = $row"), qr/prepared\z/, 'wait_for waits for a COMMIT PREPARED that waits';
		$session->result;
		$session->close;
		cmp_ok stamp('us', $row), 'lt', $far, 'which is stamped below';
		equal("force $force: a COMMIT PREPARED that waits while a stamp far ahead is adopted");
	}

	# A transaction is open while the applier adopts a stamp ten minutes ahead; the conflicting row is a subtransaction's.
	if ($lab->part('adopted within'))
	{
		my ($row, $nested) = ids(2);
		$lab->sql('us', "INSERT INTO note VALUES ($row, 'seed'), ($nested, 'seed')");
		$lab->drain;
		my $session = $lab->session('us');
		$session->sql("BEGIN; UPDATE note SET v = 'us' WHERE id = $row; SAVEPOINT a; UPDATE note SET v = 'us' WHERE id = $nested; RELEASE a");
		$lab->clock_step('a0', $base + 600);
		$lab->sql('a0', "UPDATE note SET v = 'a0' WHERE id IN ($row, $nested)");
		my $theirs = stamp('a0', $row);
		$lab->wait_until('us to adopt it', sub { hlc('us') gt $theirs });
		$lab->wait_for('us', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mrsync applier' AND wait_event_type = 'Lock'", 1);
		$session->sql('COMMIT');
		$session->close;
		equal("force $force: a commit while a stamp far ahead is adopted");
		for my $id ($row, $nested)
		{
			cmp_ok stamp('us', $id), 'gt', $theirs, "it is stamped above: row $id";
			is value($_, $id), 'us', "and wins in $_" for @regions;
		}
		$lab->clock_step('a0', $base);
	}

	# Equal stamps, of a_b and a0: their clocks are far ahead and only count, so that a_b can be brought to the stamp of a0.
	if ($lab->part('equal stamps'))
	{
		my ($row) = ids(1);
		$lab->sql('us', "INSERT INTO note VALUES ($row, 'seed')");
		ahead(1200);
		$lab->sql('a0', "UPDATE note SET v = 'the same for all' WHERE id = $row");    # its clock went on with time until it was set back
		$lab->drain;
		$lab->pause;
		my ($a, $b);
		for (1 .. 100)
		{
			my $unsynced = 'SET synchronous_commit = off';
			$lab->sql('a0', "$unsynced; DO \$\$ BEGIN FOR i IN 1 .. 300 LOOP INSERT INTO scratch VALUES (i); COMMIT; END LOOP; END \$\$; UPDATE note SET v = 'a0' WHERE id = $row");
			$a = stamp('a0', $row);
			$lab->sql('a_b', <<"");
				$unsynced;
				DO \$\$ BEGIN
					WHILE mrsync.current_hlc()::bigint < '$a'::mrsync.hlc::bigint - 1 LOOP INSERT INTO scratch VALUES (0); COMMIT; END LOOP;
					UPDATE note SET v = 'a_b' WHERE id = $row;
				END \$\$

			$b = stamp('a_b', $row);
			last if $a eq $b;    # unless a heartbeat came at that very moment
		}
		is $b, $a, 'two regions write a row with equal stamps';
		$lab->resume;
		equal("force $force: equal stamps");
		is value($_, $row), 'a_b', "$_: the greater name wins, byte by byte" for @regions;
	}

	# A native subscription into a replicated table.
	if ($lab->part('a subscription'))
	{
		my $port = $lab->port('us');
		$lab->sql('us', 'CREATE DATABASE source');
		$lab->sql('us', "CREATE TABLE sub (id integer PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE sub; SELECT pg_create_logical_replication_slot('sub_$force', 'pgoutput')", db => 'source');
		$lab->sql('us', "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=$port user=postgres dbname=source' PUBLICATION p WITH (create_slot = false, slot_name = 'sub_$force', copy_data = false)");
		ahead(600);
		$lab->sql('us', "BEGIN; INSERT INTO sub SELECT i, 'source' FROM generate_series(1, 5) i; SAVEPOINT a; UPDATE sub SET v = 'source' WHERE id = 2; COMMIT; UPDATE sub SET id = 50 WHERE id = 5", db => 'source');
		$lab->wait_for($_, "SELECT string_agg(id || v, ' ' ORDER BY id) FROM sub", '1source 2source 3source 4source 50source') for @regions;
		equal("force $force: a native subscription", 'sub');
		is $lab->sql('a_b', 'SELECT string_agg(DISTINCT region_id, \' \') FROM sub, mrsync.row_version(tableoid, ctid, xmin)'), 'us', 'what it wrote is of the region that it wrote into';
		cmp_ok stamp('us', 1, 'sub'), 'gt', $lab->sql('us', 'SELECT pg_xact_commit_timestamp(xmin)::mrsync.hlc FROM sub WHERE id = 1'), 'and has a stamp of its clock';
		$lab->sql('a0', "UPDATE sub SET v = 'a0' WHERE id = 1");
		$lab->sql('us', "UPDATE sub SET v = 'source again' WHERE id = 2", db => 'source');
		$lab->wait_for('us', "SELECT string_agg(v, ' ' ORDER BY id) FROM sub WHERE id < 3", 'a0 source again');
		equal("force $force: and what came after", 'sub');
		# What it brings may be older than what it overwrites. It is written here now.
		$base += 2000;    # past all stamps: none would be written down but for the foreign origin
		$lab->clock_step($_, $base) for @regions;
		$lab->wait_for('us', 'SELECT mrsync.current_hlc()::timestamptz <= clock_timestamp()');
		$lab->sql('us', 'ALTER SUBSCRIPTION s DISABLE');
		$lab->wait_for('us', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'sub_$force' AND active", 0);
		$lab->sql('us', "UPDATE sub SET v = 'older' WHERE id = 3", db => 'source');
		$lab->sql('us', "UPDATE sub SET v = 'newer' WHERE id = 3");
		$lab->drain('us');
		my $newer = stamp('us', 3, 'sub');
		$lab->sql('us', 'ALTER SUBSCRIPTION s ENABLE');
		$lab->wait_for('us', 'SELECT v FROM sub WHERE id = 3', 'older');
		cmp_ok stamp('us', 3, 'sub'), 'gt', $newer, 'what comes late is stamped above what it overwrites';
		equal("force $force: a subscription that comes late", 'sub');
		is $lab->sql('a_b', 'SELECT v FROM sub WHERE id = 3'), 'older', 'and wins everywhere';
		$lab->sql('us', "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s; DELETE FROM sub");
		$lab->wait_for('us', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'sub_$force' AND active", 0);
		$lab->sql('us', "SELECT pg_drop_replication_slot('sub_$force')");
		$lab->sql('us', 'DROP DATABASE source', db => 'postgres');
	}

	# The extractor starts again and again, in the middle of the WAL of a transaction with an override.
	if ($lab->part('an extractor'))
	{
		my ($from) = ids(2000);
		ahead(600);
		my $end = sub { terminate($lab, 'us', worker_pid($lab, 'us', 'extractor')) };
		my $session = $lab->session('us');
		$session->sql('BEGIN');
		for my $part (0 .. 4)
		{
			my $first = $from + 400 * $part;
			$session->sql("SAVEPOINT s$part; INSERT INTO note SELECT i, repeat('x', 500) FROM generate_series($first, $first + 399) i; RELEASE s$part");
			$lab->sql('us', 'CHECKPOINT') if $part == 2;
			$end->();
		}
		$session->sql('COMMIT');
		$session->close;
		for (1 .. 3)
		{
			$end->();
			$lab->wait_for('us', "SELECT running FROM mrsync.worker_stat() WHERE kind = 'extractor'");
		}
		my $stamp = stamp('us', $from);
		cmp_ok $stamp, 'gt', $lab->sql('us', "SELECT pg_xact_commit_timestamp(xmin)::mrsync.hlc FROM note WHERE id = $from"), 'a transaction whose commit timestamp is not its stamp';
		equal("force $force: an extractor that starts again in the middle");
		is $lab->sql('a_b', "SELECT count(*), count(DISTINCT hlc), min(hlc::text) FROM note, mrsync.row_version(tableoid, ctid, xmin) WHERE id >= $from AND id < $from + 2000"), "2000|1|$stamp", 'all its rows are sent with its stamp';
		$lab->sql('us', "DELETE FROM note WHERE id >= $from");
		$lab->drain;
	}

	$base += 2000;
	$lab->clock_step($_, $base) for @regions;
}
$lab->everywhere('ALTER SYSTEM RESET mrsync.force_override; SELECT pg_reload_conf()');
$lab->wait_for($_, 'SHOW mrsync.force_override', 'off') for @regions;

# A subscription with two_phase cannot be stamped, and says so.
if ($lab->part('two_phase'))
{
	my $port = $lab->port('us');
	$lab->sql('us', 'CREATE DATABASE source');
	$lab->sql('us', "CREATE TABLE sub (id integer PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE sub; SELECT pg_create_logical_replication_slot('sub_two', 'pgoutput', false, true)", db => 'source');
	$lab->sql('us', "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=$port user=postgres dbname=source' PUBLICATION p WITH (create_slot = false, slot_name = 'sub_two', copy_data = false, two_phase = true)");
	$lab->wait_for('us', "SELECT subtwophasestate FROM pg_subscription", 'e');
	$lab->sql('us', "BEGIN; INSERT INTO sub VALUES (1, 'two'); PREPARE TRANSACTION 'theirs'", db => 'source');
	$lab->wait_until('the refusal in the log', sub { open my $log, '<', $lab->server_log('us') or die; grep { /ERROR:  a transaction of another replication origin cannot be prepared/ } <$log> });
	pass('a subscription with two_phase is refused, with a reason in the log');
	$lab->sql('us', "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s");
	$lab->sql('us', "COMMIT PREPARED 'theirs'", db => 'source');
	$lab->wait_for('us', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'sub_two' AND active", 0);
	$lab->sql('us', "SELECT pg_drop_replication_slot('sub_two')");
	$lab->sql('us', 'DROP DATABASE source', db => 'postgres');
	is $lab->sql('us', 'SELECT count(*) FROM sub'), 0, 'and nothing of it is written';
}

# ---------------------------------------------------------------------------------------------------------------------
# The clock of us steps back by ten minutes while a session commits, after each of its readings in turn: in one of these
# commits that is between the stamp and the commit record.
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('steps back'))
{
	my ($row, $nested) = ids(2);
	$lab->sql('us', "INSERT INTO note VALUES ($row, 'seed'), ($nested, 'seed')");
	see('a0', $nested, 'seed');
	my $session = $lab->session('us');
	my $pid = $session->sql('SELECT pg_backend_pid()');
	my $late = 0;
	for my $two_phase (0, 1)
	{
		my $steps = 0;
		my $late_before = $late;
		for my $reads (1 .. 40)
		{
			# true time, and past all stamps: an ordinary commit
			$lab->clock_step('us', $base);
			$lab->wait_for('us', 'SELECT mrsync.current_hlc()::timestamptz <= clock_timestamp()');
			$lab->sql('a0', "UPDATE note SET v = 'seen' WHERE id IN ($row, $nested)");
			see('us', $nested, 'seen');
			my $before = stamp('us', $row);
			$session->sql("BEGIN; UPDATE note SET v = '$two_phase $reads' WHERE id = $row; SAVEPOINT a; UPDATE note SET v = '$two_phase $reads' WHERE id = $nested; RELEASE a");
			$session->sql("PREPARE TRANSACTION 'step'") if $two_phase;
			$lab->clock_step('us', $base - 600, $pid, $reads);
			$session->send($two_phase ? "COMMIT PREPARED 'step'" : 'COMMIT');
			my $stepped = 0;
			$lab->wait_until('the commit', sub
			{
				my $done = !$session->busy;
				# before it had read the time it would wait ten minutes now
				my $waits = !$done && $lab->sql('us', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'Extension';
				$stepped ||= $lab->clock_shift('us') != $base;
				$lab->clock_step('us', $base) if $waits;
				return $done;
			});
			unlike $session->result, qr/ERROR/, 'no error';
			my ($stamp, $timestamp) = split /\|/, $lab->sql('us', "SELECT hlc, pg_xact_commit_timestamp(n.xmin)::mrsync.hlc FROM note n, mrsync.row_version(tableoid, ctid, n.xmin) WHERE id = $row");
			cmp_ok $stamp, 'gt', $before, ($two_phase ? 'COMMIT PREPARED' : 'COMMIT') . ", a step back after $reads readings: the stamp is above what it overwrote";
			is stamp('us', $nested), $stamp, 'for the subtransaction, too';
			$late++ if $timestamp lt $before;
			see($_, $nested, "$two_phase $reads") for @regions;    # it is not sent before the coordinator has written its stamp down
			my $mine = $lab->sql('us', "SELECT (SELECT o.xmin::text = (o.xid::xid)::text FROM mrsync.hlc_override o WHERE o.xid::xid = n.xmin) FROM note n WHERE id = $row");
			is $mine, $timestamp lt $before ? 'f' : '', 'where the commit timestamp is not, the stamp was written down after the commit' if $mine ne 't';
			my $version = version('us', $row);
			is version($_, $row), $version, "the same version in $_" for qw(a_b a0);
			$lab->clock_step('us', $base);    # also where it did not get so far
			last if !$stepped;
			$steps++;
		}
		cmp_ok $steps, '>=', 3, "$steps places for a step back";
		cmp_ok $late - $late_before, '>=', 1, 'of these one between stamp and commit record';
	}
	$session->close;
	equal('steps back within a commit');
}

# ---------------------------------------------------------------------------------------------------------------------
# Load on hot rows in all regions, while the clock of one goes back and forth; restarts and crashes with it shifted
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('load'))
{
	$lab->sql('us', "INSERT INTO hot SELECT i, 0, 'seed' FROM generate_series(1, 8) i");
	$lab->drain;
	my @load = map
	{
		my $region = $_;
		Mrsync::Load->start($lab, $region, clients => 3, rate => 60, scripts => [
			[ "\\set id random(1, 8)\nUPDATE hot SET n = n + 1, v = '$region' WHERE id = :id;", 6 ],
			[ "\\set id random(1, 8)\nBEGIN;\nUPDATE hot SET n = n + 1, v = '$region' WHERE id = :id;\nSAVEPOINT a;\nUPDATE hot SET n = n + 1 WHERE id = :id % 8 + 1;\nCOMMIT;", 2 ],
			[ "\\set id random(1, 8)\nDELETE FROM hot WHERE id = :id;", 1 ],
			[ "\\set id random(1, 8)\nINSERT INTO hot VALUES (:id, 0, '$region') ON CONFLICT DO NOTHING;", 2 ],
		])
	} @regions;
	my $written = sub { $lab->sql('us', 'SELECT transactions FROM mrsync.worker_stat() WHERE kind = \'extractor\'') };
	for my $round (1 .. 15)
	{
		my $from = $written->();
		$lab->clock_step('us', $base + ($round % 2 ? -600 : 0));
		$lab->clock_step('a0', $base + ($round % 3 ? 0 : 300));
		$lab->wait_until('some load', sub { $written->() > $from + 5 || $written->() < $from });
	}
	$lab->clock_step('us', $base - 600);
	$lab->clock_step('a0', $base);
	my $before = hlc('us');
	$lab->kill9('us');
	$lab->start('us');
	cmp_ok hlc('us'), 'gt', $before, 'kill -9 under load with the clock ten minutes back: the clock goes on above';
	$lab->wait_until('load after the crash', sub { $lab->sql('us', "SELECT coalesce(bool_or(v = 'us'), false) FROM hot") eq 't' });
	$lab->stop('us');
	$lab->clock_step('us', $base - 1200);
	$lab->start('us');
	cmp_ok hlc('us'), 'gt', $before, 'a restart with the clock ten minutes further back, too';
	$lab->clock_step('us', $base);
	$lab->wait_until('load after the restart', sub { $lab->sql('us', "SELECT coalesce(bool_or(v = 'us'), false) FROM hot") eq 't' });
	$_->finish for @load;
	equal('load on hot rows with a clock that goes back and forth', 'hot');
	$lab->healthy;
}
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
