# Very large and very many transactions: everything arrives, and no process grows with them.
#
# Proves the memory side of I8: the extractor's memory is bounded by the producer's queue and
# logical_decoding_work_mem, the applier's by mrsync.applier_work_mem and the consumer's queue; what is larger goes to
# disk, and is complete there before the first row lock is taken. And I7: an applier that is ended in the middle of a
# large transaction leaves nothing of it behind, and starts it again.
#
# Watched is every process of mrsync's in both regions, and the session that writes. MRSYNC_TEST_ROWS: of the one
# transaction, MRSYNC_TEST_TRANSACTIONS: of one row each (both 1,000,000; in steps of 20). All memory settings are made small,
# so that "flat" says something: 1,000,000 rows are more than 400 MB as events. With a million transactions a leak of 18 bytes
# in each shows.
use strict;
use warnings;
use Test::More;
use List::Util qw(max);
use Time::HiRes qw(time sleep);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid terminate rss_mb memory_watch ask log_trouble);

my $rows = $ENV{MRSYNC_TEST_ROWS} // 1_000_000;
my $transactions = $ENV{MRSYNC_TEST_TRANSACTIONS} // 1_000_000;
my $bound = 144;    # MB of its own that any process may have: the settings below, 16 MB fetched ahead, and what malloc keeps
$Mrsync::Lab::PATIENCE = 600;

my $lab = Mrsync::Lab->up(regions => [qw(us eu)], own_broker => 1, needs_kafka => 'the mock broker keeps only 5 MB of a topic', settings => {
	'logical_decoding_work_mem' => '8MB', 'mrsync.producer_queue' => '8MB', 'mrsync.applier_work_mem' => '4MB',
	'max_wal_size' => '4GB' });
$lab->tables(<<'', 'big');
	CREATE TABLE big (id bigint PRIMARY KEY, at timestamptz NOT NULL, name text NOT NULL, n numeric);

my ($writer, $writer_pid);
sub new_writer
{
	$writer = $lab->session('us');
	$writer_pid = $writer->sql('SELECT pg_backend_pid()');
}
new_writer();
sub processes
{
	my %pids = ('writer in us' => $writer_pid);
	for my $region ($lab->regions)
	{
		my $all = ask($lab, $region, "SELECT substr(backend_type, 8), pid FROM pg_stat_activity WHERE backend_type ~ '^mrsync '") // next;
		while ($all =~ /^(\w+)\|(\d+)$/mg) { $pids{"$1 in $region"} = $2 }
	}
	return %pids;
}
my $watch = memory_watch(\&processes);

