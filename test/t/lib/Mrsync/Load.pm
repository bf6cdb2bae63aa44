# Load and faults for cluster tests: pgbench that goes on while servers die under it, workers' pids, their memory.
#
#   my $load = Mrsync::Load->start($lab, 'us', scripts => ["UPDATE ...;"], clients => 2, rate => 50);
#   kill9($lab, 'us', worker_pid($lab, 'us', 'extractor'));
#   $load->stop;
#
# Whoever forks here leaves by POSIX::_exit: a child that reached the test's END blocks would take the lab down.
package Mrsync::Load;

use strict;
use warnings;
use Carp qw(croak);
use Exporter 'import';
use POSIX ();
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(worker_pid worker_state kill9 terminate rss_mb memory_watch ask percentile log_trouble);

my @running;

# scripts => [text or [text, weight], ...]; clients, rate (per second, all clients together); log => 1: latencies() can
# be asked for; keep_going => 0: ends with the first failure instead of connecting again; db: another one of the server's databases.
sub start
{
	my ($class, $lab, $region, %options) = @_;
	my $base = "$lab->{dir}/load-$region-" . ++$lab->{loads};
	my @files;
	for (@{ $options{scripts} })
	{
		my ($text, $weight) = ref $_ ? @$_ : ($_, 1);
		my $name = "$base." . @files / 2 . '.sql';
		open my $file, '>', $name or croak "$name: $!";
		print $file $text;
		CORE::close $file;
		push @files, '-f', "$name\@$weight";
	}
	my ($psql) = $lab->psql_command($region);
	my @command = ($psql =~ s/psql$/pgbench/r, '-n', @files, '-c', $options{clients} // 2, '-T', 100000,
		'--max-tries=50', ($options{rate} ? ('-R', $options{rate}) : ()), ($options{log} ? ('-l', "--log-prefix=$base.log") : ()),
		'-h', '127.0.0.1', '-p', $lab->port($region), '-U', 'postgres', $options{db} // 'lab');
	my $self = bless { lab => $lab, region => $region, base => $base, owner => $$, db => $options{db} // 'lab' }, $class;
	my $keep_going = $options{keep_going} // 1;
	$self->{pid} = fork // croak "fork: $!";
	if (!$self->{pid})
	{
		my ($stopped, $child);
		$SIG{INT} = 'IGNORE';
		$SIG{TERM} = sub { $stopped = 1; kill 'TERM', $child if $child };
		while (!$stopped)
		{
			$child = fork // POSIX::_exit(1);
			if (!$child)
			{
				$SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
				open STDIN, '<', '/dev/null';
				open STDOUT, '>>', "$base.out";
				open STDERR, '>>', "$base.err";
				exec @command or POSIX::_exit(127);
			}
			kill 'TERM', $child if $stopped;
			1 while waitpid($child, 0) == -1 && $!{EINTR};
			last if !$keep_going;
			sleep 0.1 if !$stopped;    # no faster than a server comes back
		}
		POSIX::_exit(0);
	}
	push @running, $self;
	return $self;
}

sub stop
{
	my ($self) = @_;
	return if $self->{stopped}++ || $self->{owner} != $$;
	kill 'TERM', $self->{pid};
	local $?;
	waitpid $self->{pid}, 0;
}

# The same, and waits until what pgbench had begun has ended, too: a backend goes on with its statement, and commits.
sub finish
{
	my ($self) = @_;
	$self->stop;
	$self->{lab}->wait_until("the load's last transactions in $self->{region}",
		sub { (ask($self->{lab}, $self->{region}, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench' AND datname = '$self->{db}'") // 1) == 0 });
}

sub errors
{
	my ($self) = @_;
	open my $file, '<', "$self->{base}.err" or return '';
	return join '', grep { !/^pgbench \(|^progress|SIGTERM|terminat/ } <$file>;
}

# [end (epoch seconds), latency (ms; from the scheduled start)] of every transaction so far, in order; 'failed' ones
# have no latency.
sub latencies
{
	my ($self) = @_;
	my @all;
	for my $name (glob "$self->{base}.log.*")
	{
		open my $file, '<', $name or next;
		while (my $line = <$file>)
		{
			my ($latency, $second, $micro) = $line =~ /^\d+ \d+ (\d+|failed|skipped) \d+ (\d+) (\d+)/ or next;
			push @all, [ $second + $micro / 1e6, $latency =~ /^\d/ ? $latency / 1000 : undef ];
		}
	}
	@all = sort { $a->[0] <=> $b->[0] } @all;
	return @all;
}

# percentile 0.99, @numbers
sub percentile
{
	my ($p, @numbers) = @_;
	@numbers = sort { $a <=> $b } @numbers;
	return $numbers[ int($p * $#numbers + 0.5) ];
}

# A query's answer, or undef where the server is not there to answer.
sub ask
{
	my ($lab, $region, $sql) = @_;
	my ($code, $out) = $lab->sql_try($region, $sql);
	return $code ? undef : $out;
}

# The pid of a worker ('coordinator', 'extractor', 'applier' from a peer), or undef.
sub worker_pid
{
	my ($lab, $region, $kind, $peer) = @_;
	my $of = defined $peer ? "AND peer = '$peer'" : '';
	return ask($lab, $region, "SELECT pid FROM mrsync.worker_stat() WHERE kind = '$kind' $of AND running") || undef;
}

# What worker_status says of it.
sub worker_state
{
	my ($lab, $region, $kind, $peer) = @_;
	my $of = defined $peer ? "AND source_region = '$peer'" : '';
	return ask($lab, $region, "SELECT state FROM mrsync.worker_status WHERE worker = '$kind' $of") // '(no answer)';
}

# kill -9 of a process of one of the lab's own servers; false when it is none, or gone.
sub kill9
{
	my ($lab, $region, $pid) = @_;
	return unless $pid && (readlink("/proc/$pid/cwd") // '') eq $lab->data_dir($region);
	return kill 'KILL', $pid;
}

# Ends a worker in the orderly way, as pg_terminate_backend does.
sub terminate
{
	my ($lab, $region, $pid) = @_;
	return $pid && ask($lab, $region, "SELECT pg_terminate_backend($pid)");
}

# What a process has in memory for itself, without shared buffers; undef when it is gone.
sub rss_mb
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/status" or return;
	return join('', <$file>) =~ /^RssAnon:\s+(\d+) kB/m ? $1 / 1024 : undef;
}

# Lines of a server's log that no fault explains: internal errors, leaks, failed assertions, crashes by other signals
# than the test's own -9.
sub log_trouble
{
	my ($lab, $region) = @_;
	open my $file, '<', $lab->server_log($region) or return '';
	my %seen;
	while (my $line = <$file>)
	{
		next unless $line =~ /\bleak|PANIC|TRAP:|is not owned by|terminated by signal (?!9\b)|could not (?:read|find) WAL/;
		$seen{ $line =~ s/^\S+ \S+ \S+ \[\d+\] //r } = 1;
	}
	return join '', (sort keys %seen)[ 0 .. (keys %seen > 10 ? 9 : keys(%seen) - 1) ];
}

# memory_watch(sub { (name => pid, ...) }): takes a sample of each that is there whenever it is called; {name => [MB, ...]}
sub memory_watch
{
	my ($processes) = @_;
	my %seen;
	return sub
	{
		my %pids = $processes->();
		for my $name (keys %pids)
		{
			my $mb = rss_mb($pids{$name}) // next;
			push @{ $seen{$name} }, $mb;
		}
		return \%seen;
	};
}

END { local $?; $_->stop for @running }

1;
