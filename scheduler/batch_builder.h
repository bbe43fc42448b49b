// BatchBuilder: turns a StepPlan into the flat arrays of a step and its sampling rows. All memory
// is taken at construction; the arrays keep their addresses. Used by the engine. Thread: engine
// only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "scheduler/active_request.h"
#include "scheduler/step_plan.h"

namespace tuppence {

// Whose token a sampling row is.
struct RowTarget {
  ActiveRequest* request = nullptr;
  int32_t choice = 0;
  bool scored = false;  // a prompt position's log-probability, not a draw
};

struct BatchLimits {
  int32_t tokens_max = 0;
  int32_t sequences_max = 0;
  int32_t logit_rows_max = 0;
  int32_t context_tokens = 0;
  int32_t block_tokens = 0;
};

class BatchBuilder {
 public:
  explicit BatchBuilder(const BatchLimits& limits);

  // Valid until the next call, as long as the plan's requests do not change.
  const Batch& Build(const StepPlan& plan);
  std::span<const SamplingRow> sampling() const { return sampling_; }
  // targets()[i] belongs to sampling()[i].
  std::span<const RowTarget> targets() const { return targets_; }

  // Sampling rows that one step may have.
  int32_t sampling_rows_max() const { return limits_.sequences_max + limits_.logit_rows_max; }

 private:
  void AddTokens(const PlanEntry& entry);
  void AddBatchEntry(const Sequence& sequence, int32_t first_token, int32_t end, Phase phase);
  void AddRows(const PlanEntry& entry, int32_t first_token);
  void AddScoredRows(const PlanEntry& entry, int32_t first_token);
  void AddDraw(ActiveRequest* request, int32_t choice, int32_t logit_row);
  int32_t AddLogitRow(int32_t token);
  int32_t StrideFor(const StepPlan& plan) const;

  const BatchLimits limits_;
  const int32_t stride_max_;
  int32_t stride_ = 0;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<RopeRegime> regimes_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> entry_starts_;
  std::vector<Phase> entry_phases_;
  std::vector<int32_t> block_tables_;  // [tokens_max, stride_max_] at most
  std::vector<int32_t> logit_tokens_;
  std::vector<SamplingRow> sampling_;
  std::vector<RowTarget> targets_;
  Batch batch_;
};

}  // namespace tuppence
