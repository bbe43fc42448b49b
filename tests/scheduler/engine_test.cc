// One behaviour of the engine each; what may happen all at once is in engine_random_test.cc.
#include "scheduler/engine.h"

#include <utility>

#include "gtest/gtest.h"
#include "scheduler/admission.h"
#include "scheduler/refusal.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

std::string ReasonOf(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  return refusal.has_value() ? refusal->reason : "";
}

std::string MetadataOf(const absl::Status& status, const std::string& key) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  if (!refusal.has_value()) return "";
  for (const auto& [name, value] : refusal->metadata) {
    if (name == key) return value;
  }
  return "";
}

TEST(EngineTest, AnswersWhatTheRequestAloneWouldGet) {
  EngineHarness harness(SmallEngineOptions());
  for (int32_t i = 0; i < 5; ++i) harness.Submit(MakeRequest("r", 3 + 9 * i, 20, i + 1));
  harness.Run();
  for (int32_t i = 0; i < 5; ++i) harness.ExpectWhole(i);
  harness.ExpectAtRest();
}

TEST(EngineTest, ChoiceZeroOfManyIsTheOnlyChoiceOfOne) {
  EngineHarness harness(SmallEngineOptions());
  const int32_t one = harness.Submit(MakeRequest("one", 10, 12));
  Request request = MakeRequest("many", 10, 12);
  request.sampling.choices = 4;
  const int32_t many = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(harness.received(one).token_ids[0], harness.received(many).token_ids[0]);
  EXPECT_NE(harness.received(many).token_ids[0], harness.received(many).token_ids[1]);
  harness.ExpectWhole(many);
  EXPECT_EQ(harness.received(many).end->usage.completion_tokens, 48);
  EXPECT_EQ(harness.received(many).end->usage.prompt_tokens, 10);
}

TEST(EngineTest, ACancelInTheQueueTakesOneStep) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 1;
  EngineHarness harness(options);
  harness.Submit(MakeRequest("running", 4, 20));
  const int32_t queued = harness.Submit(MakeRequest("queued", 4, 20));
  harness.Step();
  harness.stream(queued).Cancel();
  harness.Step();
  ASSERT_TRUE(harness.ended(queued));
  harness.ExpectPart(queued, absl::StatusCode::kCancelled, FinishReason::kCancelled);
  EXPECT_EQ(ReasonOf(harness.received(queued).end->status), reason::kCancelled);
  EXPECT_EQ(harness.received(queued).end->cost.machine_ns, 0) << "a queued request pays nothing";
  harness.Run();
  harness.ExpectWhole(0);
}

TEST(EngineTest, ACancelWhilePrefillingOrDecodingTakesOneStepAndFreesItsBlocks) {
  EngineHarness harness(SmallEngineOptions());
  const int32_t decoding = harness.Submit(MakeRequest("decoding", 4, 40));
  harness.Step();
  const int32_t prefilling = harness.Submit(MakeRequest("prefilling", 200, 4));
  harness.Step();
  for (const int32_t index : {prefilling, decoding}) {
    harness.stream(index).Cancel();
    harness.Step();
    ASSERT_TRUE(harness.ended(index));
    harness.ExpectPart(index, absl::StatusCode::kCancelled, FinishReason::kCancelled);
    EXPECT_GT(harness.received(index).end->cost.machine_ns, 0) << "it pays for what it used";
  }
  harness.ExpectAtRest();
}

TEST(EngineTest, ARequestCancelledBeforeTheEngineSawItNeverRuns) {
  EngineHarness harness(SmallEngineOptions());
  const int32_t index = harness.Submit(MakeRequest("r", 4, 20));
  harness.stream(index).Cancel();
  EXPECT_FALSE(harness.Step());
  EXPECT_TRUE(harness.ended(index));
  EXPECT_EQ(harness.executor().steps(), 0);
}

