# An extractor dies in the middle of a transaction, the next one sends it again, and the last records of the dead one's
# producer land late: before, amid and behind those of the new one. Nothing is lost, nothing happens twice.
#
# Proves I2 across incarnations on a real broker: first as it happens, with an extractor that is really ended while it sends;
# then in chosen orders, with a topic made of real records. (Every order there can be: test/unit/ledger_test.cpp.)
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use Cwd qw(abs_path);
use IO::Handle;
use File::Basename qw(dirname);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu)]);
open my $file, '<', "$lab->{dir}/group" or die;
chomp(my $group = <$file>);
my $kafkactl = dirname(abs_path(__FILE__)) . '/../../build/kafkactl';

sub us { return $lab->sql('us', $_[0]) }
sub eu { return $lab->sql('eu', $_[0]) }
sub produce
{
	my ($topic, @lines) = @_;
	open my $pipe, '|-', $kafkactl, $lab->broker, 'produce', $topic or die "$kafkactl: $!";
	print $pipe map { "$_\n" } @lines;
	close $pipe or die "kafkactl produce has failed";
}
sub records { my ($topic) = @_; return map { s/^\d+\t//r } split /\n/, `$kafkactl @{[ $lab->broker ]} cat $topic` }
sub number { my ($key, $record) = @_; return $record =~ /"$key":(\d+)/ ? $1 : die "no $key in $record" }
sub incarnation { my ($to, @records) = @_; return map { s/"incarnation":\d+/"incarnation":$to/r } @records }

# Every row that is written in eu, by whomever, leaves a mark there.
sub marked
{
	my ($table) = @_;
	eu(<<"");
		CREATE TABLE marks_$table (id int, v text);
		CREATE FUNCTION mark_$table() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN INSERT INTO public.marks_$table VALUES (new.id, new.v); RETURN NULL; END \$\$;
		CREATE TRIGGER mark AFTER INSERT OR UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION mark_$table();
		ALTER TABLE $table ENABLE ALWAYS TRIGGER mark;

}

# ---- as it happens

my $rows = 60000;
my $topic = "mrsync.$group.us";
$lab->tables('CREATE TABLE t (id int PRIMARY KEY, v text);', 't');
marked('t');
my $stopped = "SELECT bool_or(state LIKE 'degraded%') FROM mrsync.worker_status WHERE worker = 'applier'";
sub landed { my ($low, $high) = split ' ', `$kafkactl @{[ $lab->broker ]} offsets $topic`; return $high }
my ($rounds, $amid) = (0, 0);
until ($amid)
{
	die 'in twenty rounds no late record has landed amid the new ones' if ++$rounds > 20;
	$lab->wait_until('an extractor', sub { worker_pid($lab, 'us', 'extractor') });
	$lab->drain('us');
	my ($pid, $before) = (worker_pid($lab, 'us', 'extractor') // die('no extractor'), landed());    # never 0: that would be this test itself
	my $dead = us('SELECT incarnation FROM mrsync.extractor_position');
	# the next one starts when the late records are at hand
	my $coordinator = worker_pid($lab, 'us', 'coordinator') // die 'no coordinator';
	us("INSERT INTO t SELECT i, 'round $rounds' FROM generate_series($rounds * 1000000 + 1, $rounds * 1000000 + $rows) i");
	# in steps of some milliseconds: however fast the machine is, it ends in the middle
	$lab->wait_until('a part of it to land', sub
	{
		kill 'CONT', $pid;
		sleep 0.005;
		kill 'STOP', $pid;
		return landed() > $before + 1000;
	});
	kill 'STOP', $coordinator;
	kill 'TERM', $pid;
	kill 'CONT', $pid;
	$lab->wait_until('the extractor to end', sub { !-e "/proc/$pid" });
	# what has landed of it; it comes once more from now on, piece by piece, until the transaction has arrived
	my @late = grep { /"round $rounds"/ && number('incarnation', $_) == $dead } records($topic);
	if (!@late || @late >= $rows)
	{
		kill 'CONT', $coordinator;
		note("round $rounds: the extractor was ended too early or too late");
		next;
	}
	open my $pipe, '|-', $kafkactl, $lab->broker, 'produce', $topic or die "$kafkactl: $!";
	$pipe->autoflush(1);
	kill 'CONT', $coordinator;
	my ($piece, $next) = (0, undef);
	$lab->wait_until('the transaction to arrive', sub {
		for (1 .. 50)
		{
			# the next one goes step by step, too
			$next //= worker_pid($lab, 'us', 'extractor');
			kill 'STOP', $next if $next;
			print $pipe map { "$late[ ($piece++) % @late ]\n" } 1 .. 10;
			sleep 0.02;
			kill 'CONT', $next if $next;
			sleep 0.005;
		}
		return eu("SELECT count(*) FROM t WHERE v = 'round $rounds'") == $rows || eu($stopped) eq 't';
	});
	close $pipe or die "kafkactl produce has failed";
	is(eu($stopped), 'f', 'the link does not stop at what lands late');
	my @all = grep { /"round $rounds"/ } records($topic);
	my ($first) = grep { number('incarnation', $all[$_]) > $dead } 0 .. $#all;
	my ($last) = grep { number('incarnation', $all[$_]) > $dead } reverse 0 .. $#all;
	$amid = grep { number('incarnation', $_) == $dead } @all[ $first .. $last ];
	note("round $rounds: " . @late . " records of incarnation $dead before its end, $amid late ones amid the next one's");
	# and its end: what would complete the transaction that it had begun
	produce($topic, incarnation($dead, grep { number('incarnation', $_) > $dead && number('position', $_) > @late } @all));
}
us("INSERT INTO t VALUES (0, 'after')");
$lab->drain;
ok($amid, "records of an extractor that has died landed amid those of the next one ($amid), and behind them");
is(eu("SELECT count(*) FROM t"), us("SELECT count(*) FROM t"), 'nothing is lost');
is(eu("SELECT count(*) FROM marks_t m"), us('SELECT count(*) FROM t'), 'nothing is written twice');
is(eu("SELECT restarts FROM mrsync.worker_status WHERE worker = 'applier'"), 0, 'the applier has seen nothing strange');
is(eu("SELECT last_error IS NULL FROM mrsync.worker_status WHERE worker = 'applier'"), 't', 'at no time');

# ---- in chosen orders

# Transactions of us become those of a region that is only a topic.
us("INSERT INTO t SELECT 100 * $_ + i, 'chosen' FROM generate_series(1, 10) i; UPDATE t SET v = 'chosen again' WHERE id = 100 * $_ + 1") for 1 .. 7;
$lab->drain;
my @transactions;
for (grep { /"chosen/ } records($topic))
{
	push @transactions, [] if number('position', $_) == 1;
	s/"region_id":"us"/"region_id":"ghost"/, s/"table_name":"public.t"/"table_name":"public.chosen"/, s/("event_id":"\w+-\w+)-7\w+/$1-7abc/ for my $record = $_;
	push @{ $transactions[-1] }, $record;
}
is(scalar @transactions, 14, 'fourteen transactions');
s/"previous":\d+/"previous":0/ for @{ $transactions[0] };    # nothing is before the first one
my ($a, @t) = (number('incarnation', $transactions[0][0]), @transactions);
sub all { my ($n, $incarnation) = @_; return incarnation($incarnation, @{ $t[$n] }) }
sub part { my ($n, $incarnation, $from, $to) = @_; return incarnation($incarnation, @{ $t[$n] }[ $from - 1 .. $to - 1 ]) }
my @order = (
	# the rest lands behind
	part(0, $a, 1, 4), all(0, $a + 1), part(0, $a, 5, 10), all(1, $a + 1),
	# amid
	part(2, $a + 1, 1, 3), part(2, $a + 2, 1, 5), part(2, $a + 1, 4, 6), part(2, $a + 2, 6, 8), part(2, $a + 1, 7, 10),
	part(2, $a + 2, 9, 10), all(3, $a + 2),
	# before the next one begins
	part(4, $a + 2, 1, 3), part(4, $a + 2, 4, 7), all(4, $a + 3), all(5, $a + 3),
	# whole, the next transaction begun, all of it sent again
	all(6, $a + 3), all(7, $a + 3), part(8, $a + 3, 1, 2), all(6, $a + 4), part(8, $a + 3, 3, 10), all(7, $a + 4), all(9, $a + 3), all(8, $a + 4), all(9, $a + 4),
	# two that die one after the other, and land late together
	part(10, $a + 4, 1, 4), part(10, $a + 5, 1, 6), part(10, $a + 6, 1, 2), part(10, $a + 4, 5, 10), part(10, $a + 6, 3, 7), part(10, $a + 5, 7, 10), all(11, $a + 4),
	part(10, $a + 6, 8, 10), all(11, $a + 5), all(11, $a + 6),
	# the last but one lands long after everything
	all(12, $a + 6), all(13, $a + 7), part(10, $a + 5, 7, 10), all(0, $a), all(13, $a + 6),
);
eu("CREATE TABLE chosen (id int PRIMARY KEY, v text); SELECT mrsync.table_add('chosen')");
marked('chosen');
is(system($kafkactl, $lab->broker, 'create', "mrsync.$group.ghost"), 0, 'a topic for them');
produce("mrsync.$group.ghost", @order);
eu("SELECT mrsync.region_connect('ghost'); SELECT mrsync.link_create('ghost', 'eu')");
my $end = number('sequence', $t[13][0]);
$lab->wait_for('eu', "SELECT coalesce(max(sequence), 0) FROM mrsync.link_position WHERE source_region = 'ghost'", $end);
$lab->wait_for('eu', "SELECT caught_up FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = 'ghost'");
is(eu('SELECT * FROM chosen ORDER BY id'), us("SELECT * FROM t WHERE v LIKE 'chosen%' ORDER BY id"), 'nothing is lost');
is(eu('SELECT count(*) FROM marks_chosen'), 7 * 11, 'nothing is written twice');
is(eu("SELECT count(*), count(DISTINCT sequence) FROM mrsync.applied_event WHERE region_id = 'ghost'"), '14|14', 'each transaction was applied once');
is(eu("SELECT restarts FROM mrsync.worker_status WHERE source_region = 'ghost'"), 0, 'and the applier has seen nothing strange');

is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
$lab->healthy;
done_testing;
