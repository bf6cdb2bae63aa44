// Who wrote a row, and when: the one place that answers it.
//
// Looked up in this order: an entry for this row and xmin (mrsync.row_entry), a marker for the table and xmin
// (mrsync.base_marker), an override for the xmin, then its commit timestamp and replication origin. The first two are
// there after a rewrite of the table, which gives every row the rewriting transaction's xmin; they end by themselves when
// the row is written again. A filter spares rows of which nothing is written down the search.
// What is found nowhere is bounded by the horizon (pg/horizon.h).
// Relied on by: the applier's decisions (I1, I3), TRUNCATE from a peer, the conflict log.
#pragma once

#include "pg/key.h"
#include "pg/shmem.h"

namespace mrsync
{

struct RowVersion
{
	Hlc hlc;
	const char *region; // in shared memory or the current memory context; "": nobody's in particular
	bool mine;			// of the current transaction, whose stamp is not known yet; hlc and region say nothing
	bool atMost;		// not known, but not above hlc; region says nothing
};

// Of a row of the table that `key` describes, with these key values. Under the rights with which the functions of the
// key's types may run. Throws PgError.
RowVersion versionOfRow(RegionShared *region, const KeyInfo &key, const Datum *values, TransactionId xmin);

// By the xmin alone: of a tombstone, or of a row for which there cannot be more. Throws PgError.
RowVersion versionOfXid(RegionShared *region, TransactionId xmin);
bool mayHaveEntries(const RegionShared *region, TransactionId xmin);

// Loads the filter after a server start. Inside a transaction. Throws PgError.
void versionFilterLoad(RegionShared *region);

// Drops entries below the stable point, above which is all that may still come, and raises their tables' markers to it.
// Inside a transaction. Throws PgError.
void rowEntriesPrune(RegionShared *region);

// ---- writing them, around a rewrite; everything below may ereport: under the guard

// What is written down of a row or its table for this xmin.
struct RowEntry
{
	enum Kind
	{
		None,
		Base,	 // the table's marker: the row holds everything up to this stamp
		Version, // of the row
		Own,	 // of the row: its version is what its xmin says, as for a row of no rewrite
	};
	Kind kind;
	Hlc hlc;
	const char *region; // null: at most hlc
};
RowEntry rowEntryOf(const KeyInfo &key, const Datum *values, TransactionId xmin);

// Not closed after an error: the abort does it.
struct RowEntryWriter
{
	Oid relation;
	TransactionId xid;
	Relation table;
	ResultRelInfo *indexes;

	void open(RegionShared *region, Oid relation, TransactionId xid);
	// kind: Version or Own.
	void write(const RowEntry &entry, uint64_t keyHash, const char *keyText);
	// The row has been written again under the same xid.
	void replaceByOwn(const KeyInfo &key, const Datum *values, uint64_t keyHash, const char *keyText);
	void close();
};
static_assert(std::is_trivially_destructible_v<RowEntryWriter>);

// False: it is there already.
bool baseMarkerWrite(RegionShared *region, Oid relation, TransactionId xid, Hlc hlc);

} // namespace mrsync
