// Who comes first: classes, tenants' clocks, short before long, and that nothing waits for ever.
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/scheduler/scheduler_player.h"

namespace tuppence {
namespace {

constexpr PlayerTenant kInteractive = {.id = 1, .priority_class = PriorityClass::kInteractive};
constexpr PlayerTenant kStandard = {.id = 1};
constexpr PlayerTenant kBatch = {.id = 1, .priority_class = PriorityClass::kBatch};

SchedulerOptions FewPlaces(int32_t places) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.sequences_max = places;
  return options;
}

TEST(FairnessTest, ClassesStartInOrderWhateverTheOrderOfArrival) {
  SchedulerPlayer player(FewPlaces(1), 64);
  const SequenceGroup* batch = player.AddFor(kBatch, 4, 2);
  const SequenceGroup* standard = player.AddFor(kStandard, 4, 2);
  const SequenceGroup* interactive = player.AddFor(kInteractive, 4, 2);
  std::vector<const SequenceGroup*> order;
  while (player.scheduler().running() + player.scheduler().waiting() > 0) {
    const StepPlan& plan = player.Plan();
    if (order.empty() || order.back() != plan.entries[0].group) {
      order.push_back(plan.entries[0].group);
    }
    player.Complete(plan);
  }
  EXPECT_EQ(order, (std::vector<const SequenceGroup*>{interactive, standard, batch}));
}

TEST(FairnessTest, AFloodOfOneTenantDoesNotDelayAnothersFirstRequest) {
  SchedulerPlayer player(FewPlaces(2), 64);
  for (int32_t i = 0; i < 50; ++i) player.AddFor({.id = 1}, 4, 8);
  for (int32_t step = 0; step < 20; ++step) player.Step();
  const SequenceGroup* other = player.AddFor({.id = 2}, 4, 8);
  int32_t steps = 0;
  for (; !other->running; ++steps) player.Step();
  EXPECT_LE(steps, 9) << "as soon as one of the two places is free";
}

// Two or more tenants with always something to do; their lanes' clocks after each step.
class Backlog {
 public:
  Backlog(std::vector<PlayerTenant> tenants, uint64_t seed)
      : tenants_(std::move(tenants)), random_(seed), player_(FewPlaces(kPlaces), 256) {}

  void Step() {
    for (const PlayerTenant& tenant : tenants_) {
      while (WaitingOf(tenant.id) < 2 * kPlaces) {
        player_.AddFor(tenant, 1 + Draw(kPromptMax), 1 + Draw(kOutputMax));
      }
    }
    const StepPlan& plan = player_.Plan();
    for (const PlanEntry& entry : plan.entries) {
      served_[entry.group->tenant] += entry.tokens * kTokenNs;
    }
    player_.Complete(plan);
  }

  // Difference of two waiting lanes' clocks, at most.
  int64_t Gap() {
    int64_t least = kNeverNs;
    int64_t most = 0;
    for (const FairLane* lane : player_.scheduler().queue().lanes_waiting()) {
      least = std::min(least, lane->clock_ns);
      most = std::max(most, lane->clock_ns);
    }
    return most - least;
  }

  // What the requests of one lane that run at a time may be charged, over the weight.
  int64_t Bound() const {
    int64_t weight = kWeightOne;
    for (const PlayerTenant& tenant : tenants_) weight = std::min(weight, tenant.weight_milli);
    return int64_t{kPlaces} * (kPromptMax + kOutputMax) * kTokenNs * kWeightOne / weight;
  }

  int64_t served(int64_t tenant) { return served_[tenant]; }
  void AddTenant(const PlayerTenant& tenant) { tenants_.push_back(tenant); }

 private:
  static constexpr int32_t kPlaces = 4;
  static constexpr int32_t kPromptMax = 40;
  static constexpr int32_t kOutputMax = 20;
  static constexpr int64_t kNeverNs = int64_t{1} << 60;

  int32_t Draw(int32_t below) { return static_cast<int32_t>(random_() % below); }
  int32_t WaitingOf(int64_t tenant) {
    for (const FairLane* lane : player_.scheduler().queue().lanes_waiting()) {
      if (lane->tenant == tenant) return static_cast<int32_t>(lane->waiting.size());
    }
    return 0;
  }

  std::vector<PlayerTenant> tenants_;
  std::mt19937_64 random_;
  SchedulerPlayer player_;
  std::map<int64_t, int64_t> served_;
};

TEST(FairnessTest, ClocksOfThoseWhoWaitStayWithinTheBound) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Backlog backlog({{.id = 1}, {.id = 2}, {.id = 3, .weight_milli = 4000}}, seed);
    for (int32_t step = 0; step < 2000; ++step) {
      backlog.Step();
      ASSERT_LE(backlog.Gap(), backlog.Bound());
    }
    EXPECT_NEAR(static_cast<double>(backlog.served(3)),
                4.0 * static_cast<double>(backlog.served(1)), 4.0 * backlog.Bound());
    EXPECT_NEAR(static_cast<double>(backlog.served(1)), static_cast<double>(backlog.served(2)),
                backlog.Bound());
    EXPECT_GT(backlog.served(1), 5 * backlog.Bound()) << "a run too short to tell";
  }
}

