// The loops over the vocabulary of one draw: largest logit, sum of exponentials, weights, and the
// Gumbel scan. Compiled once per kernel path; all paths agree to the bit.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "model/philox.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

inline ScanResult ScanLogits(const float* logits, int64_t count) {
  // As integers, in the order of floats; NaN and +Inf are the bits from 0x7f800000 up, and
  // negative NaNs those above 0xff800000.
  uint32_t bad = 0;
  int32_t most = std::numeric_limits<int32_t>::min();
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(logits[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    bad |=
        static_cast<uint32_t>(magnitude > 0x7f800000u) | static_cast<uint32_t>(bits == 0x7f800000u);
    const int32_t sign = static_cast<int32_t>(bits) >> 31;
    most = std::max(most, static_cast<int32_t>(bits) ^ (sign & 0x7fffffff));
  }
  const int32_t sign = most >> 31;
  return {std::bit_cast<float>(most ^ (sign & 0x7fffffff)), bad == 0};
}

// Sum of exp(logit - max): 16 chains in double, then lanes i and i + 8, + 4, + 2, + 1.
inline double SumExp(const float* logits, int64_t count, float max) {
  double sums[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    float terms[kLanes];
    Store(Exp(Sub(LoadFirst(logits + i, n), Set(max))), terms);
    for (int lane = n; lane < kLanes; ++lane) terms[lane] = 0;
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(terms[lane]);
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

inline void SoftWeights(const float* logits, int64_t count, float max, float temperature,
                        float* weights) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    const F32 distance = Sub(LoadFirst(logits + i, n), Set(max));
    StoreFirst(Exp(Div(distance, Set(temperature))), weights + i, n);
  }
}

// PhiloxUniform for sixteen ids in a row.
TUPPENCE_INLINE F32 PhiloxUniforms(const DrawCall& call, uint32_t first_id) {
  Words c0 = SetWords(call.output_index), c1 = CountWords(first_id);
  Words c2 = SetWords(call.key.choice), c3 = SetWords(0);
  uint32_t key0 = static_cast<uint32_t>(call.key.seed);
  uint32_t key1 = static_cast<uint32_t>(call.key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words product0 = MulWords(c0, 0xD2511F53u), product1 = MulWords(c2, 0xCD9E8D57u);
    c0 = Xor(Xor(HighHalf(product1), c1), SetWords(key0));
    c1 = product1;
    c2 = Xor(Xor(HighHalf(product0), c3), SetWords(key1));
    c3 = product0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return Mul(Add(UpperBits(c0), Set(0.5f)), Set(0x1p-23f));
}

// The id with the largest (logit - max) / temperature - log(-log(u)), ties to the lower id.
//
// An id beats a value b only if -log(u) < exp(y - b), with y = (logit - max) / temperature. As
// 1 - u <= -log(u), ids with 1 - u >= exp(y) * exp(-b) cannot, and exp(y) is the weight at hand; a
// margin of 2^-10 covers its rounding. So two logarithms are taken for a handful of ids, the
// others cost one Philox in sixteen lanes, and ids too light for the largest u not even that.
inline int32_t Draw(const DrawCall& call) {
  double best = -std::numeric_limits<double>::infinity();
  float bound = std::numeric_limits<float>::infinity();  // exp(-best), with the margin
  int32_t best_id = -1;
  constexpr float kSmallestRest = 0x1p-24f;  // 1 - u of the largest u
  for (int32_t start = 0; start < call.count; start += kLanes) {
    const int n = std::min(kLanes, call.count - start);
    const F32 weights = LoadFirst(call.weights + start, n);
    const float heaviest = MaxLane(weights);
    if (heaviest == 0 || heaviest * bound <= kSmallestRest) continue;
    const F32 rest = Sub(Set(1.0f), PhiloxUniforms(call, static_cast<uint32_t>(start)));
    uint32_t hopeful = Greater(Mul(weights, Set(bound)), rest);
    for (; hopeful != 0; hopeful &= hopeful - 1) {
      const int32_t id = start + std::countr_zero(hopeful);
      const double u = static_cast<double>(
          PhiloxUniform(call.key, call.output_index, static_cast<uint32_t>(id)));
      const double y = static_cast<double>((call.logits[id] - call.max) / call.temperature);
      const double value = y - std::log(-std::log(u));
      if (value > best) {
        best = value;
        best_id = id;
        bound = static_cast<float>(std::exp(-best)) * (1 + 0x1p-10f);
      }
    }
  }
  return best_id;
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
