// RMS norm over rows, with the residual's addition before it.
//
// Formula   x[t] += delta[t];   out[t] = (x[t] * (1 / sqrt(mean(x[t]^2) + epsilon))) * weight
// Mapping   one block for each row; thread i takes the quadruples i, i + threads, ...; sums go over
//           lanes by halves, then over warps in order, so a row's bits are its own.
// Traffic   reads x (twice, the second time from the first-level cache) and delta, writes x and
// out;
//           bound by memory.
#pragma once

#include "cuda/tile.cuh"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kNormThreads = 256;

struct NormShared {
  float warp_sums[kNormThreads / kWarpLanes];
};

template <typename Half, bool kAdd>
__global__ void __launch_bounds__(kNormThreads)
    NormKernel(float* x, const float* delta, const float* weight, float epsilon, int hidden,
               Half* out) {
  auto& shared = Shared<NormShared>();
  const int64_t row = static_cast<int64_t>(BlockX()) * hidden;
  float sum = 0;
  for (int i = Thread() * 4; i < hidden; i += kNormThreads * 4) {
    for (int j = i; j < i + 4; ++j) {
      float value = x[row + j];
      if constexpr (kAdd) x[row + j] = value = value + delta[row + j];
      sum = Fma(value, value, sum);
    }
  }
  sum = WarpSum(sum);
  if (Lane() == 0) shared.warp_sums[Warp()] = sum;
  Barrier();
  sum = 0;
  for (const float part : shared.warp_sums) sum += part;
  const float inverse = InverseRoot(sum / static_cast<float>(hidden) + epsilon);
  for (int i = Thread() * 4; i < hidden; i += kNormThreads * 4) {
    for (int j = i; j < i + 4; ++j) out[row + j] = Narrow<Half>(x[row + j] * inverse * weight[j]);
  }
}

}  // namespace tuppence::TUPPENCE_DEVICE
