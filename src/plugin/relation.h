// What the output plugin knows of a relation: is it replicated, under which name, how its columns become text.
// Read under the historic snapshot of the change at hand, kept until the relation's catalog entries change.
#pragma once

#include "pg/server.h"

#include "core/event.h"

#include <memory>
#include <unordered_map>

namespace mrsync
{

struct DecodedColumn
{
	std::string name;
	int index = 0; // in the tuple, 0-based
	FmgrInfo output;
	bool isVarlena = false;
};

struct ContextDelete
{
	void operator()(MemoryContext context) const { MemoryContextDelete(context); }
};

struct DecodedRelation
{
	enum class Kind
	{
		Ignored,
		Data,	 // a replicated table, or a partition of one
		Control, // a table of ours whose rows travel on the control topic
		Mark,	 // one whose rows travel among the data
	};
	Kind kind = Kind::Ignored;
	Oid root = InvalidOid; // the replicated table; itself or an ancestor
	bool valid = false;
	std::string name;	 // of the root, qualified and quoted: what events say
	std::string ownName; // of the relation itself
	std::vector<DecodedColumn> columns;
	std::vector<size_t> key; // indexes into columns, in the primary key's order
	std::unique_ptr<MemoryContextData, ContextDelete> context; // of the output functions' private data
};

class RelationCache
{
public:
	RelationCache();
	~RelationCache();
	RelationCache(const RelationCache &) = delete;
	RelationCache &operator=(const RelationCache &) = delete;

	// Throws PgError. What it returned before is not valid any more.
	const DecodedRelation &find(Relation relation);

private:
	friend void relationCacheForget(Oid relation);
	std::unordered_map<Oid, DecodedRelation> entries_;
	bool stale_ = false; // some entries are not valid
	RelationCache *next_;
};

} // namespace mrsync
