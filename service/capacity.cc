#include "service/capacity.h"

#include <algorithm>
#include <cmath>

namespace tuppence {
namespace {

// The modelled step of `running` sequences that each decode one token, with the prompts that come
// with them.
double StepNs(const StepCostCoefficients& coefficients, const WorkMix& mix, double running,
              double prefill_tokens) {
  const double context = mix.prompt_tokens + mix.completion_tokens / 2;
  StepWork work;
  work.tokens = std::llround(running + prefill_tokens);
  work.query_keys = std::llround(running * context + prefill_tokens * mix.prompt_tokens / 2);
  work.kv_read_tokens = std::llround(running * context + prefill_tokens);
  return StepCostModel(coefficients, 0).StepNs(work);
}

}  // namespace

double CapacityTokensPerSecond(const StepCostCoefficients& coefficients,
                               const CapacityLimits& limits, const WorkMix& mix) {
  const double length = std::max(1.0, mix.prompt_tokens + mix.completion_tokens);
  const int64_t fit = std::llround(std::floor(static_cast<double>(limits.pool_tokens) / length));
  const int64_t most = std::clamp<int64_t>(fit, 1, limits.sequences_max);
  // Prompts' tokens for each decoded one; a load of prompts alone decodes as good as nothing.
  const double prefill_per_decode = mix.prefill_tokens / std::max(1.0, mix.decode_tokens);
  const double target_ns = limits.inter_token_target_seconds * 1e9;
  // A longer step never has fewer sequences, so the largest that keeps the target is found by
  // halving.
  int64_t low = 1;
  int64_t high = most;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    const double running = static_cast<double>(middle);
    if (StepNs(coefficients, mix, running, running * prefill_per_decode) <= target_ns) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const double running = static_cast<double>(low);
  const double prefill = running * prefill_per_decode;
  const double step_ns = StepNs(coefficients, mix, running, prefill);
  return (running + prefill) / (std::max(1.0, step_ns) * 1e-9);
}

CapacityMeter::Slot& CapacityMeter::SlotAt(int64_t now_ns) {
  const int64_t number = now_ns / kSlotNs;
  Slot& slot = slots_[static_cast<size_t>(number % kSlots)];
  if (slot.number != number) {
    slot = Slot();
    slot.number = number;
  }
  return slot;
}

void CapacityMeter::AddStep(int64_t now_ns, int64_t prefill_tokens, int64_t decode_tokens) {
  Slot& slot = SlotAt(now_ns);
  slot.prefill_tokens += prefill_tokens;
  slot.decode_tokens += decode_tokens;
}

void CapacityMeter::AddRequest(int64_t now_ns, int64_t prompt_tokens, int64_t completion_tokens) {
  Slot& slot = SlotAt(now_ns);
  ++slot.requests;
  slot.prompt_tokens += prompt_tokens;
  slot.completion_tokens += completion_tokens;
}

double CapacityMeter::UsedRatio(int64_t now_ns, const StepCostCoefficients& coefficients,
                                const CapacityLimits& limits, double context_tokens) {
  const int64_t now = now_ns / kSlotNs;
  Slot sum;
  for (const Slot& slot : slots_) {
    if (slot.number < 0 || slot.number <= now - kSlots) continue;
    sum.prefill_tokens += slot.prefill_tokens;
    sum.decode_tokens += slot.decode_tokens;
    sum.requests += slot.requests;
    sum.prompt_tokens += slot.prompt_tokens;
    sum.completion_tokens += slot.completion_tokens;
  }
  const double tokens = static_cast<double>(sum.prefill_tokens + sum.decode_tokens);
  if (tokens == 0) return 0;
  const int64_t window_ns = std::min(now_ns - start_ns_, (kSlots - 1) * kSlotNs + now_ns % kSlotNs);
  const double seconds = static_cast<double>(std::max<int64_t>(window_ns, 1'000'000'000)) * 1e-9;
  WorkMix mix;
  mix.prefill_tokens = static_cast<double>(sum.prefill_tokens);
  mix.decode_tokens = static_cast<double>(sum.decode_tokens);
  if (sum.requests > 0) {
    const double requests = static_cast<double>(sum.requests);
    mix.prompt_tokens = static_cast<double>(sum.prompt_tokens) / requests;
    mix.completion_tokens = static_cast<double>(sum.completion_tokens) / requests;
  } else {
    mix.prompt_tokens = context_tokens;
  }
  return tokens / seconds / CapacityTokensPerSecond(coefficients, limits, mix);
}

}  // namespace tuppence