TEST(FairnessTest, ATenantThatComesLaterIsLiftedAndHasNoTimeSavedUp) {
  Backlog backlog({{.id = 1}, {.id = 2}}, 1);
  for (int32_t step = 0; step < 2000; ++step) backlog.Step();
  const int64_t before = backlog.served(1);
  backlog.AddTenant({.id = 3});
  for (int32_t step = 0; step < 1500; ++step) {
    backlog.Step();
    ASSERT_LE(backlog.Gap(), backlog.Bound());
  }
  EXPECT_NEAR(static_cast<double>(backlog.served(1) - before),
              static_cast<double>(backlog.served(3)), 2.0 * backlog.Bound());
}

TEST(FairnessTest, WhoLeavesAheadOfTheOthersIsRemembered) {
  SchedulerPlayer player(FewPlaces(2), 64);
  for (int32_t i = 0; i < 40; ++i) player.AddFor({.id = 1}, 4, 4);
  const SequenceGroup* big = player.AddFor({.id = 2}, 200, 2);
  while (big->live_sequences() > 0) player.Step();
  const SequenceGroup* again = player.AddFor({.id = 2}, 4, 4);
  int32_t passed = 0;
  while (!again->running) {
    passed += player.Step();
  }
  EXPECT_GT(passed, 20) << "the others catch up first";
}

TEST(FairnessTest, AShortRequestBehindTheLongestPromptStartsWithinTwoSteps) {
  SchedulerPlayer player(SmallSchedulerOptions(), 512);
  SequenceGroup* longest = player.Add(1000, 4);
  for (int32_t step = 0; step < 5; ++step) player.Step();
  const SequenceGroup* brief = player.Add(10, 4);
  player.Step();
  player.Step();
  EXPECT_GT(brief->sequences[0].output_tokens(), 0);
  EXPECT_GT(longest->sequences[0].computed, 5 * 16) << "and the long one went on";
}

// A step that a block of a prompt makes longer than the target takes no second one.
TEST(FairnessTest, NorDoesItWaitWhereABlockTakesAllTheTimeOfAStep) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.itl_target_ns = 1000;
  const StepCostCoefficients costs = {
      .launch_ns = 100, .weights_ns = 200, .token_ns = 1000, .attention_ns = 0, .kv_read_ns = 0};
  for (const PlayerTenant& who : {kBatch, kStandard}) {
    SchedulerPlayer player(options, 1024);
    player.scheduler().SetCosts(costs);
    const SequenceGroup* stream = player.AddFor(kStandard, 4, 2000);
    player.Step();
    const SequenceGroup* longest = player.AddFor(who, 1000, 4);
    for (int32_t step = 0; step < 5; ++step) player.Step();
    const int32_t read = longest->sequences[0].computed;
    const SequenceGroup* brief = player.AddFor(kInteractive, 3 * options.block_tokens, 4);
    std::vector<int32_t> went_on;  // which of the two prompts' steps these were
    while (brief->sequences[0].output_tokens() == 0) {
      const StepPlan& plan = player.Plan();
      ASSERT_EQ(TokensOf(plan, stream), 1);
      ASSERT_EQ(TokensOf(plan, brief) + TokensOf(plan, longest), options.block_tokens);
      went_on.push_back(TokensOf(plan, brief) > 0 ? 1 : 0);
      player.Complete(plan);
    }
    EXPECT_EQ(went_on, (std::vector<int32_t>{0, 1, 0, 1, 0, 1})) << "they take turns";
    EXPECT_EQ(longest->sequences[0].computed, read + 3 * options.block_tokens);
  }
}

// A prompt that is to be scored takes all rows of logits that a step has left.
TEST(FairnessTest, NorDoesItWaitForTheLastRowOfLogits) {
  SchedulerOptions options = FewPlaces(4);
  options.logit_rows_max = 4;
  SchedulerPlayer player(options, 1024);
  player.AddFor(kStandard, 4, 2000);
  player.Step();
  player.AddFor(kStandard, 1000, 4)->wants_prompt_logprobs = true;
  for (int32_t step = 0; step < 5; ++step) player.Step();
  const SequenceGroup* brief = player.AddFor(kInteractive, 3, 4);
  int32_t steps = 0;
  for (; brief->sequences[0].output_tokens() == 0; ++steps) player.Step();
  EXPECT_LE(steps, 3);
}

