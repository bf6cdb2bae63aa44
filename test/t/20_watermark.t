# "Applied up to this stamp" is true: what a region promises, what wait_for says, and what is forgotten below the stable point.
#
# Commits overtake each other by stamp, and a stamped transaction may be held up for minutes before its commit record. Yet
# wait_for(hlc) never returns while something stamped at or below hlc is missing; nothing is forgotten that a late event needs; a
# parked event and a paused link hold the stable point, an idle region does not; what is below it goes, and what comes later is
# decided as if it were still there. An event that comes too late after all is not guessed about.
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid terminate);

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->tables(<<'SQL', qw(item stream));
CREATE TABLE item (id integer PRIMARY KEY, v text);
CREATE TABLE stream (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), region text);
SQL
$lab->everywhere('CREATE TABLE probe (at mrsync.hlc, source text, n bigint)');
$lab->drain;

my %override = (off => '', on => 'SET mrsync.force_override = on; ');
sub sql { my ($region, $sql, %options) = @_; return $lab->sql($region, $sql, %options) }
sub hlc { return sql($_[0], 'SELECT mrsync.current_hlc()') }
sub failure { my ($region, $sql) = @_; return ($lab->sql_try($region, $sql))[2] }
sub watermark { my ($in, $region, $origin) = @_; return sql($in, "SELECT watermark FROM mrsync.watermark WHERE region_id = '$region' AND origin_region = '$origin'") }
# The stable point of a region passes a stamp.
sub passes { my ($region, $hlc) = @_; return $lab->wait_for($region, "SELECT mrsync.stable_point() OPERATOR(mrsync.>) '$hlc'") }
# Here everything is known to be past a stamp, but for some pairs 'region/origin'.
sub all_but
{
	my ($in, $hlc, @pairs) = @_;
	my $pairs = join ', ', map { "'$_'" } @pairs;
	$lab->wait_for($in, "SELECT bool_and(watermark OPERATOR(mrsync.>) '$hlc') FROM mrsync.watermark WHERE region_id || '/' || origin_region NOT IN ($pairs)");
}

# ---- a stamp taken in one region says in another what to wait for

for my $mode (sort keys %override)
{
	my $bad = 0;
	for my $round (1 .. 20)
	{
		my ($from, $to) = @regions[ $round % 3, ($round + 1) % 3 ];
		my $hlc = (split /\n/, sql($from, "$override{$mode}INSERT INTO item VALUES (" . ($mode eq 'on' ? 100 : 0) . " + $round, 'x'); SELECT mrsync.current_hlc()"))[-1];
		sql($to, "SELECT mrsync.wait_for('$hlc', '170 s')");
		++$bad if sql($to, 'SELECT count(*) FROM item WHERE id = ' . (($mode eq 'on' ? 100 : 0) + $round)) != 1;
	}
	is $bad, 0, "force_override $mode: after wait_for(current_hlc()) of another region its rows are there";
}
passes($_, hlc('us')) for @regions;
pass('regions that do nothing do not hold the stable point');
is sql('us', "SELECT count(*) FROM mrsync.watermark WHERE state <> 'in order'"), 0, 'everything is in order';
is sql('us', 'SELECT count(*) FROM mrsync.watermark'), 9, 'and known: three regions with three';

# ---- what can go wrong

my $far = sql('eu', "SELECT (clock_timestamp() + interval '1 h')::mrsync.hlc");
like failure('eu', "SELECT mrsync.wait_for('$far', '1 s')"), qr/22023: +the stamp is too far in the future.*\d+ s ahead.*max_clock_skew is 900 s.*HINT:/s, 'a stamp of the far future is refused';
my $soon = sql('eu', "SELECT (clock_timestamp() + interval '5 min')::mrsync.hlc");
like failure('eu', "SELECT mrsync.wait_for('$soon', '1 s')"),
	qr/55P03: +what is stamped up to \Q$soon\E has not all been applied here within the timeout\nDETAIL: +Behind are: "ap" \(has been applied up to 20\S+ \S+Z\), "us" \(has been applied up to 20\S+ \S+Z\)\.\nHINT:/,
	'one of the near future is waited for, and the sources that are behind are named';
like failure('eu', "SET statement_timeout = '500 ms'; SELECT mrsync.wait_for('$soon', '1 h')"), qr/57014/, 'waiting can be cancelled';
like failure('eu', "SELECT mrsync.wait_for('$soon', '-1 s')"), qr/22023: +timeout must not be negative/, 'a negative timeout is refused';
is sql('eu', "DO \$\$ BEGIN PERFORM mrsync.wait_for('$soon', '0 s'); EXCEPTION WHEN lock_not_available THEN NULL; END \$\$"), '', 'a timeout can be caught';

