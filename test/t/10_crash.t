# Under load in every region at once, everything is killed with -9, several times, at random moments: extractors,
# appliers, whole postmasters, Kafka. Afterwards nothing is lost and nothing has taken effect twice.
#
# Proves I1 (all regions equal), I2 (each write exactly once in each region), I7 (one atomic step: no crash leaves half
# a transaction, or one without its record) and the checkpoint's rule that an LSN is confirmed only behind acknowledged
# events.
#
# The load is transfers of money. Concurrent updates of one account lose money by design (the last writer wins), so each
# region moves money among its own accounts only: there, balances must be exact to the last cent everywhere, computed
# from the ledger, and there is no conflict. A few hot rows are updated by everybody; they only have to be equal.
# Every transaction of the load writes one row of the ledger: so the ledger counts the transactions, too.
#
# MRSYNC_TEST_SEED=n repeats the choices of a run (not the machine's timing); MRSYNC_TEST_FAULTS=n: so many of each kind.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid kill9 ask log_trouble);

my $lab = Mrsync::Lab->up(own_broker => 1, needs_kafka => 'the mock broker loses its data when it is killed');

my $seed = $ENV{MRSYNC_TEST_SEED} // int rand 1e9;
srand $seed;
diag("MRSYNC_TEST_SEED=$seed");
my $each = $ENV{MRSYNC_TEST_FAULTS} // 3;

my @regions = $lab->regions;
# one region writes its stamps down, as it would with its clock behind: that path, too, has to survive
$lab->sql($regions[-1], "ALTER SYSTEM SET mrsync.force_override = on; SELECT pg_reload_conf()");
my $accounts = 50;    # of each region

$lab->tables(<<'', qw(accounts hot ledger));
	CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
	CREATE TABLE hot (id int PRIMARY KEY, n bigint NOT NULL, by text NOT NULL);
	CREATE TABLE ledger (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), region text NOT NULL, debit int, credit int, amount int NOT NULL);

# through the topic, so that all regions know who wrote these rows: one transaction, in the first region
my $last = @regions * 1000 + $accounts;
$lab->sql($regions[0], <<"");
	INSERT INTO accounts SELECT id, 1000 FROM generate_series(1001, $last) id WHERE id % 1000 BETWEEN 1 AND $accounts;
	INSERT INTO hot SELECT id, 0, '' FROM generate_series(1, 5) id;

$lab->drain;
my $setup = $lab->sql($regions[1], "SELECT count(*) FROM mrsync.applied_event WHERE region_id = '$regions[0]'");

