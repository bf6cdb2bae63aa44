// The output plugin "mrsync": committed WAL -> ChangeEvents.
//
// Everything that it says of a transaction is a pure function of the WAL, so that decoding again yields the same
// events: the stamp (commit timestamp, or the override found by xid), the ids, the sequence, the images. `seen` is kept
// from the commit records of our own appliers, which carry the source's sequence as origin LSN and the source's stamp as
// origin timestamp; their changes are never decoded.
// Relied on by: dedup at the receivers (I2), complete images (I6), conflict detection.
#include "core/codec.h"
#include "core/mutant.h"

#include "pg/clock.h"
#include "pg/fixed_settings.h"
#include "pg/guard.h"
#include "pg/history.h"
#include "pg/override.h"
#include "plugin/host.h"
#include "plugin/relation.h"

#include <cstring>

extern "C"
{
#include "replication/logical.h"
#include "replication/output_plugin.h"
}

namespace mrsync
{

namespace
{

PluginHost *nextHost = nullptr;

// Without an extractor: a line of text each.
class TextHost : public PluginHost
{
public:
	explicit TextHost(LogicalDecodingContext *context) : context_(context) {}

	void event(AckLedger::Topic topic, std::string &&json, uint64_t) override
	{
		if (topic == AckLedger::Control)
			return; // heartbeats and acknowledgements concern the regions only
		pgCall(
			[&]
			{
				OutputPluginPrepareWrite(context_, true);
				appendBinaryStringInfo(context_->out, json.data(), static_cast<int>(json.size()));
				OutputPluginWrite(context_, true);
			});
	}

private:
	LogicalDecodingContext *context_;
};

// For changes that came past the event triggers which guard replicated tables.
constexpr const char *kRepairFirst = "Take the table out by mrsync.table_remove and make it fit for mrsync.table_add, so "
									 "that no more such changes come. ";

std::string lsnText(XLogRecPtr lsn)
{
	char text[32];
	snprintf(text, sizeof text, "%X/%X", static_cast<unsigned>(lsn >> 32), static_cast<unsigned>(lsn));
	return text;
}

class Plugin
{
public:
	// While the slot is being made nothing is decoded, and nothing may be read.
	Plugin(LogicalDecodingContext *context, PluginHost *host, bool isInit)
		: region_(myRegion()), history_(isInit ? History() : History::read())
	{
		if (host)
			host_ = host;
		else
		{
			text_ = std::make_unique<TextHost>(context);
			host_ = text_.get();
		}
		acknowledged_ = host_->sequence;
		scratch_ = pgCall(
			[&] { return AllocSetContextCreate(context->context, "mrsync change", ALLOCSET_DEFAULT_SIZES); });
	}

	bool inTransactionBlock = false; // settings were set for the duration of a nest level
	int settingsLevel = 0;

	void begin(ReorderBufferTXN *txn)
	{
		transaction_ = ChangeEvent{};
		transaction_.tx.commitLsn = txn->final_lsn;
		end_ = txn->end_lsn;
		transaction_.tx.sequence = history_.sequenceOf(txn->final_lsn);
		transaction_.tx.xid = U64FromFullTransactionId(fullXid(txn->xid));
		transaction_.tx.incarnation = host_->incarnation;
		transaction_.tx.previous = host_->sequence;
		transaction_.committedAt = txn->xact_time.commit_time;
		transaction_.hlc = Hlc{txn->xact_time.commit_time};
		if (region_)
		{
			transaction_.region = region_->region;
			std::optional<Hlc> late = lateStampOf(region_, txn->xid, transaction_.hlc);
			if (late)
				host_->lateStamp(txn->xid, transaction_.hlc);
			if (std::optional<Hlc> hlc = late ? late : overrideOf(region_, txn->xid, SnapshotAny))
				transaction_.hlc = *hlc;
		}
		index_ = 0;
		for (Stream &stream : streams_)
			stream = Stream{};
	}

