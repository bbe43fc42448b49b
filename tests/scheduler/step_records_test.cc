#include "scheduler/step_records.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "gtest/gtest.h"

namespace tuppence {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

void AddStep(StepRecords& records, int64_t step_ns) {
  records.current()->steps.emplace_back().step_ns = step_ns;
}

TEST(StepRecordsTest, ComeOutInOrderAndEmptyAgain) {
  StepRecords records(4, 8);
  EXPECT_EQ(records.Front(), nullptr);
  for (int64_t round = 0; round < 20; ++round) {
    AddStep(records, 2 * round);
    EXPECT_TRUE(records.Publish());
    AddStep(records, 2 * round + 1);
    EXPECT_TRUE(records.Publish());
    EXPECT_EQ(records.waiting(), 2);
    for (int64_t k = 0; k < 2; ++k) {
      ASSERT_NE(records.Front(), nullptr);
      EXPECT_EQ(records.Front()->steps.size(), 1u);
      EXPECT_EQ(records.Front()->steps[0].step_ns, 2 * round + k);
      records.Release();
    }
    EXPECT_TRUE(records.current()->empty());
  }
}

TEST(StepRecordsTest, AFullRingKeepsTheRecordAtHandUntilThereIsRoom) {
  StepRecords records(2, 8);
  for (int64_t i = 0; i < 2; ++i) {
    AddStep(records, i);
    ASSERT_TRUE(records.Publish());
  }
  EXPECT_FALSE(records.HasRoom());
  AddStep(records, 2);
  EXPECT_FALSE(records.Publish());
  AddStep(records, 3);
  EXPECT_FALSE(records.Publish());
  records.Release();
  EXPECT_TRUE(records.Publish());
  records.Release();
  ASSERT_EQ(records.Front()->steps.size(), 2u);
  EXPECT_EQ(records.Front()->steps[1].step_ns, 3);
}

TEST(StepRecordsTest, TellsOfRoomOnceAndOnlyWhenItWasMissing) {
  StepRecords records(2, 8);
  int told = 0;
  records.SetOnRoom([&told] { ++told; });
  AddStep(records, 0);
  ASSERT_TRUE(records.Publish());
  records.Release();
  EXPECT_EQ(told, 0);
  for (int64_t i = 0; i < 3; ++i) {
    AddStep(records, i);
    records.Publish();
  }
  records.Release();
  records.Release();
  EXPECT_EQ(told, 1);
}

TEST(StepRecordsTest, WaitEndsWithARecordTheCloseOrTheTime) {
  StepRecords records(4, 8);
  const auto start = std::chrono::steady_clock::now();
  records.Wait(20'000'000);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(19));
  AddStep(records, 1);
  ASSERT_TRUE(records.Publish());
  records.Wait(3600 * kSecond);  // there already
  records.Release();
  std::thread closer([&records] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    records.Close();
  });
  records.Wait(3600 * kSecond);
  closer.join();
  EXPECT_TRUE(records.closed());
  records.Wait(3600 * kSecond);
}

// Both sides at full speed, sleeping and full at times: nothing lost, doubled or torn.
TEST(StepRecordsTest, TwoThreadsHandOverEveryStepOnce) {
  constexpr int64_t kSteps = 100'000;
  StepRecords records(16, 8);
  std::atomic<int64_t> told = 0;
  records.SetOnRoom([&told] { ++told; });
  int64_t seen = 0;
  std::thread books([&] {
    while (true) {
      while (StepRecord* record = records.Front()) {
        for (const StepSummary& step : record->steps) {
          ASSERT_EQ(step.step_ns, seen);
          ASSERT_EQ(record->inter_token_ns.size(), record->steps.size());
          ++seen;
        }
        if (seen % 5'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        records.Release();
      }
      if (records.closed() && records.Front() == nullptr) return;
      records.Wait(kSecond);
    }
  });
  for (int64_t step = 0; step < kSteps; ++step) {
    AddStep(records, step);
    records.current()->inter_token_ns.push_back(step);
    records.Publish();
    if (step % 3'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  while (!records.current()->empty()) {
    records.Publish();
    std::this_thread::yield();
  }
  records.Close();
  books.join();
  EXPECT_EQ(seen, kSteps);
  EXPECT_EQ(records.waiting(), 0);
}

}  // namespace
}  // namespace tuppence
