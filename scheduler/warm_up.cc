#include "scheduler/warm_up.h"

#include <algorithm>
#include <numeric>

#include "scheduler/request.h"

namespace tuppence {
namespace {

constexpr int kRounds = 3;

// A prompt's chunk from position 0, and sequences that decode at `position`.
struct Shape {
  int32_t prefill_tokens = 0;
  int32_t decodes = 0;
  int32_t position = 0;

  int32_t tokens() const { return prefill_tokens + decodes; }
};

// In the order of what is learnt from each: weights, arithmetic, then keys and values.
constexpr Shape kShapes[] = {
    {.decodes = 1, .position = 31},   {.prefill_tokens = 16},
    {.decodes = 4, .position = 31},   {.prefill_tokens = 64},
    {.decodes = 1, .position = 1023}, {.decodes = 16, .position = 31},
    {.prefill_tokens = 256},          {.decodes = 16, .position = 511},
    {.prefill_tokens = 512},          {.decodes = 64, .position = 31},
};

StepWork WorkOfShape(const Shape& shape) {
  StepWork work;
  if (shape.prefill_tokens > 0) work = WorkOf(0, shape.prefill_tokens, Phase::kPrefill);
  for (int32_t i = 0; i < shape.decodes; ++i) {
    work.Add(WorkOf(shape.position, shape.position + 1, Phase::kDecode));
  }
  return work;
}

// The flat arrays of one shape. The batch's spans point to heap memory, which a move takes along.
class WarmUpBatch {
 public:
  WarmUpBatch(const Shape& shape, int32_t block_tokens) : block_tokens_(block_tokens) {
    batch_.block_table_stride =
        BlocksFor(std::max(shape.prefill_tokens, shape.decodes > 0 ? shape.position + 1 : 0));
    if (shape.prefill_tokens > 0) AddEntry(0, shape.prefill_tokens, Phase::kPrefill);
    for (int32_t i = 0; i < shape.decodes; ++i) {
      AddEntry(shape.position, shape.position + 1, Phase::kDecode);
    }
    entry_starts_.push_back(static_cast<int32_t>(token_ids_.size()));
    batch_.token_ids = token_ids_;
    batch_.positions = positions_;
    batch_.regimes = regimes_;
    batch_.slots = slots_;
    batch_.entry_starts = entry_starts_;
    batch_.entry_phases = entry_phases_;
    batch_.block_tables = block_tables_;
    batch_.logit_tokens = logit_tokens_;
    sampled_.resize(sampling_.size());
  }

  absl::Status Run(StepExecutor* executor) {
    executor->Launch(BlockWork(), batch_, sampling_);
    return executor->Wait(sampled_);
  }

  // Blocks 0 to blocks() - 1 are used.
  int32_t blocks() const { return blocks_; }

 private:
  int32_t BlocksFor(int32_t tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

  void AddEntry(int32_t first, int32_t end, Phase phase) {
    const int32_t held = BlocksFor(end);
    entry_starts_.push_back(static_cast<int32_t>(token_ids_.size()));
    entry_phases_.push_back(phase);
    for (int32_t i = 0; i < batch_.block_table_stride; ++i) {
      block_tables_.push_back(blocks_ + (i < held ? i : 0));
    }
    for (int32_t position = first; position < end; ++position) {
      token_ids_.push_back(0);
      positions_.push_back(position);
      regimes_.push_back(RopeRegime::kShort);
      slots_.push_back((blocks_ + position / block_tokens_) * block_tokens_ +
                       position % block_tokens_);
    }
    blocks_ += held;
    SamplingRow row;
    row.logit_row = static_cast<int32_t>(logit_tokens_.size());
    sampling_.push_back(row);
    logit_tokens_.push_back(static_cast<int32_t>(token_ids_.size()) - 1);
  }

  const int32_t block_tokens_;
  int32_t blocks_ = 0;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<RopeRegime> regimes_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> entry_starts_;
  std::vector<Phase> entry_phases_;
  std::vector<int32_t> block_tables_;
  std::vector<int32_t> logit_tokens_;
  std::vector<SamplingRow> sampling_;
  std::vector<SampledToken> sampled_;
  Batch batch_;
};

bool Fits(const Shape& shape, const WarmUpLimits& limits) {
  const auto blocks = [&](int64_t tokens) {
    return (tokens + limits.block_tokens - 1) / limits.block_tokens;
  };
  return shape.tokens() <= limits.tokens_max &&
         shape.decodes + (shape.prefill_tokens > 0) <= limits.sequences_max &&
         std::max(shape.prefill_tokens, shape.position + 1) <= limits.context_tokens &&
         blocks(shape.prefill_tokens) + shape.decodes * blocks(shape.position + 1) <= limits.blocks;
}

struct Timed {
  Shape shape;
  WarmUpBatch batch;
  std::vector<int64_t> times_ns;

  int64_t MedianNs() {
    std::sort(times_ns.begin(), times_ns.end());
    return times_ns[times_ns.size() / 2];
  }
};

// Runs the batch and notes its time. The time at its end, or the executor's error.
absl::StatusOr<int64_t> Run(const Clock& clock, StepExecutor* executor, Timed* timed) {
  const int64_t start_ns = clock.NowNs();
  absl::Status status = timed->batch.Run(executor);
  if (!status.ok()) return status;
  const int64_t end_ns = clock.NowNs();
  timed->times_ns.push_back(end_ns - start_ns);
  return end_ns;
}

// What a step with fewer tokens took, scaled to this one's: time grows more slowly than that.
int64_t LongestProbablyNs(const Shape& shape, std::vector<Timed>& done) {
  int64_t scaled_ns = kNever;
  int64_t longest_ns = 0;
  for (Timed& timed : done) {
    const int64_t median_ns = timed.MedianNs();
    if (timed.shape.tokens() <= shape.tokens()) {
      scaled_ns = std::min(scaled_ns, median_ns * shape.tokens() / timed.shape.tokens());
    }
    longest_ns = std::max(longest_ns, median_ns);
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
  const int64_t end_ns = clock.NowNs() + limits.budget_ns;
  std::vector<Timed> done;
  int32_t blocks = 0;
  int64_t now_ns = clock.NowNs();
  for (const Shape& shape : kShapes) {
    if (!Fits(shape, limits)) continue;
    if (!done.empty() && now_ns + LongestProbablyNs(shape, done) > end_ns) continue;
    Timed timed{shape, WarmUpBatch(shape, limits.block_tokens), {}};
    blocks = std::max(blocks, timed.batch.blocks());
    // The first time touches weights and memory that no later step waits for.
    absl::StatusOr<int64_t> ran = Run(clock, executor, &timed);
    if (!ran.ok()) return ran.status();
    now_ns = *ran;
    done.push_back(std::move(timed));
  }
  for (int round = 0; round < kRounds; ++round) {
    for (Timed& timed : done) {
      if (now_ns + timed.MedianNs() > end_ns) continue;
      if (round == 0) timed.times_ns.clear();
      absl::StatusOr<int64_t> ran = Run(clock, executor, &timed);
      if (!ran.ok()) return ran.status();
      now_ns = *ran;
    }
  }
  std::vector<MeasuredStep> steps;
  for (Timed& timed : done) {
    steps.push_back({WorkOfShape(timed.shape), static_cast<double>(timed.MedianNs())});
  }
  if (blocks > 0) {
    absl::Status status = ZeroBlocks(blocks, executor);
    if (!status.ok()) return status;
  }
  return steps;
}

}  // namespace tuppence
