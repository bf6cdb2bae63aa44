-- mrsync 0.1.0
\echo Use "CREATE EXTENSION mrsync" to load this file. \quit

-- ---------------------------------------------------------------------------------------------------------------------
-- The hybrid logical clock
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TYPE mrsync.hlc;
CREATE FUNCTION mrsync.hlc_in(cstring) RETURNS mrsync.hlc LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_hlc_in';
CREATE FUNCTION mrsync.hlc_out(mrsync.hlc) RETURNS cstring LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_hlc_out';
CREATE FUNCTION mrsync.hlc_recv(internal) RETURNS mrsync.hlc LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_hlc_recv';
CREATE FUNCTION mrsync.hlc_send(mrsync.hlc) RETURNS bytea LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_hlc_send';
CREATE TYPE mrsync.hlc (
	INPUT = mrsync.hlc_in, OUTPUT = mrsync.hlc_out, RECEIVE = mrsync.hlc_recv, SEND = mrsync.hlc_send,
	INTERNALLENGTH = 8, PASSEDBYVALUE, ALIGNMENT = double, STORAGE = plain, CATEGORY = 'D'
);
COMMENT ON TYPE mrsync.hlc IS 'Hybrid logical timestamp: microseconds since 2000-01-01 UTC, as timestamptz counts them; written like 2026-11-23 08:11:00.123456Z';
COMMENT ON FUNCTION mrsync.hlc_in(cstring) IS 'Reads a stamp: 2026-11-23 08:11:00.123456Z, with T instead of the space, with fewer digits, or an integer of microseconds since 2000-01-01 UTC. Error: 22P02. Example: SELECT ''2026-11-23 08:11:00Z''::mrsync.hlc;';
COMMENT ON FUNCTION mrsync.hlc_out(mrsync.hlc) IS 'Writes a stamp: 2026-11-23 08:11:00.123456Z';
COMMENT ON FUNCTION mrsync.hlc_recv(internal) IS 'Reads a stamp in binary form: 64 bits, microseconds since 2000-01-01 UTC';
COMMENT ON FUNCTION mrsync.hlc_send(mrsync.hlc) IS 'Writes a stamp in binary form: 64 bits, microseconds since 2000-01-01 UTC';

CREATE FUNCTION mrsync.hlc_lt(mrsync.hlc, mrsync.hlc) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'int8lt';
CREATE FUNCTION mrsync.hlc_le(mrsync.hlc, mrsync.hlc) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'int8le';
CREATE FUNCTION mrsync.hlc_eq(mrsync.hlc, mrsync.hlc) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'int8eq';
CREATE FUNCTION mrsync.hlc_ne(mrsync.hlc, mrsync.hlc) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'int8ne';
CREATE FUNCTION mrsync.hlc_ge(mrsync.hlc, mrsync.hlc) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'int8ge';
CREATE FUNCTION mrsync.hlc_gt(mrsync.hlc, mrsync.hlc) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'int8gt';
CREATE FUNCTION mrsync.hlc_cmp(mrsync.hlc, mrsync.hlc) RETURNS integer LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF AS 'btint8cmp';
CREATE FUNCTION mrsync.hlc_hash(mrsync.hlc) RETURNS integer LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashint8';
CREATE FUNCTION mrsync.hlc_hash_extended(mrsync.hlc, bigint) RETURNS bigint LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashint8extended';
CREATE FUNCTION mrsync.hlc_larger(mrsync.hlc, mrsync.hlc) RETURNS mrsync.hlc LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int8larger';
CREATE FUNCTION mrsync.hlc_smaller(mrsync.hlc, mrsync.hlc) RETURNS mrsync.hlc LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int8smaller';
COMMENT ON FUNCTION mrsync.hlc_lt(mrsync.hlc, mrsync.hlc) IS 'Operator: the first stamp is below the second';
COMMENT ON FUNCTION mrsync.hlc_le(mrsync.hlc, mrsync.hlc) IS 'Operator: the first stamp is below or equal to the second';
COMMENT ON FUNCTION mrsync.hlc_eq(mrsync.hlc, mrsync.hlc) IS 'Operator: the first stamp is equal to the second';
COMMENT ON FUNCTION mrsync.hlc_ne(mrsync.hlc, mrsync.hlc) IS 'Operator: the first stamp is different from the second';
COMMENT ON FUNCTION mrsync.hlc_ge(mrsync.hlc, mrsync.hlc) IS 'Operator: the first stamp is above or equal to the second';
COMMENT ON FUNCTION mrsync.hlc_gt(mrsync.hlc, mrsync.hlc) IS 'Operator: the first stamp is above the second';
COMMENT ON FUNCTION mrsync.hlc_cmp(mrsync.hlc, mrsync.hlc) IS 'B-tree order of stamps: -1, 0 or 1';
COMMENT ON FUNCTION mrsync.hlc_hash(mrsync.hlc) IS 'Hash of a stamp';
COMMENT ON FUNCTION mrsync.hlc_hash_extended(mrsync.hlc, bigint) IS 'Hash of a stamp, 64 bits with a seed';
COMMENT ON FUNCTION mrsync.hlc_larger(mrsync.hlc, mrsync.hlc) IS 'The higher of two stamps; makes max()';
COMMENT ON FUNCTION mrsync.hlc_smaller(mrsync.hlc, mrsync.hlc) IS 'The lower of two stamps; makes min()';

