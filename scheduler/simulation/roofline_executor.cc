#include "scheduler/simulation/roofline_executor.h"

#include <algorithm>
#include <cmath>

namespace tuppence {

RooflineExecutor::RooflineExecutor(const StepCostCoefficients& costs, VirtualClock* clock)
    : model_(costs, /*players_max=*/0), clock_(clock) {}

void RooflineExecutor::Launch(const BlockWork&, const Batch& batch, std::span<const SamplingRow>) {
  step_ns_ = StepNs(WorkOf(batch));
}

absl::Status RooflineExecutor::Wait(std::span<SampledToken> tokens) {
  clock_->Advance(step_ns_);
  for (SampledToken& token : tokens) {
    token.token_id = kToken;
    token.not_finite = false;
    token.top_count = 0;
  }
  return absl::OkStatus();
}

int64_t RooflineExecutor::StepNs(const StepWork& work) const {
  return std::max<int64_t>(1, std::llround(model_.StepNs(work)));
}

}  // namespace tuppence
