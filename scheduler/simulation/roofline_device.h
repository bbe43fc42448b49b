// RooflineDevice: a device that takes the time the step-cost model says and computes nothing. What
// the planner runs the engine on; the simulator of the tests takes its step times from here too.
// Thread: the engine's.
#pragma once

#include <cstdint>
#include <span>

#include "scheduler/simulation/virtual_clock.h"
#include "scheduler/step_cost_model.h"
#include "scheduler/step_executor.h"

namespace tuppence {

// What a batch asks of the device, all its entries together.
StepWork WorkOf(const Batch& batch);

class RooflineDevice final : public StepExecutor {
 public:
  // clock outlives the device. Every row draws token 0.
  RooflineDevice(const StepCostCoefficients& coefficients, VirtualClock* clock)
      : model_(coefficients, /*players_max=*/0), clock_(clock) {}

  // Something happens outside at this moment: no leap goes beyond the step that reaches it.
  void set_next_event_ns(int64_t at_ns) { next_event_ns_ = at_ns; }
  // Without leaps every step is planned; for the test that shows that both come to the same.
  void set_leaps(bool leaps) { leaps_ = leaps; }

  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override;
  absl::Status Wait(std::span<SampledToken> tokens) override;
  int32_t Leap(int32_t steps_max, int64_t until_ns, std::span<int64_t> step_ends_ns) override;

 private:
  int64_t StepNs() const;

  const StepCostModel model_;
  VirtualClock* const clock_;
  int64_t next_event_ns_ = INT64_MAX;
  bool leaps_ = true;
  StepWork work_;        // of the step at hand
  int32_t entries_ = 0;  // of it
};

}  // namespace tuppence
