// table_add, table_add_all, table_remove: what makes a table a replicated one, and an ordinary one again.
//
// A replicated table has a usable primary key, REPLICA IDENTITY FULL (I6) and the tombstone triggers, ENABLE ALWAYS; a
// partitioned one has all that in every partition, also in those that come later. tableSync() brings any replicated
// table into that state, so table_add and the event trigger (ddl.cpp) are the same thing at different moments.
// Locks: ShareRowExclusive, so that a table is added while it is read, and as soon as no writer is in the middle.
#include "api/api.h"
#include "api/table.h"

#include "pg/catalog.h"
#include "pg/clock.h"
#include "pg/horizon.h"
#include "pg/key.h"

#include <cstring>

extern "C"
{
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(mrsync_table_add);
PG_FUNCTION_INFO_V1(mrsync_table_add_all);
PG_FUNCTION_INFO_V1(mrsync_table_remove);
}

namespace mrsync::api
{

void requireOwner(Oid relation)
{
	std::string name = tableName(relation);
	spi::Rows rows =
		spi::query("SELECT relowner FROM pg_catalog.pg_class WHERE oid = $1::oid", {oidText(relation)});
	if (rows.empty())
		return; // gone; said by whoever looks next
	Oid owner = toOid(rows[0][0]);
	if (!pgCall([&] { return has_privs_of_role(GetUserId(), owner); }))
		refuse(ERRCODE_INSUFFICIENT_PRIVILEGE, "must be owner of table " + name, "",
			   "Call it as the table's owner or as a superuser.");
}

void invalidateTree(Oid relation)
{
	pgCall(
		[&]
		{
			ListCell *cell;
			foreach (cell, find_all_inheritors(relation, NoLock, nullptr))
				CacheInvalidateRelcacheByRelid(lfirst_oid(cell));
		});
}

namespace
{

// Sets pg_class.relreplident and pg_index.indisreplident, as ALTER TABLE … REPLICA IDENTITY does, but without its
// AccessExclusive lock: only writers look at it, and they are locked out. Under the guard.
void identitySet(Oid relation, char identity, Oid identityIndex)
{
	Relation rel = table_open(relation, NoLock);
	Relation classes = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relation);
	auto *form = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
	if (form->relreplident != identity)
	{
		form->relreplident = identity;
		CatalogTupleUpdate(classes, &tuple->t_self, tuple);
	}
	heap_freetuple(tuple);
	table_close(classes, RowExclusiveLock);

