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
CREATE FUNCTION mrsync.row_version(tableoid oid, ctid tid, xmin xid, OUT hlc mrsync.hlc, OUT region_id text, OUT exact boolean)
RETURNS record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mrsync_row_version';
COMMENT ON FUNCTION mrsync.row_version(oid, tid, xid) IS 'Who wrote a row and when, by its system columns: the stamp and the region that decide its conflicts. region_id NULL: nobody''s in particular. exact false: not known any more, but not newer than hlc. All NULL: written by this transaction. Errors: 55000 when the database is not a region, 42501 without SELECT on the table. Example: SELECT id, (mrsync.row_version(tableoid, ctid, xmin)).* FROM t;';
CREATE FUNCTION mrsync.version_below(tableoid oid, ctid tid, xmin xid, hlc mrsync.hlc, region_id text) RETURNS boolean LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mrsync_version_below';
COMMENT ON FUNCTION mrsync.version_below(oid, tid, xid, mrsync.hlc, text) IS 'Whether the version (stamp, region) of a row is below another one; what this transaction wrote is. Errors: 55000 when the database is not a region, or the row''s version is not known any more and could be on either side; 42501 without SELECT on the table. Example: SELECT id FROM t WHERE mrsync.version_below(tableoid, ctid, xmin, mrsync.current_hlc(), ''us'');';
CREATE FUNCTION mrsync.current_hlc() RETURNS mrsync.hlc LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mrsync_current_hlc';
COMMENT ON FUNCTION mrsync.current_hlc() IS 'A session token: this region''s hybrid logical clock, at or above the stamp of every transaction that this session has committed or seen. It is no stamp of its own, and may be the same twice. Error: 55000 when the database is not a region. Example: SELECT mrsync.current_hlc();';

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
COMMENT ON COLUMN mrsync.region.link_origin IS 'The replication origin (pg_replication_origin.roident) under which appliers write its rows here; this region has one, too, for its own rows that come in again after they were held aside or sent again';
COMMENT ON COLUMN mrsync.region.added_at IS 'When it became known here';

-- Read by the output plugin under a historic snapshot, hence a user catalog table.
CREATE TABLE mrsync.replicated_table (
	relation regclass PRIMARY KEY,
	strategy text NOT NULL DEFAULT 'last_writer_wins',
	former_replica_identity "char" NOT NULL,
	base_hlc mrsync.hlc NOT NULL,
	added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	keeps_history boolean NOT NULL DEFAULT false
) WITH (user_catalog_table = true);
COMMENT ON TABLE mrsync.replicated_table IS 'The tables that are replicated; a partitioned table stands for all its partitions';
COMMENT ON COLUMN mrsync.replicated_table.relation IS 'The table; its partitions are not listed';
COMMENT ON COLUMN mrsync.replicated_table.strategy IS 'Who wins a conflict where no rule of mrsync.merge_function says otherwise: last_writer_wins';
COMMENT ON COLUMN mrsync.replicated_table.former_replica_identity IS 'What REPLICA IDENTITY was before table_add, as in pg_class.relreplident: d default, n nothing, f full, i an index';
COMMENT ON COLUMN mrsync.replicated_table.base_hlc IS 'Stamp of table_add here: what this region wrote into the table before is its common beginning in all regions, and the first newer write of another region to such a row is no conflict';
COMMENT ON COLUMN mrsync.replicated_table.added_at IS 'When it was added here';
COMMENT ON COLUMN mrsync.replicated_table.keeps_history IS 'Its latest changes are written down in mrsync.row_history: it has a merge rule, or is about to';

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
COMMENT ON COLUMN mrsync.link_position.sequence IS 'Of the last transaction applied, its place in the source''s order of commits: (number << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.link_position.hlc IS 'The highest stamp applied up to this position';
COMMENT ON COLUMN mrsync.link_position.event_id IS 'The last event applied';
COMMENT ON COLUMN mrsync.link_position.committed_at IS 'When it was committed, by the source''s clock';
COMMENT ON COLUMN mrsync.link_position.applied_at IS 'When it was applied, by this server''s clock';
COMMENT ON COLUMN mrsync.link_position.event_offset IS 'Offset in the topic of the last event applied; an applier that starts makes sure that it still stands there. NULL: not known, and not looked at';

