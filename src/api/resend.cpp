// mrsync.resend: what this region has of the replicated tables, sent again as it is: each row, and each deletion that is
// remembered, with the version that it has. Of rows that are merged the events that they were merged of come before.
//
// It is read in one snapshot and written into the WAL as messages that belong to no transaction, a part each; so neither
// memory nor the extractor's spool grows with the tables, and other transactions go on between the parts. The messages
// bear the region's own replication origin, which nobody else can give a message, and the extractor believes no others.
// When all is written, a row of mrsync.resend says so, and travels behind the parts: what it says it covers, it has.
// Relied on by: readers that stand at a gap (core/gap.h).
#include "api/api.h"

#include "core/codec.h"
#include "core/gap.h"
#include "core/mutant.h"
#include "core/resolver.h"
#include "pg/catalog.h"
#include "pg/fixed_settings.h"
#include "pg/history.h"
#include "pg/rowhistory.h"
#include "pg/rowversion.h"
#include "plugin/host.h"
#include "plugin/relation.h"

#include <algorithm>
#include <set>

extern "C"
{
#include "access/detoast.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xloginsert.h"
#include "catalog/pg_inherits.h"
#include "executor/tuptable.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(mrsync_resend);
}

namespace mrsync::api
{

namespace
{

constexpr size_t kPartBytes = 256 * 1024; // and then its last event
constexpr size_t kPartEvents = 500;
// What is larger cannot be one record of the WAL. A value's text may be twice its size, and more when it is escaped.
constexpr size_t kMostRow = 256 * 1024 * 1024;
constexpr size_t kMostEvent = 512 * 1024 * 1024;
constexpr uint64_t kMostWarnings = 10;

// Everything that has been committed at a position of the WAL is visible in a snapshot taken after this. Returns the
// position. Waits for those in the middle of their commit, not for others.
uint64_t waitForCommits()
{
	return pgCall(
		[]() -> uint64_t
		{
			XLogRecPtr position = GetXLogInsertRecPtr();
			// between the commit record and the commit log: moments
			int count;
			VirtualTransactionId *committing = GetVirtualXIDsDelayingChkpt(&count, DELAY_CHKPT_START);
			while (count > 0 && HaveVirtualXIDsDelayingChkpt(committing, count, DELAY_CHKPT_START))
			{
				CHECK_FOR_INTERRUPTS();
				pg_usleep(1000);
			}
			pfree(committing);
			// between the commit log and being seen: moments, or a synchronous standby's answer
			Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
			for (uint32 i = 0; i < snapshot->xcnt; ++i)
				if (TransactionIdDidCommit(snapshot->xip[i]))
					XactLockTableWait(snapshot->xip[i], nullptr, nullptr, XLTW_None);
			UnregisterSnapshot(snapshot);
			return position;
		});
}

// What is written into the WAL meanwhile bears the region's own origin.
class OwnOrigin
{
public:
	explicit OwnOrigin(RepOriginId origin) : former_(replorigin_session_origin) { replorigin_session_origin = origin; }
	~OwnOrigin() { replorigin_session_origin = former_; }
	OwnOrigin(const OwnOrigin &) = delete;
	OwnOrigin &operator=(const OwnOrigin &) = delete;

private:
	RepOriginId former_;
};

class Resend
{
public:
	Resend(RegionShared *region, Hlc from, uint64_t after) : region_(region), from_(from), after_(after), origin_(originOf(region, region->region))
	{
		if (origin_ == InvalidRepOriginId)
			throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the workers of this region have not started yet")
				.hint("SELECT * FROM mrsync.worker_status shows how they are; then call mrsync.resend() again.");
		id_ = *parseUuid(*spi::query("SELECT pg_catalog.gen_random_uuid()")[0][0]);
	}

