#include "cuda/tile.cuh"

#include <cstring>
#include <type_traits>

namespace tuppence::cuda_emulated {
namespace {

constexpr int kRows = 16, kDepth = 16, kCols = 8;

// As Widen, without a branch for the usual numbers.
template <typename Half>
float Value(uint32_t bits) {
  if constexpr (std::is_same_v<Half, Bf16>) return std::bit_cast<float>(bits << 16);
  const float magnitude = std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112f;
  const bool finite = (bits & 0x7c00u) != 0x7c00u;
  return finite ? std::copysign(magnitude, std::bit_cast<float>(bits << 16))
                : ToFloat(F16{static_cast<uint16_t>(bits)});
}

// A tile multiplication's operands, gathered from the lanes.
struct Operands {
  float a[kRows][kDepth];
  float b[kDepth][kCols];
  float c[kRows][kCols];
  uint32_t row_bits[kRows];  // 0: the row of a is zeros
  bool b_finite;
};

template <typename Half>
void GatherFactors(const emulation::Parts& parts, int fragment, Operands& all) {
  std::memset(all.row_bits, 0, sizeof(all.row_bits));
  all.b_finite = true;
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    const Product& part = *static_cast<Product*>(parts[lane]);
    const int g = lane / 4, q = lane % 4;
    for (int word = 0; word < 4; ++word) {
      const uint32_t bits = part.a[fragment * 4 + word];
      const int row = g + word % 2 * 8;
      const float pair[2] = {Value<Half>(bits & 0xffffu), Value<Half>(bits >> 16)};
      std::memcpy(&all.a[row][2 * q + word / 2 * 8], pair, sizeof(pair));
      all.row_bits[row] |= bits & 0x7fff7fffu;
    }
    for (int word = 0; word < 2; ++word) {
      const uint32_t bits = part.b[fragment * 2 + word];
      const float first = Value<Half>(bits & 0xffffu), second = Value<Half>(bits >> 16);
      all.b[2 * q + word * 8][g] = first;
      all.b[2 * q + word * 8 + 1][g] = second;
      all.b_finite = all.b_finite && first - first == 0 && second - second == 0;
    }
  }
}

// c += a b over some of the depth: products exact, one rounding for each addition. Rows of zeros,
// of which a small batch has many, change nothing.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx2", "default")))
#endif
void MultiplyRows(Operands& all, int first, int depth) {
  for (int row = 0; row < kRows; ++row) {
    if (all.row_bits[row] == 0 && all.b_finite) continue;
    float sums[kCols] = {};
    for (int k = first; k < first + depth; ++k) {
      for (int column = 0; column < kCols; ++column) {
        sums[column] += all.a[row][k] * all.b[k][column];
      }
    }
    for (int column = 0; column < kCols; ++column) all.c[row][column] += sums[column];
  }
}

}  // namespace

template <typename Half>
void MultiplyTiles(const emulation::Parts& parts) {
  const bool small = emulation::running.arch < 80;
  if (small && std::is_same_v<Half, Bf16>) emulation::Fail("sm_75 multiplies no bf16 tiles");
  Operands all;
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    const Product& part = *static_cast<Product*>(parts[lane]);
    std::memcpy(&all.c[lane / 4][lane % 4 * 2], part.c, 2 * sizeof(float));
    std::memcpy(&all.c[lane / 4 + 8][lane % 4 * 2], part.c + 2, 2 * sizeof(float));
  }
  for (int fragment = 0; fragment < 2; ++fragment) {
    GatherFactors<Half>(parts, fragment, all);
    const int depth = small ? 8 : 16;
    for (int first = 0; first < kDepth; first += depth) MultiplyRows(all, first, depth);
  }
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    const Product& part = *static_cast<Product*>(parts[lane]);
    std::memcpy(part.c, &all.c[lane / 4][lane % 4 * 2], 2 * sizeof(float));
    std::memcpy(part.c + 2, &all.c[lane / 4 + 8][lane % 4 * 2], 2 * sizeof(float));
  }
}

template void MultiplyTiles<F16>(const emulation::Parts&);
template void MultiplyTiles<Bf16>(const emulation::Parts&);

}  // namespace tuppence::cuda_emulated
