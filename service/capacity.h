// capacity: how much of what this machine could do it does. A machine with one slow stream is busy
// all the time and earns a thirtieth of what it could; time alone does not show that, so the
// measure is tokens a second over what the step-cost model gives for the same mix of work with a
// full pool of keys and values, each answer's tokens within the inter-token target. Used by
// metrics.
#pragma once

#include <array>
#include <cstdint>

#include "scheduler/step_cost_model.h"

namespace tuppence {

struct CapacityLimits {
  int32_t sequences_max = 1;
  int64_t pool_tokens = 1;  // keys and values that the pool holds
  double inter_token_target_seconds = 0.1;
};

// What requests look like, on average, over the time looked at.
struct WorkMix {
  double prefill_tokens = 0;  // computed, in all
  double decode_tokens = 0;
  double prompt_tokens = 0;  // of one request
  double completion_tokens = 0;
};

// Tokens a second, prefill and decode together, of a steady stream of such requests: as many
// running as the limits allow, each step with one token of each and its part of new prompts.
double CapacityTokensPerSecond(const StepCostCoefficients& coefficients,
                               const CapacityLimits& limits, const WorkMix& mix);

// The last minute's work. Guards nothing: its owner does.
class CapacityMeter {
 public:
  explicit CapacityMeter(int64_t start_ns) : start_ns_(start_ns) {}

  // now_ns: monotonic, never before the call before.
  void AddStep(int64_t now_ns, int64_t prefill_tokens, int64_t decode_tokens);
  void AddRequest(int64_t now_ns, int64_t prompt_tokens, int64_t completion_tokens);

  // Of the capacity, 0 where nothing was done. context_tokens: the mean length of what runs now, 0
  // if nothing does; used where no request has ended yet to tell.
  double UsedRatio(int64_t now_ns, const StepCostCoefficients& coefficients,
                   const CapacityLimits& limits, double context_tokens);

 private:
  static constexpr int kSlots = 12;
  static constexpr int64_t kSlotNs = 5'000'000'000;

  struct Slot {
    int64_t number = -1;
    int64_t prefill_tokens = 0;
    int64_t decode_tokens = 0;
    int64_t requests = 0;
    int64_t prompt_tokens = 0;
    int64_t completion_tokens = 0;
  };
  Slot& SlotAt(int64_t now_ns);

  const int64_t start_ns_;
  std::array<Slot, kSlots> slots_;
};

}  // namespace tuppence
