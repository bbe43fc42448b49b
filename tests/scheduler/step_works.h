// The work of one sequence in a step, for tests of what a step costs.
#pragma once

#include "scheduler/step_cost_model.h"

namespace tuppence {

// A token at `position`, which sees itself and all before it.
inline StepWork DecodeAt(int64_t position) {
  return WorkOf(position, position + 1, Phase::kDecode);
}

}  // namespace tuppence
