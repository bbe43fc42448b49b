// See rope_table.h.
#include "model/rope_table.h"

#include <cmath>

#include "model/check.h"

namespace tuppence {
namespace {

// sqrt(1 + ln(max / original) / ln(original)), from the LongRoPE paper, as transformers computes
// it.
double AttentionFactor(const Config& config) {
  const double ratio = static_cast<double>(config.positions_max) / config.positions_original;
  if (ratio <= 1.0) return 1.0;
  return std::sqrt(1.0 +
                   std::log(ratio) / std::log(static_cast<double>(config.positions_original)));
}

double AttentionFactor(const Config& config, const std::optional<double>& mscale) {
  if (mscale.has_value()) return *mscale;
  if (config.long_rope->attention_factor.has_value()) return *config.long_rope->attention_factor;
  return AttentionFactor(config);
}

// base^(2 i / rotary_dim) as an f32. The exponent is an f32 quotient, as in the published
// implementation; the power goes through double, which rounds correctly and on every machine alike.
float BasePower(const Config& config, int32_t i) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rotary_dim);
  const double base = static_cast<float>(config.rope_base);
  return static_cast<float>(std::pow(base, static_cast<double>(exponent)));
}

}  // namespace

RopeTable MakeRopeTable(const Config& config) {
  CHECK_EQ(config.rotary_dim % 2, 0);
  RopeTable table;
  table.half = config.rotary_dim / 2;
  table.frequencies.resize(2 * static_cast<size_t>(table.half));
  for (int32_t i = 0; i < table.half; ++i) {
    const float power = BasePower(config, i);
    const float short_factor = config.long_rope ? config.long_rope->short_factor[i] : 1.0f;
    const float long_factor = config.long_rope ? config.long_rope->long_factor[i] : 1.0f;
    table.frequencies[i] = 1.0f / (short_factor * power);
    table.frequencies[table.half + i] = 1.0f / (long_factor * power);
  }
  if (config.long_rope) {
    table.attention_factors = {
        static_cast<float>(AttentionFactor(config, config.long_rope->short_mscale)),
        static_cast<float>(AttentionFactor(config, config.long_rope->long_mscale))};
  }
  return table;
}

RopeRegime RegimeOfLength(const Config& config, int64_t tokens) {
  return tokens <= config.short_rope_tokens_max() || !config.long_rope ? RopeRegime::kShort
                                                                       : RopeRegime::kLong;
}

RopeRegime RegimeOfSequence(const Config& config, RopePolicy policy, int64_t tokens,
                            int64_t tokens_max) {
  return RegimeOfLength(config, policy == RopePolicy::kExact ? tokens : tokens_max);
}

}  // namespace tuppence