	Relation indexes = table_open(IndexRelationId, RowExclusiveLock);
	ListCell *cell;
	foreach (cell, RelationGetIndexList(rel))
	{
		Oid index = lfirst_oid(cell);
		HeapTuple indexTuple = SearchSysCacheCopy1(INDEXRELID, ObjectIdGetDatum(index));
		if (!HeapTupleIsValid(indexTuple))
			elog(ERROR, "cache lookup failed for index %u", index);
		auto *indexForm = reinterpret_cast<Form_pg_index>(GETSTRUCT(indexTuple));
		bool is = index == identityIndex;
		if (indexForm->indisreplident != is)
		{
			indexForm->indisreplident = is;
			CatalogTupleUpdate(indexes, &indexTuple->t_self, indexTuple);
		}
		heap_freetuple(indexTuple);
	}
	table_close(indexes, RowExclusiveLock);
	CacheInvalidateRelcache(rel);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

struct Member // of a replicated table's partition tree
{
	Oid relation;
	std::string name;
	bool isRoot;
	bool isPartitioned;
	char identity;
	bool identityKept;		// the former identity is remembered: it was FULL once
	std::string deleteState; // pg_trigger.tgenabled, or "" : there is no such trigger
	std::string keyState;
	std::string keyArguments;
	std::string truncateState;
	std::string historyState;
	bool keepsHistory; // the root does
};

std::vector<Member> membersOf(Oid root)
{
	spi::Rows rows = spi::query(
		"SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind = 'p', c.relreplident, "
		"EXISTS (SELECT FROM mrsync.former_identity f WHERE f.relation = c.oid), "
		"(SELECT tgenabled FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'mrsync_delete'), "
		"(SELECT tgenabled FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'mrsync_key'), "
		"(SELECT pg_catalog.encode(tgargs, 'escape') FROM pg_catalog.pg_trigger t "
		" WHERE t.tgrelid = c.oid AND t.tgname = 'mrsync_key'), "
		"(SELECT tgenabled FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'mrsync_truncate'), "
		"(SELECT tgenabled FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'mrsync_history'), "
		"EXISTS (SELECT FROM mrsync.replicated_table r WHERE r.relation = $1::oid AND r.keeps_history) "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
		"WHERE c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)) "
		"ORDER BY c.oid <> $1::oid, c.oid",
		{oidText(root)});
	std::vector<Member> members;
	for (const spi::Row &row : rows)
	{
		Member member;
		member.relation = toOid(row[0]);
		member.name = *row[1];
		member.isRoot = member.relation == root;
		member.isPartitioned = row[2] == "t";
		member.identity = (*row[3])[0];
		member.identityKept = row[4] == "t";
		member.deleteState = row[5].value_or("");
		member.keyState = row[6].value_or("");
		member.keyArguments = row[7].value_or("");
		member.truncateState = row[8].value_or("");
		member.historyState = row[9].value_or("");
		member.keepsHistory = row[10] == "t";
		members.push_back(std::move(member));
	}
	return members;
}

void run(const std::string &sql) { spi::execute(sql.c_str()); }

// The condition "the key changes", by the key types' own equality, and the key's columns as trigger arguments, by which
// a later change of the primary key is noticed.
struct KeyChange
{
	std::string condition;
	std::string arguments;		 // 'a', 'b'
	std::string storedArguments; // as membersOf shows them
};

KeyChange keyChange(Oid root)
{
	spi::Rows columns = spi::query(
		"SELECT pg_catalog.quote_ident(a.attname), a.atttypid, a.attnum FROM pg_catalog.pg_index i "
		"CROSS JOIN LATERAL pg_catalog.unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, position) "
		"JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
		"WHERE i.indrelid = $1::oid AND i.indisprimary ORDER BY k.position",
		{oidText(root)});
	KeyChange change;
	for (const spi::Row &column : columns)
	{
		Oid type = toOid(column[1]);
		const char *op = pgCall(
			[&]() -> const char *
			{
				Oid equal = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
				HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(equal));
				if (!HeapTupleIsValid(tuple))
					elog(ERROR, "cache lookup failed for operator %u", equal);
				Oid schema = reinterpret_cast<Form_pg_operator>(GETSTRUCT(tuple))->oprnamespace;
				ReleaseSysCache(tuple);
				const char *name = get_opname(equal);
				return psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(schema)), name);
			});
		change.condition += (change.condition.empty() ? "" : " AND ") + ("OLD." + *column[0]) + " " + op + " NEW." +
							*column[0];
		change.arguments += (change.arguments.empty() ? "'" : ", '") + *column[2] + "'";
		change.storedArguments += *column[2] + "\\000";
	}
	return change;
}

void triggersSync(Oid root, const std::vector<Member> &members)
{
	const Member &top = members.front();
	KeyChange change = keyChange(root);
	if (top.deleteState.empty() && top.isPartitioned)
		run("CREATE TRIGGER mrsync_delete AFTER DELETE ON " + top.name +
			" FOR EACH ROW EXECUTE FUNCTION mrsync.tombstone_row()");
	else if (top.deleteState.empty())
		run("CREATE TRIGGER mrsync_delete AFTER DELETE ON " + top.name +
			" REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION mrsync.tombstone_delete()");
	if (top.keyState.empty() || top.keyArguments != change.storedArguments)
		run("CREATE OR REPLACE TRIGGER mrsync_key AFTER UPDATE ON " + top.name + " FOR EACH ROW WHEN (NOT (" +
			change.condition + ")) EXECUTE FUNCTION mrsync.tombstone_row(" + change.arguments + ")");
	if (top.keepsHistory && top.historyState.empty())
		run("CREATE TRIGGER mrsync_history AFTER INSERT OR UPDATE OR DELETE ON " + top.name +
			" FOR EACH ROW EXECUTE FUNCTION mrsync.row_history_write()");
	for (const Member &member : members)
		if (member.truncateState.empty() && (member.isRoot || !member.isPartitioned))
			run("CREATE TRIGGER mrsync_truncate AFTER TRUNCATE ON " + member.name +
				" FOR EACH STATEMENT EXECUTE FUNCTION mrsync.tombstone_truncate()");
}

