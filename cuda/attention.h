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
  int block_shift = -1;  // log2 of block_tokens, where it is a power of two
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

// The row of the pages that holds a key of an entry's sequence. Blocks of the service are of 16
// tokens; a division takes as long as all else that is done for a key.
__device__ inline int PageRow(const AttentionArgs& args, int entry, int kv_head, int key) {
  const int index = args.block_shift >= 0 ? key >> args.block_shift : key / args.block_tokens;
  const int block = args.block_tables[entry * args.block_table_stride + index];
  return (block * args.kv_heads + kv_head) * args.block_tokens + key - index * args.block_tokens;
}

template <typename Kv>
constexpr bool kIsCoded = sizeof(Kv) == 1;

// Eight channels of a page's row as they lie there: 16-bit values, or codes.
template <typename Kv>
using Piece = std::conditional_t<kIsCoded<Kv>, uint2, uint4>;

// Zeros where there is no such row.
template <typename Kv>
__device__ inline Piece<Kv> LoadPiece(const Kv* source, bool there) {
  if (!there) return Piece<Kv>{};
  return *reinterpret_cast<const Piece<Kv>*>(source);
}

// As numbers; codes without their scale.
template <typename Kv>
__device__ inline void WidenPiece(const Piece<Kv>& piece, float (&channels)[8]) {
  TUPPENCE_UNROLL
  for (int i = 0; i < 8; ++i) {
    if constexpr (kIsCoded<Kv>) {
      channels[i] = WidenCode(FlipCodes(i < 4 ? piece.x : piece.y), i % 4);
    } else {
      const uint32_t pair = i < 4 ? i < 2 ? piece.x : piece.y : i < 6 ? piece.z : piece.w;
      channels[i] = Widen(Kv{static_cast<uint16_t>(pair >> (i % 2 * 16))});
    }
  }
}

// As operands of tile multiplications; codes without their scale, exact.
template <typename Half, typename Kv>
__device__ inline uint4 HalvesOf(const Piece<Kv>& piece) {
  if constexpr (kIsCoded<Kv>) {
    const uint32_t x = FlipCodes(piece.x), y = FlipCodes(piece.y);
    return uint4{WidenCodes<Half>(x, 0), WidenCodes<Half>(x, 1), WidenCodes<Half>(y, 0),
                 WidenCodes<Half>(y, 1)};
  } else {
    return piece;
  }
}

// The scale of a page's row; of 16-bit pages 1.
template <typename Kv>
__device__ inline float ScaleOf(const uint16_t* scales, int row) {
  if constexpr (!kIsCoded<Kv>) return 1.0f;
  return row < 0 ? 0.0f : Widen(F16{scales[row]});
}

// Two rows of q, g and g + 8 of a tile, as both fragments of each 32 channels: lane 4 g + q has
// channels 8 q to 8 q + 7, as it has of a key. nullptr: zeros.
template <typename Half, int kDim>
__device__ inline void LoadQueries(const float* upper, const float* lower,
                                   uint32_t (&a)[kDim / 32][8]) {
  TUPPENCE_UNROLL
  for (int step = 0; step < kDim / 32; ++step) {
    TUPPENCE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float* const row = i % 2 == 0 ? upper : lower;
      const int channel = step * 32 + Lane() % 4 * 8 + i / 2 * 2;
      a[step][i] = row == nullptr ? 0 : NarrowPair<Half>(row[channel], row[channel + 1]);
    }
  }
}

// Weights are kept 2^8 times as large where they meet V as 16-bit numbers, which the result takes
// back out: so an f16 weight, with V's scale in it, stays clear of the numbers that have lost bits.
constexpr float kWeightBits = 8;

}  // namespace tuppence::TUPPENCE_DEVICE