my @loads;
for my $i (0 .. $#regions)
{
	my $region = $regions[$i];
	my ($from, $to) = (1000 * ($i + 1) + 1, 1000 * ($i + 1) + $accounts);
	push @loads, Mrsync::Load->start($lab, $region, clients => 3, rate => 60, scripts => [
		[ <<"", 4 ],
			\\set debit random($from, $to - 1)
			\\set credit random(:debit + 1, $to)
			\\set amount random(1, 100)
			BEGIN;
			UPDATE accounts SET balance = balance - :amount WHERE id = :debit;
			UPDATE accounts SET balance = balance + :amount WHERE id = :credit;
			INSERT INTO ledger (region, debit, credit, amount) VALUES ('$region', :debit, :credit, :amount);
			COMMIT;

		[ <<"", 1 ],
			\\set id random(1, 5)
			BEGIN;
			UPDATE hot SET n = n + 1, by = '$region' WHERE id = :id;
			INSERT INTO ledger (region, amount) VALUES ('$region', 0);
			COMMIT;

	]);
}
sub ledger { my ($region) = @_; return ask($lab, $region, "SELECT count(*) FROM ledger WHERE region = '$region'") // 0 }
$lab->wait_until("the load to run in $_", sub { ledger($_) > 20 }) for @regions;

# The faults. A worker killed with -9 takes its whole server through crash recovery: the postmaster sees to that.
my %killed;
my %fault = (
	extractor => sub {
		my ($region) = @_;
		# one that was found may be gone before it is killed, with a server in the middle of its crash recovery
		$lab->wait_until("an extractor in $region to be killed", sub { kill9($lab, $region, worker_pid($lab, $region, 'extractor')) });
		++$killed{extractor};
	},
	applier => sub {
		my ($region) = @_;
		my $peer = ($lab->peers($region))[ rand($lab->peers($region)) ];
		$lab->wait_until("an applier in $region from $peer to be killed", sub { kill9($lab, $region, worker_pid($lab, $region, 'applier', $peer)) });
		++$killed{applier};
	},
	postmaster => sub {
		my ($region) = @_;
		# a killed worker may have it in the middle of its crash recovery
		$lab->kill9($region);
		++$killed{postmaster};
		sleep rand 2;
		$lab->start($region);
	},
);
my @faults = map { ($_) x $each } sort(keys %fault), 'kafka';
for (my $i = $#faults; $i > 0; --$i)
{
	my $j = int rand($i + 1);
	@faults[ $i, $j ] = @faults[ $j, $i ];
}
for my $what (@faults)
{
	my $region = $regions[ rand @regions ];
	note($what eq 'kafka' ? $what : "$what of $region");
	if ($what eq 'kafka')
	{
		$lab->kafka('kill');
		++$killed{kafka};
		# every other time something else fails while it is away
		if (rand() < 0.5) { $fault{postmaster}->($region) }
		else { sleep rand 3 }
		$lab->kafka('start');
	}
	else { $fault{$what}->($region) }
	sleep rand 3;    # the moment of the next one is to be any
}
ok(($killed{$_} // 0) >= $each, "killed: $_ ($killed{$_} times)") for sort(keys %fault), 'kafka';

# The load has to have got through between the faults, not only before them; then it ends.
my %count = map { $_ => ledger($_) } @regions;
$lab->wait_until("the load to go on in $_", sub { ledger($_) > $count{$_} + 20 }) for @regions;
$_->finish for @loads;

my %own = map { $_ => $lab->sql($_, "SELECT id FROM ledger WHERE region = '$_' ORDER BY id") } @regions;
$count{$_} = () = $own{$_} =~ /^./mg for @regions;
diag('transactions: ' . join ', ', map { "$_ $count{$_}" } @regions);
$lab->drain;

$lab->same('SELECT * FROM accounts ORDER BY id', 'accounts are the same everywhere');
$lab->same('SELECT * FROM hot ORDER BY id', 'hot rows are the same everywhere');
for my $region (@regions)
{
	my $missing = grep { $lab->sql($_, "SELECT id FROM ledger WHERE region = '$region' ORDER BY id") ne $own{$region} } @regions;
	is($missing, 0, "the $count{$region} ledger rows of $region are everywhere, and no others");
	is($lab->sql($region, <<''), 0, "every balance in $region is exactly what the ledger says");
		SELECT count(*) FROM accounts a WHERE balance <> 1000
			- (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit = a.id)
			+ (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit = a.id)

	is($lab->sql($region, 'SELECT sum(balance) FROM accounts'), @regions * $accounts * 1000, "no money is lost or made in $region");
	for my $source ($lab->peers($region))
	{
		my $expected = $count{$source} + ($source eq $regions[0] ? $setup : 0);
		is($lab->sql($region, "SELECT count(*), count(DISTINCT sequence) FROM mrsync.applied_event WHERE region_id = '$source'"),
			"$expected|$expected", "each transaction of $source was applied in $region once");
	}
	is($lab->sql($region, "SELECT count(*) FROM mrsync.conflict_log WHERE table_name <> 'public.hot'"), 0,
		"in $region nothing conflicts but the hot rows");
}
# Deadlocks are retried and crashes expected; an internal error or a leak is not.
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for @regions;
$lab->healthy;
done_testing;
