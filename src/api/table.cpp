// table_add, table_add_all, table_remove, and the event triggers that keep replicated tables as they have to be.
//
// A replicated table has a usable primary key, REPLICA IDENTITY FULL (I6) and the tombstone triggers, ENABLE ALWAYS; a
// partitioned one has all that in every partition, also in those that come later. tableSync() brings any replicated
// table into that state, so table_add and the event trigger are the same thing at different moments.
// Locks: ShareRowExclusive, so that a table is added while it is read, and as soon as no writer is in the middle.
#include "api/api.h"
#include "api/rewrite.h"

#include "pg/horizon.h"
#include "pg/key.h"

#include <cstring>

extern "C"
{
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "commands/event_trigger.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(mrsync_table_add);
PG_FUNCTION_INFO_V1(mrsync_table_add_all);
PG_FUNCTION_INFO_V1(mrsync_table_remove);
PG_FUNCTION_INFO_V1(mrsync_ddl_end);
PG_FUNCTION_INFO_V1(mrsync_sql_drop);
}

namespace mrsync::api
{

namespace
{

// A table that cannot be replicated as it is; table_add_all turns it into a NOTICE.
class Refused : public PgError
{
public:
	explicit Refused(PgError &&error) : PgError(std::move(error)) {}
};

[[noreturn]] void refuse(int sqlState, const std::string &message, const std::string &detail, const std::string &hint)
{
	throw Refused(PgError(sqlState, message).detail(detail).hint(hint));
}

std::string oidText(Oid oid) { return std::to_string(oid); }
Oid toOid(const spi::Value &value) { return static_cast<Oid>(std::stoul(*value)); }

// As it is written in SQL, and in messages.
std::string tableName(Oid relation)
{
	spi::Rows rows = spi::query("SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c "
								"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid",
								{oidText(relation)});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_TABLE, "relation with OID " + oidText(relation) + " does not exist")
			.hint("It may have been dropped a moment ago.");
	return *rows[0][0];
}

// Before any lock is taken: who may not alter a table may not lock it either.
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

void lockTree(Oid relation)
{
	pgCall(
		[&]
		{
			LockRelationOid(relation, ShareRowExclusiveLock);
			(void)find_all_inheritors(relation, ShareRowExclusiveLock, nullptr);
		});
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

const char *kindName(char kind)
{
	switch (kind)
	{
	case RELKIND_VIEW:
		return "a view";
	case RELKIND_MATVIEW:
		return "a materialized view";
	case RELKIND_SEQUENCE:
		return "a sequence";
	case RELKIND_FOREIGN_TABLE:
		return "a foreign table";
	case RELKIND_INDEX:
	case RELKIND_PARTITIONED_INDEX:
		return "an index";
	case RELKIND_COMPOSITE_TYPE:
		return "a composite type";
	default:
		return "not a table";
	}
}

void checkKind(Oid relation, const std::string &name)
{
	spi::Rows rows = spi::query(
		"SELECT c.relkind, n.nspname IN ('pg_catalog', 'pg_toast', 'information_schema') OR c.oid < 16384, "
		"n.nspname = 'mrsync', c.relispartition, "
		"NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), "
		"c.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid), "
		"(SELECT pg_catalog.format('%I.%I', rn.nspname, r.relname) FROM pg_catalog.pg_class r "
		" JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE r.oid = pg_catalog.pg_partition_root(c.oid)) "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid",
		{oidText(relation)});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_TABLE, "relation with OID " + oidText(relation) + " does not exist");
	const spi::Row &row = rows[0];
	char kind = (*row[0])[0];
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", std::string("It is ") + kindName(kind) + ".",
			   "Only tables and partitioned tables are replicated.");
	if (row[1] == "t")
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", "It is a system catalog.",
			   "Only tables of your own are replicated.");
	if (row[2] == "t")
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", "It is a table of mrsync's own.",
			   "Only tables of your own are replicated.");
	if (row[3] == "t")
		refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated by itself",
			   "It is a partition of " + row[6].value_or("another table") + ".",
			   "Add that table: it stands for all its partitions.");
	if (row[4] == "t")
		refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated", "It inherits from another table.",
			   "Use declarative partitioning, or separate tables.");
	if (row[5] == "t")
		refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated", "Other tables inherit from it.",
			   "Use declarative partitioning, or separate tables.");
}