CREATE OPERATOR mrsync.< (LEFTARG = mrsync.hlc, RIGHTARG = mrsync.hlc, FUNCTION = mrsync.hlc_lt, COMMUTATOR = OPERATOR(mrsync.>), NEGATOR = OPERATOR(mrsync.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR mrsync.<= (LEFTARG = mrsync.hlc, RIGHTARG = mrsync.hlc, FUNCTION = mrsync.hlc_le, COMMUTATOR = OPERATOR(mrsync.>=), NEGATOR = OPERATOR(mrsync.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel);
CREATE OPERATOR mrsync.= (LEFTARG = mrsync.hlc, RIGHTARG = mrsync.hlc, FUNCTION = mrsync.hlc_eq, COMMUTATOR = OPERATOR(mrsync.=), NEGATOR = OPERATOR(mrsync.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
CREATE OPERATOR mrsync.<> (LEFTARG = mrsync.hlc, RIGHTARG = mrsync.hlc, FUNCTION = mrsync.hlc_ne, COMMUTATOR = OPERATOR(mrsync.<>), NEGATOR = OPERATOR(mrsync.=), RESTRICT = neqsel, JOIN = neqjoinsel);
CREATE OPERATOR mrsync.>= (LEFTARG = mrsync.hlc, RIGHTARG = mrsync.hlc, FUNCTION = mrsync.hlc_ge, COMMUTATOR = OPERATOR(mrsync.<=), NEGATOR = OPERATOR(mrsync.<), RESTRICT = scalargesel, JOIN = scalargejoinsel);
CREATE OPERATOR mrsync.> (LEFTARG = mrsync.hlc, RIGHTARG = mrsync.hlc, FUNCTION = mrsync.hlc_gt, COMMUTATOR = OPERATOR(mrsync.<), NEGATOR = OPERATOR(mrsync.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel);

CREATE OPERATOR CLASS mrsync.hlc_ops DEFAULT FOR TYPE mrsync.hlc USING btree AS
	OPERATOR 1 mrsync.<, OPERATOR 2 mrsync.<=, OPERATOR 3 mrsync.=, OPERATOR 4 mrsync.>=, OPERATOR 5 mrsync.>,
	FUNCTION 1 mrsync.hlc_cmp(mrsync.hlc, mrsync.hlc);
CREATE OPERATOR CLASS mrsync.hlc_ops DEFAULT FOR TYPE mrsync.hlc USING hash AS
	OPERATOR 1 mrsync.=, FUNCTION 1 mrsync.hlc_hash(mrsync.hlc), FUNCTION 2 mrsync.hlc_hash_extended(mrsync.hlc, bigint);
CREATE AGGREGATE mrsync.max(mrsync.hlc) (SFUNC = mrsync.hlc_larger, STYPE = mrsync.hlc, SORTOP = OPERATOR(mrsync.>), COMBINEFUNC = mrsync.hlc_larger, PARALLEL = SAFE);
CREATE AGGREGATE mrsync.min(mrsync.hlc) (SFUNC = mrsync.hlc_smaller, STYPE = mrsync.hlc, SORTOP = OPERATOR(mrsync.<), COMBINEFUNC = mrsync.hlc_smaller, PARALLEL = SAFE);
COMMENT ON AGGREGATE mrsync.max(mrsync.hlc) IS 'The highest stamp; NULL of no rows. Example: SELECT mrsync.max(hlc) FROM mrsync.applied_event;';
COMMENT ON AGGREGATE mrsync.min(mrsync.hlc) IS 'The lowest stamp; NULL of no rows. Example: SELECT mrsync.min(hlc) FROM mrsync.apply_error;';

CREATE CAST (mrsync.hlc AS bigint) WITHOUT FUNCTION;
CREATE CAST (bigint AS mrsync.hlc) WITHOUT FUNCTION;
-- implicit: stamps can be compared also where schema mrsync is not in the search_path
CREATE CAST (mrsync.hlc AS timestamptz) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (timestamptz AS mrsync.hlc) WITHOUT FUNCTION;

-- Clock
CREATE FUNCTION mrsync.version_below(xmin xid, hlc mrsync.hlc, region_id text) RETURNS boolean LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mrsync_version_below';
COMMENT ON FUNCTION mrsync.version_below(xid, mrsync.hlc, text) IS 'Whether the version (stamp, region) of a row with this xmin is below another one. Error: 55000 when the database is not a region. Example: SELECT id FROM t WHERE mrsync.version_below(xmin, mrsync.current_hlc(), ''us'');';
CREATE FUNCTION mrsync.current_hlc() RETURNS mrsync.hlc LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mrsync_current_hlc';
COMMENT ON FUNCTION mrsync.current_hlc() IS 'A new stamp of this region''s hybrid logical clock, above every transaction that this session has committed or seen. Error: 55000 when the database is not a region. Example: SELECT mrsync.current_hlc();';

-- ---------------------------------------------------------------------------------------------------------------------
-- Catalog
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE mrsync.region (
	region_id text COLLATE "C" PRIMARY KEY,
	is_local boolean NOT NULL,
	replication_group text NOT NULL,
	kafka_brokers text NOT NULL,
	link_origin oid,
	added_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX region_local ON mrsync.region (is_local) WHERE is_local;
COMMENT ON TABLE mrsync.region IS 'This region and the peers it knows, one row each';
COMMENT ON COLUMN mrsync.region.region_id IS 'Its name, part of the names of its topics';
COMMENT ON COLUMN mrsync.region.is_local IS 'Whether it is this database';
COMMENT ON COLUMN mrsync.region.replication_group IS 'The group of regions that replicate among themselves; the same in all rows';
COMMENT ON COLUMN mrsync.region.kafka_brokers IS 'The brokers that hold its topics: host:port, separated by commas';
COMMENT ON COLUMN mrsync.region.link_origin IS 'The replication origin (pg_replication_origin.roident) under which its rows are written here when they come from elsewhere; for this region: its own rows that come back';
COMMENT ON COLUMN mrsync.region.added_at IS 'When it became known here';

-- Read by the output plugin under a historic snapshot, hence a user catalog table.
CREATE TABLE mrsync.replicated_table (
	relation regclass PRIMARY KEY,
	strategy text NOT NULL DEFAULT 'last_writer_wins',
	former_replica_identity "char" NOT NULL,
	base_hlc mrsync.hlc NOT NULL,
	added_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (user_catalog_table = true);
COMMENT ON TABLE mrsync.replicated_table IS 'The tables that are replicated; a partitioned table stands for all its partitions';
COMMENT ON COLUMN mrsync.replicated_table.relation IS 'The table; its partitions are not listed';
COMMENT ON COLUMN mrsync.replicated_table.strategy IS 'Who wins a conflict: last_writer_wins, the only one for now';
COMMENT ON COLUMN mrsync.replicated_table.former_replica_identity IS 'What REPLICA IDENTITY was before table_add, as in pg_class.relreplident: d default, n nothing, f full, i an index';
COMMENT ON COLUMN mrsync.replicated_table.base_hlc IS 'Stamp of table_add here: what this region wrote into the table before is its common beginning in all regions, and the first newer write of another region to such a row is no conflict';
COMMENT ON COLUMN mrsync.replicated_table.added_at IS 'When it was added here';

CREATE TABLE mrsync.replication_link (
	link_id uuid PRIMARY KEY,
	source_region text COLLATE "C" NOT NULL REFERENCES mrsync.region,
	target_region text COLLATE "C" NOT NULL REFERENCES mrsync.region,
	status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'degraded', 'decommissioned')),
	last_acked_event_id uuid,
	lag_ms bigint,
	updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	UNIQUE (source_region, target_region),
	CHECK (source_region <> target_region)
);
COMMENT ON TABLE mrsync.replication_link IS 'Directed links between regions, as this region knows them';
COMMENT ON COLUMN mrsync.replication_link.link_id IS 'Made from the group and both names, so the same in both regions';
COMMENT ON COLUMN mrsync.replication_link.source_region IS 'Whose events travel';
COMMENT ON COLUMN mrsync.replication_link.target_region IS 'Where they are applied; the link acts there';
COMMENT ON COLUMN mrsync.replication_link.status IS 'active; paused by link_pause(); degraded: events are parked, or the applier keeps failing; decommissioned is reserved';
COMMENT ON COLUMN mrsync.replication_link.last_acked_event_id IS 'The newest event of the source that the target has applied and acknowledged';
COMMENT ON COLUMN mrsync.replication_link.lag_ms IS 'Milliseconds since the commit of the oldest event of the source that the target has not acknowledged; 0 when there is none; NULL before the first measurement';
COMMENT ON COLUMN mrsync.replication_link.updated_at IS 'When this row was last changed';

-- One row per source region; written by its applier in the very transaction that applies (I7).
CREATE TABLE mrsync.link_position (
	source_region text COLLATE "C" PRIMARY KEY REFERENCES mrsync.region,
	topic text NOT NULL,
	next_offset bigint NOT NULL,
	incarnation bigint NOT NULL,
	sequence bigint NOT NULL,
	hlc mrsync.hlc NOT NULL,
	event_id uuid,
	committed_at timestamptz,
	applied_at timestamptz NOT NULL,
	event_offset bigint
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE mrsync.link_position IS 'Where each incoming link goes on reading; part of the transaction that applied up to there';
COMMENT ON COLUMN mrsync.link_position.source_region IS 'The link''s source';
COMMENT ON COLUMN mrsync.link_position.topic IS 'The source''s data topic';
COMMENT ON COLUMN mrsync.link_position.next_offset IS 'Offset in the topic of the record to be read next';
COMMENT ON COLUMN mrsync.link_position.incarnation IS 'Which start of the source''s extractor sent the last transaction applied; what an earlier one sends late is dropped';
COMMENT ON COLUMN mrsync.link_position.sequence IS 'Of the last transaction applied, its place in the source''s order of commits: (timeline << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.link_position.hlc IS 'The highest stamp applied up to this position';
COMMENT ON COLUMN mrsync.link_position.event_id IS 'The last event applied';
COMMENT ON COLUMN mrsync.link_position.committed_at IS 'When it was committed, by the source''s clock';
COMMENT ON COLUMN mrsync.link_position.applied_at IS 'When it was applied, by this server''s clock';
COMMENT ON COLUMN mrsync.link_position.event_offset IS 'Offset in the topic of the last event applied; an applier that starts makes sure that it still stands there. NULL: not known, and not looked at';

-- How far this region's own topics are known to be written, and what it had applied of others by then.
CREATE TABLE mrsync.extractor_position (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	-- peers ignore incarnations below one they know, also those of a region that left and came back
	incarnation bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp())::bigint,
	sequence bigint NOT NULL DEFAULT 0,
	seen text NOT NULL DEFAULT '{}',
	lsn pg_lsn NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.extractor_position IS 'How far this region''s topic is acknowledged by the broker, and what the region had applied of others by then';
COMMENT ON COLUMN mrsync.extractor_position.one IS 'There is one row';
COMMENT ON COLUMN mrsync.extractor_position.incarnation IS 'Which start of the extractor the present one is: the seconds since 1970 at that time, or one more than the one before where that is more';
COMMENT ON COLUMN mrsync.extractor_position.sequence IS 'Of the newest transaction acknowledged: (timeline << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.extractor_position.lsn IS 'What was committed before this position of the WAL has been sent, or was found lost. The slot is never ahead of it: one that is, is another slot, or was advanced by hand';
COMMENT ON COLUMN mrsync.extractor_position.seen IS 'How far the other regions had been applied here at that point of the WAL, as JSON: {region: {sequence, hlc}}';

-- The row of a resend is written when all its parts are in the WAL, and travels behind them in the topic.
CREATE TABLE mrsync.resend (
	region_id text COLLATE "C" NOT NULL,
	resend_id uuid PRIMARY KEY,
	from_hlc mrsync.hlc NOT NULL,
	covers bigint NOT NULL,
	parts bigint NOT NULL,
	rows bigint NOT NULL,
	deletions bigint NOT NULL,
	left_out bigint NOT NULL,
	started_at timestamptz NOT NULL,
	finished_at timestamptz NOT NULL
);
COMMENT ON TABLE mrsync.resend IS 'What regions have sent again by resend(): this one, and the others as far as their resends have arrived here';
COMMENT ON COLUMN mrsync.resend.region_id IS 'Which region has sent it';
COMMENT ON COLUMN mrsync.resend.resend_id IS 'The resend; events of it bear this id';
COMMENT ON COLUMN mrsync.resend.from_hlc IS 'Versions at or below this stamp were left out; 2000-01-01 00:00:00Z: none was';
COMMENT ON COLUMN mrsync.resend.covers IS 'All that the region had committed up to this sequence, (timeline << 48) | LSN of the commit, was visible to it';
COMMENT ON COLUMN mrsync.resend.parts IS 'How many parts it has in the topic';
COMMENT ON COLUMN mrsync.resend.rows IS 'How many rows were sent';
COMMENT ON COLUMN mrsync.resend.deletions IS 'How many deletions and truncations were sent';
COMMENT ON COLUMN mrsync.resend.left_out IS 'How many rows and deletions were not sent: too large, or of a version that is not known any more';
COMMENT ON COLUMN mrsync.resend.started_at IS 'When it began, by that region''s clock';
COMMENT ON COLUMN mrsync.resend.finished_at IS 'When all was written into the WAL there, by that region''s clock';

CREATE TABLE mrsync.control_position (
	region_id text COLLATE "C" PRIMARY KEY REFERENCES mrsync.region,
	next_offset bigint NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.control_position IS 'Where this region goes on reading the control topic of each peer';
COMMENT ON COLUMN mrsync.control_position.region_id IS 'The peer';
COMMENT ON COLUMN mrsync.control_position.next_offset IS 'Offset in its control topic of the record to be read next';

-- Rows that travel on the control topic: each is written by the region it names, and only that region's are sent.
CREATE TABLE mrsync.heartbeat (
	region_id text COLLATE "C" PRIMARY KEY,
	hlc mrsync.hlc NOT NULL,
	sequence bigint NOT NULL,
	sent_at timestamptz NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.heartbeat IS 'The last sign of life of each region, with the sequence of its newest transaction';
COMMENT ON COLUMN mrsync.heartbeat.region_id IS 'Whose sign of life';
COMMENT ON COLUMN mrsync.heartbeat.hlc IS 'Stamp of this row by that region''s clock; of two rows the higher one counts';
COMMENT ON COLUMN mrsync.heartbeat.sequence IS 'Of that region''s newest transaction whose events the broker has acknowledged: (timeline << 48) | LSN of the commit. Its topic holds all up to there';
COMMENT ON COLUMN mrsync.heartbeat.sent_at IS 'When it was sent, by that region''s clock';

CREATE TABLE mrsync.acknowledgement (
	region_id text COLLATE "C" NOT NULL,
	source_region text COLLATE "C" NOT NULL,
	hlc mrsync.hlc NOT NULL,
	sequence bigint NOT NULL,
	event_id uuid,
	committed_at timestamptz,
	lag_ms bigint,
	PRIMARY KEY (region_id, source_region)
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.acknowledgement IS 'How far each region has applied each other one';
COMMENT ON COLUMN mrsync.acknowledgement.region_id IS 'Who acknowledges';
COMMENT ON COLUMN mrsync.acknowledgement.source_region IS 'Whose events';
COMMENT ON COLUMN mrsync.acknowledgement.hlc IS 'Stamp of this row by the clock of region_id; of two rows the higher one counts';
COMMENT ON COLUMN mrsync.acknowledgement.sequence IS 'Of the last transaction of source_region that region_id has applied: (timeline << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.acknowledgement.event_id IS 'The last event of that transaction';
COMMENT ON COLUMN mrsync.acknowledgement.committed_at IS 'When that transaction was committed, by the clock of source_region';
COMMENT ON COLUMN mrsync.acknowledgement.lag_ms IS 'Milliseconds from then until this acknowledgement; 0 when nothing was left to apply';

CREATE TABLE mrsync.applied_event (
	event_id uuid NOT NULL,
	last_event_id uuid NOT NULL,
	region_id text COLLATE "C" NOT NULL,
	sequence bigint NOT NULL,
	hlc mrsync.hlc NOT NULL,
	seen text,
	applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (event_id)
) PARTITION BY RANGE (event_id);
-- for "what had the writer of this version seen": by region and stamp
CREATE INDEX applied_event_version ON mrsync.applied_event (region_id, hlc);
CREATE TABLE mrsync.applied_event_default PARTITION OF mrsync.applied_event DEFAULT;
COMMENT ON TABLE mrsync.applied_event IS 'Dedup: one record per applied transaction, for its range of event ids. Partitioned by event_id, which is ordered by time';
COMMENT ON COLUMN mrsync.applied_event.event_id IS 'The first event of the transaction';
COMMENT ON COLUMN mrsync.applied_event.last_event_id IS 'Its last event';
COMMENT ON COLUMN mrsync.applied_event.region_id IS 'Where the transaction was committed';
COMMENT ON COLUMN mrsync.applied_event.sequence IS 'Its place in that region''s order of commits: (timeline << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.applied_event.hlc IS 'Its stamp';
COMMENT ON COLUMN mrsync.applied_event.seen IS 'How far its region had applied the others when it committed, as JSON; tells conflicts from later writes';
COMMENT ON COLUMN mrsync.applied_event.applied_at IS 'When it was applied, by this server''s clock';

-- A row's version is that of its own xmin; relation 0-key (key_hash NULL) is a truncation.
CREATE TABLE mrsync.tombstone (
	relation oid NOT NULL,
	key_hash bigint,
	row_pk text
);
CREATE INDEX tombstone_key ON mrsync.tombstone (relation, key_hash);
COMMENT ON TABLE mrsync.tombstone IS 'Deleted keys, so that an older event that arrives late does not bring the row back. The version of a tombstone is that of the transaction that wrote it';
COMMENT ON COLUMN mrsync.tombstone.relation IS 'OID of the replicated table; of a partition where that alone was truncated';
COMMENT ON COLUMN mrsync.tombstone.key_hash IS 'Hash of the deleted key, by its types'' own equality; NULL: a TRUNCATE, which stands for all keys';
COMMENT ON COLUMN mrsync.tombstone.row_pk IS 'The deleted key as JSON, values as text; NULL: a TRUNCATE';

CREATE TABLE mrsync.hlc_override (
	xid xid8 PRIMARY KEY,
	hlc mrsync.hlc NOT NULL
) WITH (user_catalog_table = true);
COMMENT ON TABLE mrsync.hlc_override IS 'The stamp of transactions whose commit timestamp does not say it (clock behind, or a foreign replication origin)';
COMMENT ON COLUMN mrsync.hlc_override.xid IS 'The transaction; its subtransactions have rows of their own';
COMMENT ON COLUMN mrsync.hlc_override.hlc IS 'Its stamp';

CREATE TABLE mrsync.apply_error (
	error_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source_region text COLLATE "C" NOT NULL,
	event_id uuid NOT NULL,
	table_name text NOT NULL,
	row_pk jsonb,
	operation text NOT NULL,
	hlc mrsync.hlc NOT NULL,
	event text NOT NULL,
	sqlstate text NOT NULL,
	message text NOT NULL,
	detail text,
	hint text,
	attempts integer NOT NULL DEFAULT 1,
	first_failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	waits_for uuid REFERENCES mrsync.apply_error (event_id) ON DELETE SET NULL,
	retry_at timestamptz NOT NULL,
	UNIQUE (event_id)
);
-- With the event that is waited for goes the waiting; also where an applier, in the replica role, takes it away.
DO $$
DECLARE
	trigger_name name;
BEGIN
	FOR trigger_name IN SELECT tgname FROM pg_catalog.pg_trigger WHERE tgrelid = 'mrsync.apply_error'::pg_catalog.regclass LOOP
		EXECUTE pg_catalog.format('ALTER TABLE mrsync.apply_error ENABLE ALWAYS TRIGGER %I', trigger_name);
	END LOOP;
END
$$;
CREATE INDEX apply_error_source ON mrsync.apply_error (source_region);
CREATE INDEX apply_error_due ON mrsync.apply_error (source_region, retry_at, error_id) WHERE waits_for IS NULL;
CREATE INDEX apply_error_waiting ON mrsync.apply_error (waits_for) WHERE waits_for IS NOT NULL;
COMMENT ON TABLE mrsync.apply_error IS 'Parked events: what could not be applied here, and why. Tried again by itself, and by apply_error_retry(); a row goes when its event is applied';
COMMENT ON COLUMN mrsync.apply_error.error_id IS 'Its number, for apply_error_retry() and apply_error_discard()';
COMMENT ON COLUMN mrsync.apply_error.source_region IS 'Whose event it is';
COMMENT ON COLUMN mrsync.apply_error.event_id IS 'Id of the event';
COMMENT ON COLUMN mrsync.apply_error.table_name IS 'The table as the event names it, with its schema';
COMMENT ON COLUMN mrsync.apply_error.row_pk IS 'The row''s key, values as text; NULL: a TRUNCATE';
COMMENT ON COLUMN mrsync.apply_error.operation IS 'INSERT, UPDATE, DELETE or TRUNCATE';
COMMENT ON COLUMN mrsync.apply_error.hlc IS 'The event''s stamp; that of its transaction';
COMMENT ON COLUMN mrsync.apply_error.event IS 'The whole event as JSON';
COMMENT ON COLUMN mrsync.apply_error.sqlstate IS 'Of the last attempt: why it failed, as a code of five characters';
COMMENT ON COLUMN mrsync.apply_error.message IS 'Of the last attempt: why it failed';
COMMENT ON COLUMN mrsync.apply_error.detail IS 'Of the last attempt; NULL: none';
COMMENT ON COLUMN mrsync.apply_error.hint IS 'Of the last attempt: what to do; NULL: none';
COMMENT ON COLUMN mrsync.apply_error.attempts IS 'How often it was tried, the first time included';
COMMENT ON COLUMN mrsync.apply_error.first_failed_at IS 'When it was parked, by this server''s clock';
COMMENT ON COLUMN mrsync.apply_error.last_failed_at IS 'When it was tried last, by this server''s clock';
COMMENT ON COLUMN mrsync.apply_error.waits_for IS 'The earlier event of the same transaction and row that has to be applied first; NULL: none';
COMMENT ON COLUMN mrsync.apply_error.retry_at IS 'When it is tried again, if it waits for no other';

CREATE TABLE mrsync.conflict_log (
	conflict_id uuid NOT NULL PRIMARY KEY,
	conflict_type text NOT NULL,
	table_name text NOT NULL,
	row_pk jsonb NOT NULL,
	event_id_a uuid,
	event_id_b uuid,
	region_a text COLLATE "C",
	region_b text COLLATE "C" NOT NULL,
	hlc_a mrsync.hlc,
	hlc_b mrsync.hlc NOT NULL,
	image_a jsonb,
	image_b jsonb,
	result jsonb,
	resolution_strategy text NOT NULL,
	winner_region text COLLATE "C" NOT NULL,
	winner_event_id uuid,
	resolved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX conflict_log_table ON mrsync.conflict_log (table_name, resolved_at);
CREATE INDEX conflict_log_time ON mrsync.conflict_log (resolved_at);
COMMENT ON TABLE mrsync.conflict_log IS 'Concurrent changes of one row that met here. Side b is the one with the higher (hlc, region), side a the other; there is no side a where an UPDATE or DELETE met neither a row nor the memory of one';
COMMENT ON COLUMN mrsync.conflict_log.conflict_id IS 'Made from table, key and both versions, so the same in every region that met this conflict';
COMMENT ON COLUMN mrsync.conflict_log.conflict_type IS 'What came and what it found: insert_exists, update_origin_differs, delete_origin_differs, update_deleted, delete_missing or update_missing';
COMMENT ON COLUMN mrsync.conflict_log.table_name IS 'The table, with its schema';
COMMENT ON COLUMN mrsync.conflict_log.row_pk IS 'The row''s key, values as text';
COMMENT ON COLUMN mrsync.conflict_log.event_id_a IS 'NULL where this region cannot know it (a version found as a row)';
COMMENT ON COLUMN mrsync.conflict_log.event_id_b IS 'NULL where this region cannot know it (a version found as a row)';
COMMENT ON COLUMN mrsync.conflict_log.region_a IS 'Where side a was written; NULL: there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.region_b IS 'Where side b was written';
COMMENT ON COLUMN mrsync.conflict_log.hlc_a IS 'Stamp of side a; NULL: there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.hlc_b IS 'Stamp of side b';
COMMENT ON COLUMN mrsync.conflict_log.image_a IS 'The row as side a has it, values as text; NULL: deleted, or there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.image_b IS 'The row as side b has it, values as text; NULL: deleted';
COMMENT ON COLUMN mrsync.conflict_log.result IS 'The row as it is after the resolution; NULL: no row';
COMMENT ON COLUMN mrsync.conflict_log.resolution_strategy IS 'How it was decided: last_writer_wins';
COMMENT ON COLUMN mrsync.conflict_log.winner_region IS 'Where the winning side was written; under last_writer_wins that is side b';
COMMENT ON COLUMN mrsync.conflict_log.winner_event_id IS 'The winning event; NULL where this region cannot know it';
COMMENT ON COLUMN mrsync.conflict_log.resolved_at IS 'When this region met and resolved it, by this server''s clock';


-- ---------------------------------------------------------------------------------------------------------------------
-- Settings of the server
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.preloaded() RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_preloaded';
COMMENT ON FUNCTION mrsync.preloaded() IS 'Whether mrsync was loaded at server start (shared_preload_libraries), which regions need. Example: SELECT mrsync.preloaded();';

CREATE FUNCTION mrsync.setting_entries(value text) RETURNS text[] LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(trim(both '" ' from entry)), '{}') FROM string_to_table(coalesce(value, ''), ',') entry
	WHERE trim(both '" ' from entry) <> ''
$$;
COMMENT ON FUNCTION mrsync.setting_entries(text) IS 'The entries of a list setting, also of one that was stored as a single quoted name ("a, b") by mistake. Used by settings_check()';

-- line_to_add: for a list, entries; for any other setting, value.
CREATE FUNCTION mrsync.setting_change(name text, value text, entries text[], OUT line_to_add text, OUT set_in text, OUT change_takes text)
RETURNS record LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT
		CASE
			WHEN s.sourcefile LIKE '%/postgresql.auto.conf' THEN -- where each entry of a list is a name of its own
				format('ALTER SYSTEM SET %s = %s;', s.name, coalesce($2, (SELECT string_agg(quote_ident(entry), ', ' ORDER BY n)
					FROM unnest($3) WITH ORDINALITY w (entry, n))))
			ELSE format('%s = %s', s.name, coalesce($2, quote_literal(array_to_string($3, ', '))))
		END,
		coalesce(s.sourcefile, s.source), CASE s.context WHEN 'postmaster' THEN 'restart' ELSE 'reload' END
	FROM pg_settings s WHERE s.name = $1
$$;
COMMENT ON FUNCTION mrsync.setting_change(text, text, text[]) IS 'How a setting of the server is given another value: the line, where the value is set now, and what makes a change effective. Used by settings_check() and setting_advice()';

CREATE FUNCTION mrsync.setting_place(set_in text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN set_in LIKE '%/postgresql.auto.conf' THEN 'Run, since the value is in ' || set_in || ', which goes before postgresql.conf:'
		WHEN set_in IN ('default', 'configuration file') OR set_in LIKE '%/postgresql.conf' THEN 'Put into postgresql.conf:'
		WHEN set_in LIKE '/%' THEN 'Put into ' || set_in || ', which has the value now:'
		ELSE 'Change it where it is set now (' || set_in || '), which goes before any file:'
	END
$$;
COMMENT ON FUNCTION mrsync.setting_place(text) IS 'In words, where to put the line that setting_change() gives. Used by settings_advice() and setting_advice()';

CREATE FUNCTION mrsync.setting_advice(name text, value text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT mrsync.setting_place(set_in) || E'\n' || line_to_add || E'\n' ||
		CASE change_takes WHEN 'restart' THEN 'Then restart the server.' ELSE 'Then: SELECT pg_reload_conf();' END
	FROM mrsync.setting_change($1, $2, NULL)
$$;
COMMENT ON FUNCTION mrsync.setting_advice(text, text) IS 'What to do so that a setting of the server has this value, as the text of a hint. Used by region_connect()';

CREATE FUNCTION mrsync.settings_check(OUT setting text, OUT required text, OUT actual text, OUT ok boolean, OUT line_to_add text,
	OUT set_in text, OUT change_takes text)
RETURNS SETOF record LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH used AS (
		SELECT (SELECT count(*) FROM pg_replication_slots) AS slots,
			(SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN ('client backend', 'walsender', 'walreceiver',
				'autovacuum launcher', 'autovacuum worker', 'checkpointer', 'background writer', 'walwriter', 'archiver',
				'startup', 'logger', 'walsummarizer', 'io worker', 'slotsync worker', 'standalone backend', 'parallel worker')) AS workers,
			EXISTS (SELECT FROM mrsync.region WHERE is_local) AS is_region
	), checks AS ( -- entries: what a list holds now; value: what another setting should be
		SELECT 1 AS position, 'shared_preload_libraries' AS name, 'mrsync among the entries' AS required, mrsync.preloaded() AS ok,
			mrsync.setting_entries(current_setting('shared_preload_libraries')) AS entries, NULL AS value
		UNION ALL
		SELECT 2, 'wal_level', 'logical', current_setting('wal_level') = 'logical', NULL, 'logical'
		UNION ALL
		SELECT 3, 'track_commit_timestamp', 'on', current_setting('track_commit_timestamp')::boolean, NULL, 'on'
		UNION ALL
		SELECT 4, 'output_plugin_libraries', 'mrsync among the entries',
			'mrsync' = ANY (ARRAY(SELECT trim(entry) FROM string_to_table(s.setting, ',') entry)), mrsync.setting_entries(s.setting), NULL
		FROM pg_settings s WHERE s.name = 'output_plugin_libraries'
		UNION ALL
		SELECT 5, 'max_replication_slots', format('one place besides the %s in use', slots),
			is_region OR current_setting('max_replication_slots')::integer > slots, NULL, greatest(10, slots + 10)::text
		FROM used
		UNION ALL
		SELECT 6, 'max_worker_processes', format('three places (coordinator, extractor, first link) besides the %s in use; one more per link', workers),
			is_region OR current_setting('max_worker_processes')::integer >= workers + 3, NULL, greatest(16, workers + 16)::text
		FROM used
	), lists AS (
		SELECT *, array_remove(entries, 'mrsync') || '{mrsync}' AS wanted FROM checks
	)
	SELECT l.name, l.required, current_setting(l.name), l.ok, CASE WHEN NOT l.ok THEN c.line_to_add END, c.set_in, c.change_takes
	FROM lists l CROSS JOIN LATERAL mrsync.setting_change(l.name, l.value, l.wanted) c ORDER BY l.position
$$;
COMMENT ON FUNCTION mrsync.settings_check() IS 'The server settings that a region depends on: what each must be and what it is. line_to_add, for those that are not ok: the line for the configuration file, or the ALTER SYSTEM that corrects an earlier one. set_in: the file that the value is from (superusers; others see the kind of source). change_takes: restart or reload. Example: SELECT * FROM mrsync.settings_check();';

CREATE FUNCTION mrsync.settings_advice(OUT missing text, OUT advice text) RETURNS record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH wrong AS (
		SELECT setting || ' is ' || coalesce(nullif(actual, ''), 'empty') || ', required: ' || required || '.' AS what, line_to_add, change_takes,
			mrsync.setting_place(set_in) AS place
		FROM mrsync.settings_check() WHERE NOT ok
	)
	SELECT string_agg(what, E'\n'),
		(SELECT string_agg(lines, E'\n' ORDER BY lines) FROM (SELECT place || E'\n' || string_agg(line_to_add, E'\n') FROM wrong GROUP BY place) p (lines)) ||
		E'\n' || CASE WHEN bool_or(change_takes = 'restart') THEN 'Then restart the server.' ELSE 'Then: SELECT pg_reload_conf();' END
	FROM wrong
$$;
COMMENT ON FUNCTION mrsync.settings_advice() IS 'What settings_check() finds missing and what to do about it, as the texts of an error; NULL when nothing is missing. Used by CREATE EXTENSION and region_init()';

-- ---------------------------------------------------------------------------------------------------------------------
-- Regions
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.region_init(region_id text, kafka_brokers text, replication_group text DEFAULT 'default') RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_region_init';
COMMENT ON FUNCTION mrsync.region_init(text, text, text) IS 'Makes this database a region: checks the server''s settings, makes the Kafka topics mrsync.<group>.<region> and mrsync.<group>.<region>.control, a replication slot, and starts the workers. Superusers only, outside of a transaction block; waits until the transactions in progress have ended. Errors: 55000 settings missing (all are named, with the lines to add), 08001 no broker answers within 10 s or refuses the topics, 42710 is a region already, 22023 bad name, 25001 in a transaction block. Nothing remains of a failed call. Example: SELECT mrsync.region_init(''eu'', ''kafka1:9092,kafka2:9092'');';

CREATE FUNCTION mrsync.region_connect(region_id text, kafka_brokers text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_region_connect';
COMMENT ON FUNCTION mrsync.region_connect(text, text) IS 'Makes another region of the same group known to this one, as a possible end of links. kafka_brokers: the brokers that hold its topics; NULL: the same as this region''s. Errors: 55000 this database is no region, 22023 it is this region itself or a bad name, 42710 known already, 08001 no broker answers within 10 s, 53400 no place for a replication origin. Example: SELECT mrsync.region_connect(''us'');';

CREATE FUNCTION mrsync.region_leave() RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_region_leave';
COMMENT ON FUNCTION mrsync.region_leave() IS 'The opposite of region_init, to be called before DROP EXTENSION: ends the workers (waits 30 s at most), drops the slot and the replication origins, takes all tables out of replication, and forgets peers, links, positions, tombstones and parked events; the tables'' rows, the conflict log and the Kafka topics stay. What was committed here and not yet sent is sent no more: call wait_for_peers() before. Superusers only, outside of a transaction block; may be called again after a failure. Errors: 55000 no region, 55006 a worker does not end. Example: SELECT mrsync.region_leave();';

-- ---------------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------------
-- What REPLICA IDENTITY was before it became FULL, also of partitions.
CREATE TABLE mrsync.former_identity (
	relation regclass PRIMARY KEY,
	identity "char" NOT NULL,
	index oid
);
COMMENT ON TABLE mrsync.former_identity IS 'The replica identity of replicated tables and their partitions before table_add, given back by table_remove';
COMMENT ON COLUMN mrsync.former_identity.relation IS 'The table or partition';
COMMENT ON COLUMN mrsync.former_identity.identity IS 'pg_class.relreplident as it was: d default, n nothing, f full, i an index';
COMMENT ON COLUMN mrsync.former_identity.index IS 'That index; NULL: none';

CREATE FUNCTION mrsync.table_add(relation regclass, strategy text DEFAULT 'last_writer_wins') RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_table_add';
COMMENT ON FUNCTION mrsync.table_add(regclass, text) IS 'Replicates a table from now on: sets REPLICA IDENTITY FULL and creates the triggers that remember deletes, on its partitions, too. Rows that are there already are not sent. By the table''s owner or a superuser; to be called in each region, in any order. Locks out writers (not readers) until the transaction ends, and waits for those in progress, lock_timeout at most. Large values cost WAL at every change of their row. Errors: 55000 no region, no primary key or a deferrable one; 42809 not a plain or partitioned permanent table; 0A000 inheritance, FORCE ROW LEVEL SECURITY, a deferrable unique or exclusion constraint, a key that cannot be hashed or has a nondeterministic collation; 22023 unknown strategy; 42501 not the owner. Adding twice: a NOTICE. Example: SELECT mrsync.table_add(''shop.orders'');';

CREATE FUNCTION mrsync.table_add_all(schema_name text) RETURNS integer
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_table_add_all';
COMMENT ON FUNCTION mrsync.table_add_all(text) IS 'table_add() for every table of a schema. Returns how many were added; what cannot be replicated is skipped with a NOTICE that says why. Tables created later are not added by themselves. Error: 3F000 no such schema. Example: SELECT mrsync.table_add_all(''shop'');';

CREATE FUNCTION mrsync.table_remove(relation regclass) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_table_remove';
COMMENT ON FUNCTION mrsync.table_remove(regclass) IS 'Ends the replication of a table here: drops the triggers and gives it back its former replica identity. Its rows stay. By the table''s owner or a superuser. Locks out readers and writers until the transaction ends. Errors: 42704 not replicated, 42809 a partition (remove the whole table), 42501 not the owner. Example: SELECT mrsync.table_remove(''shop.orders'');';

CREATE FUNCTION mrsync.tombstone_delete() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_tombstone_delete';
COMMENT ON FUNCTION mrsync.tombstone_delete() IS 'Trigger of replicated tables: remembers the keys that a DELETE removed. Made by table_add()';
CREATE FUNCTION mrsync.tombstone_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_tombstone_row';
COMMENT ON FUNCTION mrsync.tombstone_row() IS 'Trigger of replicated tables: remembers the old key of a row whose key changed, and in partitioned tables of a deleted row. Made by table_add()';
CREATE FUNCTION mrsync.tombstone_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_tombstone_truncate';
COMMENT ON FUNCTION mrsync.tombstone_truncate() IS 'Trigger of replicated tables: remembers a TRUNCATE. Made by table_add()';

CREATE FUNCTION mrsync.ddl_end() RETURNS event_trigger LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_ddl_end';
COMMENT ON FUNCTION mrsync.ddl_end() IS 'Event trigger: new partitions of replicated tables become replicated; a change that would make a replicated table unfit for replication is refused';
CREATE EVENT TRIGGER mrsync_ddl ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA')
	EXECUTE FUNCTION mrsync.ddl_end();
ALTER EVENT TRIGGER mrsync_ddl ENABLE ALWAYS;
CREATE FUNCTION mrsync.sql_drop() RETURNS event_trigger LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_sql_drop';
COMMENT ON FUNCTION mrsync.sql_drop() IS 'Event trigger: a dropped table leaves replication; a DROP that would make a replicated table unfit for replication is refused';
CREATE EVENT TRIGGER mrsync_drop ON sql_drop EXECUTE FUNCTION mrsync.sql_drop();
ALTER EVENT TRIGGER mrsync_drop ENABLE ALWAYS;

-- ---------------------------------------------------------------------------------------------------------------------
-- Links
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.link_create(source_region text, target_region text) RETURNS uuid
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_link_create';
COMMENT ON FUNCTION mrsync.link_create(text, text) IS 'Creates the directed link from one region to another, of which one is this region; to be called in both. The target reads the source''s events from the beginning of its topic, or from where a removed link had stopped. Returns the link_id, which is the same in both regions. Errors: 42704 a region is not known here (region_connect), 22023 to itself or neither end is here, 42710 exists already. Example: SELECT mrsync.link_create(''eu'', ''us'');';

CREATE FUNCTION mrsync.link_pause(link_id uuid) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_link_pause';
COMMENT ON FUNCTION mrsync.link_pause(uuid) IS 'Stops applying the source''s events, between two transactions, until link_resume(); they wait in Kafka, whose retention is the limit. To be called at the link''s target. Pausing a paused link: a NOTICE. Errors: 42704 no such link, 22023 this region is not its target. Example: SELECT mrsync.link_pause(link_id) FROM mrsync.replication_link WHERE source_region = ''eu'' AND target_region = ''us'';';

CREATE FUNCTION mrsync.link_resume(link_id uuid) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_link_resume';
COMMENT ON FUNCTION mrsync.link_resume(uuid) IS 'Goes on where link_pause() stopped; also makes a degraded link try again. To be called at the link''s target. Resuming an active link: a NOTICE. Errors: 42704 no such link, 22023 this region is not its target. Example: SELECT mrsync.link_resume(link_id) FROM mrsync.replication_link WHERE status = ''paused'' AND target_region = ''us'';';

CREATE FUNCTION mrsync.link_remove(link_id uuid, reset boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_link_remove';
COMMENT ON FUNCTION mrsync.link_remove(uuid, boolean) IS 'Removes a link. At the target it ends the applying; at the source it only ends the knowledge of the link (wait_for_peers no longer waits for that peer), and a NOTICE says so: call it in both. The position is kept, so that a link created again goes on where this one stopped; reset => true forgets it, for a link that is paused and has no applier running. Errors: 42704 no such link, 55006 reset while it is being read, 22023 reset at the source. Example: SELECT mrsync.link_remove(link_id) FROM mrsync.replication_link WHERE source_region = ''eu'' AND target_region = ''us'';';

-- ---------------------------------------------------------------------------------------------------------------------
-- Recovery
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.resend(from_hlc mrsync.hlc DEFAULT NULL, region text DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_resend';
COMMENT ON FUNCTION mrsync.resend(mrsync.hlc, text) IS 'Sends again what this region has of the replicated tables: every row, and every deletion that is remembered, whoever wrote it, with the version that it has. Where the others have the same or a newer version nothing changes. A link that has stopped at missing transactions of this region goes on by itself when all of it has arrived; until then it applies nothing but that. from_hlc: only versions above this stamp, which mends no such link; NULL: all. region: this region, or NULL. Returns how many rows and deletions were written to the WAL; wait_for_peers() waits for them. Errors: 22023 another region, 55006 it runs already, 55000 no region, or its workers have not started. Example: SELECT mrsync.resend();';

CREATE FUNCTION mrsync.slot_recreate() RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_slot_recreate';
COMMENT ON FUNCTION mrsync.slot_recreate() IS 'Makes this region''s replication slot anew after it was dropped or invalidated: what is committed from now on is sent. What was committed meanwhile is not: the links to the other regions stop before what comes next, and name it, until resend() has been called. Superusers only, outside of a transaction block; waits until the transactions in progress have ended. Errors: 55000 the slot is in order, or no region; 25001 in a transaction block. Example: SELECT mrsync.slot_recreate();';

-- ---------------------------------------------------------------------------------------------------------------------
-- Waiting
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.wait_for_peers(timeout interval DEFAULT '30 s') RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_wait_for_peers';
COMMENT ON FUNCTION mrsync.wait_for_peers(interval) IS 'Waits until every target of an active outgoing link has applied all that was committed in this region before the call. The caller''s own uncommitted writes are not among that. With no links it returns at once. Errors: 55P03 the timeout has passed (the peers that are behind are named; in PL/pgSQL: WHEN lock_not_available), 55000 no region, 22023 negative timeout. Example: SELECT mrsync.wait_for_peers(''5 s'');';

-- ---------------------------------------------------------------------------------------------------------------------
-- Parked events
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.apply_error_retry(error_id bigint DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_apply_error_retry';
COMMENT ON FUNCTION mrsync.apply_error_retry(bigint) IS 'Asks the appliers to try parked events again when this transaction has committed, without waiting for mrsync.apply_error_retry_interval. NULL: all of them. Returns how many were asked for; a row of apply_error goes when its event is applied. Error: 42704 no such error_id. Example: SELECT mrsync.apply_error_retry();';

CREATE FUNCTION mrsync.apply_error_discard(error_id bigint) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_apply_error_discard';
COMMENT ON FUNCTION mrsync.apply_error_discard(bigint) IS 'Gives a parked event up: it will not be applied in this region, which then differs from the others in that row until the row is written again. Error: 42704 no such error_id. Example: SELECT mrsync.apply_error_discard(17);';

-- ---------------------------------------------------------------------------------------------------------------------
-- Status
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.worker_stat(OUT kind text, OUT peer text, OUT pid integer, OUT running boolean, OUT state text,
	OUT started_at timestamptz, OUT restarts integer, OUT sequence bigint, OUT hlc mrsync.hlc, OUT committed_at timestamptz,
	OUT progress_at timestamptz, OUT transactions bigint, OUT events bigint, OUT parked bigint, OUT caught_up boolean,
	OUT last_error text, OUT last_error_at timestamptz, OUT degraded boolean)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_worker_stat';
COMMENT ON FUNCTION mrsync.worker_stat() IS 'The worker processes of this region, one row each, from shared memory; no row when the database is no region. peer: an applier''s source. sequence, hlc, committed_at: of the last transaction sent (extractor) or applied (applier); transactions, events, parked: since its start; restarts: in a row; degraded: its state does not pass by itself. Example: SELECT * FROM mrsync.worker_stat();';

CREATE FUNCTION mrsync.peer_stat(OUT region_id text, OUT acked_sequence bigint, OUT head_sequence bigint, OUT heartbeat_at timestamptz)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_peer_stat';
COMMENT ON FUNCTION mrsync.peer_stat() IS 'What the peers told on their control topics, from shared memory. acked_sequence: how far they have applied this region; head_sequence: their own newest transaction; heartbeat_at: when they were last heard, by this server''s clock. Example: SELECT region_id, clock_timestamp() - heartbeat_at FROM mrsync.peer_stat();';

CREATE VIEW mrsync.worker_status AS
SELECT w.kind AS worker, w.peer AS source_region,
	CASE
		WHEN NOT w.running AND w.kind = 'applier' AND EXISTS (SELECT FROM mrsync.replication_link l JOIN mrsync.region r
			ON r.region_id = l.target_region AND r.is_local WHERE l.source_region = w.peer AND l.status = 'paused') THEN 'paused'
		WHEN NOT w.running THEN 'down: ' || coalesce(w.last_error, 'not started yet')
		WHEN w.state IS NOT NULL THEN CASE WHEN w.degraded THEN 'degraded: ' ELSE 'waiting: ' END || w.state
		WHEN w.kind = 'applier' AND NOT w.caught_up THEN
			CASE WHEN w.progress_at < clock_timestamp() - interval '30 s'
				THEN 'stalled: no progress for ' || date_trunc('second', clock_timestamp() - w.progress_at)
				ELSE 'catching up' END
		ELSE 'running'
	END AS state,
	w.pid, CASE WHEN w.running THEN date_trunc('second', clock_timestamp() - w.started_at) END AS up, w.restarts,
	w.transactions, w.events, w.parked, w.committed_at AS last_committed_at,
	date_trunc('second', clock_timestamp() - w.progress_at) AS last_progress, w.last_error, w.last_error_at
FROM mrsync.worker_stat() w
ORDER BY CASE w.kind WHEN 'coordinator' THEN 1 WHEN 'extractor' THEN 2 ELSE 3 END, w.peer;
COMMENT ON VIEW mrsync.worker_status IS 'The worker processes of this region and how they are. up: for how long; last_progress: how long ago it sent or applied something; last_error may be of an earlier run';
COMMENT ON COLUMN mrsync.worker_status.worker IS 'coordinator, extractor or applier';
COMMENT ON COLUMN mrsync.worker_status.source_region IS 'Whose events an applier applies; NULL for the others';
COMMENT ON COLUMN mrsync.worker_status.state IS 'running; catching up; paused; waiting: what for; stalled: for how long; degraded: what does not pass by itself; down: why';
COMMENT ON COLUMN mrsync.worker_status.pid IS 'Its process; NULL: it does not run';
COMMENT ON COLUMN mrsync.worker_status.up IS 'How long it has been running';
COMMENT ON COLUMN mrsync.worker_status.restarts IS 'How often it was started again, in a row';
COMMENT ON COLUMN mrsync.worker_status.transactions IS 'Sent (extractor) or applied (applier) since its start';
COMMENT ON COLUMN mrsync.worker_status.events IS 'Sent, those of the control topic included, or applied, since its start';
COMMENT ON COLUMN mrsync.worker_status.parked IS 'Events that it has parked since its start';
COMMENT ON COLUMN mrsync.worker_status.last_committed_at IS 'When the last transaction sent or applied was committed, by its source''s clock';
COMMENT ON COLUMN mrsync.worker_status.last_progress IS 'How long ago it sent or applied something';
COMMENT ON COLUMN mrsync.worker_status.last_error IS 'Why it ended last; may be of an earlier run';
COMMENT ON COLUMN mrsync.worker_status.last_error_at IS 'When that was';

CREATE VIEW mrsync.link_status AS
SELECT l.link_id, l.source_region, l.target_region,
	CASE WHEN l.target_region = here.region_id THEN 'incoming' ELSE 'outgoing' END AS direction,
	l.status,
	(CASE
		WHEN l.status IN ('paused', 'decommissioned') THEN l.status
		WHEN l.target_region = here.region_id THEN
			CASE
				WHEN l.status = 'degraded' OR w.degraded THEN 'degraded: ' || coalesce(w.state, w.last_error, parked.n || CASE parked.n WHEN 1 THEN ' event parked' ELSE ' events parked' END)
				WHEN w.kind IS NULL THEN 'down: no applier yet'
				WHEN NOT w.running THEN 'down: ' || coalesce(w.last_error, 'not started yet')
				WHEN w.state IS NOT NULL THEN 'waiting: ' || w.state
				WHEN p.heartbeat_at < clock_timestamp() - interval '30 s'
					THEN 'waiting: nothing heard of ' || l.source_region || ' for ' || date_trunc('second', clock_timestamp() - p.heartbeat_at)
				WHEN w.caught_up THEN 'streaming'
				WHEN w.progress_at < clock_timestamp() - interval '30 s'
					THEN 'stalled: no progress for ' || date_trunc('second', clock_timestamp() - w.progress_at)
				ELSE 'catching up'
			END
		WHEN x.kind IS NULL OR NOT x.running THEN 'down: extractor: ' || coalesce(x.last_error, 'not started yet')
		WHEN x.state IS NOT NULL THEN CASE WHEN x.degraded THEN 'degraded' ELSE 'waiting' END || ': extractor: ' || x.state
		WHEN p.heartbeat_at IS NULL THEN 'waiting: nothing heard of ' || l.target_region || ' yet'
		WHEN p.heartbeat_at < clock_timestamp() - interval '30 s'
			THEN 'waiting: nothing heard of ' || l.target_region || ' for ' || date_trunc('second', clock_timestamp() - p.heartbeat_at)
		WHEN p.acked_sequence >= x.sequence THEN 'streaming'
		ELSE 'catching up'
	END) COLLATE "default" AS state,
	CASE
		-- what a silent source has committed meanwhile is not known here
		WHEN l.target_region = here.region_id AND p.heartbeat_at < clock_timestamp() - interval '30 s'
			THEN date_trunc('milliseconds', clock_timestamp() - p.heartbeat_at)
		WHEN l.target_region = here.region_id AND w.running AND w.caught_up AND w.state IS NULL THEN interval '0'
		WHEN l.source_region = here.region_id AND x.running AND x.state IS NULL AND p.acked_sequence >= x.sequence THEN interval '0'
		ELSE l.lag_ms * interval '1 ms'
	END AS lag,
	CASE WHEN l.target_region = here.region_id THEN parked.n END AS parked,
	l.last_acked_event_id,
	CASE WHEN l.target_region = here.region_id THEN pos.committed_at ELSE a.committed_at END AS applied_up_to,
	CASE WHEN l.target_region = here.region_id THEN w.last_error ELSE x.last_error END AS last_error
FROM mrsync.replication_link l
JOIN mrsync.region here ON here.is_local
LEFT JOIN mrsync.worker_stat() w ON w.kind = 'applier' AND w.peer = l.source_region AND l.target_region = here.region_id
LEFT JOIN mrsync.worker_stat() x ON x.kind = 'extractor'
LEFT JOIN mrsync.peer_stat() p ON p.region_id = CASE WHEN l.target_region = here.region_id THEN l.source_region ELSE l.target_region END
LEFT JOIN mrsync.link_position pos ON pos.source_region = l.source_region
LEFT JOIN mrsync.acknowledgement a ON a.region_id = l.target_region AND a.source_region = l.source_region
CROSS JOIN LATERAL (SELECT count(*) AS n FROM mrsync.apply_error e WHERE e.source_region = l.source_region) parked
ORDER BY direction, l.source_region, l.target_region;
COMMENT ON VIEW mrsync.link_status IS 'The links from and to this region at a glance. state: streaming (nothing left to do), catching up, paused, waiting: what for, stalled: for how long, down: why, degraded: why. lag: since the commit of the oldest event that the target has not applied. parked: events in apply_error (incoming links). applied_up_to: commit time, at its source, of the newest event that the target has applied';
COMMENT ON COLUMN mrsync.link_status.link_id IS 'For link_pause(), link_resume() and link_remove()';
COMMENT ON COLUMN mrsync.link_status.source_region IS 'Whose events travel';
COMMENT ON COLUMN mrsync.link_status.target_region IS 'Where they are applied';
COMMENT ON COLUMN mrsync.link_status.direction IS 'incoming: this region is the target; outgoing: it is the source';
COMMENT ON COLUMN mrsync.link_status.status IS 'What the link is set to (active, paused), or degraded';
COMMENT ON COLUMN mrsync.link_status.state IS 'What it is doing: streaming, catching up, paused, waiting: what for, stalled: for how long, down: why, degraded: why';
COMMENT ON COLUMN mrsync.link_status.lag IS 'Time since the commit of the oldest event that the target has not applied; 0 when there is none; NULL before the first measurement';
COMMENT ON COLUMN mrsync.link_status.parked IS 'Events of the source in apply_error; NULL on outgoing links';
COMMENT ON COLUMN mrsync.link_status.last_acked_event_id IS 'The newest event of the source that the target has applied and acknowledged';
COMMENT ON COLUMN mrsync.link_status.applied_up_to IS 'When that event was committed, by the source''s clock';
COMMENT ON COLUMN mrsync.link_status.last_error IS 'Last error of the applier (incoming) or of the extractor (outgoing); may be of an earlier run';

-- ---------------------------------------------------------------------------------------------------------------------
-- Privileges: everybody may look and wait; who changes things is granted that, or is a superuser; the rows' contents are
-- for superusers. table_add and table_remove ask for the table's owner themselves.
-- ---------------------------------------------------------------------------------------------------------------------
GRANT USAGE ON SCHEMA mrsync TO PUBLIC;
GRANT SELECT ON mrsync.region, mrsync.replicated_table, mrsync.replication_link, mrsync.link_position,
	mrsync.extractor_position, mrsync.control_position, mrsync.heartbeat, mrsync.acknowledgement, mrsync.applied_event, mrsync.resend,
	mrsync.worker_status, mrsync.link_status TO PUBLIC;
REVOKE ALL ON FUNCTION mrsync.settings_check(), mrsync.settings_advice(), mrsync.setting_change(text, text, text[]), mrsync.setting_place(text),
	mrsync.setting_advice(text, text), mrsync.region_init(text, text, text), mrsync.region_connect(text, text),
	mrsync.region_leave(), mrsync.tombstone_delete(), mrsync.tombstone_row(), mrsync.tombstone_truncate(), mrsync.ddl_end(),
	mrsync.sql_drop(), mrsync.link_create(text, text), mrsync.link_pause(uuid), mrsync.link_resume(uuid),
	mrsync.link_remove(uuid, boolean), mrsync.resend(mrsync.hlc, text), mrsync.slot_recreate(), mrsync.apply_error_retry(bigint), mrsync.apply_error_discard(bigint) FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------------------------------
-- What the server lacks is said now, not at the first failure
-- ---------------------------------------------------------------------------------------------------------------------
DO $$
DECLARE
	settings record;
BEGIN
	SELECT * INTO settings FROM mrsync.settings_advice();
	IF settings.missing IS NOT NULL THEN
		RAISE WARNING 'this server''s settings do not allow an mrsync region yet'
			USING DETAIL = settings.missing, HINT = settings.advice;
	END IF;
END
$$;
