# Everything at once, in an order that nobody thought of: three regions write the same few rows, while links are paused, regions
# stop, die, come back with other clocks or as they were at a base backup, workers and the broker are killed, stamps begin to be
# written down, events are parked and retried, tables are rewritten, transactions are prepared and committed later, slots and heads
# of topics are lost and what they had held is sent again, merge functions are replaced by others. At the end the rows are what the
# history of writes says.
#
# Proves the theorem of the whole: a row's state in every region is the fold of all its events in the order of their stamps,
# whatever the arrival order, the duplicates, the crashes and the pauses. The test does not ask mrsync what is right. Each
# transaction of the load also notes in a journal what it does; the journal is replicated with it, and the stamp of a journal's
# row, read in a region that received it, is the stamp of its transaction. The test folds that itself.
#
# MRSYNC_TEST_SEED=n repeats the choices of a run (not the machine's timing); MRSYNC_TEST_SECONDS=n: it lasts so long.
use strict;
use warnings;
use Cwd qw(abs_path);
use Digest::MD5 qw(md5_hex);
use File::Basename qw(dirname);
use List::Util qw(uniq);
use Test::More;
use Time::HiRes qw(sleep time);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state kill9 terminate ask log_trouble);

my $lab = Mrsync::Lab->up(own_broker => 1, needs_kafka => 'the mock broker loses its data when it is killed',
	settings => { max_prepared_transactions => 20, 'mrsync.merge_function_timeout' => '60s' });
my $seed = $ENV{MRSYNC_TEST_SEED} // int rand 1e9;
srand $seed;
diag("MRSYNC_TEST_SEED=$seed");
my $seconds = $ENV{MRSYNC_TEST_SECONDS} // 120;
my @regions = $lab->regions;
my $group = $lab->state('group');
my $kafkactl = dirname(abs_path(__FILE__)) . '/../../build/kafkactl';

