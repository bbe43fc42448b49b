// Random workloads on tiny pools, a few hundred seeds: chunked prompts, preemption, choices that
// share blocks, LongRoPE crossings, cancels in every state, slow readers, deadlines. Whatever
// happens to its neighbours, each request gets the tokens it would get alone, the blocks add up
// after each step, every nanosecond is booked once, and everything ends exactly once.
#include <cstdlib>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int32_t Between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int32_t percent) { return Between(1, 100) <= percent; }
  uint64_t Seed() { return random_(); }

 private:
  std::mt19937_64 random_;
};

// Which faults are on differs from seed to seed, so that each is seen with and without the others.
struct Workload {
  EngineOptions options;
  int32_t requests = 0;
  int32_t choices_max = 1;
  int32_t cancel_percent = 0;
  int32_t deadline_percent = 0;
  int32_t slow_percent = 0;
  int32_t penalty_percent = 0;
  int32_t prompt_logprobs_percent = 0;
  int32_t shared_percent = 0;  // prompts that begin alike
  int32_t tenants = 1;
  int32_t classes = 1;
};

Workload DrawWorkload(Draw& draw) {
  Workload workload;
  EngineOptions& options = workload.options;
  options = SmallEngineOptions();
  options.block_tokens = draw.Between(1, 5);
  options.blocks = draw.Between(12, 60);
  options.sequences_max = draw.Between(1, 8);
  options.logit_rows_max = options.sequences_max + draw.Between(0, 6);
  options.prefill_tokens_min = draw.Between(1, 6);
  options.step_tokens_max = options.prefill_tokens_min + draw.Between(0, 24);
  options.context_tokens = 64;
  // By the default costs a step takes 5 ms and a little, so that this cuts everything short.
  if (draw.Chance(40)) options.itl_target_ns = 1'000'000 * draw.Between(1, 12);
  options.stall_limit_ns = draw.Chance(50) ? 20'000'000 : 2'000'000'000;
  if (draw.Chance(40)) options.positions_original = draw.Between(8, 30);
  if (draw.Chance(30)) options.rope_policy = RopePolicy::kAdmission;
  workload.requests = draw.Between(1, 24);
  workload.choices_max = draw.Chance(50) ? 1 : draw.Between(2, 4);
  if (draw.Chance(40)) workload.cancel_percent = draw.Between(5, 50);
  if (draw.Chance(30)) workload.deadline_percent = draw.Between(5, 50);
  if (draw.Chance(40)) workload.slow_percent = draw.Between(5, 60);
  if (draw.Chance(40)) workload.penalty_percent = 50;
  if (draw.Chance(40)) workload.prompt_logprobs_percent = 50;
  if (draw.Chance(60)) workload.shared_percent = draw.Between(20, 100);
  options.prefix_cache = draw.Chance(80);
  workload.tenants = draw.Between(1, 3);
  workload.classes = draw.Between(1, kPriorityClasses);
  if (draw.Chance(30)) options.class_wait_max_ns = {0, 5'000'000, 20'000'000};
  return workload;
}

