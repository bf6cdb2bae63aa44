# What can happen to a table with merge rules besides writes: rules that become active under load, partitions that go and come back, a
# column of another type, rows whose versions are lost. Late events are merged as if nothing had been.
#
# Proves I1 and I3 there. A late event: links are paused; or a region has written a row of `gate` before it, at which the applier waits
# until the test opens.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid log_trouble);

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions, settings => { 'mrsync.apply_error_retry_interval' => '1s', autovacuum => 'off' });
sub sql { my ($region, $sql, %options) = @_; return $lab->sql($region, $sql, %options) }
sub us { return sql('us', @_) }
sub rule
{
	my ($table, $function, $column) = @_;
	return us('SELECT mrsync.' . ($function =~ /\(/ ? 'merge_function_register' : 'merge_strategy_set') . "('$table', '$function'" . ($column ? ", '$column')" : ')'));
}
sub active
{
	my ($id) = @_;
	$lab->wait_for($_, "SELECT count(*) FROM mrsync.merge_definition WHERE definition_id = '$id' AND activation IS NOT NULL", 1) for @regions;
	return $id;
}
sub forgotten { $lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_history', 0) for @regions }
sub stamp { my ($region, $table, $id) = @_; return sql($region, "SELECT (mrsync.row_version(tableoid, ctid, xmin)).hlc FROM $table WHERE id = $id") }

my $counter = 'mrsync.merge_counter(bigint, bigint, bigint)';
$lab->tables(<<'SQL', qw(hot item other part gate retyped));
CREATE TABLE hot (id integer PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE item (id integer PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE other (id integer PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE part (id integer PRIMARY KEY, n bigint NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200);
CREATE TABLE gate (number integer PRIMARY KEY);
CREATE TABLE retyped (id integer PRIMARY KEY, n integer, m integer, t text);
SQL
$lab->everywhere(<<'SQL');
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_advisory_xact_lock_shared(NEW.number);
	RETURN NULL;
END $$;
CREATE TRIGGER shut AFTER INSERT ON gate FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
ALTER TABLE gate ENABLE REPLICA TRIGGER shut;
SQL
my $number = 0;
sub gates    # that appliers of a region find shut
{
	my ($region, $count) = @_;
	my @numbers = map { ++$number } 1 .. $count;
	my $holder = $lab->session($region);
	$holder->sql("SELECT pg_advisory_lock($_)") for @numbers;
	return ($holder, @numbers);
}
sub at_gate { my ($region, $gate) = @_; $lab->wait_for($region, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $gate AND NOT granted", 1) }
sub open_gate { my ($holder, $gate) = @_; $holder->sql("SELECT pg_advisory_unlock($gate)") }

# ---------------------------------------------------------------------------------------------------------------------
# Rules under load
# ---------------------------------------------------------------------------------------------------------------------
# What users write is written down, and folded by the test: each event by the rule that is active at its stamp.
if ($lab->part('load'))
{
	$lab->everywhere(<<'SQL');
CREATE TABLE journal (entry bigint GENERATED ALWAYS AS IDENTITY, id integer, xid xid8 DEFAULT pg_current_xact_id(), before bigint, after bigint);
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO journal (id, before, after) VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.n END, NEW.n);
	RETURN NULL;
END $$;
CREATE TRIGGER write_down AFTER INSERT OR UPDATE ON hot FOR EACH ROW EXECUTE FUNCTION write_down();
SQL
	us('CREATE FUNCTION odd(ancestor bigint, a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN (3 * a - 2 * ancestor + b) % 1000');
	us('INSERT INTO hot SELECT i, 0 FROM generate_series(1, 5) i');
	$lab->drain;
	$lab->pause('eu>ap');    # it has all of that late; and until then no stamp is forgotten anywhere
	my @loads = map { Mrsync::Load->start($lab, $_, clients => 2, rate => 60, scripts => ["\\set k random(1, 5)\nUPDATE hot SET n = n + 1 WHERE id = :k;\n"]) } @regions;
	my @rules = (['', 0]);
	for my $function ($counter, 'public.odd(bigint, bigint, bigint)', 'last_writer_wins', $counter)
	{
		for my $region (@regions)
		{
			my $count = sql($region, 'SELECT count(*) FROM journal');
			$lab->wait_for($region, "SELECT count(*) > $count + 50 FROM journal");
		}
		my $id = active(rule('hot', $function, 'n'));
		push @rules, [ $function, us("SELECT activation::bigint FROM mrsync.merge_definition WHERE definition_id = '$id'") ];
	}
	for my $region (@regions)
	{
		my $count = sql($region, 'SELECT count(*) FROM journal');
		$lab->wait_for($region, "SELECT count(*) > $count + 50 FROM journal");
	}
	$_->finish for @loads;
	like $_->errors, qr/\A(?:(?!ERROR).)*\z/s, "no error in $_->{region}" for @loads;
	my @events;    # [stamp, region, entry, id, before, after]
	for my $region (@regions)
	{
		push @events, map { my ($stamp, @rest) = split /\|/, $_, -1; [ $stamp, $region, @rest ] } split /\n/, sql($region, 'SELECT coalesce(o.hlc, pg_xact_commit_timestamp(xid::xid)::mrsync.hlc)::bigint, entry, id, before, after FROM journal LEFT JOIN mrsync.hlc_override o USING (xid)');
	}
	my (%row, %merged);
	for (sort { $a->[0] <=> $b->[0] || $a->[1] cmp $b->[1] || $a->[2] <=> $b->[2] } @events)
	{
		my ($stamp, undef, undef, $id, $before, $after) = @$_;
		my ($function) = map { $_->[0] } grep { $_->[1] <= $stamp } reverse @rules;
		my $state = $row{$id};
		$merged{$function}++ if $before ne '' && $before != $state;
		$row{$id} = $before eq '' || $before == $state || $function !~ /\(/ || $before == $after ? $after
			: $function eq $counter ? $state + $after - $before : do { use integer; (3 * $state - 2 * $before + $after) % 1000 };
	}
	cmp_ok $merged{$_->[0]} // 0, '>', 0, 'there were conflicts under ' . ($_->[0] || 'no rule') . ': ' . ($merged{$_->[0]} // 0) for @rules;
	$lab->resume('eu>ap');
	$lab->drain;
	my $folded = "SELECT count(*) FROM mrsync.merge_definition d WHERE activation IS NOT NULL AND NOT EXISTS (SELECT FROM mrsync.merge_folded f WHERE f.id = d.definition_id)";
	$lab->wait_for($_, $folded, 0) for @regions;
	is $lab->same('SELECT id, n FROM hot ORDER BY id', 'rules that become active under load: equal'), join("\n", map { "$_|$row{$_}" } sort { $a <=> $b } keys %row), 'each event by the rule of its stamp';
	$lab->conflicts_told;
	$lab->same($Mrsync::Lab::CONFLICTS, 'the logs of conflicts are equal');
	forgotten();
}

# A region hears of a rule while an applier is in the middle of a transaction, by the former one: what that writes afterwards is folded
# anew, too. What comes first is a matter of moments; so ap holds the rule up, and eu's coordinator stands still.
if ($lab->part('in the middle'))
{
	us("INSERT INTO item SELECT i, 100 FROM generate_series(1, 2) i; INSERT INTO other VALUES (1, 100)");
	$lab->drain;
	us('CREATE FUNCTION plus(ancestor bigint, a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN a + b - ancestor');
	sql('ap', 'CREATE FUNCTION plus(ancestor bigint, a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 0');
	my ($late, $sentinel) = map { rule($_, 'public.plus(bigint, bigint, bigint)', 'n') } qw(item other);
	for my $id ($late, $sentinel)
	{
		$lab->wait_for('us', "SELECT acknowledged_by FROM mrsync.merge_function WHERE definition_id = '$id'", '{eu,us}');
	}
	my $still = $lab->session('eu');    # its coordinator cannot write down what it hears
	$still->sql('BEGIN; LOCK TABLE mrsync.control_position IN ACCESS EXCLUSIVE MODE');
	sql('ap', 'DROP FUNCTION plus');
	$lab->wait_for('us', "SELECT count(*) FROM mrsync.merge_definition WHERE activation IS NOT NULL AND definition_id = '$_'", 1) for $late, $sentinel;
	my ($holder, $gate) = gates('eu', 1);
	$lab->pause('eu>ap', 'us>ap');
	sql('eu', 'UPDATE item SET n = n + 1');
	sql('ap', "BEGIN; UPDATE item SET n = n + 10 WHERE id = 1; INSERT INTO gate VALUES ($gate); UPDATE item SET n = n + 10 WHERE id = 2; COMMIT");
	at_gate('eu', $gate);
	is sql('eu', "SELECT count(*) FROM mrsync.merge_definition WHERE activation IS NOT NULL AND definition_id IN ('$late', '$sentinel')"), 0, 'eu has not heard of the rule, and an applier is in the middle of a transaction stamped above it';
	$still->sql('COMMIT');
	$still->close;
	$lab->wait_for('eu', "SELECT count(*) FROM mrsync.merge_folded WHERE id = '$sentinel'", 1);
	is sql('eu', "SELECT count(*) FROM mrsync.merge_folded WHERE id = '$late'"), 0, 'it has, and waits for that applier';
	open_gate($holder, $gate);
	$lab->wait_for('eu', "SELECT count(*) FROM mrsync.merge_folded WHERE id = '$late'", 1);
	$lab->resume('eu>ap', 'us>ap');
	$lab->drain;
	is $lab->same('SELECT id, n FROM item ORDER BY id', 'a rule that is heard of in the middle of a transaction: equal'), "1|111\n2|111", 'all its writes go by that rule';
	$holder->close;
	forgotten();
}

# ---------------------------------------------------------------------------------------------------------------------
# Partitions
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('partitions'))
{
	active(rule('part', $counter, 'n'));
	us('INSERT INTO part SELECT i, 100 FROM generate_series(1, 3) i; INSERT INTO part SELECT i, 100 FROM generate_series(101, 103) i');
	$lab->drain;
	forgotten();

	# Detached, and attached again. Older events on its rows may be forgotten meanwhile; what is newer has to be known when a late event
	# comes. So that the older ones are there still, their rows are being written.
	$lab->pause('eu>us');
	us('UPDATE part SET n = n + 1 WHERE id IN (1, 101)');
	my $older = stamp('us', 'part', 101);
	my $writer = $lab->session('us');
	$writer->sql('BEGIN; UPDATE part SET n = n + 1000 WHERE id IN (1, 101)');
	$lab->resume('eu>us');
	$lab->wait_for('us', "SELECT pruned_up_to OPERATOR(mrsync.>=) '$older' FROM mrsync.pruning");
	my $entries = "SELECT count(*) FROM mrsync.row_history WHERE row_pk ->> 'id' = '%d'";
	is us(sprintf $entries, 101), 2, 'a history that is being written is not forgotten';
	$lab->pause('ap>us');
	sql('ap', 'UPDATE part SET n = n + 10 WHERE id IN (1, 101)');
	$writer->sql('ALTER TABLE part DETACH PARTITION part_2; COMMIT');
	$writer->close;
	$lab->pause('eu>us');
	$lab->resume('eu>us');    # an applier that looks at all histories
	$lab->wait_for('us', sprintf($entries, 1), 2);
	us('ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (200)');
	$lab->resume('ap>us');
	$lab->drain;
	is $lab->same('SELECT id, n FROM part WHERE id IN (1, 101) ORDER BY id', 'a partition that was detached for a while: equal'), "1|1111\n101|1111", 'a late event is merged';

	# An event that comes while it is detached waits until it is back.
	$lab->pause('eu>us');
	us('UPDATE part SET n = n + 1 WHERE id = 101');
	sql('eu', 'UPDATE part SET n = n + 10 WHERE id = 101; UPDATE part SET n = n + 10 WHERE id = 1');
	us('UPDATE part SET n = n + 1000 WHERE id = 101');
	us('ALTER TABLE part DETACH PARTITION part_2');
	$lab->resume('eu>us');
	$lab->wait_for('us', 'SELECT n FROM part WHERE id = 1', 1121);
	is us('SELECT sqlstate, row_pk FROM mrsync.apply_error'), '23514|{"id": "101"}', 'an event on a row of a partition that is not there is parked';
	us('ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (200)');
	$lab->wait_for('us', 'SELECT count(*) FROM mrsync.apply_error', 0);
	$lab->drain;
	is $lab->same('SELECT id, n FROM part WHERE id = 101', 'and when that is back: equal'), '101|2122', 'it is merged';

	# Dropped in every region, while an event is late
	$lab->pause('eu>us');
	us('UPDATE part SET n = n + 1');
	sql('eu', 'UPDATE part SET n = n + 10');
	$lab->wait_for($_, 'SELECT n FROM part WHERE id = 3', 111) for qw(eu ap);    # what comes after the DROP there would be parked, too
	$lab->everywhere('DROP TABLE part_2');
	$lab->resume('eu>us');
	$lab->wait_for('us', 'SELECT count(*) FROM mrsync.apply_error', 3);
	us('SELECT mrsync.apply_error_discard(error_id) FROM mrsync.apply_error');
	$lab->drain;
	is $lab->same('SELECT id, n FROM part ORDER BY id', 'a partition that was dropped: the others are equal'), "1|1132\n2|111\n3|111", 'with what is merged';
	forgotten();
	pass('what was known of its rows is forgotten');
}

# ---------------------------------------------------------------------------------------------------------------------
# A column of another type
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('another type'))
{
	us('CREATE FUNCTION least_of(ancestor integer, a integer, b integer) RETURNS integer LANGUAGE sql IMMUTABLE RETURN least(a, b)');
	active(rule('retyped', 'mrsync.merge_counter(integer, integer, integer)', 'n'));
	active(rule('retyped', 'public.least_of(integer, integer, integer)', 'm'));
	us("INSERT INTO retyped SELECT i, 2000000000, 50, 't' FROM generate_series(1, 3) i");
	$lab->drain;
	# histories from before are still there, and what is written next is more than the former type has taken
	$lab->pause;
	us('UPDATE retyped SET n = n + 1, m = 40 WHERE id = 1');
	sql('eu', 'UPDATE retyped SET n = n + 10, m = 45 WHERE id = 1');
	$lab->deliver(map { [$_] } shuffle($lab->links));
	$lab->drain;
	$lab->everywhere('ALTER TABLE retyped ALTER n TYPE bigint');
	for my $round (1, 2)
	{
		$lab->pause;
		us('UPDATE retyped SET n = n + 1000000000');
		sql('eu', 'UPDATE retyped SET n = n + 2000000000');
		sql('ap', 'UPDATE retyped SET n = n + 4000000000; UPDATE retyped SET n = n - 1');
		$lab->deliver(map { [$_] } shuffle($lab->links));
		$lab->drain;
	}
	is $lab->same('SELECT id, n, m FROM retyped ORDER BY id', 'a counter of another type: equal'), "1|16000000009|40\n2|15999999998|50\n3|15999999998|50", 'it counts on, beyond its former limits';
	# a function of a user's, which there has to be for the other type, too
	$lab->everywhere('ALTER TABLE retyped ALTER m TYPE numeric');
	$lab->pause;
	us('UPDATE retyped SET m = 30 WHERE id = 2');
	sql('eu', 'UPDATE retyped SET m = 20.5 WHERE id = 2');
	$lab->resume;
	$lab->wait_for($_, "SELECT sqlstate FROM mrsync.apply_error", '42883') for qw(us eu ap);
	pass('without a function for the new type its merges are parked');
	$lab->everywhere('CREATE FUNCTION least_of(ancestor numeric, a numeric, b numeric) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN least(a, b)');
	$lab->wait_for($_, 'SELECT count(*) FROM mrsync.apply_error', 0) for @regions;
	$lab->drain;
	is $lab->same('SELECT id, m FROM retyped WHERE id = 2', 'when it is there they go by themselves: equal'), '2|20.5', 'to what it says';
	$lab->conflicts_told;
	$lab->same($Mrsync::Lab::CONFLICTS, 'the logs of conflicts are equal');
	forgotten();
}

# ---------------------------------------------------------------------------------------------------------------------
# Versions that are lost
# ---------------------------------------------------------------------------------------------------------------------
if ($lab->part('lost for good'))
{
	active(rule('item', $counter, 'n'));
	us('INSERT INTO item VALUES (11, 0), (12, 0), (13, 0)');
	$lab->drain;
	forgotten();
	$lab->pause('eu>us', 'us>eu');
	$lab->wait_for('us', 'SELECT mrsync.current_hlc()::timestamptz <= clock_timestamp()');    # no stamp is written down
	sql('eu', 'UPDATE item SET n = n + 10 WHERE id IN (11, 12)');
	us('UPDATE item SET n = n + 1 WHERE id IN (11, 12, 13)');
	my $xmin = us('SELECT xmin FROM item WHERE id = 11');
	my $theirs = stamp('eu', 'item', 11);
	$lab->wait_for('us', "SELECT mrsync.max(hlc) > '$theirs' AND max(xid::text::bigint) > $xmin FROM mrsync.horizon");
	sql('eu', 'UPDATE item SET n = n + 10 WHERE id = 13');    # above what can be unknown
	for my $on ('off', 'on')
	{
		us("ALTER SYSTEM SET track_commit_timestamp = $on");
		$lab->stop('us');
		$lab->start('us');
	}
	is us('SELECT pg_xact_commit_timestamp(xmin) IS NULL FROM item WHERE id = 11'), 't', 'the commit timestamp is gone';
	$lab->resume('eu>us', 'us>eu');
	$lab->wait_for('us', 'SELECT n FROM item WHERE id = 13', 11);
	pass('an event above what can be unknown is merged');
	is us(q(SELECT string_agg(row_pk ->> 'id', ' ' ORDER BY error_id) FROM mrsync.apply_error WHERE sqlstate = '55000')), '11 12', 'one that may be older is parked';
	is us('SELECT string_agg(n::text, \' \' ORDER BY id) FROM item WHERE id IN (11, 12)'), '1 1', 'and not guessed about';
	like us('SELECT hint FROM mrsync.apply_error ORDER BY error_id LIMIT 1'), qr/^Delete the row and insert it again, in one transaction/, 'and it says what to do';
	us('BEGIN; DELETE FROM item WHERE id = 11; INSERT INTO item VALUES (11, 11); COMMIT');
	sql('ap', 'BEGIN; DELETE FROM item WHERE id = 12; INSERT INTO item VALUES (12, 11); COMMIT');
	$lab->wait_for('us', 'SELECT count(*) FROM mrsync.apply_error', 0);
	$lab->drain;
	is $lab->same('SELECT id, n FROM item WHERE id > 10 ORDER BY id', 'then it goes by itself: equal'), "11|11\n12|11\n13|11", 'to that';
	# Once all regions are past it, all goes on.
	forgotten();
	pass('what was unknown is forgotten');
	$lab->pause;
	sql($_, 'UPDATE item SET n = n + 1 WHERE id > 10') for @regions;
	$lab->deliver(map { [$_] } shuffle($lab->links));
	$lab->drain;
	is $lab->same('SELECT id, n FROM item WHERE id > 10 ORDER BY id', 'and goes on: equal'), "11|14\n12|14\n13|14", 'as ever';
	forgotten();
}
$lab->healthy;
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
