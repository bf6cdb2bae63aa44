// Looks after the histories of rows (mrsync.row_history), once a second in one applier of the region: folds rows anew by a rule
// that became active while they were written, and forgets what is below the stable point.
#pragma once

#include "worker/replay.h"

#include <map>
#include <set>
#include <vector>

extern "C"
{
#include "storage/lock.h"
}

namespace mrsync
{

class Histories
{
public:
	Histories(Worker &worker, Replay &replay) : worker_(worker), replay_(replay) {}

	// Outside of a transaction. Returns how long the next call can wait, in milliseconds. A failure is for the log: it is tried again.
	long run();

private:
	struct NewRule
	{
		std::string definition;
		Oid root;
		std::string table; // as events name it
		std::optional<Image> pk; // of a merge that was given up: the one row
	};
	void foldByNewRules();
	bool foldAll(const NewRule &rule);
	void complain(const PgError &error);
	bool isReadByAll(const NewRule &rule);
	void forget();
	void listForgettable();

	Worker &worker_;
	Replay &replay_;
	int64_t at_ = 0; // steadyNow(), of the next call that does something
	Hlc forgotten_;	 // up to here, by this process
	// Of histories that have entries up to a stamp, those still to be looked at; whether they are all that there were.
	std::vector<std::pair<Oid, Image>> forgettable_;
	Hlc forgettableUpTo_;
	bool isAllListed_ = true;
	// By definition: transactions of appliers that may know nothing of it yet.
	std::map<std::string, std::vector<VirtualTransactionId>> unaware_;
	std::map<std::string, std::vector<Image>> unfolded_; // by definition: rows still to be folded by it
	std::set<std::string> complaints_;
};

} // namespace mrsync
