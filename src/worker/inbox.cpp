#include "worker/inbox.h"

#include "core/codec.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>

namespace mrsync
{

namespace
{

constexpr char kSpoolDirectory[] = "base"; // of the data directory: the same disk, and never the system's /tmp
constexpr size_t kBufferBytes = 1024 * 1024;

[[noreturn]] void fail(const char *what) { throw std::system_error(errno, std::generic_category(), what); }

} // namespace

Inbox::~Inbox()
{
	if (file_ >= 0)
		close(file_);
}

void Inbox::clear()
{
	if (bytes_ > kBufferBytes)
	{
		// large ones are rare, and their room is for others
		std::vector<ChangeEvent>().swap(events_);
		std::string().swap(buffer_);
	}
	events_.clear();
	rows_.clear();
	bytes_ = count_ = written_ = flushed_ = readAt_ = 0;
	buffer_.clear();
	cursor_ = 0;
	if (file_ >= 0)
		close(file_);
	file_ = -1;
}

void Inbox::add(ChangeEvent &&event, std::string &&json)
{
	++count_;
	last_ = ChangeEvent{};
	last_.id = event.id;
	last_.tx = event.tx;
	last_.hlc = event.hlc;
	last_.committedAt = event.committedAt;
	if (!event.tx.resent)
		rows_.add(event);
	if (bytes_ + json.size() <= limit_ || events_.empty())
	{
		// a decoded event takes about three times the room of its text
		bytes_ += 3 * json.size();
		events_.push_back(std::move(event));
		return;
	}
	bytes_ = limit_; // once there is a file, order wants everything to go there
	write(json);
}

void Inbox::write(const std::string &json)
{
	if (file_ < 0)
	{
		file_ = open(kSpoolDirectory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (file_ < 0)
			fail("could not create a temporary file for a large transaction");
	}
	uint64_t size = json.size();
	buffer_.append(reinterpret_cast<const char *>(&size), sizeof size);
	buffer_ += json;
	written_ += sizeof size + size;
	if (buffer_.size() >= kBufferBytes)
		rewind();
}

void Inbox::rewind()
{
	size_t done = 0;
	while (flushed_ + done < written_)
	{
		ssize_t wrote = pwrite(file_, buffer_.data() + done, buffer_.size() - done, static_cast<off_t>(flushed_ + done));
		if (wrote <= 0)
			fail("could not write a large transaction to its temporary file");
		done += static_cast<size_t>(wrote);
	}
	flushed_ = written_;
	buffer_.clear();
	cursor_ = readAt_ = 0;
}

bool Inbox::next(ChangeEvent &event)
{
	if (readAt_ >= written_)
	{
		buffer_.clear();
		return false;
	}
	// makes that many bytes from the cursor on available
	auto fill = [&](size_t wanted)
	{
		if (buffer_.size() - cursor_ >= wanted)
			return;
		buffer_.erase(0, cursor_);
		cursor_ = 0;
		while (buffer_.size() < wanted)
		{
			size_t from = buffer_.size();
			buffer_.resize(std::max(wanted, from + kBufferBytes));
			ssize_t got = pread(file_, buffer_.data() + from, buffer_.size() - from, static_cast<off_t>(readAt_ + from));
			if (got <= 0)
				fail("could not read a large transaction back from its temporary file");
			buffer_.resize(from + static_cast<size_t>(got));
		}
	};
	uint64_t size;
	fill(sizeof size);
	memcpy(&size, buffer_.data() + cursor_, sizeof size);
	fill(sizeof size + size);
	auto decoded = decode(std::string_view(buffer_).substr(cursor_ + sizeof size, size));
	cursor_ += sizeof size + size;
	readAt_ += sizeof size + size;
	event = std::get<ChangeEvent>(std::move(decoded)); // it was decoded before it was written
	return true;
}

} // namespace mrsync