// A trigger that does not fire for the replica role would miss what the applier deletes.
void triggersAlways(Oid root)
{
	for (const Member &member : membersOf(root))
	{
		std::string commands;
		auto always = [&](const std::string &state, const char *trigger)
		{
			if (!state.empty() && state != "A")
				commands += (commands.empty() ? "" : ", ") + std::string("ENABLE ALWAYS TRIGGER ") + trigger;
		};
		always(member.deleteState, "mrsync_delete");
		always(member.keyState, "mrsync_key");
		always(member.truncateState, "mrsync_truncate");
		always(member.historyState, "mrsync_history");
		if (!commands.empty())
			run("ALTER TABLE " + member.name + " " + commands);
	}
}

void identitiesSync(const std::vector<Member> &members)
{
	for (const Member &member : members)
	{
		if (member.identityKept && member.identity == REPLICA_IDENTITY_FULL)
			continue;
		if (member.identityKept)
			refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				   "the replica identity of " + member.name + " must stay FULL",
				   "The table is replicated by mrsync, which sends whole rows.",
				   removeFirst(members.front().name));
		spi::execute("INSERT INTO mrsync.former_identity (relation, identity, index) SELECT c.oid, c.relreplident, "
					 "(SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisreplident) "
					 "FROM pg_catalog.pg_class c WHERE c.oid = $1::oid",
					 {oidText(member.relation)});
		Oid relation = member.relation;
		pgCall([&] { identitySet(relation, REPLICA_IDENTITY_FULL, InvalidOid); });
	}
}

} // namespace

void lockTree(Oid relation)
{
	pgCall(
		[&]
		{
			LockRelationOid(relation, ShareRowExclusiveLock);
			(void)find_all_inheritors(relation, ShareRowExclusiveLock, nullptr);
		});
}

std::string removeFirst(const std::string &table)
{
	return "Take it out of replication first: SELECT mrsync.table_remove('" + table + "');";
}

void tableSync(Oid root)
{
	std::vector<Member> members = membersOf(root);
	identitiesSync(members);
	triggersSync(root, members);
	triggersAlways(root);
}

namespace
{

void tableAdd(Oid relation, const std::string &strategy)
{
	requireRegion();
	if (strategy != "last_writer_wins")
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "unknown strategy \"" + strategy + "\"")
			.hint("Use 'last_writer_wins'.");
	requireOwner(relation);
	tableCheckKind(relation, tableName(relation)); // not every kind may be locked
	lockTree(relation);
	AsSuperuser rights;
	tableCheck(relation);
	if (pgCall([&] { return isReplicated(relation); }))
	{
		notice(NOTICE, "table " + tableName(relation) + " is replicated already");
		return;
	}
	char identity = pgCall(
		[&]
		{
			Relation rel = table_open(relation, NoLock);
			char is = rel->rd_rel->relreplident;
			table_close(rel, NoLock);
			return is;
		});
	// Under the lock: whatever was written before has its stamp by now, and a lower one. The sample lets that be known also
	// of rows whose commit timestamps get lost.
	horizonSample(myRegion());
	// A table of this name may have merge rules already.
	spi::execute("INSERT INTO mrsync.replicated_table (relation, strategy, former_replica_identity, base_hlc, keeps_history) "
				 "VALUES ($1::oid, $2, $3::\"char\", $4::mrsync.hlc, EXISTS (SELECT FROM mrsync.merge_definition d WHERE d.table_name = $5 AND "
				 "d.status = 'active' AND d.strategy <> 'last_writer_wins' AND NOT d.of_losers))",
				 {oidText(relation), strategy, std::string(1, identity), toText(clockTick(myRegion())), tableName(relation)});
	tableSync(relation);
	invalidateTree(relation);
	wakeAtCommit();
}

