#include "pg/guard.h"

#include <cstring>
#include <new>

namespace mrsync
{

namespace
{

std::string textOf(const char *text) { return text ? std::string(text) : std::string(); }

template <size_t N> void copyTo(char (&to)[N], const std::string &from) noexcept
{
	size_t length = from.size() < N - 1 ? from.size() : N - 1;
	// a cut in the middle of a UTF-8 character would make the message itself an encoding error
	if (length < from.size())
		while (length > 0 && (static_cast<unsigned char>(from[length]) & 0xC0) == 0x80)
			--length;
	std::memcpy(to, from.data(), length);
	to[length] = '\0';
}

} // namespace

PgError::PgError(const ErrorData *error)
	: sqlState_(error->sqlerrcode), message_(textOf(error->message)), detail_(textOf(error->detail)),
	  hint_(textOf(error->hint)), context_(textOf(error->context))
{
}

std::string PgError::sqlStateText() const
{
	std::string text;
	for (int state = sqlState_, i = 0; i < 5; ++i, state >>= 6)
		text += static_cast<char>(PGUNSIXBIT(state));
	return text;
}

namespace guard
{

ErrorData *run(void (*call)(void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	const uint32 interruptHoldoff = InterruptHoldoffCount;
	ErrorData *volatile error = nullptr;
	PG_TRY();
	{
		// the callers' context lines are added when the error is reported at last, at enter()'s edge
		ErrorContextCallback *outer = error_context_stack;
		error_context_stack = nullptr;
		call(arg);
		error_context_stack = outer;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		InterruptHoldoffCount = interruptHoldoff; // an ERROR sets it to zero
	}
	PG_END_TRY();
	return error;
}

void raise(ErrorData *error)
{
	PgError exception(error);
	FreeErrorData(error);
	throw exception;
}

void Report::set(const PgError &error) noexcept
{
	sqlState = error.sqlState();
	copyTo(message, error.message());
	copyTo(detail, error.detail());
	copyTo(hint, error.hint());
	copyTo(context, error.context());
}

void Report::set(const std::exception &error) noexcept
{
	bool memory = dynamic_cast<const std::bad_alloc *>(&error) != nullptr;
	sqlState = memory ? ERRCODE_OUT_OF_MEMORY : ERRCODE_INTERNAL_ERROR;
	strlcpy(message, memory ? "out of memory" : error.what(), sizeof message);
	detail[0] = hint[0] = context[0] = '\0';
}

void Report::setUnknown() noexcept
{
	sqlState = ERRCODE_INTERNAL_ERROR;
	strlcpy(message, "unknown C++ exception", sizeof message);
	detail[0] = hint[0] = context[0] = '\0';
}

void Report::send() const
{
	ereport(ERROR, (errcode(sqlState), errmsg("%s", message), detail[0] ? errdetail("%s", detail) : 0,
					hint[0] ? errhint("%s", hint) : 0, context[0] ? errcontext("%s", context) : 0));
	pg_unreachable();
}

} // namespace guard
} // namespace mrsync
