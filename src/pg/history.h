// The region's history: which number a WAL position has in it, and whether a transaction is part of it.
//
// A sequence is (number << 48) | LSN. The number is PostgreSQL's timeline, and one more for each time that the database was
// found set back without a new timeline (mrsync.recovery): a copy of it that was restored writes other transactions at
// positions of the WAL that were sent before. So sequences grow along the region's history whatever becomes of its server.
// Relied on by: the chain of sequences (I2, I8).
#pragma once

#include "pg/server.h"

#include "core/event.h"
#include "pg/shmem.h"

#include <string>
#include <vector>

namespace mrsync
{

class History
{
public:
	// Of this server and this database at present. Begins a transaction where there is none. Throws PgError.
	static History read();

	uint32_t timelineOf(XLogRecPtr lsn) const;
	uint32_t numberOf(XLogRecPtr lsn) const;
	uint64_t sequenceOf(XLogRecPtr lsn) const { return sequenceAt(numberOf(lsn), lsn); }
	// Whether this server's WAL has got to that place of the history. Another transaction may stand there.
	bool reaches(uint64_t sequence) const;

private:
	struct Begin
	{
		XLogRecPtr lsn;
		uint32_t number; // a timeline; or by how much the number is above it
	};
	std::vector<Begin> timelines_; // ascending, as are the shifts
	std::vector<Begin> shifts_;
};

// The peer that has applied a transaction of this region under a higher number than this server's; "": there is none. It is of
// another server that sends in this one's place, and nobody applies what is committed here.
std::string followsAnother(RegionShared *region, uint32_t number);

// Whether this transaction (xid8) has committed here at that time: with the id alone it might be another one. One whose commit
// timestamp is forgotten has: it is older than anything that a server is set back by. Inside a transaction. Throws PgError.
bool hasCommitted(uint64_t xid, int64_t committedAt);

} // namespace mrsync
