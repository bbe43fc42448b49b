// What both attention kernels share: where a sequence's keys and values lie, and how 8 channels of
// one are read. Included by attention_prefill.cuh and attention_decode.cuh.
#pragma once

#include "cuda/device_batch.h"
#include "cuda/tile.cuh"
#include "model/backend.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr float kLog2E = 1.44269504088896341f;

struct AttentionArgs {
  const float* qkv = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* block_tables = nullptr;
  const void* keys = nullptr;
  const void* values = nullptr;
  const uint16_t* key_scales = nullptr;  // int8 pages only
  const uint16_t* value_scales = nullptr;
  uint16_t* out = nullptr;
  int qkv_stride = 0;
  int block_table_stride = 0;
  int block_tokens = 0;
  int heads = 0;
  int kv_heads = 0;
  int window = 0;
  float scale_log2 = 0;  // the scale of scores times log2(e): weights are powers of two
};

// Checks shapes and fills the arguments. Host.
AttentionArgs MakeAttentionArgs(Tensor qkv, const AttentionShape& shape, const Batch& batch,
                                const KvLayer& cache, Tensor out);

// First key that a query at `position` sees.
__device__ inline int FirstKey(const AttentionArgs& args, int position) {
  return args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
}

// The row of the pages that holds a key of an entry's sequence.
__device__ inline int64_t PageRow(const AttentionArgs& args, int entry, int kv_head, int key) {
  const int block = args.block_tables[entry * args.block_table_stride + key / args.block_tokens];
  return (static_cast<int64_t>(block) * args.kv_heads + kv_head) * args.block_tokens +
         key % args.block_tokens;
}

// Eight channels of a page's row, as numbers; codes of int8 pages without their scale.
template <typename Half>
__device__ inline void LoadPiece(const Half* source, float (&channels)[8]) {
  const uint4 words = *reinterpret_cast<const uint4*>(source);
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  TUPPENCE_UNROLL
  for (int i = 0; i < 8; ++i) {
    channels[i] = Widen(Half{static_cast<uint16_t>(pairs[i / 2] >> (i % 2 * 16))});
  }
}
template <>
__device__ inline void LoadPiece<int8_t>(const int8_t* source, float (&channels)[8]) {
  const auto* const words = reinterpret_cast<const uint32_t*>(source);
  TUPPENCE_UNROLL
  for (int i = 0; i < 8; ++i) {
    channels[i] = static_cast<float>(static_cast<int8_t>(words[i / 4] >> (i % 4 * 8)));
  }
}

template <typename Kv>
constexpr bool kIsCoded = sizeof(Kv) == 1;

}  // namespace tuppence::TUPPENCE_DEVICE