	void change(Relation relation, ReorderBufferChange *change)
	{
		if (!emits())
			return;
		const DecodedRelation &decoded = relations_.find(relation);
		if (decoded.kind == DecodedRelation::Kind::Ignored)
			return;
		if (decoded.kind == DecodedRelation::Kind::Data && decoded.key.empty())
			throw unsendable(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
							 "a change of " + decoded.ownName + " was made while the table had no primary key", kRepairFirst);
		MemoryContextReset(scratch_);
		HeapTuple oldTuple = version::tupleOf(change->data.tp.oldtuple);
		HeapTuple newTuple = version::tupleOf(change->data.tp.newtuple);
		bool data = decoded.kind == DecodedRelation::Kind::Data;
		if (data && change->action != REORDER_BUFFER_CHANGE_INSERT && !oldTuple)
			throw unsendable(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
							 "a change of " + decoded.ownName + " was made while its REPLICA IDENTITY was not FULL",
							 kRepairFirst);
		std::optional<Image> before = image(decoded, relation, oldTuple, nullptr);
		std::optional<Image> after = image(decoded, relation, newTuple, oldTuple);
		if (!data)
		{
			// rows of other regions are here because we received them
			if (!after || (*after)[0].value != transaction_.region)
				return;
			Image pk = key(decoded, *after);
			if (decoded.kind == DecodedRelation::Kind::Control)
				emit(AckLedger::Control, decoded.name, Operation::Update, std::move(pk), std::nullopt, std::move(after));
			else if (change->action == REORDER_BUFFER_CHANGE_INSERT)
				emit(AckLedger::Data, decoded.name, Operation::Insert, std::move(pk), std::nullopt, std::move(after));
			return;
		}
		switch (change->action)
		{
		case REORDER_BUFFER_CHANGE_INSERT:
		{
			Image pk = key(decoded, *after);
			emit(AckLedger::Data, decoded.name, Operation::Insert, std::move(pk), std::nullopt, std::move(after));
			break;
		}
		case REORDER_BUFFER_CHANGE_UPDATE:
		{
			Image oldKey = key(decoded, *before);
			Image newKey = key(decoded, *after);
			if (oldKey == newKey)
			{
				emit(AckLedger::Data, decoded.name, Operation::Update, std::move(newKey), std::move(before),
					 std::move(after));
				break;
			}
			emit(AckLedger::Data, decoded.name, Operation::Delete, std::move(oldKey), std::move(before), std::nullopt);
			emit(AckLedger::Data, decoded.name, Operation::Insert, std::move(newKey), std::nullopt, std::move(after));
			break;
		}
		case REORDER_BUFFER_CHANGE_DELETE:
		{
			Image pk = key(decoded, *before);
			emit(AckLedger::Data, decoded.name, Operation::Delete, std::move(pk), std::move(before), std::nullopt);
			break;
		}
		default:
			throw unsendable(ERRCODE_INTERNAL_ERROR, "the WAL holds an unknown kind of change of " + decoded.ownName);
		}
	}

	void truncate(int count, Relation relations[])
	{
		if (!emits())
			return;
		for (int i = 0; i < count; ++i)
		{
			const DecodedRelation &decoded = relations_.find(relations[i]);
			if (decoded.kind != DecodedRelation::Kind::Data)
				continue;
			// a truncated table lists its partitions too; a partition truncated by itself is named itself
			bool rootListed = false;
			for (int j = 0; j < count; ++j)
				rootListed |= RelationGetRelid(relations[j]) == decoded.root && j != i;
			if (!rootListed)
				emit(AckLedger::Data, decoded.ownName, Operation::Truncate, std::nullopt, std::nullopt, std::nullopt);
		}
	}

	void commit()
	{
		for (AckLedger::Topic topic : {AckLedger::Data, AckLedger::Control})
		{
			Stream &stream = streams_[topic];
			if (stream.position == 0)
				continue;
			markLast(stream.pending);
			if (topic == AckLedger::Data)
			{
				host_->sequence = transaction_.tx.sequence;
				host_->hlc = transaction_.hlc;
				host_->committedAt = transaction_.committedAt;
			}
			host_->event(topic, std::move(stream.pending), transaction_.tx.sequence);
			stream = Stream{};
		}
		MemoryContextReset(scratch_); // a row may be hundreds of megabytes
	}