Request DrawRequest(const Workload& workload, int32_t number, int64_t now_ns, Draw& draw) {
  const EngineOptions& options = workload.options;
  const int32_t choices = std::min(draw.Between(1, workload.choices_max), options.sequences_max);
  // As large as the pool or the context lets it be, at times.
  const int32_t tokens_max =
      std::min(options.context_tokens, options.blocks / choices * options.block_tokens);
  const int32_t prompt_tokens = draw.Between(1, tokens_max - 1);
  const int32_t max_tokens = draw.Between(1, tokens_max - prompt_tokens);
  // Equal seeds: one prompt is the other's beginning.
  const uint64_t seed = draw.Chance(workload.shared_percent) ? draw.Between(1, 3) : draw.Seed();
  Request request = MakeRequest(absl::StrCat("r", number), prompt_tokens, max_tokens, seed,
                                {.tokens_max = draw.Between(1, 6)});
  request.tenant = absl::StrCat("tenant", draw.Between(1, workload.tenants));
  request.priority_class = static_cast<PriorityClass>(draw.Between(0, workload.classes - 1));
  request.weight_milli = draw.Between(1, 5000);
  request.sampling.choices = choices;
  request.sampling.min_tokens = draw.Between(0, max_tokens);
  if (draw.Chance(50)) request.stop_ids = {draw.Between(0, kTestVocab - 1), 5, 6};
  if (draw.Chance(workload.penalty_percent)) request.sampling.frequency_penalty = 0.5f;
  request.sampling.prompt_logprobs = draw.Chance(workload.prompt_logprobs_percent);
  if (draw.Chance(workload.deadline_percent)) {
    request.deadline_ns = now_ns + 1'000'000 * draw.Between(1, 60);
  }
  return request;
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : draw_(seed), workload_(DrawWorkload(draw_)), harness_(workload_.options) {}

  void Run() {
    int32_t submitted = 0;
    for (int32_t step = 0; submitted < workload_.requests || !AllEnded(); ++step) {
      ASSERT_LT(step, 20'000) << "requests do not end";
      while (submitted < workload_.requests && draw_.Chance(60)) {
        Submit(submitted++);
      }
      CancelSome();
      const bool worked = harness_.engine().Step();
      harness_.CheckInvariants();
      ReadSome();
      // Nothing can run: time goes on by itself, to stall limits and deadlines.
      if (!worked) harness_.clock().Advance(1'000'000);
    }
    CheckAnswers();
  }

  uint64_t trace() const { return harness_.trace(); }
  int64_t hit_tokens() { return harness_.engine().Snapshot().prefix.hit_tokens; }
  int64_t preemptions() { return harness_.engine().Snapshot().preemptions; }

 private:
  bool AllEnded() const {
    for (int32_t i = 0; i < harness_.requests(); ++i) {
      if (!harness_.ended(i)) return false;
    }
    return true;
  }

  void Submit(int32_t number) {
    harness_.Submit(DrawRequest(workload_, number, harness_.clock().NowNs(), draw_));
    cancel_step_.push_back(draw_.Chance(workload_.cancel_percent) ? draw_.Between(0, 40) : -1);
    slow_.push_back(draw_.Chance(workload_.slow_percent));
    cancelled_.push_back(false);
  }

  void CancelSome() {
    for (int32_t i = 0; i < harness_.requests(); ++i) {
      if (cancelled_[i] && !harness_.ended(i)) {
        harness_.Read(i);
        EXPECT_TRUE(harness_.ended(i)) << "a cancel takes one step";
      }
      if (cancel_step_[i] < 0 || cancel_step_[i]-- > 0 || harness_.ended(i)) continue;
      harness_.stream(i).Cancel();
      cancelled_[i] = true;
    }
  }

  void ReadSome() {
    for (int32_t i = 0; i < harness_.requests(); ++i) {
      if (!slow_[i] || draw_.Chance(10)) harness_.Read(i);
    }
  }

  void CheckAnswers() {
    for (int32_t i = 0; i < harness_.requests(); ++i) {
      const RequestEnd& end = *harness_.received(i).end;
      SCOPED_TRACE(harness_.request(i).id);
      switch (end.status.code()) {
        case absl::StatusCode::kOk:
          harness_.ExpectWhole(i);
          break;
        case absl::StatusCode::kCancelled:
          EXPECT_TRUE(cancelled_[i] || slow_[i]) << end.status;
          harness_.ExpectPart(i, absl::StatusCode::kCancelled, FinishReason::kCancelled);
          break;
        case absl::StatusCode::kDeadlineExceeded:
          EXPECT_NE(harness_.request(i).deadline_ns, kNever);
          harness_.ExpectPart(i, absl::StatusCode::kDeadlineExceeded, FinishReason::kDeadline);
          break;
        case absl::StatusCode::kUnavailable:
          EXPECT_NE(harness_.request(i).deadline_ns, kNever) << end.status;
          EXPECT_EQ(end.usage.steps, 0) << "it never ran";
          harness_.ExpectPart(i, absl::StatusCode::kUnavailable, FinishReason::kDeadline);
          break;
        default:
          ADD_FAILURE() << end.status;
      }
      EXPECT_LE(end.usage.preemptions, workload_.options.preemptions_max);
      CheckPromptLogprobs(i);
    }
    harness_.ExpectAtRest();
  }

  // In order, each position once.
  void CheckPromptLogprobs(int32_t i) {
    const Received& received = harness_.received(i);
    const Request& request = harness_.request(i);
    if (!request.sampling.prompt_logprobs) {
      EXPECT_TRUE(received.prompt_logprobs.empty());
      return;
    }
    if (received.end->status.ok()) {
      EXPECT_EQ(received.prompt_logprobs.size(), request.prompt.size() - 1);
    }
    ASSERT_LT(received.prompt_logprobs.size(), request.prompt.size());
    for (size_t k = 0; k < received.prompt_logprobs.size(); ++k) {
      EXPECT_EQ(received.prompt_logprobs[k].chosen.token_id, request.prompt[k + 1]);
    }
  }

  Draw draw_;
  const Workload workload_;
  EngineHarness harness_;
  std::vector<int32_t> cancel_step_;
  std::vector<bool> slow_;
  std::vector<bool> cancelled_;
};

// More of them with TUPPENCE_SEEDS=100000.
uint64_t Seeds() {
  const char* seeds = std::getenv("TUPPENCE_SEEDS");
  return seeds == nullptr ? 1000 : std::strtoull(seeds, nullptr, 10);
}

TEST(EngineRandomTest, EachRequestGetsWhatItWouldGetAlone) {
  int64_t preemptions = 0;
  int64_t hit_tokens = 0;
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(seed);
    simulation.Run();
    preemptions += simulation.preemptions();
    hit_tokens += simulation.hit_tokens();
    if (::testing::Test::HasFailure()) break;  // one seed to replay is enough
  }
  EXPECT_GT(preemptions, 100) << "the pools are too large to test anything";
  EXPECT_GT(hit_tokens, 1000) << "no prefix was found again";
}

TEST(EngineRandomTest, TheSameSeedGivesTheSameTrace) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    Simulation first(seed);
    Simulation second(seed);
    first.Run();
    second.Run();
    EXPECT_EQ(first.trace(), second.trace()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tuppence
