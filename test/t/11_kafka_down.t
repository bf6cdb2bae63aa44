# Kafka is away for a while, under load. Nobody who writes may notice.
#
# Proves I4 (foreground writes never wait for replication: a stopped Kafka costs disk space, never latency), I8 (no
# write refused, no event lost, the backlog replays by itself) and that memory stays flat meanwhile: what does not fit
# into the producer's queue stays in the WAL.
#
# The outage lasts until the extractor says that the broker takes nothing any more (its queue is full), and then until the
# load, which paces itself, has written as much as it should in MRSYNC_TEST_OUTAGE seconds (120). Latencies then are
# compared with those of the same load in a database of the same server that is no region, at the same time: whatever else
# the machine does is in both. Still under load and with Kafka down, a region is stopped, which must take less than ten
# seconds, and started.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time sleep);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state ask rss_mb percentile log_trouble);

my $outage = $ENV{MRSYNC_TEST_OUTAGE} // 120;
my $queue = 4;    # MB
my $rate = 200;    # transactions a second, in each region
my $lab = Mrsync::Lab->up(regions => [qw(us eu)], own_broker => 1, needs_kafka => 'the mock broker keeps only 5 MB of a topic, less than the backlog',
	settings => { 'mrsync.producer_queue' => "${queue}MB" });
my $ledger = 'CREATE TABLE ledger (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), region text NOT NULL, filler text NOT NULL)';
$lab->tables("$ledger;", 'ledger');
for my $region ($lab->regions)
{
	$lab->sql($region, 'CREATE DATABASE plain');
	$lab->sql($region, $ledger, db => 'plain');
}

my $script = "INSERT INTO ledger (region, filler) VALUES ('%s', repeat(md5(random()::text), 30));";
sub load_in
{
	my ($db) = @_;
	return map { $_ => Mrsync::Load->start($lab, $_, clients => 4, rate => $rate, log => 1, keep_going => 0, db => $db, scripts => [ sprintf $script, $_ ]) } $lab->regions;
}
my %load = load_in('lab');
my %plain = load_in('plain');
sub rows { my ($region) = @_; return $lab->sql($region, "SELECT count(*) FROM ledger WHERE region = '$region'") }

# the load before: a few seconds of it, and everything arrives
$lab->wait_until("the load to run in $_", sub { rows($_) > 1500 }) for $lab->regions;
my $extractor = worker_pid($lab, 'us', 'extractor');
my $rss_before = rss_mb($extractor);

