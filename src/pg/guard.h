// The two doors between C++ and PostgreSQL (I10).
//
//   enter(f)   PostgreSQL -> C++: the body of every extern "C" function. Catches everything, leaves the catch block, and
//              only then reports; so no exception crosses PostgreSQL, and none is still "current" afterwards.
//   pgCall(f)  C++ -> PostgreSQL: anything that may ereport runs in f. The longjmp ends here and becomes a PgError. f must
//              own nothing with a destructor: an object between the guard and the error is never destroyed.
//
// Translation is not recovery: after a PgError the (sub)transaction has to be aborted. But interrupts are held off as before
// the call: what holds an LWLock above the guard lets it go in the ordinary way.
// The only PG_TRY of the project is in guard.cpp.
#pragma once

#include "core/mutant.h"
#include "pg/server.h"

#include <exception>
#include <type_traits>
#include <utility>

namespace mrsync
{

// A PostgreSQL error as a C++ exception; also how C++ code says one: throw PgError(ERRCODE_…, "…").detail("…").hint("…").
class PgError : public std::exception
{
public:
	PgError(int sqlState, std::string message) : sqlState_(sqlState), message_(std::move(message)) {}
	explicit PgError(const ErrorData *error);

	PgError &&detail(std::string text) && { detail_ = std::move(text); return std::move(*this); }
	PgError &&hint(std::string text) && { hint_ = std::move(text); return std::move(*this); }

	int sqlState() const { return sqlState_; }
	const std::string &message() const { return message_; }
	const std::string &detail() const { return detail_; }
	const std::string &hint() const { return hint_; }
	const std::string &context() const { return context_; }
	std::string sqlStateText() const; // five characters
	const char *what() const noexcept override { return message_.c_str(); }

private:
	int sqlState_;
	std::string message_;
	std::string detail_;
	std::string hint_;
	std::string context_;
};

namespace guard
{

// Runs call(arg) under the guard. Returns a copy of the error in the caller's memory context, or null.
ErrorData *run(void (*call)(void *), void *arg);
[[noreturn]] void raise(ErrorData *error); // throws PgError, frees the copy

// What enter() carries out of the catch block: plain memory, no destructor.
struct Report
{
	int sqlState;
	char message[2048];
	char detail[2048];
	char hint[1024];
	char context[4096];

	void set(const PgError &error) noexcept;
	void set(const std::exception &error) noexcept;
	void setUnknown() noexcept;
	[[noreturn]] void send() const; // ereport(ERROR)
};
static_assert(std::is_trivially_destructible_v<Report>);

} // namespace guard

template <typename F> auto pgCall(F &&f) -> std::invoke_result_t<F &>
{
	using Result = std::invoke_result_t<F &>;
	constexpr bool isVoid = std::is_void_v<Result>;
	static_assert(isVoid || std::is_trivially_destructible_v<std::conditional_t<isVoid, int, Result>>,
				  "the guard cannot carry an object with a destructor");
	struct Call
	{
		std::remove_reference_t<F> *f;
		std::conditional_t<isVoid, char, Result> result;
		std::exception_ptr exception; // thrown by f: must not unwind through the guard's frame
	} call{&f, {}, nullptr};
	ErrorData *error = guard::run(
		[](void *arg)
		{
			auto *c = static_cast<Call *>(arg);
			try
			{
				if constexpr (isVoid)
					(*c->f)();
				else
					c->result = (*c->f)();
			}
			catch (...)
			{
				c->exception = std::current_exception();
			}
		},
		&call);
	if (error)
		guard::raise(error);
	if (call.exception)
		std::rethrow_exception(call.exception);
	if constexpr (!isVoid)
		return call.result;
}

template <typename F> auto enter(F &&f) -> std::invoke_result_t<F &>
{
	if (mutated("no_catch"))
		return f();
	guard::Report report;
	try
	{
		return f();
	}
	catch (const PgError &error)
	{
		report.set(error);
	}
	catch (const std::exception &error)
	{
		report.set(error);
	}
	catch (...)
	{
		report.setUnknown();
	}
	report.send();
}

} // namespace mrsync