// Late positions of a prompt cost more than early ones: there may be time for one of another's, and
// none for its own next.
TEST(FairnessTest, NorDoesTheFirstInLineStopWhereItsPositionsCostMore) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.itl_target_ns = 1000;
  SchedulerPlayer player(options, 1024);
  player.scheduler().SetCosts(
      {.launch_ns = 0, .weights_ns = 0, .token_ns = 100, .attention_ns = 0, .kv_read_ns = 1});
  player.AddFor(kStandard, 4, 2000);
  player.Step();
  const SequenceGroup* longest = player.AddFor(kBatch, 1000, 4);
  player.Step();
  const SequenceGroup* first = player.AddFor(kInteractive, 500, 4);
  int32_t passed_over = 0;
  int32_t oldest_passed_over = 0;
  while (first->sequences[0].output_tokens() == 0) {
    const StepPlan& plan = player.Plan();
    passed_over = TokensOf(plan, first) == 0 ? passed_over + 1 : 0;
    oldest_passed_over = TokensOf(plan, longest) == 0 ? oldest_passed_over + 1 : 0;
    ASSERT_LT(passed_over, 2) << first->sequences[0].computed;
    ASSERT_LT(oldest_passed_over, 2) << longest->sequences[0].computed;
    player.Complete(plan);
  }
}

TEST(FairnessTest, NorDoesItWaitForAPileOfThem) {
  SchedulerPlayer player(SmallSchedulerOptions(), 2048);
  for (int32_t i = 0; i < 5; ++i) player.Add(1000, 4);
  for (int32_t step = 0; step < 5; ++step) player.Step();
  const SequenceGroup* brief = player.Add(10, 4);
  player.Step();
  player.Step();
  EXPECT_GT(brief->sequences[0].output_tokens(), 0);
}

TEST(FairnessTest, ALongPromptIsPassedOverOnlyForSoLong) {
  SchedulerOptions options = FewPlaces(1);
  options.request_wait_max_ns = 1000;
  SchedulerPlayer player(options, 64);
  const SequenceGroup* running = player.Add(4, 2);
  const SequenceGroup* longest = player.Add(40, 2);
  int64_t waited_ns = 0;
  for (player.Step(); !longest->running; player.Step()) {
    ASSERT_LT(waited_ns, 5000);
    while (player.scheduler().waiting() < 4) player.Add(4, 2);
    player.Advance(100);
    waited_ns += 100;
  }
  EXPECT_FALSE(running->running);
  EXPECT_GE(waited_ns, 1000);
  EXPECT_LE(waited_ns, 1300) << "its turn has come, and the place is free within two steps";
}

TEST(FairnessTest, WhoLostTheirPlaceComesBackBeforeShorterPrompts) {
  SchedulerPlayer player(SmallSchedulerOptions(), /*blocks=*/5);
  const SequenceGroup* first = player.Add(8, 8);
  const SequenceGroup* second = player.Add(7, 8);
  while (first->preemptions + second->preemptions == 0) player.Step();
  const SequenceGroup* lost = first->preemptions > 0 ? first : second;
  const SequenceGroup* brief = player.Add(1, 2);
  while (!lost->running) {
    EXPECT_FALSE(brief->running);
    player.Step();
  }
}

TEST(FairnessTest, APromptUnderWayGetsABlockInEveryStepWhateverComesBeforeIt) {
  SchedulerPlayer player(SmallSchedulerOptions(), 512);
  SequenceGroup* longest = player.AddFor(kBatch, 200, 4);
  player.Step();
  int32_t steps = 0;
  while (longest->sequences[0].computed < 200) {
    while (player.scheduler().waiting() < 8) player.AddFor(kInteractive, 12, 1);
    const int32_t before = longest->sequences[0].computed;
    player.Step();
    ASSERT_GE(longest->sequences[0].computed - before, 4);
    ASSERT_LT(++steps, 60);
  }
}

TEST(FairnessTest, BatchGivesItsPlaceToWhoeverWaits) {
  SchedulerPlayer player(FewPlaces(2), 64);
  SequenceGroup* first = player.AddFor(kBatch, 4, 30);
  SequenceGroup* second = player.AddFor(kBatch, 8, 30);
  player.Step();
  player.Step();
  const SequenceGroup* standard = player.AddFor(kStandard, 4, 4);
  const StepPlan& plan = player.Plan();
  EXPECT_EQ(TokensOf(plan, standard), 4) << "in the very next step";
  EXPECT_EQ(first->preemptions, 1) << "the one with less to compute again";
  EXPECT_EQ(second->preemptions, 0);
  player.Complete(plan);
  while (player.scheduler().running() + player.scheduler().waiting() > 0) player.Step();
  EXPECT_EQ(first->preemptions, 1);
}

