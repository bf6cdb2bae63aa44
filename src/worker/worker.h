// What every worker process is: how it starts, waits, says what it is doing, and ends.
//
// A worker never waits on anything but wait(): its latch, Kafka's wake pipe, the postmaster's death. So it ends within
// moments of SIGTERM, whatever Kafka is doing. An error ends the process; its coordinator (for the coordinator: the
// launcher) starts it again after a while, and the error stands in worker_status until then and after.
#pragma once

#include "pg/shmem.h"

#include <string>

extern "C"
{
#include "postmaster/bgworker.h"
}

namespace mrsync
{

constexpr int kCoordinatorPlace = 0; // in RegionShared.workers; appliers come behind
constexpr int kExtractorPlace = 1;

struct WorkerArguments // travels in bgw_extra
{
	Oid database;
	WorkerKind kind;
	int place; // in RegionShared.workers
	char peer[kRegionIdLength];
};

class Worker
{
public:
	RegionShared *region;
	WorkerShared *shared;
	std::string peer;

	// Waits for the latch, the wake pipe or the time-out. Handles interrupts: SIGTERM ends the process here.
	void wait(long timeoutMs);
	// To be called between transactions: a changed postgresql.conf takes effect.
	void reloadSettings();
	// What it is doing, for worker_status; "" is "all in order". Cheap when unchanged.
	void state(const std::string &text) { describe(text, false); }
	// The same, of what does not pass by itself.
	void degraded(const std::string &text) { describe(text, true); }
	// Where kafka:: objects announce that they have something.
	int wakeFd() const { return wakePipe_[1]; }

	static Worker &create(const WorkerArguments &arguments);

private:
	Worker() = default;
	void describe(const std::string &text, bool isDegraded);
	int wakePipe_[2] = {-1, -1};
	WaitEventSet *waitSet_ = nullptr;
	std::string lastState_;
	bool lastDegraded_ = false;
};

// The bodies, each in its file. Return or throw to end the process.
void extractorRun(Worker &worker);
void applierRun(Worker &worker);
void coordinatorRun(Worker &worker);

// Starts a worker in a place of its region's table; null when the server has no background worker left.
BackgroundWorkerHandle *workerStart(const WorkerArguments &arguments);

// The present mrsync.kafka_options as a number: their text is no business of shared memory.
uint64_t kafkaOptionsStamp();

// Registers the launcher; called by _PG_init.
void launcherRegister();

// A transaction of a worker's own; aborts when it is not committed.
class WorkerTransaction
{
public:
	WorkerTransaction();
	~WorkerTransaction();
	WorkerTransaction(const WorkerTransaction &) = delete;
	WorkerTransaction &operator=(const WorkerTransaction &) = delete;
	void commit();

private:
	bool open_ = true;
};

template <typename F> auto inTransaction(F &&f)
{
	WorkerTransaction transaction;
	if constexpr (std::is_void_v<std::invoke_result_t<F &>>)
	{
		f();
		transaction.commit();
	}
	else
	{
		auto result = f();
		transaction.commit();
		return result;
	}
}

} // namespace mrsync
