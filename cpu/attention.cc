#include "cpu/attention.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {

namespace {

// States of unmerged splits are kept up to this size; beyond, splits run one after the other.
constexpr int64_t kPartialFloatsMax = int64_t{4} << 20;
constexpr int32_t kHeadsAtOnceMax = 16;

void CheckShapes(Tensor qkv, const AttentionShape& shape, const Batch& batch, const KvLayer& cache,
                 Tensor out) {
  CHECK_GT(shape.kv_heads, 0);
  CHECK_EQ(shape.heads % shape.kv_heads, 0);
  CHECK_EQ(shape.head_dim % 8, 0);
  CHECK(qkv.type == DType::kF32);
  CHECK(out.type == DType::kF32);
  CHECK_EQ(qkv.shape[0], batch.tokens());
  CHECK_EQ(qkv.shape[1], int64_t{shape.heads + 2 * shape.kv_heads} * shape.head_dim);
  CHECK_EQ(out.shape[0], batch.tokens());
  CHECK_EQ(out.shape[1], int64_t{shape.heads} * shape.head_dim);
  CHECK_EQ(cache.keys.shape[1], shape.kv_heads);
  CHECK_EQ(cache.keys.shape[3], shape.head_dim);
  CHECK(cache.keys.type == DType::kF32 || cache.keys.type == DType::kBf16 ||
        cache.keys.type == DType::kI8);
}

size_t ScratchFloats(const AttentionShape& shape, int64_t queries) {
  const int64_t padded = PaddedHeadDim(shape.head_dim);
  return static_cast<size_t>(
      2 * padded * kAttentionTileKeys +
      queries * (padded + 2 * AttentionPartialFloats(shape.head_dim) + kAttentionTileKeys));
}

}  // namespace

AttentionOp::AttentionOp(const Kernels& kernels, ThreadPool& pool)
    : kernels_(kernels), pool_(pool), thread_scratch_(pool.threads()) {}

void AttentionOp::Run(Tensor qkv, const AttentionShape& shape, const Batch& batch,
                      const KvLayer& cache, Tensor out) {
  CheckShapes(qkv, shape, batch, cache, out);
  CutItems(shape, batch);
  AttentionCall common;
  common.qkv = qkv.as<float>();
  common.qkv_stride = qkv.shape[1];
  common.positions = batch.positions.data();
  common.shape = shape;
  common.cache = &cache;
  common.out = out.as<float>();
  const auto chunks = static_cast<int64_t>(items_.size());
  const int32_t last_position =
      batch.positions.empty() ? 0
                              : *std::max_element(batch.positions.begin(), batch.positions.end());
  const int32_t splits = last_position / kAttentionSplitKeys + 1;
  const int64_t partial_floats =
      chunks * splits * item_queries_max_ * AttentionPartialFloats(shape.head_dim);
  // Twice as many chunks as threads keep all busy well enough.
  if (splits > 1 && chunks < 2 * pool_.threads() && partial_floats <= kPartialFloatsMax) {
    RunSplits(common, batch, splits);
  } else {
    RunWhole(common, batch);
  }
}

// The last tokens of an entry see the most keys, so they come first. A single token takes some KV
// heads at once, which lie side by side in a page: one stream for the processor to run ahead of.
void AttentionOp::CutItems(const AttentionShape& shape, const Batch& batch) {
  items_.clear();
  const int32_t group = shape.heads / shape.kv_heads;
  const int32_t at_once = std::max(1, kAttentionQueriesMax / group);
  const int32_t heads_at_once =
      group > kAttentionFewQueries
          ? 1
          : std::clamp(batch.entries() * shape.kv_heads / (8 * pool_.threads()), 1,
                       kHeadsAtOnceMax);
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int32_t first = batch.entry_starts[entry];
    for (int32_t last = batch.entry_starts[entry + 1]; last > first; last -= at_once) {
      const int32_t start = std::max(first, last - at_once);
      const int32_t heads = last - start == 1 ? heads_at_once : 1;
      for (int32_t head = 0; head < shape.kv_heads; head += heads) {
        items_.push_back(
            {entry, start, last - start, head, std::min(heads, shape.kv_heads - head)});
      }
    }
  }
  item_queries_max_ = std::max(at_once, heads_at_once) * group;
}

AttentionCall AttentionOp::CallFor(const Item& item, const AttentionCall& common,
                                   const Batch& batch) const {
  AttentionCall call = common;
  call.block_table = batch.block_tables.data() + int64_t{item.entry} * batch.block_table_stride;
  call.first_token = item.first_token;
  call.token_count = item.token_count;
  call.kv_head = item.kv_head;
  call.kv_heads = item.kv_heads;
  int32_t first_key = call.positions[item.first_token], last_key = first_key;
  for (int32_t t = item.first_token; t < item.first_token + item.token_count; ++t) {
    first_key = std::min(first_key, call.positions[t]);
    last_key = std::max(last_key, call.positions[t]);
  }
  const int32_t window = common.shape.sliding_window;
  first_key = window > 0 ? std::max(0, first_key - window + 1) : 0;
  call.first_split = first_key / kAttentionSplitKeys;
  call.last_split = last_key / kAttentionSplitKeys + 1;
  return call;
}

void AttentionOp::RunWhole(const AttentionCall& common, const Batch& batch) {
  const size_t floats = ScratchFloats(common.shape, item_queries_max_);
  pool_.ParallelFor(static_cast<int64_t>(items_.size()), [&](int64_t chunk, int thread) {
    AttentionCall call = CallFor(items_[chunk], common, batch);
    call.scratch = thread_scratch_[thread].Get<float>(floats);
    kernels_.attention(call);
  });
}

void AttentionOp::RunSplits(const AttentionCall& common, const Batch& batch, int32_t splits) {
  const AttentionShape& shape = common.shape;
  const size_t floats = ScratchFloats(shape, item_queries_max_);
  const auto chunks = static_cast<int64_t>(items_.size());
  const int64_t state = AttentionPartialFloats(shape.head_dim);
  const int64_t split_floats = item_queries_max_ * state;
  float* const partials = partials_.Get<float>(static_cast<size_t>(chunks * splits * split_floats));
  pool_.ParallelFor(chunks * splits, [&](int64_t part, int thread) {
    AttentionCall call = CallFor(items_[part / splits], common, batch);
    const int32_t split = static_cast<int32_t>(part % splits);
    if (split < call.first_split || split >= call.last_split) return;
    call.first_split = split;
    call.last_split = split + 1;
    call.scratch = thread_scratch_[thread].Get<float>(floats);
    call.partial = partials + part * split_floats;
    kernels_.attention(call);
  });
  pool_.ParallelFor(chunks, [&](int64_t chunk, int) {
    const AttentionCall call = CallFor(items_[chunk], common, batch);
    const int32_t heads = call.kv_heads * shape.heads / shape.kv_heads;  // of one token
    float* const first = partials + (chunk * splits + call.first_split) * split_floats;
    for (int32_t i = 0; i < call.token_count * heads; ++i) {
      for (int32_t split = call.first_split + 1; split < call.last_split; ++split) {
        kernels_.merge_attention(first + i * state,
                                 first + (split - call.first_split) * split_floats + i * state,
                                 shape.head_dim);
      }
      const int64_t head = int64_t{call.kv_head} * shape.heads / shape.kv_heads + i % heads;
      const int64_t token = call.first_token + i / heads;
      kernels_.finish_attention(first + i * state, shape.head_dim,
                                call.out + (token * shape.heads + head) * shape.head_dim);
    }
  });
}

}  // namespace tuppence
