# A test file's own lab: servers, broker and faults through ./lab, SQL through psql.
#
#   use Mrsync::Lab;
#   my $lab = Mrsync::Lab->up(regions => ['us', 'eu', 'ap']);
#   $lab->sql('us', "INSERT INTO t VALUES (1)");
#   $lab->drain;
#   $lab->same("SELECT * FROM t ORDER BY id", "one row everywhere");
#
# Rules: a wait is for a condition, never for a time; its limit is generous, for the machine may be busy. A failing
# query dies with psql's own words and the place in the test. The lab goes away with the test, however that ends
# (MRSYNC_TEST_KEEP=1 keeps it and says where it is).
#
# Run by `./lab test`, which gives the directory, the built library and one broker for all files; by hand:
#   prove -v -Itest/t/lib test/t/01_values.t
package Mrsync::Lab;

use strict;
use warnings;
use Carp qw(croak);
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use File::Path qw(make_path);
use IPC::Open3 qw(open3);
use List::Util qw(min);
use Symbol qw(gensym);
use Test::More ();
use Time::HiRes qw(sleep time);

use Mrsync::Session;

our $PATIENCE = $ENV{MRSYNC_TEST_PATIENCE} || 180;    # seconds that any wait may take before it counts as a failure
our $LINK_PATIENCE = 60;    # the same for a link to recover: a worker that keeps failing is started again every 30 s at most

# For sql's options: values print the same whatever a region's own settings are.
our $COMPARABLE = join ' ', map { "-c $_" } qw(datestyle=ISO timezone=UTC intervalstyle=postgres bytea_output=hex extra_float_digits=1
	lc_monetary=C lc_numeric=C lc_time=C xmlbinary=base64 quote_all_identifiers=off standard_conforming_strings=on array_nulls=on);

my $home = abs_path(dirname(__FILE__) . '/../../../..');
my @labs;

# A place for a lab; nothing runs yet.
sub new
{
	my ($class, @regions) = @_;
	my $parent = $ENV{MRSYNC_TEST_DIR} || "/var/tmp/mrsync-t-$<";
	make_path($parent);
	my $self = bless {
		regions => [@regions],
		dir => "$parent/" . basename($0, '.t') . (@labs ? '-' . @labs : ''),
		lab => $ENV{MRSYNC_LAB} || "$home/lab",
	}, $class;
	$self->lab('down') if -e "$self->{dir}/.mrsync-lab";    # of a run that was killed
	push @labs, $self;
	return $self;
}

