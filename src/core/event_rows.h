// Which row each event of a transaction is on, in eight bytes an event: so that the id of the event that made a version of a row can be
// told when the event itself is gone. Kept with the record of the transaction (worker/progress.h).
//
// A row is known by a hash of its table and key, the key's text as events have it, whatever the order of its columns; so it is of use only
// where equal keys have equal texts. A truncation is on the table as a whole. Nothing is kept of a transaction with one event, whose id is
// known, nor of one with more than kMost.
#pragma once

#include "core/event.h"

#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace mrsync
{

class EventRows
{
public:
	static constexpr size_t kMost = 65536;

	void clear();
	// In the order of the transaction.
	void add(const ChangeEvent &event);
	// Empty: there is nothing to keep.
	std::string bytes() const;
	// Of the events that it has bytes of.
	const std::set<std::string> &tables() const { return tables_; }

private:
	void append(const std::string &table, const std::optional<Image> &pk);

	std::string bytes_;
	std::set<std::string> tables_;
	Uuid first_;
	size_t count_ = 0;
	std::optional<ChangeEvent> only_; // its table and key, as long as it is the only one
	bool isConsecutive_ = true;
};

// The last event on the row of a transaction whose first event has this id. isGone: it has left no row, so it may be a truncation.
std::optional<Uuid> lastEventOn(const Uuid &first, std::string_view rows, std::string_view table, const Image &pk, bool isGone);

} // namespace mrsync
