// The bf16 matmul of AVX-512 BF16: vdpbf16ps, 32 multiply-adds an instruction. Twice the f32 path
// on Zen 5 (0.94 against 0.51 TFLOPS on 2 cores), half of it on Intel (0.22 against 0.42), so only
// the table in kernel_paths.cc chooses it.
//
// Arithmetic: x is rounded to bf16; each output is one chain over pairs of k in order, and a pair
// adds its odd product, then its even one, as the instruction defines (subnormals count as zero).
#if defined(__x86_64__)

#define TUPPENCE_SIMD_AVX512
#include "cpu/kernels.h"
#include "cpu/matmul_kernel.h"

TUPPENCE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")

namespace tuppence {

namespace {

// Rows stay within one tile of 16, whose rows are 64 bytes apart.
template <int kRows>
void DotRows(const MatmulCall& call, int64_t first_row, int64_t panel) {
  const int64_t blocks = (call.cols + kBf16BlockCols - 1) / kBf16BlockCols;
  const auto* const x = call.x_tiles + first_row / 16 * blocks * 512 + first_row % 16 * 32;
  const std::byte* w = call.panels + panel * call.panel_bytes;
  __m512 sums[kRows][2];
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block) {
    for (int pair = 0; pair < 16; ++pair, w += 2 * kLineBytes) {
      const __m512bh first = (__m512bh)_mm512_loadu_si512(w);
      const __m512bh second = (__m512bh)_mm512_loadu_si512(w + kLineBytes);
      avx512::Prefetch(w + avx512::kPrefetchBytes);
      avx512::Prefetch(w + avx512::kPrefetchBytes + kLineBytes);
      for (int r = 0; r < kRows; ++r) {
        int32_t two;
        std::memcpy(&two, x + block * 512 + r * 32 + pair * 2, sizeof(two));
        const __m512bh value = (__m512bh)_mm512_set1_epi32(two);
        sums[r][0] = _mm512_dpbf16_ps(sums[r][0], value, first);
        sums[r][1] = _mm512_dpbf16_ps(sums[r][1], value, second);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    avx512::StorePanelRow(call, first_row + r, panel, {sums[r][0]}, {sums[r][1]});
  }
}

}  // namespace

void MatmulBf16Dot(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    int64_t row = 0;
    for (; row + 8 <= call.rows; row += 8) DotRows<8>(call, row, panel);
    if (row + 4 <= call.rows) DotRows<4>(call, row, panel), row += 4;
    if (row + 2 <= call.rows) DotRows<2>(call, row, panel), row += 2;
    if (row < call.rows) DotRows<1>(call, row, panel);
  }
}

}  // namespace tuppence

TUPPENCE_TARGET_END

#endif