	bool filter(LogicalDecodingContext *context, RepOriginId origin)
	{
		const char *peer = region_ ? originRegion(region_, origin) : nullptr;
		if (!peer)
			return false;
		XLogReaderState *reader = context->reader;
		bool own = strcmp(peer, region_->region) == 0;
		if (XLogRecGetRmid(reader) == RM_LOGICALMSG_ID)
			return !own;
		if (XLogRecGetRmid(reader) == RM_XACT_ID && !own)
		{
			uint8 info = XLogRecGetInfo(reader) & XLOG_XACT_OPMASK;
			if (info == XLOG_XACT_COMMIT || info == XLOG_XACT_COMMIT_PREPARED)
			{
				xl_xact_parsed_commit parsed;
				ParseCommitRecord(XLogRecGetInfo(reader), reinterpret_cast<xl_xact_commit *>(XLogRecGetData(reader)),
								  &parsed);
				SeenEntry &entry = host_->seen[peer];
				entry.sequence = std::max(entry.sequence, static_cast<uint64_t>(parsed.origin_lsn));
				if (parsed.origin_lsn != InvalidXLogRecPtr) // a parked event tried again says nothing of its region's head
					entry.hlc = std::max(entry.hlc, Hlc{parsed.origin_timestamp});
			}
		}
		return true;
	}

	// A part of a resend: a line each of an event, but for what is only known here. It is a transaction of its own, whose
	// place is that of the message in the WAL. Whoever may send messages cannot give them the region's own origin.
	void message(XLogReaderState *reader, std::string_view lines)
	{
		if (!region_ || XLogRecGetOrigin(reader) != originOf(region_, region_->region))
			return;
		uint64_t lsn = reader->ReadRecPtr;
		Envelope tx;
		tx.commitLsn = lsn;
		tx.sequence = history_.sequenceOf(lsn);
		tx.incarnation = host_->incarnation;
		tx.previous = host_->sequence;
		if (tx.sequence <= acknowledged_)
			return;
		while (!lines.empty())
		{
			size_t end = lines.find('\n');
			auto decoded = decode(lines.substr(0, end));
			lines.remove_prefix(end == lines.npos ? lines.size() : end + 1);
			if (auto *error = std::get_if<DecodeError>(&decoded))
				throw PgError(ERRCODE_DATA_CORRUPTED, "a message of mrsync.resend at WAL position " + lsnText(lsn) +
														  " cannot be read: " + error->message);
			ChangeEvent &event = std::get<ChangeEvent>(decoded);
			tx.resent = event.tx.resent;
			tx.step = event.tx.step;
			tx.last = lines.empty();
			tx.seen.reset();
			if (tx.position == 1)
				tx.seen = host_->seen;
			event.tx = tx;
			event.id = eventId(Hlc{event.committedAt}, region_->region, lsn, tx.position - 1);
			std::string json;
			encode(event, json);
			if (tx.last)
			{
				host_->sequence = tx.sequence;
				host_->committedAt = event.committedAt;
			}
			host_->event(AckLedger::Data, std::move(json), tx.sequence);
			++tx.position;
		}
	}

private:
	struct Stream // of one topic, within a transaction
	{
		uint32_t position = 0;
		std::string pending; // the newest event: the next one, or the end of the transaction, settles its `last`
	};

	// Not a region, or acknowledged before: nothing to say.
	bool emits() const { return region_ && transaction_.tx.sequence > acknowledged_; }

	// An error that comes back at every attempt, whatever is done to the table by now: the WAL is as it is. What stands
	// behind it waits, so it says the way past it.
	PgError unsendable(int sqlState, const std::string &message, const char *advice = "") const
	{
		std::string slot = NameStr(MyReplicationSlot->data.name);
		return PgError(sqlState, message)
			.detail("Transaction " + std::to_string(transaction_.tx.xid) + " ends at WAL position " + lsnText(end_) + ".")
			.hint(std::string(advice) + "The way on is to give up sending this transaction: SELECT "
				  "pg_replication_slot_advance('" + slot + "', '" + lsnText(end_) + "'); again if the slot is active. The links then stop "
				  "there until SELECT mrsync.resend() has sent what its rows are like by now.");
	}

