// What stands before somebody who has just come: the same as a look at everybody says, and at the
// cost of a few.
#include "scheduler/fair_queue.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tuppence {
namespace {

constexpr int64_t kWaitMaxNs = 1000;

// A queue with its requests, and a clock turned by hand.
class Line {
 public:
  SequenceGroup* Come(int64_t tenant, PriorityClass priority_class, int32_t prompt_tokens,
                      int64_t weight_milli = kWeightOne) {
    SequenceGroup* group = groups_.emplace_back(std::make_unique<SequenceGroup>()).get();
    group->arrival = static_cast<int64_t>(groups_.size());
    group->tenant = tenant;
    group->priority_class = priority_class;
    group->weight_milli = weight_milli;
    group->prompt.resize(prompt_tokens);
    group->sequences.resize(1);
    queue_.Enter(group, now_ns_);
    waiting_.push_back(group);
    return group;
  }
  SequenceGroup* Come(int32_t prompt_tokens) {
    return Come(/*tenant=*/1, PriorityClass::kStandard, prompt_tokens);
  }
  void Start(SequenceGroup* group) {
    queue_.Start(group, now_ns_);
    group->running = true;
    std::erase(waiting_, group);
    running_.push_back(group);
  }
  void LosePlace(SequenceGroup* group) {
    group->running = false;
    ++group->preemptions;
    queue_.Requeue(group, now_ns_);
    std::erase(running_, group);
    waiting_.push_back(group);
  }
  void Leave(SequenceGroup* group) {
    queue_.Leave(group);
    std::erase(waiting_, group);
    std::erase(running_, group);
  }

  QueueAhead AheadOf(const SequenceGroup& newcomer) const {
    return queue_.AheadOf(newcomer, now_ns_);
  }
  // The same, by a look at everybody.
  QueueAhead CountAheadOf(const SequenceGroup& newcomer) const;

  void Advance(int64_t ns) { now_ns_ += ns; }
  const std::vector<SequenceGroup*>& waiting() const { return waiting_; }
  const std::vector<SequenceGroup*>& running() const { return running_; }

 private:
  QueueAhead CountOwnLane(const SequenceGroup& newcomer) const;

  FairQueue queue_{kClassWaitMaxNs, kWaitMaxNs};
  int64_t now_ns_ = 0;
  std::vector<std::unique_ptr<SequenceGroup>> groups_;
  std::vector<SequenceGroup*> waiting_;
  std::vector<SequenceGroup*> running_;
};

QueueAhead Line::CountOwnLane(const SequenceGroup& newcomer) const {
  QueueAhead ahead;
  for (const SequenceGroup* group : waiting_) {
    if (group == &newcomer || group->lane != newcomer.lane) continue;
    const bool first = group->preemptions > 0 || now_ns_ - group->waits_since_ns >= kWaitMaxNs ||
                       group->prompt_tokens() <= newcomer.prompt_tokens();
    if (!first) continue;
    ++ahead.requests;
    ahead.tokens += group->tokens_left();
  }
  return ahead;
}

QueueAhead Line::CountAheadOf(const SequenceGroup& newcomer) const {
  const QueueAhead own = CountOwnLane(newcomer);
  QueueAhead ahead = own;
  std::map<FairLane*, QueueAhead> lanes;
  for (const SequenceGroup* group : waiting_) {
    if (group->lane == newcomer.lane || group->priority_class > newcomer.priority_class) continue;
    QueueAhead& lane = lanes[group->lane];
    ++lane.requests;
    lane.tokens += group->tokens_left();
  }
  for (const auto& [lane, theirs] : lanes) {
    const bool shares = lane->priority_class == newcomer.priority_class;
    const auto at_most = [&](int64_t some, int64_t turns) {
      return shares ? std::min(some, turns * lane->weight_milli / newcomer.weight_milli) : some;
    };
    ahead.requests += at_most(theirs.requests, own.requests + 1);
    ahead.tokens += at_most(theirs.tokens, own.tokens + newcomer.tokens_left());
  }
  return ahead;
}

TEST(FairQueueTest, AheadIsWhatALookAtEverybodySays) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto draw = [&](int64_t end) { return static_cast<int64_t>(random() % end); };
    Line line;
    for (int32_t i = 0; i < 500; ++i) {
      const int64_t tenant = draw(4);
      const SequenceGroup* newcomer = line.Come(
          tenant, static_cast<PriorityClass>(draw(kPriorityClasses)),
          static_cast<int32_t>(1 + draw(draw(10) == 0 ? 3000 : 40)), kWeightOne / 2 * (1 + tenant));
      const QueueAhead ahead = line.AheadOf(*newcomer);
      const QueueAhead expected = line.CountAheadOf(*newcomer);
      ASSERT_EQ(ahead.requests, expected.requests);
      ASSERT_EQ(ahead.tokens, expected.tokens);
      if (draw(3) == 0) line.Advance(draw(kWaitMaxNs / 4));
      if (draw(2) == 0) line.Start(line.waiting()[draw(line.waiting().size())]);
      if (draw(4) == 0 && !line.running().empty()) {
        line.LosePlace(line.running()[draw(line.running().size())]);
      }
      if (draw(8) == 0 && !line.waiting().empty()) {
        line.Leave(line.waiting()[draw(line.waiting().size())]);
      }
    }
  }
}

TEST(FairQueueTest, HowManyWaitMakesNoDifferenceToTheCostOfKnowingWhoIsAhead) {
  constexpr int32_t kMany = 4000;
  constexpr int64_t kFew = 1 + 12 + 1;  // the lane, a sum for each bit of the length, who ages next
  Line line;
  for (int32_t i = 0; i < kMany; ++i) line.Come(1 + i);
  EXPECT_EQ(line.AheadOf(*line.Come(1)).requests, 1);
  const QueueAhead middle = line.AheadOf(*line.Come(2047));
  EXPECT_EQ(middle.requests, 2048);
  EXPECT_LE(middle.looked_at, kFew);
  const QueueAhead last = line.AheadOf(*line.Come(kMany));
  EXPECT_EQ(last.requests, kMany + 2);
  EXPECT_LE(last.looked_at, kFew);
}

TEST(FairQueueTest, WhoHasAgedIsLookedAtOnceAndNotForEachWhoComes) {
  constexpr int32_t kMany = 4000;
  Line line;
  for (int32_t i = 0; i < kMany; ++i) line.Come(100);
  line.Advance(kWaitMaxNs);
  const QueueAhead first = line.AheadOf(*line.Come(1));
  EXPECT_EQ(first.requests, kMany) << "all of them have waited too long to be passed by";
  EXPECT_GE(first.looked_at, kMany);
  const QueueAhead second = line.AheadOf(*line.Come(1));
  EXPECT_EQ(second.requests, kMany + 1);
  EXPECT_LE(second.looked_at, 4);
}

}  // namespace
}  // namespace tuppence
