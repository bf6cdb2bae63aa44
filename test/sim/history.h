// Everything that really happened, known to nobody inside the simulation: the committed transactions with their causal
// past, and each verdict on each pair of events. The checks compare the regions with it.
#pragma once

#include "core/event.h"
#include "core/resolver.h"

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace mrsync::sim
{

// An invariant does not hold. `check` is its name in the design: "I1", ...
struct CheckFailed : std::runtime_error
{
	CheckFailed(std::string failed, const std::string &message) : std::runtime_error(message), check(std::move(failed))
	{
	}
	std::string check;
};

// A vector clock: of each region, how many of its commits, in the order of its WAL.
using CausalPast = std::vector<size_t>;

struct Transaction
{
	int region = 0;
	Version version;
	uint64_t sequence = 0;
	SeenVector seen;
	std::vector<ChangeEvent> events;
	CausalPast past; // when its statements ran
};

// What a row holds besides its key.
struct Content
{
	std::string value;
	int unique = 0; // of a unique column; 0: NULL
	auto operator<=>(const Content &) const = default;
};

// A row's last event, if that is no deletion.
struct Folded
{
	Content content;
	Version version;
};

class History
{
public:
	explicit History(int regions) : committed_(static_cast<size_t>(regions)) {}

	void commit(Transaction transaction);

	const std::vector<Transaction> &of(int region) const { return committed_[static_cast<size_t>(region)]; }
	const Transaction &find(int region, uint64_t sequence) const;

	// Two events met on a row. Throws when they met elsewhere and it ended otherwise, and when it was not called a
	// conflict though neither had seen the other, or the other way round (I3).
	void verdict(int key, const Version &local, const Version &incoming, const Decision &decision);

	// I5: what happened before has the lower stamp.
	void checkCausality() const;

	// The rows as the plain fold of all events, by (hlc, region, event id).
	std::map<int, Folded> fold(int rows) const;

	size_t events() const;

private:
	bool areConcurrent(const Version &a, const Version &b) const;

	std::vector<std::vector<Transaction>> committed_;
	std::map<Version, std::pair<int, size_t>> byVersion_; // region, and index in committed_

	struct Verdict
	{
		Version winner;
		bool conflict;
		bool operator==(const Verdict &) const = default;
	};
	std::map<Uuid, Verdict> verdicts_;
};

// Rows as events carry them.
Image pkOf(int key);
Image imageOf(int key, const Content &content);
int keyOf(const Image &image);
Content contentOf(const Image &image);
constexpr const char *kTable = "public.hot";

} // namespace mrsync::sim