-- How far this region's own topics are known to be written, and what it had applied of others by then.
CREATE TABLE mrsync.extractor_position (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	-- peers ignore incarnations below one they know, also those of a region that left and came back
	first_incarnation bigint NOT NULL,
	incarnation bigint NOT NULL,
	sequence bigint NOT NULL DEFAULT 0,
	seen text NOT NULL DEFAULT '{}',
	lsn pg_lsn NOT NULL,
	topic_offset bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.extractor_position IS 'How far this region''s topic is acknowledged by the broker, and what the region had applied of others by then';
COMMENT ON COLUMN mrsync.extractor_position.one IS 'There is one row';
COMMENT ON COLUMN mrsync.extractor_position.first_incarnation IS 'That of region_init: what stands in the topics with a lower one was sent by another database, when it was a region of this name';
COMMENT ON COLUMN mrsync.extractor_position.incarnation IS 'Which start of the extractor the present one is: the microseconds since 1970 at that time, or one more than the one before where that is more';
COMMENT ON COLUMN mrsync.extractor_position.sequence IS 'Of the newest transaction acknowledged: (number << 48) | LSN of the commit, where the number is the timeline, and more after a restore (mrsync.recovery)';
COMMENT ON COLUMN mrsync.extractor_position.lsn IS 'What was committed before this position of the WAL has been sent, or was found lost. The slot is never ahead of it: one that is, is another slot, or was advanced by hand';
COMMENT ON COLUMN mrsync.extractor_position.topic_offset IS 'Offset in the data topic before which nothing stands that this region had not committed up to that position of the WAL; 0: from the beginning';
COMMENT ON COLUMN mrsync.extractor_position.seen IS 'How far the other regions had been applied here at that point of the WAL, as JSON: {region: {sequence, hlc}}';

-- A restored database, a promoted standby: the output plugin and the extractor look at the second and third column.
CREATE TABLE mrsync.recovery (
	recovery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	begin_lsn pg_lsn NOT NULL,
	number_shift integer NOT NULL,
	incarnation bigint NOT NULL,
	reason text NOT NULL,
	found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	slot_lsn pg_lsn,
	from_hlc mrsync.hlc,
	after_sequence bigint,
	taken_back bigint NOT NULL DEFAULT 0,
	taken_back_at timestamptz,
	resent_at timestamptz,
	finished_at timestamptz,
	note text
);
COMMENT ON TABLE mrsync.recovery IS 'How often this region was found set back (restored from a backup, or promoted from a standby that had not received everything), and how it caught up: it takes back what its topics hold and its database does not, and sends again what it has';
COMMENT ON COLUMN mrsync.recovery.recovery_id IS 'Serial number';
COMMENT ON COLUMN mrsync.recovery.begin_lsn IS 'From this position of the WAL on sequences bear a new number';
COMMENT ON COLUMN mrsync.recovery.number_shift IS 'By how much that number is above the timeline: sequences are (number << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.recovery.incarnation IS 'What is taken back has lower incarnations';
COMMENT ON COLUMN mrsync.recovery.reason IS 'How it was found';
COMMENT ON COLUMN mrsync.recovery.found_at IS 'When, by this server''s clock';
COMMENT ON COLUMN mrsync.recovery.slot_lsn IS 'Where the new replication slot begins; NULL: it is not there yet. What was committed before, and not sent, is sent again';
COMMENT ON COLUMN mrsync.recovery.from_hlc IS 'The watermark that the region had promised by then: what is sent again is above it, where everything up to after_sequence had been sent; NULL: there is none, all is sent again';
COMMENT ON COLUMN mrsync.recovery.after_sequence IS 'Everything behind this sequence is stamped above from_hlc';
COMMENT ON COLUMN mrsync.recovery.taken_back IS 'How many transactions of this region were applied from its own topic';
COMMENT ON COLUMN mrsync.recovery.taken_back_at IS 'When all that the topic held was here; NULL: not yet';
COMMENT ON COLUMN mrsync.recovery.resent_at IS 'When this region had sent again what it has, as resend() does: then its links to the others go on; NULL: not yet';
COMMENT ON COLUMN mrsync.recovery.finished_at IS 'When nothing was left to do; NULL: not yet';
COMMENT ON COLUMN mrsync.recovery.note IS 'What could not be taken back, and why; NULL: nothing';

-- The row of a resend is written when all its parts are in the WAL, and travels behind them in the topic.
CREATE TABLE mrsync.resend (
	region_id text COLLATE "C" NOT NULL,
	resend_id uuid PRIMARY KEY,
	from_hlc mrsync.hlc NOT NULL,
	after_sequence bigint NOT NULL,
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
COMMENT ON COLUMN mrsync.resend.after_sequence IS 'Everything that the region had committed behind this sequence is stamped above from_hlc; 0: not known, and a link that stands at a gap does not go on if anything was left out';
COMMENT ON COLUMN mrsync.resend.covers IS 'All that the region had committed up to this sequence, (number << 48) | LSN of the commit, was visible to it';
COMMENT ON COLUMN mrsync.resend.parts IS 'How many parts it has in the topic';
COMMENT ON COLUMN mrsync.resend.rows IS 'How many rows were sent';
COMMENT ON COLUMN mrsync.resend.deletions IS 'How many deletions and truncations were sent';
COMMENT ON COLUMN mrsync.resend.left_out IS 'How many rows and deletions were not sent: too large, or of a version that is not known any more';
COMMENT ON COLUMN mrsync.resend.started_at IS 'When it began, by that region''s clock';
COMMENT ON COLUMN mrsync.resend.finished_at IS 'When all was written into the WAL there, by that region''s clock';

CREATE TABLE mrsync.control_position (
	region_id text COLLATE "C" PRIMARY KEY REFERENCES mrsync.region,
	next_offset bigint NOT NULL,
	incarnation bigint NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.control_position IS 'Where this region goes on reading the control topic of each peer, and its own';
COMMENT ON COLUMN mrsync.control_position.region_id IS 'The peer, or this region';
COMMENT ON COLUMN mrsync.control_position.next_offset IS 'Offset in its control topic of the record to be read next';
COMMENT ON COLUMN mrsync.control_position.incarnation IS 'The newest incarnation that was read in it; what an earlier one sends late is dropped';

-- Rows that travel on the control topic: each is written by the region it names, and only that region's are sent.
CREATE TABLE mrsync.heartbeat (
	region_id text COLLATE "C" PRIMARY KEY,
	hlc mrsync.hlc NOT NULL,
	sequence bigint NOT NULL,
	watermark mrsync.hlc,
	sent_at timestamptz NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.heartbeat IS 'The last sign of life of each region, with the sequence of its newest transaction, and its watermark';
COMMENT ON COLUMN mrsync.heartbeat.region_id IS 'Whose sign of life';
COMMENT ON COLUMN mrsync.heartbeat.hlc IS 'Stamp of this row by that region''s clock; of two rows the higher one counts';
COMMENT ON COLUMN mrsync.heartbeat.sequence IS 'Of that region''s newest transaction: (number << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.heartbeat.watermark IS 'Every event of that region with a sequence above this one is stamped above this watermark; NULL: it has promised nothing yet';
COMMENT ON COLUMN mrsync.heartbeat.sent_at IS 'When it was sent, by that region''s clock';

CREATE TABLE mrsync.acknowledgement (
	region_id text COLLATE "C" NOT NULL,
	source_region text COLLATE "C" NOT NULL,
	hlc mrsync.hlc NOT NULL,
	sequence bigint NOT NULL,
	event_id uuid,
	committed_at timestamptz,
	lag_ms bigint,
	watermark mrsync.hlc,
	PRIMARY KEY (region_id, source_region)
) WITH (fillfactor = 20);
COMMENT ON TABLE mrsync.acknowledgement IS 'How far each region has applied each other one';
COMMENT ON COLUMN mrsync.acknowledgement.region_id IS 'Who acknowledges';
COMMENT ON COLUMN mrsync.acknowledgement.source_region IS 'Whose events';
COMMENT ON COLUMN mrsync.acknowledgement.hlc IS 'Stamp of this row by the clock of region_id; of two rows the higher one counts';
COMMENT ON COLUMN mrsync.acknowledgement.sequence IS 'Of the last transaction of source_region that region_id has applied: (number << 48) | LSN of the commit; 0: none yet';
COMMENT ON COLUMN mrsync.acknowledgement.event_id IS 'The last event of that transaction';
COMMENT ON COLUMN mrsync.acknowledgement.committed_at IS 'When that transaction was committed, by the clock of source_region';
COMMENT ON COLUMN mrsync.acknowledgement.lag_ms IS 'Milliseconds from then until this acknowledgement; 0 when nothing was left to apply';
COMMENT ON COLUMN mrsync.acknowledgement.watermark IS 'Of the events of source_region there is none stamped at or below it that region_id has not applied; a parked one counts as not applied. NULL: not known yet';

CREATE TABLE mrsync.applied_event (
	event_id uuid NOT NULL,
	last_event_id uuid NOT NULL,
	region_id text COLLATE "C" NOT NULL,
	sequence bigint NOT NULL,
	hlc mrsync.hlc NOT NULL,
	seen text,
	applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	event_rows bytea,
	PRIMARY KEY (event_id)
) PARTITION BY RANGE (event_id);
-- for "what had the writer of this version seen": by region and stamp
CREATE INDEX applied_event_version ON mrsync.applied_event (region_id, hlc);
CREATE TABLE mrsync.applied_event_default PARTITION OF mrsync.applied_event DEFAULT;
COMMENT ON TABLE mrsync.applied_event IS 'Dedup: one record per applied transaction, for its range of event ids. Partitioned by event_id, which is ordered by time';
COMMENT ON COLUMN mrsync.applied_event.event_id IS 'The first event of the transaction';
COMMENT ON COLUMN mrsync.applied_event.last_event_id IS 'Its last event';
COMMENT ON COLUMN mrsync.applied_event.region_id IS 'Where the transaction was committed';
COMMENT ON COLUMN mrsync.applied_event.sequence IS 'Its place in that region''s order of commits: (number << 48) | LSN of the commit';
COMMENT ON COLUMN mrsync.applied_event.hlc IS 'Its stamp';
COMMENT ON COLUMN mrsync.applied_event.seen IS 'How far its region had applied the others when it committed, as JSON; tells conflicts from later writes';
COMMENT ON COLUMN mrsync.applied_event.applied_at IS 'When it was applied, by this server''s clock';
COMMENT ON COLUMN mrsync.applied_event.event_rows IS 'Which row each of its events is on, eight bytes of a hash for each: for event_on_row(). NULL: it has one event, or more than 65536';

CREATE FUNCTION mrsync.event_on_row(event_id uuid, last_event_id uuid, event_rows bytea, table_name text, row_pk jsonb, is_gone boolean) RETURNS uuid
LANGUAGE c IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_event_on_row';
COMMENT ON FUNCTION mrsync.event_on_row(uuid, uuid, bytea, text, jsonb, boolean) IS 'The id of the last event on a row of a transaction that was applied, by its record in mrsync.applied_event. table_name, row_pk: as events have them, values as text. is_gone: it left no row, so it may have been a TRUNCATE. Of a transaction of one event that event, whatever row is asked for. NULL where that is not known: none of its events is on the row by this text of the key, or there were more than 65536. Error: 22023 row_pk is no key. Example: SELECT mrsync.event_on_row(event_id, last_event_id, event_rows, ''public.products'', ''{"sku":"tea-01"}'', false) FROM mrsync.applied_event;';

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

CREATE TABLE mrsync.pruning (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	pruned_up_to mrsync.hlc NOT NULL
);
COMMENT ON TABLE mrsync.pruning IS 'Up to where this region has forgotten; no row: it has forgotten nothing';
COMMENT ON COLUMN mrsync.pruning.one IS 'There is one row at most';
COMMENT ON COLUMN mrsync.pruning.pruned_up_to IS 'Tombstones and overrides stamped below may be gone. An event stamped at or below that comes after all, and that they would have decided, is parked';
-- What a rewrite of a table would hide: it gives all rows the xmin of the transaction that rewrites.
CREATE TABLE mrsync.row_entry (
	relation oid NOT NULL,
	key_hash bigint NOT NULL,
	row_pk text NOT NULL,
	xid xid8 NOT NULL,
	hlc mrsync.hlc,
	region_id text COLLATE "C"
);
CREATE INDEX row_entry_key ON mrsync.row_entry (relation, key_hash);
COMMENT ON TABLE mrsync.row_entry IS 'Versions of rows that their xmin does not say, since their table was rewritten. An entry ends by itself when its row is written again';
COMMENT ON COLUMN mrsync.row_entry.relation IS 'OID of the table or partition';
COMMENT ON COLUMN mrsync.row_entry.key_hash IS 'Hash of the row''s key, by its types'' own equality';
COMMENT ON COLUMN mrsync.row_entry.row_pk IS 'The row''s key as JSON, values as text';
COMMENT ON COLUMN mrsync.row_entry.xid IS 'The xmin for which the entry holds: the transaction that rewrote the table';
COMMENT ON COLUMN mrsync.row_entry.hlc IS 'The row''s stamp; NULL: that of xid after all, for the row was written in that transaction';
COMMENT ON COLUMN mrsync.row_entry.region_id IS 'The region that wrote the row; NULL: not known, and the stamp is at most hlc';

CREATE TABLE mrsync.base_marker (
	relation oid NOT NULL,
	xid xid8 NOT NULL,
	hlc mrsync.hlc NOT NULL,
	PRIMARY KEY (relation, xid)
);
COMMENT ON TABLE mrsync.base_marker IS 'Rewrites of replicated tables: rows with this xmin and no entry in row_entry hold everything up to the stamp';
COMMENT ON COLUMN mrsync.base_marker.relation IS 'OID of the table or partition';
COMMENT ON COLUMN mrsync.base_marker.xid IS 'The transaction that rewrote it';
COMMENT ON COLUMN mrsync.base_marker.hlc IS 'Up to this stamp every region had everything when it was rewritten; 0: that was not known, and every row has an entry';

CREATE TABLE mrsync.horizon (
	xid xid8 NOT NULL,
	hlc mrsync.hlc NOT NULL,
	PRIMARY KEY (xid, hlc)
);
COMMENT ON TABLE mrsync.horizon IS 'Samples of the clock: how new, at most, a row is whose commit timestamp is not known any more';
COMMENT ON COLUMN mrsync.horizon.xid IS 'Every transaction below it had ended';
COMMENT ON COLUMN mrsync.horizon.hlc IS 'when the clock of this region stood here';

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
CREATE INDEX apply_error_source ON mrsync.apply_error (source_region, hlc);
CREATE INDEX apply_error_due ON mrsync.apply_error (source_region, retry_at, error_id) WHERE waits_for IS NULL;
CREATE INDEX apply_error_transaction ON mrsync.apply_error (source_region, hlc);
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
COMMENT ON COLUMN mrsync.apply_error.waits_for IS 'The earlier event of the same transaction and row (or table, where it has a TRUNCATE) that has to be applied first; NULL: none';
COMMENT ON COLUMN mrsync.apply_error.retry_at IS 'When it is tried again, if it waits for no other';

-- Rows that are not in their table as they were written, because others exclude them. The columns that appliers read past the executor come first.
CREATE TABLE mrsync.row_aside (
	aside_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	relation regclass NOT NULL,
	key_hash bigint NOT NULL,
	row_pk json NOT NULL,
	region_id text COLLATE "C" NOT NULL,
	hlc mrsync.hlc NOT NULL,
	holder_hash bigint,
	holder_pk json NOT NULL,
	constraint_name text NOT NULL,
	image json NOT NULL,
	is_placed boolean NOT NULL DEFAULT false,
	made json,
	definition_id uuid,
	message text NOT NULL,
	hint text,
	held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	retry_at timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX row_aside_key ON mrsync.row_aside (relation, key_hash);
CREATE INDEX row_aside_holder ON mrsync.row_aside (relation, holder_hash);
CREATE INDEX row_aside_due ON mrsync.row_aside (hlc) WHERE holder_hash IS NULL;
COMMENT ON TABLE mrsync.row_aside IS 'Rows held aside: each has a unique key, or overlaps by an exclusion constraint, that a row with a higher stamp has taken in its table. Where the table has a rule for such losers (loser_strategy_set, loser_function_register), the table may have another form of the row meanwhile. The same in all regions once they are drained. A row comes in as it was written, by itself, when its holder is changed or deleted';
COMMENT ON COLUMN mrsync.row_aside.aside_id IS 'Its number';
COMMENT ON COLUMN mrsync.row_aside.relation IS 'The replicated table';
COMMENT ON COLUMN mrsync.row_aside.key_hash IS 'Hash of its primary key, by the key types'' own equality';
COMMENT ON COLUMN mrsync.row_aside.row_pk IS 'Its primary key as events have it, values as text; conflict_log.row_pk is row_pk::jsonb';
COMMENT ON COLUMN mrsync.row_aside.region_id IS 'Where it was written';
COMMENT ON COLUMN mrsync.row_aside.hlc IS 'Its stamp; with the region it is the row''s version, in the table or not';
COMMENT ON COLUMN mrsync.row_aside.holder_hash IS 'Hash of the primary key of the row that keeps it out; NULL: that one has left, and this one is about to be tried';
COMMENT ON COLUMN mrsync.row_aside.holder_pk IS 'The primary key of a row in the table that keeps it out; where there are several, which of them depends on what came first';
COMMENT ON COLUMN mrsync.row_aside.constraint_name IS 'The unique index or exclusion constraint by which it does; several are separated by commas';
COMMENT ON COLUMN mrsync.row_aside.image IS 'The whole row, values as text';
COMMENT ON COLUMN mrsync.row_aside.is_placed IS 'Meanwhile it is in its table as made shows it';
COMMENT ON COLUMN mrsync.row_aside.made IS 'What the table''s rule for losers makes of it, values as text; NULL: there is no rule, or it could not make anything';
COMMENT ON COLUMN mrsync.row_aside.definition_id IS 'That rule, as in mrsync.merge_function; NULL: there was none';
COMMENT ON COLUMN mrsync.row_aside.message IS 'Why it is held aside, or in its table in another form';
COMMENT ON COLUMN mrsync.row_aside.hint IS 'What to do; NULL: nothing is known';
COMMENT ON COLUMN mrsync.row_aside.held_at IS 'Since when, by this server''s clock';
COMMENT ON COLUMN mrsync.row_aside.retry_at IS 'If its holder has left: when it is tried. It lies ahead after a failure, which the message tells';

-- The latest events on rows of tables with merge rules. The version of an entry is that of its own xmin, but for a base.
CREATE SEQUENCE mrsync.row_history_entry;
CREATE TABLE mrsync.row_history (
	relation regclass NOT NULL,
	key_hash bigint NOT NULL,
	entry_id bigint NOT NULL,
	row_pk json NOT NULL,
	is_base boolean NOT NULL,
	hlc mrsync.hlc,
	region_id text COLLATE "C",
	before json,
	after json
);
CREATE INDEX row_history_key ON mrsync.row_history (relation, key_hash, entry_id);
COMMENT ON TABLE mrsync.row_history IS 'Of tables with merge rules: what the latest events on each row did, so that one that arrives late is merged in its place. What is below the stable point is forgotten';
COMMENT ON COLUMN mrsync.row_history.relation IS 'The replicated table';
COMMENT ON COLUMN mrsync.row_history.key_hash IS 'Hash of the row''s primary key, by the key types'' own equality';
COMMENT ON COLUMN mrsync.row_history.entry_id IS 'Its number; the entries of one transaction are in their order';
COMMENT ON COLUMN mrsync.row_history.row_pk IS 'The row''s primary key, values as text';
COMMENT ON COLUMN mrsync.row_history.is_base IS 'No event, but the row as all events up to this version left it';
COMMENT ON COLUMN mrsync.row_history.hlc IS 'Of a base: its stamp. The stamp of an event is that of the transaction that wrote the entry: mrsync.row_version(tableoid, ctid, xmin)';
COMMENT ON COLUMN mrsync.row_history.region_id IS 'Of a base: the region whose version it is';
COMMENT ON COLUMN mrsync.row_history.before IS 'The row before the event, values as text; NULL: there was none';
COMMENT ON COLUMN mrsync.row_history.after IS 'The row after it; NULL: there is none';

CREATE TABLE mrsync.merge_folded (id uuid PRIMARY KEY);
COMMENT ON TABLE mrsync.merge_folded IS 'What changes how rows are merged, and has been taken into account in this region: the histories that there were when it came have been folded anew';
COMMENT ON COLUMN mrsync.merge_folded.id IS 'A rule, as in mrsync.merge_definition, or a failure, as in mrsync.merge_failure';

-- Merge functions
CREATE FUNCTION mrsync.merge_counter(ancestor smallint, a smallint, b smallint) RETURNS smallint LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_counter_int2';
CREATE FUNCTION mrsync.merge_counter(ancestor integer, a integer, b integer) RETURNS integer LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_counter_int4';
CREATE FUNCTION mrsync.merge_counter(ancestor bigint, a bigint, b bigint) RETURNS bigint LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_counter_int8';
CREATE FUNCTION mrsync.merge_counter(ancestor numeric, a numeric, b numeric) RETURNS numeric LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_counter_numeric';
CREATE FUNCTION mrsync.merge_counter(ancestor real, a real, b real) RETURNS real LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_counter_float4';
CREATE FUNCTION mrsync.merge_counter(ancestor double precision, a double precision, b double precision) RETURNS double precision LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_counter_float8';
COMMENT ON FUNCTION mrsync.merge_counter(smallint, smallint, smallint) IS 'Both sides'' additions to a counter: a + (b - ancestor). NULL counts as 0, unless one side alone has set it, or both have. Error: 22003 when the sum does not fit into the type. Example: SELECT mrsync.merge_counter(10::smallint, 12::smallint, 15::smallint);';
COMMENT ON FUNCTION mrsync.merge_counter(integer, integer, integer) IS 'Both sides'' additions to a counter: a + (b - ancestor). NULL counts as 0, unless one side alone has set it, or both have. Error: 22003 when the sum does not fit into the type. Example: SELECT mrsync.merge_counter(10, 12, 15);';
COMMENT ON FUNCTION mrsync.merge_counter(bigint, bigint, bigint) IS 'Both sides'' additions to a counter: a + (b - ancestor). NULL counts as 0, unless one side alone has set it, or both have. Error: 22003 when the sum does not fit into the type. Example: SELECT mrsync.merge_counter(10::bigint, 12::bigint, 15::bigint);';
COMMENT ON FUNCTION mrsync.merge_counter(numeric, numeric, numeric) IS 'Both sides'' additions to a counter: a + (b - ancestor). NULL counts as 0, unless one side alone has set it, or both have. Infinities and NaN are not counted with: b is taken. Error: 22003 when the sum does not fit into the type. Example: SELECT mrsync.merge_counter(1.5, 2.0, 2.25);';
COMMENT ON FUNCTION mrsync.merge_counter(real, real, real) IS 'Both sides'' additions to a counter: a + (b - ancestor). NULL counts as 0, unless one side alone has set it, or both have. Not exact, as the type is not. Infinities and NaN are not counted with: b is taken. Error: 22003 when the sum does not fit into the type. Example: SELECT mrsync.merge_counter(1::real, 2::real, 3::real);';
COMMENT ON FUNCTION mrsync.merge_counter(double precision, double precision, double precision) IS 'Both sides'' additions to a counter: a + (b - ancestor). NULL counts as 0, unless one side alone has set it, or both have. Not exact, as the type is not. Infinities and NaN are not counted with: b is taken. Error: 22003 when the sum does not fit into the type. Example: SELECT mrsync.merge_counter(1::float8, 2::float8, 3::float8);';
CREATE FUNCTION mrsync.merge_set(ancestor anyarray, a anyarray, b anyarray) RETURNS anyarray LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_set_array';
COMMENT ON FUNCTION mrsync.merge_set(anyarray, anyarray, anyarray) IS 'An array as a set: the elements of a that b has not removed from the ancestor, then those that b has added; each once. NULL is an empty set, unless one side alone has set it, or both have. Elements compare by their type''s default B-tree operator class. Errors: 2202E several dimensions, 42883 elements that cannot be compared. Example: SELECT mrsync.merge_set(ARRAY[''milk'', ''bread''], ARRAY[''milk'', ''bread'', ''eggs''], ARRAY[''bread'', ''tea'']);';
CREATE FUNCTION mrsync.merge_set(ancestor jsonb, a jsonb, b jsonb) RETURNS jsonb LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_set_jsonb';
COMMENT ON FUNCTION mrsync.merge_set(jsonb, jsonb, jsonb) IS 'A JSON array as a set: the elements of a that b has not removed from the ancestor, then those that b has added; each once. NULL is an empty set, unless one side alone has set it, or both have. Errors: 22023 when an argument is not an array, 54000 when objects and arrays are nested more than 1000 deep. Example: SELECT mrsync.merge_set(''["milk"]''::jsonb, ''["milk", "eggs"]''::jsonb, ''[]''::jsonb);';
CREATE FUNCTION mrsync.merge_json(ancestor jsonb, a jsonb, b jsonb) RETURNS jsonb LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_json';
COMMENT ON FUNCTION mrsync.merge_json(jsonb, jsonb, jsonb) IS 'Both sides'' changes of a document: objects are merged key by key, at any depth; of any other value that both changed, and of a key that one removed and the other changed, b''s is taken; an array is one value. Error: 54000 when objects and arrays are nested more than 1000 deep. Example: SELECT mrsync.merge_json(''{"a": 1, "b": 1}'', ''{"a": 2, "b": 1}'', ''{"a": 1, "b": 1, "c": 3}'');';
CREATE FUNCTION mrsync.merge_json(ancestor jsonb, a jsonb, b jsonb, counters text[], sets text[] DEFAULT '{}') RETURNS jsonb LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_json';
COMMENT ON FUNCTION mrsync.merge_json(jsonb, jsonb, jsonb, text[], text[]) IS 'The same with counters and sets inside of the document, as merge_counter and merge_set merge them. Their places are JSON Pointers (RFC 6901), in which * stands for any key; they count where all that is there is a number, or an array. Errors: 22023 when a place is no JSON Pointer, 54000 when objects and arrays are nested more than 1000 deep. Example: SELECT mrsync.merge_json(''{"views": 1}'', ''{"views": 3}'', ''{"views": 2, "tags": ["new"]}'', counters => ''{/views}'', sets => ''{/tags}'');';
CREATE FUNCTION mrsync.merge_text(ancestor text, a text, b text) RETURNS text LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_merge_text';
COMMENT ON FUNCTION mrsync.merge_text(text, text, text) IS 'Both sides'' changes of a text, line by line: changes of different lines are both made; lines inserted at one place are all kept, those of a first; where both changed the same lines, those of b are taken. Where more than 1000 lines are removed and inserted, all between the first and the last of them counts as one change. Example: SELECT mrsync.merge_text(E''one\ntwo\nthree'', E''One\ntwo\nthree'', E''one\ntwo\nthree\nfour'');';

-- Rules for conflicts, and their way into all regions. These rows travel on the control topic, too: each is written by the region
-- that it names, and only that region's are sent. What an UPDATE leaves as it is, a long source for one, is then sent as well.
CREATE TABLE mrsync.merge_definition (
	region_id text COLLATE "C" NOT NULL,
	definition_id uuid PRIMARY KEY,
	hlc mrsync.hlc NOT NULL,
	table_name text NOT NULL,
	column_name text,
	version integer NOT NULL,
	strategy text NOT NULL CHECK (strategy IN ('last_writer_wins', 'column_last_writer_wins', 'merge_function', 'hold_aside', 'set_null', 'loser_function')),
	of_losers boolean NOT NULL GENERATED ALWAYS AS (strategy IN ('hold_aside', 'set_null', 'loser_function')) STORED,
	function text,
	source text CHECK (octet_length(source) <= 262144),
	checksum text,
	rollout text NOT NULL DEFAULT 'staged' CHECK (rollout IN ('staged', 'immediate', 'shadow')),
	status text NOT NULL CHECK (status IN ('preparing', 'shadow', 'active', 'withdrawn')),
	activation mrsync.hlc,
	registered_at timestamptz NOT NULL,
	CHECK ((strategy IN ('merge_function', 'loser_function')) = (function IS NOT NULL)),
	CHECK (NOT of_losers OR column_name IS NULL),
	CHECK ((source IS NULL) = (checksum IS NULL)),
	CHECK ((status = 'active') = (activation IS NOT NULL)),
	CHECK (CASE status WHEN 'shadow' THEN rollout = 'shadow' WHEN 'active' THEN rollout <> 'shadow' ELSE true END),
	CHECK (rollout <> 'shadow' OR strategy = 'merge_function')
);
ALTER TABLE mrsync.merge_definition REPLICA IDENTITY FULL;
COMMENT ON TABLE mrsync.merge_definition IS 'How conflicts are decided: every rule that was registered in any region, one row per version. The view merge_function shows where each stands';
COMMENT ON COLUMN mrsync.merge_definition.region_id IS 'Where it was registered; only that region changes the row';
COMMENT ON COLUMN mrsync.merge_definition.definition_id IS 'The rule in this version; the same in all regions';
COMMENT ON COLUMN mrsync.merge_definition.hlc IS 'Stamp of this row by the clock of region_id; of two rows the higher one counts. It is sent again now and then, for regions that join later';
COMMENT ON COLUMN mrsync.merge_definition.table_name IS 'The table as events name it, with its schema';
COMMENT ON COLUMN mrsync.merge_definition.column_name IS 'The column; NULL: of a merge function or a rule for losers, the whole row; of a strategy, all columns that have no rule of their own';
COMMENT ON COLUMN mrsync.merge_definition.version IS '1, 2, … per table and column, as region_id knew them; two regions may give the same number, and the one with the higher activation counts';
COMMENT ON COLUMN mrsync.merge_definition.strategy IS 'last_writer_wins, column_last_writer_wins or merge_function; what becomes of rows that others exclude: hold_aside, set_null or loser_function';
COMMENT ON COLUMN mrsync.merge_definition.of_losers IS 'It says what becomes of rows that others exclude, and not how the versions of one row are merged';
COMMENT ON COLUMN mrsync.merge_definition.function IS 'The merge function, or the one for losers, with its schema and its argument types; NULL: another strategy';
COMMENT ON COLUMN mrsync.merge_definition.source IS 'The statement that makes the function, for regions that lack it; NULL: it belongs to an extension, and has to be there';
COMMENT ON COLUMN mrsync.merge_definition.checksum IS 'SHA-256 of source, in hexadecimal';
COMMENT ON COLUMN mrsync.merge_definition.rollout IS 'staged or immediate: to become active; shadow: to be run beside the rule that decides, until it is promoted, which makes it staged';
COMMENT ON COLUMN mrsync.merge_definition.status IS 'preparing; shadow: run beside the rule that decides; active: since activation, for good; withdrawn: before it became active';
COMMENT ON COLUMN mrsync.merge_definition.activation IS 'Events stamped at or above it are decided by this rule, in every region, up to the activation of the next one; NULL: not active';
COMMENT ON COLUMN mrsync.merge_definition.registered_at IS 'When it was registered, by the clock of region_id';

CREATE TABLE mrsync.merge_acknowledgement (
	region_id text COLLATE "C" NOT NULL,
	definition_id uuid NOT NULL,
	hlc mrsync.hlc NOT NULL,
	prepared boolean NOT NULL,
	knows_activation boolean NOT NULL DEFAULT false,
	sqlstate text,
	message text,
	hint text,
	acknowledged_at timestamptz NOT NULL,
	PRIMARY KEY (definition_id, region_id)
);
COMMENT ON TABLE mrsync.merge_acknowledgement IS 'What each region says of each rule: whether it is ready for it, or why not';
COMMENT ON COLUMN mrsync.merge_acknowledgement.region_id IS 'Who says so';
COMMENT ON COLUMN mrsync.merge_acknowledgement.definition_id IS 'Of which rule';
COMMENT ON COLUMN mrsync.merge_acknowledgement.hlc IS 'Stamp of this row by the clock of region_id; of two rows the higher one counts';
COMMENT ON COLUMN mrsync.merge_acknowledgement.prepared IS 'The function is there and works on the table, and the histories of its rows are kept. False: not so; it is tried again every few seconds';
COMMENT ON COLUMN mrsync.merge_acknowledgement.knows_activation IS 'It decides by the rule from its activation on';
COMMENT ON COLUMN mrsync.merge_acknowledgement.sqlstate IS 'Why it is not prepared, as a code of five characters; NULL: it is';
COMMENT ON COLUMN mrsync.merge_acknowledgement.message IS 'Why it is not prepared; NULL: it is';
COMMENT ON COLUMN mrsync.merge_acknowledgement.hint IS 'What to do in that region; NULL: nothing is known';
COMMENT ON COLUMN mrsync.merge_acknowledgement.acknowledged_at IS 'When it said so, by its clock';

-- What this region's shadows have been seen to do; of each at most 1000 differences. These rows do not travel.
CREATE TABLE mrsync.merge_comparison (
	definition_id uuid PRIMARY KEY,
	compared bigint NOT NULL,
	differing bigint NOT NULL,
	failed bigint NOT NULL
);
COMMENT ON TABLE mrsync.merge_comparison IS 'Of rules that are, or were, run as shadows: how many merges this region has compared. The view merge_function shows it';
COMMENT ON COLUMN mrsync.merge_comparison.definition_id IS 'The rule, as in merge_definition';
COMMENT ON COLUMN mrsync.merge_comparison.compared IS 'Events in whose merge the shadow was asked, or would have made another value; where an event comes late, in the first merge that comes of it';
COMMENT ON COLUMN mrsync.merge_comparison.differing IS 'Of these: it made another value';
COMMENT ON COLUMN mrsync.merge_comparison.failed IS 'Of these: it failed, did not come to an end within mrsync.merge_function_timeout, or made a row that the table does not take';

CREATE TABLE mrsync.merge_difference (
	difference_id bigint GENERATED ALWAYS AS IDENTITY,
	definition_id uuid NOT NULL,
	version integer NOT NULL,
	table_name text NOT NULL,
	column_name text,
	row_pk jsonb NOT NULL,
	region_id text COLLATE "C" NOT NULL,
	hlc mrsync.hlc NOT NULL,
	ancestor text,
	a text,
	b text,
	result_active text,
	result_shadow text,
	sqlstate text,
	message text,
	seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX merge_difference_definition ON mrsync.merge_difference (definition_id);
COMMENT ON TABLE mrsync.merge_difference IS 'Merges of this region of which a shadow made another value than the rule that decides, or failed. Of each definition the first 1000 are kept, until they are deleted; of longer values the first 8000 characters';
COMMENT ON COLUMN mrsync.merge_difference.difference_id IS 'Its number, in the order in which they were seen';
COMMENT ON COLUMN mrsync.merge_difference.definition_id IS 'The shadow, as in merge_function';
COMMENT ON COLUMN mrsync.merge_difference.version IS 'Its version';
COMMENT ON COLUMN mrsync.merge_difference.table_name IS 'The table, with its schema';
COMMENT ON COLUMN mrsync.merge_difference.column_name IS 'The column; NULL: whole rows, and the values are rows, as JSON';
COMMENT ON COLUMN mrsync.merge_difference.row_pk IS 'The row''s key, values as text';
COMMENT ON COLUMN mrsync.merge_difference.region_id IS 'Where the event was written that is merged into the row, side b';
COMMENT ON COLUMN mrsync.merge_difference.hlc IS 'Its stamp';
COMMENT ON COLUMN mrsync.merge_difference.ancestor IS 'The value before that event; NULL: NULL, or there was no row';
COMMENT ON COLUMN mrsync.merge_difference.a IS 'What all earlier events made of it; NULL: NULL, or there was no row';
COMMENT ON COLUMN mrsync.merge_difference.b IS 'What the event made of it';
COMMENT ON COLUMN mrsync.merge_difference.result_active IS 'What the rule that decides made of these';
COMMENT ON COLUMN mrsync.merge_difference.result_shadow IS 'What the shadow made of these; NULL: NULL, or it failed';
COMMENT ON COLUMN mrsync.merge_difference.sqlstate IS 'With what it failed, or what the table says to its value, as a code of five characters: active, it would leave that event its own values; NULL: it has not failed';
COMMENT ON COLUMN mrsync.merge_difference.message IS 'The same in words; NULL: it has not failed';
COMMENT ON COLUMN mrsync.merge_difference.seen_at IS 'When, by this server''s clock';

CREATE TABLE mrsync.merge_failure (
	region_id text COLLATE "C" NOT NULL,
	failure_id uuid PRIMARY KEY,
	hlc mrsync.hlc NOT NULL,
	table_name text NOT NULL,
	row_pk jsonb NOT NULL,
	column_name text,
	event_hlc mrsync.hlc NOT NULL,
	event_region text COLLATE "C" NOT NULL,
	function text,
	sqlstate text NOT NULL,
	message text NOT NULL,
	ancestor text,
	a text,
	b text,
	is_shared boolean NOT NULL,
	failed_at timestamptz NOT NULL
);
CREATE INDEX merge_failure_shared ON mrsync.merge_failure (table_name) WHERE is_shared;
CREATE INDEX merge_failure_failed_at ON mrsync.merge_failure (failed_at);
COMMENT ON TABLE mrsync.merge_failure IS 'Merges that gave no result, or one that the table does not take: of the event the values of the writer himself were taken, in every region. Kept for mrsync.conflict_log_retention. Travels where is_shared';
COMMENT ON COLUMN mrsync.merge_failure.region_id IS 'Where it failed; if in several, the first of them by name';
COMMENT ON COLUMN mrsync.merge_failure.failure_id IS 'The same in every region for this event, row and column';
COMMENT ON COLUMN mrsync.merge_failure.hlc IS 'Stamp of this row by the clock of region_id';
COMMENT ON COLUMN mrsync.merge_failure.table_name IS 'The table as events name it, with its schema';
COMMENT ON COLUMN mrsync.merge_failure.row_pk IS 'The row''s primary key, values as text';
COMMENT ON COLUMN mrsync.merge_failure.column_name IS 'The column; NULL: the whole row';
COMMENT ON COLUMN mrsync.merge_failure.event_hlc IS 'Stamp of the event whose values were taken';
COMMENT ON COLUMN mrsync.merge_failure.event_region IS 'Its region';
COMMENT ON COLUMN mrsync.merge_failure.function IS 'The merge function; NULL: the table did not take what was merged (NOT NULL, CHECK, a domain)';
COMMENT ON COLUMN mrsync.merge_failure.sqlstate IS 'What it failed with, as a code of five characters';
COMMENT ON COLUMN mrsync.merge_failure.message IS 'The same in words';
COMMENT ON COLUMN mrsync.merge_failure.ancestor IS 'First argument as text; 1000 characters of it at most, as of the others';
COMMENT ON COLUMN mrsync.merge_failure.a IS 'Second argument';
COMMENT ON COLUMN mrsync.merge_failure.b IS 'Third argument; without a function: the row as it was merged';
COMMENT ON COLUMN mrsync.merge_failure.is_shared IS 'It may have come to an end elsewhere, so region_id has told all regions that they hold to this. False: what fails here by its values fails everywhere';
COMMENT ON COLUMN mrsync.merge_failure.failed_at IS 'When, by the clock of region_id';

CREATE FUNCTION mrsync.merge_function_register(relation regclass, function regprocedure, column_name name DEFAULT NULL, rollout text DEFAULT 'staged') RETURNS uuid
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_merge_function_register';
COMMENT ON FUNCTION mrsync.merge_function_register(regclass, regprocedure, name, text) IS 'Has conflicts on a column, or on whole rows (column_name NULL), decided by a merge function (ancestor, a, b): sends it to all regions; when each has it and has tried it, it becomes active from one stamp on, the same everywhere. To be called in one region, by the table''s owner or a superuser; returns at once. rollout: staged waits for all regions, however long that takes; immediate is the same, but an error where one of them was not heard for 30 s; shadow has it prepared everywhere and then run beside the rule that decides, without any effect on rows: mrsync.merge_difference has what it would have done otherwise, until merge_function_promote() or merge_function_withdraw(). Returns the definition_id, for merge_function_wait(). Errors: 55000 the table is not replicated, or whole rows and single columns at once, or a region is away (immediate); 42703 no such column; 22023 a column of the primary key, or another rollout; 428C9 a generated column; 42P13 other argument or result types, or not IMMUTABLE; 42809 no plain function; 42723 its body has changed since it was registered before; 0A000 unique indexes besides the primary key, exclusion constraints, a temporary function; 54000 the source is longer than 256 kB; 42501 not the table''s owner, or the owner may not call the function. Example: SELECT mrsync.merge_function_register(''shop.products'', ''mrsync.merge_counter(integer, integer, integer)'', ''stock'');';

CREATE FUNCTION mrsync.merge_strategy_set(relation regclass, strategy text, column_name name DEFAULT NULL) RETURNS uuid
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_merge_strategy_set';
COMMENT ON FUNCTION mrsync.merge_strategy_set(regclass, text, name) IS 'Has conflicts on a column, or on all columns that have no rule of their own (column_name NULL), decided without a merge function: last_writer_wins takes the later row, column_last_writer_wins of each column the later change. It replaces a merge function at the same place, and takes the same way into all regions. Returns the definition_id, for merge_function_wait(). Errors: 22023 another strategy, or a column of the primary key; 55000 the table is not replicated, or a single column while whole rows have a merge function; 42703 no such column; 428C9 a generated column; 0A000 unique indexes besides the primary key, or exclusion constraints; 42501 not the table''s owner. Example: SELECT mrsync.merge_strategy_set(''shop.products'', ''column_last_writer_wins'');';

CREATE FUNCTION mrsync.loser_strategy_set(relation regclass, strategy text) RETURNS uuid
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_loser_strategy_set';
COMMENT ON FUNCTION mrsync.loser_strategy_set(regclass, text) IS 'What becomes of a row that another one with a higher stamp excludes from its table, by a unique key or an exclusion constraint. hold_aside (so it is where nothing is said): it waits in mrsync.row_aside. set_null: it is in the table with NULL in the last column of each key by which it is excluded that may be NULL; where none may, or that does not help, it is held aside. As it was written it stays in mrsync.row_aside, and comes in when whoever excludes it has gone. It holds for rows that are held aside already, too, as soon as all regions are prepared for it. To be called in one region, by the table''s owner or a superuser; returns at once. Returns the definition_id, for merge_function_wait(). Errors: 22023 another strategy; 55000 the table is not replicated, or no column of its keys may be NULL; 42501 not the table''s owner. Example: SELECT mrsync.loser_strategy_set(''shop.customers'', ''set_null'');';

CREATE FUNCTION mrsync.loser_function_register(relation regclass, function regprocedure) RETURNS uuid
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_loser_function_register';
COMMENT ON FUNCTION mrsync.loser_function_register(regclass, regprocedure) IS 'Has a function of yours make a row that another one excludes fit into its table: it is given the row, and returns it with another key; the primary key stays what it was. It is sent to all regions as a merge function is, and run with the rights of the table''s owner, for at most mrsync.merge_function_timeout. Where it fails, returns NULL or a row that the table does not take, or one that is excluded, too, the row is held aside, in every region alike. Otherwise as loser_strategy_set(), which ends it. Returns the definition_id, for merge_function_wait(). Errors: 55000 the table is not replicated; 42P13 other argument or result types, or not IMMUTABLE; 42809 no plain function; 42723 its body has changed since it was registered before; 0A000 a temporary function; 54000 the source is longer than 256 kB; 42501 not the table''s owner, or the owner may not call the function. Example: SELECT mrsync.loser_function_register(''shop.customers'', ''shop.rename_customer(shop.customers)'');';

CREATE FUNCTION mrsync.merge_function_withdraw(definition_id uuid) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_merge_function_withdraw';
COMMENT ON FUNCTION mrsync.merge_function_withdraw(uuid) IS 'Gives a rule up that is not active yet, a shadow, too. In the region where it was registered, by the table''s owner or a superuser. Functions that were made for it stay. Withdrawing twice: a NOTICE. Errors: 42704 no such definition_id, 55000 active already, or registered in another region, 42501 not the table''s owner. Example: SELECT mrsync.merge_function_withdraw(definition_id) FROM mrsync.merge_function WHERE status = ''preparing'';';

CREATE FUNCTION mrsync.merge_function_promote(definition_id uuid) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_merge_function_promote';
COMMENT ON FUNCTION mrsync.merge_function_promote(uuid) IS 'Has a shadow decide: it becomes active from one stamp on, the same everywhere, as soon as all regions are prepared for it, as those have been that run it. In the region where it was registered, by the table''s owner or a superuser; returns at once, merge_function_wait() waits. Promoting what is no shadow: a NOTICE. Errors: 42704 no such definition_id, 55000 withdrawn, superseded, registered in another region, or whole rows and single columns at once, 42501 not the table''s owner. Example: SELECT mrsync.merge_function_promote(definition_id) FROM mrsync.merge_function WHERE status = ''shadow'' AND differing = 0;';

CREATE FUNCTION mrsync.merge_function_rollback(definition_id uuid) RETURNS uuid
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_merge_function_rollback';
COMMENT ON FUNCTION mrsync.merge_function_rollback(uuid) IS 'Has what decided before an active rule decide again: registers the former rule of that place as a new version, which takes the way of any into all regions; last_writer_wins where there was none. What the rule has decided until then stays. In any region, by the table''s owner or a superuser; returns at once, with the definition_id of the new version, for merge_function_wait(). Errors: 42704 no such definition_id, 55000 it is not active, or the table is not replicated here, or whole rows and single columns at once, 0A000 the table has unique indexes besides the primary key by now, or exclusion constraints, 42501 not the table''s owner. Example: SELECT mrsync.merge_function_rollback(definition_id) FROM mrsync.merge_function WHERE relation = ''shop.products''::regclass AND column_name = ''stock'' AND status = ''active'';';

CREATE FUNCTION mrsync.merge_function_wait(definition_id uuid, timeout interval DEFAULT '30 s') RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_merge_function_wait';
COMMENT ON FUNCTION mrsync.merge_function_wait(uuid, interval) IS 'Waits until a rule is active and every region says that it decides by it; of a shadow: until every region is prepared for it, and this one runs it. In any region; the transaction that has registered it has to be committed. Errors: 55P03 the timeout has passed (the regions that it waits for are named, and why; in PL/pgSQL: WHEN lock_not_available), 55000 withdrawn, 25001 registered by this transaction, or REPEATABLE READ, 42704 no such definition_id, 22023 negative timeout. Example: SELECT mrsync.merge_function_wait(definition_id, ''1 min'') FROM mrsync.merge_function WHERE status IN (''preparing'', ''active'');';

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
	resolved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	constraint_name text,
	other_pk jsonb,
	rule_activation mrsync.hlc,
	given_up integer NOT NULL DEFAULT 0
);
CREATE INDEX conflict_log_table ON mrsync.conflict_log (table_name, resolved_at);
CREATE INDEX conflict_log_time ON mrsync.conflict_log (resolved_at);
CREATE INDEX conflict_log_row ON mrsync.conflict_log USING hash (row_pk); -- not btree: a key may be longer than a page
-- what else is known of a version of a row
CREATE INDEX conflict_log_side_a ON mrsync.conflict_log (jsonb_hash_extended(row_pk, 0), hlc_a);
CREATE INDEX conflict_log_side_b ON mrsync.conflict_log (jsonb_hash_extended(coalesce(other_pk, row_pk), 0), hlc_b);
-- what is not known of it: mostly nothing
CREATE INDEX conflict_log_unnamed_a ON mrsync.conflict_log (region_a, hlc_a) WHERE event_id_a IS NULL AND hlc_a IS NOT NULL;
CREATE INDEX conflict_log_unnamed_b ON mrsync.conflict_log (region_b, hlc_b) WHERE event_id_b IS NULL;
COMMENT ON TABLE mrsync.conflict_log IS 'Concurrent changes of one row, or of two rows that exclude each other, that met in any region. Side b is the one with the higher (hlc, region), side a the other; there is no side a where an UPDATE or DELETE met neither a row nor the memory of one. Kept for mrsync.conflict_log_retention';
COMMENT ON COLUMN mrsync.conflict_log.conflict_id IS 'Made from table, key or keys and both versions, so the same in every region';
COMMENT ON COLUMN mrsync.conflict_log.conflict_type IS 'What side b did to what side a had left: update_origin_differs, insert_exists (at least one of them is an INSERT), delete_origin_differs, update_deleted, delete_missing or update_missing; where constraint_name is given: insert_exists, update_exists or multiple_unique_conflicts';
COMMENT ON COLUMN mrsync.conflict_log.table_name IS 'The table, with its schema';
COMMENT ON COLUMN mrsync.conflict_log.row_pk IS 'The row''s key, values as text; of two rows that exclude each other: of side a, which is held aside';
COMMENT ON COLUMN mrsync.conflict_log.event_id_a IS 'The event of side a, of several of one transaction on the row the last; NULL where no region could tell it yet, or there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.event_id_b IS 'The event of side b, of several of one transaction on the row the last; NULL where no region could tell it yet';
COMMENT ON COLUMN mrsync.conflict_log.region_a IS 'Where side a was written; NULL: there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.region_b IS 'Where side b was written';
COMMENT ON COLUMN mrsync.conflict_log.hlc_a IS 'Stamp of side a; NULL: there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.hlc_b IS 'Stamp of side b';
COMMENT ON COLUMN mrsync.conflict_log.image_a IS 'The row as side a has it, values as text; NULL: deleted, or there is no side a';
COMMENT ON COLUMN mrsync.conflict_log.image_b IS 'The row as side b has it, values as text; NULL: deleted';
COMMENT ON COLUMN mrsync.conflict_log.result IS 'What the strategy makes of the two sides; NULL: no row. Under last_writer_wins the row as it is then; a merged row may hold others'' changes, too. Of two rows that exclude each other: the one in the table';
COMMENT ON COLUMN mrsync.conflict_log.resolution_strategy IS 'How it was decided: last_writer_wins, column_last_writer_wins or merge_function; the rule at the stamp of side b';
COMMENT ON COLUMN mrsync.conflict_log.winner_region IS 'Where the winning side was written; under last_writer_wins that is side b';
COMMENT ON COLUMN mrsync.conflict_log.winner_event_id IS 'The winning event; NULL where no region could tell it yet';
COMMENT ON COLUMN mrsync.conflict_log.resolved_at IS 'When this region met and resolved it, by this server''s clock; of a conflict that only others have met: when one of these did, by its clock. The only column that differs between regions';
COMMENT ON COLUMN mrsync.conflict_log.constraint_name IS 'The unique index or exclusion constraint by which the rows of both sides exclude each other; several are separated by commas; NULL: both sides are of one row';
COMMENT ON COLUMN mrsync.conflict_log.other_pk IS 'The key of side b''s row, where both sides are not of one row';
COMMENT ON COLUMN mrsync.conflict_log.rule_activation IS 'Since when the rule was in force that has decided, as in mrsync.merge_function; NULL: there is none, and the last writer has won';
COMMENT ON COLUMN mrsync.conflict_log.given_up IS 'Of the merges that the result was to be made of, how many have all regions given up, since a function did not come to an end: the later writer''s values were taken (mrsync.merge_failure)';

CREATE TABLE mrsync.conflict_untold (conflict_id uuid NOT NULL);
COMMENT ON TABLE mrsync.conflict_untold IS 'Entries of conflict_log that this region has made or added to, and not told the others yet';
COMMENT ON COLUMN mrsync.conflict_untold.conflict_id IS 'The entry; more than once where it was added to meanwhile';

-- Travels on the control topic: this region's are inserted, and deleted again by the same transaction; the others' wait here until they
-- are in conflict_log.
CREATE TABLE mrsync.conflict_report (
	region_id text COLLATE "C" NOT NULL,
	LIKE mrsync.conflict_log INCLUDING COMMENTS,
	PRIMARY KEY (region_id, conflict_id),
	CHECK (octet_length(table_name) <= 1000) -- conflict_log has it in an index
);
COMMENT ON TABLE mrsync.conflict_report IS 'Entries of other regions'' conflict_log on their way into this one''s';
COMMENT ON COLUMN mrsync.conflict_report.region_id IS 'Whose entry';


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
COMMENT ON FUNCTION mrsync.region_leave() IS 'The opposite of region_init, to be called before DROP EXTENSION: ends the workers (waits 30 s at most), drops the slot and the replication origins, takes all tables out of replication, and forgets peers, links, positions, tombstones, parked events and rows held aside; the tables'' rows, the conflict log and the Kafka topics stay. What was committed here and not yet sent is sent no more: call wait_for_peers() before. Superusers only, outside of a transaction block; may be called again after a failure. Errors: 55000 no region, 55006 a worker does not end. Example: SELECT mrsync.region_leave();';

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
COMMENT ON FUNCTION mrsync.table_add(regclass, text) IS 'Replicates a table from now on: sets REPLICA IDENTITY FULL and creates the triggers that remember deletes, on its partitions, too. Rows that are there already are not sent. By the table''s owner or a superuser; to be called in each region, in any order. Locks out writers (not readers) until the transaction ends, and waits for those in progress, lock_timeout at most. Large values cost WAL at every change of their row. Errors: 55000 no region, no primary key or a deferrable one; 42809 not a plain or partitioned permanent table; 0A000 inheritance, FORCE ROW LEVEL SECURITY, a key that cannot be hashed or has a nondeterministic collation; 22023 unknown strategy; 42501 not the owner. Adding twice: a NOTICE. Example: SELECT mrsync.table_add(''shop.orders'');';

CREATE FUNCTION mrsync.table_add_all(schema_name text) RETURNS integer
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_table_add_all';
COMMENT ON FUNCTION mrsync.table_add_all(text) IS 'table_add() for every table of a schema. Returns how many were added; what cannot be replicated is skipped with a NOTICE that says why. Tables created later are not added by themselves. Error: 3F000 no such schema. Example: SELECT mrsync.table_add_all(''shop'');';

CREATE FUNCTION mrsync.table_remove(relation regclass) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_table_remove';
COMMENT ON FUNCTION mrsync.table_remove(regclass) IS 'Ends the replication of a table here: drops the triggers and gives it back its former replica identity. Its rows stay. By the table''s owner or a superuser. Locks out readers and writers until the transaction ends. Errors: 42704 not replicated, 42809 a partition (remove the whole table), 42501 not the owner. Example: SELECT mrsync.table_remove(''shop.orders'');';

CREATE FUNCTION mrsync.tombstone_delete() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_tombstone_delete';
COMMENT ON FUNCTION mrsync.tombstone_delete() IS 'Trigger of replicated tables: remembers the keys that a DELETE removed. Made by table_add()';
CREATE FUNCTION mrsync.tombstone_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_tombstone_row';
COMMENT ON FUNCTION mrsync.tombstone_row() IS 'Trigger of replicated tables: remembers the old key of a row whose key changed, and in partitioned tables of a deleted row. Made by table_add(); does nothing on other tables';
CREATE FUNCTION mrsync.tombstone_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_tombstone_truncate';
COMMENT ON FUNCTION mrsync.tombstone_truncate() IS 'Trigger of replicated tables: remembers a TRUNCATE. Made by table_add()';
CREATE FUNCTION mrsync.row_history_write() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_row_history_write';
COMMENT ON FUNCTION mrsync.row_history_write() IS 'Trigger of replicated tables with merge rules: writes down in mrsync.row_history what happens to their rows. Made when the first rule of a table is rolled out; does nothing on other tables';
CREATE FUNCTION mrsync.row_history_begin(relation regclass) RETURNS void LANGUAGE c STRICT SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'mrsync_row_history_begin';
COMMENT ON FUNCTION mrsync.row_history_begin(regclass) IS 'Begins to keep the histories of a replicated table''s rows, which merge rules need: makes the trigger mrsync_history on it, for which it waits for those who are writing the table. Called by the region''s coordinator when it prepares a rule. Superusers only. Errors: 42501 no superuser, 55000 no region, or the table is not added here. Example: SELECT mrsync.row_history_begin(''carts'');';

CREATE FUNCTION mrsync.ddl_end() RETURNS event_trigger LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_ddl_end';
COMMENT ON FUNCTION mrsync.ddl_end() IS 'Event trigger: new partitions of replicated tables become replicated; a change that would make a replicated table unfit for replication is refused';
CREATE EVENT TRIGGER mrsync_ddl ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE INDEX', 'ALTER TYPE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA')
	EXECUTE FUNCTION mrsync.ddl_end();
ALTER EVENT TRIGGER mrsync_ddl ENABLE ALWAYS;
CREATE FUNCTION mrsync.table_rewrite() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'mrsync_table_rewrite';
COMMENT ON FUNCTION mrsync.table_rewrite() IS 'Event trigger: writes down the versions of a replicated table''s rows before an ALTER TABLE rewrites them. Errors: 0A000 a command that also changes what the primary key is, 55000 no primary key';
CREATE EVENT TRIGGER mrsync_rewrite ON table_rewrite EXECUTE FUNCTION mrsync.table_rewrite();
ALTER EVENT TRIGGER mrsync_rewrite ENABLE ALWAYS;
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
CREATE FUNCTION mrsync.resend(from_hlc mrsync.hlc DEFAULT NULL, region text DEFAULT NULL, after_sequence bigint DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_resend';
COMMENT ON FUNCTION mrsync.resend(mrsync.hlc, text, bigint) IS 'Sends again what this region has of the replicated tables: every row, and every deletion that is remembered, whoever wrote it, with the version that it has. Where the others have the same or a newer version nothing changes. A link that has stopped at missing transactions of this region goes on by itself when all of it has arrived; until then it applies nothing but that. from_hlc: only versions above this stamp, which mends no such link unless it is known behind which sequence everything is stamped above it; NULL: all. region: this region, or NULL. after_sequence: that sequence, as mrsync gives it after a restore; NULL: not known. Returns how many rows and deletions were written to the WAL; wait_for_peers() waits for them. Errors: 22023 another region or a negative sequence, 55006 it runs already, 55000 no region, its workers have not started, or it has lost its slot. Example: SELECT mrsync.resend();';

CREATE FUNCTION mrsync.slot_recreate() RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_slot_recreate';
COMMENT ON FUNCTION mrsync.slot_recreate() IS 'Makes this region''s replication slot anew after it was dropped or invalidated: what is committed from now on is sent. What was committed meanwhile is not: the links to the other regions stop before what comes next, and name it, until resend() has been called. Superusers only, outside of a transaction block; waits until the transactions in progress have ended. Errors: 55000 the slot is in order, or no region; 25001 in a transaction block. Example: SELECT mrsync.slot_recreate();';

-- ---------------------------------------------------------------------------------------------------------------------
-- Waiting
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.wait_for_peers(timeout interval DEFAULT '30 s') RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_wait_for_peers';
COMMENT ON FUNCTION mrsync.wait_for_peers(interval) IS 'Waits until every target of an active outgoing link has applied all that was committed in this region before the call. The caller''s own uncommitted writes are not among that. With no links it returns at once. Errors: 55P03 the timeout has passed (the peers that are behind are named; in PL/pgSQL: WHEN lock_not_available), 55000 no region, 22023 negative timeout. Example: SELECT mrsync.wait_for_peers(''5 s'');';

CREATE FUNCTION mrsync.wait_for(hlc mrsync.hlc, timeout interval DEFAULT '30 s') RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_wait_for';
COMMENT ON FUNCTION mrsync.wait_for(mrsync.hlc, interval) IS 'Waits until this region has applied, from every active link, all that is stamped at or below hlc; what begins after that sees it. For reading here what was written elsewhere: hlc is what current_hlc() returned there after the commit. Paused links do not count; parked events do, as not applied. Errors: 55P03 the timeout has passed (the sources that are behind are named, and how far they are; in PL/pgSQL: WHEN lock_not_available), 55000 no region, 22023 negative timeout or a stamp more than mrsync.max_clock_skew ahead. Example: SELECT mrsync.wait_for(''2026-11-23 09:15:00.5Z'', ''5 s'');';

-- ---------------------------------------------------------------------------------------------------------------------
-- Parked events
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.apply_error_retry(error_id bigint DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_apply_error_retry';
COMMENT ON FUNCTION mrsync.apply_error_retry(bigint) IS 'Asks the appliers to try parked events again when this transaction has committed, without waiting for mrsync.apply_error_retry_interval. NULL: all of them. Returns how many were asked for; a row of apply_error goes when its event is applied. Error: 42704 no such error_id. Example: SELECT mrsync.apply_error_retry();';

CREATE FUNCTION mrsync.apply_error_discard(error_id bigint) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'mrsync_apply_error_discard';
COMMENT ON FUNCTION mrsync.apply_error_discard(bigint) IS 'Gives a parked event up: it will not be applied in this region, which then differs from the others in that row until the row is written again; in a table with merge rules until it is deleted and inserted anew, in one transaction. Error: 42704 no such error_id. Example: SELECT mrsync.apply_error_discard(17);';

-- ---------------------------------------------------------------------------------------------------------------------
-- Conflicts. With the caller's rights and search_path: it is a write of the caller's, and fires triggers.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.conflict_redecide(conflict_id uuid, side text) RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mrsync_conflict_redecide';
COMMENT ON FUNCTION mrsync.conflict_redecide(uuid, text) IS 'Gives the row of a logged conflict the image of side a or side b, as conflict_log has it; where that is NULL, deletes the row. An ordinary write of this session: with its rights (SELECT on mrsync.conflict_log, and what the table asks for), stamped anew, sent to all peers. Columns that the image lacks keep what they have, or get their default. Returns inserted, updated, deleted, or nothing. Errors: 42704 no such conflict_id, 22023 another side or no side a, 0A000 a conflict of two rows that exclude each other, 42P01 the table does not exist any more, 55000 it is not replicated any more, has another primary key, or no region, 42703 it has lost a column of the image, 428C9 the image has another value in a column that is GENERATED ALWAYS AS IDENTITY. Example: SELECT mrsync.conflict_redecide(''2d3c37bf-cf8f-57f4-8692-db767b308fa9'', ''a'');';

-- ---------------------------------------------------------------------------------------------------------------------
-- Status
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION mrsync.worker_stat(OUT kind text, OUT peer text, OUT pid integer, OUT running boolean, OUT state text,
	OUT started_at timestamptz, OUT restarts integer, OUT sequence bigint, OUT hlc mrsync.hlc, OUT committed_at timestamptz,
	OUT progress_at timestamptz, OUT taken_at timestamptz, OUT transactions bigint, OUT events bigint, OUT parked bigint, OUT caught_up boolean,
	OUT last_error text, OUT last_error_at timestamptz, OUT degraded boolean)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_worker_stat';
COMMENT ON FUNCTION mrsync.worker_stat() IS 'The worker processes of this region, one row each, from shared memory; no row when the database is no region. peer: an applier''s source. sequence, hlc, committed_at: of the last transaction sent (extractor) or applied (applier); taken_at: when an applier took its newest transaction in hand; caught_up: it has nothing in hand, and nothing is left in the topic; transactions, events, parked: since its start; restarts: in a row; degraded: its state does not pass by itself. Example: SELECT * FROM mrsync.worker_stat();';

CREATE FUNCTION mrsync.peer_stat(OUT region_id text, OUT acked_sequence bigint, OUT head_sequence bigint, OUT heartbeat_at timestamptz,
	OUT watermark mrsync.hlc, OUT applied_watermark mrsync.hlc)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_peer_stat';
COMMENT ON FUNCTION mrsync.peer_stat() IS 'What the peers told on their control topics, from shared memory. acked_sequence: how far they have applied this region; head_sequence: their own newest transaction; heartbeat_at: when they were last heard, by this server''s clock; watermark: what they still commit is stamped above; applied_watermark: no event of theirs at or below it is missing here. Example: SELECT region_id, clock_timestamp() - heartbeat_at FROM mrsync.peer_stat();';

CREATE FUNCTION mrsync.stable_point() RETURNS mrsync.hlc LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mrsync_stable_point';
COMMENT ON FUNCTION mrsync.stable_point() IS 'The stamp up to which every region known here has applied the events of every other one, and itself commits none any more; below it tombstones and overrides are pruned. NULL: there is none, since a region has not said yet how far it is, or there is only one. Error: 55000 when the database is not a region. Example: SELECT mrsync.stable_point(), * FROM mrsync.watermark WHERE holds_stable_point;';

CREATE VIEW mrsync.watermark AS
SELECT region.region_id, origin.region_id AS origin_region, said.watermark, said.said_at,
	CASE WHEN bool_or(said.watermark IS NULL) OVER () THEN said.watermark IS NULL
		ELSE said.watermark::bigint = min(said.watermark::bigint) OVER () END AS holds_stable_point,
	(CASE
		WHEN said.watermark IS NULL AND region.region_id = origin.region_id THEN 'unknown: it has not said where it is'
		WHEN said.watermark IS NULL THEN 'unknown: it has not acknowledged ' || origin.region_id
		WHEN link.status = 'paused' THEN 'paused'
		WHEN region.is_local AND NOT origin.is_local AND link.status IS NULL THEN 'no link'
		WHEN peer.heartbeat_at < clock_timestamp() - interval '30 s'
			THEN 'nothing heard of ' || region.region_id || ' for ' || date_trunc('second', clock_timestamp() - peer.heartbeat_at)
		ELSE coalesce((SELECT count(*) || CASE count(*) WHEN 1 THEN ' event parked' ELSE ' events parked' END FROM mrsync.apply_error e
			WHERE e.source_region = origin.region_id AND region.is_local HAVING count(*) > 0), 'in order')
	END) COLLATE "default" AS state
FROM mrsync.region region CROSS JOIN mrsync.region origin
LEFT JOIN LATERAL (
	SELECT h.watermark, h.hlc AS said_at FROM mrsync.heartbeat h WHERE h.region_id = region.region_id AND region.region_id = origin.region_id
	UNION ALL
	SELECT a.watermark, a.hlc FROM mrsync.acknowledgement a
	WHERE a.region_id = region.region_id AND a.source_region = origin.region_id AND region.region_id <> origin.region_id
) said ON true
LEFT JOIN mrsync.replication_link link ON link.source_region = origin.region_id AND link.target_region = region.region_id AND region.is_local
LEFT JOIN mrsync.peer_stat() peer ON peer.region_id = region.region_id
ORDER BY said.watermark NULLS FIRST, region.region_id, origin.region_id;
COMMENT ON VIEW mrsync.watermark IS 'How far every region is past the events of every other one, as known here; the lowest of all is the stable point, and what is not known keeps it from being there';
COMMENT ON COLUMN mrsync.watermark.region_id IS 'Who is that far';
COMMENT ON COLUMN mrsync.watermark.origin_region IS 'With whose events';
COMMENT ON COLUMN mrsync.watermark.watermark IS 'No event of origin_region stamped at or below it is still missing in region_id; of its own events: none will be committed any more. NULL: not known';
COMMENT ON COLUMN mrsync.watermark.said_at IS 'Stamp, by the clock of region_id, of its saying so';
COMMENT ON COLUMN mrsync.watermark.holds_stable_point IS 'Whether the stable point is where it is because of this row';
COMMENT ON COLUMN mrsync.watermark.state IS 'in order; or why it does not rise, as far as that is known here';

-- An active rule is superseded by one of the same place that was activated later; of a merge function on whole rows, any place is the same.
CREATE VIEW mrsync.merge_function AS
WITH replicated AS (
	SELECT t.relation, c.relowner, format('%I.%I', n.nspname, c.relname) AS table_name FROM mrsync.replicated_table t
	JOIN pg_catalog.pg_class c ON c.oid = t.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
), definition AS (
	SELECT d.*, CASE WHEN d.status = 'active' AND EXISTS (SELECT FROM mrsync.merge_definition n
		WHERE n.status = 'active' AND n.table_name = d.table_name AND n.of_losers = d.of_losers
		AND (n.activation::bigint, n.definition_id) > (d.activation::bigint, d.definition_id)
		AND (n.column_name IS NOT DISTINCT FROM d.column_name OR n.column_name IS NULL AND n.strategy = 'merge_function'
			OR d.column_name IS NULL AND d.strategy = 'merge_function'))
		THEN 'superseded' ELSE d.status END AS state
	FROM mrsync.merge_definition d
)
SELECT d.table_name, r.relation, d.column_name, d.version, d.strategy, d.function, d.state AS status, d.activation,
	coalesce(said.acknowledged_by, '{}') AS acknowledged_by,
	CASE WHEN d.state NOT IN ('preparing', 'shadow', 'active') THEN '{}'
		WHEN d.state = 'preparing' AND said.waiting_for IS NULL THEN ARRAY[d.region_id]
		ELSE coalesce(said.waiting_for, '{}') END AS waiting_for,
	CASE WHEN d.state IN ('preparing', 'shadow', 'active') THEN said.why END AS why,
	d.definition_id, d.region_id, d.registered_at, d.checksum, d.rollout, c.compared, c.differing, c.failed
FROM definition d
LEFT JOIN mrsync.merge_comparison c ON c.definition_id = d.definition_id
LEFT JOIN replicated r ON r.table_name = d.table_name
CROSS JOIN LATERAL (
	SELECT array_agg(g.region_id ORDER BY g.region_id) FILTER (WHERE a.prepared) AS acknowledged_by,
		array_agg(g.region_id ORDER BY g.region_id) FILTER (WHERE waits.so) AS waiting_for,
		string_agg(g.region_id || ': ' || CASE
			WHEN p.heartbeat_at < clock_timestamp() - interval '30 s'
				THEN 'nothing heard of it for ' || date_trunc('second', clock_timestamp() - p.heartbeat_at)
			WHEN NOT a.prepared AND coalesce(pg_has_role(r.relowner, 'USAGE'), (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname = current_user))
				THEN a.sqlstate || ' ' || a.message || coalesce(' — ' || a.hint, '')
			WHEN NOT a.prepared THEN a.sqlstate
			WHEN a.prepared THEN 'has not said yet that it decides by it'
			ELSE 'has not said yet that it is prepared'
		END, '; ' ORDER BY g.region_id) FILTER (WHERE waits.so) COLLATE "default" AS why
	FROM mrsync.region g
	LEFT JOIN mrsync.merge_acknowledgement a ON a.definition_id = d.definition_id AND a.region_id = g.region_id
	LEFT JOIN mrsync.peer_stat() p ON p.region_id = g.region_id
	CROSS JOIN LATERAL (SELECT NOT coalesce(a.prepared AND (a.knows_activation OR d.state IN ('preparing', 'shadow')), false)) waits (so)
) said
ORDER BY d.table_name, d.column_name NULLS FIRST, d.version, d.activation NULLS LAST, d.region_id;
COMMENT ON VIEW mrsync.merge_function IS 'The rules by which conflicts are decided, as this region knows them, and how far each has come on its way into all regions. Tables and columns without a rule: last writer wins';
COMMENT ON COLUMN mrsync.merge_function.table_name IS 'The table, with its schema';
COMMENT ON COLUMN mrsync.merge_function.relation IS 'The table here; NULL: it is not replicated here';
COMMENT ON COLUMN mrsync.merge_function.column_name IS 'The column; NULL: of a merge function or a rule for losers, the whole row; of a strategy, all columns that have no rule of their own';
COMMENT ON COLUMN mrsync.merge_function.version IS '1, 2, … per table and column, as numbered by region_id';
COMMENT ON COLUMN mrsync.merge_function.strategy IS 'last_writer_wins, column_last_writer_wins or merge_function; what becomes of rows that others exclude: hold_aside, set_null or loser_function';
COMMENT ON COLUMN mrsync.merge_function.function IS 'The merge function, or the one for losers, with its schema and its argument types; NULL: another strategy';
COMMENT ON COLUMN mrsync.merge_function.status IS 'preparing; shadow: run beside the rule that decides; active: since activation; superseded: events stamped below the activation of a later rule are still decided by it; withdrawn';
COMMENT ON COLUMN mrsync.merge_function.activation IS 'Events stamped at or above it are decided by this rule, in every region; NULL: not active';
COMMENT ON COLUMN mrsync.merge_function.acknowledged_by IS 'The regions that are prepared for it';
COMMENT ON COLUMN mrsync.merge_function.waiting_for IS 'preparing, shadow: the regions that are not prepared yet, then the one that activates it; active: those that do not say yet that they decide by it';
COMMENT ON COLUMN mrsync.merge_function.why IS 'What these say, or how long they have been silent. Of a failure the table''s owner and superusers see the text, others the SQLSTATE: it may quote values of the table';
COMMENT ON COLUMN mrsync.merge_function.definition_id IS 'For merge_function_wait(), _promote(), _withdraw() and _rollback()';
COMMENT ON COLUMN mrsync.merge_function.region_id IS 'Where it was registered';
COMMENT ON COLUMN mrsync.merge_function.registered_at IS 'When, by the clock of that region';
COMMENT ON COLUMN mrsync.merge_function.checksum IS 'SHA-256 of the source; NULL: the function belongs to an extension';
COMMENT ON COLUMN mrsync.merge_function.rollout IS 'staged or immediate: to become active; shadow: to be run beside the rule that decides';
COMMENT ON COLUMN mrsync.merge_function.compared IS 'Of a shadow: the events that this region has merged with it, too; also what was counted before it was promoted or withdrawn. NULL: none';
COMMENT ON COLUMN mrsync.merge_function.differing IS 'Those of which it made another value; mrsync.merge_difference has the first of them';
COMMENT ON COLUMN mrsync.merge_function.failed IS 'Those with which it failed';
GRANT SELECT ON mrsync.merge_function TO PUBLIC;

CREATE VIEW mrsync.worker_status AS
SELECT w.kind AS worker, w.peer AS source_region,
	CASE
		WHEN NOT w.running AND w.kind = 'applier' AND EXISTS (SELECT FROM mrsync.replication_link l JOIN mrsync.region r
			ON r.region_id = l.target_region AND r.is_local WHERE l.source_region = w.peer AND l.status = 'paused') THEN 'paused'
		WHEN NOT w.running THEN 'down: ' || coalesce(w.last_error, 'not started yet')
		WHEN w.state IS NOT NULL THEN CASE WHEN w.degraded THEN 'degraded: ' ELSE 'waiting: ' END || w.state
		WHEN w.kind = 'applier' AND NOT w.caught_up THEN
			CASE WHEN greatest(w.progress_at, w.taken_at) < clock_timestamp() - interval '30 s'
				THEN 'stalled: no progress for ' || date_trunc('second', clock_timestamp() - greatest(w.progress_at, w.taken_at))
				ELSE 'catching up' END
		ELSE 'running'
	END AS state,
	w.pid, CASE WHEN w.running THEN date_trunc('second', clock_timestamp() - w.started_at) END AS up, w.restarts,
	w.transactions, w.events, w.parked, w.committed_at AS last_committed_at,
	date_trunc('second', clock_timestamp() - w.progress_at) AS last_progress, w.last_error, w.last_error_at
FROM mrsync.worker_stat() w
-- the applier of the region's own topic is there while the region takes back what it lacks
WHERE w.running OR w.peer IS NULL OR w.peer <> (SELECT region_id FROM mrsync.region WHERE is_local)
	OR EXISTS (SELECT FROM mrsync.recovery WHERE finished_at IS NULL)
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
	CASE WHEN l.status = 'active' AND CASE WHEN l.target_region = here.region_id THEN w.degraded ELSE x.running AND x.degraded END THEN 'degraded'
		ELSE l.status END AS status,
	(CASE
		WHEN l.status IN ('paused', 'decommissioned') THEN l.status
		WHEN l.target_region = here.region_id THEN
			CASE
				WHEN w.degraded OR l.status = 'degraded' AND coalesce(w.state, w.last_error, nullif(parked.n, 0)::text) IS NOT NULL
					THEN 'degraded: ' || coalesce(w.state, w.last_error, parked.n || CASE parked.n WHEN 1 THEN ' event parked' ELSE ' events parked' END)
				WHEN w.kind IS NULL THEN 'down: no applier yet'
				WHEN NOT w.running THEN 'down: ' || coalesce(w.last_error, 'not started yet')
				WHEN w.state IS NOT NULL THEN 'waiting: ' || w.state
				WHEN p.heartbeat_at < clock_timestamp() - interval '30 s'
					THEN 'waiting: nothing heard of ' || l.source_region || ' for ' || date_trunc('second', clock_timestamp() - p.heartbeat_at)
				WHEN w.caught_up THEN 'streaming'
				WHEN greatest(w.progress_at, w.taken_at) < clock_timestamp() - interval '30 s'
					THEN 'stalled: no progress for ' || date_trunc('second', clock_timestamp() - greatest(w.progress_at, w.taken_at))
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
	(SELECT count(*) FROM mrsync.row_aside e WHERE e.region_id = l.source_region AND NOT e.is_placed) AS held_aside,
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
COMMENT ON VIEW mrsync.link_status IS 'The links from and to this region at a glance. state: streaming (nothing left to do), catching up, paused, waiting: what for, stalled: for how long, down: why, degraded: why. lag: since the commit of the oldest event that the target has not applied. parked: events in apply_error (incoming links). held_aside: rows of the source in row_aside here. applied_up_to: commit time, at its source, of the newest event that the target has applied';
COMMENT ON COLUMN mrsync.link_status.link_id IS 'For link_pause(), link_resume() and link_remove()';
COMMENT ON COLUMN mrsync.link_status.source_region IS 'Whose events travel';
COMMENT ON COLUMN mrsync.link_status.target_region IS 'Where they are applied';
COMMENT ON COLUMN mrsync.link_status.direction IS 'incoming: this region is the target; outgoing: it is the source';
COMMENT ON COLUMN mrsync.link_status.status IS 'What the link is set to (active, paused), or degraded: it needs somebody, state says why';
COMMENT ON COLUMN mrsync.link_status.state IS 'What it is doing: streaming, catching up, paused, waiting: what for, stalled: for how long, down: why, degraded: why';
COMMENT ON COLUMN mrsync.link_status.lag IS 'Time since the commit of the oldest event that the target has not applied; 0 when there is none; NULL before the first measurement';
COMMENT ON COLUMN mrsync.link_status.parked IS 'Events of the source in apply_error; NULL on outgoing links';
COMMENT ON COLUMN mrsync.link_status.held_aside IS 'Rows written by the source that are held aside in this region (row_aside): a row with a higher stamp excludes each. The link is in order; the rows need a decision';
COMMENT ON COLUMN mrsync.link_status.last_acked_event_id IS 'The newest event of the source that the target has applied and acknowledged';
COMMENT ON COLUMN mrsync.link_status.applied_up_to IS 'When that event was committed, by the source''s clock';
COMMENT ON COLUMN mrsync.link_status.last_error IS 'Last error of the applier (incoming) or of the extractor (outgoing); may be of an earlier run';

-- ---------------------------------------------------------------------------------------------------------------------
-- Privileges: everybody may look and wait; who changes things is granted that, or is a superuser; the rows' contents are
-- for superusers. table_add and table_remove ask for the table's owner themselves. tombstone_row() stays everybody's: who
-- makes a partition makes its triggers, too, and needs the right to their function. Elsewhere it does nothing.
-- ---------------------------------------------------------------------------------------------------------------------
GRANT USAGE ON SCHEMA mrsync TO PUBLIC;
GRANT SELECT ON mrsync.region, mrsync.replicated_table, mrsync.replication_link, mrsync.link_position,
	mrsync.extractor_position, mrsync.control_position, mrsync.heartbeat, mrsync.acknowledgement, mrsync.applied_event,
	mrsync.resend, mrsync.recovery, mrsync.pruning, mrsync.worker_status, mrsync.link_status, mrsync.watermark TO PUBLIC;
REVOKE ALL ON FUNCTION mrsync.settings_check(), mrsync.settings_advice(), mrsync.setting_change(text, text, text[]), mrsync.setting_place(text),
	mrsync.setting_advice(text, text), mrsync.region_init(text, text, text), mrsync.region_connect(text, text),
	mrsync.region_leave(), mrsync.tombstone_delete(), mrsync.tombstone_truncate(), mrsync.row_history_begin(regclass), mrsync.ddl_end(),
	mrsync.table_rewrite(), mrsync.sql_drop(), mrsync.link_create(text, text), mrsync.link_pause(uuid), mrsync.link_resume(uuid),
	mrsync.link_remove(uuid, boolean), mrsync.resend(mrsync.hlc, text, bigint), mrsync.slot_recreate(), mrsync.apply_error_retry(bigint), mrsync.apply_error_discard(bigint) FROM PUBLIC;

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
