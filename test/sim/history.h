// Everything that really happened, known to nobody inside the simulation: the committed transactions with their causal
// past, and each verdict on each pair of events. The checks compare the regions with it.
#pragma once

#include "core/event.h"
#include "core/resolver.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
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

// Of each region, the highest stamp of what had happened there before.
using CausalPast = std::vector<Hlc>;

struct Transaction
{
	int region = 0;
	Version version;
	uint64_t sequence = 0;
	SeenVector seen;
	std::vector<ChangeEvent> events;
	CausalPast past;       // when its statements ran
	bool relapsed = false; // its region had been set back, and had not seen again what it had acknowledged before
	bool isHole = false;   // its region had another slot before it was sent
	bool lost = false;     // with its region's database, before anybody could read it: it did not happen
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
	// By the id of its first event; null: it never was.
	const Transaction *find(const Uuid &first) const;
	// Of this version; the newest, should a region have used it twice.
	const Transaction &find(const Version &version) const;

	// Two events met on a row. Throws when they met elsewhere and it ended otherwise, and when it was not called a
	// conflict though neither had seen the other, or the other way round (I3). That is not asked where one of the two
	// was sent again (isExact is false): then its version alone is known.
	void verdict(int key, const Version &local, const Version &incoming, const Decision &decision, bool isExact);

	// The end of a region that was set back. has: whether its database holds the transaction.
	void settle(int region, const std::function<bool(const Transaction &)> &has);
	void hole(const Uuid &first);
	// What a lost transaction made of this row (-1: its truncation) was sent again, and has come back.
	void revive(const Version &version, int key) { revived_.insert({version, key}); }

	// I5: what happened before has the lower stamp.
	void checkCausality() const;

	// The rows as the plain fold of all events, by (hlc, region, event id).
	std::map<int, Folded> fold(int rows) const;

	size_t events() const;

private:
	bool areConcurrent(const Version &a, const Version &b) const;

	std::vector<std::vector<Transaction>> committed_;
	std::map<Version, std::pair<int, size_t>> byVersion_; // region, and index in committed_
	std::map<Uuid, std::pair<int, size_t>> byFirst_;
	std::set<std::pair<Version, int>> revived_;

	struct Verdict
	{
		Version winner;
		std::optional<bool> conflict;
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
