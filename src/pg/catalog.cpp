#include "pg/catalog.h"

#include <cstdio>

extern "C"
{
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
}

namespace mrsync
{

Oid catalogRelation(const char *name)
{
	Oid schema = get_namespace_oid("mrsync", true);
	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

void slotName(Oid database, char (&name)[NAMEDATALEN]) { snprintf(name, sizeof name, "mrsync_%u", database); }

SlotState slotState(const char *name)
{
	SlotState state = SlotState::Missing;
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	if (ReplicationSlot *slot = SearchNamedReplicationSlot(name, false))
	{
		SpinLockAcquire(&slot->mutex);
		// in this order: one that is being made has no WAL reserved yet
		state = slot->active_pid != 0			   ? SlotState::InUse
				: version::isInvalidated(slot->data) ? SlotState::Invalidated
													   : SlotState::Free;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return state;
}

} // namespace mrsync
