// LD_PRELOAD: the wall clock shifted by MRSYNC_CLOCK_SHIFT seconds, for this process and whatever it forks.
//
// Not libfaketime, because PostgreSQL 15's postmaster forks background workers in a signal handler, out of select():
// libfaketime has faking switched off around select(), and such a child stays that way for life. It would shift the
// sessions of a region and leave its workers at true time.
//
// The monotonic clock stays true: timeouts are not what is shifted. Waits until a moment of the wall clock are given
// that moment back in true time, or they would be longer or shorter by the shift.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cstdlib>
#include <ctime>
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/time.h>
#include <threads.h>

namespace
{
// A moment after 2001 is one of the wall clock; the monotonic clock counts from the machine's start.
constexpr time_t kWall = 1000000000;

time_t shift()
{
	static const time_t value = []
	{
		const char *text = getenv("MRSYNC_CLOCK_SHIFT");
		return text ? static_cast<time_t>(strtol(text, nullptr, 10)) : 0;
	}();
	return value;
}

template <class F> F real(const char *name, const char *version = nullptr)
{
	void *found = version ? dlvsym(RTLD_NEXT, name, version) : nullptr;
	return reinterpret_cast<F>(found ? found : dlsym(RTLD_NEXT, name));
}

timespec inTrueTime(const timespec &until)
{
	timespec moved = until;
	if (moved.tv_sec > kWall)
		moved.tv_sec -= shift();
	return moved;
}

bool isWall(clockid_t clock)
{
	return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}
} // namespace

extern "C"
{

int clock_gettime(clockid_t clock, timespec *now) noexcept
{
	static const auto next = real<int (*)(clockid_t, timespec *)>("clock_gettime");
	int result = next(clock, now);
	if (result == 0 && isWall(clock))
		now->tv_sec += shift();
	return result;
}

int gettimeofday(timeval *now, void *zone) noexcept
{
	static const auto next = real<int (*)(timeval *, void *)>("gettimeofday");
	int result = next(now, zone);
	if (result == 0)
		now->tv_sec += shift();
	return result;
}

time_t time(time_t *now) noexcept
{
	timespec precise;
	clock_gettime(CLOCK_REALTIME, &precise);
	if (now)
		*now = precise.tv_sec;
	return precise.tv_sec;
}

int timespec_get(timespec *now, int base) noexcept
{
	return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const timespec *until)
{
	// Without its version the dynamic linker hands out the condition variables of old, which are others.
	static const auto next = real<int (*)(pthread_cond_t *, pthread_mutex_t *, const timespec *)>(
		"pthread_cond_timedwait", "GLIBC_2.3.2");
	auto moved = inTrueTime(*until);
	return next(condition, mutex, &moved);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const timespec *until)
{
	static const auto next =
		real<int (*)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const timespec *)>("pthread_cond_clockwait");
	auto moved = inTrueTime(*until);
	return next(condition, mutex, clock, &moved);
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const timespec *until)
{
	static const auto next = real<int (*)(cnd_t *, mtx_t *, const timespec *)>("cnd_timedwait"); // librdkafka's
	auto moved = inTrueTime(*until);
	return next(condition, mutex, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const timespec *until) noexcept
{
	static const auto next = real<int (*)(pthread_mutex_t *, const timespec *)>("pthread_mutex_timedlock");
	auto moved = inTrueTime(*until);
	return next(mutex, &moved);
}

int sem_timedwait(sem_t *semaphore, const timespec *until)
{
	static const auto next = real<int (*)(sem_t *, const timespec *)>("sem_timedwait");
	auto moved = inTrueTime(*until);
	return next(semaphore, &moved);
}

} // extern "C"
