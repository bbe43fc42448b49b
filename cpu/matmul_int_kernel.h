// The matmul of int8 and int4 weights on sixteen lanes: exact integer dot products within a group,
// then one f32 FMA for each group. Compiled once per kernel path that has a byte dot product.
//
// Formula   out[r, n] = sum over groups, in order, of fma(dot, x_scale * w_scale, sum), from zero.
// Mapping   as in matmul_kernel.h: lanes are outputs, a panel at a time.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/matmul_kernel.h"
#include "cpu/packed_matrix.h"
#include "cpu/simd.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

template <bool kInt4, int kRows>
inline void DotRows(const MatmulCall& call, int64_t first_row, int64_t panel) {
  const auto* p = reinterpret_cast<const uint8_t*>(call.panels + panel * call.panel_bytes);
  const int64_t groups = (call.cols + call.group - 1) / call.group;
  const int8_t* const x = call.x_codes + first_row * call.cols;
  F32 sums[kRows][2];
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Zero();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = first_row * groups + g;
    const F32 w_scales[2] = {LoadF16(reinterpret_cast<const uint16_t*>(p)),
                             LoadF16(reinterpret_cast<const uint16_t*>(p) + 16)};
    p += kLineBytes;
    I32 dots[kRows][2];
    for (int r = 0; r < kRows; ++r) {
      const int32_t codes_sum = call.x_sums[at + r * groups];
      dots[r][0] = dots[r][1] = kInt4 ? SetI32(-8 * codes_sum) : StartInt8(codes_sum);
    }
    const int64_t last = std::min(call.cols, (g + 1) * call.group);
    for (int64_t k = g * call.group; k < last; k += kInt4 ? 8 : 4, p += 2 * kLineBytes) {
      Prefetch(p + kPrefetchBytes);
      Prefetch(p + kPrefetchBytes + kLineBytes);
      for (int r = 0; r < kRows; ++r) {
        const int8_t* const codes = x + r * call.cols + k;
        dots[r][0] = kInt4 ? DotInt4(dots[r][0], p, codes) : DotInt8(dots[r][0], p, codes);
        dots[r][1] = kInt4 ? DotInt4(dots[r][1], p + kLineBytes, codes)
                           : DotInt8(dots[r][1], p + kLineBytes, codes);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const F32 x_scale = Set(call.x_scales[at + r * groups]);
      for (int half = 0; half < 2; ++half) {
        sums[r][half] = Fma(ToF32(dots[r][half]), Mul(x_scale, w_scales[half]), sums[r][half]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    StorePanelRow(call, first_row + r, panel, sums[r][0], sums[r][1]);
  }
}

// In register blocks of four rows, where there are registers for them, and then two and one.
template <bool kInt4>
inline void MatmulDotPanel(const MatmulCall& call, int64_t panel) {
  constexpr int kRows = kMatmulRows > 4 ? 4 : kMatmulRows;
  int64_t row = 0;
  for (; row + kRows <= call.rows; row += kRows) DotRows<kInt4, kRows>(call, row, panel);
  if (kRows > 2 && row + 2 <= call.rows) DotRows<kInt4, 2>(call, row, panel), row += 2;
  if (row < call.rows) DotRows<kInt4, 1>(call, row, panel);
}

inline void MatmulInt(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    call.int4 ? MatmulDotPanel<true>(call, panel) : MatmulDotPanel<false>(call, panel);
  }
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