TEST(EngineTest, ADeadlineEndsARequestInTheQueueAndARunningOne) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 1;
  EngineHarness harness(options);
  Request running = MakeRequest("running", 4, 200);
  running.deadline_ns = harness.clock().NowNs() + 20'000'000;
  harness.Submit(running);
  Request queued = MakeRequest("queued", 4, 20);
  queued.deadline_ns = harness.clock().NowNs() + 10'000'000;
  harness.Submit(queued);
  harness.Run();
  harness.ExpectPart(0, absl::StatusCode::kDeadlineExceeded, FinishReason::kDeadline);
  harness.ExpectPart(1, absl::StatusCode::kDeadlineExceeded, FinishReason::kDeadline);
  EXPECT_GT(harness.received(0).token_ids[0].size(), 5u);
  EXPECT_TRUE(harness.received(1).token_ids[0].empty());
  EXPECT_EQ(harness.received(1).end->usage.queue_ns, harness.received(1).end->usage.total_ns);
  harness.ExpectAtRest();
}

TEST(EngineTest, WhatCannotStartBeforeItsDeadlineIsRefusedAtOnce) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 1;
  EngineHarness harness(options);
  // One ends every 10 ms or so.
  for (int32_t i = 0; i < 8; ++i) harness.Submit(MakeRequest("r", 4, 10, i + 1));
  while (!harness.ended(3)) harness.Step();
  Request hopeless = MakeRequest("hopeless", 4, 10);
  hopeless.deadline_ns = harness.clock().NowNs() + 20'000'000;
  Request in_time = MakeRequest("in time", 4, 10);
  in_time.deadline_ns = harness.clock().NowNs() + 300'000'000;
  const int32_t refused = harness.Submit(hopeless);
  const int32_t accepted = harness.Submit(in_time);
  harness.Step();
  ASSERT_TRUE(harness.ended(refused));
  harness.ExpectPart(refused, absl::StatusCode::kUnavailable, FinishReason::kDeadline);
  const absl::Status& status = harness.received(refused).end->status;
  EXPECT_EQ(ReasonOf(status), reason::kDeadlineUnreachable);
  EXPECT_GE(RefusalOf(status)->retry_after_ms, options.retry_after_ms);
  EXPECT_EQ(MetadataOf(status, "requests_ahead"), "4");
  EXPECT_EQ(harness.received(refused).end->cost.machine_ns, 0);
  harness.Run();
  harness.ExpectWhole(accepted);
  harness.ExpectAtRest();
}

TEST(EngineTest, AnotherTenantsFloodDoesNotMakeADeadlineUnreachable) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 1;
  EngineHarness harness(options);
  for (int32_t i = 0; i < 30; ++i) harness.Submit(MakeRequest("flood", 4, 10, i + 1));
  while (!harness.ended(3)) harness.Step();
  Request other = MakeRequest("other", 4, 10);
  other.tenant = "other";
  other.deadline_ns = harness.clock().NowNs() + 60'000'000;
  const int32_t index = harness.Submit(other);
  while (!harness.ended(index)) harness.Step();
  harness.ExpectWhole(index);
}

TEST(EngineTest, ANumberThatIsNotFiniteEndsThatRequestAlone) {
  EngineHarness harness(SmallEngineOptions());
  Request bad = MakeRequest("bad", 6, 20, /*seed=*/66);
  bad.sampling.choices = 2;
  harness.Submit(MakeRequest("good", 6, 20, 1));
  harness.Submit(bad);
  harness.Submit(MakeRequest("good", 6, 20, 2));
  harness.executor().not_finite = [](const SamplingRow& row) {
    return row.key.seed == 66 && row.key.choice == 0 && row.output_index == 3;
  };
  harness.Run();
  harness.ExpectPart(1, absl::StatusCode::kInternal, FinishReason::kError);
  EXPECT_EQ(ReasonOf(harness.received(1).end->status), reason::kLogitsNotFinite);
  EXPECT_EQ(harness.received(1).token_ids[0].size(), 3u);
  harness.ExpectWhole(0);
  harness.ExpectWhole(2);
  EXPECT_EQ(harness.engine().Snapshot().rows_not_finite, 1);
  harness.ExpectAtRest();
}

TEST(EngineTest, BlocksThatHeldNoNumbersAreZeroedBeforeTheyAreUsedAgain) {
  EngineHarness harness(SmallEngineOptions());
  harness.executor().not_finite = [](const SamplingRow& row) { return row.key.seed == 66; };
  harness.Submit(MakeRequest("bad", 12, 20, /*seed=*/66));
  harness.Run();
  size_t zeroed = 0;
  harness.executor().on_launch = [&](const BlockWork& blocks, const Batch&,
                                     std::span<const SamplingRow>) {
    zeroed += blocks.zero.size();
  };
  harness.Submit(MakeRequest("next", 12, 2));
  harness.Run();
  EXPECT_GE(zeroed, 3u);
}

