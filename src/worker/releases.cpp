#include "worker/releases.h"

#include "pg/clock.h"
#include "pg/guc.h"
#include "worker/parking.h"

namespace mrsync
{

namespace
{

constexpr long kRetryMs = 10;
constexpr int kMostReleases = 100; // between what comes from the topic
constexpr int64_t kLook = USECS_PER_SEC;

} // namespace

long Releases::run()
{
	int64_t now = steadyNow();
	if (now < at_)
		return (at_ - now) / 1000 + 1;
	for (int i = 0; i < kMostReleases; ++i)
	{
		std::optional<AsideDue> due = inTransaction([] { return asideDue(); });
		if (!due)
		{
			if (look(now))
				continue;
			at_ = now + kLook;
			return 1000;
		}
		try
		{
			replay_.begin();
			replay_.as(due->version.region);
			if (replay_.apply().release(due->id))
				replay_.commit(InvalidXLogRecPtr, due->version.hlc);
			else
				replay_.abort();
		}
		catch (const PgError &error)
		{
			replay_.abort();
			if (isRetryable(error))
				return kRetryMs;
			inTransaction([&] { asideFailed(due->id, error, isTaken(error) ? 1 : guc::applyErrorRetrySeconds); });
		}
	}
	return 0;
}

bool Releases::look(int64_t now)
{
	int64_t last = worker_.region->asideLookedAt.load();
	if (now - last < kLook || !worker_.region->asideLookedAt.compare_exchange_strong(last, now))
		return false;
	bool some = false;
	std::vector<AsideWaiting> waiting = inTransaction([&] { return asideWaiting(lookedUpTo_); });
	for (const AsideWaiting &row : waiting)
	{
		bool isDue = row.deleted;
		try
		{
			replay_.sweep();
			isDue = isDue || inTransaction([&] { return replay_.apply().isReleasable(row.id); });
		}
		catch (const PgError &error)
		{
			isDue = !isRetryable(error); // the attempt says what is wrong
		}
		if (isDue)
			inTransaction([&] { asideIsDue(row.id); });
		some |= isDue;
	}
	lookedUpTo_ = waiting.size() < kAsideLooks ? "0" : waiting.back().id;
	return some;
}

} // namespace mrsync