# ---------------------------------------------------------------------------------------------------------------------
# What is written, and how it is noted
# ---------------------------------------------------------------------------------------------------------------------
my @tables = qw(plain parted named);
my $functions = 9;    # for merged.v, each another one
$lab->tables(<<'SQL', @tables, 'merged', 'journal');
CREATE TABLE plain (id integer PRIMARY KEY, v text);
CREATE TABLE parted (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (8);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (8) TO (MAXVALUE);
CREATE TABLE named (id integer PRIMARY KEY, v text UNIQUE);
CREATE TABLE merged (id integer PRIMARY KEY, n bigint NOT NULL, v text NOT NULL);
CREATE TABLE journal (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), region text NOT NULL, n bigint NOT NULL, what text NOT NULL, key integer, value text, before text);
CREATE SEQUENCE journal_n;
SQL
for my $region (@regions)
{
	# key NULL: all rows; value NULL: the row is gone. What has no effect is not noted. Of `merged` also what the row was before.
	$lab->sql($region, <<SQL);
CREATE FUNCTION note(what text, key integer, value text, before text DEFAULT NULL) RETURNS void BEGIN ATOMIC
	INSERT INTO journal (region, n, what, key, value, before) VALUES ('$region', nextval('journal_n'), what, key, value, before);
END;
CREATE FUNCTION act(what text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	k integer := 1 + floor(random() * 14);
	other integer := 1 + floor(random() * 14);
	chance float8 := random();
	v text := '$region ' || nextval('journal_n');
	old text;
	rows integer;
BEGIN
	IF what = 'named' THEN
		v := 'name ' || floor(random() * 6);
	END IF;
	IF chance < 0.35 THEN
		EXECUTE format('INSERT INTO %I VALUES (\$1, \$2) ON CONFLICT (id) DO UPDATE SET v = excluded.v', what) USING k, v;
		PERFORM note(what, k, v);
	ELSIF chance < 0.6 THEN
		EXECUTE format('UPDATE %I SET v = \$2 WHERE id = \$1', what) USING k, v;
		GET DIAGNOSTICS rows = ROW_COUNT;
		IF rows > 0 THEN PERFORM note(what, k, v); END IF;
	ELSIF chance < 0.75 THEN
		EXECUTE format('DELETE FROM %I WHERE id = \$1', what) USING k;
		GET DIAGNOSTICS rows = ROW_COUNT;
		IF rows > 0 THEN PERFORM note(what, k, NULL); END IF;
	ELSIF chance < 0.85 THEN
		EXECUTE format('UPDATE %I SET id = \$2 WHERE id = \$1 AND id <> \$2 RETURNING v', what) INTO old USING k, other;
		IF old IS NOT NULL THEN
			PERFORM note(what, k, NULL);
			PERFORM note(what, other, old);
		END IF;
	ELSIF chance < 0.995 THEN
		EXECUTE format('DELETE FROM %I WHERE id = \$1', what) USING k;
		GET DIAGNOSTICS rows = ROW_COUNT;
		IF rows > 0 THEN PERFORM note(what, k, NULL); END IF;
		EXECUTE format('INSERT INTO %I VALUES (\$1, \$2)', what) USING k, v;
		PERFORM note(what, k, v);
	ELSE
		EXECUTE format('TRUNCATE %I', what);
		PERFORM note(what, NULL, NULL);
	END IF;
EXCEPTION WHEN unique_violation THEN
	NULL;
END \$\$;
CREATE FUNCTION act_merged() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	k integer := 1 + floor(random() * 6);
	chance float8 := random();
	old text;
	new text;
BEGIN
	SELECT m.n || ' ' || m.v INTO old FROM merged m WHERE id = k FOR UPDATE;
	IF old IS NULL THEN
		INSERT INTO merged (id, n, v) VALUES (k, 1 + floor(random() * 9), '$region' || nextval('journal_n')) RETURNING n || ' ' || v INTO new;
	ELSIF chance < 0.02 THEN
		DELETE FROM merged WHERE id = k;
	ELSIF chance < 0.03 THEN
		TRUNCATE merged;
		k := NULL;
	ELSIF chance < 0.6 THEN
		UPDATE merged SET n = n + 1 + floor(random() * 9) WHERE id = k RETURNING n || ' ' || v INTO new;
	ELSIF chance < 0.9 THEN
		UPDATE merged SET v = '$region' || nextval('journal_n') WHERE id = k RETURNING n || ' ' || v INTO new;
	ELSE
		UPDATE merged SET n = n - 5, v = '$region' || nextval('journal_n') WHERE id = k RETURNING n || ' ' || v INTO new;
	END IF;
	PERFORM note('merged', k, new, old);
EXCEPTION WHEN unique_violation THEN
	NULL;
END \$\$;
SQL
	# which of the three values came first shows in the result, and whose function it was
	$lab->sql($region, "CREATE FUNCTION told_$_(ancestor text, a text, b text) RETURNS text LANGUAGE sql IMMUTABLE RETURN md5('$_' || coalesce(ancestor, 'none') || a || b)") for 1 .. $functions;
}
$lab->drain;
for ("'merged', 'mrsync.merge_counter(bigint, bigint, bigint)', 'n'", "'merged', 'public.told_1(text, text, text)', 'v'")
{
	my $id = $lab->sql('us', "SELECT mrsync.merge_function_register($_)");
	$lab->sql('us', "SELECT mrsync.merge_function_wait('$id', '120 s')");
}
my $told = 1;

my @loads = map
{
	my $region = $_;
	Mrsync::Load->start($lab, $region, clients => 3, rate => 30, scripts => [
		(map { [ "SELECT act('$_');\n", 3 ] } @tables),
		[ "SELECT act_merged();\n", 4 ],
		[ "BEGIN;\nSELECT act_merged();\nSELECT act_merged();\nCOMMIT;\n", 1 ],
		[ "BEGIN;\nSELECT act('plain');\nSELECT act('plain');\nSELECT act('named');\nCOMMIT;\n", 2 ],
		[ "\\set gid random(1, 1000000000)\nBEGIN;\nSELECT act('plain');\nSELECT act('parted');\nPREPARE TRANSACTION ':gid';\nCOMMIT PREPARED ':gid';\n", 1 ],
		[ "BEGIN;\nSAVEPOINT a;\nSELECT act('parted');\nROLLBACK TO a;\nSELECT act('plain');\nCOMMIT;\n", 1 ],
	]);
} @regions;
sub written { my ($region) = @_; return ask($lab, $region, "SELECT count(*) FROM journal WHERE region = '$region'") // 0 }
$lab->wait_until("the load to run in $_", sub { written($_) > 20 }) for @regions;

# ---------------------------------------------------------------------------------------------------------------------
# What happens meanwhile
# ---------------------------------------------------------------------------------------------------------------------
sub any { return $_[ rand @_ ] }
# a region goes back to nothing that is older than the topics
my $sets_back = int rand 2;
my (%paused, %forbids, %lost, %backup, %restored, %happened, @looks);
sub kafkactl
{
	my $said = `$kafkactl @{[ $lab->broker ]} @_`;
	die "kafkactl @_ has failed" if $?;
	return $said;
}
sub worker
{
	my ($kind) = @_;
	my $region = any(@regions);
	my $peer = $kind eq 'applier' ? any(map { /^(.*)>$region$/ && !$paused{$_} ? $1 : () } $lab->links) : undef;
	return ($region) if $kind eq 'applier' && !$peer;
	my $pid;
	$lab->wait_until("an $kind in $region", sub { $pid = worker_pid($lab, $region, $kind, $peer) });
	return ($region, $pid);
}
my %event = (
	'a link is paused' => sub { my $link = any($lab->links); $paused{$link} = 1; $lab->pause($link) },
	'links are resumed' => sub { $lab->resume($_) for keys %paused; %paused = () },
	'a worker is killed' => sub { kill9($lab, worker(any('extractor', 'applier'))) },
	'a worker is ended' => sub { terminate($lab, worker(any('extractor', 'applier'))) },
	'a region dies' => sub { my $region = any(@regions); $lab->kill9($region); sleep rand 2; $lab->start($region) },
	'a region is away' => sub { my $region = any(@regions); $lab->stop($region); sleep 1 + rand 3; $lab->start($region) },
	'a region comes back with another clock' => sub { $lab->clock(any(@regions), int(rand 40) - 20) },
	'the broker dies' => sub { $lab->kafka('kill'); sleep rand 3; $lab->kafka('start') },
	'stamps are written down, or no longer' => sub
	{
		my $region = any(@regions);
		my $to = $lab->sql($region, 'SHOW mrsync.force_override') eq 'on' ? 'off' : 'on';
		$lab->sql($region, "ALTER SYSTEM SET mrsync.force_override = $to; SELECT pg_reload_conf()");
	},
	'a region refuses what others write' => sub
	{
		my $region = any(@regions);
		$forbids{$region} = 1;
		patiently($region, "ALTER TABLE plain DROP CONSTRAINT IF EXISTS only_here; ALTER TABLE plain ADD CONSTRAINT only_here CHECK (v NOT LIKE '%7') NOT VALID");
	},
	'no region does any longer' => sub { accept_all() },
	'tables are vacuumed' => sub { patiently(any(@regions), 'VACUUM ' . any('', '(FULL) ', '(FREEZE) ') . any(@tables)) },
	'a table is rewritten' => sub { patiently(any(@regions), any('ALTER TABLE plain ALTER v TYPE text USING v || \'\'', 'ALTER TABLE named ALTER v TYPE text USING v || \'\'', 'ALTER TABLE parted ALTER v TYPE text USING v || \'\'', 'CLUSTER plain USING plain_pkey')) },
	'a slot is lost' => sub
	{
		my $region = any(@regions);
		# it is started again two seconds later
		my $until = time + 10;
		until ($lost{$region} || time > $until)
		{
			terminate($lab, $region, worker_pid($lab, $region, 'extractor'));
			$lost{$region} = 1 if ($lab->sql_try($region, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE plugin = 'mrsync'"))[0] == 0;
		}
	},
	'a topic loses its head' => sub
	{
		return if $sets_back;
		my $region = any(@regions);
		my ($from, $to) = split ' ', kafkactl('offsets', "mrsync.$group.$region");
		return if $to == $from;
		$lost{$region} = 1;
		kafkactl('expire', "mrsync.$group.$region", $from + 1 + int rand($to - $from));
	},
	'what was lost is sent again' => sub { send_again($_) for keys %lost },
	'another function merges' => sub
	{
		my $region = any(@regions);
		return if $told == $functions || $lab->sql($region, "SELECT count(*) FROM mrsync.merge_function WHERE status = 'preparing'") > 0;
		++$told if ($lab->sql_try($region, "SET lock_timeout = '1 s'; SELECT mrsync.merge_function_register('merged', 'public.told_@{[ $told + 1 ]}(text, text, text)', 'v')"))[0] == 0;
	},
	'a base backup is taken' => sub { return if !$sets_back; my $region = any(@regions); $lab->lab('backup', $region); $backup{$region} = 1 },
	# where links may be paused, and others' writes refused, as at the time of the backup
	'a region goes back to its backup' => sub
	{
		return if !$sets_back || !keys %backup || keys %lost;
		my $region = any(sort keys %backup);
		$lab->lab('restore', $region);
		$restored{$region} = $forbids{$region} = 1;
		$paused{"$_>$region"} = 1 for $lab->peers($region);
	},
	# what a crash has left prepared holds its locks
	'prepared transactions are ended' => sub { end_prepared($_) for @regions },
	'somebody waits for a stamp' => sub
	{
		my ($from, $to) = (any(@regions), any(@regions));
		return if $from eq $to || keys %paused || keys %forbids || keys %lost;
		my $hlc = $lab->sql($from, 'SELECT mrsync.current_hlc()');
		patiently($to, "SELECT mrsync.wait_for('$hlc', '1 s')");
		push @looks, [ $from, $to, $hlc, $lab->sql($to, "SELECT count(*) FROM journal WHERE region = '$from' AND pg_xact_commit_timestamp(xmin)::mrsync.hlc OPERATOR(mrsync.<=) '$hlc'") ];
	},
);
sub accept_all
{
	for my $region (keys %forbids)
	{
		patiently($region, 'ALTER TABLE plain DROP CONSTRAINT IF EXISTS only_here; SELECT mrsync.apply_error_retry()');
		delete $forbids{$region};
	}
}
sub send_again
{
	my ($region) = @_;
	# it waits for all transactions in progress, those that a crash has left prepared among them
	my ($failed, undef, $error) = $lab->sql_try($region, "SET statement_timeout = '5 s'; SELECT mrsync.slot_recreate()");
	return if $failed && $error !~ /is in order/;
	$lab->sql($region, 'SELECT mrsync.resend()');
	delete $lost{$region};
}
# What waits for a lock, or for what has not arrived yet, may wait for what a crash has left prepared.
sub patiently
{
	my ($region, $sql) = @_;
	my $out;
	$lab->wait_until("$region: $sql", sub
	{
		end_prepared($_) for @regions;
		(my $failed, $out, my $error) = $lab->sql_try($region, "SET lock_timeout = '1 s';\n$sql");
		die "$error\n" if $failed && $error !~ /55P03|40P01/;
		return !$failed;
	});
	return $out;
}
sub end_prepared
{
	my ($region) = @_;
	for (split /\n/, $lab->sql($region, "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '2 s'"))
	{
		# Its session may be faster. What a backup holds may have been committed once, and would be once more.
		$lab->sql_try($region, ($restored{$region} ? 'ROLLBACK' : any('COMMIT', 'ROLLBACK')) . " PREPARED $_");
	}
}
# what ends something comes as often as what begins it
my @chances = (sort(keys %event), 'prepared transactions are ended', 'what was lost is sent again', 'links are resumed', 'no region does any longer', ('somebody waits for a stamp') x 3);
my $end = time + $seconds;
while (time < $end)
{
	my $what = any(@chances);
	note($what);
	# a worker that was killed takes its whole server down for a moment
	for my $region (@regions)
	{
		$lab->wait_until("$region to answer", sub { defined ask($lab, $region, 'SELECT 1') });
	}
	if (eval { $event{$what}->(); 1 }) { ++$happened{$what} }
	# nobody can say when the server notices that one of its processes was killed
	elsif ($@ !~ /57P0[123]|server closed the connection|connection to server|terminating connection/) { die $@ }
	sleep rand 1.5;
}
note("$_: $happened{$_} times") for sort keys %happened;

# ---------------------------------------------------------------------------------------------------------------------
# Peace
# ---------------------------------------------------------------------------------------------------------------------
for my $region (@regions)
{
	$lab->wait_until("$region to answer", sub { defined ask($lab, $region, 'SELECT 1') });
}
my %count = map { $_ => written($_) } @regions;
for my $region (@regions)
{
	$lab->wait_until("the load to go on in $region", sub { end_prepared($region); written($region) > $count{$region} + 20 });
}
$_->stop for @loads;
for my $region (@regions)
{
	$lab->wait_until("the load's last transactions in $region",
		sub { end_prepared($region); (ask($lab, $region, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") // 1) == 0 });
}
$lab->clock($_, 0) for @regions;
$lab->resume($_) for keys %paused;
for my $region (@regions)
{
	$lab->wait_until("nothing to be prepared in $region", sub { end_prepared($region); $lab->sql($region, 'SELECT count(*) FROM pg_prepared_xacts') == 0 });
}
for my $region (keys %restored)
{
	$lab->wait_until("$region to be what it was", sub
	{
		end_prepared($region);
		$lost{$region} = 1 if worker_state($lab, $region, 'extractor') =~ /slot_recreate/;    # nothing had been sent since the backup
		return $lost{$region} || $lab->sql($region, 'SELECT count(*) FROM mrsync.recovery WHERE finished_at IS NULL') == 0;
	});
}
for my $region (keys %lost)
{
	$lab->wait_until("$region to send again", sub { send_again($region); !$lost{$region} });
}
accept_all();
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.apply_error', 0) for @regions;
$lab->drain;
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_aside WHERE holder_hash IS NULL', 0) for @regions;
$lab->wait_for($_, "SELECT count(*) FROM mrsync.merge_function WHERE status = 'preparing' OR waiting_for <> '{}'", 0) for @regions;
$lab->drain;
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.merge_definition d WHERE activation IS NOT NULL AND NOT EXISTS (SELECT FROM mrsync.merge_folded f WHERE f.id = d.definition_id)', 0) for @regions;

$lab->same('SELECT id, region, n, what, key, value, before FROM journal ORDER BY id', 'the journal is the same everywhere');
my %rows = map { $_ => $lab->same("SELECT id, v FROM $_ ORDER BY id", "$_ is the same everywhere") } @tables;
my $aside = $lab->same("SELECT image ->> 'id', image ->> 'v' FROM mrsync.row_aside ORDER BY (image ->> 'id')::int", 'what is held aside is the same everywhere');

# The stamps, as those who received it know them; the writer's own are checked against that.
my @journal;
for my $region (@regions)
{
	my ($witness) = $lab->peers($region);
	push @journal, map { [ split /\|/, $_, 7 ] } split /\n/, $lab->sql($witness,
		"SELECT lpad(pg_xact_commit_timestamp(xmin)::mrsync.hlc::bigint::text, 20, '0'), region, lpad(n::text, 20, '0'), what, key, value, before FROM journal WHERE region = '$region'");
}
cmp_ok scalar @journal, '>', 500, @journal . ' writes';
my @rules = map { [ split /\|/ ] } split /\n/, $lab->sql('us', "SELECT lpad(activation::bigint::text, 20, '0'), substring(function FROM 'told_(\\d+)') FROM mrsync.merge_function WHERE function LIKE '%told%' ORDER BY activation");
my $merges = 0;
# What an event makes of a row of `merged` that may have changed since it was seen: docs/merges.md.
sub merged
{
	my ($hlc, $state, $before, $after) = @_;
	return $after if $after eq '' || $state eq $before;
	++$merges;
	my ($n, $v) = split / /, $after;
	my ($n_before, $v_before) = split / /, $before;
	my ($n_now, $v_now) = split / /, $state;
	$n += ($n_now // 0) - ($n_before // 0);
	return "$n $v" if $state eq '';
	my ($rule) = grep { $_->[0] le $hlc } reverse @rules;
	my $merged = $before ne '' && $v eq $v_before ? $v_now : $before ne '' && $v_now eq $v_before ? $v : md5_hex($rule->[1] . ($v_before // 'none') . $v_now . $v);
	return "$n $merged";
}
my %state;    # what => key => [version, value]
for (sort { $a->[0] cmp $b->[0] || $a->[1] cmp $b->[1] || $a->[2] cmp $b->[2] } @journal)
{
	my ($hlc, $region, undef, $what, $key, $value, $before) = @$_;
	for ($key ne '' ? $key : keys %{ $state{$what} })
	{
		$state{$what}{$_} = [ "$hlc $region", $what eq 'merged' ? merged($hlc, $state{$what}{$_}[1] // '', $before, $key ne '' ? $value : '') : $value ];
	}
}
my @out;
for my $table (@tables)
{
	my %is = map { $_ => $state{$table}{$_} } grep { $state{$table}{$_}[1] ne '' } keys %{ $state{$table} };
	my (%in, %taken);
	for my $key (sort { $is{$b}[0] cmp $is{$a}[0] || ($a <=> $b) } keys %is)
	{
		my $value = $is{$key}[1];
		if ($table eq 'named' && $taken{$value}++) { push @out, "$key|$value" }
		else { $in{$key} = $value }
	}
	my $expected = join "\n", map { "$_|$in{$_}" } sort { $a <=> $b } keys %in;
	ok $rows{$table} eq $expected, "$table is what the history says: " . keys(%in) . ' rows'
		or diag Mrsync::Lab::first_difference('history', $expected, 'is', $rows{$table});
}
is join("\n", sort split /\n/, $aside), join("\n", sort @out), 'and so is what is held aside';
is $lab->sql($_, 'SELECT count(*) FROM mrsync.merge_failure'), 0, "no merge was given up in $_" for @regions;
is $lab->same("SELECT id, n || ' ' || v FROM merged ORDER BY id", 'merged is the same everywhere'),
	join("\n", map { "$_|$state{merged}{$_}[1]" } sort { $a <=> $b } grep { $state{merged}{$_}[1] ne '' } keys %{ $state{merged} }),
	"merged is what the history says: $merges merges, by " . @rules . ' functions';
cmp_ok $merges, '>', 0, 'there were merges';

# The same conflict has the same outcome wherever it was met.
my %verdict;
for my $region (@regions)
{
	for (split /\n/, $lab->sql($region, 'SELECT conflict_id, region_a, region_b, hlc_a, hlc_b, winner_region FROM mrsync.conflict_log'))
	{
		my ($id, $verdict) = split /\|/, $_, 2;
		push @{ $verdict{$id} }, $verdict;
	}
}
is scalar(grep { uniq(@{ $verdict{$_} }) > 1 } keys %verdict), 0, 'all regions agree about ' . keys(%verdict) . ' conflicts';

# Nothing that wait_for had spoken of came afterwards.
for (@looks)
{
	my ($from, $to, $hlc, $then) = @$_;
	my $now = $lab->sql($to, "SELECT count(*) FROM journal WHERE region = '$from' AND pg_xact_commit_timestamp(xmin)::mrsync.hlc OPERATOR(mrsync.<=) '$hlc'");
	$_ = $now - $then;
}
is scalar(grep { $_ } @looks), 0, 'nothing came after wait_for had said that it was there, in ' . @looks . ' looks';

is $lab->sql($_, 'SELECT count(*) FROM mrsync.apply_error'), 0, "nothing is parked in $_" for @regions;
is log_trouble($lab, $_), '', "nothing internal in the log of $_" for @regions;
done_testing;
