// RMS norm and rope of one row or head. Compiled once per kernel path, by its kernels_*.cc.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/simd.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

// x += delta (if any); out = (x * (1 / sqrt(mean(x^2) + epsilon))) * weight, rounded in this order
// as the published Phi3RMSNorm does. Squares are summed in 64 chains (lane i of vector j takes
// values 64 m + 16 j + i), chains as (0 + 1) + (2 + 3), then lanes as Sum does.
inline void NormRow(float* x, const float* delta, const float* weight, float epsilon, int64_t count,
                    float* out) {
  F32 sums[4] = {Zero(), Zero(), Zero(), Zero()};
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    F32 value = LoadFirst(x + i, n);
    if (delta != nullptr) {
      value = Add(value, LoadFirst(delta + i, n));
      StoreFirst(value, x + i, n);
    }
    F32& sum = sums[i / kLanes % 4];
    sum = Fma(value, value, sum);
  }
  const float sum = Sum(Add(Add(sums[0], sums[1]), Add(sums[2], sums[3])));
  const F32 inverse = Set(1.0f / std::sqrt(sum / static_cast<float>(count) + epsilon));
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    const F32 scaled = Mul(LoadFirst(x + i, n), inverse);
    StoreFirst(Mul(scaled, LoadFirst(weight + i, n)), out + i, n);
  }
}

// Pairs i and half + i; each product rounded, as the published implementation does.
//   angles [2 * half]: cosines, then sines
inline void RotateHead(float* head, const float* angles, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, half - i));
    const F32 a = LoadFirst(head + i, n), b = LoadFirst(head + half + i, n);
    const F32 cosine = LoadFirst(angles + i, n), sine = LoadFirst(angles + half + i, n);
    StoreFirst(Sub(Mul(a, cosine), Mul(b, sine)), head + i, n);
    StoreFirst(Add(Mul(b, cosine), Mul(a, sine)), head + half + i, n);
  }
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
