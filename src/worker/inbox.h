// The transaction that is being received: in memory while it is small, the rest in a temporary file.
//
// A transaction is complete here before the first row lock is taken; so a lock never waits for Kafka.
#pragma once

#include "core/event.h"
#include "core/event_rows.h"

#include <cstddef>
#include <string>
#include <vector>

namespace mrsync
{

class Inbox
{
public:
	explicit Inbox(size_t memoryBytes) : limit_(memoryBytes) {}
	~Inbox();
	Inbox(const Inbox &) = delete;
	Inbox &operator=(const Inbox &) = delete;

	void clear();
	// json: as received, of the same event. Throws std::system_error.
	void add(ChangeEvent &&event, std::string &&json);
	bool empty() const { return count_ == 0; }
	size_t count() const { return count_; }
	const ChangeEvent &first() const { return events_.front(); }
	const ChangeEvent &last() const { return last_; } // its envelope and id only
	const EventRows &rows() const { return rows_; }

	// Calls visit for every event in order; can be called again. Throws what visit throws.
	template <typename Visit> void forEach(Visit &&visit)
	{
		for (const ChangeEvent &event : events_)
			visit(event);
		rewind();
		ChangeEvent event;
		while (next(event))
			visit(event);
	}

private:
	void rewind();
	bool next(ChangeEvent &event);
	void write(const std::string &json);

	size_t limit_;
	size_t bytes_ = 0;
	size_t count_ = 0;
	std::vector<ChangeEvent> events_;
	ChangeEvent last_;
	EventRows rows_;
	int file_ = -1; // has no name: gone with the process
	std::string buffer_;
	size_t cursor_ = 0; // reading: into buffer_
	size_t readAt_ = 0; // reading: into the file, of what is at the cursor
	size_t written_ = 0;
	size_t flushed_ = 0;
};

} // namespace mrsync
