// ShapedStep: a step that belongs to no request: so many tokens of so many sequences, with whatever
// is in the blocks for keys and values. For timing: the warm-up and the benchmarks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/step_cost_model.h"
#include "scheduler/step_executor.h"

namespace tuppence {

// Positions [first, end) of one sequence; one position where the phase is decode.
struct ShapedEntry {
  int64_t first = 0;
  int64_t end = 0;
  Phase phase = Phase::kPrefill;
};

class ShapedStep {
 public:
  // Takes blocks first_block, first_block + 1, ... for its sequences, one after the other; draws
  // one token for each. Requires: at least one entry, none empty.
  ShapedStep(std::span<const ShapedEntry> entries, int32_t block_tokens, int32_t first_block = 0);

  // Its spans point to memory of its own, which a move takes along and a copy would not.
  ShapedStep(ShapedStep&&) = default;
  ShapedStep& operator=(ShapedStep&&) = default;

  // Runs it on the executor, which must have room for it.
  absl::Status Run(StepExecutor* executor);

  const StepWork& work() const { return work_; }
  int32_t tokens() const { return batch_.tokens(); }
  int32_t sequences() const { return batch_.entries(); }
  int32_t blocks() const { return blocks_; }

 private:
  void AddEntry(const ShapedEntry& entry, int32_t block_tokens, int32_t first_block);

  StepWork work_;
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

}  // namespace tuppence
