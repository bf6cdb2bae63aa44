# Kafka with TLS and a login: what mrsync.kafka_options says is used by everything that speaks to Kafka, a change takes effect by
# a reload, and what is wrong with it is named and is cured by the next reload.
#
# The broker has a listener SASL_SSL with a certificate of an authority of its own. Everything wrong is tried in us; eu has the
# right options all the time. Proves that a region which cannot log in loses nothing (I8): it writes on, and what it wrote
# arrives afterwards.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid worker_state log_trouble);

my $lab = Mrsync::Lab->up(regions => [qw(us eu)], own_broker => 1, options => ['--secure'],
	needs_kafka => 'the mock broker knows neither TLS nor logins');
$lab->tables('CREATE TABLE t (id integer PRIMARY KEY, note text);', 't');
my $rows = 0;
sub write_row { my ($region, $note) = @_; $lab->sql($region, 'INSERT INTO t VALUES (' . ++$rows . ", '$note')") }
sub quote { my ($text) = @_; return "'" . $text =~ s/'/''/gr . "'" }

my $secure = $lab->sql('us', 'SELECT kafka_brokers FROM mrsync.region WHERE is_local');
isnt($secure, $lab->broker, 'the regions use the listener that wants TLS and a login');
my $scram = $lab->sql('us', 'SHOW mrsync.kafka_options');
like($scram, qr/^security\.protocol=sasl_ssl ssl\.ca\.location=\S+ sasl\.mechanism=SCRAM-SHA-512 sasl\.username=\S+ sasl\.password='correct horse'$/, 'with these options');

# ---- it works

write_row($_, 'SCRAM') for $lab->regions;
$lab->drain;
$lab->same('SELECT * FROM t ORDER BY id', 'rows flow both ways with SCRAM');
my ($postmaster) = map { local (@ARGV, $/) = $_; <> =~ /^(\d+)/ } $lab->data_dir('us') . '/postmaster.pid';
sub threads { my ($pid) = @_; local (@ARGV, $/) = "/proc/$pid/status"; return <> =~ /^Threads:\s+(\d+)/m ? $1 : undef }
is(threads($postmaster), 1, 'the postmaster, which checks the options, has no thread of librdkafka');

# ---- changes by reload

# Sets the options of us; returns the pids that the workers had.
sub options
{
	my ($options) = @_;
	my @pids = map { worker_pid($lab, 'us', @$_) // 0 } [qw(applier eu)], ['extractor'], ['coordinator'];
	$lab->sql('us', 'ALTER SYSTEM SET mrsync.kafka_options = ' . quote($options) . ';');
	$lab->sql('us', 'SELECT pg_reload_conf()');
	return @pids;
}
sub works
{
	my ($name) = @_;
	write_row($_, $name) for $lab->regions;
	$lab->drain;
	$lab->same('SELECT * FROM t ORDER BY id', "rows flow both ways: $name");
	$lab->wait_for('us', "SELECT string_agg(state, ',') FROM mrsync.worker_status", 'running,running,running');
	pass('and every worker is in order');
}

my @pids = options($scram =~ s/SCRAM-SHA-512/PLAIN/r);
$lab->wait_until('new workers', sub { (worker_pid($lab, 'us', 'applier', 'eu') // $pids[0]) != $pids[0] && (worker_pid($lab, 'us', 'extractor') // $pids[1]) != $pids[1] });
works('PLAIN');
is(worker_pid($lab, 'us', 'coordinator'), $pids[2], 'the coordinator takes the change without a restart');

# The secret in a file: nothing of it in the setting, nor in the log when it changes.
my $file = "$lab->{dir}/region/us/kafka.password";
my $password_is = sub { open my $f, '>', $file or die "$file: $!"; print $f "$_[0]\n"; close $f; };
$password_is->('correct horse');
my $with_file = $scram =~ s/sasl\.password=.*/sasl.password.file=$file/r;
options($with_file);
works('password in a file');

# ---- what is wrong is named, and nobody is started again and again meanwhile

# Sets the options, waits until the workers and both links say what is expected, and that this stays so without restarts.
sub named
{
	my ($name, $options, $says, $steady) = @_;
	options($options);
	$lab->wait_until("the extractor to say $says", sub { worker_state($lab, 'us', 'extractor') =~ $says });
	$lab->wait_until("the applier to say $says", sub { worker_state($lab, 'us', 'applier', 'eu') =~ $says });
	note("$name: " . worker_state($lab, 'us', 'extractor'));
	for my $direction (qw(incoming outgoing))    # its row is brought up to date every second or so, and a worker may be trying just now
	{
		$lab->wait_until("the $direction link to say $says", sub { $lab->sql('us', "SELECT state FROM mrsync.link_status WHERE direction = '$direction'") =~ $says });
		pass("$name: the $direction link says so");
	}
	my $coordinator = worker_pid($lab, 'us', 'coordinator');
	my $workers = "SELECT string_agg(coalesce(pid::text, 'none'), ' ' ORDER BY worker), sum(restarts) FROM mrsync.worker_status";
	my $before = $lab->sql('us', $workers);
	my $until = time + 4;    # librdkafka tries again once a second
	my $changed = 0;
	while (time < $until) { $changed ||= $lab->sql('us', $workers) ne $before; sleep 0.2 }
	ok(!$changed, "$name: no worker is started again meanwhile") if $steady;
	is(worker_pid($lab, 'us', 'coordinator'), $coordinator, "$name: nor the coordinator");
	write_row($_, $name) for $lab->regions;    # nobody's writes are held up
	return;
}
sub cured
{
	my ($name) = @_;
	options($scram);
	works("$name, cured");
}

named('wrong password', $scram =~ s/correct horse/battery staple/r, qr/^waiting: .*login refused: .*SASL authentication error: Authentication failed/, 1);
# also somebody who makes a region is told
$lab->sql('us', 'CREATE DATABASE another');
$lab->sql('us', 'CREATE EXTENSION mrsync', db => 'another');
my ($code, undef, $error) = $lab->sql_try('us', "SELECT mrsync.region_init('another', '$secure')", db => 'another');
like($error, qr/ERROR:  08001: Kafka at "\S+" does not do what mrsync needs\nDETAIL:  .*login refused: .*\nHINT:  .*mrsync\.kafka_options/, 'region_init says so, too');
cured('wrong password');

$password_is->('battery staple');
named('wrong password in a file', $with_file, qr/^waiting: .*login refused/, 1);
$password_is->('correct horse');
$lab->sql('us', 'SELECT pg_terminate_backend(pid) FROM mrsync.worker_status');    # what the documentation says
works('a corrected file is read by new workers');
$lab->wait_for('us', "SELECT count(*) FROM mrsync.link_status WHERE state = 'streaming'", 2);

named('the certificate is of another authority', $scram =~ s/ssl\.ca\.location=\S+/ssl.ca.location=@{[ other_authority() ]}/r,
	qr/^waiting: .*TLS failed: .*certificate verify failed/, 1);
named('a file that is not there', $scram =~ s/ca\.pem/nowhere.pem/r, qr/^(?:down|degraded): (?:extractor: )?cannot make a Kafka client: ssl\.ca\.location failed/);
cured('a file that is not there');
named('in the clear', '', qr/^waiting: .*brokers are down, or hang up at once: is security\.protocol what they want/, 1);
cured('in the clear');

# With its queue full the extractor stands still in the middle of a transaction: a reload must reach it there.
$lab->sql('us', 'ALTER SYSTEM SET mrsync.producer_queue = 1');
$lab->stop('us');
$lab->start('us');
works('a small queue');    # it has looked at its topics, and decodes
options($scram =~ s/correct horse/battery staple/r);
$lab->wait_until('the login to be refused', sub { worker_state($lab, 'us', 'extractor') =~ /login refused/ });
$lab->sql('us', "INSERT INTO t SELECT id, repeat(md5(id::text), 100) FROM generate_series(1000, 6000) id");
$lab->wait_until('the queue of us to be full', sub { worker_state($lab, 'us', 'extractor') =~ /broker does not take events: login refused/ });
cured('wrong password and a full queue');
$lab->healthy;

# ---- workers are ended in the middle of logins
# A worker that ended while librdkafka's threads computed a login died of a segmentation fault now and then: exit() had taken
# OpenSSL down under them. The server went with it, after some dozens of such ends.

my $crashed = sub { open my $f, '<', $lab->server_log('us') or die; grep { /terminated by signal/ } <$f> };
($code, undef, $error) = $lab->sql_try('us', join "\n", map {
	'ALTER SYSTEM SET mrsync.kafka_options = ' . quote($scram =~ s/correct horse/wrong $_/r) . "; SELECT pg_reload_conf(); SELECT pg_sleep(0.0" . (10 + int rand 90) . ');'
} 1 .. 150);
is($code, 0, 'the server lives through 150 changes') or diag($error);
my @crashes = $crashed->();
is("@crashes", '', 'no worker has crashed');
cured('changes without end');

# ---- a value that is refused

($code, undef, $error) = $lab->sql_try('us', "ALTER SYSTEM SET mrsync.kafka_options = 'security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u sasl.password=correct horse'");
like($error, qr/ERROR:  22023: invalid value for parameter "mrsync\.kafka_options"\nDETAIL:  What stands after the value of "sasl\.password" is no key=value\.\nHINT:/, 'is told without the secret');
open my $log, '<', $lab->server_log('us') or die;
my @shown = grep { /horse/ && !/STATEMENT|parameter "mrsync\.kafka_options" changed to/ } <$log>;
is("@shown", '', 'the log has it only where PostgreSQL itself says what somebody typed or changed');

# In a file: a reload keeps what was; a start does not fall back to a connection in the clear.
sub append { my ($line) = @_; open my $conf, '>>', $lab->data_dir('us') . '/postgresql.conf' or die; print $conf "$line\n"; close $conf; }
$lab->sql('us', 'ALTER SYSTEM RESET mrsync.kafka_options');
append("mrsync.kafka_options = 'security.protocol=tls'");
@pids = map { worker_pid($lab, 'us', @$_) } [qw(applier eu)], ['extractor'];
$lab->sql('us', 'SELECT pg_reload_conf()');
$lab->wait_until('the log to say that it is refused', sub { open my $f, '<', $lab->server_log('us') or die; grep { /invalid value for parameter "mrsync\.kafka_options"/ && !/ERROR/ } <$f> });
is($lab->sql('us', 'SHOW mrsync.kafka_options'), $scram, 'a reload keeps the former value');
works('a value that was refused');
is_deeply([ map { worker_pid($lab, 'us', @$_) } [qw(applier eu)], ['extractor'] ], \@pids, 'and no worker was started again');
$lab->stop('us');
my ($failed, $output) = $lab->lab_try('start', 'us');
isnt($failed, 0, 'the server does not start with it');
like($output, qr/FATAL:  invalid value for parameter "mrsync\.kafka_options".*in the clear/s, 'and says why');
append('mrsync.kafka_options = ' . quote($scram));
$lab->start('us');
works('a corrected file');
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
done_testing;

# A certificate that signed nobody here.
sub other_authority
{
	my $path = "$lab->{dir}/region/us/other.pem";
	system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30 -subj /CN=other -keyout /dev/null -out $path >/dev/null 2>&1 && chmod 644 $path") == 0 or die 'openssl';
	return $path;
}
