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
use Symbol qw(gensym);
use Test::More ();
use Time::HiRes qw(sleep time);

use Mrsync::Session;

our $PATIENCE = 180;    # seconds that any wait may take before it counts as a failure

# For sql's options: values print the same whatever a region's own settings are.
our $COMPARABLE = join ' ', map { "-c $_" } qw(datestyle=ISO timezone=UTC intervalstyle=postgres bytea_output=hex extra_float_digits=1
	lc_monetary=C lc_numeric=C lc_time=C xmlbinary=base64 quote_all_identifiers=off standard_conforming_strings=on array_nulls=on);

my $home = abs_path(dirname(__FILE__) . '/../../../..');
my @labs;

# up(regions => [...], settings => {name => value}, own_broker => 1, options => ['--solo'])
# own_broker: a Kafka of its own, for tests that stop it. Regions are linked, and hold no tables yet.
sub up
{
	my ($class, %wanted) = @_;
	my $name = basename($0, '.t');
	my $parent = $ENV{MRSYNC_TEST_DIR} || "/var/tmp/mrsync-t-$<";
	make_path($parent);
	my $self = bless {
		regions => $wanted{regions} || [qw(us eu ap)],
		dir => "$parent/$name" . (@labs ? '-' . @labs : ''),
		lab => $ENV{MRSYNC_LAB} || "$home/lab",
		log => undef,
	}, $class;
	$self->lab('down') if -e "$self->{dir}/.mrsync-lab";    # of a run that was killed
	push @labs, $self;
	my @options = ('--bare', '--regions', join(',', @{ $self->{regions} }), @{ $wanted{options} || [] });
	if ($ENV{MRSYNC_TEST_KAFKA} && !$wanted{own_broker})
	{
		# one broker serves many files: names that no other test uses
		push @options, '--broker', "external:$ENV{MRSYNC_TEST_KAFKA}", '--group', "t${name}_$$" . (@labs > 1 ? '_' . @labs : '');
	}
	my %settings = (autovacuum => 'on', %{ $wanted{settings} || {} });
	push @options, map { ('--set', "$_=$settings{$_}") } sort keys %settings;
	$self->lab('up', @options);
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

sub port
{
	my ($self, $region) = @_;
	open my $file, '<', "$self->{dir}/region/$region/port" or croak "no port of $region: $!";
	chomp(my $port = <$file>);
	return $port;
}
sub data_dir   { my ($self, $region) = @_; return "$self->{dir}/region/$region/data"; }
sub server_log { my ($self, $region) = @_; return "$self->{dir}/region/$region/log"; }

# The broker's address, as clients use it.
sub broker
{
	my ($self) = @_;
	open my $file, '<', "$self->{dir}/kafka/address" or croak "no broker: $!";
	chomp(my $address = <$file>);
	return $address;
}

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
	while (1)
	{
		return 1 if $code->();
		last if time > $end;
		sleep 0.05;
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
		$self->wait_for($target, "SELECT NOT running FROM mrsync.worker_stat() WHERE kind = 'applier' AND peer = '$source'");
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

# Nothing is parked anywhere, no link is degraded.
sub healthy
{
	my ($self, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $trouble = join "\n", map
	{
		my $region = $_;
		my $rows = $self->sql($region, "SELECT source_region, table_name, operation, sqlstate, message, detail FROM mrsync.apply_error ORDER BY error_id LIMIT 5");
		$rows eq '' ? () : "$region: $rows";
	} $self->regions;
	Test::More::is($trouble, '', $name || 'nothing is parked');
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
$SIG{$_} = sub { exit 130 } for qw(INT TERM HUP);

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output todo_output);

1;
