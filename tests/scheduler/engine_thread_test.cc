// The engine on its own thread, with real callers on theirs: hand-overs, cancels, drains. For the
// thread sanitizer as much as for the assertions.
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "scheduler/null_executor.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

// Reads a stream to its end as a gRPC reactor would: a Take for each OnReady.
class Reader : public StreamReader {
 public:
  explicit Reader(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {
    stream_->SetReader(this);
  }
  ~Reader() override { stream_->SetReader(nullptr); }

  void OnReady() override {
    stream_->Take(&delta_);
    tokens += static_cast<int64_t>(delta_.choices[0].token_ids.size());
    if (!delta_.end.has_value()) return;
    status = delta_.end->status;
    ended = true;
    ended.notify_all();
  }

  std::atomic<int64_t> tokens = 0;
  absl::Status status;
  std::atomic<bool> ended = false;

 private:
  std::shared_ptr<TokenStream> stream_;
  StreamDelta delta_;
};

EngineOptions ThreadOptions() {
  EngineOptions options = SmallEngineOptions();
  options.inbox_max = 256;
  options.idle_beat_ns = 20'000'000;
  return options;
}

TEST(EngineThreadTest, ManyCallersSubmitReadAndCancel) {
  const SteadyClock clock;
  NullExecutor executor(kTestVocab);
  Engine engine(ThreadOptions(), &executor, nullptr, &clock);
  engine.Start();
  AdmissionControl admission({});
  std::atomic<int32_t> whole = 0;
  std::vector<std::thread> callers;
  for (int32_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int32_t i = 0; i < 50; ++i) {
        Request request = MakeRequest("r", 1 + i, 10 + i, i, {.tokens_max = 4});
        request.stream = std::make_shared<TokenStream>(1, TokenStream::Limits{.tokens_max = 4});
        request.received_ns = clock.NowNs();
        request.hold = *admission.Reserve("tenant", 100);
        const std::shared_ptr<TokenStream> stream = request.stream;
        Reader reader(stream);
        ASSERT_TRUE(engine.Submit(std::move(request)).ok());
        const bool cancels = (i + caller) % 3 == 0;
        if (cancels) stream->Cancel();
        reader.ended.wait(false);
        if (reader.status.ok()) {
          EXPECT_EQ(reader.tokens, 10 + i);
          ++whole;
        } else {
          EXPECT_TRUE(cancels) << reader.status;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  engine.Stop();
  EXPECT_GT(whole, 100);
  EXPECT_EQ(engine.Snapshot().requests_ended, 200);
  EXPECT_EQ(engine.pool().blocks_used(), 0);
  EXPECT_EQ(admission.snapshot().requests, 0);
}

TEST(EngineThreadTest, DrainReturnsWhenTheLastRequestHasEnded) {
  const SteadyClock clock;
  NullExecutor executor(kTestVocab);
  Engine engine(ThreadOptions(), &executor, nullptr, &clock);
  engine.Start();
  std::vector<std::unique_ptr<Reader>> readers;
  for (int32_t i = 0; i < 8; ++i) {
    Request request = MakeRequest("r", 8, 100, i);
    readers.push_back(std::make_unique<Reader>(request.stream));
    ASSERT_TRUE(engine.Submit(std::move(request)).ok());
  }
  engine.Drain(clock.NowNs() + 60'000'000'000);
  EXPECT_TRUE(engine.drained());
  EXPECT_FALSE(engine.Submit(MakeRequest("late", 4, 4)).ok());
  for (const auto& reader : readers) {
    reader->ended.wait(false);
    EXPECT_TRUE(reader->status.ok()) << reader->status;
  }
}

TEST(EngineThreadTest, StopEndsARequestNobodyReads) {
  const SteadyClock clock;
  NullExecutor executor(kTestVocab);
  Engine engine(ThreadOptions(), &executor, nullptr, &clock);
  engine.Start();
  Request request = MakeRequest("r", 8, 100, 1, {.tokens_max = 2});
  const std::shared_ptr<TokenStream> stream = request.stream;
  ASSERT_TRUE(engine.Submit(std::move(request)).ok());
  engine.Stop();
  engine.Stop();
  StreamDelta delta;
  ASSERT_TRUE(stream->Take(&delta));
  ASSERT_TRUE(delta.end.has_value());
  EXPECT_EQ(delta.end->status.code(), absl::StatusCode::kUnavailable);
  stream->Cancel();  // after the engine is gone in spirit: no effect
}

TEST(EngineThreadTest, AnIdleEngineShowsProgress) {
  const SteadyClock clock;
  NullExecutor executor(kTestVocab);
  Engine engine(ThreadOptions(), &executor, nullptr, &clock);
  engine.Start();
  const int64_t start_ns = engine.Snapshot().last_progress_ns;
  while (engine.Snapshot().last_progress_ns < start_ns + 50'000'000) std::this_thread::yield();
  const EngineSnapshot snapshot = engine.Snapshot();
  EXPECT_EQ(snapshot.steps, 0);
  EXPECT_GT(snapshot.accounts.idle_ns, 0);
}

}  // namespace
}  // namespace tuppence
