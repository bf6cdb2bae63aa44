#include "core/event_rows.h"

#include "core/codec.h"

#include <algorithm>

namespace mrsync
{

namespace
{

constexpr size_t kBytes = 8;

std::string hashOf(std::string_view table, const std::optional<Image> &pk)
{
	static constexpr Uuid nameSpace{{0x5e, 0x0c, 0x64, 0x0d, 0x9b, 0x11, 0x4b, 0x0f, 0x8e, 0x4e, 0x26, 0x61, 0xa0, 0x39, 0x5d, 0x73}};
	std::string name(table);
	name += '\n'; // not in JSON
	if (pk)
	{
		Image sorted = *pk;
		std::sort(sorted.begin(), sorted.end(), [](const Column &a, const Column &b) { return a.name < b.name; });
		name += encodeImage(sorted);
	}
	const Uuid id = nameId(nameSpace, name);
	return std::string(id.bytes.begin(), id.bytes.begin() + kBytes);
}

} // namespace

void EventRows::clear()
{
	if (bytes_.capacity() > kBytes * 1024)
		std::string().swap(bytes_);
	bytes_.clear();
	tables_.clear();
	count_ = 0;
	only_.reset();
	isConsecutive_ = true;
}

void EventRows::add(const ChangeEvent &event)
{
	if (++count_ == 1)
	{
		first_ = event.id;
		only_.emplace();
		only_->table = event.table;
		only_->pk = event.pk;
		return;
	}
	if (only_)
		append(only_->table, only_->pk);
	only_.reset();
	isConsecutive_ = isConsecutive_ && event.id == eventIdBehind(first_, count_ - 1);
	if (isConsecutive_ && count_ <= kMost)
		append(event.table, event.pk);
}

void EventRows::append(const std::string &table, const std::optional<Image> &pk)
{
	bytes_ += hashOf(table, pk);
	tables_.insert(table);
}

std::string EventRows::bytes() const { return isConsecutive_ && count_ <= kMost ? bytes_ : std::string(); }

std::optional<Uuid> lastEventOn(const Uuid &first, std::string_view rows, std::string_view table, const Image &pk, bool isGone)
{
	const std::string row = hashOf(table, pk), all = hashOf(table, std::nullopt);
	for (size_t i = rows.size() / kBytes; i-- > 0;)
		if (const std::string_view on = rows.substr(i * kBytes, kBytes); on == row || (isGone && on == all))
			return eventIdBehind(first, i);
	return std::nullopt;
}

} // namespace mrsync
