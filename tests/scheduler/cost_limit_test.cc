// max_cost_nanousd: an answer ends before the step that would take its cost above the caller's
// limit. The device here takes exactly the time that the step-cost model says, unless a test is
// about a model that is wrong.
#include <cmath>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "scheduler/refusal.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

EngineOptions ExactlyModelled() {
  EngineOptions options = SmallEngineOptions();
  options.prefix_cache = false;
  options.cost = {.launch_ns = 1'000'003,
                  .weights_ns = 0,
                  .token_ns = 1009,
                  .attention_ns = 0,
                  .kv_read_ns = 0};
  return options;
}

int32_t SubmitLimited(EngineHarness& harness, Request request, int64_t max_cost_nanousd) {
  request.max_cost_nanousd = max_cost_nanousd;
  return harness.Submit(std::move(request));
}

TEST(CostLimitTest, AnAnswerGoesAsFarAsItsLimitReachesAndNeverFurther) {
  EngineHarness whole(ExactlyModelled());
  whole.Submit(MakeRequest("r", 40, 10));
  whole.Run();
  const int64_t full_nanousd = whole.received(0).end->cost.cost_nanousd;
  const int64_t step_nanousd = 139;  // a decode step alone: 1,001,012 ns at 0.5 USD an hour
  size_t tokens_before = 0;
  for (int64_t limit = 1; limit < full_nanousd; limit += 23) {
    EngineHarness harness(ExactlyModelled());
    SubmitLimited(harness, MakeRequest("r", 40, 10), limit);
    harness.Run();
    harness.ExpectPart(0, absl::StatusCode::kOk, FinishReason::kCostLimit);
    harness.ExpectAtRest();
    const Cost& cost = harness.received(0).end->cost;
    EXPECT_LE(cost.cost_nanousd, limit);
    const size_t tokens = harness.received(0).token_ids[0].size();
    EXPECT_GE(tokens, tokens_before) << limit;
    if (tokens > 0) {
      EXPECT_GT(cost.cost_nanousd + step_nanousd + 2, limit) << "it could have gone on";
    }
    tokens_before = tokens;
  }
  EXPECT_EQ(tokens_before, 9u);
  EngineHarness enough(ExactlyModelled());
  SubmitLimited(enough, MakeRequest("r", 40, 10), full_nanousd + 1);
  enough.Run();
  enough.ExpectWhole(0);
}

TEST(CostLimitTest, WhoeverSharesTheStepsGetsFurtherForTheSameLimit) {
  EngineHarness alone(ExactlyModelled());
  SubmitLimited(alone, MakeRequest("r", 8, 100), 3000);
  alone.Run();
  EngineOptions roomy = ExactlyModelled();
  roomy.blocks = 128;
  EngineHarness shared(roomy);
  const int32_t limited = SubmitLimited(shared, MakeRequest("r", 8, 100), 3000);
  for (int32_t i = 0; i < 3; ++i) {
    shared.Submit(MakeRequest("other" + std::to_string(i), 8, 100, 2 + i));
  }
  shared.Run();
  shared.ExpectPart(limited, absl::StatusCode::kOk, FinishReason::kCostLimit);
  EXPECT_LE(shared.received(limited).end->cost.cost_nanousd, 3000);
  EXPECT_GT(shared.received(limited).token_ids[0].size(),
            3 * alone.received(0).token_ids[0].size());
  for (int32_t i = 1; i < 4; ++i) shared.ExpectWhole(i);
}

TEST(CostLimitTest, APromptThatCostsMoreThanTheLimitIsNotRead) {
  EngineHarness harness(ExactlyModelled());
  SubmitLimited(harness, MakeRequest("r", 100, 4), 100);
  harness.Run();
  harness.ExpectPart(0, absl::StatusCode::kOk, FinishReason::kCostLimit);
  EXPECT_EQ(harness.received(0).end->cost.machine_ns, 0);
  EXPECT_EQ(harness.received(0).end->usage.steps, 0);
  harness.ExpectAtRest();
}

TEST(CostLimitTest, WhatIsCachedOfAPromptDoesNotCountAgainstTheLimit) {
  EngineOptions options = ExactlyModelled();
  options.prefix_cache = true;
  options.cost = {.launch_ns = 3, .weights_ns = 0, .token_ns = 10'000'000};
  EngineHarness harness(options);
  const int64_t ten_tokens_nanousd = 13'889;  // 0.1 s at 0.5 USD an hour
  const int32_t dear = SubmitLimited(harness, MakeRequest("r", 60, 1), ten_tokens_nanousd);
  harness.Run();
  EXPECT_EQ(harness.received(dear).end->usage.steps, 0);
  harness.Submit(MakeRequest("r", 60, 1));
  harness.Run();
  const int32_t cached = SubmitLimited(harness, MakeRequest("r", 60, 1), ten_tokens_nanousd);
  harness.Run();
  harness.ExpectWhole(cached);
}

TEST(CostLimitTest, AModelThatIsWrongLetsTheLimitBePassedByOneStepAtMost) {
  EngineOptions options = ExactlyModelled();
  options.cost = {
      .launch_ns = 1, .weights_ns = 0, .token_ns = 0, .attention_ns = 0, .kv_read_ns = 0};
  EngineHarness harness(options);
  SubmitLimited(harness, MakeRequest("r", 100, 4), 50);  // the first of four chunks costs 143
  harness.Run();
  const RequestEnd& end = *harness.received(0).end;
  EXPECT_EQ(end.finish_reasons[0], FinishReason::kCostLimit);
  EXPECT_EQ(end.usage.steps, 1) << "not another chunk of a prompt that cannot be paid for";
}

TEST(CostLimitTest, AllChoicesOfARequestShareItsLimit) {
  EngineHarness harness(ExactlyModelled());
  Request request = MakeRequest("r", 8, 60);
  request.sampling.choices = 3;
  SubmitLimited(harness, std::move(request), 2000);
  harness.Run();
  harness.ExpectPart(0, absl::StatusCode::kOk, FinishReason::kCostLimit);
  EXPECT_LE(harness.received(0).end->cost.cost_nanousd, 2000);
  harness.ExpectAtRest();
}

TEST(CostLimitTest, WithoutARateCardALimitIsRefused) {
  EngineOptions options = SmallEngineOptions();
  options.rate_card = {};
  EngineHarness harness(options);
  Request request = MakeRequest("r", 8, 4);
  request.max_cost_nanousd = 5000;
  const absl::Status status = harness.engine().Submit(std::move(request));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(RefusalOf(status)->reason, reason::kNoRateCard);
}

TEST(CostLimitTest, ARateThatRisesUnderWayEndsTheAnswerSooner) {
  EngineHarness harness(ExactlyModelled());
  SubmitLimited(harness, MakeRequest("r", 8, 200), 139 * 100);
  for (int i = 0; i < 10; ++i) harness.Step();
  harness.engine().SetRateCard({.id = "ten times", .micro_usd_per_hour = 5'000'000});
  harness.Run();
  harness.ExpectPart(0, absl::StatusCode::kOk, FinishReason::kCostLimit);
  const RequestEnd& end = *harness.received(0).end;
  EXPECT_LE(end.cost.cost_nanousd, 139 * 100);
  EXPECT_LT(end.usage.completion_tokens, 25);
}

}  // namespace
}  // namespace tuppence
