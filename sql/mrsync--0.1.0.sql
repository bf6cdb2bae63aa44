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

CREATE CAST (mrsync.hlc AS bigint) WITHOUT FUNCTION;
CREATE CAST (bigint AS mrsync.hlc) WITHOUT FUNCTION;
CREATE CAST (mrsync.hlc AS timestamptz) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE CAST (timestamptz AS mrsync.hlc) WITHOUT FUNCTION;

-- Clock
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
	link_origin oid,    -- replication origin under which its rows are written here (appliers)
	added_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX region_local ON mrsync.region (is_local) WHERE is_local;
COMMENT ON TABLE mrsync.region IS 'This region and the peers it knows, one row each';

-- Read by the output plugin under a historic snapshot, hence a user catalog table.
CREATE TABLE mrsync.replicated_table (
	relation regclass PRIMARY KEY,
	strategy text NOT NULL DEFAULT 'last_writer_wins',
	former_replica_identity "char" NOT NULL,  -- given back by table_remove
	added_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (user_catalog_table = true);
COMMENT ON TABLE mrsync.replicated_table IS 'The tables that are replicated; a partitioned table stands for all its partitions';

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
COMMENT ON COLUMN mrsync.replication_link.last_acked_event_id IS 'The newest event of the source that the target has applied and acknowledged';
COMMENT ON COLUMN mrsync.replication_link.lag_ms IS 'Milliseconds since the commit of the oldest event of the source that the target has not acknowledged; 0 when there is none; NULL before the first measurement';

-- One row per source region; written by its applier in the very transaction that applies (I7).
CREATE TABLE mrsync.link_position (
	source_region text COLLATE "C" PRIMARY KEY REFERENCES mrsync.region,
	topic text NOT NULL,
	next_offset bigint NOT NULL,
	incarnation bigint NOT NULL,
	sequence bigint NOT NULL,
	hlc mrsync.hlc NOT NULL,       -- the highest up to this position
	event_id uuid,                 -- the last one applied
	committed_at timestamptz,      -- of that event, at its source
	applied_at timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE mrsync.link_position IS 'Where each incoming link goes on reading; part of the transaction that applied up to there';

-- How far this region's own topics are known to be written, and what it had applied of others by then.
CREATE TABLE mrsync.extractor_position (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	incarnation bigint NOT NULL DEFAULT 0,
	sequence bigint NOT NULL DEFAULT 0,
	seen text NOT NULL DEFAULT '{}'
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.extractor_position IS 'How far this region''s topic is acknowledged by the broker, and what the region had applied of others by then';

CREATE TABLE mrsync.control_position (
	region_id text COLLATE "C" PRIMARY KEY REFERENCES mrsync.region,
	next_offset bigint NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.control_position IS 'Where this region goes on reading the control topic of each peer';

-- Rows that travel on the control topic: each is written by the region it names, and only that region's are sent.
CREATE TABLE mrsync.heartbeat (
	region_id text COLLATE "C" PRIMARY KEY,
	hlc mrsync.hlc NOT NULL,
	sequence bigint NOT NULL,
	sent_at timestamptz NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.heartbeat IS 'The last sign of life of each region, with the sequence of its newest transaction';

CREATE TABLE mrsync.acknowledgement (
	region_id text COLLATE "C" NOT NULL,      -- who acknowledges
	source_region text COLLATE "C" NOT NULL,  -- whose events
	hlc mrsync.hlc NOT NULL,                  -- of this row, by the clock of region_id
	sequence bigint NOT NULL,
	event_id uuid,
	committed_at timestamptz,
	lag_ms bigint,
	PRIMARY KEY (region_id, source_region)
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.acknowledgement IS 'How far each region has applied each other one';

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

-- A row's version is that of its own xmin; relation 0-key (key_hash NULL) is a truncation.
CREATE TABLE mrsync.tombstone (
	relation oid NOT NULL,
	key_hash bigint,
	row_pk text
);
CREATE INDEX tombstone_key ON mrsync.tombstone (relation, key_hash);
COMMENT ON TABLE mrsync.tombstone IS 'Deleted keys, so that an older event that arrives late does not bring the row back. The version of a tombstone is that of the transaction that wrote it';

CREATE TABLE mrsync.hlc_override (
	xid xid8 PRIMARY KEY,
	hlc mrsync.hlc NOT NULL
) WITH (user_catalog_table = true);
COMMENT ON TABLE mrsync.hlc_override IS 'The stamp of transactions whose commit timestamp does not say it (clock behind, or a foreign replication origin)';

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
	UNIQUE (event_id)
);
CREATE INDEX apply_error_source ON mrsync.apply_error (source_region, hlc);
COMMENT ON TABLE mrsync.apply_error IS 'Parked events: what could not be applied here, and why. Tried again by itself, and by apply_error_retry(); a row goes when its event is applied';

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
COMMENT ON COLUMN mrsync.conflict_log.event_id_a IS 'NULL where this region cannot know it (a version found as a row)';
COMMENT ON COLUMN mrsync.conflict_log.result IS 'The row as it is after the resolution; NULL: no row';

