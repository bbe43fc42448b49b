#include "scheduler/warm_up.h"

#include <algorithm>
#include <numeric>

#include "scheduler/request.h"
#include "scheduler/shaped_step.h"

namespace tuppence {
namespace {

constexpr int kRounds = 3;

// `sequences` equal ones.
struct Shape {
  int32_t sequences = 1;
  ShapedEntry entry;
};

// In the order of what is learnt from each: weights, arithmetic, then keys and values.
constexpr Shape kShapes[] = {
    {1, {31, 32, Phase::kDecode}},     {1, {0, 16, Phase::kPrefill}},
    {4, {31, 32, Phase::kDecode}},     {1, {0, 64, Phase::kPrefill}},
    {1, {1023, 1024, Phase::kDecode}}, {16, {31, 32, Phase::kDecode}},
    {1, {0, 256, Phase::kPrefill}},    {16, {511, 512, Phase::kDecode}},
    {1, {0, 512, Phase::kPrefill}},    {64, {31, 32, Phase::kDecode}},
};

bool Fits(const Shape& shape, const WarmUpLimits& limits) {
  const int64_t blocks = (shape.entry.end + limits.block_tokens - 1) / limits.block_tokens;
  const int64_t tokens = shape.entry.end - shape.entry.first;
  return shape.sequences * tokens <= limits.tokens_max && shape.sequences <= limits.sequences_max &&
         shape.entry.end <= limits.context_tokens && shape.sequences * blocks <= limits.blocks;
}

struct TimedStep {
  ShapedStep step;
  std::vector<int64_t> times_ns;

  int64_t MedianNs() {
    std::sort(times_ns.begin(), times_ns.end());
    return times_ns[times_ns.size() / 2];
  }
};

// Runs the step and notes its time. The time at its end, or the executor's error.
absl::StatusOr<int64_t> Run(const Clock& clock, StepExecutor* executor, TimedStep* timed) {
  const int64_t start_ns = clock.NowNs();
  absl::Status status = timed->step.Run(executor);
  if (!status.ok()) return status;
  const int64_t end_ns = clock.NowNs();
  timed->times_ns.push_back(end_ns - start_ns);
  return end_ns;
}

// What a step with fewer tokens took, scaled to this one's: time grows more slowly than that.
int64_t ProbablyNs(const ShapedStep& step, std::vector<TimedStep>& done) {
  int64_t scaled_ns = kNever;
  int64_t longest_ns = 0;
  for (TimedStep& timed : done) {
    const int64_t median_ns = timed.MedianNs();
    longest_ns = std::max(longest_ns, median_ns);
    if (timed.step.tokens() > step.tokens()) continue;
    scaled_ns = std::min(scaled_ns, median_ns * step.tokens() / timed.step.tokens());
  }
  return scaled_ns == kNever ? longest_ns : scaled_ns;
}

absl::Status ZeroBlocks(int32_t blocks, StepExecutor* executor) {
  std::vector<int32_t> used(blocks);
  std::iota(used.begin(), used.end(), 0);
  executor->Launch({.zero = used, .copy_from = {}, .copy_to = {}}, Batch(), {});
  return executor->Wait({});
}

}  // namespace

absl::StatusOr<std::vector<MeasuredStep>> MeasureWarmUp(const WarmUpLimits& limits,
                                                        const Clock& clock,
                                                        StepExecutor* executor) {
  int64_t now_ns = clock.NowNs();
  const int64_t end_ns = now_ns + limits.budget_ns;
  std::vector<TimedStep> done;
  int32_t blocks = 0;
  for (const Shape& shape : kShapes) {
    if (!Fits(shape, limits)) continue;
    const std::vector<ShapedEntry> entries(shape.sequences, shape.entry);
    TimedStep timed{ShapedStep(entries, limits.block_tokens), {}};
    if (!done.empty() && now_ns + ProbablyNs(timed.step, done) > end_ns) continue;
    blocks = std::max(blocks, timed.step.blocks());
    const absl::StatusOr<int64_t> ran = Run(clock, executor, &timed);
    if (!ran.ok()) return ran.status();
    now_ns = *ran;
    done.push_back(std::move(timed));
  }
  for (int round = 0; round < kRounds; ++round) {
    for (TimedStep& timed : done) {
      if (now_ns + timed.MedianNs() > end_ns) continue;
      // The very first time touched weights and memory that no later step waits for.
      if (round == 0) timed.times_ns.clear();
      const absl::StatusOr<int64_t> ran = Run(clock, executor, &timed);
      if (!ran.ok()) return ran.status();
      now_ns = *ran;
    }
  }
  std::vector<MeasuredStep> steps;
  for (TimedStep& timed : done) {
    steps.push_back({timed.step.work(), static_cast<double>(timed.MedianNs())});
  }
  if (blocks > 0) {
    absl::Status status = ZeroBlocks(blocks, executor);
    if (!status.ok()) return status;
  }
  return steps;
}

}  // namespace tuppence