# up(regions => [...], settings => {name => value}, own_broker => 1, needs_kafka => 'why', options => ['--solo'])
# own_broker: a Kafka of its own, for tests that stop it. needs_kafka: on the mock broker the test is skipped, and this is
# the reason. Regions are linked, and hold no tables yet.
sub up
{
	my ($class, %wanted) = @_;
	my $self = $class->new(@{ $wanted{regions} || [qw(us eu ap)] });
	my $is_mock = sub { Test::More::plan(skip_all => $wanted{needs_kafka}) if $wanted{needs_kafka} && $_[0] eq 'mock' };
	$is_mock->($ENV{MRSYNC_TEST_BROKER} // '');
	my @options = ('--bare', '--regions', join(',', @{ $self->{regions} }), @{ $wanted{options} || [] });
	if ($ENV{MRSYNC_TEST_KAFKA} && !$wanted{own_broker})
	{
		# one broker serves many files: names that no other test uses
		push @options, '--broker', "external:$ENV{MRSYNC_TEST_KAFKA}", '--group', 't' . basename($0, '.t') . "_$$" . (@labs > 1 ? '_' . @labs : '');
	}
	# a second way for every test to run: all stamps are written down, as where clocks have drifted
	my %settings = (autovacuum => 'on', ($ENV{MRSYNC_TEST_OVERRIDE} ? ('mrsync.force_override' => 'on') : ()), %{ $wanted{settings} || {} });
	push @options, map { ('--set', "$_=$settings{$_}") } sort keys %settings;
	$self->lab('up', @options);
	$is_mock->($self->state('broker'));
	return $self;
}

sub regions { @{ $_[0]{regions} } }

# The other regions.
sub peers
{
	my ($self, $region) = @_;
	return grep { $_ ne $region } $self->regions;
}

# ---------------------------------------------------------------------------------------------------- the lab

# A command of ./lab; dies with its output when it fails. Returns the output.
sub lab
{
	my ($self, @command) = @_;
	my ($code, $output) = $self->lab_try(@command);
	croak "./lab @command failed:\n$output" if $code;
	return $output;
}

# (exit code, output): for what may fail.
sub lab_try
{
	my ($self, @command) = @_;
	local $ENV{MRSYNC_LAB_DIR} = $self->{dir};
	my $pid = open3(my $in, my $out, undef, $self->{lab}, @command);
	close $in;
	my $output = do { local $/; <$out> } // '';
	waitpid $pid, 0;
	return ($? >> 8 || $? & 127, $output);
}

sub start { my ($self, $region) = @_; $self->lab('start', $region); }
sub stop  { my ($self, $region) = @_; $self->lab('stop', $region); }
sub kill9 { my ($self, $region) = @_; $self->lab('kill', $region); }     # the postmaster, with kill -9
sub kafka { my ($self, $what) = @_; $self->lab('kafka', $what); }        # start, stop, kill
# A region's slot is dropped, and what it had not sent is lost. The extractor would keep it.
sub lose_slot
{
	my ($self, $region) = @_;
	$self->wait_until("the slot of $region to be dropped", sub {
		($self->sql_try($region, <<'SQL'))[0] == 0;
SELECT pg_terminate_backend(pid, 10000) FROM mrsync.worker_stat() WHERE kind = 'extractor' AND running;
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE plugin = 'mrsync';
SQL
	});
}
# Restarts a region with its clock shifted by seconds against true time.
sub clock { my ($self, $region, $seconds) = @_; $self->lab('clock', $region, sprintf '%+d', $seconds); }
# The same while it runs; the first time it is restarted.
sub clock_now { my ($self, $region, $seconds) = @_; $self->lab('clock', $region, sprintf('%+d', $seconds), 'now'); }
# After clock_now, at once: to this shift; or when a process has read its clock so many times from now on.
sub clock_step
{
	my ($self, $region, $seconds, $pid, $reads) = @_;
	my $name = "$self->{dir}/region/$region/clock.shift";
	open my $file, '+<:raw', $name or croak "$name: $!";
	seek $file, 8, 0 if $pid;
	print $file $pid ? pack('q3', $pid, $reads, $seconds) : pack('q4', $seconds, 0, 0, 0);
	close $file or croak "$name: $!";
}
sub clock_shift
{
	my ($self, $region) = @_;
	open my $file, '<:raw', "$self->{dir}/region/$region/clock.shift" or croak "no movable clock in $region: $!";
	read $file, my $bytes, 8;
	return unpack 'q', $bytes;
}

# What ./lab has written down: the first line of a file in its directory.
sub state
{
	my ($self, $name) = @_;
	open my $file, '<', "$self->{dir}/$name" or croak "no $name: $!";
	chomp(my $line = <$file>);
	return $line;
}
sub port       { my ($self, $region) = @_; return $self->state("region/$region/port"); }
sub data_dir   { my ($self, $region) = @_; return "$self->{dir}/region/$region/data"; }
sub server_log { my ($self, $region) = @_; return "$self->{dir}/region/$region/log"; }

# The broker's address, as clients use it.
sub broker { my ($self) = @_; return $self->state('kafka/address'); }

# ---------------------------------------------------------------------------------------------------- SQL

sub psql_command
{
	my ($self, $region, %options) = @_;
	my $bin = $self->{bin} //= do
	{
		my $config = $ENV{PG_CONFIG} || '/usr/lib/postgresql/15/bin/pg_config';
		chomp(my $dir = `$config --bindir`);
		$dir;
	};
	return ("$bin/psql", '-XqAt', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-h', '127.0.0.1',
		'-p', $self->port($region), '-U', $options{user} || 'postgres', '-d', $options{db} || 'lab');
}

# Runs SQL (psql's commands work, too) and returns what it prints, unaligned, without the last line end. Dies on an error.
sub sql
{
	my ($self, $region, $sql, %options) = @_;
	my ($code, $out, $err) = $self->sql_try($region, $sql, %options);
	croak "in $region: $err\nstatement: " . substr($sql, 0, 2000) . "\n" if $code;
	return $out;
}

# (exit code, output, errors and notices)
sub sql_try
{
	my ($self, $region, $sql, %options) = @_;
	local $ENV{PGOPTIONS} = $options{options} if defined $options{options};    # e.g. '-c mrsync.force_override=on'
	local $ENV{PGCLIENTENCODING} = 'UTF8';
	# psql reads a file and writes two: no pipe can fill up
	my $base = "$self->{dir}/psql.$$." . ++$self->{calls};
	open my $file, '>:encoding(UTF-8)', "$base.in" or croak "$base.in: $!";
	print $file $sql;
	close $file;
	my @command = $self->psql_command($region, %options);
	my $pid = fork // croak "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', "$base.in" or die;
		open STDOUT, '>', "$base.out" or die;
		open STDERR, '>', "$base.err" or die;
		exec @command or die;
	}
	waitpid $pid, 0;
	my $code = $? >> 8 || $? & 127;
	my ($out, $err) = map { local $/; open my $f, '<:utf8', "$base.$_" or croak $!; my $text = <$f>; $text // '' } qw(out err);
	unlink map { "$base.$_" } qw(in out err);
	chomp $out;
	return ($code, $out, $err);
}

# The same SQL in every region.
sub everywhere
{
	my ($self, $sql, %options) = @_;
	$self->sql($_, $sql, %options) for $self->regions;
}

# Creates tables in every region and adds them to replication.
sub tables
{
	my ($self, $ddl, @names) = @_;
	$self->everywhere(join "\n", $ddl, map { "SELECT mrsync.table_add(\$name\$$_\$name\$);" } @names);
}

# Whether to run this part of a file whose parts do not need one another: all are run, but for MRSYNC_TEST_PART=name.
sub part
{
	my ($self, $name) = @_;
	return ($ENV{MRSYNC_TEST_PART} // $name) eq $name;
}

# For tests that read tombstones or overrides: a region that never says how far it is keeps the stable point from being there,
# so nothing is pruned.
sub keep_memory
{
	my ($self) = @_;
	$self->everywhere("SELECT mrsync.region_connect('nobody')");
}

# A session that stays open: $s->sql(..), $s->send(..) and later $s->result.
sub session
{
	my ($self, $region, %options) = @_;
	return Mrsync::Session->new([ $self->psql_command($region, %options) ], $region, %options);
}

# ---------------------------------------------------------------------------------------------------- waiting

# Polls until the code returns true; dies after $PATIENCE with what was waited for and how the links are.
sub wait_until
{
	my ($self, $what, $code, $patience) = @_;
	my $end = time + ($patience || $PATIENCE);
	my $pause = 0.05;    # of long waits, too many questions would only slow down what is waited for
	while (1)
	{
		return 1 if $code->();
		last if time > $end;
		sleep $pause;
		$pause = min(0.25, 1.1 * $pause);
	}
	Test::More::diag($self->status);
	croak "waited in vain: $what";
}

# Polls until a query prints the given text (default: t).
sub wait_for
{
	my ($self, $region, $sql, $expected, $patience) = @_;
	$expected //= 't';
	my $is;
	$self->wait_until("in $region: $sql is \"$expected\"", sub { $is = $self->sql($region, $sql); $is eq $expected }, $patience);
	return $is;
}

# Marks the end of what every region has written, and lets links run, one list after the other: the next ones only when those before
# have delivered everything.
sub deliver
{
	my ($self, @rounds) = @_;
	$self->tables('CREATE TABLE marker (region text, batch integer, PRIMARY KEY (region, batch));', 'marker') if !$self->{batch}++;
	$self->everywhere("INSERT INTO marker SELECT region_id, $self->{batch} FROM mrsync.region WHERE is_local");
	for my $links (@rounds)
	{
		$self->resume(@$links);
		for (@$links)
		{
			my ($source, $target) = split />/;
			$self->wait_for($target, "SELECT count(*) FROM marker WHERE region = '$source' AND batch = $self->{batch}", 1);
		}
	}
}

# Everything committed so far, anywhere, is applied by every target of an active link.
sub drain
{
	my ($self, @regions) = @_;
	for my $region (@regions ? @regions : $self->regions)
	{
		my ($code, undef, $error) = $self->sql_try($region, "SELECT mrsync.wait_for_peers('$PATIENCE s')");
		next unless $code;
		Test::More::diag($self->status);
		croak "$region has not drained: $error";
	}
}

# Every region has in its log of conflicts what all have met so far.
sub conflicts_told
{
	my ($self) = @_;
	my $before = '';
	for my $round (1 .. 9)    # what a region is told it may complete, and tell again
	{
		$self->wait_for($_, 'SELECT count(*) FROM mrsync.conflict_untold', 0) for $self->regions;
		my %hlc = map { $_ => $self->sql($_, 'SELECT mrsync.current_hlc()') } $self->regions;
		my %at;
		for my $region ($self->regions)
		{
			# on the control topic, its heartbeat comes behind them
			$self->wait_for($region, "SELECT h.hlc OPERATOR(mrsync.>) '$hlc{$_}' AND p.applied_watermark OPERATOR(mrsync.>=) p.watermark FROM mrsync.heartbeat h JOIN mrsync.peer_stat() p USING (region_id) WHERE region_id = '$_'") for $self->peers($region);
			$self->wait_for($region, 'SELECT count(*) FROM mrsync.conflict_report', 0);
			$at{$region} = $self->sql($region, 'SELECT clock_timestamp()');
		}
		# then the coordinator goes round once more, also after a step that had failed
		for my $region ($self->regions)
		{
			my $beat = "FROM mrsync.heartbeat WHERE region_id = '$region'";
			$self->wait_for($region, "SELECT sent_at > '$at{$region}'::timestamptz + interval '1.1 s' $beat");
			my $seen = $self->sql($region, "SELECT sent_at $beat");
			$self->wait_for($region, "SELECT sent_at > '$seen' $beat");
		}
		my $now = join ' ', map { $self->sql($_, "SELECT md5(string_agg(to_jsonb(c)::text, ' ' ORDER BY conflict_id)) FROM mrsync.conflict_log c") } $self->regions;
		last if $round > 1 && $now eq $before;
		$before = $now;
	}
}

# For tests of what each region meets by itself: what it is told of conflicts does not get into its log, until they are told anew.
sub conflicts_apart
{
	my ($self) = @_;
	$self->everywhere(<<'SQL');
CREATE FUNCTION public.is_met() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	RETURN CASE WHEN NOT EXISTS (SELECT FROM mrsync.worker_stat() WHERE kind = 'coordinator' AND pid = pg_backend_pid()) THEN NEW END;
END $$;
CREATE TRIGGER is_met BEFORE INSERT ON mrsync.conflict_log FOR EACH ROW EXECUTE FUNCTION public.is_met();
ALTER TABLE mrsync.conflict_log ENABLE ALWAYS TRIGGER is_met;
SQL
}
sub conflicts_retold
{
	my ($self) = @_;
	$self->everywhere('DROP FUNCTION public.is_met() CASCADE', options => '-c client_min_messages=warning');
	$self->everywhere('INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM mrsync.conflict_log');
	$self->conflicts_told;
}

# What all regions' logs say, but for when they met it.
our $CONFLICTS = "SELECT to_jsonb(c) - 'resolved_at' FROM mrsync.conflict_log c ORDER BY conflict_id";
# Of sides a and b: entries whose event has no name, though its transaction had that one only.
our $UNNAMED = join ' UNION ALL ', map { "SELECT count(*) FROM mrsync.conflict_log c JOIN mrsync.applied_event t ON t.region_id = c.region_$_ AND t.hlc OPERATOR(mrsync.=) c.hlc_$_ WHERE c.event_id_$_ IS NULL AND t.event_id = t.last_event_id" } qw(a b);

sub status
{
	my ($self) = @_;
	my ($code, $output) = $self->lab_try('status');
	my $parked = join "\n", map
	{
		my $region = $_;
		my ($failed, $rows) = $self->sql_try($region,
			"SELECT source_region, table_name, left(row_pk::text, 200), operation, sqlstate, message, detail FROM mrsync.apply_error ORDER BY error_id LIMIT 10");
		$failed || $rows eq '' ? () : "parked in $region:\n$rows";
	} $self->regions;
	return "$output\n$parked";
}

# ---------------------------------------------------------------------------------------------------- links

sub link_id
{
	my ($self, $source, $target) = @_;
	return $self->sql($target, "SELECT link_id FROM mrsync.replication_link WHERE source_region = '$source' AND target_region = '$target'");
}

# Pauses links, given as 'us>eu', or all, and waits until their appliers have stopped.
sub pause
{
	my ($self, @links) = @_;
	@links = $self->links unless @links;
	for (@links)
	{
		my ($source, $target) = split />/;
		$self->sql($target, "SELECT mrsync.link_pause('" . $self->link_id($source, $target) . "')");
	}
	for (@links)
	{
		my ($source, $target) = split />/;
		$self->wait_for($target, "SELECT count(*) FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = '$source' AND running", 0);
	}
}

sub resume
{
	my ($self, @links) = @_;
	@links = $self->links unless @links;
	for (@links)
	{
		my ($source, $target) = split />/;
		$self->sql($target, "SELECT mrsync.link_resume('" . $self->link_id($source, $target) . "')");
	}
}

sub links
{
	my ($self) = @_;
	my @links;
	for my $source ($self->regions) { push @links, map { "$source>$_" } $self->peers($source) }
	return @links;
}

# ---------------------------------------------------------------------------------------------------- assertions

# The query says the same in every region; returns what it says in the first one.
sub same
{
	my ($self, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($first, @others) = $self->regions;
	my $expected = $self->sql($first, $sql, options => $COMPARABLE);
	my $all = 1;
	for my $region (@others)
	{
		my $is = $self->sql($region, $sql, options => $COMPARABLE);
		next if $is eq $expected;
		$all = 0;
		Test::More::diag(first_difference($first, $expected, $region, $is));
	}
	Test::More::ok($all, $name);
	return $expected;
}

# Nothing is parked or held aside anywhere, no link is degraded or down.
sub healthy
{
	my ($self, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @trouble;
	for my $region ($self->regions)
	{
		my $rows = $self->sql($region, "SELECT source_region, table_name, operation, sqlstate, message, detail FROM mrsync.apply_error ORDER BY error_id LIMIT 5");
		push @trouble, "$region: $rows" if $rows ne '';
		my $aside = $self->sql($region, 'SELECT relation, row_pk, message FROM mrsync.row_aside ORDER BY aside_id LIMIT 5');
		push @trouble, "$region: $aside" if $aside ne '';
		# status is written once a second, and what a restart takes may not be over; state is of this moment
		my $end = time + (@trouble ? 0 : $LINK_PATIENCE);
		while (($rows = $self->sql($region, "SELECT source_region, target_region, status, state FROM mrsync.link_status WHERE status = 'degraded' OR state ~ '^(degraded|down)'")) ne '' && time < $end)
		{
			sleep 0.05;
		}
		push @trouble, "$region: $rows" if $rows ne '';
	}
	Test::More::is(join("\n", @trouble), '', $name || 'nothing is parked, no link is degraded');
}

sub first_difference
{
	my ($first, $a, $second, $b) = @_;
	my @a = split /\n/, $a;
	my @b = split /\n/, $b;
	my $i = 0;
	$i++ while $i < @a && $i < @b && $a[$i] eq $b[$i];
	my $show = sub
	{
		my ($line, $other) = map { $_ // '(no line)' } @_;
		my $same = 0;    # long lines: what surrounds the difference
		$same++ while $same < length $line && $same < length $other && substr($line, $same, 1) eq substr($other, $same, 1);
		my $from = $same > 100 ? $same - 100 : 0;
		return substr $line, $from, 400;
	};
	return sprintf "line %d:\n  %s: %s\n  %s: %s", $i + 1, $first, $show->($a[$i], $b[$i]), $second, $show->($b[$i], $a[$i]);
}

# ---------------------------------------------------------------------------------------------------- the end

END
{
	my $code = $?;
	for my $lab (@labs)
	{
		if ($ENV{MRSYNC_TEST_KEEP}) { Test::More::diag("kept: MRSYNC_LAB_DIR=$lab->{dir}") }
		else { $lab->lab_try('down') }
	}
	$? = $code;
}
$SIG{$_} = sub { Test::More::diag("ended by SIG$_[0]"); exit 130 } for qw(INT TERM HUP);

# For 30_mutants.t: one failure is all that it asks for.
if ($ENV{MRSYNC_TEST_STOP_AT_FIRST})
{
	require Test2::API;
	Test2::API::test2_stack()->top->listen(sub { my (undef, $event) = @_; exit 1 if $event->causes_fail });
}

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output todo_output);

1;