	Image key(const DecodedRelation &decoded, const Image &row) const
	{
		Image key;
		key.reserve(decoded.key.size());
		for (size_t i : decoded.key)
			key.push_back(row[i]);
		return key;
	}

	// A tuple as text. unchanged: where the values that the WAL left out (TOAST) are found.
	std::optional<Image> image(const DecodedRelation &decoded, Relation relation, HeapTuple tuple, HeapTuple unchanged)
	{
		if (!tuple)
			return std::nullopt;
		size_t count = decoded.columns.size();
		const char **texts = nullptr;
		const char *missing = nullptr;
		writing_ = nullptr;
		try
		{
			pgCall(
				[&]
				{
					MemoryContext former = MemoryContextSwitchTo(scratch_);
					TupleDesc desc = RelationGetDescr(relation);
					auto *values = static_cast<Datum *>(palloc(sizeof(Datum) * desc->natts * 2));
					auto *nulls = static_cast<bool *>(palloc(desc->natts * 2));
					Datum *oldValues = nullptr;
					heap_deform_tuple(tuple, desc, values, nulls);
					texts = static_cast<const char **>(palloc0(sizeof(char *) * count));
					for (size_t i = 0; i < count; ++i)
					{
						const DecodedColumn &column = decoded.columns[i];
						if (nulls[column.index])
							continue;
						Datum value = values[column.index];
						if (column.isVarlena && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(value)))
						{
							if (mutated("partial_images"))
								continue;
							if (unchanged && !oldValues)
							{
								oldValues = values + desc->natts;
								heap_deform_tuple(unchanged, desc, oldValues, nulls + desc->natts);
							}
							if (!oldValues || VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(oldValues[column.index])))
							{
								missing = column.name.c_str();
								break;
							}
							value = oldValues[column.index];
						}
						writing_ = &column;
						texts[i] = OutputFunctionCall(const_cast<FmgrInfo *>(&column.output), value);
					}
					MemoryContextSwitchTo(former);
				});
		}
		catch (const PgError &error)
		{
			// Such as a text of more than 1 GB. Nothing of this region is sent before it is dealt with: say which it is.
			if (!writing_)
				throw;
			throw unsendable(error.sqlState(),
							 "a value of column " + writing_->name + " of " + decoded.ownName +
								 " cannot be sent: " + error.message(),
							 "A value's text must be below 1 GB; of bytea each byte takes two. ");
		}
		if (missing)
			throw unsendable(ERRCODE_INTERNAL_ERROR, "the WAL does not hold the value of column " + std::string(missing) +
														 " of " + decoded.ownName);
		Image result(count);
		for (size_t i = 0; i < count; ++i)
		{
			result[i].name = decoded.columns[i].name;
			if (texts[i])
				result[i].value = texts[i];
		}
		return result;
	}

	void emit(AckLedger::Topic topic, const std::string &table, Operation operation, std::optional<Image> pk,
			  std::optional<Image> before, std::optional<Image> after)
	{
		Stream &stream = streams_[topic];
		if (stream.position > 0)
			host_->event(topic, std::move(stream.pending), transaction_.tx.sequence);
		stream.pending.clear();
		++stream.position;
		ChangeEvent &event = transaction_;
		event.id = eventId(event.hlc, event.region, event.tx.commitLsn, index_++);
		event.table = table;
		event.operation = operation;
		event.pk = std::move(pk);
		event.before = std::move(before);
		event.after = std::move(after);
		event.tx.position = stream.position;
		if (stream.position == 1)
			event.tx.seen = host_->seen;
		else
			event.tx.seen.reset();
		encode(event, stream.pending);
		event.pk.reset();
		event.before.reset();
		event.after.reset();
	}

