package Mrsync::Lab;

# A private lab for one cluster test: real PostgreSQL servers, linked with each other over a real Kafka.
#
#   use Mrsync::Lab;
#   my $lab = Mrsync::Lab->new(regions => [qw(us eu ap)], schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
#   $lab->psql('us', "INSERT INTO t VALUES (1, 'one')");
#   $lab->settle;                       # everything committed so far is applied everywhere
#   $lab->all_equal('t');               # a test of its own
#   done_testing();
#
# The lab is gone when the test ends, however it ends. Waits are for conditions, and say what they saw when they give up.
#
# Kafka: `./lab test` starts one for all files (MRSYNC_TEST_KAFKA) and a replication group keeps each lab's topics apart.
# A test that does something to Kafka says kafka => 'own'. Run by hand (prove -Itest/t/lib test/t/x.t) a test starts its
# own.

use strict;
use warnings;

use Carp qw(croak);
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use IO::Handle;
use IPC::Open3 qw(open3);
use POSIX qw(:sys_wait_h);
use Symbol qw(gensym);
use Test::More;
use Time::HiRes qw(sleep time);

my $top = abs_path(dirname(__FILE__) . '/../../../..');
my %live; # labs to be taken down whatever happens

# ---------------------------------------------------------------------------------------------------- making one

# regions  => names ([qw(us eu ap)])
# kafka    => 'shared' (where there is one) or 'own'
# broker   => 'kafka' or 'mock', for an own one; left out: whichever can be had
# settings => { name => value } for every postgresql.conf
# schema   => SQL run in every region; then all tables of schema public are added to replication
# name     => of the lab's directory and group (from the test's file name); only a second lab in one test needs it
sub new {
    my ($class, %arg) = @_;
    my $name = $arg{name} // basename($0, '.t');
    $name =~ s/[^A-Za-z0-9]+/_/g;
    my $self = bless {
        regions => $arg{regions} // [qw(us eu ap)],
        kafka => $arg{kafka} // 'shared',
        group => "${name}_$$",
        script => $ENV{MRSYNC_LAB} // "$top/lab",
        owner => $$,
        loads => [],
    }, $class;
    my $under = $ENV{MRSYNC_TEST_DIR} // '/var/tmp';
    $self->{dir} = "$under/mrsync-$self->{group}";

    my @up = ('up', '--bare', '--regions', join(',', @{ $self->{regions} }), '--group', $self->{group});
    if ($self->{kafka} eq 'shared' && $ENV{MRSYNC_TEST_KAFKA}) {
        push @up, '--broker', "external:$ENV{MRSYNC_TEST_KAFKA}";
    }
    elsif (my $broker = $arg{broker} // $ENV{MRSYNC_TEST_BROKER}) {
        push @up, '--broker', $broker;
    }
    my $settings = $arg{settings} // {};
    push @up, '--set', "$_=$settings->{$_}" for sort keys %$settings;

    $live{"$self"} = $self->{dir};
    $self->lab(@up);
    $self->{port}{$_} = $self->_read("region/$_/port") for @{ $self->{regions} };
    if (defined $arg{schema}) {
        $self->everywhere($arg{schema});
        $self->everywhere("SELECT mrsync.table_add_all('public')");
    }
    return $self;
}

