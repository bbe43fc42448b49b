#include "scheduler/simulation/roofline_device.h"

#include <algorithm>
#include <cmath>

#include "model/check.h"

namespace tuppence {

StepWork WorkOf(const Batch& batch) {
  StepWork work;
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int64_t first = batch.positions[batch.entry_starts[entry]];
    const int64_t tokens = batch.entry_starts[entry + 1] - batch.entry_starts[entry];
    work.Add(WorkOf(first, first + tokens, batch.entry_phases[entry]));
  }
  return work;
}

void RooflineDevice::Launch(const BlockWork&, const Batch& batch, std::span<const SamplingRow>) {
  work_ = WorkOf(batch);
  entries_ = batch.entries();
}

absl::Status RooflineDevice::Wait(std::span<SampledToken> tokens) {
  for (SampledToken& token : tokens) {
    token.token_id = 0;
    token.logprob = 0;
    token.not_finite = false;
    token.top_count = 0;
  }
  clock_->Advance(StepNs());
  return absl::OkStatus();
}

// Step after step of the same decodes: each entry has one key more than in the step before.
int32_t RooflineDevice::Leap(int32_t steps_max, int64_t until_ns, std::span<int64_t> step_ends_ns) {
  if (!leaps_) return 0;
  until_ns = std::min(until_ns, next_event_ns_);
  int32_t steps = 0;
  while (steps < steps_max && clock_->NowNs() < until_ns) {
    work_.query_keys += entries_;
    work_.kv_read_tokens += entries_;
    clock_->Advance(StepNs());
    step_ends_ns[steps++] = clock_->NowNs();
  }
  return steps;
}

int64_t RooflineDevice::StepNs() const { return std::llround(model_.StepNs(work_)); }

}  // namespace tuppence
