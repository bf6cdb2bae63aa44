# region_init that fails, before its commit, in it or behind it, leaves nothing; and topics that exist are looked at.
#
# The story: all places of mrsync.max_regions were taken, and that was found out at the commit. By then the replication slot
# was there, which no rollback takes back: it kept WAL until the disk was full. Where the clock's file could not be written
# the slot stayed as well, and a region was in shared memory that the catalog knew nothing of (I8: what costs disk is named).
# And: a topic that compacts or that takes no large records was used as it was; its events would have been lost, or stuck.
use strict;
use warnings;
use Test::More;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Mrsync::Lab;

my $lab = Mrsync::Lab->up(regions => ['us'], options => ['--solo'], settings => { 'mrsync.max_regions' => 1 });
open my $file, '<', "$lab->{dir}/group" or die;
chomp(my $group = <$file>);
my $brokers = $lab->broker;
my $kafkactl = dirname(abs_path(__FILE__)) . '/../../build/kafkactl';

sub init
{
	my ($db, $region, $more) = @_;
	my ($code, $out, $error) = $lab->sql_try('us', "SELECT mrsync.region_init('$region', '$brokers', replication_group => '$group')" . ($more // ''), db => $db);
	return $error;
}
# slots, regions in the catalog, regions in shared memory
sub traces { return $lab->sql('us', 'SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()), (SELECT count(*) FROM mrsync.region), (SELECT count(*) FROM mrsync.worker_stat())', db => $_[0]) }

$lab->sql('us', 'CREATE DATABASE second');
$lab->sql('us', 'CREATE EXTENSION mrsync', db => $_) for qw(lab second);

# ---- failures

my $blocked = $lab->data_dir('us') . '/mrsync.clock.tmp';
mkdir $blocked or die "$blocked: $!";
like(init('lab', 'us'), qr/could not create file "mrsync\.clock\.tmp"/, "the clock's file cannot be written");
is(traces('lab'), '0|0|0', 'nothing remains');
rmdir $blocked or die "$blocked: $!";

like(init('lab', 'us', ', 1 / (random() * 0)::integer'), qr/22012/, 'the statement fails behind region_init');
is(traces('lab'), '0|0|0', 'nothing remains');

unlike(init('lab', 'us'), qr/ERROR/, 'the next attempt succeeds');
like(init('second', 'eu'), qr/53400.*no place for another mrsync region.*mrsync\.max_regions is 1/s, 'no place is left');
is(traces('second'), '0|0|0', 'nothing remains');
is($lab->sql('us', 'SELECT count(*) FROM pg_replication_slots'), 1, 'the slot of the other one is still there');
$lab->sql('us', 'SELECT mrsync.region_leave()');
unlike(init('second', 'eu'), qr/ERROR/, 'the place is free again');
$lab->sql('us', 'SELECT mrsync.region_leave()', db => 'second');

# ---- topics

sub kafka
{
	my (@command) = @_;
	open my $pipe, '-|', $kafkactl, $brokers, @command or die "$kafkactl: $!";
	local $/;
	return scalar <$pipe> // '';
}
SKIP:
{
	skip 'the mock broker makes topics by itself', 12 if ($ENV{MRSYNC_TEST_BROKER} // 'kafka') eq 'mock';
	for my $topic ("mrsync.$group.us", "mrsync.$group.us.control")
	{
		my %set = map { /^([\w.]+)=(.*)$/ ? ($1 => $2) : () } split /\n/, kafka('settings', $topic);
		is(join(' ', map { "$_=" . ($set{$_} // '') } qw(cleanup.policy retention.ms retention.bytes max.message.bytes)),
			'cleanup.policy=delete retention.ms=604800000 retention.bytes=-1 max.message.bytes=8388608', "$topic is made as documented");
	}
	my %made = (compact => 'cleanup.policy=compact', both => 'cleanup.policy=compact,delete', small => 'max.message.bytes=999999',
		short => 'retention.ms=3600000', few => 'retention.bytes=1000000', plain => 'max.message.bytes=1048588');
	for my $name (sort keys %made)
	{
		my $topic = "mrsync.$group.$name";
		kafka('create', $topic, $made{$name});
		$lab->wait_until("$topic", sub { kafka('settings', $topic) =~ /cleanup.policy/ });
	}
	for my $name (qw(compact both small))
	{
		like(init('lab', $name), qr/ERROR:  08001.*topic "mrsync\.$group\.$name" exists with \Q$made{$name}\E; mrsync /s, "a topic with $made{$name} is refused");
	}
	is(traces('lab'), '0|0|0', 'nothing remains');
	for my $name (qw(short few plain))
	{
		my ($setting, $value) = split /=/, $made{$name};
		my $said = init('lab', $name);
		unlike($said, qr/ERROR/, "a topic with $made{$name} is used");
		$name eq 'plain' ? unlike($said, qr/WARNING/, 'without a word') : like($said, qr/WARNING: .*"mrsync\.$group\.$name" may lose events before they are read: $setting is $value/, 'with a warning');
		$lab->sql('us', 'SELECT mrsync.region_leave()');
	}
}
done_testing;
