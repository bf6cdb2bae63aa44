// What may be confirmed, and what a consumer does with each record. Stories of crashes are told record by record.
#include "core/ledger.h"

#include "unit/random.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace mrsync
{
namespace
{

Envelope record(int64_t incarnation, uint64_t sequence, uint32_t position = 1, bool last = true, uint64_t previous = 0)
{
	Envelope tx;
	tx.incarnation = incarnation;
	tx.sequence = sequence;
	tx.previous = previous;
	tx.position = position;
	tx.last = last;
	return tx;
}

// ---- AckLedger

TEST(AckLedgerTest, ConfirmsNothingAtFirst)
{
	AckLedger ledger;
	EXPECT_EQ(ledger.confirm().endLsn, 0u);
	EXPECT_TRUE(ledger.drained());
}

TEST(AckLedgerTest, ConfirmsATransactionWhenAllItsRecordsAre)
{
	AckLedger ledger;
	ledger.sent(AckLedger::Data);
	ledger.sent(AckLedger::Data);
	ledger.commit(100, 7);
	EXPECT_EQ(ledger.inFlight(), 2u);
	ledger.acked(AckLedger::Data);
	EXPECT_EQ(ledger.confirm().endLsn, 0u);
	ledger.acked(AckLedger::Data);
	EXPECT_EQ(ledger.confirm().endLsn, 100u);
	EXPECT_EQ(ledger.confirm().sequence, 7u);
	EXPECT_TRUE(ledger.drained());
}

TEST(AckLedgerTest, WaitsForTheOtherTopicToo)
{
	AckLedger ledger;
	ledger.sent(AckLedger::Control);
	ledger.sent(AckLedger::Data);
	ledger.commit(100, 7);
	ledger.sent(AckLedger::Control);
	ledger.commit(200, 7);
	ledger.acked(AckLedger::Data);
	EXPECT_EQ(ledger.confirm().endLsn, 0u);
	ledger.acked(AckLedger::Control);
	EXPECT_EQ(ledger.confirm().endLsn, 100u);
	ledger.acked(AckLedger::Control);
	EXPECT_EQ(ledger.confirm().endLsn, 200u);
}

TEST(AckLedgerTest, ConfirmsWhatNeedsNoRecordAtOnce)
{
	AckLedger ledger;
	ledger.commit(100, 7);
	EXPECT_EQ(ledger.confirm().endLsn, 100u);
	ledger.sent(AckLedger::Data);
	ledger.commit(200, 8);
	ledger.commit(300, 8);
	EXPECT_EQ(ledger.confirm().endLsn, 100u);
	ledger.acked(AckLedger::Data);
	EXPECT_EQ(ledger.confirm().endLsn, 300u);
}

TEST(AckLedgerTest, NeverConfirmsAheadOfAnUnacknowledgedRecord)
{
	test::Random random(1);
	for (int run = 0; run < 200; ++run)
	{
		AckLedger ledger;
		struct Transaction
		{
			uint64_t endLsn;
			uint64_t sent[2];
		};
		std::vector<Transaction> transactions;
		uint64_t sent[2] = {0, 0};
		uint64_t acked[2] = {0, 0};
		uint64_t confirmed = 0;
		for (int step = 0; step < 300; ++step)
		{
			auto topic = static_cast<AckLedger::Topic>(random.below(2));
			switch (random.below(4))
			{
			case 0:
				ledger.sent(topic);
				++sent[topic];
				break;
			case 1:
				ledger.commit(static_cast<uint64_t>(step + 1), 0);
				transactions.push_back({static_cast<uint64_t>(step + 1), {sent[0], sent[1]}});
				break;
			default:
				if (acked[topic] < sent[topic])
				{
					ledger.acked(topic);
					++acked[topic];
				}
			}
			uint64_t expected = confirmed;
			for (const Transaction &tx : transactions)
				if (tx.sent[0] <= acked[0] && tx.sent[1] <= acked[1])
					expected = tx.endLsn;
			confirmed = ledger.confirm().endLsn;
			ASSERT_EQ(confirmed, expected);
			ASSERT_EQ(ledger.inFlight(), sent[0] - acked[0] + sent[1] - acked[1]);
		}
	}
}

// ---- SequenceChain

using Chain = SequenceChain::Verdict;

TEST(SequenceChainTest, BeginsWithTheFirstTransaction)
{
	SequenceChain chain(0, 0);
	EXPECT_EQ(chain.judge(record(1, 50, 1, true, 0)), Chain::Next);
}

TEST(SequenceChainTest, ATopicWithoutItsHeadIsAGap)
{
	SequenceChain chain(0, 0);
	EXPECT_EQ(chain.judge(record(1, 50, 1, true, 40)), Chain::Gap);
}

TEST(SequenceChainTest, FollowsTheChain)
{
	SequenceChain chain(1, 50);
	EXPECT_EQ(chain.judge(record(1, 60, 1, true, 50)), Chain::Next);
	chain.applied(60);
	EXPECT_EQ(chain.sequence(), 60u);
	EXPECT_EQ(chain.judge(record(1, 60, 1, true, 50)), Chain::Duplicate);
	EXPECT_EQ(chain.judge(record(1, 55, 1, true, 50)), Chain::Duplicate);
	EXPECT_EQ(chain.judge(record(1, 80, 1, true, 70)), Chain::Gap);
	EXPECT_EQ(chain.judge(record(1, 70, 1, true, 60)), Chain::Next);
}

TEST(SequenceChainTest, AnUnknownPredecessorProvesNoGap)
{
	SequenceChain chain(1, 50);
	EXPECT_EQ(chain.judge(record(1, 60, 1, true, 0)), Chain::Next);
	EXPECT_EQ(chain.judge(record(1, 60, 1, true, 30)), Chain::Next); // starts before ours: nothing is between
}

// The extractor died; its last batch lands behind the first record of the one that followed it, here a repetition.
TEST(SequenceChainTest, IgnoresADeadProducersLateRecord)
{
	SequenceChain chain(1, 50);
	EXPECT_EQ(chain.judge(record(1, 60, 1, false, 50)), Chain::Next);
	EXPECT_EQ(chain.judge(record(2, 50, 1, true, 40)), Chain::Duplicate);
	EXPECT_EQ(chain.incarnation(), 2);
	EXPECT_EQ(chain.judge(record(1, 60, 2, true, 50)), Chain::Stale);
	EXPECT_EQ(chain.judge(record(2, 60, 1, true, 50)), Chain::Next);
}

TEST(SequenceChainTest, AGapIsAGapInANewIncarnationToo)
{
	SequenceChain chain(1, 50);
	EXPECT_EQ(chain.judge(record(2, 80, 1, true, 70)), Chain::Gap);
	EXPECT_EQ(chain.incarnation(), 2);
}

// ---- TransactionGate

using Gate = TransactionGate::Verdict;

TEST(TransactionGateTest, GathersPositionAfterPosition)
{
	TransactionGate gate;
	EXPECT_EQ(gate.judge(record(1, 10, 1, false)), Gate::Begin);
	EXPECT_EQ(gate.judge(record(1, 10, 2, false)), Gate::Continue);
	EXPECT_EQ(gate.judge(record(1, 10, 3, true)), Gate::Continue);
	EXPECT_EQ(gate.judge(record(1, 20, 1, true)), Gate::Begin);
	EXPECT_EQ(gate.judge(record(1, 30, 1, true)), Gate::Begin);
}

TEST(TransactionGateTest, IgnoresARepetition)
{
	TransactionGate gate;
	gate.judge(record(1, 10, 1, false));
	gate.judge(record(1, 10, 2, false));
	EXPECT_EQ(gate.judge(record(1, 10, 1, false)), Gate::Ignore);
	EXPECT_EQ(gate.judge(record(1, 10, 2, false)), Gate::Ignore);
	EXPECT_EQ(gate.judge(record(1, 10, 3, true)), Gate::Continue);
}

TEST(TransactionGateTest, IgnoresTheTailOfARepetitionOfWhatIsComplete)
{
	TransactionGate gate;
	gate.judge(record(1, 10, 1, false));
	gate.judge(record(1, 10, 2, true));
	EXPECT_EQ(gate.judge(record(1, 10, 2, true)), Gate::Ignore);
	gate.judge(record(1, 20, 1, true));
	EXPECT_EQ(gate.judge(record(1, 10, 2, true)), Gate::Ignore);
}

TEST(TransactionGateTest, ACompleteTransactionSentAgainIsGatheredAgain)
{
	TransactionGate gate;
	gate.judge(record(1, 10, 1, false));
	gate.judge(record(1, 10, 2, true));
	EXPECT_EQ(gate.judge(record(1, 10, 1, false)), Gate::Begin);
	EXPECT_EQ(gate.judge(record(1, 10, 2, true)), Gate::Continue);
}

TEST(TransactionGateTest, AMissingRecordIsBroken)
{
	TransactionGate gate;
	gate.judge(record(1, 10, 1, false));
	EXPECT_EQ(gate.judge(record(1, 10, 3, true)), Gate::Broken);
	EXPECT_EQ(gate.judge(record(1, 20, 2, true)), Gate::Broken);
	EXPECT_EQ(gate.judge(record(2, 10, 2, true)), Gate::Broken);
	EXPECT_EQ(gate.judge(record(1, 10, 0, true)), Gate::Broken);
	EXPECT_EQ(TransactionGate().judge(record(1, 10, 2, true)), Gate::Broken);
}

// The extractor died in the middle of a transaction and the next one sends it whole.
TEST(TransactionGateTest, ANewIncarnationBeginsAnew)
{
	TransactionGate gate;
	gate.judge(record(1, 10, 1, false));
	gate.judge(record(1, 10, 2, false));
	EXPECT_EQ(gate.judge(record(2, 10, 1, false)), Gate::Begin);
	EXPECT_EQ(gate.judge(record(1, 10, 3, true)), Gate::Ignore); // the old one's late end must not complete the new
	EXPECT_EQ(gate.judge(record(2, 10, 2, false)), Gate::Continue);
	EXPECT_EQ(gate.judge(record(2, 10, 3, true)), Gate::Continue);
}

TEST(TransactionGateTest, AnotherTransactionDropsWhatHasNoEnd)
{
	TransactionGate gate;
	gate.judge(record(1, 10, 1, false));
	EXPECT_EQ(gate.judge(record(1, 20, 1, false)), Gate::Begin);
	EXPECT_EQ(gate.judge(record(1, 20, 2, true)), Gate::Continue);
}

// Any stream of a producer that dies and starts again, with late and repeated records: what the gate lets complete is
// 1, 2, ... last, and a stream in order is let through whole.
TEST(TransactionGateTest, OnlyWholeTransactionsComplete)
{
	test::Random random(2);
	for (int run = 0; run < 2'000; ++run)
	{
		TransactionGate gate;
		std::vector<Envelope> gathered;
		for (int step = 0; step < 60; ++step)
		{
			Envelope tx = record(random.between(1, 3), random.below(4) * 10 + 10, 0);
			uint32_t length = static_cast<uint32_t>(tx.sequence / 10);
			tx.position = static_cast<uint32_t>(1 + random.below(length));
			tx.last = tx.position == length;
			Gate verdict = gate.judge(tx);
			if (verdict == Gate::Begin)
				gathered.clear();
			if (verdict != Gate::Begin && verdict != Gate::Continue)
				continue;
			gathered.push_back(tx);
			for (size_t i = 0; i < gathered.size(); ++i)
			{
				ASSERT_EQ(gathered[i].position, i + 1);
				ASSERT_EQ(gathered[i].sequence, tx.sequence);
				ASSERT_EQ(gathered[i].incarnation, tx.incarnation);
			}
			if (tx.last)
			{
				ASSERT_EQ(gathered.size(), length);
			}
		}
	}
}

// ---- Incarnations: every order in which the records of extractors that died and of the one that lives can land

using Topic = std::vector<Envelope>;

// Transactions with so many records each; the n-th has sequence 10 n.
struct History
{
	std::vector<uint32_t> lengths;

	// Everything from a boundary on: 0 is before the first transaction.
	Topic from(size_t boundary, int64_t incarnation) const
	{
		Topic records;
		for (size_t i = boundary; i < lengths.size(); ++i)
			for (uint32_t position = 1; position <= lengths[i]; ++position)
				records.push_back(
					record(incarnation, 10 * (i + 1), position, position == lengths[i], 10 * i));
		return records;
	}
	// The boundary up to which a beginning of from(boundary) holds whole transactions.
	size_t wholeIn(const Topic &stream, size_t count, size_t boundary) const
	{
		for (size_t i = 0; i < count; ++i)
			if (stream[i].last)
				++boundary;
		return boundary;
	}
};

// What an applier does, with what it stores: the offset behind the last transaction applied, its sequence, and the
// incarnation.
class Reader
{
public:
	std::vector<uint64_t> applied;
	std::string trouble;

	// Reads up to that offset.
	void readTo(const Topic &topic, size_t end)
	{
		for (; offset_ < end && trouble.empty(); ++offset_)
			read(topic[offset_]);
	}
	// Ends, and starts again from what it had stored.
	void restart()
	{
		chain_ = SequenceChain(storedIncarnation_, applied.empty() ? 0 : applied.back());
		gate_ = TransactionGate();
		gathered_ = 0;
		offset_ = storedOffset_;
	}

private:
	void read(const Envelope &tx)
	{
		Chain chain = chain_.judge(tx);
		if (chain == Chain::Gap)
			trouble = "gap";
		if (chain != Chain::Next)
			return;
		Gate gate = gate_.judge(tx);
		if (gate == Gate::Broken)
			trouble = "broken";
		if (gate != Gate::Begin && gate != Gate::Continue)
			return;
		gathered_ = gate == Gate::Begin ? 1 : gathered_ + 1;
		if (gathered_ != tx.position)
			trouble = "not whole";
		if (!tx.last)
			return;
		applied.push_back(tx.sequence);
		chain_.applied(tx.sequence);
		storedOffset_ = offset_ + 1;
		storedIncarnation_ = chain_.incarnation();
	}

	SequenceChain chain_{0, 0};
	TransactionGate gate_;
	uint32_t gathered_ = 0;
	size_t offset_ = 0;
	size_t storedOffset_ = 0;
	int64_t storedIncarnation_ = 0;
};

std::string told(const Topic &topic)
{
	std::string text;
	for (const Envelope &tx : topic)
		text += std::to_string(tx.incarnation) + ":" + std::to_string(tx.sequence) + "." + std::to_string(tx.position) + " ";
	return text;
}

// Once through, and once for each place where the reader may end and start again.
void expectEachOnce(const History &history, const Topic &topic)
{
	for (size_t restartAt = 0; restartAt <= topic.size(); ++restartAt)
	{
		Reader reader;
		reader.readTo(topic, restartAt);
		reader.restart();
		reader.readTo(topic, topic.size());
		bool good = reader.trouble.empty() && reader.applied.size() == history.lengths.size();
		for (size_t i = 0; good && i < reader.applied.size(); ++i)
			good = reader.applied[i] == 10 * (i + 1);
		ASSERT_TRUE(good) << told(topic) << "restarted at " << restartAt << ": " << reader.trouble;
	}
}

// All ways to mix streams, each in its own order, behind what is in the topic already.
void mix(Topic &topic, std::vector<Topic> streams, std::vector<size_t> taken, const std::function<void()> &visit)
{
	bool any = false;
	for (size_t i = 0; i < streams.size(); ++i)
	{
		if (taken[i] == streams[i].size())
			continue;
		any = true;
		topic.push_back(streams[i][taken[i]++]);
		mix(topic, streams, taken, visit);
		topic.pop_back();
		--taken[i];
		if (::testing::Test::HasFatalFailure())
			return;
	}
	if (!any)
		visit();
}

Topic part(const Topic &stream, size_t from, size_t to)
{
	return {stream.begin() + static_cast<std::ptrdiff_t>(from), stream.begin() + static_cast<std::ptrdiff_t>(to)};
}

TEST(IncarnationTest, TwoInEveryOrder)
{
	const History history{{1, 3, 2}};
	const Topic first = history.from(0, 1);
	size_t orders = 0;
	for (size_t inTime = 0; inTime <= first.size(); ++inTime) // landed while it lived
		for (size_t landed = inTime; landed <= first.size(); ++landed) // and late
			for (size_t boundary = 0; boundary <= history.wholeIn(first, inTime, 0); ++boundary)
			{
				Topic topic = part(first, 0, inTime);
				mix(topic, {part(first, inTime, landed), history.from(boundary, 2)}, {0, 0},
					[&]
					{
						++orders;
						expectEachOnce(history, topic);
					});
				ASSERT_FALSE(HasFatalFailure());
			}
	EXPECT_GT(orders, 2000u);
}

// Two that die one after the other: the late records of both, mixed with those of the third.
TEST(IncarnationTest, ThreeInEveryOrder)
{
	const History history{{2, 2}};
	const Topic first = history.from(0, 1);
	size_t orders = 0;
	for (size_t inTime = 0; inTime <= first.size(); ++inTime)
		for (size_t boundary = 0; boundary <= history.wholeIn(first, inTime, 0); ++boundary)
		{
			const Topic second = history.from(boundary, 2);
			for (size_t secondInTime = 0; secondInTime <= second.size(); ++secondInTime)
				// of the first one's late records, some land while the second lives
				for (size_t amid = inTime; amid <= first.size(); ++amid)
				{
					Topic topic = part(first, 0, inTime);
					mix(topic, {part(first, inTime, amid), part(second, 0, secondInTime)}, {0, 0},
						[&]
						{
							for (size_t third = boundary; third <= history.wholeIn(second, secondInTime, boundary); ++third)
							{
								Topic all = topic;
								mix(all,
									{part(first, amid, first.size()), part(second, secondInTime, second.size()),
									 history.from(third, 3)},
									{0, 0, 0},
									[&]
									{
										++orders;
										expectEachOnce(history, all);
									});
							}
						});
					ASSERT_FALSE(HasFatalFailure());
				}
		}
	EXPECT_GT(orders, 10000u);
}

} // namespace
} // namespace mrsync
