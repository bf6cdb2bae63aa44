#include "pg/bounds.h"

#include <cstring>

extern "C"
{
#include "storage/shmem.h"
}

namespace mrsync
{

namespace
{

struct alignas(64) BoundShared
{
	std::atomic<int64_t> bound; // 0: none
	std::atomic<Oid> database;	// written before
};

BoundShared *bounds = nullptr; // by the number of the backend's PGPROC
BoundShared *mine = nullptr;   // of this process, whose database does not change; null before it has published
bool published = false;

} // namespace

Size boundsShmemSize() { return mul_size(sizeof(BoundShared), MaxBackends); }

void boundsShmemInit()
{
	bool found;
	bounds = static_cast<BoundShared *>(ShmemInitStruct("mrsync bounds", boundsShmemSize(), &found));
	if (!found)
		memset(static_cast<void *>(bounds), 0, boundsShmemSize());
}

void boundPublish(RegionShared *region)
{
	if (!mine)
	{
		mine = &bounds[version::procNumber()];
		mine->database.store(MyDatabaseId);
	}
	// Sequentially consistent, as all readings of the clock are: whoever reads the clock, and then finds no bound here, has
	// read it before we read it for our stamp.
	mine->bound.store(region->clock.load());
	published = true;
}

void boundClear()
{
	if (!published)
		return;
	mine->bound.store(0, std::memory_order_release);
	published = false;
}

std::optional<Hlc> boundsLowest(Oid database)
{
	std::optional<Hlc> lowest;
	for (int i = 0; i < MaxBackends; ++i)
	{
		// A place that has changed hands between the two readings had been cleared: read a moment later, it would have said so.
		int64_t bound = bounds[i].bound.load();
		if (bound == 0 || bounds[i].database.load() != database)
			continue;
		if (!lowest || bound < lowest->value)
			lowest = Hlc{bound};
	}
	return lowest;
}

} // namespace mrsync