# Bounded, and flat: from some moment on nobody needs more than before, but for some MB. The moment: a part of the time, or what
# moment() gave then.
sub moment { my $seen = $watch->(); return { map { $_ => $#{ $seen->{$_} } } keys %$seen } }
sub memory_is_flat
{
	my ($what, $from, $slack) = @_;
	my $seen = $watch->();
	is(keys %$seen, 9, "$what: seen are two launchers, coordinators, extractors, appliers, and the writer");
	for my $name (sort keys %$seen)
	{
		my @mb = @{ $seen->{$name} };
		my $first = ref $from ? $from->{$name} // 0 : int($from * $#mb);
		diag(sprintf '%s, %s: %.0f MB at most, over time %s', $what, $name, max(@mb), join ' ', map { sprintf '%.0f', $mb[ $_ * $#mb / 10 ] } 0 .. 10);
		cmp_ok(max(@mb), '<', $bound, "$what: the $name stays under $bound MB");
		cmp_ok(max(@mb[ $first .. $#mb ]) - max(@mb[ 0 .. $first ]), '<', $slack, "$what: and does not grow");
	}
	$watch = memory_watch(\&processes);
}
# What the writer does, watched meanwhile.
sub written
{
	my ($sql, $name) = @_;
	$writer->send($sql);
	while ($writer->busy)
	{
		$watch->();
		sleep 0.5;
	}
	is($writer->result, '', $name);
}
# A temporary file without a name: where an applier puts a large transaction.
sub spool_bytes
{
	my $pid = worker_pid($lab, 'eu', 'applier', 'us') or return 0;
	for my $fd (glob "/proc/$pid/fd/*")
	{
		return -s $fd if (readlink $fd // '') =~ m{/base/#\d+ \(deleted\)};
	}
	return 0;
}
sub applied { return ask($lab, 'eu', 'SELECT count(*) FROM mrsync.applied_event') // 0 }

# ---- one transaction of a million rows

my $began = time;
written("INSERT INTO big SELECT i, now(), md5(i::text), i / 7.0 FROM generate_series(1, $rows) i", "$rows rows are written");
my $committed = time;
diag(sprintf '%d rows in one transaction: written in %.0f s', $rows, $committed - $began);
my $spooled = 0;
$lab->wait_until('the applier to spool the transaction', sub {
	$watch->();
	my $bytes = spool_bytes();
	$spooled = $bytes if $bytes > $spooled;
	return $spooled > $rows * 100;
});
pass(sprintf 'a transaction larger than applier_work_mem is spooled to disk (%.0f MB so far)', $spooled / 1e6);

# It is being written when it has its first rows in the table's file; nobody sees them yet. There the applier ends.
my $written = "SELECT pg_relation_size('big') > 10 * 1024 * 1024";
$lab->wait_until('the applier to be in the middle', sub { $watch->(); ask($lab, 'eu', $written) eq 't' });
is($lab->sql('eu', 'SELECT count(*) FROM big'), 0, 'nothing is visible before its commit');
my $first = worker_pid($lab, 'eu', 'applier', 'us');
is(applied(), 0, 'the transaction is not applied yet');
terminate($lab, 'eu', $first);
$lab->wait_until('another applier', sub { my $pid = worker_pid($lab, 'eu', 'applier', 'us'); $pid && $pid != $first });
is($lab->sql('eu', 'SELECT count(*) FROM big'), 0, 'nothing of it is left when the applier has been ended in the middle');
my $whole = $lab->sql('us', "SELECT pg_relation_size('big')");
my $left = $lab->sql('eu', "SELECT pg_relation_size('big')");    # of the first attempt
$lab->wait_until('half of it to be written', sub { $watch->(); (ask($lab, 'eu', "SELECT pg_relation_size('big') > $left + $whole / 2") // '') eq 't' });
my $half = moment();
$lab->wait_until('the transaction to be applied', sub { $watch->(); sleep 0.2; applied() == 1 });
diag(sprintf 'arrived, with a restart in the middle, %.0f s after its commit', time - $committed);
$lab->drain;
is($lab->sql('eu', 'SELECT count(*) FROM big'), $rows, "all $rows rows are there");
$lab->same('SELECT count(*), sum(hashtextextended(big::text, 0)::numeric) FROM big', 'and equal');
memory_is_flat('one large transaction', $half, 20);
$lab->wait_until('the spool file to be gone', sub { spool_bytes() == 0 });
pass('the spool file is gone');

# a large one of another kind: before images, too
written("UPDATE big SET n = -n WHERE id <= $rows / 5", 'a part is updated');
$lab->wait_until('the update to be applied', sub { $watch->(); sleep 0.2; applied() == 2 });
$lab->drain;
$lab->same('SELECT count(*), sum(hashtextextended(big::text, 0)::numeric) FROM big', 'equal after a large UPDATE');
written("DELETE FROM big WHERE id <= $rows / 10", 'a part is deleted');
$lab->wait_until('the delete to be applied', sub { $watch->(); sleep 0.2; applied() == 3 });
$lab->drain;
$lab->same('SELECT count(*), sum(hashtextextended(big::text, 0)::numeric) FROM big', 'equal after a large DELETE');

memory_is_flat('large transactions that update and delete', 0.8, 20);

# ---- many small ones

# in new processes: in what malloc has kept of the large ones a leak could hide
for my $region ($lab->regions)
{
	my $workers = "SELECT string_agg(pid::text, ' ' ORDER BY kind), count(*) FROM mrsync.worker_stat() WHERE running";
	my %former = map { $_ => 1 } split / /, $lab->sql($region, $workers) =~ s/\|.*//r;
	$lab->sql($region, 'SELECT pg_terminate_backend(pid) FROM mrsync.worker_stat() WHERE running');
	$lab->wait_until("new workers in $region", sub {
		my ($pids, $count) = split /\|/, $lab->sql($region, $workers);
		return $count == 3 && !grep { $former{$_} } split / /, $pids;
	});
}
new_writer();
# The applier begins when all of it is in the topic, and it has fetched ahead what it may: that is the same all the time then.
$lab->pause('us>eu');
my $extractor = worker_pid($lab, 'us', 'extractor');
my $sent = "SELECT transactions FROM mrsync.worker_stat() WHERE kind = 'extractor'";
my $before = $lab->sql('us', $sent);
$began = time;
# In several blocks: PL/pgSQL itself keeps some bytes for each COMMIT until its block ends, in any database.
my $each = $transactions / 20;
written(join("\n", 'SET synchronous_commit = off;', map { my $from = $_ * $each; <<"" } 0 .. 19), "$transactions transactions are written");
	DO \$\$ BEGIN
		FOR i IN $from + 1 .. $from + $each LOOP
			INSERT INTO big VALUES (-i, now(), 'small', i);
			COMMIT;
		END LOOP;
	END \$\$;

$committed = time;
diag(sprintf '%d transactions of one row: written in %.0f s', $transactions, $committed - $began);
$lab->wait_until('all to be sent', sub { $watch->(); sleep 0.5; $lab->sql('us', $sent) >= $before + $transactions });
my $holder = $lab->session('eu');
$holder->sql('BEGIN; LOCK TABLE big IN SHARE MODE');
$lab->resume('us>eu');
my $applier;
$lab->wait_until('an applier to stand', sub {
	$applier = worker_pid($lab, 'eu', 'applier', 'us');
	return $applier && $lab->sql('eu', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $applier") eq 't';
});
my ($fetched, $looks) = (0, 0);
$lab->wait_until('it to fetch no more', sub {
	$watch->();
	my $mb = rss_mb($applier);
	($fetched, $looks) = $mb > $fetched + 0.1 ? ($mb, 0) : ($fetched, $looks + 1);
	return $looks >= 15;
});
my $resumed = time;
$holder->sql('COMMIT');
$holder->close;
my $counted = "SELECT transactions FROM mrsync.worker_stat() WHERE kind = 'applier'";    # count(*) of their records would be slow
$lab->wait_until('all to be applied', sub { $watch->(); sleep 0.5; $lab->sql('eu', $counted) >= $transactions });
diag(sprintf 'sent %.0f s after the last one\'s commit, applied within %.0f s', $resumed - $committed, time - $resumed);
$lab->drain;
is($lab->sql('eu', 'SELECT count(*), sum(n) FROM big WHERE id < 0'),
	sprintf('%d|%d', $transactions, $transactions * ($transactions + 1) / 2), "all $transactions rows are there");
$lab->same('SELECT count(*), sum(hashtextextended(big::text, 0)::numeric) FROM big', 'and equal');
is($lab->sql('eu', 'SELECT count(*), count(DISTINCT sequence) FROM mrsync.applied_event'),
	join('|', ($transactions + 3) x 2), 'each applied once');
memory_is_flat('many small transactions', 0.5, 8); # queues and caches have filled up by the half
$writer->close;
is(worker_pid($lab, 'us', 'extractor'), $extractor, 'the extractor has run through');
is(worker_pid($lab, 'eu', 'applier', 'us'), $applier, 'so has the applier');
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
