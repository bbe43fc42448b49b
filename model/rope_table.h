// The rotary embedding of a config: its frequencies in both regimes, its attention factors, and the
// rules that say which regime a sequence uses. Pure; used by model/phi3 (the table) and the
// scheduler (the rules).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "model/config.h"

namespace tuppence {

// Indexed by RopeRegime. Without LongRoPE both rows are the same.
struct RopeTable {
  int32_t half = 0;                // rotary_dim / 2
  std::vector<float> frequencies;  // [2, half]; 1 / (factor[i] * base^(2 i / rotary_dim))
  std::array<float, 2> attention_factors = {1, 1};  // on cos and sin, at every length
};

// In f32 and in the order of the published implementation (transformers'
// _compute_*_rope_parameters).
RopeTable MakeRopeTable(const Config& config);

// When the regime of a sequence is settled.
//   exact      by its length at each step, as the published implementation does: a sequence that
//              outgrows the short regime is prefilled again with the long factors.
//   admission  once, by prompt + max_tokens: no second prefill, but a request that ends early may
//              have used the long factors on a short text.
enum class RopePolicy : uint8_t { kExact, kAdmission };

// The regime of a length: short up to config.short_rope_tokens_max(), long from one token more on.
RopeRegime RegimeOfLength(const Config& config, int64_t tokens);

// The regime of a sequence that is `tokens` long now and at most `tokens_max` at its end.
RopeRegime RegimeOfSequence(const Config& config, RopePolicy policy, int64_t tokens,
                            int64_t tokens_max);

}  // namespace tuppence
