#include "cpu/matmul.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Panels a thread takes at once: enough chunks that a delayed thread holds up nobody (8 for each),
// at most kMatmulPanelsMax, whose sums the thread's scratch holds.
int64_t PanelsAtOnce(int64_t panels, int threads) {
  return std::clamp<int64_t>(panels / (threads * 8), 1, kMatmulPanelsMax);
}

MatmulFunction FunctionFor(const Kernels& kernels, WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return kernels.matmul_f32;
    case WeightType::kBf16:
      return kernels.matmul_bf16;
    case WeightType::kF16:
      return kernels.matmul_f16;
    case WeightType::kInt8:
    case WeightType::kInt4:
      return kernels.matmul_int;
  }
  return nullptr;
}

}  // namespace

MatmulOp::MatmulOp(const Kernels& kernels, ThreadPool& pool)
    : kernels_(kernels), pool_(pool), thread_scratch_(pool.threads()) {}

void MatmulOp::Run(Tensor x, const PackedMatrix& w, Tensor out) {
  const int64_t tokens = x.shape[0], cols = x.shape[1];
  CHECK_EQ(x.rank, 2);
  CHECK_EQ(out.rank, 2);
  CHECK(x.type == DType::kF32);
  CHECK(out.type == DType::kF32);
  CHECK_EQ(cols, w.spec().cols);
  CHECK_EQ(out.shape[0], tokens);
  CHECK_EQ(out.shape[1], w.outputs());
  for (int64_t first = 0; first < tokens; first += kMatmulRowsMax) {
    const int64_t rows = std::min(kMatmulRowsMax, tokens - first);
    RunRows(x.as<float>() + first * cols, rows, w, out.as<float>() + first * w.outputs());
  }
}

void MatmulOp::RunRows(const float* x, int64_t rows, const PackedMatrix& w, float* out) {
  MatmulCall call;
  call.panels = w.panel(0);
  call.panel_bytes = w.panel_bytes();
  call.cols = w.spec().cols;
  call.outputs = w.outputs();
  call.gated = w.gated();
  call.group = w.spec().format.group;
  call.int4 = w.spec().format.type == WeightType::kInt4;
  call.rows = rows;
  call.x = x;
  call.out = out;
  call.out_stride = w.outputs();
  PrepareRows(call, w);
  const MatmulFunction function = FunctionFor(kernels_, w.spec().format.type);
  const int64_t at_once = PanelsAtOnce(w.panels(), pool_.threads());
  pool_.ParallelFor(CeilDiv(w.panels(), at_once), [&](int64_t chunk, int thread) {
    MatmulCall mine = call;
    mine.scratch = thread_scratch_[thread].Get<float>(kMatmulScratchBytes / sizeof(float));
    const int64_t first = chunk * at_once;
    function(mine, first, std::min(w.panels(), first + at_once));
  });
}

void MatmulOp::PrepareRows(MatmulCall& call, const PackedMatrix& w) {
  if (w.spec().format.type == WeightType::kBf16 && kernels_.bf16_tiles) {
    const int64_t tile_values = CeilDiv(call.cols, kBf16BlockCols) * 512;
    const int64_t tiles = CeilDiv(call.rows, 16);
    auto* const packed = rows_.Get<uint16_t>(static_cast<size_t>(tiles * tile_values));
    pool_.ParallelFor(tiles, [&](int64_t tile, int) {
      const int64_t rows = std::min<int64_t>(16, call.rows - tile * 16);
      kernels_.pack_row_tile(call.x + tile * 16 * call.cols, rows, call.cols,
                             packed + tile * tile_values);
    });
    call.x_tiles = packed;
  } else if (w.spec().format.quantised()) {
    const int64_t groups = w.groups();
    const int64_t row_bytes = call.cols + groups * 8;
    auto* const base = rows_.Get<std::byte>(static_cast<size_t>(call.rows * row_bytes));
    auto* const scales = reinterpret_cast<float*>(base);
    auto* const sums = reinterpret_cast<int32_t*>(scales + call.rows * groups);
    auto* const codes = reinterpret_cast<int8_t*>(sums + call.rows * groups);
    const int64_t at_once = 8;  // rows; one is about a microsecond of work
    pool_.ParallelFor(CeilDiv(call.rows, at_once), [&](int64_t chunk, int) {
      const int64_t last = std::min(call.rows, (chunk + 1) * at_once);
      for (int64_t row = chunk * at_once; row < last; ++row) {
        kernels_.quantize_row(call.x + row * call.cols, call.cols, call.group,
                              codes + row * call.cols, scales + row * groups, sums + row * groups);
      }
    });
    call.x_scales = scales;
    call.x_sums = sums;
    call.x_codes = codes;
  }
}

}  // namespace tuppence
