// What an event costs: encode runs once per changed row at the source, decode once per change in every other region.
// Prints nanoseconds; asserts nothing, for machines differ.
#include "core/codec.h"

#include <chrono>
#include <cstdio>

namespace
{

using namespace mrsync;

template <typename Body> void measure(const char *name, int rounds, Body body)
{
	auto start = std::chrono::steady_clock::now();
	for (int i = 0; i < rounds; ++i)
		body(static_cast<uint64_t>(i));
	std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
	std::printf("%-32s %8.0f ns\n", name, took.count() / rounds);
}

ChangeEvent update(int columns)
{
	ChangeEvent event;
	event.region = "eu";
	event.table = "public.accounts";
	event.operation = Operation::Update;
	event.pk = Image{{"id", "12345"}};
	event.before.emplace();
	for (int i = 0; i < columns; ++i)
		event.before->push_back({"column_" + std::to_string(i), "some value " + std::to_string(i * 1000)});
	event.after = event.before;
	event.hlc = Hlc{848736660123456};
	event.committedAt = event.hlc.value;
	event.tx = {1, 123456789, 123456000, 0x1'616B3748, 745, 0, 3, false, std::nullopt};
	return event;
}

} // namespace

int main()
{
	volatile size_t sink = 0; // what the compiler may not leave out
	for (int columns : {10, 100})
	{
		ChangeEvent event = update(columns);
		std::string json;
		encode(event, json);
		std::printf("UPDATE of %d columns, %zu bytes\n", columns, json.size());
		measure("  encode", 1'000'000 / columns,
		        [&](uint64_t)
		        {
			        json.clear();
			        encode(event, json);
			        sink = sink + json.size();
		        });
		measure("  decode", 1'000'000 / columns, [&](uint64_t) { sink = sink + decode(json).index(); });
	}
	Hlc hlc{848736660123456};
	measure("eventId", 1'000'000, [&](uint64_t i) { sink = sink + eventId(hlc, "eu", 0x1'616B3748, i).bytes[15]; });
	measure("conflictId", 100'000,
	        [&](uint64_t)
	        { sink = sink + conflictId("public.accounts", "{\"id\":\"1\"}", hlc, "eu", hlc, "us").bytes[15]; });
	measure("hlc text, there and back", 1'000'000,
	        [&](uint64_t i)
	        { sink = sink + static_cast<size_t>(parseHlc(toText(Hlc{hlc.value + static_cast<int64_t>(i)}))->value); });
	return 0;
}
