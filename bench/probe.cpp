// The bench's clock: writes at a steady rate in one server and watches another one until what was written is visible.
//
//   bench-probe latency SOURCE TARGET ROUND RATE SECONDS WARMUP
//       CLIENTS sessions insert into bench.entry at SOURCE, RATE transactions per second together, by a timetable; a
//       polling session at TARGET notes when each row is there. Every row counts but those of the first WARMUP seconds.
//       Latency is that moment minus the row's commit timestamp (which the server takes before it flushes the commit).
//       Prints: p50 p99 max (ms), rows, achieved rate.
//   bench-probe time START-CONN START-SQL CONN SQL SECONDS
//       Sends START-SQL, polls SQL until it says true. Prints both moments, in seconds of the epoch: when START-SQL was
//       sent, when SQL first was true.
//
// Both servers run on this machine: one clock.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <libpq-fe.h>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace
{

using std::chrono::microseconds;
constexpr int kClients = 4;
constexpr auto kPollEvery = microseconds(200);     // while single rows are timed
constexpr auto kPollSeldom = microseconds(2'000);  // while seconds are timed: watching must not cost what is watched
constexpr auto kArrival = std::chrono::seconds(60); // after the last write
constexpr int64_t kRoundIds = 10'000'000'000;
constexpr int64_t kClientIds = 100'000'000;

[[noreturn]] void fail(const std::string &what)
{
	fprintf(stderr, "bench-probe: %s\n", what.c_str());
	exit(1);
}

int64_t nowUs()
{
	return std::chrono::duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void sleepUntilUs(int64_t at)
{
	std::this_thread::sleep_until(std::chrono::system_clock::time_point(microseconds(at)));
}

using Result = std::unique_ptr<PGresult, decltype(&PQclear)>;

class Session
{
public:
	explicit Session(const char *conninfo) : connection_(PQconnectdb(conninfo), PQfinish)
	{
		if (PQstatus(connection_.get()) != CONNECTION_OK)
			fail(PQerrorMessage(connection_.get()));
	}

	PGconn *get() const { return connection_.get(); }

	Result query(const std::string &sql) const { return checked(PQexec(get(), sql.c_str())); }

	void prepare(const std::string &sql) const { checked(PQprepare(get(), "", sql.c_str(), 0, nullptr)); }
	Result prepared(const std::vector<std::string> &parameters = {}) const
	{
		std::vector<const char *> values;
		for (const std::string &parameter : parameters)
			values.push_back(parameter.c_str());
		return checked(PQexecPrepared(get(), "", static_cast<int>(values.size()), values.data(), nullptr, nullptr, 0));
	}

	Result checked(PGresult *raw) const
	{
		Result result(raw, PQclear);
		ExecStatusType status = PQresultStatus(raw);
		if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
			fail(PQerrorMessage(get()));
		return result;
	}

private:
	std::unique_ptr<PGconn, decltype(&PQfinish)> connection_;
};

int64_t integer(const char *text) { return strtoll(text, nullptr, 10); }

double percentile(const std::vector<double> &sorted, double share)
{
	size_t rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
	return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

int latency(char **arguments)
{
	const char *source = arguments[0];
	const char *target = arguments[1];
	int64_t round = integer(arguments[2]);
	int64_t rate = integer(arguments[3]);
	int64_t seconds = integer(arguments[4]);
	int64_t warmUp = integer(arguments[5]);
	int64_t perClient = rate * (seconds + warmUp) / kClients;
	auto firstId = [&](int client) { return round * kRoundIds + client * kClientIds; };

	Session watcher(target);
	std::string newest = "SELECT ";
	for (int client = 0; client < kClients; ++client)
		// not max(id): planned while the range is empty, that reads all of it ever after
		newest += (client ? ", " : "") + std::string("(SELECT id FROM bench.entry WHERE id >= ") +
				  std::to_string(firstId(client)) + " AND id < " + std::to_string(firstId(client + 1)) +
				  " ORDER BY id DESC LIMIT 1)";
	watcher.prepare(newest);

	int64_t begin = nowUs() + 200'000;
	std::atomic<int> writing = kClients;
	std::atomic<int64_t> lastWritten = begin;
	std::vector<std::thread> writers;
	for (int client = 0; client < kClients; ++client)
		writers.emplace_back(
			[&, client]
			{
				Session session(source);
				session.prepare("INSERT INTO bench.entry VALUES ($1::bigint, 7, 12.50, "
								"'a line of text of ordinary length', clock_timestamp())");
				for (int64_t n = 0; n < perClient; ++n)
				{
					sleepUntilUs(begin + (n * kClients + client) * 1'000'000 / rate);
					session.prepared({std::to_string(firstId(client) + n)});
				}
				lastWritten = nowUs();
				--writing;
			});

	std::unordered_map<int64_t, int64_t> visible; // id -> when
	visible.reserve(static_cast<size_t>(perClient * kClients));
	std::vector<int64_t> next(kClients);
	for (int client = 0; client < kClients; ++client)
		next[static_cast<size_t>(client)] = firstId(client);
	while (static_cast<int64_t>(visible.size()) < perClient * kClients)
	{
		Result row = watcher.prepared();
		int64_t now = nowUs();
		for (int client = 0; client < kClients; ++client)
			if (!PQgetisnull(row.get(), 0, client))
				for (int64_t &id = next[static_cast<size_t>(client)]; id <= integer(PQgetvalue(row.get(), 0, client)); ++id)
					visible.emplace(id, now);
		if (writing == 0 && now - lastWritten > microseconds(kArrival).count())
			fail(std::to_string(perClient * kClients - static_cast<int64_t>(visible.size())) + " rows have not arrived");
		std::this_thread::sleep_for(kPollEvery);
	}
	for (std::thread &writer : writers)
		writer.join();

	Result commits = Session(source).query(
		"SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM bench.entry WHERE id >= " +
		std::to_string(round * kRoundIds) + " AND id < " + std::to_string(firstId(kClients)));
	std::vector<double> times;
	for (int i = 0; i < PQntuples(commits.get()); ++i)
	{
		int64_t committed = integer(PQgetvalue(commits.get(), i, 1));
		if (committed >= begin + warmUp * 1'000'000)
			times.push_back(static_cast<double>(visible.at(integer(PQgetvalue(commits.get(), i, 0))) - committed) / 1000);
	}
	if (times.empty())
		fail("nothing was measured");
	std::sort(times.begin(), times.end());
	double took = static_cast<double>(lastWritten - begin) / 1e6;
	printf("%.3f %.3f %.3f %zu %.1f\n", percentile(times, 0.5), percentile(times, 0.99), times.back(), times.size(),
		   static_cast<double>(perClient * kClients) / took);
	return 0;
}

int timeUntil(char **arguments)
{
	Session starter(arguments[0]);
	Session watcher(arguments[2]);
	int64_t limit = integer(arguments[4]) * 1'000'000;
	watcher.prepare(arguments[3]);
	int64_t start = nowUs();
	if (!PQsendQuery(starter.get(), arguments[1]))
		fail(PQerrorMessage(starter.get()));
	int64_t now;
	for (;;)
	{
		// a failure of START-SQL is told now, not by the time-out
		if (PQconsumeInput(starter.get()) && !PQisBusy(starter.get()))
			if (PGresult *result = PQgetResult(starter.get()))
				starter.checked(result);
		Result row = watcher.prepared();
		now = nowUs();
		if (*PQgetvalue(row.get(), 0, 0) == 't')
			break;
		if (now - start > limit)
			fail("not true after " + std::string(arguments[4]) + " s: " + arguments[3]);
		std::this_thread::sleep_for(kPollSeldom);
	}
	while (PGresult *result = PQgetResult(starter.get()))
		starter.checked(result);
	printf("%.6f %.6f\n", static_cast<double>(start) / 1e6, static_cast<double>(now) / 1e6);
	return 0;
}

} // namespace

int main(int count, char **arguments)
{
	std::string mode = count > 1 ? arguments[1] : "";
	if (mode == "latency" && count == 8)
		return latency(arguments + 2);
	if (mode == "time" && count == 7)
		return timeUntil(arguments + 2);
	fail("usage: see the head of bench/probe.cpp");
}
