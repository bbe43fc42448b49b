// The next step's plan is made while the device works, and changes nothing about who runs when.
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "scheduler/null_executor.h"
#include "tests/scheduler/engine_harness.h"
#include "tests/scheduler/scheduler_player.h"

namespace tuppence {
namespace {

std::string Describe(const StepPlan& plan) {
  std::string text;
  for (const PlanEntry& entry : plan.entries) {
    absl::StrAppend(&text, entry.group->arrival, ".", entry.sequence->choice, ":", entry.first, "+",
                    entry.tokens, entry.phase == Phase::kPrefill ? "p" : "d",
                    entry.draws ? "!" : "", " ");
  }
  return text;
}

TEST(PlanAheadTest, DecodesAndPromptsUnderWayArePlannedAhead) {
  SchedulerPlayer player(SmallSchedulerOptions(), /*blocks=*/64);
  player.Add(4, 40);
  player.Step();
  EXPECT_TRUE(player.scheduler().planned_ahead());
  player.Add(60, 4);
  int32_t steps = 0;
  for (player.Step(); player.scheduler().planned_ahead(); player.Step()) ++steps;
  EXPECT_EQ(steps, 6) << "until the prompt is read and its answer draws its last token";
}

TEST(PlanAheadTest, ThePlansAreThoseThatWouldBeMadeThen) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    SchedulerPlayer ahead(SmallSchedulerOptions(), /*blocks=*/256);
    SchedulerPlayer then(SmallSchedulerOptions(), /*blocks=*/256);
    then.PlanNothingAhead();
    std::mt19937_64 random(seed);
    int32_t made_ahead = 0;
    for (int32_t step = 0; step < 300; ++step) {
      if (random() % 8 == 0) {
        const int32_t prompt_tokens = 1 + static_cast<int32_t>(random() % 60);
        const int32_t max_tokens = 1 + static_cast<int32_t>(random() % 30);
        const int32_t choices = 1 + static_cast<int32_t>(random() % 3);
        ahead.Add(prompt_tokens, max_tokens, choices);
        then.Add(prompt_tokens, max_tokens, choices);
      }
      made_ahead += ahead.scheduler().planned_ahead();
      const StepPlan& plan = ahead.Plan();
      const StepPlan& expected = then.Plan();
      ASSERT_EQ(Describe(plan), Describe(expected));
      ahead.Complete(plan);
      then.Complete(expected);
    }
    EXPECT_GT(made_ahead, 50);
  }
}

TEST(PlanAheadTest, WhoComesWhileTheDeviceWorksIsInTheNextStep) {
  SchedulerPlayer player(SmallSchedulerOptions(), /*blocks=*/64);
  player.Add(4, 40);
  player.Step();
  ASSERT_TRUE(player.scheduler().planned_ahead());
  const SequenceGroup* newcomer = player.Add(8, 4);
  EXPECT_EQ(TokensOf(player.Plan(), newcomer), 8);
}

TEST(PlanAheadTest, WhoEndsWhileTheDeviceWorksIsNotInTheNextStep) {
  SchedulerPlayer player(SmallSchedulerOptions(), /*blocks=*/64);
  SequenceGroup* first = player.Add(4, 40);
  const SequenceGroup* second = player.Add(4, 40);
  player.Step();
  ASSERT_TRUE(player.scheduler().planned_ahead());
  player.scheduler().Remove(first, /*tainted=*/false);
  const StepPlan& plan = player.Plan();
  EXPECT_EQ(TokensOf(plan, first), 0);
  EXPECT_EQ(TokensOf(plan, second), 1);
}

// An answer that ends with the step at hand may leave blocks enough for everybody.
TEST(PlanAheadTest, NobodyLosesBlocksAhead) {
  SchedulerPlayer player(SmallSchedulerOptions(), /*blocks=*/4);
  SequenceGroup* first = player.Add(7, 8);
  const SequenceGroup* second = player.Add(7, 8);
  player.Step();
  while (player.scheduler().planned_ahead()) player.Step();
  EXPECT_EQ(first->preemptions + second->preemptions, 0);
  player.scheduler().Remove(first, /*tainted=*/false);
  EXPECT_EQ(player.Plan().preemptions, 0);
  EXPECT_TRUE(second->running);
}

// Looks at the engine at the moment when a device would be at work.
class WatchedExecutor final : public StepExecutor {
 public:
  explicit WatchedExecutor(StepExecutor* device) : device_(device) {}
  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override {
    device_->Launch(blocks, batch, sampling);
  }
  absl::Status Wait(std::span<SampledToken> tokens) override {
    ++steps;
    planned_ahead += engine->scheduler().planned_ahead();
    return device_->Wait(tokens);
  }

  const Engine* engine = nullptr;
  int32_t steps = 0;
  int32_t planned_ahead = 0;

 private:
  StepExecutor* const device_;
};

TEST(PlanAheadTest, TheEnginePlansWhileItsDeviceWorks) {
  const SteadyClock clock;
  NullExecutor device(kTestVocab);
  WatchedExecutor watched(&device);
  Engine engine(SmallEngineOptions(), &watched, /*tokenizer=*/nullptr, &clock);
  watched.engine = &engine;
  const Request request = MakeRequest("r", 5, 20, 1);
  ASSERT_TRUE(engine.Submit(request).ok());
  while (engine.Step()) {
  }
  EXPECT_EQ(watched.steps, 20);
  EXPECT_EQ(watched.planned_ahead, 19) << "all but the last";
}

}  // namespace
}  // namespace tuppence
