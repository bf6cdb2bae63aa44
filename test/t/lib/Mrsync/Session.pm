# A psql that stays open: transactions that span several calls, statements that wait.
package Mrsync::Session;

use strict;
use warnings;
use Carp qw(croak);
use IPC::Open3 qw(open3);
use IO::Select;

sub new
{
	my ($class, $command, $region, %options) = @_;
	local $ENV{PGOPTIONS} = $options{options} if defined $options{options};
	# stderr goes to stdout: one stream, in order. No ON_ERROR_STOP: the session outlives a failing statement.
	my $pid = open3(my $in, my $out, undef, @$command, '-v', 'ON_ERROR_STOP=0');
	$in->autoflush(1);
	return bless { pid => $pid, in => $in, out => $out, region => $region, count => 0, buffer => '' }, $class;
}

# Starts statements without waiting for them.
sub send
{
	my ($self, $sql) = @_;
	my $mark = 'mark-' . ++$self->{count};
	$self->{waiting} = $mark;
	utf8::encode($sql);
	print { $self->{in} } "$sql\n;\n\\echo $mark\n";
}

# What they printed, errors included; waits for their end.
sub result
{
	my ($self, $patience) = @_;
	my $end = time + ($patience || $Mrsync::Lab::PATIENCE);
	my $select = IO::Select->new($self->{out});
	my $text;
	until (defined $text)
	{
		if ($self->{buffer} =~ s/\A(.*?)^\Q$self->{waiting}\E\n//ms)
		{
			$text = $1;
			last;
		}
		croak "the session in $self->{region} does not answer" if time > $end;
		next unless $select->can_read(1);
		my $got = sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer};
		croak "the session in $self->{region} has ended: $self->{buffer}" unless $got;
	}
	utf8::decode($text);
	chomp $text;
	return $text;
}

# True when the statements sent have not ended yet.
sub busy
{
	my ($self) = @_;
	my $select = IO::Select->new($self->{out});
	while ($select->can_read(0))
	{
		sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer}) or return 0;
	}
	return $self->{buffer} !~ /^\Q$self->{waiting}\E$/m;
}

# Runs statements and returns what they print; dies on an error.
sub sql
{
	my ($self, $sql) = @_;
	$self->send($sql);
	my $text = $self->result;
	croak "in $self->{region}: $text\nstatement: $sql\n" if $text =~ /^(psql:[^\n]*)?(ERROR|FATAL):/m;
	return $text;
}

sub close
{
	my ($self) = @_;
	return unless $self->{pid};
	CORE::close $self->{in};
	waitpid delete $self->{pid}, 0;
}

# A test that ends in the middle does not wait for what its sessions wait for.
sub DESTROY
{
	my ($self) = @_;
	local $?;
	kill 'TERM', $self->{pid} if $self->{pid};
	$self->close;
}

1;
