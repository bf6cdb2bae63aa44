// link_create, link_pause, link_resume, link_remove: one directed link each.
//
// A link acts at its target, whose applier reads the source's topic; the source knows it too, since wait_for_peers and
// the lag of the source hang on it. So a link is created in both regions, and paused, resumed at its target.
#include "api/api.h"

#include "core/ids.h"

extern "C"
{
PG_FUNCTION_INFO_V1(mrsync_link_create);
PG_FUNCTION_INFO_V1(mrsync_link_pause);
PG_FUNCTION_INFO_V1(mrsync_link_resume);
PG_FUNCTION_INFO_V1(mrsync_link_remove);
}

namespace mrsync::api
{

namespace
{

void requireRegionKnown(const std::string &region)
{
	if (spi::query("SELECT FROM mrsync.region WHERE region_id = $1", {region}).empty())
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "region \"" + region + "\" is not known here")
			.hint("Call mrsync.region_connect('" + region + "') first; SELECT * FROM mrsync.region lists the known ones.");
}

std::string linkCreate(const std::string &source, const std::string &target)
{
	RegionShared *local = requireRegion();
	std::string here = local->region;
	if (source == target)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "a region cannot be linked to itself")
			.detail("Source and target are both \"" + source + "\".")
			.hint("Give two different regions.");
	requireRegionKnown(source);
	requireRegionKnown(target);
	if (source != here && target != here)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE,
					  "this is region \"" + here + "\", which is no end of a link from \"" + source + "\" to \"" + target +
						  "\"")
			.hint("Call mrsync.link_create in both \"" + source + "\" and \"" + target + "\".");
	std::string id = toText(linkId(local->group, source, target));
	AsSuperuser rights;
	if (spi::execute("INSERT INTO mrsync.replication_link (link_id, source_region, target_region) "
					 "VALUES ($1::uuid, $2, $3) ON CONFLICT DO NOTHING",
					 {id, source, target}) == 0)
		throw PgError(ERRCODE_DUPLICATE_OBJECT,
					  "a link from \"" + source + "\" to \"" + target + "\" exists already")
			.detail("Its link_id is " + id + ".")
			.hint("SELECT * FROM mrsync.link_status shows its state; mrsync.link_resume() continues a paused one.");
	wakeAtCommit();
	return id;
}

struct Link
{
	std::string id;
	std::string source;
	std::string target;
	std::string status;
	std::string described; // from "a" to "b"
	bool incoming;
};

Link linkFind(const RegionShared *local, const std::string &id)
{
	spi::Rows rows = spi::query("SELECT source_region, target_region, status FROM mrsync.replication_link "
								"WHERE link_id = $1::uuid FOR UPDATE",
								{id});
	if (rows.empty())
		throw PgError(ERRCODE_UNDEFINED_OBJECT, "link " + id + " is not known here")
			.hint("SELECT link_id, source_region, target_region FROM mrsync.replication_link lists the known ones.");
	Link link{id, *rows[0][0], *rows[0][1], *rows[0][2], "", false};
	link.described = "from \"" + link.source + "\" to \"" + link.target + "\"";
	link.incoming = link.target == local->region;
	return link;
}

void requireIncoming(const RegionShared *local, const Link &link, const char *function)
{
	if (!link.incoming)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE,
					  "the link " + link.described + " cannot be changed in region \"" + local->region + "\"")
			.detail("A link acts at its target.")
			.hint("Call mrsync." + std::string(function) + "('" + link.id + "') in region \"" + link.target + "\".");
}

void setStatus(const Link &link, const char *status)
{
	spi::execute("UPDATE mrsync.replication_link SET status = $2, updated_at = pg_catalog.clock_timestamp() "
				 "WHERE link_id = $1::uuid",
				 {link.id, status});
	wakeAtCommit();
}

void linkPause(const std::string &id)
{
	RegionShared *local = requireRegion();
	AsSuperuser rights;
	Link link = linkFind(local, id);
	requireIncoming(local, link, "link_pause");
	if (link.status == "paused")
		notice(NOTICE, "the link " + link.described + " is paused already");
	else
		setStatus(link, "paused");
}

void linkResume(const std::string &id)
{
	RegionShared *local = requireRegion();
	AsSuperuser rights;
	Link link = linkFind(local, id);
	requireIncoming(local, link, "link_resume");
	if (link.status == "active")
		notice(NOTICE, "the link " + link.described + " is active already");
	else
		setStatus(link, "active");
}

bool applierRuns(RegionShared *local, const std::string &source)
{
	for (const WorkerShared &worker : local->workers)
		if (worker.kind == WorkerKind::Applier && source == worker.peer && worker.pid != 0)
			return true;
	return false;
}

void linkRemove(const std::string &id, bool reset)
{
	RegionShared *local = requireRegion();
	AsSuperuser rights;
	Link link = linkFind(local, id);
	if (reset)
	{
		requireIncoming(local, link, "link_remove");
		if (link.status != "paused" || applierRuns(local, link.source))
			throw PgError(ERRCODE_OBJECT_IN_USE, "the link " + link.described + " is still being read")
				.detail("Its position can be forgotten only when nothing moves it on.")
				.hint("Call mrsync.link_pause('" + link.id +
					  "') first and wait until mrsync.worker_status shows no applier for \"" + link.source + "\".");
		spi::execute("DELETE FROM mrsync.link_position WHERE source_region = $1", {link.source});
	}
	spi::execute("DELETE FROM mrsync.replication_link WHERE link_id = $1::uuid", {link.id});
	if (!link.incoming)
		notice(NOTICE, "region \"" + link.target + "\" goes on reading until the link is removed there, too",
			   "Here, only the knowledge of the link is gone: nothing waits for that region any more.",
			   "Call mrsync.link_remove('" + link.id + "') in region \"" + link.target + "\".");
	wakeAtCommit();
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_link_create(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			std::string id =
				linkCreate(textArgument(fcinfo, 0, "source_region"), textArgument(fcinfo, 1, "target_region"));
			const Uuid uuid = *parseUuid(id);
			return pgCall(
				[&]
				{
					auto *result = static_cast<uint8_t *>(palloc(sizeof uuid.bytes));
					memcpy(result, uuid.bytes.data(), sizeof uuid.bytes);
					return PointerGetDatum(result);
				});
		});
}

Datum mrsync_link_pause(PG_FUNCTION_ARGS)
{
	enter([&] { linkPause(uuidArgument(fcinfo, 0, "link_id")); });
	return Datum(0);
}

Datum mrsync_link_resume(PG_FUNCTION_ARGS)
{
	enter([&] { linkResume(uuidArgument(fcinfo, 0, "link_id")); });
	return Datum(0);
}

Datum mrsync_link_remove(PG_FUNCTION_ARGS)
{
	enter(
		[&]
		{
			requireArgument(fcinfo, 1, "reset");
			linkRemove(uuidArgument(fcinfo, 0, "link_id"), PG_GETARG_BOOL(1));
		});
	return Datum(0);
}