TEST(FairnessTest, BatchGivesItsBlocksToWhoeverWaits) {
  SchedulerPlayer player(SmallSchedulerOptions(), 10);
  const SequenceGroup* batch = player.AddFor(kBatch, 32, 4);
  while (batch->sequences.empty() || batch->sequences[0].output_tokens() < 2) player.Step();
  const SequenceGroup* interactive = player.AddFor(kInteractive, 16, 2);
  EXPECT_EQ(TokensOf(player.Plan(), interactive), 16);
  EXPECT_EQ(batch->preemptions, 1);
}

TEST(FairnessTest, BatchKeepsItsPlaceWhereThatWouldNotHelp) {
  SchedulerPlayer player(SmallSchedulerOptions(), 11);
  const SequenceGroup* standard = player.AddFor(kStandard, 30, 8);
  const SequenceGroup* batch = player.AddFor(kBatch, 4, 4);
  player.Step();
  player.Step();
  player.Step();
  ASSERT_TRUE(batch->running);
  player.AddFor(kStandard, 16, 8);
  player.Step();
  EXPECT_EQ(batch->preemptions, 0);
  EXPECT_TRUE(standard->running);
}

TEST(FairnessTest, TheLowestClassIsPreemptedFirst) {
  SchedulerPlayer player(SmallSchedulerOptions(), 12);
  SequenceGroup* batch = player.AddFor(kBatch, 15, 18);
  SequenceGroup* interactive = player.AddFor(kInteractive, 7, 18);
  SequenceGroup* standard = player.AddFor(kStandard, 7, 18);
  while (batch->preemptions + interactive->preemptions + standard->preemptions == 0) player.Step();
  EXPECT_EQ(batch->preemptions, 1) << "although it has most to compute again";
  while (interactive->preemptions + standard->preemptions == 0 &&
         interactive->live_sequences() > 0) {
    player.Step();
  }
  EXPECT_EQ(interactive->preemptions, 0);
}

TEST(FairnessTest, AClassThatIsPassedOverForTooLongStartsOne) {
  SchedulerOptions options = FewPlaces(1);
  options.class_wait_max_ns = {0, 1000, 5000};
  SchedulerPlayer player(options, 64);
  SequenceGroup* standard[2] = {player.AddFor(kStandard, 4, 2), player.AddFor(kStandard, 4, 2)};
  SequenceGroup* batch = player.AddFor(kBatch, 4, 2);
  std::vector<int64_t> started_ns(3, -1);
  SequenceGroup* watched[3] = {standard[0], standard[1], batch};
  for (int64_t now_ns = 0; batch->live_sequences() > 0; now_ns += 100) {
    ASSERT_LT(now_ns, 20'000);
    while (player.scheduler().queue().waiting(PriorityClass::kInteractive) < 4) {
      player.AddFor(kInteractive, 4, 2);
    }
    player.Step();
    player.Advance(100);
    for (int32_t i = 0; i < 3; ++i) {
      if (watched[i]->running && started_ns[i] < 0) started_ns[i] = now_ns;
    }
  }
  EXPECT_NEAR(static_cast<double>(started_ns[0]), 1000, 300);
  EXPECT_NEAR(static_cast<double>(started_ns[1]), started_ns[0] + 1000.0, 300) << "one at a time";
  EXPECT_NEAR(static_cast<double>(started_ns[2]), 5000, 300);
}

TEST(FairnessTest, AnOverdueClassStartsOneAndNotOneOfEachTenant) {
  SchedulerOptions options = FewPlaces(2);
  options.class_wait_max_ns = {0, 1000, 5000};
  SchedulerPlayer player(options, 64);
  const SequenceGroup* batch[2];
  for (int32_t i = 0; i < 2; ++i) {
    batch[i] = player.AddFor({.id = 2 + i, .priority_class = PriorityClass::kBatch}, 4, 2);
  }
  const SequenceGroup* interactive = player.AddFor(kInteractive, 4, 2);
  player.Advance(5000);
  player.Plan();
  EXPECT_TRUE(interactive->running);
  EXPECT_EQ(batch[0]->running + batch[1]->running, 1);
}

TEST(FairnessTest, ManyTenantsThatComeAndGoLeaveNothingBehind) {
  FairQueue queue(kClassWaitMaxNs, kRequestWaitMaxNs);
  for (int64_t tenant = 0; tenant < 20'000; ++tenant) {
    SequenceGroup group;
    group.arrival = tenant;
    group.tenant = tenant;
    queue.Enter(&group, 0);
    queue.Start(&group, 0);
    FairQueue::Charge(group.lane, 1000);
    queue.Leave(&group);
  }
  EXPECT_EQ(queue.waiting(), 0);
  EXPECT_LE(queue.lanes(), 4096);
}

}  // namespace
}  // namespace tuppence
