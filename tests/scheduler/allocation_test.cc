// A step of 256 sequences allocates nothing once they run: counted with a global operator new of
// our own. The sanitizers bring theirs, so that these tests are left out there.
#include <atomic>
#include <cstdlib>
#include <new>

#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "scheduler/null_executor.h"
#include "tests/scheduler/engine_harness.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {
std::atomic<int64_t> allocations = 0;
}  // namespace

// GCC sees free() meet operator new and does not see that both are ours.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace tuppence {
namespace {

constexpr int32_t kSequences = 256;

EngineOptions Options() {
  EngineOptions options = SmallEngineOptions();
  options.context_tokens = 1024;
  options.blocks = kSequences * options.context_tokens / options.block_tokens;
  options.sequences_max = kSequences;
  options.step_tokens_max = 2 * kSequences;
  options.logit_rows_max = kSequences;
  options.inbox_max = kSequences;
  return options;
}

// As many requests as fill every place.
std::vector<Request> Crowd(int32_t choices = 1) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < kSequences / choices; ++i) {
    Request request = MakeRequest("r", 5 + 7 * (i % 12), 900, i);
    request.sampling.choices = choices;
    request.stream = std::make_shared<TokenStream>(choices, TokenStream::Limits());
    requests.push_back(request);
  }
  return requests;
}

// Allocations of 200 decode steps of all places, readers included, after a warm-up. With records,
// every other step the books take down what there is.
int64_t AllocationsOfDecodeSteps(const std::vector<Request>& requests,
                                 StepRecords* records = nullptr) {
  const SteadyClock clock;
  NullExecutor executor(kTestVocab);
  EngineOptions options = Options();
  options.records = records;
  Engine engine(options, &executor, nullptr, &clock);
  int32_t steps = 0;
  for (const Request& request : requests) EXPECT_TRUE(engine.Submit(request).ok());
  std::vector<StreamDelta> deltas(requests.size());
  const auto step = [&] {
    EXPECT_TRUE(engine.Step());
    for (size_t i = 0; i < requests.size(); ++i) requests[i].stream->Take(&deltas[i]);
    engine.notifier()->NotifyAll();
    if (records == nullptr || ++steps % 2 != 0) return;
    while (records->Front() != nullptr) records->Release();
  };
  for (int i = 0; i < 100; ++i) step();
  const EngineSnapshot begin = engine.Snapshot();
  EXPECT_EQ(begin.sequences_running, kSequences);
  const int64_t before = allocations.load();
  for (int i = 0; i < 200; ++i) step();
  const int64_t after = allocations.load();
  EXPECT_EQ(engine.Snapshot().decode_tokens - begin.decode_tokens, 200 * kSequences);
  return after - before;
}

TEST(AllocationTest, DecodeStepsAllocateNothing) {
  EXPECT_EQ(AllocationsOfDecodeSteps(Crowd()), 0);
}

TEST(AllocationTest, NorWithBooks) {
  StepRecords records(/*records=*/16, /*sequences_max=*/kSequences);
  EXPECT_EQ(AllocationsOfDecodeSteps(Crowd(), &records), 0);
}

TEST(AllocationTest, NorDoTheyWithChoicesPenaltiesAndBiases) {
  std::vector<Request> requests = Crowd(/*choices=*/4);
  for (Request& request : requests) {
    request.sampling.frequency_penalty = 0.5f;
    request.sampling.min_tokens = 700;
    request.sampling.logit_bias = {{.token_id = 3, .bias = 1}};
    request.stop_ids = {1, 2};
  }
  EXPECT_EQ(AllocationsOfDecodeSteps(requests), 0);
}

}  // namespace
}  // namespace tuppence

#endif
