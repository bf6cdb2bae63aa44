# ./lab itself, as a person uses it: up, a look around, faults by hand, down, and nothing is left.
#
# Proves the contract of ./lab that all other tests lean on without asking (they use a bare one, on a broker that is there
# already): the sample schema, the demo, both brokers, a second up, what is refused, and that down ends every process.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time);
use Mrsync::Lab;

sub proc { my ($pid, $file) = @_; open my $f, '<', "/proc/$pid/$file" or return ''; local $/; return <$f> // '' }
sub cwd { my ($pid) = @_; return (readlink("/proc/$pid/cwd") // '') . '/' }
# A zombie is one that nobody has reaped.
sub alive { return grep { proc($_, 'stat') =~ /\) [^Z] / } @_ }
# Processes whose working directory or arguments lie in the lab's directory.
sub processes
{
	my ($lab) = @_;
	my $inside = qr{\Q$lab->{dir}\E/};
	return grep { $_ != $$ && (cwd($_) =~ $inside || proc($_, 'cmdline') =~ $inside) } map { m{(\d+)$} } glob '/proc/[0-9]*';
}
sub refused
{
	my ($lab, $says, @command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($code, $output) = $lab->lab_try(@command);
	ok($code != 0 && $output =~ $says, "refused: ./lab @command") or diag("exit code $code: $output");
}
sub arrive    # a row of each region in every other one
{
	my ($lab, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$lab->sql($_, "INSERT INTO greetings (region, word) VALUES ('$_', '$name')") for $lab->regions;
	$lab->drain;
	is($lab->same("SELECT count(*) FROM greetings WHERE word = '$name'", "$name: equal"), scalar(my @all = $lab->regions), "$name: a row of each region is in all of them");
}

# ---- up

my $lab = Mrsync::Lab->new(qw(us eu ap));
refused($lab, qr/no lab here yet: \.\/lab up/, @$_) for ['status'], [ 'psql', 'us' ], [ 'kafka', 'stop' ];
refused($lab, qr/--regions: names of small letters/, 'up', '--regions', 'us,EU');
refused($lab, qr/unknown option --region/, 'up', '--region', 'us');
refused($lab, qr/unknown command upp/, 'upp');

my $began = time;
my ($code, $output) = $lab->lab_try('up', '--broker', 'kafka');
SKIP:
{
	skip 'no Apache Kafka here', 1 if $code && $output =~ /no Kafka: see above/;
	is($code, 0, 'up') or BAIL_OUT($output);
	diag(sprintf 'up took %.1f s', time - $began);
	the_lab_with_kafka();
}

sub the_lab_with_kafka
{
	is($lab->state('broker'), 'kafka', 'with a Kafka');
	for my $link ($lab->links)
	{
		my ($from, $to) = split />/, $link;
		like($output, qr/^  $from +→ $to +\d+\.\d ms$/m, "the row from $from is shown arriving in $to");
	}
	like($output, qr/^Up, and left running:\n(?:  (?:us|eu|ap) +psql -h 127\.0\.0\.1 -p \d+ -U postgres lab\n){3}  broker +127\.0\.0\.1:\d+ \(kafka\)$/m, 'connection lines');
	is($lab->same('SELECT region FROM greetings ORDER BY region', 'greetings are the same everywhere'), "ap\neu\nus", 'one of each region');
	is($lab->same('SELECT count(*), (SELECT count(*) FROM products), (SELECT count(*) FROM orders) FROM accounts', 'the sample rows, too'), '3|2|3', 'which are these');
	is($lab->sql($_, "SELECT string_agg(relation::text, ' ' ORDER BY relation::text) FROM mrsync.replicated_table"), 'accounts greetings orders products',
		"$_ replicates the sample schema") for $lab->regions;

	# ---- a second up, and what it refuses

	my $running = sub { return join ' ', map { $lab->state($_) } 'kafka/pid', map { "region/$_/data/postmaster.pid" } $lab->regions };
	my $before = $running->();
	$output = $lab->lab('up');
	like($output, qr/^The lab is up:\n  us +psql/m, 'a second up says that it is up');
	is($running->(), $before, 'and starts nothing again');
	is($lab->sql('us', 'SELECT count(*) FROM greetings'), 3, 'nor shows it again');
	refused($lab, qr/this lab has the regions us,eu,ap: \.\/lab down first, or a second lab beside it with MRSYNC_LAB_DIR/, 'up', '--regions', 'us,eu');
	refused($lab, qr/this lab was made without --secure: \.\/lab down first/, 'up', '--secure');
	is($running->(), $before, 'and leaves all as it is');

	# ---- a look around

	$lab->drain;
	my @workers;
	$lab->wait_until('every link to stream, every worker to run', sub {
		$output = $lab->lab('status');
		my @streaming = $output =~ /\| streaming +\|/g;
		@workers = $output =~ /^ (?:coordinator|extractor|applier) .*\| running /mg;
		return @streaming == 12 && @workers == 12;
	});
	my @down = $output =~ /down/g;
	is("@down", '', 'status: nothing is down');
	like($output, qr/^== $_$/m, "status has a part for $_") for $lab->regions;
	is(@workers, 12, 'with its coordinator, its extractor and two appliers');
	is($lab->lab('psql', 'eu', '-XqAt', '-c', 'SELECT region_id FROM mrsync.region WHERE is_local'), "eu\n", 'psql REGION ARGS');
	is(($lab->lab_try('psql', 'eu', '-Xq', '-v', 'ON_ERROR_STOP=1', '-c', 'SELECT 1 / 0'))[0], 1, 'its exit code is that of psql');
	refused($lab, qr/no region "mars" here; there are: us eu ap/, 'psql', 'mars');

	# ---- faults

	refused($lab, qr/clock REGION ±SECONDS/, 'clock', 'ap', 'later');
	my $ahead = sub { return $lab->sql('ap', 'SELECT round(extract(epoch FROM clock_timestamp()))') - time };
	like($lab->clock('ap', 300), qr/ap: clock shifted by 300 s/, 'clock shifts a region');
	cmp_ok(abs($ahead->() - 300), '<', 30, 'by that');
	like($lab->lab('status'), qr/^== ap \(clock shifted by \+300 s\)$/m, 'status says so');
	arrive($lab, 'with a shifted clock');
	like($lab->clock('ap', 0), qr/ap: clock true again/, 'clock +0 ends that');
	cmp_ok(abs $ahead->(), '<', 30, 'it does');

	$lab->stop('eu');
	like($lab->lab('status'), qr/^  eu +down \(\.\/lab start eu\)$/m, 'status says which region is down, and what to do');
	is(($lab->sql_try('eu', 'SELECT 1'))[0], 2, 'it is');
	$lab->start('eu');
	$lab->kill9('us');
	is(($lab->sql_try('us', 'SELECT 1'))[0], 2, 'a killed region is down');
	like($lab->lab('up'), qr/^The lab is up:/m, 'up brings up what is down');
	arrive($lab, 'after start and up');

	# ---- down

	my @pids = alive(processes($lab));
	my %servers = map { $_ => 1 } split / /, $running->();
	is(scalar(grep { $servers{$_} } @pids), 4, 'three postmasters and Kafka are among the ' . @pids . ' running processes of this lab');
	my @workers_running = grep { proc($_, 'cmdline') =~ /mrsync \w+ (?:coordinator|extractor|applier)/ } @pids;
	is(@workers_running, 12, 'all workers among them');
	gone($lab, @pids);
}

sub began { my ($pid) = @_; return (split ' ', proc($pid, 'stat') =~ s/^.*\) //sr)[19] // '' }    # a number may be taken by another process
sub gone    # after down
{
	my ($lab, @pids) = @_;
	my %began = map { $_ => began($_) } @pids;
	like($lab->lab('down'), qr/down; \Q$lab->{dir}\E is removed/, 'down');
	my @left = grep { began($_) eq $began{$_} } alive(@pids);
	is("@left", '', 'none of its processes is left');
	@left = processes($lab);
	is("@left", '', 'and no new one');
	ok(!-e $lab->{dir}, 'nor its directory');
	like($lab->lab('down'), qr/^no lab at /m, 'down of nothing says so');
}

# ---- the mock broker

$lab = Mrsync::Lab->new(qw(us eu));
$began = time;
$output = $lab->lab('up', '--broker', 'mock', '--regions', join ',', $lab->regions);
diag(sprintf 'up on the mock broker took %.1f s', time - $began);
is($lab->state('broker'), 'mock', 'up --broker mock');
like($output, qr/\*\*\* This is librdkafka's mock cluster, not Apache Kafka.*LOST/s, 'says loudly what that is');
like($output, qr/^  $_->[0] +→ $_->[1] +\d+\.\d ms$/m, "the row from $_->[0] is shown arriving in $_->[1]") for [qw(us eu)], [qw(eu us)];
arrive($lab, 'on the mock broker');
$lab->kafka('stop');
$lab->sql('us', "INSERT INTO greetings (region, word) VALUES ('us', 'while it was cut off')");
$lab->kafka('start');
arrive($lab, 'after it was cut off');
is($lab->sql('eu', "SELECT count(*) FROM greetings WHERE word = 'while it was cut off'"), 1, 'what was written meanwhile arrives');
gone($lab, alive(processes($lab)));
done_testing;
