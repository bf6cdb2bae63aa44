# region_init that fails, before its commit, in it or behind it, leaves nothing.
#
# The story: all places of mrsync.max_regions were taken, and that was found out at the commit. By then the replication slot
# was there, which no rollback takes back: it kept WAL until the disk was full. Where the clock's file could not be written
# the slot stayed as well, and a region was in shared memory that the catalog knew nothing of (I8: what costs disk is named).
use strict;
use warnings;
use Test::More;
use Mrsync::Lab;

my $lab = Mrsync::Lab->up(regions => ['us'], options => ['--solo'], settings => { 'mrsync.max_regions' => 1 });
open my $file, '<', "$lab->{dir}/group" or die;
chomp(my $group = <$file>);
my $brokers = $lab->broker;

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

done_testing;
