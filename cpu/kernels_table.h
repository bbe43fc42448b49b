// Fills a kernel table from the kernel headers, for the instruction set that the including
// kernels_<path>.cc has chosen.
#pragma once

#include "cpu/activations_kernel.h"
#include "cpu/attention_kernel.h"
#include "cpu/kernels.h"
#include "cpu/matmul_kernel.h"
#ifndef TUPPENCE_SIMD_AVX512  // has no byte dot product without VNNI: takes AVX2's
#include "cpu/matmul_int_kernel.h"
#endif
#include "cpu/norm_kernel.h"
#include "cpu/sampling_kernel.h"
#include "cpu/simd.h"

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

inline Kernels MakeTable(KernelPath path) {
  Kernels table;
  table.path = path;
  table.matmul_f32 = &MatmulFma<WeightType::kF32>;
  table.matmul_bf16 = &MatmulFma<WeightType::kBf16>;
  table.matmul_f16 = &MatmulFma<WeightType::kF16>;
#ifndef TUPPENCE_SIMD_AVX512
  table.matmul_int = &MatmulInt;
#endif
  table.pack_row_tile = &PackRowTile;
  table.quantize_row = &QuantizeRow;
  table.norm_row = &NormRow;
  table.rotate_head = &RotateHead;
  table.store_bf16 = &StoreBf16;
  table.store_int8 = &StoreInt8;
  table.attention = &AttentionItem;
  table.merge_attention = &MergeAttention;
  table.finish_attention = &FinishAttention;
  table.scan_logits = &ScanLogits;
  table.sum_exp = &SumExp;
  table.soft_weights = &SoftWeights;
  table.draw = &Draw;
  return table;
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE
