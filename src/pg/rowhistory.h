// mrsync.row_history: the latest events on the rows of tables with merge rules, as they are written down. What they mean is
// core/fold.h.
//
// An entry's version is that of the transaction that wrote it, as a tombstone's is: the trigger's, or the applier's, which runs
// under its source's stamp. A base says its version itself: it is there for the first entry of a row that was there before, and
// where the entries below the stable point have been folded into one.
// Relied on by: the applier, which folds late events in their place (I1); the trigger row_history_write, in users' transactions.
#pragma once

#include "pg/key.h"
#include "pg/rowversion.h"

namespace mrsync
{

// Does this relation keep histories: has it the trigger? May ereport: under the guard.
bool keepsHistory(Relation relation);

// Of one row. The texts are images, as JSON.
struct HistoryKey
{
	const KeyInfo *key;
	const Datum *values;
	uint64_t hash;
	const char *text;
};

// What an event did. Null: there was no row; there is none. Below: may ereport, under the guard.
void historyAdd(const HistoryKey &row, const char *before, const char *after);
// region null: the version is not known, but not above hlc.
void historyAddBase(const HistoryKey &row, Hlc hlc, const char *region, const char *state);

struct HistoryEntry // of mrsync.row_history, in the current memory context
{
	TransactionId xmin; // of an event's entry: of its version
	bool isBase;
	Hlc hlc;			// of a base; and its region, null where that is not known
	const char *region, *before, *after;
};
// A row's entries that a snapshot sees, in their order: a List of HistoryEntry.
List *historyRead(const HistoryKey &row, Snapshot snapshot);

// The events of this transaction, up to now, on the rows of a table that it is truncating: they have no effect. May ereport.
void historyForgetOwn(Oid root);

// How many entries the row has, counted up to two. One that is being deleted does not count: who deletes all of a row's entries looks
// afterwards whether there is a new one; who adds one looks afterwards whether there is an older one, and else adds a base.
int historyCount(const HistoryKey &row);

} // namespace mrsync
