// Warm-up: a few steps of known shape through the executor before the first request, timed. They
// show the step-cost model this machine's bandwidth and arithmetic rate, and touch the weights
// once, so that the first caller does not pay for page faults. Called by Engine::WarmUp; their time
// is booked to startup.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/clock.h"
#include "scheduler/step_cost_fit.h"
#include "scheduler/step_executor.h"

namespace tuppence {

struct WarmUpLimits {
  int32_t tokens_max = 0;  // of a step
  int32_t sequences_max = 0;
  int32_t context_tokens = 0;
  int32_t block_tokens = 0;
  int32_t blocks = 0;
  int64_t budget_ns = 0;  // no step begins that would probably end after it; the first always does
};

// Steps that were run, each with the median of its times. Decode and prefill of growing size, as
// far as the limits and the budget reach. Writes to blocks of the pool, all of which must be free,
// and zeroes them afterwards. Errors are the executor's.
absl::StatusOr<std::vector<MeasuredStep>> MeasureWarmUp(const WarmUpLimits& limits,
                                                        const Clock& clock, StepExecutor* executor);

}  // namespace tuppence
