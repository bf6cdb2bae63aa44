// Rows held aside whose holder has left are placed anew, the highest first, each in a transaction with its own version (I13).
//
// What an applier's own writes have freed is known at once (Aside::freed); what users' writes have freed is found by
// looking, once a second in one applier of the region.
#pragma once

#include "worker/replay.h"

#include <string>

namespace mrsync
{

class Releases
{
public:
	Releases(Worker &worker, Replay &replay) : worker_(worker), replay_(replay) {}

	// Outside of a transaction: some of them. Returns how long the next call can wait, in milliseconds.
	long run();
	// Something has become free.
	void soon() { at_ = 0; }
	bool isDue() const { return at_ == 0; }

private:
	// At some rows held aside, whether they might be free by now; false: none is.
	bool look(int64_t now);

	Worker &worker_;
	Replay &replay_;
	int64_t at_ = 0;			   // steadyNow(), of the next call that does something
	std::string lookedUpTo_ = "0"; // aside_id
};

} // namespace mrsync
