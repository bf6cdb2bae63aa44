# What DDL at the source does to the extractor: changes that it could not send are prevented where they begin; where
# somebody gets past that, what is wrong is named with the way on; and tables that change often cost no memory.
#
# A partition that CREATE SCHEMA … CREATE TABLE … PARTITION OF makes was once overseen: it had no REPLICA IDENTITY FULL, and
# the first UPDATE of it stopped the region's extractor for good.
use strict;
use warnings;
use utf8;
use Test::More;
use Mrsync::Lab;
use Mrsync::Load qw(worker_pid log_trouble);

my $lab = Mrsync::Lab->up(regions => ['us', 'eu']);
$lab->tables(<<'SQL', qw(t part loose));
CREATE TABLE t (id integer PRIMARY KEY, v text);
CREATE TABLE part (id integer, kind text, v text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE part_other PARTITION OF part DEFAULT;
CREATE TABLE loose (id integer PRIMARY KEY, v text);
SQL
sub us { return $lab->sql('us', $_[0]) }

# ---- a partition that comes by another command

us("CREATE SCHEMA made CREATE TABLE part_a PARTITION OF public.part FOR VALUES IN ('a')");
us("INSERT INTO part VALUES (1, 'a', 'new'), (2, 'a', 'new'); UPDATE part SET v = 'changed' WHERE id = 1; DELETE FROM part WHERE id = 2");
$lab->drain;
is($lab->same('SELECT * FROM part', 'the rows of a partition made by CREATE SCHEMA'), '1|a|changed', 'arrive as they are');

# ---- past the guard: the event trigger is switched off, as only a superuser can

sub past_the_guard { us("ALTER EVENT TRIGGER mrsync_ddl DISABLE; ALTER EVENT TRIGGER mrsync_drop DISABLE; $_[0]; ALTER EVENT TRIGGER mrsync_ddl ENABLE ALWAYS; ALTER EVENT TRIGGER mrsync_drop ENABLE ALWAYS") }

# What the extractor says, and the statement that its hint gives as the way on.
sub stopped
{
	my ($message) = @_;
	my $is;
	$lab->wait_until("the extractor to say: $message", sub { ($is = us("SELECT last_error FROM mrsync.worker_status WHERE worker = 'extractor' AND state LIKE 'down: %'")) =~ /\Q$message\E/ });
	like($is, qr/ — Transaction \d+ ends at WAL position [0-9A-F\/]+\. — .*table_remove/, 'with the transaction and what to do about the table');
	return $is =~ /: (SELECT pg_replication_slot_advance\('mrsync_\d+', '[0-9A-F\/]+'\));/ ? $1 : fail("the way on is in: $is");
}

my @cases = (
	[ 'ALTER TABLE loose DROP CONSTRAINT loose_pkey', "INSERT INTO loose VALUES (2, 'lost')", 'a change of public.loose was made while the table had no primary key' ],
	[ 'ALTER TABLE loose REPLICA IDENTITY DEFAULT', "UPDATE loose SET v = 'lost' WHERE id = 1", 'a change of public.loose was made while its REPLICA IDENTITY was not FULL' ],
);
us("INSERT INTO loose VALUES (1, 'kept')");
for my $case (@cases)
{
	my ($ddl, $write, $message) = @$case;
	past_the_guard($ddl);
	us($write);
	us("INSERT INTO t SELECT coalesce(max(id), 0) + 1, 'behind it' FROM t");
	my $way_on = stopped($message);
	# between two attempts of the extractor, which holds the slot
	us("SELECT mrsync.table_remove('loose'); ALTER TABLE loose DROP CONSTRAINT IF EXISTS loose_pkey, ADD PRIMARY KEY (id); SELECT mrsync.table_add('loose')");
	$lab->wait_until('the slot to be free', sub { !($lab->sql_try('us', $way_on))[0] });
	$lab->wait_for('eu', "SELECT state LIKE 'degraded: t%SELECT mrsync.resend() in region us%' FROM mrsync.link_status WHERE source_region = 'us' AND direction = 'incoming'");
	us('SELECT mrsync.resend()');
	$lab->drain;
	$lab->same('SELECT * FROM t ORDER BY id', 'what stands behind it arrives');
}
$lab->same('SELECT * FROM loose ORDER BY id', 'what was not sent is sent again');
us("UPDATE loose SET v = 'repaired'");
$lab->drain;
$lab->same('SELECT * FROM loose ORDER BY id', 'a row that is written again afterwards arrives, too');

# ---- tables that change often

# the output functions of composites keep notes on all columns: some 70 kB for a row of this table
$lab->tables(<<'SQL', 'wide');
DO $$ BEGIN EXECUTE (SELECT 'CREATE TYPE hundred AS (' || string_agg('c' || i || ' integer', ', ') || ')' FROM generate_series(1, 100) i); END $$;
DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE wide (id integer PRIMARY KEY, n integer, ' || string_agg('h' || i || ' hundred', ', ') || ')' FROM generate_series(1, 10) i); END $$;
SQL
us('INSERT INTO wide VALUES (1, 0' . join('', map { ', ROW(' . join(',', 1 .. 100) . ')' } 1 .. 10) . ')');
sub change_often
{
	my ($rounds) = @_;
	us(<<"SQL");
DO \$\$
BEGIN
	FOR i IN 1 .. $rounds LOOP
		ALTER TABLE wide SET (fillfactor = 50);
		UPDATE wide SET n = n + 1;
		COMMIT;
		ANALYZE wide;
		UPDATE wide SET n = n + 1;
		COMMIT;
		CREATE SCHEMA fleeting CREATE TABLE part_b PARTITION OF public.part FOR VALUES IN ('b');
		INSERT INTO part VALUES (i, 'b');
		DELETE FROM part WHERE kind = 'b';
		COMMIT;
		DROP SCHEMA fleeting CASCADE;
		COMMIT;
	END LOOP;
END
\$\$
SQL
	$lab->drain;
}
# bytes that the extractor's memory contexts have in use, as the server counts them
sub extractor_memory
{
	my $log = $lab->server_log('us');
	my $from = -s $log;
	my $pid = worker_pid($lab, 'us', 'extractor');
	us("SELECT pg_log_backend_memory_contexts($pid)");
	my $used;
	$lab->wait_until("the extractor's memory in the log", sub {
		open my $file, '<', $log or die;
		seek $file, $from, 0;
		($used) = join('', <$file>) =~ /\[$pid\] .*Grand total: .* (\d+) used/;
		return defined $used;
	});
	return $used;
}
change_often(20);
my $before = extractor_memory();
change_often(100);
my $growth = extractor_memory() - $before;
cmp_ok($growth, '<', 1e6, sprintf 'the extractor forgets what tables were like: %+d kB of %d', $growth / 1000, $before / 1000);
$lab->same('SELECT id, n, h10 FROM wide', 'and has sent every change');

$lab->healthy;
is(log_trouble($lab, $_), '', "nothing internal in the log of $_") for $lab->regions;
done_testing;
