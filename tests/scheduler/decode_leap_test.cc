// A leap over decode steps and the steps one by one come to the same: times, charges, books. And
// what a replica in virtual time says of simple traffic.
#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "scheduler/simulation/replica.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

ReplicaOptions SmallReplica() {
  ReplicaOptions options;
  EngineOptions& engine = options.engine;
  engine.context_tokens = 2048;
  engine.blocks = 512;
  engine.sequences_max = 32;
  engine.logit_rows_max = 32;
  engine.step_tokens_max = 256;
  engine.cost = {.launch_ns = 300'000,
                 .weights_ns = 9'000'000,
                 .token_ns = 150'000,
                 .attention_ns = 31,
                 .kv_read_ns = 1'003};
  return options;
}

struct Outcome {
  std::vector<RequestRow> rows;
  std::unique_ptr<ReplicaResult> result = std::make_unique<ReplicaResult>();
};

Outcome Play(const ReplicaOptions& options, const std::vector<Arrival>& arrivals,
             int64_t until_ns = 0) {
  Outcome outcome;
  Replica replica(options, [&outcome](const RequestRow& row) { outcome.rows.push_back(row); });
  replica.Run(arrivals, 0, 1, until_ns, outcome.result.get());
  return outcome;
}

void ExpectSameRow(const RequestRow& a, const RequestRow& b) {
  EXPECT_EQ(a.tenant, b.tenant);
  EXPECT_EQ(a.ended_ns, b.ended_ns);
  EXPECT_EQ(a.reason, b.reason);
  EXPECT_EQ(a.usage.queue_ns, b.usage.queue_ns);
  EXPECT_EQ(a.usage.time_to_first_token_ns, b.usage.time_to_first_token_ns);
  EXPECT_EQ(a.usage.total_ns, b.usage.total_ns);
  EXPECT_EQ(a.usage.completion_tokens, b.usage.completion_tokens);
  EXPECT_EQ(a.usage.steps, b.usage.steps);
  EXPECT_EQ(a.usage.preemptions, b.usage.preemptions);
  EXPECT_EQ(a.usage.mean_requests_per_step, b.usage.mean_requests_per_step);
  EXPECT_EQ(a.cost.machine_ns, b.cost.machine_ns);
  EXPECT_EQ(a.cost.shared_ns, b.cost.shared_ns);
  EXPECT_EQ(a.cost.prefill_ns, b.cost.prefill_ns);
  EXPECT_EQ(a.kv_block_seconds, b.kv_block_seconds);
}

// Traffic of all kinds: quiet and crowded spells, tenants and classes, short and long answers.
std::vector<Arrival> DrawArrivals(std::mt19937_64* random) {
  const auto between = [random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(*random);
  };
  std::vector<Arrival> arrivals;
  int64_t at_ns = 0;
  const int64_t gap_ns = between(1, 20) * 100'000'000;
  for (int i = 0; i < 150; ++i) {
    at_ns += between(0, i % 50 < 10 ? gap_ns / 20 : gap_ns);
    arrivals.push_back({.at_ns = at_ns,
                        .prompt_tokens = static_cast<int32_t>(between(1, 400)),
                        .completion_tokens = static_cast<int32_t>(between(1, 300)),
                        .tenant = static_cast<int32_t>(between(0, 3)),
                        .priority_class = static_cast<PriorityClass>(between(0, 2))});
  }
  return arrivals;
}

// Pools that force preemption, few places, LongRoPE crossings, limits in time.
ReplicaOptions DrawReplica(std::mt19937_64* random) {
  const auto between = [random](int64_t low, int64_t high) {
    return static_cast<int32_t>(std::uniform_int_distribution<int64_t>(low, high)(*random));
  };
  ReplicaOptions options = SmallReplica();
  options.engine.blocks = between(0, 1) == 0 ? 512 : between(50, 90);
  options.engine.sequences_max = between(2, 32);
  options.engine.positions_original = between(0, 1) == 0 ? 0 : between(100, 500);
  options.engine.itl_target_ns = between(0, 1) * 30'000'000;
  options.engine.period_ns = between(1, 60) * kSecondNs;
  return options;
}

TEST(DecodeLeapTest, LeapingGivesTheSameScheduleAndChargesAsStepping) {
  int64_t leapt = 0;
  int64_t preemptions = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    ReplicaOptions options = DrawReplica(&random);
    if (seed % 4 == 0) {  // a closed loop
      options.callers = 8;
      options.call_ns = 100'000;
    }
    const std::vector<Arrival> arrivals = DrawArrivals(&random);
    options.leap = false;
    const Outcome stepped = Play(options, arrivals);
    options.leap = true;
    const Outcome leap = Play(options, arrivals);
    EXPECT_EQ(stepped.result->steps_leapt, 0);
    EXPECT_EQ(leap.result->steps, stepped.result->steps);
    EXPECT_EQ(leap.result->elapsed_ns, stepped.result->elapsed_ns);
    EXPECT_EQ(leap.result->preemptions, stepped.result->preemptions);
    EXPECT_EQ(leap.result->accounts.request_ns, stepped.result->accounts.request_ns);
    EXPECT_EQ(leap.result->accounts.overhead_ns, stepped.result->accounts.overhead_ns);
    EXPECT_EQ(leap.result->accounts.idle_ns, stepped.result->accounts.idle_ns);
    EXPECT_EQ(leap.result->inter_token.count(), stepped.result->inter_token.count());
    EXPECT_EQ(leap.result->inter_token.mean_seconds(), stepped.result->inter_token.mean_seconds());
    ASSERT_EQ(leap.rows.size(), stepped.rows.size());
    for (size_t i = 0; i < leap.rows.size(); ++i) ExpectSameRow(leap.rows[i], stepped.rows[i]);
    if (testing::Test::HasFailure()) return;
    leapt += leap.result->steps_leapt;
    preemptions += leap.result->preemptions;
  }
  EXPECT_GT(leapt, 10'000);
  EXPECT_GT(preemptions, 10);
}

TEST(ReplicaTest, TheTimesOfALoneRequestAreTheModels) {
  const ReplicaOptions options = SmallReplica();
  const Outcome outcome =
      Play(options, {{.at_ns = kSecondNs, .prompt_tokens = 100, .completion_tokens = 3}});
  VirtualClock clock;
  const RooflineExecutor device(options.engine.cost, &clock);
  const int64_t prefill_ns = device.StepNs(WorkOf(0, 100, Phase::kPrefill));
  const int64_t decode_ns = device.StepNs(WorkOf(100, 101, Phase::kDecode)) +
                            device.StepNs(WorkOf(101, 102, Phase::kDecode));
  ASSERT_EQ(outcome.rows.size(), 1u);
  EXPECT_EQ(outcome.rows[0].usage.time_to_first_token_ns, prefill_ns);
  EXPECT_EQ(outcome.rows[0].usage.total_ns, prefill_ns + decode_ns);
  EXPECT_EQ(outcome.rows[0].cost.machine_ns, prefill_ns + decode_ns);
  EXPECT_EQ(outcome.result->accounts.idle_ns, kSecondNs);
}

TEST(ReplicaTest, MachinesAreHeldUntilTheEndOfTheTimeAskedFor) {
  const Outcome outcome =
      Play(SmallReplica(), {{.prompt_tokens = 10, .completion_tokens = 10}}, 100 * kSecondNs);
  EXPECT_EQ(outcome.result->elapsed_ns, 100 * kSecondNs);
  EXPECT_EQ(outcome.result->accounts.idle_ns + outcome.result->accounts.request_ns,
            100 * kSecondNs);
}

TEST(ReplicaTest, AClosedLoopKeepsItsCallersBusyAndNoMore) {
  ReplicaOptions options = SmallReplica();
  options.callers = 4;
  const std::vector<Arrival> arrivals(100, {.prompt_tokens = 50, .completion_tokens = 20});
  const Outcome outcome = Play(options, arrivals);
  EXPECT_EQ(outcome.result->requests, 100);
  EXPECT_EQ(outcome.result->accounts.idle_ns, 0);
  for (const RequestRow& row : outcome.rows) {
    EXPECT_LE(row.usage.mean_requests_per_step, 4);
    EXPECT_EQ(row.usage.queue_ns, 0);
  }
}

// The step that begins as an answer ends has begun when its caller calls again.
TEST(ReplicaTest, WhoCallsAgainComesDuringTheNextStep) {
  ReplicaOptions options = SmallReplica();
  options.callers = 2;
  options.call_ns = 1000;
  const std::vector<Arrival> arrivals = {{.prompt_tokens = 100, .completion_tokens = 1},
                                         {.prompt_tokens = 200, .completion_tokens = 1},
                                         {.prompt_tokens = 10, .completion_tokens = 1}};
  const Outcome outcome = Play(options, arrivals);
  VirtualClock clock;
  const RooflineExecutor device(options.engine.cost, &clock);
  const int64_t first_ns = device.StepNs(WorkOf(0, 100, Phase::kPrefill));
  const int64_t second_ns = device.StepNs(WorkOf(0, 200, Phase::kPrefill));
  const int64_t third_ns = device.StepNs(WorkOf(0, 10, Phase::kPrefill));
  ASSERT_EQ(outcome.rows.size(), 3u);
  // The second came while the first, whom an idle engine took at once, was computed.
  EXPECT_EQ(outcome.rows[0].usage.time_to_first_token_ns, first_ns);
  EXPECT_EQ(outcome.rows[1].usage.queue_ns, first_ns - options.call_ns);
  EXPECT_EQ(outcome.rows[2].usage.queue_ns, second_ns - options.call_ns);
  EXPECT_EQ(outcome.rows[2].usage.total_ns, second_ns - options.call_ns + third_ns);
  EXPECT_EQ(outcome.result->accounts.idle_ns, 0);
}

TEST(ReplicaTest, WhatIsBeyondTheQueueIsRefused) {
  ReplicaOptions options = SmallReplica();
  options.admission.requests_max = 10;
  std::vector<Arrival> arrivals(25, {.prompt_tokens = 50, .completion_tokens = 20});
  arrivals[0].prompt_tokens = 3000;  // beyond the context
  const Outcome outcome = Play(options, arrivals);
  EXPECT_EQ(outcome.result->requests, 10);
  EXPECT_EQ(outcome.result->refused, 15);
}

}  // namespace
}  // namespace tuppence
