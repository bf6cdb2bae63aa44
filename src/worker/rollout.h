// The way of a rule for conflicts into force, in the coordinator of every region: prepare, acknowledge, activate.
//
// A rule is a row of mrsync.merge_definition of the region where it was registered. Every region that hears of it makes its
// function where that is missing, tries it, has histories of the table's rows kept from now on, and says in its row of
// mrsync.merge_acknowledgement that it is prepared; or why not, and tries again. When all known regions are prepared, the
// registering one gives the rule the next stamp of its clock, from which on it holds; one that is registered as a shadow is run beside
// the rule that decides (worker/shadows.h) until it is promoted. Nobody waits for anybody: a region that hears late of it folds the
// rows concerned anew.
//
// All of it is told from the tables, at every step anew: a coordinator that dies in between is continued by the next one.
// What comes from a topic runs with the rights of the table's owner, never with more (I9): the statement that makes a function,
// and the function. A failure of either is the rule's, and never the coordinator's. It holds no lock on a table that anybody
// could wait for longer than kLockMs.
// Relied on by: the applier, which reads activations from mrsync.merge_definition (I1, I3).
#pragma once

#include "pg/guard.h"
#include "pg/merge_fitness.h"
#include "pg/spi.h"
#include "worker/worker.h"

#include <map>

namespace mrsync
{

// Appliers read a table's rules anew, from the commit of the transaction at hand on. table: as events name it. Throws PgError.
void mergeRulesChanged(const std::string &table);

class Rollout
{
public:
	explicit Rollout(Worker &worker) : worker_(worker), region_(worker.region) {}

	// Does what is due: at once when there is news, else each second. True when there is more. mayActivate: no rule of ours is
	// unknown here.
	bool step(bool isNews, bool mayActivate);

private:
	struct Definition
	{
		std::string id, stamp, strategy, function;
		std::optional<std::string> checksum;
		MergePlace place;
		Oid owner;
		bool isOurs;	 // to activate
		bool isComplete; // all regions are prepared
		bool isUntold;	 // active, and not yet acknowledged as that
		std::string addedAt; // the table, to replication
		bool isShadow;		 // to be run beside what decides
		bool isTried;		 // here before, and in force since
	};
	struct Tried // by this process
	{
		Oid relation;
		std::string addedAt;
		std::string stamp;
		bool isPrepared;
		int64_t at; // steadyNow()
		uint64_t functions; // functionChanges()
	};
	std::vector<Definition> read();
	bool isDue(const Definition &definition) const;
	void prepare(const Definition &definition);
	void provide(const Definition &definition);
	void create(const Definition &definition);
	void inspect(const Definition &definition);
	void tryOut(const Definition &definition, Oid function);
	void beginHistory(const Definition &definition);
	void acknowledge(const Definition &definition, const std::optional<PgError> &failure);
	bool activate(const Definition &definition);
	bool beginShadow(const Definition &definition);
	void tellKnown();
	void sayAgain();

	Worker &worker_;
	RegionShared *region_;
	std::map<std::string, Tried> tried_; // by id
	int64_t lookedAt_ = 0; // steadyNow(), as is below
	int64_t saidAt_ = 0;
	spi::Value resent_; // when this region has sent again what it has
};

} // namespace mrsync