int tableAddAll(const std::string &schema)
{
	requireRegion();
	spi::Rows schemas = spi::query("SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1", {schema});
	if (schemas.empty())
		throw PgError(ERRCODE_UNDEFINED_SCHEMA, "schema \"" + schema + "\" does not exist")
			.hint("\\dn lists the schemas.");
	if (schema == "mrsync" || schema == "information_schema" || schema.starts_with("pg_"))
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "the tables of schema \"" + schema + "\" cannot be replicated")
			.hint("Give a schema of your own.");
	spi::Rows tables;
	{
		AsSuperuser rights; // the catalog is not for everybody to read
		tables = spi::query(
			"SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
			"WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition "
			"AND NOT EXISTS (SELECT FROM mrsync.replicated_table t WHERE t.relation = c.oid) ORDER BY c.relname",
			{schema});
	}
	int added = 0;
	for (const spi::Row &row : tables)
	{
		try
		{
			tableAdd(toOid(row[0]), "last_writer_wins");
			++added;
		}
		catch (const Refused &refused)
		{
			notice(NOTICE, "skipped: " + refused.message(), refused.detail(), refused.hint());
		}
	}
	return added;
}

void identitiesRestore(Oid root)
{
	spi::Rows rows =
		spi::query("SELECT f.relation::oid, f.identity, i.indexrelid FROM mrsync.former_identity f "
				   "JOIN pg_catalog.pg_class c ON c.oid = f.relation "
				   "LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = f.index AND i.indrelid = f.relation "
				   "WHERE f.relation = $1::oid OR f.relation IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid))",
				   {oidText(root)});
	for (const spi::Row &row : rows)
	{
		Oid relation = toOid(row[0]);
		Oid index = row[2] ? toOid(row[2]) : InvalidOid;
		char identity = (*row[1])[0];
		if (identity == REPLICA_IDENTITY_INDEX && !OidIsValid(index))
			identity = REPLICA_IDENTITY_DEFAULT; // that index is gone
		pgCall([&] { identitySet(relation, identity, index); });
		spi::execute("DELETE FROM mrsync.former_identity WHERE relation = $1::oid", {oidText(relation)});
	}
}

} // namespace

void tableRemoveUnchecked(Oid relation)
{
	lockTree(relation);
	// first, so that the event triggers see a table that is none of ours
	spi::execute("DELETE FROM mrsync.replicated_table WHERE relation = $1::oid", {oidText(relation)});
	for (const Member &member : membersOf(relation))
	{
		// those of partitions go with the root's, but for the truncation's
		if (member.isRoot && !member.deleteState.empty())
			run("DROP TRIGGER mrsync_delete ON " + member.name);
		if (member.isRoot && !member.keyState.empty())
			run("DROP TRIGGER mrsync_key ON " + member.name);
		if (member.isRoot && !member.historyState.empty())
			run("DROP TRIGGER mrsync_history ON " + member.name);
		if (!member.truncateState.empty())
			run("DROP TRIGGER mrsync_truncate ON " + member.name);
	}
	spi::execute("DELETE FROM mrsync.row_history WHERE relation = $1::oid", {oidText(relation)});
	identitiesRestore(relation);
	invalidateTree(relation);
}

namespace
{

void tableRemove(Oid relation)
{
	requireOwner(relation);
	AsSuperuser rights;
	lockTree(relation);
	if (!pgCall([&] { return isReplicated(relation); }))
	{
		spi::Rows root = spi::query("SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) "
									"FROM mrsync.replicated_table t JOIN pg_catalog.pg_class c ON c.oid = t.relation "
									"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
									"WHERE t.relation IN (SELECT relid FROM pg_catalog.pg_partition_ancestors($1::oid))",
									{oidText(relation)});
		if (!root.empty())
			throw PgError(ERRCODE_WRONG_OBJECT_TYPE,
						  "table " + tableName(relation) + " cannot be taken out of replication by itself")
				.detail("It is a partition of " + *root[0][0] + ".")
				.hint("Remove that table, or detach the partition.");
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "table " + tableName(relation) + " is not replicated")
			.hint("SELECT * FROM mrsync.replicated_table lists the tables that are.");
	}
	tableRemoveUnchecked(relation);
	wakeAtCommit();
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_table_add(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireArgument(fcinfo, 0, "relation");
			tableAdd(PG_GETARG_OID(0), textArgument(fcinfo, 1, "strategy"));
		});
	return Datum(0);
}

Datum mrsync_table_add_all(PG_FUNCTION_ARGS)
{
	return enter([&] { return Int32GetDatum(tableAddAll(textArgument(fcinfo, 0, "schema_name"))); });
}

Datum mrsync_table_remove(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireArgument(fcinfo, 0, "relation");
			tableRemove(PG_GETARG_OID(0));
		});
	return Datum(0);
}
