// How keys and values lie in memory: fixed blocks of tokens in one pool, layer by layer.
// Used by the KV cache, the batch builder and every backend's rope, attention and block copy.
#pragma once

#include <cstdint>

#include "model/check.h"
#include "model/tensor.h"

namespace tuppence {

// One layer's pool:
//   keys, values              bf16, f32 or i8  [blocks, kv_heads, block_tokens, head_dim]
//   key_scales, value_scales  f16              [blocks, kv_heads, block_tokens]   int8 only
// A token's slot is block * block_tokens + offset. Keys are stored after rope.
struct KvLayer {
  Tensor keys;
  Tensor values;
  Tensor key_scales;
  Tensor value_scales;
};

struct KvLayout {
  DType type = DType::kBf16;
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_tokens = 16;

  int64_t bytes_per_token() const {
    const int64_t scale_bytes = type == DType::kI8 ? 2 : 0;
    return int64_t{2} * layers * kv_heads *
           (head_dim * static_cast<int64_t>(BytesOf(type)) + scale_bytes);
  }
  int64_t bytes_per_block() const { return bytes_per_token() * block_tokens; }
};

}  // namespace tuppence
