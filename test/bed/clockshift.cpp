// LD_PRELOAD: the wall clock shifted for this process and whatever it forks, by the seconds that stand first in the file
// MRSYNC_CLOCK_FILE. The file is mapped: writing another number into it steps the clock of all of them at once, in the
// middle of what they do; or in the middle of what one process does, by the numbers behind it, see Control.
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
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <unistd.h>

namespace
{
// A moment after 2001 is one of the wall clock; the monotonic clock counts from the machine's start.
constexpr time_t kWall = 1000000000;

// What the file holds.
struct Control
{
	int64_t shift;
	int64_t pid;   // the process that
	int64_t reads; // after so many readings of the clock
	int64_t then;  // sets the shift to this; not when it is 0
};

volatile Control *control()
{
	static Control none{};
	static volatile Control *const mapped = []() -> volatile Control *
	{
		const char *name = getenv("MRSYNC_CLOCK_FILE");
		int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
		void *at = file >= 0 ? mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
		if (file >= 0)
			close(file);
		return at == MAP_FAILED ? &none : static_cast<Control *>(at);
	}();
	return mapped;
}

time_t shift() { return static_cast<time_t>(control()->shift); }

// To be called at each reading of the clock.
time_t shiftAtReading()
{
	volatile Control *is = control();
	if (is->reads > 0 && is->pid == getpid())
	{
		int64_t left = is->reads - 1;
		is->reads = left;
		if (left == 0)
			is->shift = is->then;
	}
	return shift();
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
		now->tv_sec += shiftAtReading();
	return result;
}

int gettimeofday(timeval *now, void *zone) noexcept
{
	static const auto next = real<int (*)(timeval *, void *)>("gettimeofday");
	int result = next(now, zone);
	if (result == 0)
		now->tv_sec += shiftAtReading();
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