	uint64_t run()
	{
		settingsLevel_ = pgCall(
			[&]
			{
				scratch_ = AllocSetContextCreate(CurrentMemoryContext, "mrsync resend", ALLOCSET_DEFAULT_SIZES);
				return fixedSettingsBegin();
			});
		// The tables are locked before the snapshot is taken. In an older one a table that was rewritten is empty.
		uint64_t covers;
		std::set<Oid> tables;
		do
		{
			if (snapshot_)
				pgCall([&] { UnregisterSnapshot(snapshot_); });
			uint64_t position = waitForCommits();
			covers = History::read().sequenceOf(position - 1);
			pgCall([&] { snapshot_ = RegisterSnapshot(GetLatestSnapshot()); });
			tables = replicatedTables();
		} while (lockMore(tables));
		std::string started = *spi::query("SELECT pg_catalog.clock_timestamp()")[0][0];
		// Rows first. A transaction may have deleted a row and written it again: then there are both, of one version.
		findPlaced();
		for (Oid table : locked_)
			rowsOf(table);
		if (!mutated("resend_no_aside"))
			rowsAside();
		flush();
		deletions(tables);
		flush();
		// What was told of them may be lost as well; of rules the coordinator sees to it (worker/rollout.cpp).
		spi::execute("INSERT INTO mrsync.conflict_untold SELECT conflict_id FROM mrsync.conflict_log WHERE hlc_b OPERATOR(mrsync.>) $1::mrsync.hlc", {toText(from_)});
		pgCall(
			[&]
			{
				UnregisterSnapshot(snapshot_);
				MemoryContextDelete(scratch_);
				fixedSettingsEnd(settingsLevel_);
			});
		spi::execute("INSERT INTO mrsync.resend (region_id, resend_id, from_hlc, after_sequence, covers, parts, rows, deletions, left_out, "
					 "started_at, finished_at) VALUES ($1, $2::uuid, $3::mrsync.hlc, $4::bigint, $5::bigint, $6::bigint, "
					 "$7::bigint, $8::bigint, $9::bigint, $10::timestamptz, pg_catalog.clock_timestamp())",
					 {std::string(region_->region), toText(id_), toText(from_), std::to_string(after_), std::to_string(covers), std::to_string(parts_),
					  std::to_string(rows_), std::to_string(deletions_), std::to_string(unknown_ + tooLarge_), started});
		if (unknown_ > 0)
			notice(WARNING, std::to_string(unknown_) + " rows and deletions were left out, because their versions are not known any more",
				   "They are older than everything whose version is known.",
				   "Where a region may miss such rows, write them again: UPDATE … SET id = id.");
		if (tooLarge_ > kMostWarnings)
			notice(WARNING, std::to_string(tooLarge_) + " rows in all were left out because they are too large");
		return rows_ + deletions_;
	}

private:
	// Whether something with this xmin is to be sent, and its version.
	bool isWanted(const RowVersion &found, Version &version)
	{
		if (found.mine)
			return false; // it is sent when this transaction commits
		version.hlc = found.hlc;
		version.region = found.region;
		if (found.hlc <= from_)
			return false;
		if (!version.region.empty() && !found.atMost)
			return true;
		++unknown_; // no more is known than that it is not newer
		return false;
	}

	// True: one of them, or of their partitions, was not locked before.
	bool lockMore(const std::set<Oid> &roots)
	{
		std::set<Oid> before = std::move(locked_);
		locked_.clear();
		for (Oid root : roots)
		{
			List *tree = pgCall(
				[&]() -> List *
				{
					Relation rel = try_relation_open(root, AccessShareLock);
					if (!rel)
						return NIL; // dropped since
					relation_close(rel, NoLock);
					return find_all_inheritors(root, AccessShareLock, nullptr);
				});
			ListCell *cell;
			foreach (cell, tree)
				locked_.insert(lfirst_oid(cell));
		}
		return !std::includes(before.begin(), before.end(), locked_.begin(), locked_.end());
	}

