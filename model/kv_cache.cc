// One buffer for each layer: keys, values, then their scales.
#include "model/kv_cache.h"

#include <utility>

namespace tuppence {

absl::StatusOr<KvCache> KvCache::Make(const KvLayout& layout, int32_t blocks, Backend& backend) {
  CHECK_GT(blocks, 0);
  CHECK_GT(layout.layers, 0);
  KvCache cache;
  cache.layout_ = layout;
  cache.blocks_ = blocks;
  const int64_t heads = layout.kv_heads, tokens = layout.block_tokens, dim = layout.head_dim;
  for (int32_t i = 0; i < layout.layers; ++i) {
    absl::StatusOr<std::unique_ptr<Buffer>> buffer =
        backend.Allocate(static_cast<size_t>(layout.bytes_per_block() / layout.layers * blocks));
    if (!buffer.ok()) return buffer.status();
    char* memory = static_cast<char*>((*buffer)->data());
    const auto take = [&memory](Tensor tensor) {
      tensor.data = memory;
      memory += tensor.bytes();
      return tensor;
    };
    KvLayer layer;
    layer.keys = take(Tensor(nullptr, layout.type, {blocks, heads, tokens, dim}));
    layer.values = take(Tensor(nullptr, layout.type, {blocks, heads, tokens, dim}));
    if (layout.type == DType::kI8) {
      layer.key_scales = take(Tensor(nullptr, DType::kF16, {blocks, heads, tokens}));
      layer.value_scales = take(Tensor(nullptr, DType::kF16, {blocks, heads, tokens}));
    }
    cache.layers_.push_back(layer);
    cache.buffers_.push_back(*std::move(buffer));
  }
  return cache;
}

}  // namespace tuppence
