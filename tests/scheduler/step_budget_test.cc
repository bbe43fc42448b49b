// What a step takes of prompts beside running answers, by tokens and by modelled time.
#include "scheduler/step_budget.h"

#include "gtest/gtest.h"

namespace tuppence {
namespace {

constexpr StepBudgetLimits kLimits = {.step_tokens_max = 512,
                                      .prefill_tokens_min = 64,
                                      .block_tokens = 16,
                                      .itl_target_ns = 40'000'000};

// 10 ms for the weights; arithmetic reaches that at 50 tokens.
constexpr StepCostCoefficients kCosts = {.launch_ns = 1'000'000,
                                         .weights_ns = 10'000'000,
                                         .token_ns = 200'000,
                                         .attention_ns = 10,
                                         .kv_read_ns = 1000};

StepBudget Budget(int64_t target_ns, int32_t decodes, int32_t position = 100) {
  StepBudgetLimits limits = kLimits;
  limits.itl_target_ns = target_ns;
  StepBudget budget(limits);
  budget.SetCosts(kCosts);
  budget.Start();
  for (int32_t i = 0; i < decodes; ++i) budget.AddDecode(position);
  return budget;
}

TEST(StepBudgetTest, WithoutDecodesOnlyTokensCount) {
  EXPECT_EQ(Budget(40'000'000, 0).Fits(0, 4000, Phase::kPrefill), 512);
}

TEST(StepBudgetTest, WithoutATargetOnlyTokensCount) {
  EXPECT_EQ(Budget(0, 12).Fits(0, 4000, Phase::kPrefill), 500);
  EXPECT_EQ(Budget(0, 500).Fits(0, 4000, Phase::kPrefill), 64) << "and a floor of them";
}

TEST(StepBudgetTest, AChunkFillsTheTargetAndNotATokenMore) {
  for (const int32_t first : {0, 500, 3000}) {
    StepBudget budget = Budget(40'000'000, 8);
    const int32_t tokens = budget.Fits(first, 4000, Phase::kPrefill);
    EXPECT_GT(tokens, 16);
    EXPECT_LT(tokens, 512);
    StepBudget longer = budget;
    longer.AddPrompt(first, first + tokens + 1, Phase::kPrefill);
    EXPECT_GT(longer.modelled_ns(), 40e6);
    budget.AddPrompt(first, first + tokens, Phase::kPrefill);
    EXPECT_LE(budget.modelled_ns(), 40e6);
    EXPECT_EQ(budget.Fits(first + tokens, 4000, Phase::kPrefill), 0);
  }
}

TEST(StepBudgetTest, ALaterChunkOfTheSamePromptIsShorterForItReadsMore) {
  EXPECT_GT(Budget(40'000'000, 8).Fits(0, 4000, Phase::kPrefill),
            Budget(40'000'000, 8).Fits(20'000, 4000, Phase::kPrefill));
}

TEST(StepBudgetTest, WhereDecodesAloneTakeLongAStepAtMostDoubles) {
  StepBudget budget = Budget(12'000'000, 8);
  const double alone_ns = budget.modelled_ns();
  ASSERT_GT(2 * alone_ns, 12e6);
  const int32_t tokens = budget.Fits(0, 4000, Phase::kPrefill);
  budget.AddPrompt(0, tokens, Phase::kPrefill);
  EXPECT_GT(tokens, 16);
  EXPECT_LE(budget.modelled_ns(), 2 * alone_ns);
}

TEST(StepBudgetTest, WhereDecodesAloneMissTheTargetItIsAtMostThreeTimesAsLong) {
  StepBudget budget = Budget(9'000'000, 8);
  const double alone_ns = budget.modelled_ns();
  ASSERT_GT(alone_ns, 9e6);
  const int32_t tokens = budget.Fits(0, 4000, Phase::kPrefill);
  StepBudget longer = budget;
  longer.AddPrompt(0, tokens + 1, Phase::kPrefill);
  EXPECT_GT(longer.modelled_ns(), 3 * alone_ns);
  budget.AddPrompt(0, tokens, Phase::kPrefill);
  EXPECT_LE(budget.modelled_ns(), 3 * alone_ns);
}

TEST(StepBudgetTest, TheFirstPromptOfAStepAlwaysGetsOneBlock) {
  // Keys at position 1,000,000 take so long to read that no position fits.
  StepBudget budget = Budget(1, 2, /*position=*/0);
  EXPECT_EQ(budget.Fits(1'000'000, 4000, Phase::kPrefill), 16);
  EXPECT_EQ(budget.Fits(1'000'000, 3, Phase::kPrefill), 3);
  budget.AddPrompt(1'000'000, 1'000'016, Phase::kPrefill);
  EXPECT_EQ(budget.Fits(1'000'000, 4000, Phase::kPrefill), 0) << "the second gets nothing";
}

TEST(StepBudgetTest, WhatIsTakenBackFitsAgain) {
  StepBudget budget = Budget(40'000'000, 8);
  const int32_t tokens = budget.Fits(64, 4000, Phase::kPrefill);
  budget.AddPrompt(64, 80, Phase::kPrefill);
  budget.TakeBackPrompt(64, 80, Phase::kPrefill);
  EXPECT_EQ(budget.Fits(64, 4000, Phase::kPrefill), tokens);
}

}  // namespace
}  // namespace tuppence
