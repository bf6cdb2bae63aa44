# Whatever three regions do to one row at once, under every strategy, and in whatever order and pieces it arrives: they end with the same row,
# of the same version, and say the same of the conflicts.
#
# Proves I1 and I3. For each strategy there is a row for each triple of things that regions can do to a row, or to a key that is not there.
# They do them in chunks. In front of each chunk stands a gate, at which an applier waits until the test opens it: so a seed says
# which chunk arrives where before which, and what of all this a region had seen when it wrote the next one.
# The rows expected are not taken from mrsync. A trigger of the test's own writes down what users do; the test folds that in the order of
# the stamps, and calls mrsync.merge_counter() and its like for three values only.
use strict;
use warnings;
use List::Util qw(shuffle);
use Test::More;
use Mrsync::Lab;

my $seed = $ENV{MRSYNC_SEED} || time;
srand $seed;
note "MRSYNC_SEED=$seed";

my @regions = qw(us eu ap);
my $lab = Mrsync::Lab->up(regions => \@regions);
$lab->conflicts_apart;

# ---------------------------------------------------------------------------------------------------------------------
# Strategies: a table of each
# ---------------------------------------------------------------------------------------------------------------------
# type of v; the rule; what a row begins with; new values of v for a region R; changes of v
my @texts = ("v || '.R'", "'R' || coalesce(v, '')", "'R'", 'NULL');
my %kinds = (
	last => { type => 'text', first => "'seed'", new => ["'R'"], change => \@texts },
	single => { type => 'text', rule => 'column_last_writer_wins', first => "'seed'", new => ["'R'"], change => \@texts },
	counter => { type => 'bigint', rule => 'mrsync.merge_counter(bigint, bigint, bigint)', first => 100, new => [ 7, 70 ], change => [ 'v + 1', 'v - 10', 'coalesce(v, 0) + 1000', 'NULL' ] },
	collection => { type => 'text[]', rule => 'mrsync.merge_set(anyarray, anyarray, anyarray)', first => "'{tea,milk}'", new => ["'{R}'", "'{tea,R}'"],
		change => ["array_append(v, 'R')", "array_remove(v, 'tea')", "array_append(array_remove(v, 'milk'), 'R')", "'{milk,tea,jam}'", 'NULL' ] },
	document => { type => 'jsonb', rule => 'mrsync.merge_json(jsonb, jsonb, jsonb)', first => q('{"a": 1, "o": {"x": 1}}'), new => [q('{"a": 2, "R": 1}')],
		change => [q(v || '{"R": 1}'), q(v || '{"a": "R"}'), q(v #- '{o,x}'), q(jsonb_set(v, '{o,R}', '7')), 'NULL' ] },
	story => { type => 'text', rule => 'mrsync.merge_text(text, text, text)', first => "E'one\\ntwo\\nthree\\n'", new => ["E'R\\nthree\\n'"],
		change => ["replace(v, 'two', 'R')", "v || E'R\\n'", "E'R\\n' || v", "replace(v, E'one\\n', '')", 'NULL' ] },
	own => { type => 'text', rule => 'public.tell(text, text, text)', first => "'seed'", new => ["'R'"], change => \@texts },
	own_row => { type => 'text', rule => 'public.pick(own_row, own_row, own_row)', first => "'seed'", new => ["'R'"], change => \@texts },
);
my $partitions = "PARTITION BY HASH (id); CREATE TABLE story_0 PARTITION OF story FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE story_1 (w text, id integer NOT NULL, v text); ALTER TABLE story ATTACH PARTITION story_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
$lab->tables(join("\n", (map { "CREATE TABLE $_ (id integer PRIMARY KEY, v $kinds{$_}{type}, w text)" . ($_ eq 'story' ? " $partitions;" : ';') } sort keys %kinds),
	'CREATE TABLE gate (region text, number integer, is_shut boolean NOT NULL, PRIMARY KEY (region, number));'), sort(keys %kinds), 'gate');
# What users do, as they do it
$lab->everywhere(<<'SQL');
CREATE TABLE journal (entry bigint GENERATED ALWAYS AS IDENTITY, kind text, id integer, xid xid8, stamp bigint, before text[], after text[]);
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO journal (kind, id, xid, before, after) VALUES (TG_ARGV[0], coalesce(NEW.id, OLD.id), pg_current_xact_id(),
		CASE WHEN TG_OP <> 'INSERT' THEN ARRAY[OLD.v::text, OLD.w] END, CASE WHEN TG_OP <> 'DELETE' THEN ARRAY[NEW.v::text, NEW.w] END);
	RETURN NULL;
END $$;
CREATE FUNCTION write_truncation_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO journal (kind, xid) VALUES (TG_ARGV[0], pg_current_xact_id());
	RETURN NULL;
END $$;
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_advisory_xact_lock_shared(hashtext(NEW.region), NEW.number);
	RETURN NULL;
END $$;
CREATE TRIGGER shut AFTER INSERT ON gate FOR EACH ROW WHEN (NEW.is_shut) EXECUTE FUNCTION wait_at_gate();
ALTER TABLE gate ENABLE REPLICA TRIGGER shut;
SQL
$lab->everywhere(join ';', map { "CREATE TRIGGER write_down AFTER INSERT OR UPDATE OR DELETE ON $_ FOR EACH ROW EXECUTE FUNCTION write_down('$_');
	CREATE TRIGGER write_truncation_down AFTER TRUNCATE ON $_ EXECUTE FUNCTION write_truncation_down('$_')" } keys %kinds);
# One is neither commutative nor associative, and fails on some values; the other looks at whole rows, and says nothing of some.
$lab->sql('us', <<'SQL');
CREATE FUNCTION tell(ancestor text, a text, b text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF length(a) = 6 THEN RAISE 'no'; END IF;
	RETURN concat('(', ancestor, '<', a, '<', b, ')');
END $$;
CREATE FUNCTION pick(ancestor own_row, a own_row, b own_row) RETURNS own_row LANGUAGE sql IMMUTABLE AS $$
	SELECT ROW(b.id, concat('(', (ancestor).w, '<', (a).v, '<', (b).w, ')'), (a).v || (b).w)::public.own_row WHERE length(b.v) <> 5
$$;
SQL
for my $kind (sort keys %kinds)
{
	my $rule = $kinds{$kind}{rule} or next;
	my $id = $lab->sql('us', $rule =~ /own_row/ ? "SELECT mrsync.merge_function_register('$kind', '$rule')" : $rule =~ /\(/ ? "SELECT mrsync.merge_function_register('$kind', '$rule', 'v')" : "SELECT mrsync.merge_strategy_set('$kind', '$rule')");
	$lab->sql('us', "SELECT mrsync.merge_function_wait('$id', '60 s')");
}

# ---------------------------------------------------------------------------------------------------------------------
# The fold, once more
# ---------------------------------------------------------------------------------------------------------------------
my $calls = join ' ', map { "WHEN '$_' THEN 'SELECT (" . ($kinds{$_}{rule} =~ /(.*)\(/)[0] . "(\$1::$kinds{$_}{type}, \$2::$kinds{$_}{type}, \$3::$kinds{$_}{type}))::text'" } qw(counter collection document story own);
$lab->sql('us', <<"SQL");
CREATE TABLE event (kind text, id integer, stamp bigint, region text COLLATE "C", entry bigint, chunk integer, before text[], after text[], is_first boolean);
CREATE INDEX ON event (kind, id);
CREATE FUNCTION value_of(kind text, before text[], state text[], after text[]) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	was text := CASE WHEN state IS NOT NULL THEN state[1] WHEN kind = 'counter' THEN '0' WHEN kind = 'collection' THEN '{}' END;
	merged text;
BEGIN
	IF state IS NULL AND kind NOT IN ('counter', 'collection') THEN RETURN after[1]; END IF;
	IF before IS NOT NULL AND after[1] IS NOT DISTINCT FROM before[1] THEN RETURN was; END IF;
	IF before IS NOT NULL AND was IS NOT DISTINCT FROM before[1] THEN RETURN after[1]; END IF;
	EXECUTE CASE kind $calls END INTO merged USING before[1], was, after[1];
	RETURN merged;
EXCEPTION WHEN raise_exception THEN
	RETURN after[1];
END \$\$;
CREATE FUNCTION step(state text[], kind text, before text[], after text[]) RETURNS text[] LANGUAGE plpgsql AS \$\$
DECLARE
	row own_row;
BEGIN
	IF after IS NULL OR kind = 'last' OR before IS NOT DISTINCT FROM state THEN RETURN after; END IF;
	IF kind = 'single' THEN
		RETURN CASE WHEN before IS NULL OR state IS NULL THEN after ELSE (SELECT array_agg(CASE WHEN after[i] IS NOT DISTINCT FROM before[i] THEN state[i] ELSE after[i] END ORDER BY i) FROM generate_series(1, 2) i) END;
	ELSIF kind = 'own_row' THEN
		row := pick(CASE WHEN before IS NOT NULL THEN ROW(1, before[1], before[2])::own_row END, CASE WHEN state IS NOT NULL THEN ROW(1, state[1], state[2])::own_row END, ROW(1, after[1], after[2])::own_row);
		RETURN CASE WHEN row.id IS NULL THEN after ELSE ARRAY[row.v, row.w] END;
	END IF;
	RETURN ARRAY[value_of(kind, before, state, after), after[2]];
END \$\$;
CREATE AGGREGATE fold(text, text[], text[]) (SFUNC = step, STYPE = text[]);
SQL

# ---------------------------------------------------------------------------------------------------------------------
# What a region can do to a row: transactions
# ---------------------------------------------------------------------------------------------------------------------
my $put = 'INSERT INTO T VALUES (K, N, \'R\') ON CONFLICT (id) DO UPDATE SET v = excluded.v, w = excluded.w';
my %on_row = (
	nothing => [],
	v => ['UPDATE T SET v = C WHERE id = K'],
	v_v => [ ('UPDATE T SET v = C WHERE id = K') x 2 ],
	w => ["UPDATE T SET w = 'R' WHERE id = K"],
	vw => ["UPDATE T SET w = 'R' WHERE id = K; UPDATE T SET v = C WHERE id = K"],
	touch => ['UPDATE T SET v = v WHERE id = K'],
	delete => ['DELETE FROM T WHERE id = K'],
	again => ["DELETE FROM T WHERE id = K; $put"],
	again_later => [ 'DELETE FROM T WHERE id = K', $put ],
);
my %on_nothing = (
	nothing => [],
	insert => [$put],
	insert_v => [ $put, 'UPDATE T SET v = C WHERE id = K' ],
	insert_delete => [ $put, 'DELETE FROM T WHERE id = K' ],
	insert_again => ["$put; DELETE FROM T WHERE id = K; $put"],
);
sub triples
{
	my ($ops) = @_;
	my @names = sort keys %$ops;
	return grep { grep { @$_ } @$_ } map { my $x = $_; map { my $y = $_; map { [ @$ops{ $x, $y, $_ } ] } @names } @names } @names;
}
my @cases;    # [kind, id, is there a row, what each region does]; at first without the id
for my $kind (sort keys %kinds)
{
	push @cases, map { [ $kind, 1, $_ ] } triples(\%on_row);
	push @cases, map { [ $kind, 0, $_ ] } triples(\%on_nothing);
}
my $id = 0;
@cases = map { [ $_->[0], ++$id, @$_[ 1, 2 ] ] } @cases;
@cases = shuffle @cases;

sub any_of { return $_[ rand @_ ] }
sub statement
{
	my ($text, $kind, $id, $region) = @_;
	$text =~ s/\bC\b/any_of(@{ $kinds{$kind}{change} })/ge;
	$text =~ s/\bN\b/any_of(@{ $kinds{$kind}{new} })/ge;
	$text =~ s/\bT\b/$kind/g;
	$text =~ s/\bK\b/$id/g;
	$text =~ s/\bR\b/$region/g;
	return $text;
}

# ---------------------------------------------------------------------------------------------------------------------
# Rounds: each takes some of the triples
# ---------------------------------------------------------------------------------------------------------------------
my $rounds = 6;
my $chunks = 4;
my ($number, $number_of_chunk) = (0, 0);
my @seen;    # region, number of a chunk of its, another region, the last chunk of that one which it had applied before
my @apart;    # rows that were written by all before anybody had heard of the others

sub gates { my ($region, $number) = @_; return "hashtext('$region'), $number" }

# A region writes a chunk. The stamps are read before anybody else has it.
sub write_chunk
{
	my ($region, $n, $is_first, @jobs) = @_;
	my $sql = "INSERT INTO gate VALUES ('$region', $n, true);\n";
	for (@jobs)
	{
		my ($kind, $id, $transactions) = @$_;
		$sql .= join '', map { 'BEGIN; ' . statement($_, $kind, $id, $region) . "; COMMIT;\n" } @$transactions;
	}
	$lab->sql($region, "$sql INSERT INTO gate VALUES ('$region', -$n, false)", options => any_of('', '-c mrsync.force_override=on'));
	$lab->sql($region, 'UPDATE journal j SET stamp = coalesce(o.hlc, pg_xact_commit_timestamp(j.xid::xid)::mrsync.hlc)::bigint FROM journal k LEFT JOIN mrsync.hlc_override o USING (xid) WHERE k.entry = j.entry AND j.stamp IS NULL');
	my $events = $lab->sql($region, "WITH gone AS (DELETE FROM journal RETURNING *) SELECT format('(%L, %L::integer, %s, %L, %s, %s, %L::text[], %L::text[], $is_first)', kind, id, stamp, '$region', entry, $n, before, after) FROM gone");
	$lab->sql('us', 'INSERT INTO event VALUES ' . join ', ', split /\n(?=\(')/, $events) if $events ne '';
}

sub round_of
{
	my ($name, $is_apart, @now) = @_;    # is_apart: nobody sees anything before all have written
	my %ids;
	push @{ $ids{ $_->[0] } }, $_->[1] for @now;
	$lab->everywhere("SELECT mrsync.region_connect('nobody')") if $is_apart;    # versions are looked at: nothing is forgotten
	++$number_of_chunk;
	write_chunk('us', $number_of_chunk, 'true', map { [ $_->[0], $_->[1], ["INSERT INTO T VALUES (K, $kinds{$_->[0]}{first}, 'seed')"] ] } grep { $_->[2] } @now);
	$lab->drain;

	my (%jobs, %written, %delivered, %holder);
	for my $case (@now)
	{
		push @{ $jobs{ $regions[$_] }[ int rand $chunks ] }, [ $case->[0], $case->[1], $case->[3][$_] ] for grep { @{ $case->[3][$_] } } 0 .. 2;
	}
	for my $region (@regions)
	{
		$holder{$region} = $lab->session($region);
		$holder{$region}->sql(join ';', map { my $from = $_; map { 'SELECT pg_advisory_lock(' . gates($from, $number_of_chunk + $_) . ')' } 1 .. $chunks } $lab->peers($region));
	}
	my @order;
	while (1)
	{
		my @writes = grep { ($written{$_} // 0) < $chunks } @regions;
		my @deliveries = grep { my ($source) = split />/; ($delivered{$_} // 0) < ($written{$source} // 0) } $lab->links;
		last if !@writes && !@deliveries;
		my $act = @writes && ($is_apart || !@deliveries || rand() < 0.4) ? any_of(@writes) : any_of(@deliveries);
		my ($source, $target) = split />/, $act;
		push @order, $act;
		if ($target)
		{
			my $n = $number_of_chunk + ++$delivered{$act};
			$holder{$target}->sql('SELECT pg_advisory_unlock(' . gates($source, $n) . ')');
			$lab->wait_for($target, "SELECT count(*) FROM gate WHERE region = '$source' AND number = -$n", 1);
		}
		else
		{
			my $n = $number_of_chunk + ++$written{$act};
			push @seen, map { [ $act, $n, $_, $number_of_chunk + ($delivered{"$_>$act"} // 0) ] } $lab->peers($act);
			write_chunk($act, $n, 'false', shuffle @{ $jobs{$act}[ $written{$act} - 1 ] || [] });
		}
	}
	$number_of_chunk += $chunks;
	$_->close for values %holder;
	note join ' ', @order;
	$lab->drain;

	for my $kind (sort keys %kinds)
	{
		my $ids = join ',', sort { $a <=> $b } @{ $ids{$kind} };
		my $is = $lab->same("SELECT id, v, w FROM $kind WHERE id = ANY ('{$ids}') ORDER BY id", "$name, $kind: equal");
		my $expected = $lab->sql('us', "SELECT id, r[1], r[2] FROM (SELECT id, fold(kind, before, after ORDER BY stamp, region, entry) r FROM (SELECT i.id, kind, before, after, stamp, region, entry FROM unnest('{$ids}'::integer[]) i (id) JOIN event e ON kind = '$kind' AND coalesce(e.id, i.id) = i.id) e GROUP BY id) f WHERE r IS NOT NULL ORDER BY id", options => $Mrsync::Lab::COMPARABLE);
		ok $is eq $expected, "$name, $kind: to the fold" or diag Mrsync::Lab::first_difference('expected', $expected, 'is', $is);
		next if !$is_apart;
		$is = $lab->same("SELECT id, version.hlc::bigint, version.region_id, version.exact FROM $kind t, mrsync.row_version(t.tableoid, t.ctid, t.xmin) version WHERE id = ANY ('{$ids}') ORDER BY id", "$name, $kind: versions are equal");
		$expected = $lab->sql('us', "SELECT DISTINCT ON (id) id, stamp, region, true FROM event JOIN $kind USING (id) WHERE kind = '$kind' AND id = ANY ('{$ids}') ORDER BY id, stamp DESC, region DESC");
		ok $is eq $expected, "$name, $kind: those of the last writers" or diag Mrsync::Lab::first_difference('expected', $expected, 'is', $is);
	}
	$lab->everywhere("DELETE FROM mrsync.region WHERE region_id = 'nobody'");
	push @apart, map { $_->[1] } @now if $is_apart;
}
for my $round (1 .. $rounds)
{
	round_of("round $round", $round % 2, splice @cases, 0, int(@cases / ($rounds - $round + 1)));
}

# The same where tables are truncated meanwhile, in transactions of their own and among other things: what was written before has no effect
# on what is written after it.
my $truncated_from = ++$id;
for my $round (1 .. 2)
{
	my @now;
	for my $kind (sort keys %kinds)
	{
		push @now, map { [ $kind, $id++, 1, [ map { $on_row{ any_of(keys %on_row) } } @regions ] ] } 1 .. 20;
		push @now, map { [ $kind, $id++, 0, [ map { $on_nothing{ any_of(keys %on_nothing) } } @regions ] ] } 1 .. 5;
		my @who = map { any_of([], ['TRUNCATE T'], ["UPDATE T SET v = C WHERE id = K; TRUNCATE T; $put"]) } @regions;
		$who[ rand @who ] = ['TRUNCATE T'];
		push @now, [ $kind, $id++, 1, \@who ];
	}
	round_of("truncated, round $round", 0, @now);
}


# ---------------------------------------------------------------------------------------------------------------------
# What the log says of it
# ---------------------------------------------------------------------------------------------------------------------
# Where all wrote before anybody had heard of the others, each region has met each contested row by itself.
my $contested = $lab->sql('us', "SELECT id FROM event WHERE id = ANY ('{" . join(',', @apart) . "}') AND NOT is_first GROUP BY id HAVING count(DISTINCT region) > 1 ORDER BY id");
is $lab->same("SELECT DISTINCT (row_pk ->> 'id')::integer FROM mrsync.conflict_log WHERE (row_pk ->> 'id')::integer = ANY ('{" . join(',', @apart) . "}') ORDER BY 1", 'rows in conflict: equal'), $contested, 'all that are contested, and no others';
my (%known, @differs);
my $shared = 0;
for my $region (@regions)
{
	for (split /\n(?=[0-9a-f]{8}-)/, $lab->sql($region, 'SELECT conflict_id, table_name, row_pk, region_a, region_b, hlc_a, hlc_b, resolution_strategy, image_a, image_b, result FROM mrsync.conflict_log'))
	{
		my ($id, $rest) = split /\|/, $_, 2;
		++$shared if $known{$id};
		push @differs, "$region says $rest, not $known{$id}" if ($known{$id} //= $rest) ne $rest;
	}
}
is join("\n", @differs[0 .. ($#differs > 4 ? 4 : $#differs)]), '', 'conflicts: the same sides and results in every region';
cmp_ok $shared, '>', 1000, "$shared of " . keys(%known) . ' were met in more than one region';
$lab->conflicts_retold;
$lab->same($Mrsync::Lab::CONFLICTS, 'told of what the others have met: the logs are equal');
# Of these two sides alone, by the test's own fold. First everything is as the first of the two events found it.
$lab->sql('us', 'CREATE TABLE seen (region text, chunk integer, peer text, peer_chunk integer, PRIMARY KEY (region, chunk, peer)); INSERT INTO seen VALUES ' . join ', ', map { "('$_->[0]', $_->[1], '$_->[2]', $_->[3])" } @seen);
my $side = 'LEFT JOIN LATERAL (SELECT after, chunk, bool_or(before IS NULL) OVER () AS inserts FROM event WHERE kind = k.kind AND id = k.id AND region = c.region_X AND stamp = c.hlc_X::bigint ORDER BY entry DESC LIMIT 1) X ON true';
my ($side_a, $side_b) = map { $side =~ s/X/$_/gr } qw(a b);
is $lab->sql('us', <<"SQL"), '', 'each is of two sides that had not seen each other, the later one has won, and the result is what the rule makes of the two';
SELECT problem, to_jsonb(c), a.after, b.after, f.result FROM mrsync.conflict_log c
CROSS JOIN LATERAL (SELECT split_part(table_name, '.', 2), (row_pk ->> 'id')::integer) k (kind, id)
$side_a $side_b
CROSS JOIN LATERAL (
	WITH pair AS (SELECT * FROM event WHERE kind = k.kind AND id = k.id AND (region, stamp) IN ((c.region_a, c.hlc_a::bigint), (c.region_b, c.hlc_b::bigint)))
	SELECT fold(k.kind, before, after ORDER BY stamp, region, entry) FROM (SELECT stamp, region, entry, before, after FROM pair
		UNION ALL (SELECT 0, '', 0, NULL, before FROM pair ORDER BY stamp, region, entry LIMIT 1)) e
) f (result)
CROSS JOIN LATERAL (SELECT CASE
	WHEN a.chunk IS NULL OR b.chunk IS NULL THEN 'a side that nobody wrote'
	WHEN EXISTS (SELECT FROM seen s WHERE (s.region, s.chunk, s.peer) = (c.region_a, a.chunk, c.region_b) AND s.peer_chunk >= b.chunk
		OR (s.region, s.chunk, s.peer) = (c.region_b, b.chunk, c.region_a) AND s.peer_chunk >= a.chunk) THEN 'no conflict'
	WHEN (c.hlc_a::bigint, c.region_a COLLATE "C") >= (c.hlc_b::bigint, c.region_b COLLATE "C") OR c.winner_region <> c.region_b OR c.winner_event_id IS DISTINCT FROM c.event_id_b THEN 'winner'
	WHEN c.resolution_strategy <> CASE k.kind WHEN 'last' THEN 'last_writer_wins' WHEN 'single' THEN 'column_last_writer_wins' ELSE 'merge_function' END THEN 'strategy'
	WHEN (c.image_a IS NULL, c.image_a ->> 'v', c.image_a ->> 'w') IS DISTINCT FROM (a.after IS NULL, a.after[1], a.after[2]) THEN 'image a'
	WHEN (c.image_b IS NULL, c.image_b ->> 'v', c.image_b ->> 'w') IS DISTINCT FROM (b.after IS NULL, b.after[1], b.after[2]) THEN 'image b'
	WHEN (c.result IS NULL, c.result ->> 'v', c.result ->> 'w') IS DISTINCT FROM (f.result IS NULL, f.result[1], f.result[2]) THEN 'result'
	WHEN NOT c.conflict_type = ANY (CASE WHEN a.after IS NOT NULL AND b.after IS NOT NULL THEN CASE WHEN a.inserts OR b.inserts THEN '{insert_exists,update_origin_differs}' ELSE '{update_origin_differs}' END::text[]
		WHEN a.after IS NOT NULL THEN '{delete_origin_differs}' WHEN b.after IS NOT NULL THEN '{update_deleted}' ELSE '{delete_missing}' END) THEN 'type'
END) p (problem)
WHERE problem IS NOT NULL AND k.id < $truncated_from ORDER BY 1 LIMIT 5
SQL
is $lab->same($Mrsync::Lab::UNNAMED, 'events that are not named: equal'), "0\n0", 'are of transactions with several';
my %types = map { $_ => 1 } split /\n/, $lab->sql('us', 'SELECT DISTINCT conflict_type FROM mrsync.conflict_log');
is join(' ', sort keys %types), 'delete_missing delete_origin_differs insert_exists update_deleted update_origin_differs', 'every name has come up';
# What all have seen is forgotten.
$lab->wait_for($_, 'SELECT count(*) FROM mrsync.row_history', 0) for @regions;
$lab->healthy;
done_testing;