	void rowsOf(Oid table)
	{
		Relation rel = pgCall([&] { return table_open(table, NoLock); });
		if (rel->rd_rel->relkind != RELKIND_RELATION)
		{
			pgCall([&] { table_close(rel, NoLock); });
			return;
		}
		const DecodedRelation &described = relations_.find(rel);
		const bool keeps = pgCall([&] { return keepsHistory(rel); }) && !mutated("resend_no_history");
		TupleTableSlot *slot = nullptr;
		TableScanDesc scan = pgCall(
			[&]
			{
				slot = table_slot_create(rel, nullptr);
				return table_beginscan(rel, snapshot_, 0, nullptr);
			});
		TransactionId known = InvalidTransactionId; // rows of a transaction often stand side by side
		Version version;
		bool wanted = false;
		for (;;)
		{
			TransactionId xmin = pgCall(
				[&]() -> TransactionId
				{
					CHECK_FOR_INTERRUPTS();
					MemoryContextReset(scratch_);
					if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
						return InvalidTransactionId;
					bool isNull;
					return DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isNull));
				});
			if (!TransactionIdIsValid(xmin))
				break;
			if (mayHaveEntries(region_, xmin))
			{
				wanted = isWanted(versionOfSlot(rel, slot, xmin), version);
				known = InvalidTransactionId;
			}
			else if (xmin != known)
			{
				uint64_t unknown = unknown_;
				wanted = isWanted(versionOfXid(region_, xmin), version);
				known = unknown == unknown_ ? xmin : InvalidTransactionId; // each of its rows counts
			}
			if (wanted)
				row(rel, keeps, described, slot, version);
		}
		pgCall(
			[&]
			{
				table_endscan(scan);
				ExecDropSingleTupleTableSlot(slot);
				table_close(rel, NoLock);
			});
	}

	// Of a table that was rewritten since.
	RowVersion versionOfSlot(Relation rel, TupleTableSlot *slot, TransactionId xmin)
	{
		const KeyInfo &key = keyInfo(rel);
		Datum values[INDEX_MAX_KEYS];
		pgCall(
			[&]
			{
				for (int i = 0; i < key.count; ++i)
				{
					bool isNull;
					values[i] = slot_getattr(slot, key.columns[i].attnum, &isNull);
				}
			});
		return versionOfRow(region_, key, values, xmin);
	}

	// Of a row with a history: the events that it was merged of, as far as they are remembered, and what they were merged with; in the
	// order of their versions. Where one is of a version that is not known any more, the row alone has to do.
	void eventsOf(Relation rel, TupleTableSlot *slot, const std::string &table, const Image &pk)
	{
		const KeyInfo &key = keyInfo(rel);
		const std::string pkText = encodeImage(pk);
		List *entries = pgCall(
			[&, text = pkText.c_str()]
			{
				MemoryContext former = MemoryContextSwitchTo(scratch_);
				Datum values[INDEX_MAX_KEYS];
				bool isNull;
				for (int i = 0; i < key.count; ++i)
					values[i] = slot_getattr(slot, key.columns[i].attnum, &isNull);
				List *found = historyRead(HistoryKey{&key, values, keyHash(key, values), text}, snapshot_);
				MemoryContextSwitchTo(former);
				return found;
			});
		std::vector<ChangeEvent> events;
		Version base;
		ListCell *cell;
		foreach (cell, entries)
		{
			const auto &entry = *static_cast<HistoryEntry *>(lfirst(cell));
			Version version{entry.hlc, entry.region ? entry.region : ""};
			if (!entry.isBase)
			{
				RowVersion of = versionOfXid(region_, entry.xmin);
				version = Version{of.hlc, of.mine || of.atMost ? "" : of.region};
			}
			if (version.region.empty())
				return;
			ChangeEvent event;
			event.operation = !entry.after ? Operation::Delete : entry.before ? Operation::Update : Operation::Insert;
			event.table = table;
			event.region = version.region;
			event.hlc = version.hlc;
			event.pk = pk;
			event.before = imageOf(entry.before);
			event.after = imageOf(entry.after);
			event.tx.step = !entry.isBase;
			if (entry.isBase && version > base)
				base = version;
			events.push_back(std::move(event));
		}
		auto versionOf = [](const ChangeEvent &event) { return Version{event.hlc, event.region}; };
		// A base holds what is not above it. One that says that there was no row says nothing that the events do not.
		std::erase_if(events, [&](const ChangeEvent &event)
					  { return event.tx.step == 0 ? versionOf(event) < base || !event.after : versionOf(event) <= base; });
		std::stable_sort(events.begin(), events.end(), [&](const ChangeEvent &x, const ChangeEvent &y) { return versionOf(x) < versionOf(y); });
		uint32_t step = 0;
		Version last;
		for (ChangeEvent &event : events)
		{
			const Version version = versionOf(event);
			step = version == last ? step + 1 : 1;
			last = version;
			if (event.tx.step > 0)
				event.tx.step = step;
			if (!add(std::move(event), version))
				return; // the row is too large, too, or was
		}
	}

