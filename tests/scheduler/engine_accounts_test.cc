// Which account the engine's time goes to: nobody's, a request's, or what was computed again.
#include "gtest/gtest.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

TEST(EngineTest, TimeWithoutWorkIsIdleAndTimeBeforeTheFirstStepIsStartup) {
  EngineHarness harness(SmallEngineOptions());
  harness.clock().Advance(111);
  harness.Step();
  harness.clock().Advance(222);
  harness.Submit(MakeRequest("r", 4, 4));
  harness.Run();
  const AccountTotals& totals = harness.engine().ledger().totals();
  EXPECT_EQ(totals.startup_ns, 111);
  EXPECT_EQ(totals.idle_ns, 222);
  EXPECT_EQ(totals.request_ns, harness.received(0).end->cost.machine_ns);
}

TEST(EngineTest, RecomputationAfterAPreemptionIsOverheadNotTheVictims) {
  EngineOptions options = SmallEngineOptions();
  options.blocks = 14;
  EngineHarness harness(options);
  harness.Submit(MakeRequest("first", 20, 30, 1));
  harness.Submit(MakeRequest("second", 12, 30, 2));
  harness.Run();
  harness.ExpectWhole(0);
  harness.ExpectWhole(1);
  const EngineSnapshot snapshot = harness.engine().Snapshot();
  EXPECT_GT(snapshot.preemptions, 0);
  EXPECT_EQ(harness.received(1).end->usage.preemptions, snapshot.preemptions);
  EXPECT_GT(snapshot.recomputed_tokens, 12);
  EXPECT_GT(snapshot.accounts.overhead_ns, 0);
  int64_t charged_ns = 0;
  for (int32_t i = 0; i < 2; ++i) charged_ns += harness.received(i).end->cost.machine_ns;
  EXPECT_EQ(charged_ns + snapshot.accounts.overhead_ns, snapshot.step_ns_sum);
  EXPECT_EQ(snapshot.accounts.request_ns, charged_ns);
  harness.ExpectAtRest();
}

TEST(EngineTest, ALongRopeCrossingIsPaidByTheRequestAndGivesLongTokens) {
  EngineOptions options = SmallEngineOptions();
  options.positions_original = 24;
  EngineHarness harness(options);
  Request request = MakeRequest("r", 20, 30);
  request.sampling.choices = 2;
  harness.Submit(request);
  harness.Run();
  harness.ExpectWhole(0);
  const EngineSnapshot snapshot = harness.engine().Snapshot();
  EXPECT_EQ(snapshot.accounts.overhead_ns, 0);
  EXPECT_EQ(snapshot.prefill_tokens, 20 + 2 * 25);
  EXPECT_EQ(snapshot.recomputed_tokens, 0);
}

}  // namespace
}  // namespace tuppence
