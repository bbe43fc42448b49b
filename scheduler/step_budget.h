// StepBudget: how many positions of prompts the step at hand still takes, so that running streams
// get their next token in time. Used by the scheduler while it plans. No clock: time is what the
// step-cost model says of the work planned so far.
//
// Two limits hold together. In tokens: step_tokens_max, of which decodes take what they need and
// prompts at least prefill_tokens_min. In time, once somebody decodes: the modelled step stays
// within the target or, where decodes alone take more than half of it, within twice their time.
// Where they alone miss the target it is within three times: streams are slow there anyway, and a
// first token comes two thirds as fast as if nobody streamed, not half.
// Below both lies a floor: the first prompt of a step may take one block, so that nothing starves.
//
//   modelled step <= max(target, 2 x decodes alone, decodes and one block)
//                    with 3 x in place of 2 x where decodes alone > target
#pragma once

#include <cstdint>

#include "model/batch.h"
#include "scheduler/step_cost_model.h"

namespace tuppence {

struct StepBudgetLimits {
  int32_t step_tokens_max = 512;
  int32_t prefill_tokens_min = 64;
  int32_t block_tokens = 16;
  int64_t itl_target_ns = 0;  // 0: no limit in time
};

class StepBudget {
 public:
  explicit StepBudget(const StepBudgetLimits& limits)
      : limits_(limits), model_(StepCostCoefficients(), /*players_max=*/0) {}

  void SetCosts(const StepCostCoefficients& coefficients) { model_.set_coefficients(coefficients); }

  // A new step.
  void Start();
  // Decodes come before the first prompt.
  void AddDecode(int32_t position);
  void AddPrompt(int32_t first, int32_t end, Phase phase);
  // As if the prompt had never been added.
  void TakeBackPrompt(int32_t first, int32_t end, Phase phase);

  // Positions from `first` on that the step still takes, at most `wanted`.
  int32_t Fits(int32_t first, int32_t wanted, Phase phase) const;
  // Nothing more fits.
  bool spent() const { return Fits(0, 1, Phase::kPrefill) == 0; }
  // What a step that starts with nothing but these decodes takes of a prompt, by the limit in
  // tokens alone.
  int32_t tokens_left() const;

  double modelled_ns() const { return model_.StepNs(work_); }

 private:
  double TimeLimitNs() const;

  const StepBudgetLimits limits_;
  StepCostModel model_;
  StepWork work_;
  StepWork decode_work_;
  int32_t decode_tokens_ = 0;
  int32_t prompt_tokens_ = 0;
};

}  // namespace tuppence
