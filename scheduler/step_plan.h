// StepPlan: who runs in a step and how many tokens each. Made by Scheduler, read by BatchBuilder,
// the engine and the ledger. Its vectors keep their capacity from step to step.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "scheduler/sequence.h"

namespace tuppence {

// Consecutive positions of one sequence, all of one phase.
struct PlanEntry {
  SequenceGroup* group = nullptr;
  Sequence* sequence = nullptr;
  int32_t first = 0;  // position
  int32_t tokens = 0;
  Phase phase = Phase::kPrefill;
  bool draws = false;          // the last position's logits give the next token ...
  bool draws_for_all = false;  // ... of every choice: this is the end of the prompt they share
  // Prompt positions [score_first, score_end) whose next token is scored.
  int32_t score_first = 0;
  int32_t score_end = 0;

  int32_t end() const { return first + tokens; }
  int32_t logit_rows() const { return score_end - score_first + draws; }
  // Tokens computed a second time after a preemption: overhead, not the request's.
  int32_t recomputed_tokens() const {
    const int32_t until = sequence->recompute_end < end() ? sequence->recompute_end : end();
    return until > first ? until - first : 0;
  }
};

struct StepPlan {
  std::vector<PlanEntry> entries;
  int32_t tokens = 0;
  int32_t decode_tokens = 0;  // of sequences that take one token a step
  int32_t logit_rows = 0;
  int32_t preemptions = 0;      // made while planning
  bool oldest_has_all = false;  // of what there is for prompts, though others come before it
  std::vector<int32_t> zero_blocks;
  std::vector<int32_t> copy_from;
  std::vector<int32_t> copy_to;

  bool empty() const { return entries.empty(); }
  void Clear() {
    entries.clear();
    tokens = decode_tokens = logit_rows = preemptions = 0;
    oldest_has_all = false;
    zero_blocks.clear();
    copy_from.clear();
    copy_to.clear();
  }
};

}  // namespace tuppence