TEST(EngineTest, BlocksThatChangeTenantAreZeroed) {
  EngineOptions options = SmallEngineOptions();
  options.prefix_cache = false;  // nothing is left for the first tenant
  EngineHarness harness(options);
  size_t zeroed = 0;
  harness.executor().on_launch = [&](const BlockWork& blocks, const Batch&,
                                     std::span<const SamplingRow>) {
    zeroed += blocks.zero.size();
  };
  harness.Submit(MakeRequest("first", 12, 2));
  harness.Run();
  EXPECT_EQ(zeroed, 0u);
  Request other = MakeRequest("second", 12, 2);
  other.tenant = "another";
  harness.Submit(other);
  harness.Run();
  EXPECT_GE(zeroed, 3u);
}

TEST(EngineTest, AFailedDeviceEndsEverythingInFlightAndStaysFailed) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 2;
  EngineHarness harness(options);
  for (int32_t i = 0; i < 4; ++i) harness.Submit(MakeRequest("r", 4, 20, i + 1));
  harness.Step();
  harness.executor().fail_with = absl::InternalError("illegal address");
  harness.Step();
  for (int32_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(harness.ended(i));
    harness.ExpectPart(i, absl::StatusCode::kUnavailable, FinishReason::kError);
  }
  EXPECT_TRUE(harness.engine().Snapshot().failed);
  const absl::Status refused = harness.engine().Submit(MakeRequest("late", 4, 4));
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), reason::kEngineFailed);
  EXPECT_GT(harness.engine().ledger().totals().overhead_ns, 0) << "a failed step is nobody's";
  harness.ExpectAtRest();
}

TEST(EngineTest, ASlowReaderPausesOnlyItself) {
  EngineHarness harness(SmallEngineOptions());
  const int32_t slow = harness.Submit(MakeRequest("slow", 4, 40, 1, {.tokens_max = 3}));
  const int32_t fast = harness.Submit(MakeRequest("fast", 4, 40, 2));
  for (int32_t step = 0; step < 60; ++step) {
    harness.StepWithoutReading();
    harness.Read(fast);
  }
  harness.ExpectWhole(fast);
  harness.Read(slow);
  EXPECT_EQ(harness.received(slow).token_ids[0].size(), 3u);
  harness.Run();
  harness.ExpectWhole(slow);
}

TEST(EngineTest, AReaderThatTakesNothingIsCancelledAfterTheStallLimit) {
  EngineOptions options = SmallEngineOptions();
  options.stall_limit_ns = 50'000'000;
  EngineHarness harness(options);
  const int32_t slow = harness.Submit(MakeRequest("slow", 4, 40, 1, {.tokens_max = 3}));
  while (harness.engine().Step()) continue;
  EXPECT_GT(harness.engine().pool().blocks_used(), 0) << "it keeps its blocks meanwhile";
  EXPECT_LE(harness.engine().next_alarm_ns(), harness.clock().NowNs() + options.stall_limit_ns);
  harness.clock().Advance(options.stall_limit_ns);
  harness.engine().Step();
  harness.Read(slow);
  harness.ExpectPart(slow, absl::StatusCode::kCancelled, FinishReason::kCancelled);
  EXPECT_EQ(ReasonOf(harness.received(slow).end->status), reason::kSlowReader);
  harness.ExpectAtRest();
}

