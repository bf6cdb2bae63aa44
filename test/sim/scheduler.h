// Virtual time: actions run in the order of their times, and those of one time in the order they were asked for.
// Nothing waits, and a seed replays to the microsecond.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace mrsync::sim
{

constexpr int64_t kMillisecond = 1000;
constexpr int64_t kSecond = 1000 * kMillisecond;
constexpr int64_t kMinute = 60 * kSecond;

class Scheduler
{
public:
	int64_t now() const { return now_; }

	void after(int64_t delay, std::function<void()> action)
	{
		queue_.push_back({now_ + delay, asked_++, std::move(action)});
		std::push_heap(queue_.begin(), queue_.end(), later);
	}

	void runNext()
	{
		std::pop_heap(queue_.begin(), queue_.end(), later);
		Entry entry = std::move(queue_.back());
		queue_.pop_back();
		now_ = entry.time;
		entry.action();
	}

private:
	struct Entry
	{
		int64_t time;
		uint64_t asked;
		std::function<void()> action;
	};
	static bool later(const Entry &a, const Entry &b) { return a.time != b.time ? a.time > b.time : a.asked > b.asked; }

	int64_t now_ = 0;
	uint64_t asked_ = 0;
	std::vector<Entry> queue_;
};

} // namespace mrsync::sim
