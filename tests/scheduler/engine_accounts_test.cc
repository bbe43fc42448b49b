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

// A step goes by the moment at which it begins; a caller's thread may stamp a request after that
// and still be heard in it. Nobody waits for less than nothing.
TEST(EngineTest, TimesAreNoneWhereARequestIsReceivedAfterItsStepBegan) {
  EngineHarness harness(SmallEngineOptions());
  const int64_t now_ns = harness.clock().NowNs();
  for (const char* id : {"answered", "cancelled"}) {
    Request request = MakeRequest(id, 4, 4);
    request.received_ns = now_ns + 7;
    harness.Submit(request);
  }
  harness.stream(1).Cancel();
  harness.Run();
  const Usage& answered = harness.received(0).end->usage;
  EXPECT_EQ(answered.queue_ns, 0);
  EXPECT_EQ(answered.queue_ns + answered.prefill_ns + answered.decode_ns, answered.total_ns);
  EXPECT_EQ(answered.total_ns, harness.clock().NowNs() - now_ns - 7);
  const Usage& cancelled = harness.received(1).end->usage;
  EXPECT_EQ(cancelled.total_ns, 0);
  EXPECT_EQ(cancelled.queue_ns, 0);
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