TEST(EngineTest, StopIdsAreMaskedBelowMinTokensAndCountedWhenDrawn) {
  Request request = MakeRequest("r", 5, 60);
  for (int32_t id = 0; id < kTestVocab; id += 2) request.stop_ids.push_back(id);
  request.sampling.min_tokens = 10;
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(request);
  harness.Run();
  harness.ExpectWhole(0);
  const std::vector<int32_t>& tokens = harness.received(0).token_ids[0];
  ASSERT_GE(tokens.size(), 11u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(tokens[i] % 2, 1);
  EXPECT_EQ(tokens.back() % 2, 0) << "the stop id is part of token_ids";
  EXPECT_EQ(harness.received(0).finish_reasons[0], FinishReason::kStop);
}

TEST(EngineTest, LogProbabilitiesComeWithTheirTokens) {
  EngineHarness harness(SmallEngineOptions());
  Request request = MakeRequest("r", 9, 5);
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 2;
  request.sampling.prompt_logprobs = true;
  request.sampling.prompt_top_logprobs = 3;
  harness.Submit(request);
  harness.Run();
  const Received& received = harness.received(0);
  ASSERT_EQ(received.logprobs[0].size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(received.logprobs[0][i].chosen.token_id, received.token_ids[0][i]);
    EXPECT_EQ(received.logprobs[0][i].top.size(), 2u);
  }
  ASSERT_EQ(received.prompt_logprobs.size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(received.prompt_logprobs[i].chosen.token_id, request.prompt[i + 1]);
    EXPECT_EQ(received.prompt_logprobs[i].top.size(), 3u);
  }
}

TEST(EngineTest, RefusesAtOnceWhatItCanNeverServeAndSaysTheNumbers) {
  EngineHarness harness(SmallEngineOptions());
  Engine& engine = harness.engine();
  absl::Status status = engine.Submit(MakeRequest("long", 200, 57));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), reason::kContextExceeded);
  EXPECT_EQ(MetadataOf(status, "prompt_tokens"), "200");
  EXPECT_EQ(MetadataOf(status, "context_tokens"), "256");

  Request large = MakeRequest("large", 100, 50);
  large.sampling.choices = 2;  // 2 * 38 blocks of 64
  status = engine.Submit(large);
  EXPECT_EQ(ReasonOf(status), reason::kTooLargeForPool);
  EXPECT_EQ(MetadataOf(status, "kv_tokens"), "304");
  EXPECT_EQ(MetadataOf(status, "kv_tokens_max"), "256");

  Request wide = MakeRequest("wide", 4, 4);
  wide.sampling.choices = 9;
  EXPECT_EQ(ReasonOf(engine.Submit(wide)), reason::kTooManyChoices);

  Request late = MakeRequest("late", 4, 4);
  late.deadline_ns = harness.clock().NowNs();
  EXPECT_EQ(engine.Submit(late).code(), absl::StatusCode::kDeadlineExceeded);

  Request stop = MakeRequest("stop", 4, 4);
  stop.sampling.stop_strings = {"x"};
  EXPECT_EQ(engine.Submit(stop).code(), absl::StatusCode::kInvalidArgument) << "no tokenizer";
  EXPECT_EQ(engine.Submit(MakeRequest("empty", 0, 4)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(engine.Step());
}

TEST(EngineTest, ARequestThatFillsThePoolToTheLastBlockIsServed) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("all", 200, 56));
  Request choices = MakeRequest("choices", 100, 28);
  choices.sampling.choices = 2;
  harness.Submit(choices);
  harness.Run();
  harness.ExpectWhole(0);
  harness.ExpectWhole(1);
}

TEST(EngineTest, ADrainLetsRequestsFinishAndTakesNoNewOnes) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("r", 4, 20));
  harness.Step();
  harness.engine().BeginDrain(harness.clock().NowNs() + 1'000'000'000);
  const absl::Status refused = harness.engine().Submit(MakeRequest("late", 4, 4));
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), reason::kDraining);
  EXPECT_GE(RefusalOf(refused)->retry_after_ms, 0);
  harness.Run();
  harness.ExpectWhole(0);
  EXPECT_FALSE(harness.engine().drained());
  harness.Step();
  EXPECT_TRUE(harness.engine().drained());
  harness.clock().Advance(5'000);
  harness.Step();
  EXPECT_GE(harness.engine().ledger().totals().drain_ns, 5'000);
}

TEST(EngineTest, WhatADrainDoesNotFinishEndsUnavailableWithItsUsageBooked) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 1;
  EngineHarness harness(options);
  harness.Submit(MakeRequest("running", 4, 200));
  harness.Submit(MakeRequest("queued", 4, 20));
  harness.Step();
  harness.engine().BeginDrain(harness.clock().NowNs() + 10'000'000);
  harness.Run();
  for (int32_t i = 0; i < 2; ++i) {
    harness.ExpectPart(i, absl::StatusCode::kUnavailable, FinishReason::kDrained);
    EXPECT_EQ(ReasonOf(harness.received(i).end->status), reason::kDraining);
  }
  EXPECT_GT(harness.received(0).end->cost.machine_ns, 0);
  harness.ExpectAtRest();
}

