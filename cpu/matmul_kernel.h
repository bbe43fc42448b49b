// The matmul of f32, bf16 and f16 weights on sixteen lanes, with f32 FMAs. Compiled once per kernel
// path, by its kernels_*.cc.
//
// Formula   out[r, n] = sum over k, in order of k, of fma(x[r, k], w[n, k], sum), from zero.
// Mapping   lanes are outputs; a register block is kMatmulRows rows by the 32 outputs of a panel.
// Traffic   a panel comes from memory once and stays in L2 while all rows pass over it.
// A row's sum never depends on which rows share its block.
#pragma once

#include <algorithm>
#include <bit>

#include "cpu/kernels.h"
#include "cpu/packed_matrix.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

// Writes one row of a panel: both halves side by side, or silu(first half) * second half.
TUPPENCE_INLINE void StorePanelRow(const MatmulCall& call, int64_t row, int64_t panel, F32 first,
                                   F32 second) {
  const int64_t column = panel * (call.gated ? kHalfOutputs : kPanelOutputs);
  const int left = static_cast<int>(std::min<int64_t>(call.outputs - column, kPanelOutputs));
  float* const out = call.out + row * call.out_stride + column;
  if (call.gated) {
    StoreFirst(Mul(Silu(first), second), out, std::min(left, 16));
  } else {
    StoreFirst(first, out, std::min(left, 16));
    if (left > 16) StoreFirst(second, out + 16, left - 16);
  }
}

// Two k at a time: K is a multiple of 8, and a bf16 line holds pairs.
template <WeightType kType>
TUPPENCE_INLINE void LoadTwoK(const std::byte* panel, int64_t k, F32 (&w)[2][2]) {
  if constexpr (kType == WeightType::kBf16) {
    const auto* const p = reinterpret_cast<const uint16_t*>(panel) + k * 32;
    LoadBf16Pairs(p, w[0][0], w[1][0]);
    LoadBf16Pairs(p + 32, w[0][1], w[1][1]);
  } else if constexpr (kType == WeightType::kF16) {
    const auto* const p = reinterpret_cast<const uint16_t*>(panel) + k * 32;
    w[0][0] = LoadF16(p);
    w[0][1] = LoadF16(p + 16);
    w[1][0] = LoadF16(p + 32);
    w[1][1] = LoadF16(p + 48);
  } else {
    const auto* const p = reinterpret_cast<const float*>(panel) + k * 32;
    w[0][0] = Load(p);
    w[0][1] = Load(p + 16);
    w[1][0] = Load(p + 32);
    w[1][1] = Load(p + 48);
  }
}

// 2 KiB ahead: enough to cover the latency of memory at what one core can read.
constexpr int64_t kPrefetchBytes = 2048;

template <WeightType kType, int kRows>
inline void FmaRows(const MatmulCall& call, int64_t first_row, int64_t panel) {
  const std::byte* const weights = call.panels + panel * call.panel_bytes;
  const float* const x = call.x + first_row * call.cols;
  constexpr int64_t kTwoKBytes = kType == WeightType::kF32 ? 256 : 128;
  F32 sums[kRows][2];
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Zero();
  for (int64_t k = 0; k < call.cols; k += 2) {
    F32 w[2][2];
    LoadTwoK<kType>(weights, k, w);
    for (int64_t line = 0; line < kTwoKBytes; line += 64) {
      Prefetch(weights + k / 2 * kTwoKBytes + line + kPrefetchBytes);
    }
    for (int j = 0; j < 2; ++j) {
      for (int r = 0; r < kRows; ++r) {
        const F32 value = Set(x[r * call.cols + k + j]);
        sums[r][0] = Fma(value, w[j][0], sums[r][0]);
        sums[r][1] = Fma(value, w[j][1], sums[r][1]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    StorePanelRow(call, first_row + r, panel, sums[r][0], sums[r][1]);
  }
}

// All rows over each panel, in register blocks of kMatmulRows and then the powers of two below.
template <WeightType kType>
inline void MatmulFma(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    int64_t row = 0;
    for (; row + kMatmulRows <= call.rows; row += kMatmulRows) {
      FmaRows<kType, kMatmulRows>(call, row, panel);
    }
    if constexpr (kMatmulRows > 4) {
      if (row + 4 <= call.rows) FmaRows<kType, 4>(call, row, panel), row += 4;
    }
    if constexpr (kMatmulRows > 2) {
      if (row + 2 <= call.rows) FmaRows<kType, 2>(call, row, panel), row += 2;
    }
    if (row < call.rows) FmaRows<kType, 1>(call, row, panel);
  }
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