$lab->kafka('stop');
my $down = time;
for my $region ($lab->regions)
{
	my $peer = $region eq 'us' ? 'eu' : 'us';
	# with this queue it says for some seconds that nothing is acknowledged, then that nothing is taken any more
	$lab->wait_until("the extractor of $region to say what it waits for",
		sub { worker_state($lab, $region, 'extractor') =~ /broker does not (?:acknowledge|take events)/ });
	# another process, which hears of it by itself
	$lab->wait_until("the applier in $region to wait for the broker", sub { worker_state($lab, $region, 'applier', $peer) =~ /waiting.*broker/ });
	pass("the applier in $region says that it waits for the broker");
	like($lab->sql($region, "SELECT state FROM mrsync.link_status WHERE direction = 'outgoing'"), qr/waiting: extractor: .*broker/,
		"link_status in $region says so, too");
}
$lab->wait_until('the queue of us to be full', sub { worker_state($lab, 'us', 'extractor') =~ /broker does not take events/ });
note('us: ' . worker_state($lab, 'us', 'extractor'));
my $rss_full = rss_mb($extractor);
my $rss_peak = $rss_full;
my $full = time;
my %goal = map { $_ => rows($_) + $rate * $outage } $lab->regions;
$lab->wait_until("the load to write through $outage s of it", sub {
	sleep 0.5;
	my $mb = rss_mb($extractor) // 0;
	$rss_peak = $mb if $mb > $rss_peak;
	return time - $full >= $outage && !grep { rows($_) < $goal{$_} } $lab->regions;
}, 10 * $outage);
my $end = time;
diag(sprintf 'Kafka was down for %.0f s, %.0f of them with the queue full', $end - $down, $end - $full);
is(worker_pid($lab, 'us', 'extractor'), $extractor, 'the extractor has not been restarted');
if ($lab->part('meanwhile'))
{
	diag(sprintf 'extractor of us, RssAnon: %.1f MB before, %.1f MB with its queue full, %.1f MB at most after', $rss_before, $rss_full, $rss_peak);
	# librdkafka keeps some hundred bytes beside each message
	cmp_ok($rss_full - $rss_before, '<', 10 * $queue, "a queue of $queue MB costs no more than ten times that");
	cmp_ok($rss_peak - $rss_full, '<', 5, 'and does not grow any further');

	# Foreground: the same transactions during the outage, here and where nothing is replicated.
	for my $region ($lab->regions)
	{
		my @all = $load{$region}->latencies;
		my @failed = grep { !defined $_->[1] } @all;
		my $during = sub { return map { $_->[1] } grep { defined $_->[1] && $_->[0] >= $down && $_->[0] < $end } @_ };
		my @here = $during->(@all);
		my @there = $during->($plain{$region}->latencies);
		for ([ 'replicated', @here ], [ 'not replicated', @there ])
		{
			my ($what, @ms) = @$_;
			diag(sprintf '%s, %s: %.0f/s, p50 %.1f ms, p99 %.1f ms, max %.1f ms', $region, $what, @ms / ($end - $down), map { percentile($_, @ms) } 0.5, 0.99, 1);
		}
		for my $p (0.5, 0.99)
		{
			cmp_ok(percentile($p, @here), '<', 3 * percentile($p, @there) + 50, sprintf 'writes in %s are not slower: p%d', $region, 100 * $p);
		}
		is(@failed, 0, "no transaction has failed in $region");
		is($load{$region}->errors, '', "and no client in $region");
		cmp_ok(scalar @here, '>', @there / 4, "the throughput in $region has not collapsed");
	}
}

# A region stops and starts without Kafka. The load is still running in it, and ends with it.
my $so_far = rows('us');
$lab->wait_until('the load to go on', sub { rows('us') > $so_far });
$lab->sql('us', 'CHECKPOINT');    # else the time it takes may be the disk's
my $stopping = time;
my ($code, $output) = $lab->lab_try('stop', 'us');
my $took = time - $stopping;
is($code, 0, "us stops") or diag($output);
cmp_ok($took, '<', 10, sprintf 'fast, with Kafka down, a backlog, and the load running (%.1f s)', $took);
$lab->wait_until('the load in us to be cut off by that', sub { $load{us}->errors =~ /aborted/ });
$_->stop for values %load, values %plain;
$lab->start('us');
$lab->wait_until('us to say again what it waits for', sub { worker_state($lab, 'us', 'extractor') =~ /broker does not/ });
$lab->sql('us', "INSERT INTO ledger (region, filler) VALUES ('us', 'written after the restart')");

# Back: the backlog drains by itself.
my %count = map { $_ => rows($_) } $lab->regions;
$lab->kafka('start');
my $back = time;
$lab->drain;
diag(sprintf 'drained %d transactions %.1f s after Kafka was back', $count{us} + $count{eu}, time - $back);
$lab->same('SELECT id, region, md5(filler) FROM ledger ORDER BY id', 'everything is everywhere');
is($lab->sql('eu', "SELECT count(*) FROM ledger WHERE region = 'us'"), $count{us}, 'all that us has written');
is($lab->sql('us', "SELECT count(*) FROM ledger WHERE region = 'eu'"), $count{eu}, 'all that eu has written');
for my $region ($lab->regions)
{
	my $peer = $region eq 'us' ? 'eu' : 'us';
	$lab->wait_for($region, "SELECT count(*) FROM mrsync.link_status WHERE state = 'streaming'", 2);
	is($lab->sql($region, "SELECT count(*), count(DISTINCT sequence) FROM mrsync.applied_event WHERE region_id = '$peer'"),
		"$count{$peer}|$count{$peer}", "$region has applied each transaction of $peer once");
	$lab->wait_for($region, "SELECT count(*) FROM mrsync.worker_status WHERE state = 'running'", 3);
	is(log_trouble($lab, $region), '', "nothing internal in the log of $region");
}
$lab->healthy;
done_testing;
