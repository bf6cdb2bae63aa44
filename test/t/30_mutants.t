# Each invariant is guarded by a test that fails without it: here they are made to fail.
#
# A build of the library with MRSYNC_MUTANTS can leave out one rule (src/core/mutant.h). For each rule the test that
# docs/invariants.md names as its guard is run on servers with that library, and has to fail in one of its assertions. The
# same library with every rule in place has to pass.
#
# MRSYNC_MUTANT_ONLY=name: that one alone, with the guard's output.
use strict;
use warnings;
use File::Path qw(make_path remove_tree);
use File::Basename qw(dirname);
use Cwd qw(abs_path);
use Test::More;

my $here = abs_path(dirname(__FILE__));
my $home = abs_path("$here/../..");
my $parent = $ENV{MRSYNC_TEST_DIR} || "/var/tmp/mrsync-t-$<";
my $dir = "$parent/mutants";

# invariant, the rule left out, its guard; and what every rule in place means for a guard that is quick
my @mutants = (
	[ 'I1', 'arrival_wins', '03_conflicts.t', 'the later arrival is written, whatever the stamps say' ],
	[ 'I2', 'early_confirm', '11_kafka_down.t', 'the slot is moved before the broker has acknowledged' ],
	[ 'I3', 'conflict_id_by_arrival', '03_conflicts.t', 'a conflict is named by who came first' ],
	[ 'I4', 'commit_waits', '11_kafka_down.t', 'a commit waits for the broker' ],
	[ 'I5', 'no_adopt', '04_clock.t', 'the clock is not raised to what is applied' ],
	[ 'I6', 'partial_images', '02_event.t', 'unchanged large values are left out' ],
	[ 'I7', 'position_first', '12_large.t', 'the position is committed before the rows' ],
	[ 'I8', 'skip_gaps', '14_links.t', 'a gap in the chain is passed over' ],
	[ 'I9', 'as_superuser', '13_parked.t', 'the applier keeps its own rights' ],
	[ 'I10', 'no_catch', '15_ddl.t', 'exceptions cross into PostgreSQL' ],
	[ 'I11', 'no_override', '04_clock.t', 'a stamp that the commit timestamp does not say is not written down' ],
	[ 'I12', 'look_before', '05_absent_keys.t', 'deletions are looked for before the key is held' ],
);
my @intact = ('05_absent_keys.t', '15_ddl.t');

make_path("$dir/log");
chmod 0755, $parent, $dir;
system("make -C '$home' -j2 mutants >'$dir/log/build' 2>&1") == 0 or BAIL_OUT("the library with the switch does not build:\n" . `tail -n 20 '$dir/log/build'`);
chomp(my $config = `'$home/test/bed/mutant_server' '$home/build/mutants/mrsync.so' '$dir/pg'`);
BAIL_OUT('the server with that library cannot be made') if $?;

sub start
{
	my ($mutant, $file) = @_;
	my $name = $mutant || "intact-$file";
	my $pid = fork // die "fork: $!";
	return { pid => $pid, log => "$dir/log/$name" } if $pid;
	make_path("$dir/$name");
	chmod 0755, "$dir/$name";
	open STDOUT, '>', "$dir/log/$name" or die;
	open STDERR, '>&', \*STDOUT or die;
	delete @ENV{qw(HARNESS_ACTIVE TEST_ACTIVE)};
	@ENV{qw(PG_CONFIG MRSYNC_TEST_DIR MRSYNC_LAB_BUILT)} = ($config, "$dir/$name", 1);
	# the first failure is enough, and whatever is to come comes soon
	@ENV{qw(MRSYNC_MUTANT MRSYNC_TEST_PATIENCE MRSYNC_TEST_STOP_AT_FIRST)} = ($mutant, 30, 1) if $mutant;
	exec $^X, "-I$here/lib", "$here/$file" or die;
}

sub finish
{
	my ($run) = @_;
	waitpid $run->{pid}, 0;
	my $code = $?;
	open my $file, '<', $run->{log} or die "$run->{log}: $!";
	my @lines = <$file>;
	return ($code, @lines);
}

my @jobs = map { { invariant => $_->[0], mutant => $_->[1], file => $_->[2], story => $_->[3] } } @mutants;
unshift @jobs, map { { mutant => '', file => $_ } } @intact;
@jobs = grep { $_->{mutant} eq $ENV{MRSYNC_MUTANT_ONLY} } @jobs if defined $ENV{MRSYNC_MUTANT_ONLY};
plan tests => scalar @jobs;

# two at a time: most of it is waiting
my @running;
while (@jobs || @running)
{
	while (@jobs && @running < 2)
	{
		my $job = shift @jobs;
		push @running, { %$job, run => start($job->{mutant}, $job->{file}) };
	}
	my $job = shift @running;
	my ($code, @lines) = finish($job->{run});
	diag(@lines) if defined $ENV{MRSYNC_MUTANT_ONLY};
	if (!$job->{mutant})
	{
		ok($code == 0, "every rule in place: $job->{file} passes") or diag(@lines[ @lines > 40 ? -40 .. -1 : 0 .. $#lines ]);
		next;
	}
	# by an assertion, or by a wait that found out: not because the servers could not even be started
	my ($caught) = grep { /^not ok|waited in vain|server closed the connection|terminated abnormally/ } @lines;
	chomp($caught //= '');
	ok($code != 0 && $caught, "$job->{invariant}: $job->{story} ($job->{mutant}): $job->{file} fails")
		or diag("exit $code\n", @lines[ @lines > 40 ? -40 .. -1 : 0 .. $#lines ]);
	note("  caught by: $caught");
}
remove_tree("$dir/pg");