	RegionShared *region_;
	History history_;
	std::unique_ptr<TextHost> text_;
	PluginHost *host_;
	uint64_t acknowledged_;
	MemoryContext scratch_;
	RelationCache relations_;
	ChangeEvent transaction_; // the event being made; what it says of its transaction stays
	XLogRecPtr end_ = InvalidXLogRecPtr; // of its WAL
	const DecodedColumn *writing_ = nullptr;
	uint64_t index_ = 0;
	std::array<Stream, 2> streams_;
};

Plugin *pluginOf(LogicalDecodingContext *context) { return static_cast<Plugin *>(context->output_plugin_private); }

void startup(LogicalDecodingContext *context, OutputPluginOptions *options, bool isInit)
{
	enter(
		[&]
		{
			shmemRequire(); // nothing would be known of the region, and its events pass by silently
			options->output_type = OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
			options->receive_rewrites = false;
			ListCell *cell;
			foreach (cell, context->output_plugin_options)
			{
				auto *option = static_cast<DefElem *>(lfirst(cell));
				throw PgError(ERRCODE_INVALID_PARAMETER_VALUE,
							  std::string("output plugin mrsync has no option \"") + option->defname + "\"");
			}
			auto plugin = std::make_unique<Plugin>(context, nextHost, isInit);
			plugin->inTransactionBlock = IsTransactionState() && !nextHost;
			if (plugin->inTransactionBlock)
				plugin->settingsLevel = pgCall([] { return fixedSettingsBegin(); });
			else
				pgCall([] { fixedSettingsForWorker(); });
			pgCall(
				[&]
				{
					auto *callback = static_cast<MemoryContextCallback *>(
						MemoryContextAlloc(context->context, sizeof(MemoryContextCallback)));
					callback->func = [](void *arg) { delete static_cast<Plugin *>(arg); };
					callback->arg = plugin.get();
					MemoryContextRegisterResetCallback(context->context, callback);
				});
			context->output_plugin_private = plugin.release();
		});
}

void shutdown(LogicalDecodingContext *context)
{
	enter(
		[&]
		{
			if (pluginOf(context) && pluginOf(context)->inTransactionBlock)
				pgCall([&] { fixedSettingsEnd(pluginOf(context)->settingsLevel); });
		});
}

void begin(LogicalDecodingContext *context, ReorderBufferTXN *txn)
{
	enter([&] { pluginOf(context)->begin(txn); });
}

void change(LogicalDecodingContext *context, ReorderBufferTXN *, Relation relation, ReorderBufferChange *change)
{
	enter([&] { pluginOf(context)->change(relation, change); });
}

void truncate(LogicalDecodingContext *context, ReorderBufferTXN *, int count, Relation relations[],
			  ReorderBufferChange *)
{
	enter([&] { pluginOf(context)->truncate(count, relations); });
}

void commit(LogicalDecodingContext *context, ReorderBufferTXN *, XLogRecPtr)
{
	enter([&] { pluginOf(context)->commit(); });
}

void message(LogicalDecodingContext *context, ReorderBufferTXN *, XLogRecPtr, bool transactional, const char *prefix,
			 Size size, const char *bytes)
{
	if (!transactional && strcmp(prefix, kResendPrefix) == 0)
		enter([&] { pluginOf(context)->message(context->reader, std::string_view(bytes, size)); });
}

bool filterByOrigin(LogicalDecodingContext *context, RepOriginId origin)
{
	return enter([&] { return pluginOf(context)->filter(context, origin); });
}

} // namespace

void pluginHostSet(PluginHost *host) { nextHost = host; }

} // namespace mrsync

extern "C" PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *callbacks)
{
	callbacks->startup_cb = mrsync::startup;
	callbacks->shutdown_cb = mrsync::shutdown;
	callbacks->begin_cb = mrsync::begin;
	callbacks->change_cb = mrsync::change;
	callbacks->truncate_cb = mrsync::truncate;
	callbacks->commit_cb = mrsync::commit;
	callbacks->message_cb = mrsync::message;
	callbacks->filter_by_origin_cb = mrsync::filterByOrigin;
}
