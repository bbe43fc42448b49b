// The matmuls of f32, bf16 and f16 weights by many rows on AVX2. (Those of int8 and int4 gain
// nothing by it: two rows at a time keep all four vector pipes busy.)
//
// Formula   matmul_kernel.h's, to the bit.
// Mapping   a block of up to 6 rows by one half of a panel (16 outputs) has its sums in 12 of the
// 16
//           registers. 128 k of a panel are first written out as f32, so that widening costs once
//           for all rows; the rows pass over that part, and their sums wait in scratch for the
//           next.
// Traffic   a part of a panel is 16 KiB and stays in L1; rows come from L2 or L3 once a panel.
// 512 rows, one core of a Zen 3: 47 GFMA/s of the 52 that two FMAs a cycle allow; two rows at a
// time, widened each time, 27.
#if defined(__x86_64__)

#define TUPPENCE_SIMD_AVX2
#include "cpu/matmul_kernel.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence {

namespace {

using namespace avx2;  // NOLINT: sixteen lanes

constexpr int kBlockRows = 6;
constexpr int64_t kFewRows = 4;  // up to here memory is the limit, and nothing is gained
constexpr int64_t kPartCols = 128;

struct Part {
  int64_t first_col, cols;
  alignas(64) float weights[2][kPartCols * 16];  // [half][k][16 outputs]
};

template <WeightType kType>
void WritePart(const std::byte* panel, Part* part) {
  constexpr int64_t kTwoKBytes = kType == WeightType::kF32 ? 256 : 128;
  for (int64_t k = 0; k < part->cols; k += 2) {
    const std::byte* const line = panel + (part->first_col + k) / 2 * kTwoKBytes;
    for (int64_t at = 0; at < kTwoKBytes; at += 64) Prefetch(line + at + kPrefetchBytes);
    F32 w[2][2];
    LoadTwoK<kType>(panel, part->first_col + k, w);
    for (int half = 0; half < 2; ++half) {
      Store(w[0][half], part->weights[half] + k * 16);
      Store(w[1][half], part->weights[half] + k * 16 + 16);
    }
  }
}

template <int kRows>
void FmaBlock(const MatmulCall& call, int64_t row, const Part& part) {
  const float* const x = call.x + row * call.cols + part.first_col;
  for (int half = 0; half < 2; ++half) {
    const float* w = part.weights[half];
    float* const sums = call.scratch + row * kPanelOutputs + half * 16;
    F32 sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = Load(sums + r * kPanelOutputs);
    for (int64_t k = 0; k < part.cols; ++k, w += 16) {
      const F32 weights = Load(w);
      for (int r = 0; r < kRows; ++r) sum[r] = Fma(Set(x[r * call.cols + k]), weights, sum[r]);
    }
    for (int r = 0; r < kRows; ++r) Store(sum[r], sums + r * kPanelOutputs);
  }
}

// In blocks of as equal size as can be: a block of one row would take as long as one of three. Five
// rows or more make blocks of three to six.
void AllRows(const MatmulCall& call, const Part& part) {
  int64_t blocks = (call.rows + kBlockRows - 1) / kBlockRows;
  for (int64_t row = 0; row < call.rows; --blocks) {
    const int64_t rows = (call.rows - row + blocks - 1) / blocks;
    switch (rows) {
      case 6:
        FmaBlock<6>(call, row, part);
        break;
      case 5:
        FmaBlock<5>(call, row, part);
        break;
      case 4:
        FmaBlock<4>(call, row, part);
        break;
      default:
        FmaBlock<3>(call, row, part);
        break;
    }
    row += rows;
  }
}

template <WeightType kType>
void MatmulParts(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  Part part;
  for (int64_t index = first_panel; index < last_panel; ++index) {
    const std::byte* const panel = call.panels + index * call.panel_bytes;
    std::fill_n(call.scratch, call.rows * kPanelOutputs, 0.0f);
    for (part.first_col = 0; part.first_col < call.cols; part.first_col += kPartCols) {
      part.cols = std::min(kPartCols, call.cols - part.first_col);
      WritePart<kType>(panel, &part);
      AllRows(call, part);
    }
    for (int64_t row = 0; row < call.rows; ++row) {
      const float* const sums = call.scratch + row * kPanelOutputs;
      StorePanelRow(call, row, index, Load(sums), Load(sums + 16));
    }
  }
}

template <WeightType kType>
void MatmulFmaAvx2(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  call.rows <= kFewRows ? MatmulFma<kType>(call, first_panel, last_panel)
                        : MatmulParts<kType>(call, first_panel, last_panel);
}

}  // namespace

void AddMatmulsAvx2(Kernels* table) {
  table->matmul_f32 = &MatmulFmaAvx2<WeightType::kF32>;
  table->matmul_bf16 = &MatmulFmaAvx2<WeightType::kBf16>;
  table->matmul_f16 = &MatmulFmaAvx2<WeightType::kF16>;
}

}  // namespace tuppence

TUPPENCE_SIMD_END

#endif