	std::optional<Image> imageOf(const char *json)
	{
		if (!json)
			return std::nullopt;
		auto image = decodeImage(json);
		if (auto *error = std::get_if<DecodeError>(&image))
			throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.row_history holds what is no row").detail(error->message);
		return std::get<Image>(std::move(image));
	}

	// All that is sent is as one snapshot saw it: a row that goes from a table to those held aside meanwhile, or back, must not
	// be missed in both. So tables of ours are read in that snapshot, too, and not by a query.
	template <typename Each> void scan(const char *table, Each &&each)
	{
		Relation rel = pgCall([&] { return table_open(catalogRelation(table), AccessShareLock); });
		TupleTableSlot *slot = nullptr;
		TableScanDesc scan = pgCall(
			[&]
			{
				slot = table_slot_create(rel, nullptr);
				return table_beginscan(rel, snapshot_, 0, nullptr);
			});
		auto next = [&]
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(scratch_);
			return table_scan_getnextslot(scan, ForwardScanDirection, slot);
		};
		while (pgCall(next))
			each(slot);
		pgCall(
			[&]
			{
				table_endscan(scan);
				ExecDropSingleTupleTableSlot(slot);
				table_close(rel, AccessShareLock);
			});
	}

	std::set<Oid> replicatedTables()
	{
		std::set<Oid> tables;
		scan("replicated_table",
			 [&](TupleTableSlot *slot)
			 {
				 bool isNull;
				 tables.insert(pgCall([&] { return DatumGetObjectId(slot_getattr(slot, 1, &isNull)); }));
			 });
		return tables;
	}

	struct AsideColumns // of mrsync.row_aside
	{
		Oid relation;
		const char *pk;
		const char *region;
		int64 hlc;
		const char *image;
		bool isPlaced;
	};
	template <typename Each> void eachAside(Each &&each)
	{
		scan("row_aside",
			 [&](TupleTableSlot *slot)
			 {
				 AsideColumns row = pgCall(
					 [&]
					 {
						 MemoryContext former = MemoryContextSwitchTo(scratch_);
						 bool isNull;
						 auto string = [&](AttrNumber column) { return TextDatumGetCString(slot_getattr(slot, column, &isNull)); };
						 AsideColumns found{DatumGetObjectId(slot_getattr(slot, 2, &isNull)), string(4), string(5), DatumGetInt64(slot_getattr(slot, 6, &isNull)),
											string(10), DatumGetBool(slot_getattr(slot, 11, &isNull))};
						 MemoryContextSwitchTo(former);
						 return found;
					 });
				 std::optional<std::string> name = nameOf(row.relation);
				 Version version{Hlc{row.hlc}, row.region};
				 auto key = decodeImage(row.pk);
				 if (!std::holds_alternative<Image>(key))
					 throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.row_aside holds a row that cannot be read");
				 if (name && version.hlc > from_)
					 each(row, *name, std::get<Image>(std::move(key)), version);
			 });
	}

	static std::string placedName(const std::string &table, const Image &pk, const Version &version)
	{
		return table + ' ' + encodeImage(pk) + ' ' + toText(version.hlc) + ' ' + version.region;
	}

	// Rows that are in their tables in another form than they were written in. That form is each region's own to make.
	void findPlaced()
	{
		eachAside(
			[&](const AsideColumns &row, const std::string &name, Image pk, const Version &version)
			{
				if (row.isPlaced)
					placed_.insert(placedName(name, pk, version));
			});
	}

	// They are in no table here as they were written, but are rows like others: where they come they find their place.
	void rowsAside()
	{
		eachAside(
			[&](const AsideColumns &row, const std::string &name, Image pk, const Version &version)
			{
				auto image = decodeImage(row.image);
				if (!std::holds_alternative<Image>(image))
					throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.row_aside holds a row that cannot be read");
				ChangeEvent event;
				event.operation = Operation::Insert;
				event.table = name;
				event.pk = std::move(pk);
				event.after = std::get<Image>(std::move(image));
				sent(name, version, add(std::move(event), version));
			});
	}

	// A row was added, or could not be.
	void sent(const std::string &table, const Version &version, bool isAdded)
	{
		if (isAdded)
			++rows_;
		else if (++tooLarge_ <= kMostWarnings)
			notice(WARNING, "a row of " + table + " is too large to be sent again",
				   "Its transaction is of region " + version.region + ", its stamp is " + toText(version.hlc) + ".",
				   "Write it again, so that it is sent as a change: UPDATE … SET id = id.");
	}

	void row(Relation rel, bool keeps, const DecodedRelation &table, TupleTableSlot *slot, const Version &version)
	{
		ChangeEvent event;
		event.operation = Operation::Insert;
		event.table = table.name;
		std::optional<Image> image = imageOf(table, slot);
		if (image)
		{
			event.pk = Image{};
			for (size_t i : table.key)
				event.pk->push_back((*image)[i]);
			event.after = std::move(image);
			if (!placed_.empty() && placed_.contains(placedName(table.name, *event.pk, version)) && !mutated("resend_made"))
				return;
			if (keeps)
				eventsOf(rel, slot, table.name, *event.pk);
		}
		sent(table.ownName, version, event.after && add(std::move(event), version));
	}

	// Nothing: it is too large.
	std::optional<Image> imageOf(const DecodedRelation &table, TupleTableSlot *slot)
	{
		const size_t count = table.columns.size();
		const char **texts = pgCall(
			[&]() -> const char **
			{
				MemoryContext former = MemoryContextSwitchTo(scratch_);
				slot_getallattrs(slot);
				size_t size = 0;
				for (const DecodedColumn &column : table.columns)
					if (column.isVarlena && !slot->tts_isnull[column.index])
						size += toast_raw_datum_size(slot->tts_values[column.index]);
				const char **values = nullptr;
				if (size <= kMostRow)
				{
					values = static_cast<const char **>(palloc0(sizeof(char *) * count));
					for (size_t i = 0; i < count; ++i)
						if (const DecodedColumn &column = table.columns[i]; !slot->tts_isnull[column.index])
							values[i] = OutputFunctionCall(const_cast<FmgrInfo *>(&column.output), slot->tts_values[column.index]);
				}
				MemoryContextSwitchTo(former);
				return values;
			});
		if (!texts)
			return std::nullopt;
		Image image(count);
		for (size_t i = 0; i < count; ++i)
		{
			image[i].name = table.columns[i].name;
			if (texts[i])
				image[i].value = texts[i];
		}
		return image;
	}

	// Of a relation's truncations the newest one stands for all.
	void deletions(const std::set<Oid> &tables)
	{
		std::map<Oid, std::string> names;
		for (Oid table : tables)
			names.emplace(table, nameOf(table).value_or(""));
		std::map<Oid, Version> truncations;
		struct Tombstone
		{
			TransactionId xmin;
			Oid relation;
			const char *pk; // null: a truncation
		};
		scan("tombstone",
			 [&](TupleTableSlot *slot)
			 {
				 Tombstone tombstone = pgCall(
					 [&]
					 {
						 MemoryContext former = MemoryContextSwitchTo(scratch_);
						 bool isNull;
						 Tombstone found;
						 found.xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isNull));
						 found.relation = DatumGetObjectId(slot_getattr(slot, 1, &isNull));
						 Datum pk = slot_getattr(slot, 3, &isNull);
						 found.pk = isNull ? nullptr : TextDatumGetCString(pk);
						 MemoryContextSwitchTo(former);
						 return found;
					 });
				 auto table = names.find(tombstone.relation);
				 Version version;
				 if ((tombstone.pk && table == names.end()) || !isWanted(versionOfXid(region_, tombstone.xmin), version))
					 return; // of a table that is not replicated any more
				 if (!tombstone.pk)
				 {
					 Version &newest = truncations[tombstone.relation];
					 newest = std::max(newest, version);
					 return;
				 }
				 ChangeEvent event;
				 event.operation = Operation::Delete;
				 event.table = table->second;
				 auto key = decodeImage(tombstone.pk);
				 if (auto *error = std::get_if<DecodeError>(&key))
					 throw PgError(ERRCODE_DATA_CORRUPTED, "mrsync.tombstone holds a key of " + event.table + " that cannot be read")
						 .detail(error->message);
				 event.pk = std::get<Image>(std::move(key));
				 add(std::move(event), version);
				 ++deletions_;
			 });
		for (const auto &[relation, version] : truncations)
			if (std::optional<std::string> name = nameOf(relation))
			{
				ChangeEvent event;
				event.operation = Operation::Truncate;
				event.table = *name;
				add(std::move(event), version);
				++deletions_;
			}
	}

	// As events name it; nothing: it is not replicated, or is no more.
	std::optional<std::string> nameOf(Oid table)
	{
		Relation rel = pgCall([&] { return try_relation_open(table, AccessShareLock); });
		if (!rel)
			return std::nullopt;
		const DecodedRelation &described = relations_.find(rel);
		std::optional<std::string> name;
		if (described.kind == DecodedRelation::Kind::Data)
			name = described.ownName;
		pgCall([&] { relation_close(rel, NoLock); });
		return name;
	}

	// False: it is too large.
	bool add(ChangeEvent &&event, const Version &version)
	{
		event.region = version.region;
		event.hlc = version.hlc;
		event.committedAt = GetCurrentTimestamp();
		event.tx.resent = ResentPart{id_, parts_ + 1};
		std::string json;
		encode(event, json);
		if (json.size() > kMostEvent)
			return false;
		if (!part_.empty())
			part_ += '\n';
		part_ += json;
		if (++events_ == kPartEvents || part_.size() >= kPartBytes)
			flush();
		return true;
	}

	void flush()
	{
		if (part_.empty())
			return;
		uint64_t end;
		{
			OwnOrigin own(origin_);
			end = pgCall([&] { return version::logMessage(kResendPrefix, part_.data(), part_.size()); });
		}
		++parts_;
		events_ = 0;
		part_.clear();
		// as at a commit
		uint64_t known = region_->lastCommitEnd.load();
		while (known < end && !region_->lastCommitEnd.compare_exchange_weak(known, end))
		{
		}
		workerWake(region_->extractorLatch);
	}

	RegionShared *region_;
	Hlc from_;
	uint64_t after_;
	RepOriginId origin_;
	Uuid id_;
	int settingsLevel_ = 0;
	Snapshot snapshot_ = nullptr;
	std::set<std::string> placed_;
	std::set<Oid> locked_; // the replicated tables and their partitions
	MemoryContext scratch_ = nullptr;
	RelationCache relations_;
	std::string part_; // being put together: an event a line
	size_t events_ = 0;
	uint64_t parts_ = 0;
	uint64_t rows_ = 0;
	uint64_t deletions_ = 0;
	uint64_t unknown_ = 0;
	uint64_t tooLarge_ = 0;
};

