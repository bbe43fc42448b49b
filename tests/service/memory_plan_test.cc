// What a model takes, how the KV pool is sized, and what is said when it does not fit.
#include "service/memory_plan.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/model_loader.h"
#include "service/readiness.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kGiB = int64_t{1} << 30;

// The shape of Phi-3-mini-4k.
MemoryQuestion Mini(int64_t available_bytes) {
  MemoryQuestion question;
  Config& config = question.config;
  config.layers = 32;
  config.hidden = 3072;
  config.heads = config.kv_heads = 32;
  config.head_dim = config.rotary_dim = 96;
  config.intermediate = 8192;
  config.vocab = 32064;
  config.positions_max = config.positions_original = 4096;
  question.weights = *ParseWeightFormat("bf16");
  question.sequences_max = 64;
  question.batch_tokens_max = 512;
  question.logit_rows_max = 64;
  question.available_bytes = available_bytes;
  return question;
}

TEST(MemoryPlanTest, PoolHoldsWhatIsUsefulWhereThereIsRoom) {
  const auto plan = PlanMemory(Mini(256 * kGiB));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->kv_layout.bytes_per_token(), 393'216);
  EXPECT_EQ(plan->kv_blocks, 64 * 512 / 16);
  EXPECT_NEAR(static_cast<double>(plan->weights_bytes), 7.64e9, 0.02e9);
  EXPECT_LE(plan->total_bytes(), plan->available_bytes);
}

TEST(MemoryPlanTest, PoolShrinksToWhatIsLeft) {
  const auto plan = PlanMemory(Mini(11 * kGiB));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LT(plan->kv_blocks, 64 * 512 / 16);
  EXPECT_GE(plan->kv_blocks, 256);
  EXPECT_LE(plan->total_bytes(), plan->available_bytes);
}

TEST(MemoryPlanTest, TooLittleMemoryIsRefusedWithTheNumbersAndWhatWouldFit) {
  const auto plan = PlanMemory(Mini(6 * kGiB));
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(plan.status().message()),
      AllOf(HasSubstr("weights take 7.1 GiB"), HasSubstr("6.0 GiB are available"),
            HasSubstr("--weights int4 --kv int8"), Not(HasSubstr("--weights bf16 --kv bf16"))));
  EXPECT_THAT(std::string(PlanMemory(Mini(kGiB)).status().message()),
              HasSubstr("take a smaller model or a larger machine"));
}

TEST(MemoryPlanTest, PoolOfAGivenSizeIsTakenOrRefused) {
  MemoryQuestion question = Mini(16 * kGiB);
  question.kv_memory_bytes = 2 * kGiB;
  EXPECT_EQ(PlanMemory(question)->kv_blocks, 2 * kGiB / (393'216 * 16));
  question.kv_memory_bytes = 20 * kGiB;
  EXPECT_EQ(PlanMemory(question).status().code(), absl::StatusCode::kResourceExhausted);
  question.kv_memory_bytes = 1000;
  EXPECT_THAT(std::string(PlanMemory(question).status().message()),
              HasSubstr("one block of 16 tokens takes"));
}

TEST(ModelLoaderTest, WhatCannotBeLoadedIsNamedWithTheWayOut) {
  const auto message = [](const char* name) {
    ModelOptions model;
    model.model = name;
    const auto loaded = LoadModel({.model = model, .progress = {}});
    EXPECT_FALSE(loaded.ok());
    return std::string(loaded.status().message());
  };
  EXPECT_THAT(message(""), HasSubstr("give --model a checkpoint folder"));
  EXPECT_THAT(message("/absent"), HasSubstr("/absent"));
  EXPECT_THAT(message("synthetic:gpt-9"), HasSubstr("gpt-9"));
}

TEST(ReadinessTest, FollowsProgressDrainAndFailure) {
  EngineSnapshot engine;
  engine.last_progress_ns = 1'000'000'000;
  EXPECT_TRUE(JudgeReadiness(engine, 1'500'000'000, 1'000'000'000).ready);
  const Readiness hung = JudgeReadiness(engine, 2'100'000'000, 1'000'000'000);
  EXPECT_FALSE(hung.ready);
  EXPECT_FALSE(hung.live);
  EXPECT_THAT(hung.reason, HasSubstr("1100 ms; at most 1000 ms"));
  engine.draining = true;
  const Readiness draining = JudgeReadiness(engine, 1'500'000'000, 1'000'000'000);
  EXPECT_FALSE(draining.ready);
  EXPECT_TRUE(draining.live);
  engine.failed = true;
  EXPECT_FALSE(JudgeReadiness(engine, 1'500'000'000, 1'000'000'000).live);
}

}  // namespace
}  // namespace tuppence