# ---- stamped, then held up before its commit record, while others go by

# NOTIFY takes a lock between the stamp and the commit record; whoever waits for a standby there, holds it. A commit waits for one only
# if its transaction has written WAL before, which NOTIFY does not; a message of no transaction takes no stamp.
my $local = '-c synchronous_commit=local';
sub hold
{
	sql('us', "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	sql('us', 'SELECT pg_reload_conf()', options => $local);
	$lab->wait_for('us', 'SHOW synchronous_standby_names', 'nobody');
	my $holder = $lab->session('us', options => '-c synchronous_commit=on');
	my $pid = $holder->sql('SELECT pg_backend_pid()');
	my $commit = "BEGIN; SELECT pg_logical_emit_message(false, 'test', ''); NOTIFY a; COMMIT";
	$holder->send($commit);
	$lab->wait_until('a commit to wait for the standby', sub
	{
		if (!$holder->busy) { $holder->result; $holder->send($commit) }    # the server had not taken up the setting yet
		return sql('us', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid") eq 't';
	});
	return $holder;
}
sub held { $lab->wait_for('us', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%COMMIT%' AND pid <> pg_backend_pid()", 1) }
my $holder = hold();
my $late = $lab->session('us', options => "$local -c mrsync.force_override=on");
$late->send("BEGIN; INSERT INTO item VALUES (1001, 'late'), (1003, 'late'); NOTIFY b; COMMIT");
held();
sql('us', "INSERT INTO item VALUES (1002, 'overtakes')", options => $local);
my $hlc = hlc('us');
$lab->wait_for($_, 'SELECT count(*) FROM item WHERE id = 1002', 1) for qw(eu ap);
$lab->wait_for('eu', "SELECT hlc OPERATOR(mrsync.>) '$hlc' FROM mrsync.heartbeat WHERE region_id = 'us'");
my $overtaker = sql('eu', 'SELECT pg_xact_commit_timestamp(xmin)::mrsync.hlc FROM item WHERE id = 1002');
cmp_ok watermark('eu', 'us', 'us'), 'lt', $overtaker, 'a region promises nothing beyond what it is about to commit';
cmp_ok watermark('eu', 'eu', 'us'), 'lt', $overtaker, 'and nobody believes to be past it';
all_but('eu', $hlc, 'us/us', 'eu/us', 'ap/us');
like failure('eu', "SELECT mrsync.wait_for('$hlc', '1 s')"), qr/55P03.*Behind are: "us" \(has been applied up to /s, 'wait_for does not return, though a later stamp has been applied';
cmp_ok sql('eu', 'SELECT mrsync.stable_point()'), 'lt', $overtaker, 'the stable point waits, too';
my $waiter = $lab->session('eu');
$waiter->send("SELECT mrsync.wait_for('$hlc', '170 s'); SELECT 'late: ' || count(*) FROM item WHERE id = 1001");
# eu has seen the later stamp and not what it has overtaken: what it writes to the same row is in conflict with that, twice. The first of the two
# meets it in ap alone, where it had come from us before.
$lab->pause('eu>ap');
sql('eu', "INSERT INTO item VALUES (1003, 'eu')");
sql('eu', "UPDATE item SET v = 'eu, later' WHERE id = 1003");
ok $waiter->busy, 'it waits';
sql('us', 'ALTER SYSTEM RESET synchronous_standby_names', options => $local);
sql('us', 'SELECT pg_reload_conf()', options => $local);
$_->result, $_->close for $holder, $late;
$lab->wait_for('ap', 'SELECT v FROM item WHERE id = 1003', 'late');
cmp_ok sql('ap', 'SELECT pg_xact_commit_timestamp(xmin)::mrsync.hlc FROM item WHERE id = 1003'), 'lt', $overtaker, 'what was held up is stamped below what had overtaken it';
$lab->resume('eu>ap');
$lab->wait_for('ap', 'SELECT v FROM item WHERE id = 1003', 'eu, later');
is $waiter->result, "\nlate: 1", 'until what was held up is here';
$waiter->close;
$lab->conflicts_told;
is $lab->same("SELECT image_a ->> 'v', image_b ->> 'v' FROM mrsync.conflict_log WHERE row_pk ->> 'id' = '1003' ORDER BY hlc_b", 'what was overtaken, and written elsewhere by who had not seen it: equal'),
	"late|eu\nlate|eu, later", 'is in conflict with both';
passes('eu', $hlc);

# ---- stamped, and the server is killed before the commit record

for my $mode (sort keys %override)
{
	my $id = $mode eq 'on' ? 1103 : 1101;
	sql('us', "INSERT INTO item VALUES ($id, 'before')");
	$lab->drain('us');
	my $killed = hold();
	my $never = $lab->session('us', options => "$local -c mrsync.force_override=$mode");
	$never->send("BEGIN; UPDATE item SET v = 'never' WHERE id = $id; INSERT INTO item VALUES ($id + 1, 'never'); NOTIFY b; COMMIT");
	held();
	sql('us', "INSERT INTO item VALUES ($id + 1000, 'overtakes')", options => $local);
	$lab->wait_for('eu', "SELECT count(*) FROM item WHERE id = $id + 1000", 1);
	sql('us', 'ALTER SYSTEM RESET synchronous_standby_names', options => $local);
	$lab->kill9('us');
	$_->close for $killed, $never;
	$lab->start('us');
	sql('us', "UPDATE item SET v = 'after' WHERE id = $id");
	$lab->drain;
	is $lab->same("SELECT id, v FROM item WHERE id IN ($id, $id + 1, $id + 1000) ORDER BY id", "force_override $mode: killed between stamp and commit record"),
		"$id|after\n" . ($id + 1000) . '|overtakes', 'that has not happened, and what comes later wins';
	passes('eu', hlc('us'));
}

# ---- under load, where commits overtake each other all the time

my @loads = map
{
	my $region = $_;
	Mrsync::Load->start($lab, $region, clients => 4, rate => 150, scripts => [
		[ "INSERT INTO stream (region) VALUES ('$region');\n", 2 ],
		[ "BEGIN;\nSET LOCAL mrsync.force_override = on;\nINSERT INTO stream (region) VALUES ('$region');\nSAVEPOINT a;\nINSERT INTO stream (region) VALUES ('$region');\nCOMMIT;\n", 1 ],
		# The stamp is taken first, then NOTIFY's lock is waited for: these are overtaken.
		[ "BEGIN;\nSET LOCAL mrsync.force_override = on;\nINSERT INTO stream (region) VALUES ('$region');\nNOTIFY a;\nCOMMIT;\n", 1 ],
	]);
} qw(us ap);
$lab->wait_for('eu', "SELECT count(DISTINCT region) FROM stream", 2);
my $eu = $lab->session('eu');
# what had been committed later with a lower stamp
# (a function that is VOLATILE joins nothing: without the two lists this is a comparison of each with each)
my $overtaken = "WITH s AS MATERIALIZED (SELECT region, pg_xact_commit_timestamp(xmin) AS at FROM stream), a AS MATERIALIZED (SELECT region_id, hlc::timestamptz AS at, sequence FROM mrsync.applied_event)
	SELECT count(*) FROM (SELECT at, max(at) OVER (PARTITION BY region ORDER BY sequence) AS highest FROM s JOIN a USING (at) WHERE region_id = region) x WHERE at < highest";
my $looks = 0;
while ($looks < 30 || ($looks < 600 && $looks % 10 == 0 && sql('eu', $overtaken) == 0) || $looks % 10)
{
	my $at = hlc(++$looks % 2 ? 'us' : 'ap');
	$eu->sql("SELECT mrsync.wait_for('$at', '170 s')");
	# the stamp of what has arrived is its commit timestamp
	$eu->sql("INSERT INTO probe SELECT '$at', r, count(s.id) FROM unnest('{us,ap}'::text[]) r LEFT JOIN stream s ON s.region = r AND pg_xact_commit_timestamp(s.xmin)::mrsync.hlc OPERATOR(mrsync.<=) '$at' GROUP BY r");
}
$_->finish for @loads;
$eu->close;
$lab->drain;
is sql('eu', "SELECT count(*) FROM probe p WHERE n <> (SELECT count(*) FROM stream s WHERE s.region = p.source AND pg_xact_commit_timestamp(s.xmin)::mrsync.hlc OPERATOR(mrsync.<=) p.at)"), 0,
	'after wait_for nothing stamped at or below came any more';
is sql('eu', 'SELECT count(DISTINCT at), min(n) < max(n) FROM probe'), "$looks|t", "in $looks looks";
isnt sql('eu', $overtaken), 0, 'commits had overtaken each other';

# ---- a paused link

$lab->pause('us>eu');
sql('us', "INSERT INTO item VALUES (2001, 'while paused'), (2002, 'while paused')");
sql('us', 'DELETE FROM item WHERE id = 2002');
$hlc = hlc('us');
is sql('eu', "SELECT mrsync.wait_for('$hlc', '170 s')"), '', 'a paused link does not count';
is sql('eu', 'SELECT count(*) FROM item WHERE id = 2001'), 0, 'though nothing has come over it';
all_but('us', $hlc, 'eu/us');
cmp_ok sql('us', 'SELECT mrsync.stable_point()'), 'lt', $hlc, 'it holds the stable point';
all_but('eu', $hlc, 'eu/us');
is sql('us', 'SELECT region_id, origin_region FROM mrsync.watermark WHERE holds_stable_point'), 'eu|us', 'which names what holds it';
is sql('eu', 'SELECT region_id, origin_region, state FROM mrsync.watermark WHERE holds_stable_point'), 'eu|us|paused', 'and at the link why';
is sql('us', "SELECT count(*) FROM mrsync.tombstone WHERE row_pk = '{\"id\":\"2002\"}'"), 1, 'what was deleted is remembered meanwhile';
$lab->resume('us>eu');
sql('eu', "SELECT mrsync.wait_for('$hlc', '170 s')");
is sql('eu', 'SELECT count(*) FROM item WHERE id = 2001'), 1, 'resumed, it counts again';
passes($_, $hlc) for @regions;

# ---- a parked event

sql('eu', "ALTER TABLE item ADD CONSTRAINT only_here CHECK (v <> 'bad') NOT VALID");
my $parked = "SELECT count(*) FROM mrsync.apply_error";
for my $way ('retried', 'discarded')
{
	sql('us', "INSERT INTO item VALUES (3001, 'bad') ON CONFLICT (id) DO UPDATE SET v = 'bad'");
	sql('us', "INSERT INTO item VALUES (3002, 'good') ON CONFLICT (id) DO UPDATE SET v = 'good again'");
	$hlc = hlc('us');
	$lab->wait_for('eu', $parked, 1);
	all_but('eu', $hlc, 'eu/us');
	like failure('eu', "SELECT mrsync.wait_for('$hlc', '1 s')"), qr/55P03.*Behind are: "us" \(has been applied up to /s, "$way: a parked event is missing";
	$lab->wait_for('eu', "SELECT w.watermark::bigint = e.hlc::bigint - 1, w.state, w.holds_stable_point FROM mrsync.watermark w, mrsync.apply_error e WHERE w.region_id = 'eu' AND w.origin_region = 'us'", 't|1 event parked|t');
	pass('the region is where it stands');
	is sql('eu', "SELECT mrsync.wait_for((hlc::bigint - 1)::mrsync.hlc, '170 s') FROM mrsync.apply_error"), '', 'what is stamped below it is here';
	all_but('us', $hlc, 'eu/us');
	cmp_ok sql('us', 'SELECT mrsync.stable_point()'), 'lt', $hlc, 'and it holds the stable point of the others';
	if ($way eq 'retried')
	{
		sql('eu', 'ALTER TABLE item DROP CONSTRAINT only_here; SELECT mrsync.apply_error_retry()');
		sql('eu', "SELECT mrsync.wait_for('$hlc', '170 s')");
		is sql('eu', 'SELECT v FROM item WHERE id = 3001'), 'bad', 'applied, it is waited for no longer';
		sql('us', 'DELETE FROM item WHERE id = 3001');
		$lab->drain;
		sql('eu', "ALTER TABLE item ADD CONSTRAINT only_here CHECK (v <> 'bad') NOT VALID");
	}
	else
	{
		sql('eu', 'SELECT mrsync.apply_error_discard(error_id) FROM mrsync.apply_error');
		sql('eu', "SELECT mrsync.wait_for('$hlc', '170 s')");
		pass('given up, it is waited for no longer');
	}
	passes($_, $hlc) for @regions;
}
sql('eu', 'ALTER TABLE item DROP CONSTRAINT only_here');
sql('us', "UPDATE item SET v = 'equal again' WHERE id = 3001");
$lab->drain;

# ---- what lies below the stable point is forgotten

sql('us', "SELECT pg_create_logical_replication_slot('reader', 'mrsync')");
sql('us', "INSERT INTO item SELECT i, 'x' FROM generate_series(4000, 4999) i");
$lab->drain;
my %written;
for my $region (@regions)
{
	$written{$region} = sql($region, "$override{on}BEGIN; UPDATE item SET v = 'by $region' WHERE id = 4000 + ascii('$region'); SAVEPOINT a; UPDATE item SET v = 'by $region' WHERE id = 4500 + ascii('$region'); COMMIT; SELECT hlc FROM mrsync.hlc_override WHERE xid::xid = (SELECT xmin FROM item WHERE id = 4000 + ascii('$region'))");
	sql($region, "DELETE FROM item WHERE id BETWEEN 4700 AND 4800 AND id % 3 = ascii('$region') % 3");
}
my %id = map { $_ => 4000 + ord } @regions;
sql('us', <<'SQL');
SELECT pg_replication_origin_create('another tool');
SELECT pg_replication_origin_session_setup('another tool');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/100', '2001-01-01 00:00:00+00');
UPDATE item SET v = 'of 2001' WHERE id = 4900;
COMMIT;
BEGIN;
SELECT pg_replication_origin_xact_setup('0/200', '2100-01-01 00:00:00+00');
UPDATE item SET v = 'of 2100' WHERE id = 4901;
COMMIT;
SQL
$lab->drain;
$hlc = hlc('us');
for my $region (@regions)
{
	$lab->wait_for($region, 'SELECT count(*) FROM mrsync.tombstone', 0);
	$lab->wait_for($region, "SELECT count(*) FROM mrsync.hlc_override", $region eq 'us' ? 1 : 0);
	pass("$region has forgotten deletions and stamps that everybody has");
	cmp_ok sql($region, 'SELECT pruned_up_to FROM mrsync.pruning'), 'le', sql($region, 'SELECT mrsync.stable_point()'), 'none above the stable point';
}
is sql('us', "SELECT count(*) FROM mrsync.hlc_override o JOIN item i ON i.xmin = o.xid::xid WHERE i.id = 4901"), 1, 'the stamp of a row that would look newer without it is kept';
# rows whose stamps are forgotten, and one whose stamp is not
sql('eu', "UPDATE item SET v = 'answered' WHERE id IN ($id{us}, $id{ap}, 4900, 4901)");
sql('ap', "UPDATE item SET v = 'answered' WHERE id = $id{eu} + 500");
sql('ap', "INSERT INTO item SELECT i, 'again' FROM generate_series(4700, 4800) i ON CONFLICT DO NOTHING");
$lab->drain;
is $lab->same("SELECT v, count(*) FROM item WHERE id >= 4000 GROUP BY v ORDER BY v", 'what comes later is decided in all regions alike'), join("\n", 'again|101', 'answered|5', 'by ap|1', 'by eu|1', 'by us|1', 'x|891'), 'and wins';
is join(' ', map { sql($_, "SELECT count(*) FROM mrsync.conflict_log WHERE (row_pk ->> 'id')::integer >= 4000") } @regions), '0 0 0', 'none of it is a conflict';
# decoding needs the stamps for longer
sql('us', 'VACUUM mrsync.hlc_override');
my ($again) = grep { /by us/ } split /\n/, sql('us', "SELECT data FROM pg_logical_slot_get_changes('reader', NULL, NULL)");
like $again, qr/"hlc_timestamp":"\Q$written{us}\E"/, 'a slot that still has a transaction before it finds its stamp';
sql('us', "SELECT pg_drop_replication_slot('reader')");

# ---- and nothing that a late event needs

sql('us', "INSERT INTO item SELECT i, 'seed' FROM generate_series(5001, 5004) i");
$lab->drain;
$lab->pause('ap>us', 'ap>eu', 'us>ap', 'eu>ap');
sql('ap', "UPDATE item SET v = 'ap, before' WHERE id IN (5001, 5003)");
sql('us', "$override{on}DELETE FROM item WHERE id IN (5001, 5002)");
sql('eu', 'TRUNCATE stream');
sql('ap', "UPDATE item SET v = 'ap, after' WHERE id IN (5002, 5004)");
$hlc = hlc('us');
sql('eu', "SELECT mrsync.wait_for('$hlc', '170 s')");
all_but('us', $hlc, 'us/ap', 'eu/ap', 'ap/us', 'ap/eu');
is sql('us', "SELECT count(*) FROM mrsync.tombstone WHERE row_pk LIKE '%\"500_\"%'"), 2, 'a region that is away is remembered for';
$lab->resume;
$lab->drain;
is $lab->same('SELECT id, v FROM item WHERE id > 5000 ORDER BY id', 'late events are decided as they would have been'), "5002|ap, after\n5003|ap, before\n5004|ap, after", 'by their stamps';
is $lab->same('SELECT count(*) FROM stream', 'a truncation, too'), 0, 'of everything before it';
passes($_, $hlc) for @regions;
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.tombstone', 0) for @regions;
pass('then it goes, too');
$lab->healthy;

# ---- where a region was, it still is after a restart, whether its sources are there or not

$hlc = hlc('us');
passes('eu', $hlc);
my $pruned = sql('eu', 'SELECT pruned_up_to FROM mrsync.pruning');
$lab->stop($_) for qw(us ap);
$lab->kill9('eu');
$lab->start('eu');
is sql('eu', "SELECT mrsync.wait_for('$hlc', '170 s')"), '', 'a restart forgets nothing of that';
$lab->wait_for('eu', "SELECT mrsync.stable_point() OPERATOR(mrsync.>) '$hlc'");
cmp_ok sql('eu', 'SELECT pruned_up_to FROM mrsync.pruning'), 'ge', $pruned, 'nor up to where it has forgotten';
$lab->start($_) for qw(us ap);
$lab->drain;

# ---- a region that nobody has heard of holds everything

sql('eu', "SELECT mrsync.region_connect('nobody')");
$lab->wait_for('eu', 'SELECT mrsync.stable_point() IS NULL');
is sql('eu', "SELECT count(*), bool_and('nobody' IN (region_id, origin_region)) FROM mrsync.watermark WHERE holds_stable_point"), '7|t', 'there is no stable point with a region that has not said how far it is';
like sql('eu', "SELECT string_agg(DISTINCT state, ', ') FROM mrsync.watermark WHERE region_id = 'nobody'"), qr/unknown: it has not acknowledged eu.*unknown: it has not said where it is/, 'and that is said';
sql('eu', 'DELETE FROM item WHERE id = 5004');
$lab->drain;
passes('us', hlc('us'));
is sql('eu', 'SELECT count(*) FROM mrsync.tombstone'), 1, 'nothing is forgotten';
sql('eu', "DELETE FROM mrsync.control_position WHERE region_id = 'nobody'; DELETE FROM mrsync.region WHERE region_id = 'nobody'");
passes('eu', hlc('eu'));
$lab->wait_for('eu', 'SELECT count(*) FROM mrsync.tombstone', 0);
pass('until it is gone');

# ---- an event from before what was forgotten: of a region that joined with a clock behind, say

sql('eu', "UPDATE mrsync.pruning SET pruned_up_to = (pruned_up_to::bigint + 600 * 1000000)::mrsync.hlc");
$pruned = sql('eu', 'SELECT pruned_up_to FROM mrsync.pruning');
my $coordinator = worker_pid($lab, 'eu', 'coordinator');
terminate($lab, 'eu', $coordinator);
$lab->wait_until('another coordinator of eu', sub { my $pid = worker_pid($lab, 'eu', 'coordinator'); $pid && $pid != $coordinator });
$lab->wait_for('eu', "SELECT h.sent_at > w.started_at FROM mrsync.heartbeat h, mrsync.worker_stat() w WHERE h.region_id = 'eu' AND w.kind = 'coordinator' AND w.running");    # it has read that by then
sql('us', "INSERT INTO item VALUES (6001, 'too late'); UPDATE item SET v = 'in time' WHERE id = 5002; DELETE FROM item WHERE id = 6001");
$lab->wait_for('eu', $parked, 2);
like sql('eu', "SELECT sqlstate, operation, message, detail FROM mrsync.apply_error ORDER BY error_id LIMIT 1"),
	qr/^55000\|INSERT\|the event comes after what would decide it was forgotten\|It is stamped .*, by region us; .* up to \Q$pruned\E/, 'an event that a forgotten deletion may have decided is parked';
is sql('eu', 'SELECT v FROM item WHERE id = 5002'), 'in time', 'one that what is there decides is not';
sql('eu', 'DELETE FROM mrsync.pruning');
$lab->stop('eu');
$lab->start('eu');
$lab->wait_for('eu', $parked, 0);
$lab->drain;
$lab->same('SELECT * FROM item ORDER BY id', 'equal again');
$lab->healthy;
done_testing;
