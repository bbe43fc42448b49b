#include "cuda/tile.cuh"

#include <type_traits>

#include "cuda/device.h"

namespace tuppence::cuda_emulated {
namespace {

constexpr int kRows = 16, kCols = 8;

template <typename Half>
float Value(uint32_t word, int second) {
  return Widen(Half{static_cast<uint16_t>(second == 0 ? word : word >> 16)});
}

// c[16][8] += a[16][depth] b[depth][8], products exact, one rounding for each addition.
void MultiplyRows(const float (*a)[16], const float (*b)[kCols], int first, int depth,
                  float (*c)[kCols]) {
  for (int row = 0; row < kRows; ++row) {
    float sums[kCols] = {};
    for (int k = first; k < first + depth; ++k) {
      for (int column = 0; column < kCols; ++column) sums[column] += a[row][k] * b[k][column];
    }
    for (int column = 0; column < kCols; ++column) c[row][column] += sums[column];
  }
}

}  // namespace

template <typename Half>
void MultiplyTiles(const emulation::Parts& parts) {
  const bool small = emulation::Architecture() < 80;
  if (small && std::is_same_v<Half, Bf16>) emulation::Fail("sm_75 multiplies no bf16 tiles");
  float c[kRows][kCols], a[kRows][16], b[16][kCols];
  for (int fragment = 0; fragment < 2; ++fragment) {
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      const Product& part = *static_cast<Product*>(parts[lane]);
      const int g = lane / 4, q = lane % 4;
      for (int i = 0; i < 2; ++i) {
        for (int word = 0; word < 4; ++word) {
          a[g + word % 2 * 8][2 * q + word / 2 * 8 + i] =
              Value<Half>(part.a[fragment * 4 + word], i);
        }
        for (int word = 0; word < 2; ++word) {
          b[2 * q + word * 8 + i][g] = Value<Half>(part.b[fragment * 2 + word], i);
        }
        if (fragment > 0) continue;
        c[g][2 * q + i] = part.c[i];
        c[g + 8][2 * q + i] = part.c[2 + i];
      }
    }
    for (int k = 0; k < 16; k += small ? 8 : 16) MultiplyRows(a, b, k, small ? 8 : 16, c);
  }
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    const Product& part = *static_cast<Product*>(parts[lane]);
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 2; ++i) {
      part.c[i] = c[g][2 * q + i];
      part.c[2 + i] = c[g + 8][2 * q + i];
    }
  }
}

template void MultiplyTiles<F16>(const emulation::Parts&);
template void MultiplyTiles<Bf16>(const emulation::Parts&);

}  // namespace tuppence::cuda_emulated
