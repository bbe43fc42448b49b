// The measurement before the first request: what it shows, what it costs, what it leaves alone.
#include "scheduler/warm_up.h"

#include "gtest/gtest.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

TEST(WarmUpTest, ShowsTheModelThisMachineAndHarmsNoAnswer) {
  EngineOptions options = SmallEngineOptions();
  options.blocks = 200;
  EngineHarness harness(options);
  const int64_t before_ns = harness.clock().NowNs();
  ASSERT_TRUE(harness.engine().WarmUp().ok());
  EXPECT_GT(harness.executor().steps(), 3);
  const int64_t took_ns = harness.clock().NowNs() - before_ns;
  harness.Submit(MakeRequest("r", 20, 10));
  harness.Run();
  harness.ExpectWhole(0);
  harness.ExpectAtRest();
  EXPECT_EQ(harness.engine().Snapshot().accounts.startup_ns, took_ns);
  const EngineSnapshot snapshot = harness.engine().Snapshot();
  EXPECT_FALSE(snapshot.cost == options.cost);
  EXPECT_LT(snapshot.step_model_error_p95, 0.1) << "of the fake device, whose steps are regular";
}

TEST(WarmUpTest, KeepsToItsBudgetAndPassesOnTheDevicesFailure) {
  EngineOptions options = SmallEngineOptions();
  options.warm_up_ns = 2'500'000;  // the fake device takes 1 ms a step
  EngineHarness harness(options);
  const int64_t before_ns = harness.clock().NowNs();
  ASSERT_TRUE(harness.engine().WarmUp().ok());
  EXPECT_LE(harness.clock().NowNs() - before_ns, 3'000'000);
  harness.executor().fail_with = absl::InternalError("no device");
  EXPECT_EQ(harness.engine().WarmUp().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tuppence
