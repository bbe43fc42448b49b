// How far a result may lie from the double-precision reference, derived from the roundings that the
// op makes. Never raised until green: a wrong bound is corrected here, with its reason.
//
// u = 2^-24 is the largest relative error of one f32 rounding. A chain of n rounded operations on
// terms t_i is off by at most n * u * sum |t_i| (Higham, "Accuracy and stability", 3.1, to first
// order; the factor 1.01 covers the rest for n < 10^5).
#pragma once

#include <cmath>
#include <cstdint>

#include "model/tensor.h"

namespace tuppence::testing {

constexpr double kF32Unit = 0x1p-24;
constexpr double kBf16Unit = 0x1p-8;      // 8 bits of significand, rounded to nearest
constexpr double kExpRelative = 0x1p-22;  // simd_math.h's Exp: 2 units in the last place, tested

constexpr double HalfUnit(DType type) {
  return type == DType::kF16 ? 0x1p-11 : type == DType::kBf16 ? kBf16Unit : 0;
}

// n operations in f32 on terms whose magnitudes sum to `magnitude`.
inline double ChainError(int64_t n, double magnitude) {
  return 1.01 * static_cast<double>(n) * kF32Unit * magnitude;
}

// Matmul with f32 x: each FMA rounds once.
inline double MatmulError(int64_t cols, double magnitude) { return ChainError(cols, magnitude); }

// Matmul that rounds x to bf16: each term is off by one bf16 rounding; then as above. tdpbf16ps
// adds two roundings for each block of 32 terms.
inline double Bf16MatmulError(int64_t cols, double magnitude) {
  return kBf16Unit * magnitude + ChainError(cols + cols / 16 + 2, 1.01 * magnitude);
}

// Quantised matmul, against a reference on the same int8 codes: the dot product is exact; the
// product of scales, the FMA and the code's own scale (amax / 127) round once for each group.
inline double QuantizedMatmulError(int64_t groups, double magnitude) {
  return ChainError(groups + 2, magnitude);
}

// Matmul on tile multiplications, x and w as they are: products are exact. An architecture may cut
// where it adds inside a tile, so an addition counts twice; the sums of 8 segments, and for
// quantised weights an FMA with an exact scale for each group.
inline double TileMatmulError(int64_t cols, int64_t groups, double magnitude) {
  return ChainError(2 * cols + groups + 8, magnitude);
}

// silu(g) * u, given the errors of g and u. silu's slope is below 1.1; Exp, the sum, the division
// and the product round once each.
inline double GatedError(double gate, double gate_error, double up, double up_error) {
  const double silu = std::abs(gate / (1 + std::exp(-gate)));
  const double silu_error = 1.1 * gate_error + silu * (kExpRelative + 3 * kF32Unit);
  return silu_error * (std::abs(up) + up_error) + silu * up_error +
         silu * std::abs(up) * 2 * kF32Unit;
}

// RMS norm: the sum of squares has chains of count / 64 plus 7 levels, halved by the square root;
// then the division, the root, the addition of epsilon, and two products.
inline double NormError(int64_t count, double value) {
  return ChainError(count / 128 + 10, std::abs(value));
}

// Rope: two products and a sum; the angle table is given.
inline double RopeError(double magnitude) { return ChainError(2, magnitude); }

// Attention of a backend with 16-bit types, beyond AttentionError, which covers its f32 parts: a
// prompt's weights are rounded once before they meet V, and the result is; q, K and V are given.
// Among f16's smallest numbers a rounding is off by 2^-25, of a weight that is kept 2^8 times as
// large; it meets a value, or a code, of up to `value_max`.
inline double HalfAttentionError(DType half, int64_t keys, double value_magnitude,
                                 double value_max) {
  const double small = half == DType::kF16 ? static_cast<double>(keys) * 0x1p-33 * value_max : 0;
  const double result = half == DType::kF16 ? 0x1p-25 : 0;
  return 2.02 * HalfUnit(half) * value_magnitude + small + result;
}

// Attention, against a reference on the same pages. A score is a chain over head_dim, on q scaled
// with one rounding; an error e of a score moves its weight by a factor exp(e), in numerator and
// denominator alike, so twice. Weights: Exp, and the rescaling of at most one product a tile.
// Sums: one FMA a key; and the division.
//   score_magnitude   largest sum over head_dim of |scale * q * k| of a visible key
//   value_magnitude   sum over keys of weight * |v|
inline double AttentionError(int64_t head_dim, int64_t keys, double score_magnitude,
                             double value_magnitude) {
  const double score_error = ChainError(head_dim + 2, score_magnitude) + kF32Unit * score_magnitude;
  const double weight_error = 2 * (std::expm1(score_error) + kExpRelative);
  const int64_t roundings = 2 * (keys + keys / 64 * 2 + 8);
  return value_magnitude * weight_error + ChainError(roundings, value_magnitude);
}

// A log-probability near `value`: exponentials to kExpRelative, summed in double, and one rounding
// of the result.
inline double LogprobError(double value) {
  return 2 * kExpRelative + 2 * kF32Unit * std::abs(value);
}

}  // namespace tuppence::testing
