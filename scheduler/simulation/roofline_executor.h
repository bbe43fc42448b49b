// RooflineExecutor: a device that is nothing but its speed. A step takes as long as the step-cost
// model says of its work, on a virtual clock; no arithmetic is done, and every token is the same.
// Used by Replica, the planner's simulation. Thread: the engine's.
#pragma once

#include <cstdint>
#include <span>

#include "scheduler/simulation/virtual_clock.h"
#include "scheduler/step_cost_model.h"
#include "scheduler/step_executor.h"

namespace tuppence {

class RooflineExecutor final : public StepExecutor {
 public:
  static constexpr int32_t kToken = 0;

  // The clock outlives it.
  RooflineExecutor(const StepCostCoefficients& costs, VirtualClock* clock);

  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override;
  absl::Status Wait(std::span<SampledToken> tokens) override;

  // How long a step with this work takes; at least 1. Block copies and zeroing count as nothing.
  int64_t StepNs(const StepWork& work) const;

 private:
  const StepCostModel model_;
  VirtualClock* const clock_;
  int64_t step_ns_ = 0;
};

}  // namespace tuppence
