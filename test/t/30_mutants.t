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

# invariant, the rule left out, its guard, how that notices, and what is done without the rule; of a long guard, what of it is enough
my @mutants = (
	[ 'I1', 'arrival_wins', '03_conflicts.t', qr/^not ok \d+ - .*: equal/, 'the later arrival is written, whatever the stamps say' ],
	[ 'I1', 'rewrite_forgets', '22_versions.t', qr/^not ok \d+ - .*: rows are equal/, 'a rewrite of a table writes no versions down', { MRSYNC_TEST_PART => 'late events' } ],
	[ 'I1', 'late_unfolded', '32_merges.t', qr/^not ok \d+ - round \d+: equal/, 'what comes late is not merged into the row' ],
	[ 'I1', 'forgets_overrides', '32_merges.t', qr/^not ok \d+ - a late event, with the clock of us behind: equal/, 'the stamp of an entry of a history is forgotten before the entry', { MRSYNC_TEST_PART => 'a clock behind' } ],
	[ 'I1', 'guesses', '22_versions.t', qr/^not ok \d+ - .*: what cannot be decided is parked/, 'an event wins over a version that is lost, also below the horizon', { MRSYNC_TEST_PART => 'lost for good' } ],
	[ 'I2', 'early_confirm', '11_kafka_down.t', qr/^us has not drained: /, 'the slot is moved before the broker has acknowledged', { MRSYNC_TEST_OUTAGE => 30, MRSYNC_TEST_PART => 'afterwards' } ],
	[ 'I2', 'dead_speak', '23_incarnation.t', qr/^not ok \d+ - the link does not stop at what lands late/, 'records of older incarnations count' ],
	[ 'I2', 'takes_nothing_back', '27_set_back.t', qr/^not ok \d+ - restored from a base backup: the rows/, 'a region that was set back does not take back what its topic holds' ],
	[ 'I2', 'same_number', '27_set_back.t', qr/^not ok \d+ - restored from a base backup: the rows/, 'its sequences go on where its WAL does' ],
	[ 'I3', 'conflict_id_by_arrival', '03_conflicts.t', qr/^not ok \d+ - .*each conflict has one id/, 'a conflict is named by who came first' ],
	[ 'I3', 'first_named', '05_absent_keys.t', qr/^not ok \d+ - \w+: and so says ap, where another one met the deletion/, 'a loser is named by the event that met the winner' ],
	[ 'I3', 'fails_alone', '34_merge_failures.t', qr/^waited in vain: us to have given up the same/, 'a region that gives a merge up does not tell the others', { MRSYNC_TEST_PATIENCE => 30 } ],
	[ 'I3', 'activates_alone', '31_rollout.t', qr/^not ok \d+ - (?:the others are prepared|a function of that name with another body: \w+ says which region)/, 'a rule becomes active before all regions are prepared for it' ],
	[ 'I3', 'replaced_decides', '31_rollout.t', qr/^waited in vain: in ap: SELECT DISTINCT sqlstate, message FROM mrsync\.apply_error/, 'a function that was replaced in one region decides there', { MRSYNC_TEST_PATIENCE => 30 } ],
	[ 'I3', 'tells_nothing', '28_conflict_log.t', qr/^not ok \d+ - (?:each region has the conflicts|what was met so far: the logs are equal)/, 'a region keeps to itself what it has met' ],
	[ 'I3', 'seen_by_hlc', '20_watermark.t', qr/^not ok \d+ - is in conflict with both/, 'what was overtaken by a stamp that somebody has seen counts as seen' ],
	[ 'I3', 'met_only', '28_conflict_log.t', qr/^not ok \d+ - is there, whether they have met or not/, 'of three writers of a row only those that meet are in the log' ],
	[ 'I4', 'commit_waits', '11_kafka_down.t', qr/^waited in vain: (?:the load to run|the queue of us to be full)/, 'a commit waits for the broker' ],
	[ 'I5', 'no_adopt', '04_clock.t', qr/^waited in vain: .*"eu saw ap"/, 'the clock is not raised to what is applied', { MRSYNC_TEST_PATIENCE => 30 } ],
	[ 'I6', 'partial_images', '02_event.t', qr/^not ok \d+ - is whole in both images/, 'unchanged large values are left out' ],
	[ 'I7', 'position_first', '12_large.t', qr/^not ok \d+ - the transaction is not applied yet/, 'the position is committed before the rows' ],
	[ 'I8', 'skip_gaps', '25_resend.t', qr/^not ok \d+ - eu stops at the hole/, 'a gap in the chain is passed over' ],
	[ 'I8', 'forgets_holes', '25_resend.t', qr/^not ok \d+ - eu stops at the hole/, 'what was committed before a new slot is not known to be missing' ],
	[ 'I8', 'mends_too_early', '25_resend.t', qr/^not ok \d+ - eu does not go on behind a resend that had begun before/, 'any whole resend mends a gap' ],
	[ 'I8', 'resend_no_aside', '25_resend.t', qr/^not ok \d+ - a resend met after a restart: nicks is the same everywhere/, 'a resend leaves out the rows held aside' ],
	[ 'I9', 'as_superuser', '13_parked.t', qr/^not ok \d+ - triggers run as the table's owner/, 'the applier keeps its own rights' ],
	[ 'I10', 'no_catch', '18_region_init.t', qr/^not ok \d+ - /, 'exceptions cross into PostgreSQL' ],
	[ 'I11', 'no_override', '04_clock.t', qr/^waited in vain: .*"eu saw ap"/, 'a stamp that the commit timestamp does not say is not written down', { MRSYNC_TEST_PATIENCE => 30 } ],
	[ 'I11', 'prepared_at_once', '21_stamps.t', qr/^not ok \d+ - COMMIT PREPARED waits until time is past all stamps/, 'COMMIT PREPARED does not wait', { MRSYNC_TEST_PART => 'two-phase commit' } ],
	[ 'I11', 'foreign_unstamped', '21_stamps.t', qr/^not ok \d+ - what comes late is stamped above what it overwrites/, 'a write under a foreign origin keeps the commit timestamp of its source', { MRSYNC_TEST_PART => 'a subscription' } ],
	[ 'I11', 'late_unwritten', '21_stamps.t', qr/^not ok \d+ - .*: the stamp is above what it overwrote/, 'the clock steps back in the middle of a commit, and its stamp is not written down', { MRSYNC_TEST_PART => 'steps back' } ],
	[ 'I12', 'look_before', '05_absent_keys.t', qr/^not ok \d+ - .*all regions are the same/, 'deletions are looked for before the key is held' ],
	[ 'I13', 'first_stays', '26_unique.t', qr/^not ok \d+ - .*is the same everywhere/, 'of rows that exclude each other the one that came first stays' ],
	[ 'I13', 'evicts_made', '37_losers.t', qr/^waited in vain: its other value taken: /, 'a row that was made to fit, and has to leave, is held aside as it was made', { MRSYNC_TEST_PART => 'chains', MRSYNC_TEST_PATIENCE => 30 } ],
	[ 'I8', 'resend_no_history', '38_resend_merged.t', qr/^not ok \d+ - /, 'a resend sends merged rows as they are, and not what they were merged of' ],
	[ 'I8', 'resend_row_counts', '38_resend_merged.t', qr/^not ok \d+ - seen in part: /, 'a merged row that is sent again replaces what its events have made with others' ],
	[ 'I8', 'resend_made', '25_resend.t', qr/^not ok \d+ - and what is held aside is, too/, 'a resend sends rows as they were made to fit' ],
	[ 'W', 'no_bounds', '20_watermark.t', qr/^not ok \d+ - (?:a region promises nothing beyond|and nobody believes to be past it|the stable point waits, too)/, 'a region promises more than it is about to commit' ],
);
my @intact = ('05_absent_keys.t', '15_ddl.t');

make_path("$dir/log");
chmod 0755, $parent, $dir;
system("make -C '$home' -j2 mutants >'$dir/log/build' 2>&1") == 0 or BAIL_OUT("the library with the switch does not build:\n" . `tail -n 20 '$dir/log/build'`);
chomp(my $config = `'$home/test/bed/mutant_server' '$home/build/mutants/mrsync.so' '$dir/pg'`);
BAIL_OUT('the server with that library cannot be made') if $?;

my %running;    # pid => job
sub start
{
	my ($job) = @_;
	my $name = $job->{mutant} || "intact-$job->{file}";
	$job->{log} = "$dir/log/$name";
	$job->{began} = time;
	my $pid = fork // die "fork: $!";
	$running{$pid} = $job;
	return if $pid;
	make_path("$dir/$name");
	chmod 0755, "$dir/$name";
	open STDOUT, '>', $job->{log} or die;
	open STDERR, '>&', \*STDOUT or die;
	delete @ENV{qw(HARNESS_ACTIVE TEST_ACTIVE)};
	@ENV{qw(PG_CONFIG MRSYNC_TEST_DIR MRSYNC_LAB_BUILT)} = ($config, "$dir/$name", 1);
	# the first failure is enough, and whatever is to come comes soon
	@ENV{qw(MRSYNC_MUTANT MRSYNC_TEST_PATIENCE MRSYNC_TEST_STOP_AT_FIRST)} = ($job->{mutant}, 60, 1) if $job->{mutant};
	@ENV{ keys %{ $job->{settings} } } = values %{ $job->{settings} };
	exec $^X, "-I$here/lib", "$here/$job->{file}" or die;
}

# Waits until one of those that run has ended, and judges it.
sub end_one
{
	my $pid = wait;
	my $code = $?;
	my $job = delete $running{$pid} or die "no child $pid";
	open my $log, '<', $job->{log} or die "$job->{log}: $!";
	my @lines = <$log>;
	my $took = sprintf '%d s', time - $job->{began};
	diag(@lines) if defined $ENV{MRSYNC_MUTANT_ONLY};
	if (!$job->{mutant})
	{
		ok($code == 0, "every rule in place: $job->{file} passes") or diag(@lines[ @lines > 40 ? -40 .. -1 : 0 .. $#lines ]);
		note("  $took");
		return;
	}
	my ($caught) = grep { /$job->{notices}/ } @lines;
	chomp($caught //= '');
	ok($code != 0 && $caught, "$job->{invariant}: $job->{story} ($job->{mutant}): $job->{file} fails")
		or diag("exit $code\n", @lines[ @lines > 40 ? -40 .. -1 : 0 .. $#lines ]);
	note("  $took, caught by: $caught");
}

my @jobs = map { { invariant => $_->[0], mutant => $_->[1], file => $_->[2], notices => $_->[3], story => $_->[4], settings => $_->[5] // {} } } @mutants;
unshift @jobs, map { { mutant => '', file => $_, settings => {} } } @intact;
@jobs = grep { $_->{mutant} eq $ENV{MRSYNC_MUTANT_ONLY} } @jobs if defined $ENV{MRSYNC_MUTANT_ONLY};
plan tests => scalar @jobs;

# Two at a time: most of a run is waiting.
my $most = $ENV{MRSYNC_TEST_JOBS} || (`nproc` > 1 ? 2 : 1);
for my $job (@jobs)
{
	end_one() while keys %running >= $most;
	start($job);
}
end_one() while %running;
remove_tree("$dir/pg");
