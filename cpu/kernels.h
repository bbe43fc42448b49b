// The table of a kernel path's leaf functions: what runs inside one chunk of one thread. Each
// kernels_<path>.cc fills one from the kernel headers, compiled for its instruction set; the op
// files (matmul.cc, attention.cc, ...) split the work and call through it.
//
// The tables of plain, avx2 and avx512 agree to the bit in every function. matmul_bf16 of
// avx512bf16 and amx follow their own instruction.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernel_paths.h"
#include "model/backend.h"
#include "model/philox.h"

namespace tuppence {

// Up to kMatmulRowsMax rows of x times some panels of a weight.
struct MatmulCall {
  // The weight: see packed_matrix.h.
  const std::byte* panels = nullptr;
  int64_t panel_bytes = 0;
  int64_t cols = 0;     // K
  int64_t outputs = 0;  // columns of out
  bool gated = false;
  int64_t group = 0;  // quantised weights only
  bool int4 = false;

  // The rows, in the form that the kernel reads.
  int64_t rows = 0;
  const float* x = nullptr;           // [rows, K]
  const uint16_t* x_tiles = nullptr;  // bf16 [row tiles of 16][K blocks of 32][16][32], zero padded
  const int8_t* x_codes = nullptr;    // [rows, K]
  const float* x_scales = nullptr;    // [rows, groups]
  const int32_t* x_sums = nullptr;    // [rows, groups]  sum of the group's codes

  float* out = nullptr;
  int64_t out_stride = 0;
  float* scratch = nullptr;  // this thread's, kMatmulScratchBytes
};
constexpr int64_t kMatmulRowsMax = 512;
constexpr int64_t kMatmulPanelsMax = 16;  // panels of one call
constexpr size_t kMatmulScratchBytes =
    kMatmulRowsMax * kMatmulPanelsMax * 32 * sizeof(float) + 8192;

using MatmulFunction = void (*)(const MatmulCall& call, int64_t first_panel, int64_t last_panel);

// The queries of one attention item: some tokens of one entry and the heads of one KV head's group;
// or one token and the heads of several groups.
struct AttentionCall {
  const float* qkv = nullptr;
  int64_t qkv_stride = 0;
  const int32_t* positions = nullptr;  // [tokens]
  const int32_t* block_table = nullptr;
  AttentionShape shape;
  const KvLayer* cache = nullptr;
  int32_t first_token = 0;  // rows of qkv
  int32_t token_count = 0;
  int32_t kv_head = 0;
  int32_t kv_heads =
      1;  // from kv_head on; several only where each has at most kAttentionFewQueries
  // Only keys of splits [first_split, last_split) are looked at.
  int32_t first_split = 0;
  int32_t last_split = 0;
  float* scratch = nullptr;
  // One of the two: where finished rows go, or where the state of the only split goes, as
  // [token_count * group][head_dim padded to 16, then max, then sum, padded to 16].
  float* out = nullptr;
  float* partial = nullptr;
};
constexpr int32_t kAttentionTileKeys = 64;
constexpr int32_t kAttentionSplitKeys = 1024;
// So few queries of a KV head read its pages directly.
constexpr int32_t kAttentionFewQueries = 2;
constexpr int32_t kAttentionQueriesMax = 32;  // of one item; a group of more heads takes one token

constexpr int64_t PaddedHeadDim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
constexpr int64_t AttentionPartialFloats(int64_t head_dim) { return PaddedHeadDim(head_dim) + 16; }

struct ScanResult {
  float max = 0;
  bool finite = true;  // no NaN, no +Inf
};

// One draw among ids with a weight (exp of the distance to the largest logit) above zero.
struct DrawCall {
  const float* weights = nullptr;  // [count]
  const float* logits = nullptr;   // [count]  adjusted
  int32_t count = 0;
  float max = 0;  // the largest adjusted logit
  float temperature = 1;
  PhiloxKey key;
  uint32_t output_index = 0;
};

struct Kernels {
  KernelPath path = KernelPath::kPlain;
  bool bf16_tiles = false;  // matmul_bf16 reads x_tiles; otherwise x

  MatmulFunction matmul_f32 = nullptr;
  MatmulFunction matmul_bf16 = nullptr;
  MatmulFunction matmul_f16 = nullptr;
  MatmulFunction matmul_int = nullptr;
  // Rounds 16 rows at most to bf16 tiles of one row tile; rows beyond are zero.
  void (*pack_row_tile)(const float* x, int64_t rows, int64_t cols, uint16_t* tiles) = nullptr;
  void (*quantize_row)(const float* x, int64_t cols, int64_t group, int8_t* codes, float* scales,
                       int32_t* sums) = nullptr;

  // out = norm(x) * weight; with delta, x += delta first.
  void (*norm_row)(float* x, const float* delta, const float* weight, float epsilon, int64_t count,
                   float* out) = nullptr;
  void (*rotate_head)(float* head, const float* angles, int64_t half) = nullptr;
  // One token's values of one KV head, rounded to bf16, or to int8 with its scale.
  void (*store_bf16)(const float* x, int64_t count, uint16_t* out) = nullptr;
  void (*store_int8)(const float* x, int64_t count, int8_t* codes, uint16_t* scale) = nullptr;
  void (*attention)(const AttentionCall& call) = nullptr;
  // total and the next split's state, both as in AttentionCall::partial, become total.
  void (*merge_attention)(float* total, const float* next, int64_t head_dim) = nullptr;
  void (*finish_attention)(const float* total, int64_t head_dim, float* out) = nullptr;

  ScanResult (*scan_logits)(const float* logits, int64_t count) = nullptr;
  double (*sum_exp)(const float* logits, int64_t count, float max) = nullptr;
  // weights[i] = exp((logits[i] - max) / temperature)
  void (*soft_weights)(const float* logits, int64_t count, float max, float temperature,
                       float* weights) = nullptr;
  int32_t (*draw)(const DrawCall& call) = nullptr;
};

// The table of a path. Requires: the machine has it (see kernel_paths.h).
Kernels KernelsOf(KernelPath path, const CpuFeatures& features);

// What KernelsOf puts together, each from its own file.
Kernels KernelsPlain();
#if defined(__x86_64__)
Kernels KernelsAvx2();
Kernels KernelsAvx512();
void AddMatmulsAvx2(Kernels* table);
void MatmulIntVnni(const MatmulCall& call, int64_t first_panel, int64_t last_panel);
void MatmulBf16Dot(const MatmulCall& call, int64_t first_panel, int64_t last_panel);
void MatmulAmx(const MatmulCall& call, int64_t first_panel, int64_t last_panel);
#endif

}  // namespace tuppence
