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

// Four values that are read and written at once: rows are multiples of four.
struct alignas(16) Quadruple {
  float v[4];
};
__device__ inline Quadruple& QuadrupleAt(float* at) { return *reinterpret_cast<Quadruple*>(at); }
__device__ inline const Quadruple& QuadrupleAt(const float* at) {
  return *reinterpret_cast<const Quadruple*>(at);
}

template <typename Half, bool kAdd>
__global__ void __launch_bounds__(kNormThreads)
    NormKernel(float* x, const float* delta, const float* weight, float epsilon, int hidden,
               Half* out) {
  auto& shared = Shared<NormShared>();
  const int64_t row = static_cast<int64_t>(BlockX()) * hidden;
  float sum = 0;
  for (int i = Thread() * 4; i < hidden; i += kNormThreads * 4) {
    Quadruple value = QuadrupleAt(x + row + i);
    if constexpr (kAdd) {
      const Quadruple added = QuadrupleAt(delta + row + i);
      for (int j = 0; j < 4; ++j) value.v[j] += added.v[j];
      QuadrupleAt(x + row + i) = value;
    }
    for (int j = 0; j < 4; ++j) sum = Fma(value.v[j], value.v[j], sum);
  }
  sum = WarpSum(sum);
  if (Lane() == 0) shared.warp_sums[Warp()] = sum;
  Barrier();
  sum = 0;
  for (const float part : shared.warp_sums) sum += part;
  const float inverse = InverseRoot(sum / static_cast<float>(hidden) + epsilon);
  for (int i = Thread() * 4; i < hidden; i += kNormThreads * 4) {
    const Quadruple value = QuadrupleAt(x + row + i), scale = QuadrupleAt(weight + i);
    float normed[4];
    for (int j = 0; j < 4; ++j) normed[j] = value.v[j] * inverse * scale.v[j];
    *reinterpret_cast<uint2*>(out + row + i) =
        uint2{NarrowPair<Half>(normed[0], normed[1]), NarrowPair<Half>(normed[2], normed[3])};
  }
}

}  // namespace tuppence::TUPPENCE_DEVICE