void checkMembers(Oid relation, const std::string &name)
{
	spi::Rows rows = spi::query(
		"SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind, c.relpersistence, "
		"c.relforcerowsecurity FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
		"WHERE c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)) ORDER BY c.oid",
		{oidText(relation)});
	for (const spi::Row &row : rows)
	{
		std::string it = toOid(row[0]) == relation ? "It" : "Its partition " + *row[1];
		char kind = (*row[2])[0];
		char persistence = (*row[3])[0];
		if (kind == RELKIND_FOREIGN_TABLE)
			refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", it + " is a foreign table.",
				   "Detach that partition first.");
		if (persistence == RELPERSISTENCE_TEMP)
			refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated", it + " is temporary.",
				   "Make it a permanent table.");
		if (persistence == RELPERSISTENCE_UNLOGGED)
			refuse(ERRCODE_WRONG_OBJECT_TYPE, name + " cannot be replicated",
				   it + " is unlogged: its changes are not in the WAL, which is what is replicated.",
				   "ALTER TABLE " + *row[1] + " SET LOGGED;");
		if (row[4] == "t")
			refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated",
				   it + " has FORCE ROW LEVEL SECURITY: changes of other regions are written as the table's owner, whom "
						"the policies would stop.",
				   "ALTER TABLE " + *row[1] + " NO FORCE ROW LEVEL SECURITY;");
	}
}

void checkKey(Oid relation, const std::string &name)
{
	spi::Rows rows = spi::query("SELECT indexrelid, indimmediate, indisvalid FROM pg_catalog.pg_index "
								"WHERE indrelid = $1::oid AND indisprimary",
								{oidText(relation)});
	if (rows.empty())
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, name + " cannot be replicated",
			   "It has no primary key, by which regions know a row.", "ALTER TABLE " + name + " ADD PRIMARY KEY (…);");
	if (rows[0][1] != "t")
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, name + " cannot be replicated",
			   "Its primary key is DEFERRABLE: two rows may have the same key for a while.",
			   "Make the primary key NOT DEFERRABLE.");
	if (rows[0][2] != "t")
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, name + " cannot be replicated",
			   "The index of its primary key is not valid.", "Give every partition the primary key, or rebuild the index.");
	spi::Rows columns =
		spi::query("SELECT a.attname, a.atttypid, a.attcollation, pg_catalog.format_type(a.atttypid, a.atttypmod) "
				   "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a "
				   "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) "
				   "WHERE i.indexrelid = $1::oid ORDER BY a.attnum",
				   {rows[0][0]});
	for (const spi::Row &column : columns)
	{
		Oid type = toOid(column[1]);
		Oid collation = toOid(column[2]);
		if (const char *problem = pgCall([&] { return keyTypeProblem(type, collation); }))
			refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated",
				   "Column \"" + *column[0] + "\" (" + *column[3] + ") of its primary key: " + problem + ".",
				   "Choose another type or collation, or another primary key.");
	}
}

// The server checks a deferrable constraint a second time by a trigger, and the role that the applier runs in switches
// that trigger off: two equal keys would be in every region, and nobody would notice.
void checkConstraints(Oid relation, const std::string &name)
{
	for (const spi::Row &row : spi::query("SELECT pg_catalog.quote_ident(conname) FROM pg_catalog.pg_constraint WHERE "
										  "conrelid = $1::oid AND contype IN ('u', 'x') AND condeferrable",
										  {oidText(relation)}))
		refuse(ERRCODE_FEATURE_NOT_SUPPORTED, name + " cannot be replicated",
			   "Its constraint " + *row[0] + " is DEFERRABLE, and could not be kept for changes of other regions.",
			   "ALTER TABLE " + name + " DROP CONSTRAINT " + *row[0] + "; and add it again as NOT DEFERRABLE.");
}

// Everything that must hold for a replicated table; throws Refused.
void check(Oid relation)
{
	std::string name = tableName(relation);
	checkKind(relation, name);
	checkMembers(relation, name);
	checkKey(relation, name);
	checkConstraints(relation, name);
}

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
		"(SELECT tgenabled FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'mrsync_truncate') "
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
		if (!commands.empty())
			run("ALTER TABLE " + member.name + " " + commands);
	}
}

std::string removeFirst(const std::string &table)
{
	return "Take it out of replication first: SELECT mrsync.table_remove('" + table + "');";
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

void tableSync(Oid root)
{
	std::vector<Member> members = membersOf(root);
	identitiesSync(members);
	triggersSync(root, members);
	triggersAlways(root);
}

bool isReplicated(Oid relation)
{
	return !spi::query("SELECT FROM mrsync.replicated_table WHERE relation = $1::oid", {oidText(relation)}).empty();
}

void tableAdd(Oid relation, const std::string &strategy)
{
	requireRegion();
	if (strategy != "last_writer_wins")
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "unknown strategy \"" + strategy + "\"")
			.hint("Use 'last_writer_wins'.");
	requireOwner(relation);
	checkKind(relation, tableName(relation)); // not every kind may be locked
	lockTree(relation);
	AsSuperuser rights;
	check(relation);
	if (isReplicated(relation))
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
	tableSync(relation);
	// Under the lock: whatever was written before has its stamp by now, and a lower one. The sample lets that be known also
	// of rows whose commit timestamps get lost.
	horizonSample(myRegion());
	spi::execute("INSERT INTO mrsync.replicated_table (relation, strategy, former_replica_identity, base_hlc) "
				 "VALUES ($1::oid, $2, $3::\"char\", mrsync.current_hlc())",
				 {oidText(relation), strategy, std::string(1, identity)});
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
		if (!member.truncateState.empty())
			run("DROP TRIGGER mrsync_truncate ON " + member.name);
	}
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
	if (!isReplicated(relation))
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

void requireEventTrigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		throw PgError(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function is an event trigger of mrsync's");
}

// Refuses the command at hand when it leaves a replicated table unfit.
void requireFit(Oid root)
{
	try
	{
		check(root);
	}
	catch (const Refused &refused)
	{
		std::string name = tableName(root);
		throw PgError(refused.sqlState(), "this would make it impossible to replicate " + name)
			.detail(refused.detail())
			.hint("Change it in a single ALTER TABLE that leaves the table fit for replication, or take it out first: "
				  "SELECT mrsync.table_remove('" +
				  name + "');");
	}
}

// After whatever makes or changes tables: a replicated table has to stay fit for it, its new partitions become so.
void ddlEnd()
{
	rewritesEnd();
	AsSuperuser rights;
	spi::Rows rows = spi::query(
		"SELECT DISTINCT t.relation::oid FROM pg_catalog.pg_event_trigger_ddl_commands() d "
		"JOIN mrsync.replicated_table t ON t.relation = d.objid "
		"OR t.relation IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(d.objid)) "
		"OR t.relation IN (SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = d.objid) "
		"WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass "
		"AND d.object_type IN ('table', 'foreign table')");
	for (const spi::Row &row : rows)
	{
		Oid root = toOid(row[0]);
		requireFit(root);
		tableSync(root);
	}
}

// A dropped table leaves replication by itself; its oid may be given to another one.
void droppedTablesForget()
{
	spi::Rows rows =
		spi::query("SELECT DISTINCT f.relation::oid FROM pg_catalog.pg_event_trigger_dropped_objects() d "
				   "JOIN mrsync.former_identity f ON f.relation = d.objid "
				   "WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0");
	for (const spi::Row &row : rows)
	{
		spi::execute("DELETE FROM mrsync.replicated_table WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.former_identity WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.tombstone WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.row_entry WHERE relation = $1::oid", {row[0]});
		spi::execute("DELETE FROM mrsync.base_marker WHERE relation = $1::oid", {row[0]});
	}
	if (!rows.empty())
		wakeAtCommit();
}

// A table can lose a column, its primary key or a trigger by a command that does not name it: DROP TYPE … CASCADE. What
// is written to it from then on could not be sent, and would stop everything behind it.
void sqlDrop()
{
	AsSuperuser rights;
	droppedTablesForget();
	spi::Rows rows = spi::query(
		"SELECT t.relation::oid, pg_catalog.min(pg_catalog.quote_ident(d.address_names[3])) "
		"FILTER (WHERE d.object_type = 'trigger') "
		"FROM pg_catalog.pg_event_trigger_dropped_objects() d "
		"CROSS JOIN LATERAL (SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', d.address_names[1], "
		" d.address_names[2]))) l (relation) "
		"CROSS JOIN LATERAL (SELECT l.relation UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(l.relation)) a "
		"JOIN mrsync.replicated_table t ON t.relation = a.relation "
		"WHERE d.object_type IN ('table column', 'table constraint') "
		"OR d.object_type = 'trigger' AND d.original AND pg_catalog.starts_with(d.address_names[3], 'mrsync_') "
		"GROUP BY t.relation");
	for (const spi::Row &row : rows)
	{
		Oid root = toOid(row[0]);
		requireFit(root);
		if (row[1])
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "trigger " + *row[1] + " must stay")
				.detail("It remembers what is deleted from " + tableName(root) + ", which is replicated by mrsync.")
				.hint(removeFirst(tableName(root)));
	}
	// Nothing hangs on a hash operator class, as the primary key does on that of its index: so every table is looked at.
	for (const spi::Row &row :
		 spi::query("SELECT t.relation::oid FROM mrsync.replicated_table t WHERE EXISTS (SELECT FROM "
					"pg_catalog.pg_event_trigger_dropped_objects() d WHERE d.object_type IN ('operator class', 'operator family')) "
					"ORDER BY t.relation"))
		requireFit(toOid(row[0]));
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

Datum mrsync_ddl_end(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireEventTrigger(fcinfo);
			ddlEnd();
		});
	return PointerGetDatum(nullptr);
}

Datum mrsync_sql_drop(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireEventTrigger(fcinfo);
			sqlDrop();
		});
	return PointerGetDatum(nullptr);
}
