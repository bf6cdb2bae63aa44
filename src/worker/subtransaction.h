// Something that may fail without the transaction failing.
#pragma once

#include "pg/guard.h"

#include <optional>

extern "C"
{
#include "utils/resowner.h"
}

namespace mrsync
{

// Runs f in a subtransaction. What it throws as a PgError is returned, once that is rolled back.
template <typename F> std::optional<PgError> inSubtransaction(F &&f)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	pgCall([] { BeginInternalSubTransaction(nullptr); });
	MemoryContextSwitchTo(context);
	std::optional<PgError> failure;
	try
	{
		f();
	}
	catch (const PgError &error)
	{
		failure = error;
	}
	pgCall(
		[&]
		{
			if (failure)
				RollbackAndReleaseCurrentSubTransaction();
			else
				ReleaseCurrentSubTransaction();
		});
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return failure;
}

} // namespace mrsync
