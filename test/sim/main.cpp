// sim: N simulated regions of the real core under a seed's faults; see docs/testing.md.
//
//   sim [--seeds FROM COUNT] [--seconds N] [--regions N] [--regression FILE] [--timeline NAME] [--break NAME] [--self-test]
//   sim --prove [--seeds FROM COUNT] [--seconds N] [--break NAME]
//   sim --prove-all
//
// --prove: the fold of a row with merges (prover.h), its small cases and then by seeds; with --seeds, only these. --prove-all:
// the small cases without a shortening, which takes far longer.
// Without --seeds or --seconds: 1000 seeds. The regression seeds run first. Exit: 0 all passed, 1 a check failed,
// 2 misuse. The last line is "N passed, M failed".
#include "sim/history.h"
#include "sim/prover.h"
#include "sim/world.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace
{

using namespace mrsync::sim;

constexpr int kFailuresShown = 10; // then it stops: the rest would be the same story
constexpr uint64_t kSelfTestSeeds = 500;
constexpr uint64_t kSelfTestFoldSeeds = 3000; // short ones

struct Arguments
{
	uint64_t from = 1;
	uint64_t count = 1000;
	std::optional<double> seconds;
	std::string regression = "test/sim/seeds.txt";
	bool selfTest = false;
	bool prove = false;
	bool proveAll = false;
	bool bySeeds = false;
	Options options;
	FoldBreak foldBroken = FoldBreak::None;
};

[[noreturn]] void usage(const std::string &problem)
{
	std::fprintf(stderr,
	             "sim: %s\nusage: sim [--seeds FROM COUNT] [--seconds N] [--regions N] [--regression FILE] "
	             "[--timeline NAME] [--break NAME] [--self-test] [--prove] [--prove-all]\ntimelines: any losses set-backs both\nbreaks:",
	             problem.c_str());
	for (const BreakInfo &info : kBreaks)
		std::fprintf(stderr, " %s", info.name);
	std::fprintf(stderr, "\nbreaks with --prove:");
	for (const FoldBreakInfo &info : kFoldBreaks)
		std::fprintf(stderr, " %s", info.name);
	std::fprintf(stderr, "\n");
	std::exit(2);
}

bool breakRule(const std::string &name, Options &options)
{
	for (const BreakInfo &info : kBreaks)
		if (name == info.name)
		{
			options.broken = info.value;
			options.timeline = info.in;
			return true;
		}
	return false;
}

void breakRule(const std::string &name, Arguments &arguments)
{
	if (breakRule(name, arguments.options))
		return;
	for (const FoldBreakInfo &info : kFoldBreaks)
		if (name == info.name)
		{
			arguments.foldBroken = info.value;
			return;
		}
	usage("no such break: " + name);
}

Timeline timelineOf(const std::string &name)
{
	for (size_t i = 0; i < std::size(kTimelines); ++i)
		if (name == kTimelines[i])
			return static_cast<Timeline>(i);
	usage("no such timeline: " + name);
}

Arguments argumentsOf(int argc, char **argv)
{
	Arguments arguments;
	std::vector<std::string> words(argv + 1, argv + argc);
	size_t at = 0;
	auto next = [&]() -> const std::string &
	{
		if (at == words.size())
			usage("a value is missing after " + words.back());
		return words[at++];
	};
	auto number = [&]() -> uint64_t
	{
		const std::string &word = next();
		char *end = nullptr;
		uint64_t value = std::strtoull(word.c_str(), &end, 10);
		if (word.empty() || *end != '\0')
			usage("not a number: " + word);
		return value;
	};
	while (at < words.size())
	{
		const std::string &word = next();
		if (word == "--seeds")
		{
			arguments.from = number();
			arguments.count = number();
			arguments.bySeeds = true;
		}
		else if (word == "--seconds")
			arguments.seconds = static_cast<double>(number());
		else if (word == "--regions")
			arguments.options.regions = static_cast<int>(number());
		else if (word == "--regression")
			arguments.regression = next();
		else if (word == "--break")
			breakRule(next(), arguments);
		else if (word == "--timeline")
			arguments.options.timeline = timelineOf(next());
		else if (word == "--self-test")
			arguments.selfTest = true;
		else if (word == "--prove" || word == "--prove-all")
			arguments.prove = true, arguments.proveAll = word == "--prove-all";
		else
			usage("unknown: " + word);
	}
	if (arguments.options.regions && (*arguments.options.regions < 2 || *arguments.options.regions > 8))
		usage("2 to 8 regions");
	if (arguments.foldBroken != FoldBreak::None && !arguments.prove)
		usage("this break needs --prove");
	if (arguments.prove && arguments.options.broken != Break::None)
		usage("this break is not the prover's");
	if (arguments.seconds && !arguments.bySeeds)
		arguments.count = UINT64_MAX;
	return arguments;
}

class Runner
{
public:
	explicit Runner(const Arguments &arguments) : arguments_(arguments) {}

	bool mayGoOn() const
	{
		return failed_ < kFailuresShown && (!arguments_.seconds || elapsed() < *arguments_.seconds);
	}

	void run(uint64_t seed, const Options &options)
	{
		try
		{
			Totals totals = runSeed(seed, options);
			totals_.transactions += totals.transactions;
			totals_.events += totals.events;
			totals_.records += totals.records;
			++passed_;
		}
		catch (const CheckFailed &failure)
		{
			report(seed, options, failure.check, failure.what());
		}
		catch (const std::exception &error)
		{
			report(seed, options, "exception", error.what());
		}
		if (elapsed() >= nextProgress_)
		{
			progress();
			nextProgress_ = elapsed() + 5;
		}
	}

	int finish()
	{
		progress();
		std::printf("%d passed, %d failed\n", passed_, failed_);
		return failed_ == 0 ? 0 : 1;
	}

private:
	double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

	void progress() const
	{
		std::printf("%d seeds in %.1f s: %zu transactions, %zu events, %zu records in the topics\n", passed_ + failed_,
		            elapsed(), totals_.transactions, totals_.events, totals_.records);
		std::fflush(stdout);
	}

	void report(uint64_t seed, const Options &options, const std::string &check, const char *what)
	{
		++failed_;
		std::printf("FAILED seed %llu: %s: %s\n  again: sim --seeds %llu 1", static_cast<unsigned long long>(seed),
		            check.c_str(), what, static_cast<unsigned long long>(seed));
		if (options.regions)
			std::printf(" --regions %d", *options.regions);
		if (options.timeline != Timeline::Any)
			std::printf(" --timeline %s", kTimelines[static_cast<size_t>(options.timeline)]);
		for (const BreakInfo &info : kBreaks)
			if (info.value == options.broken)
				std::printf(" --break %s", info.name);
		std::printf("\n");
	}

	const Arguments &arguments_;
	std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
	double nextProgress_ = 5;
	int passed_ = 0;
	int failed_ = 0;
	Totals totals_;
};

void runRegression(Runner &runner, const Arguments &arguments)
{
	std::ifstream file(arguments.regression);
	if (!file)
		usage("cannot read " + arguments.regression);
	std::string line;
	while (std::getline(file, line))
	{
		std::istringstream words(line.substr(0, line.find('#')));
		uint64_t seed = 0;
		if (!(words >> seed))
			continue;
		Options options = arguments.options;
		if (int regions = 0; words >> regions)
			options.regions = regions;
		runner.run(seed, options);
	}
}

// Every break is noticed, by a check that the broken rule protects.
int selfTest(const Arguments &arguments)
{
	int passed = 0;
	int failed = 0;
	for (const BreakInfo &info : kBreaks)
	{
		Options options = arguments.options;
		breakRule(info.name, options);
		std::string noticed;
		uint64_t seed = info.from - 1;
		while (noticed.empty() && ++seed < info.from + kSelfTestSeeds)
		{
			try
			{
				runSeed(seed, options);
			}
			catch (const CheckFailed &failure)
			{
				noticed = failure.check;
			}
		}
		bool right = !noticed.empty() && (std::string(info.checks) + " ").find(noticed + " ") != std::string::npos;
		if (noticed.empty())
			std::printf("%-16s NOT NOTICED in %llu seeds\n", info.name,
			            static_cast<unsigned long long>(kSelfTestSeeds));
		else
			std::printf("%-16s %s by %s at seed %llu\n", info.name, right ? "noticed" : "NOTICED BY THE WRONG CHECK,",
			            noticed.c_str(), static_cast<unsigned long long>(seed));
		++(right ? passed : failed);
	}
	for (const FoldBreakInfo &info : kFoldBreaks)
	{
		std::string noticed, where = "in a small case";
		uint64_t seed = info.value >= FoldBreak::HistoriesLeft ? 1 : 0; // takes two rollouts, or a merge given up: no small case has them
		while (noticed.empty() && seed <= kSelfTestFoldSeeds)
		{
			try
			{
				if (seed == 0)
					proveFold(info.value);
				else
					proveFoldSeed(seed, info.value);
				++seed;
			}
			catch (const CheckFailed &failure)
			{
				noticed = failure.check;
			}
		}
		if (seed > 0)
			where = "at seed " + std::to_string(seed);
		bool right = noticed == "I1";
		std::printf("%-20s %s\n", info.name, right ? ("noticed by I1 " + where).c_str() : "NOT NOTICED");
		++(right ? passed : failed);
	}
	std::printf("self-test: %d breaks noticed, %d not\n", passed, failed);
	std::fflush(stdout);
	return failed == 0 ? 0 : 1;
}

// The small cases, and then by seeds.
int prove(const Arguments &arguments)
{
	auto start = std::chrono::steady_clock::now();
	auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
	auto again = [&]
	{
		for (const FoldBreakInfo &info : kFoldBreaks)
			if (info.value == arguments.foldBroken)
				std::printf(" --break %s", info.name);
		std::printf("\n");
	};
	auto say = [&](const char *what, size_t count, const ProverTotals &totals)
	{
		std::printf("%zu %s in %.1f s: %zu ways through them, %zu steps\n", count, what, elapsed(), totals.ways, totals.steps);
		std::fflush(stdout);
	};
	int passed = 0;
	int failed = 0;
	if (!arguments.bySeeds)
	{
		try
		{
			ProverTotals totals = proveFold(arguments.foldBroken, arguments.proveAll);
			say("small cases", totals.cases, totals);
			++passed;
		}
		catch (const CheckFailed &failure)
		{
			std::printf("FAILED %s: %s\n  again: sim --prove", failure.check.c_str(), failure.what());
			again();
			++failed;
		}
	}
	ProverTotals totals;
	for (uint64_t i = 0; i < arguments.count && failed < kFailuresShown && (!arguments.seconds || elapsed() < *arguments.seconds); ++i)
	{
		uint64_t seed = arguments.from + i;
		try
		{
			ProverTotals one = proveFoldSeed(seed, arguments.foldBroken);
			totals.ways += one.ways;
			totals.steps += one.steps;
			++passed;
		}
		catch (const CheckFailed &failure)
		{
			std::printf("FAILED seed %llu: %s: %s\n  again: sim --prove --seeds %llu 1", static_cast<unsigned long long>(seed), failure.check.c_str(),
			            failure.what(), static_cast<unsigned long long>(seed));
			again();
			++failed;
		}
	}
	say("seeds", static_cast<size_t>(passed + failed), totals);
	std::printf("%d passed, %d failed\n", passed, failed);
	return failed == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char **argv)
{
	Arguments arguments = argumentsOf(argc, argv);
	if (arguments.selfTest)
		return selfTest(arguments);
	if (arguments.prove)
		return prove(arguments);
	Runner runner(arguments);
	runRegression(runner, arguments);
	for (uint64_t i = 0; i < arguments.count && runner.mayGoOn(); ++i)
		runner.run(arguments.from + i, arguments.options);
	return runner.finish();
}