uint64_t resend(Hlc from, const std::optional<std::string> &region, uint64_t after)
{
	RegionShared *local = requireRegion();
	if (region && *region != local->region)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "this is region \"" + std::string(local->region) + "\", which cannot send again what \"" + *region + "\" has")
			.hint("Call mrsync.resend() in region \"" + *region + "\".");
	if (static_cast<int64_t>(after) < 0)
		throw PgError(ERRCODE_INVALID_PARAMETER_VALUE, "a sequence is not negative: " + std::to_string(static_cast<int64_t>(after)))
			.hint("Give the number that mrsync.recovery names, or leave it out.");
	char slot[NAMEDATALEN];
	slotName(MyDatabaseId, slot);
	const SlotState state = pgCall([&] { return slotState(slot); });
	if (state == SlotState::Missing || state == SlotState::Invalidated)
		throw PgError(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "what this region sends again would not be sent")
			.detail("Its replication slot \"" + std::string(slot) + (state == SlotState::Missing ? "\" does not exist." : "\" has been invalidated."))
			.hint("Call mrsync.slot_recreate() first.");
	AsSuperuser rights;
	if (spi::query("SELECT pg_catalog.pg_try_advisory_xact_lock(1836217209, 2)")[0][0] != "t")
		throw PgError(ERRCODE_OBJECT_IN_USE, "another session is sending again what this region has")
			.hint("Wait until it has finished: SELECT * FROM mrsync.resend.");
	return Resend(local, from, after).run();
}

} // namespace
} // namespace mrsync::api

using namespace mrsync;
using namespace mrsync::api;

Datum mrsync_resend(PG_FUNCTION_ARGS)
{
	return enter(
		[&]
		{
			Hlc from{PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0)};
			return Int64GetDatum(static_cast<int64>(resend(from, optionalTextArgument(fcinfo, 1), PG_ARGISNULL(2) ? 0 : static_cast<uint64_t>(PG_GETARG_INT64(2)))));
		});
}
