// The only quantiser: weights to int8 or int4 codes in groups along K, and a token's key or value
// to int8. Backends repack codes, they never make them, so a weight's codes are the same
// everywhere. Used by model/weights (rows) and by the backends' RopeStore (KV heads).
//
// Symmetric. For a group of values x with largest magnitude amax, and M = 127 (int8) or 7 (int4):
//   scale   = f16(amax / M), the quotient in f32, rounded to nearest even
//   code[i] = clip(round(x[i] / scale), -M, M), the quotient in f32, rounded to nearest even
// The codes are computed with the rounded scale, so that code * scale is as near as it can be.
//
// Corners, each tested:
//   amax = 0                       scale 0, codes 0
//   amax / M < 2^-25               the scale rounds to 0: codes 0. Such values are below 4e-6.
//   scale is an f16 subnormal      rounding the scale down may clip: the error of a value is at
//   most
//                                  max(scale / 2, M * 2^-25)
//   amax / M > 65504, f16's largest  scale 65504, values beyond M * 65504 are clipped; LoadWeights
//                                  refuses such a tensor
// Requires everywhere: finite values.
#pragma once

#include <bit>
#include <cstdint>

#include "model/backend.h"
#include "model/float16.h"

namespace tuppence {

constexpr int32_t kInt8CodeMax = 127;
constexpr int32_t kInt4CodeMax = 7;
constexpr uint16_t kScaleMaxBits = 0x7bff;  // 65504

// Groups in a row of `cols` values; the last may be short.
constexpr int64_t GroupsOf(int64_t cols, int32_t group) { return (cols + group - 1) / group; }

// One group: writes `count` codes, returns the bits of the f16 scale.
//
// always_inline: backends call this from files that are compiled for wider instruction sets. An
// out-of-line copy from such a file could be the one that the linker keeps for everybody, and would
// then stop an older CPU.
[[gnu::always_inline]] inline uint16_t QuantiseGroup(const float* values, int64_t count,
                                                     int32_t code_max, int8_t* codes) {
  // The bits of magnitudes order as the magnitudes do, and an integer maximum vectorises.
  int32_t amax_bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t bits = std::bit_cast<int32_t>(values[i]) & 0x7fffffff;
    amax_bits = bits > amax_bits ? bits : amax_bits;
  }
  const float limit = static_cast<float>(code_max);
  const uint16_t rounded = ToF16(std::bit_cast<float>(amax_bits) / limit).bits;
  const uint16_t scale_bits = rounded > kScaleMaxBits ? kScaleMaxBits : rounded;
  // Where the scale is zero, infinity as the divisor gives the zero codes without a branch.
  const float scale = scale_bits == 0 ? std::bit_cast<float>(0x7f800000) : ToFloat(F16{scale_bits});
  // Adding 1.5 * 2^23 leaves no bits for a fraction, so the sum is rounded to nearest even.
  constexpr float kRound = 12582912.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float quotient = values[i] / scale;
    const float low = quotient > -limit ? quotient : -limit;
    const float clipped = low < limit ? low : limit;
    codes[i] = static_cast<int8_t>(static_cast<int32_t>((clipped + kRound) - kRound));
  }
  return scale_bits;
}

// The KV rule: one group for each token, KV head, and K or V, taken after rope.
//   values [head_dim], codes [head_dim], scale: f16 bits
[[gnu::always_inline]] inline void QuantiseKvHead(const float* values, int32_t head_dim,
                                                  int8_t* codes, uint16_t* scale) {
  *scale = QuantiseGroup(values, head_dim, kInt8CodeMax, codes);
}

// Rows of a weight. format: kInt8 or kInt4 with its group.
//   values f32 [rows, cols]    codes [rows, cols], a byte each    scales f16 [rows, GroupsOf(cols)]
void QuantiseRows(const float* values, int64_t rows, int64_t cols, const WeightFormat& format,
                  int8_t* codes, uint16_t* scales);

// code * scale in f32, which is exact. For tests and for backends without the format.
void DequantiseRows(const int8_t* codes, const uint16_t* scales, int64_t rows, int64_t cols,
                    const WeightFormat& format, float* values);

}  // namespace tuppence
