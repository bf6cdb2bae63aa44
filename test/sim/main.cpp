// sim: N simulated regions of the real core under a seed's faults; see docs/testing.md.
//
//   sim [--seeds FROM COUNT] [--seconds N] [--regions N] [--regression FILE] [--break NAME] [--self-test]
//
// Without --seeds or --seconds: 1000 seeds. The regression seeds run first. Exit: 0 all passed, 1 a check failed,
// 2 misuse. The last line is "N passed, M failed".
#include "sim/history.h"
#include "sim/world.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace
{

using namespace mrsync::sim;

constexpr int kFailuresShown = 10; // then it stops: the rest would be the same story
constexpr uint64_t kSelfTestSeeds = 500;

struct Arguments
{
	uint64_t from = 1;
	uint64_t count = 1000;
	std::optional<double> seconds;
	std::string regression = "test/sim/seeds.txt";
	bool selfTest = false;
	Options options;
};

[[noreturn]] void usage(const std::string &problem)
{
	std::fprintf(stderr,
	             "sim: %s\nusage: sim [--seeds FROM COUNT] [--seconds N] [--regions N] [--regression FILE] "
	             "[--break NAME] [--self-test]\nbreaks:",
	             problem.c_str());
	for (const BreakInfo &info : kBreaks)
		std::fprintf(stderr, " %s", info.name);
	std::fprintf(stderr, "\n");
	std::exit(2);
}

Break breakOf(const std::string &name)
{
	for (const BreakInfo &info : kBreaks)
		if (name == info.name)
			return info.value;
	usage("no such break: " + name);
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
	bool bySeeds = false;
	while (at < words.size())
	{
		const std::string &word = next();
		if (word == "--seeds")
		{
			arguments.from = number();
			arguments.count = number();
			bySeeds = true;
		}
		else if (word == "--seconds")
			arguments.seconds = static_cast<double>(number());
		else if (word == "--regions")
			arguments.options.regions = static_cast<int>(number());
		else if (word == "--regression")
			arguments.regression = next();
		else if (word == "--break")
			arguments.options.broken = breakOf(next());
		else if (word == "--self-test")
			arguments.selfTest = true;
		else
			usage("unknown: " + word);
	}
	if (arguments.options.regions && (*arguments.options.regions < 2 || *arguments.options.regions > 8))
		usage("2 to 8 regions");
	if (arguments.seconds && !bySeeds)
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
		options.broken = info.value;
		std::string noticed;
		uint64_t seed = 0;
		while (noticed.empty() && ++seed <= kSelfTestSeeds)
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
	std::printf("self-test: %d breaks noticed, %d not\n", passed, failed);
	std::fflush(stdout);
	return failed == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char **argv)
{
	Arguments arguments = argumentsOf(argc, argv);
	if (arguments.selfTest)
		return selfTest(arguments);
	Runner runner(arguments);
	runRegression(runner, arguments);
	for (uint64_t i = 0; i < arguments.count && runner.mayGoOn(); ++i)
		runner.run(arguments.from + i, arguments.options);
	return runner.finish();
}