sub regions { return @{ $_[0]{regions} } }
sub port { return $_[0]{port}{ $_[1] } // croak "no region $_[1]" }
sub brokers { return $_[0]->_read('kafka/address') }
sub is_mock { return ($_[0]->_read('broker') eq 'external' ? $ENV{MRSYNC_TEST_BROKER} // '' : $_[0]->_read('broker')) eq 'mock' }

# ./lab ARGS on this lab; dies with its words when it fails.
sub lab {
    my ($self, @arg) = @_;
    local $ENV{MRSYNC_LAB_DIR} = $self->{dir};
    my ($status, $out, $err) = _run([ $self->{script}, @arg ]);
    croak "lab @arg failed:\n$out$err" if $status;
    return $out;
}

# ---------------------------------------------------------------------------------------------------- SQL

# What the statements print (unaligned, columns separated by |), without the last line end. Dies on an error.
sub psql {
    my ($self, $region, $sql, %arg) = @_;
    my ($status, $out, $err) = $self->_psql($region, $sql, %arg);
    croak "$region: $err  in: $sql" if $status;
    chomp $out;
    return $out;
}

# The error's text; the empty string when there is none. With VERBOSITY=verbose, so that SQLSTATE, DETAIL and HINT are
# in it.
sub psql_err {
    my ($self, $region, $sql, %arg) = @_;
    my ($status, $out, $err) = $self->_psql($region, "\\set VERBOSITY verbose\n$sql", %arg);
    return $status ? $err : '';
}

# The same in every region, in their order; the outputs.
sub everywhere {
    my ($self, $sql, %arg) = @_;
    return map { $self->psql($_, $sql, %arg) } $self->regions;
}

sub _psql {
    my ($self, $region, $sql, %arg) = @_;
    my $db = $arg{db} // 'lab';
    my $user = $arg{user} // 'postgres';
    local $ENV{PGOPTIONS} = $arg{options} // '';
    return _run(
        [ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-h', '127.0.0.1', '-p', $self->port($region), '-U', $user, '-d', $db, '-f', '-' ],
        $sql);
}

# ---------------------------------------------------------------------------------------------------- waiting

# Polls until the code returns true, at most $timeout (60) seconds. Errors in it count as false: a server may be down.
# Dies, with the last thing the code said (its error, or what $said returns), when the time is up.
sub wait_until {
    my ($self, $what, $condition, $timeout, $said) = @_;
    my $until = time + ($timeout // 60);
    my $last = '';
    while (1) {
        my $ok = eval { $condition->() };
        return $ok if $ok;
        $last = $@ if $@;
        last if time > $until;
        sleep 0.02;
    }
    $last = $said->() if $said;
    croak "waited in vain for $what" . ($last ne '' ? ": $last" : '');
}

# Polls a query until it gives what is expected; a test of its own.
sub poll_query {
    my ($self, $region, $sql, $expected, $timeout, $name) = @_;
    $expected //= 't';
    my $got = '';
    my $ok = eval {
        $self->wait_until("$region: $sql", sub { ($got = $self->psql($region, $sql)) eq $expected }, $timeout);
        1;
    };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $name //= "$region: $sql";
    ok($ok, $name) or diag("expected: $expected\nlast seen: $got\n$@", $self->diagnosis);
    return $ok;
}

# Everything that was committed anywhere before this call is applied everywhere when it returns.
sub settle {
    my ($self, $timeout) = @_;
    $timeout //= 60;
    $self->psql($_, "SELECT mrsync.wait_for_peers('$timeout s')") for $self->regions;
    return;
}

# ---------------------------------------------------------------------------------------------------- comparing

# A table's rows in all regions, in one order: equal, or the test fails and shows which rows differ.
# columns: what to compare (*); db: the database; where: a condition.
sub all_equal {
    my ($self, $table, %arg) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $name = $arg{name} // "$table is equal in " . join(', ', $self->regions);
    my $columns = $arg{columns} // '*';
    my $where = defined $arg{where} ? "WHERE $arg{where}" : '';
    # Text forms depend on settings that a region may have set its own way.
    my $set = "SET DateStyle = ISO; SET TimeZone = 'UTC'; SET IntervalStyle = postgres; SET bytea_output = hex; SET extra_float_digits = 1;";
    my $rows = "(SELECT (r.*)::text AS line FROM (SELECT $columns FROM $table $where) r)";
    my @regions = $self->regions;
    my %sum = map {
        $_ => $self->psql($_, "$set SELECT count(*) || ' rows, md5 ' || coalesce(md5(string_agg(md5(line), '' ORDER BY line COLLATE \"C\")), '-') FROM $rows q", %arg)
    } @regions;
    my ($first, @others) = @regions;
    my @differing = grep { $sum{$_} ne $sum{$first} } @others;
    return pass($name) unless @differing;

    fail($name);
    diag("$_: $sum{$_}") for @regions;
    my %lines = map {
        my $region = $_;
        $region => { map { $_ => 1 } split /\n/, $self->psql($region, "$set SELECT replace(line, E'\\n', '\\n') FROM $rows q LIMIT 100000", %arg) }
    } ($first, @differing);
    for my $other (@differing) {
        for my $pair ([ $first, $other ], [ $other, $first ]) {
            my ($in, $not) = @$pair;
            my @only = sort grep { !$lines{$not}{$_} } keys %{ $lines{$in} };
            diag(scalar(@only) . " rows in $in that are not so in $not" . (@only ? ', such as:' : ''));
            diag('  ' . (length > 200 ? substr($_, 0, 200) . ' …' : $_)) for @only[ 0 .. ($#only > 9 ? 9 : $#only) ];
        }
    }
    diag($self->diagnosis);
    return 0;
}

# What a person would look at first.
sub diagnosis {
    my ($self) = @_;
    my $text = '';
    for my $region ($self->regions) {
        $text .= "== $region\n";
        for my $query ('SELECT source_region, target_region, direction, status, state, lag, parked FROM mrsync.link_status',
            'SELECT worker, source_region, state, pid, restarts, transactions, last_error FROM mrsync.worker_status')
        {
            $text .= eval { $self->psql($region, $query) . "\n" } // "$@";
        }
        $text .= join '', $self->log_tail($region, 15);
    }
    return $text;
}

sub log_tail {
    my ($self, $region, $lines) = @_;
    open my $file, '<', "$self->{dir}/region/$region/log" or return ();
    my @all = <$file>;
    close $file;
    return @all > $lines ? @all[ -$lines .. -1 ] : @all;
}

# The whole log of a region's server, for a test to look into.
sub log_text {
    my ($self, $region) = @_;
    return join '', $self->log_tail($region, 1_000_000);
}

# ---------------------------------------------------------------------------------------------------- faults

sub start { my ($self, $region) = @_; $self->lab('start', $region); return }
sub stop { my ($self, $region) = @_; $self->lab('stop', $region); return }
sub kill { my ($self, $region) = @_; $self->lab('kill', $region); return } ## no critic: the lab's word
sub clock { my ($self, $region, $offset) = @_; $self->lab('clock', $region, sprintf('%+d', $offset)); return }
sub kafka { my ($self, $verb) = @_; $self->lab('kafka', $verb); return } # start, stop, kill

# The pid of a worker: 'extractor', 'applier' (with the region it applies from), 'coordinator'. Waits until there is one.
sub worker_pid {
    my ($self, $region, $worker, $source) = @_;
    my $query = "SELECT pid FROM mrsync.worker_status WHERE worker = '$worker' AND pid IS NOT NULL"
        . (defined $source ? " AND source_region = '$source'" : '');
    my $pid;
    $self->wait_until("$region: a $worker", sub { ($pid = $self->psql($region, $query)) =~ /^\d+$/ });
    return $pid;
}

# kill -9 of a worker. PostgreSQL answers the death of one of its processes by restarting them all.
sub kill_worker {
    my ($self, $region, $worker, $source, $signal) = @_;
    my $pid = $self->worker_pid($region, $worker, $source);
    CORE::kill($signal // 'KILL', $pid) or croak "cannot signal $worker $pid of $region: $!";
    return $pid;
}

sub is_up {
    my ($self, $region) = @_;
    return eval { $self->psql($region, 'SELECT 1') eq '1' };
}

# ---------------------------------------------------------------------------------------------------- load

# pgbench with a script of one's own in the background. Options: clients (2), rate (transactions a second; left out: as
# fast as it goes), script (SQL with pgbench's \set), seconds (left out: until it is stopped).
# ->load('us', …) returns a handle for load_stop; a server's death does not end it: it is started again until stopped.
sub load {
    my ($self, $region, %arg) = @_;
    my $clients = $arg{clients} // 2;
    my $base = "$self->{dir}/load-" . scalar(@{ $self->{loads} });
    open my $file, '>', "$base.sql" or croak "$base.sql: $!";
    print $file $arg{script};
    close $file;
    my @command = ('pgbench', '-n', '-h', '127.0.0.1', '-p', $self->port($region), '-U', 'postgres', '-c', $clients,
        '-T', $arg{seconds} // 100_000, '-f', "$base.sql");
    push @command, '-R', $arg{rate} if $arg{rate};
    my $pid = fork // croak "fork: $!";
    if ($pid == 0) {
        # SIGTERM ends the loop and the pgbench of the moment.
        my ($child, $stopped);
        local $SIG{TERM} = sub { $stopped = 1; CORE::kill('TERM', $child) if $child };
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$base.out";
        open STDERR, '>&', \*STDOUT;
        my $until = time + ($arg{seconds} // 1e9);
        while (!$stopped && time < $until) {
            $child = fork // POSIX::_exit(1);
            if ($child == 0) {
                $SIG{TERM} = 'DEFAULT';
                exec @command, 'lab' or POSIX::_exit(1);
            }
            waitpid $child, 0 until $stopped || waitpid($child, WNOHANG) != 0 || !sleep 0.02;
            if ($stopped) { CORE::kill('TERM', $child); waitpid $child, 0 }
        }
        POSIX::_exit(0);
    }
    my $handle = { pid => $pid, out => "$base.out", region => $region };
    push @{ $self->{loads} }, $handle;
    return $handle;
}

# Stops it (all of them when none is named); returns what pgbench printed.
sub load_stop {
    my ($self, @handles) = @_;
    @handles = @{ $self->{loads} } unless @handles;
    my $printed = '';
    for my $handle (@handles) {
        my $pid = delete $handle->{pid} or next;
        CORE::kill('TERM', $pid);
        waitpid $pid, 0;
        open my $file, '<', $handle->{out} or next;
        local $/;
        $printed .= <$file> // '';
        close $file;
    }
    return $printed;
}

# A session that stays open: send() runs a statement in it and returns its output. For transactions that overlap.
sub session {
    my ($self, $region, %arg) = @_;
    return Mrsync::Lab::Session->new($self->port($region), $arg{db} // 'lab');
}

# ---------------------------------------------------------------------------------------------------- the end

sub down {
    my ($self) = @_;
    $self->load_stop;
    if (delete $live{"$self"}) { _down($self->{script}, $self->{dir}) }
    return;
}

sub DESTROY {
    my ($self) = @_;
    local ($@, $!, $?);
    eval { $self->down } if $$ == $self->{owner};
    return;
}

# The shell is also left here on die and on a signal that has a handler.
$SIG{$_} //= sub { exit 1 } for qw(INT TERM HUP);
my $main = $$;
END {
    my $status = $?;
    if ($$ == $main) {
        _down($ENV{MRSYNC_LAB} // "$top/lab", $_) for values %live;
        %live = ();
    }
    $? = $status;
}

sub _down {
    my ($script, $dir) = @_;
    local $ENV{MRSYNC_LAB_DIR} = $dir;
    _run([ $script, 'down' ]);
    return;
}

sub _read {
    my ($self, $name) = @_;
    open my $file, '<', "$self->{dir}/$name" or croak "$self->{dir}/$name: $!";
    my $line = <$file>;
    close $file;
    chomp $line if defined $line;
    return $line // '';
}

# (status, stdout, stderr) of a command given $input; its output may be large, so it goes through files, not pipes.
sub _run {
    my ($command, $input) = @_;
    open my $in, '+>', undef or croak "a temporary file: $!";
    binmode $in, ':utf8' if defined $input && utf8::is_utf8($input);
    print $in $input if defined $input;
    $in->flush;
    seek $in, 0, 0;
    open my $out, '+>', undef or croak "a temporary file: $!";
    open my $err, '+>', undef or croak "a temporary file: $!";
    my $pid = fork // croak "fork: $!";
    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
        open STDIN, '<&', $in;
        open STDOUT, '>&', $out;
        open STDERR, '>&', $err;
        exec @$command or POSIX::_exit(127);
    }
    waitpid $pid, 0;
    my $status = $?;
    my @text = map { seek $_, 0, 0; local $/; scalar(<$_>) // '' } ($out, $err);
    return ($status, @text);
}

package Mrsync::Lab::Session;

use strict;
use warnings;

my $mark = 0;

sub new {
    my ($class, $port, $db) = @_;
    my $err = Symbol::gensym;
    my $pid = IPC::Open3::open3(my $in, my $out, undef, 'psql', '-XqAt', '-h', '127.0.0.1', '-p', $port, '-U', 'postgres', '-d', $db);
    $in->autoflush(1);
    return bless { pid => $pid, in => $in, out => $out, owner => $$ }, $class;
}

# Sends a statement without waiting; receive() later takes its output.
sub start {
    my ($self, $sql) = @_;
    $mark++;
    push @{ $self->{marks} }, "-- mark $mark";
    print { $self->{in} } "$sql\n;\n\\echo -- mark $mark\n";
    return;
}

sub receive {
    my ($self) = @_;
    my $until = shift @{ $self->{marks} } // Carp::croak('nothing was started');
    my $text = '';
    while (defined(my $line = readline $self->{out})) {
        if ($line eq "$until\n") { chomp $text; return $text }
        $text .= $line;
    }
    Carp::croak("the session has ended: $text");
}

# The statement's output, errors included.
sub send { ## no critic
    my ($self, $sql) = @_;
    $self->start($sql);
    return $self->receive;
}

sub DESTROY {
    my ($self) = @_;
    local ($@, $!, $?);
    return if $$ != $self->{owner};
    close $self->{in};
    close $self->{out};
    CORE::kill('TERM', $self->{pid});
    waitpid $self->{pid}, 0;
    return;
}

1;