TEST(EngineTest, StoppingEndsWhatIsInFlight) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("r", 4, 200));
  harness.Step();
  harness.engine().Stop();
  harness.ReadAll();
  harness.ExpectPart(0, absl::StatusCode::kUnavailable, FinishReason::kDrained);
}

TEST(EngineTest, UsageTimesPartTheRequestsTime) {
  EngineOptions options = SmallEngineOptions();
  options.sequences_max = 1;
  EngineHarness harness(options);
  harness.Submit(MakeRequest("first", 40, 10, 1));
  harness.Submit(MakeRequest("second", 40, 10, 2));
  harness.Run();
  for (int32_t i = 0; i < 2; ++i) {
    const Usage& usage = harness.received(i).end->usage;
    EXPECT_EQ(usage.queue_ns + usage.prefill_ns + usage.decode_ns, usage.total_ns);
    EXPECT_EQ(usage.time_to_first_token_ns, usage.queue_ns + usage.prefill_ns);
    EXPECT_EQ(usage.steps, 2 + 9);
    EXPECT_EQ(usage.mean_requests_per_step, 1);
  }
  EXPECT_EQ(harness.received(0).end->usage.queue_ns, 0);
  EXPECT_GT(harness.received(1).end->usage.queue_ns, 0);
}

TEST(EngineTest, EnergyIsDividedAsTheTimeIs) {
  EngineHarness harness(SmallEngineOptions());
  harness.executor().power = 70;
  harness.Submit(MakeRequest("long", 40, 20, 1));
  harness.Submit(MakeRequest("short", 4, 3, 2));
  harness.Run();
  double joules = 0;
  for (int32_t i = 0; i < 2; ++i) {
    const RequestEnd& end = *harness.received(i).end;
    EXPECT_NEAR(end.usage.energy_joules, 70e-9 * static_cast<double>(end.cost.machine_ns), 1e-12);
    joules += end.usage.energy_joules;
  }
  EXPECT_NEAR(harness.engine().Snapshot().energy_joules, joules, 1e-12);
}

TEST(EngineTest, EnergyThatCannotBeReadIsNotTold) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("one", 40, 5, 1));
  harness.Run();
  EXPECT_EQ(harness.received(0).end->usage.energy_joules, 0);
  EXPECT_EQ(harness.engine().Snapshot().energy_joules, 0);
}

TEST(EngineTest, CostIsTheChargedTimeAtTheRateCard) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("r", 40, 10));
  harness.Run();
  const Cost& cost = harness.received(0).end->cost;
  EXPECT_TRUE(cost.has_rate);
  EXPECT_EQ(cost.rate_card_id, "test-card");
  // 0.5 USD an hour: 500,000,000 nano-USD in 3,600 s.
  EXPECT_EQ(cost.cost_nanousd, (cost.machine_ns * 500 + 1'800'000) / 3'600'000);
  EXPECT_EQ(cost.machine_ns, harness.engine().Snapshot().step_ns_sum)
      << "alone it pays for whole steps";
}

TEST(EngineTest, TheReservationIsGivenBackAtTheEnd) {
  AdmissionControl admission({});
  EngineHarness harness(SmallEngineOptions());
  Request request = MakeRequest("r", 4, 4);
  request.hold = *admission.Reserve("tenant", 10);
  // The harness keeps a copy of the request, so the hold must be the engine's alone.
  std::shared_ptr<AdmissionHold> hold = std::move(request.hold);
  std::weak_ptr<AdmissionHold> watched = hold;
  const std::shared_ptr<TokenStream> stream = request.stream;
  request.stream = std::make_shared<TokenStream>(1, TokenStream::Limits());
  request.hold = std::move(hold);
  ASSERT_TRUE(harness.engine().Submit(std::move(request)).ok());
  harness.engine().Step();
  EXPECT_EQ(admission.snapshot().requests, 1);
  while (harness.engine().Step()) continue;
  EXPECT_TRUE(watched.expired());
  EXPECT_EQ(admission.snapshot().requests, 0);
}

}  // namespace
}  // namespace tuppence
