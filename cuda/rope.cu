#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/rope.cuh"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

// from empty: zeros.
void MoveBlocks(Gpu& gpu, std::span<const int32_t> from, std::span<const int32_t> to,
                const KvLayer& cache) {
  for (const Tensor& pages : {cache.keys, cache.values, cache.key_scales, cache.value_scales}) {
    if (pages.data == nullptr || pages.shape[0] == 0) continue;
    const int64_t block_bytes = static_cast<int64_t>(pages.bytes()) / pages.shape[0];
    CHECK_EQ(block_bytes % 2, 0);
    const bool wide = block_bytes % 16 == 0;
    const int64_t pieces = block_bytes / (wide ? 16 : 2);
    const int blocks_x =
        static_cast<int>(std::min<int64_t>(64, CeilDiv<int64_t>(pieces, kMoveThreads)));
    for (size_t first = 0; first < to.size(); first += kBlocksOfCall) {
      const size_t count = std::min<size_t>(kBlocksOfCall, to.size() - first);
      BlockList list = {};
      for (size_t i = 0; i < count; ++i) {
        list.from[i] = from.empty() ? -1 : from[first + i];
        list.to[i] = to[first + i];
      }
      const LaunchShape shape{.name = "move_blocks",
                              .blocks_x = blocks_x,
                              .blocks_y = static_cast<int>(count),
                              .threads = kMoveThreads};
      if (wide) {
        Launch(gpu, &MoveBlocksKernel<uint4>, shape, static_cast<uint4*>(pages.data), pieces,
               blocks_x, list);
      } else {
        Launch(gpu, &MoveBlocksKernel<uint16_t>, shape, static_cast<uint16_t*>(pages.data), pieces,
               blocks_x, list);
      }
    }
  }
}

}  // namespace

void RopeAngles(Gpu& gpu, const Batch& batch, Tensor frequencies,
                std::span<const float, 2> attention_factors, Tensor out) {
  const int64_t half = frequencies.shape[1];
  CHECK_EQ(frequencies.shape[0], 2);
  CHECK_EQ(out.shape[0], batch.tokens());
  CHECK_EQ(out.shape[1], 2 * half);
  Launch(gpu, &RopeAnglesKernel,
         {.name = "rope_angles", .blocks_x = batch.tokens(), .threads = kWarpLanes},
         batch.positions.data(), batch.regimes.data(), frequencies.as<float>(),
         attention_factors[0], attention_factors[1], static_cast<int>(half), out.as<float>());
}

void RopeStore(Gpu& gpu, Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
               const KvLayer& cache) {
  const int heads = shape.heads + 2 * shape.kv_heads;
  CHECK_EQ(qkv.shape[0], batch.tokens());
  CHECK_EQ(qkv.shape[1], int64_t{heads} * shape.head_dim);
  CHECK_EQ(angles.shape[0], batch.tokens());
  CHECK_LE(angles.shape[1], shape.head_dim);
  CHECK_LE(shape.head_dim, kHeadDimMax);
  CHECK_EQ(cache.keys.shape[1], shape.kv_heads);
  CHECK_EQ(cache.keys.shape[3], shape.head_dim);
  RopeArgs args;
  args.qkv = qkv.as<float>();
  args.angles = angles.as<float>();
  args.slots = batch.slots.data();
  args.keys = cache.keys.data;
  args.values = cache.values.data;
  args.key_scales = static_cast<uint16_t*>(cache.key_scales.data);
  args.value_scales = static_cast<uint16_t*>(cache.value_scales.data);
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.half = static_cast<int>(angles.shape[1] / 2);
  args.block_tokens = static_cast<int>(cache.keys.shape[2]);
  const auto launch = [&](auto kernel) {
    Launch(gpu, kernel,
           {.name = "rope_store",
            .blocks_x = batch.tokens(),
            .blocks_y = CeilDiv(heads, kRopeWarps),
            .threads = kRopeWarps * kWarpLanes},
           args);
  };
  switch (cache.keys.type) {
    case DType::kI8:
      return launch(&RopeStoreKernel<int8_t>);
    case DType::kF16:
      return launch(&RopeStoreKernel<F16>);
    default:
      CHECK(cache.keys.type == DType::kBf16);
      return launch(&RopeStoreKernel<Bf16>);
  }
}

void CopyBlocks(Gpu& gpu, std::span<const int32_t> from, std::span<const int32_t> to,
                const KvLayer& cache) {
  CHECK_EQ(from.size(), to.size());
  MoveBlocks(gpu, from, to, cache);
}

void ZeroBlocks(Gpu& gpu, std::span<const int32_t> blocks, const KvLayer& cache) {
  MoveBlocks(gpu, {}, blocks, cache);
}

}  // namespace tuppence::TUPPENCE_DEVICE
