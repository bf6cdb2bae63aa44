// Acts as a table's owner, whose code may set what it likes until the end (its search_path must not become ours) (I9).
// Nothing in here can fail; an abort in between puts the superuser and the settings back by itself.
#pragma once

#include "core/mutant.h"
#include "pg/server.h"

namespace mrsync
{

class AsOwner
{
public:
	explicit AsOwner(Oid owner) : settings_(NewGUCNestLevel())
	{
		GetUserIdAndSecContext(&user_, &context_);
		if (mutated("as_superuser"))
			return;
		SetUserIdAndSecContext(owner, context_ | SECURITY_RESTRICTED_OPERATION | SECURITY_LOCAL_USERID_CHANGE);
	}
	~AsOwner()
	{
		AtEOXact_GUC(false, settings_);
		SetUserIdAndSecContext(user_, context_);
	}
	AsOwner(const AsOwner &) = delete;
	AsOwner &operator=(const AsOwner &) = delete;

private:
	int settings_;
	Oid user_;
	int context_;
};

} // namespace mrsync
