#include <bit>

#include "cuda/attention_decode.cuh"
#include "cuda/kernels.h"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

template <typename Half, typename Kv, int kDim, int kHeads>
void Run(Gpu& gpu, const AttentionArgs& args, const DeviceBatch& batch, float* partials) {
  const std::span<const DecodeRow> rows = batch.decode_rows();
  const int row_count = static_cast<int>(rows.size());
  const int groups = args.kv_heads * CeilDiv(args.heads / args.kv_heads, kHeads);
  // A multiprocessor holds some 5 blocks at once. Below 3 rounds of them the last one leaves much
  // of the device idle, so splits run side by side where their states have room: four or more times
  // as many blocks, for 1 / 64 more traffic.
  constexpr int kBlocksEnough = 16;  // for each multiprocessor
  const int splits_max = CeilDiv(batch.decode_keys_max(), kSplitKeys);
  const int64_t state_floats =
      int64_t{row_count} * args.heads * splits_max * (sizeof(SplitState<kDim>) / sizeof(float));
  const bool split = splits_max > 1 &&
                     int64_t{row_count} * groups < kBlocksEnough * gpu.facts().multiprocessors &&
                     state_floats <= kPartialFloatsMax;
  const int splits = split ? splits_max : 0;
  auto* const states = reinterpret_cast<SplitState<kDim>*>(partials);
  Launch(gpu, &DecodeKernel<Half, Kv, kDim, kHeads>,
         {.name = "attention_decode",
          .blocks_x = row_count,
          .blocks_y = groups,
          .blocks_z = split ? splits : 1,
          .threads = kDecodeThreads,
          .shared_bytes = sizeof(DecodeShared<kDim, kHeads>)},
         args, rows.data(), splits, states);
  if (!split) return;
  Launch(
      gpu, &CombineKernel<Half, kDim>,
      {.name = "attention_combine", .blocks_x = row_count, .blocks_y = args.heads, .threads = kDim},
      args, rows.data(), splits, states);
}

template <typename Half, typename Kv, int kDim>
void RunHeads(Gpu& gpu, const AttentionArgs& args, const DeviceBatch& batch, float* partials) {
  args.heads == args.kv_heads ? Run<Half, Kv, kDim, 1>(gpu, args, batch, partials)
                              : Run<Half, Kv, kDim, kGroupHeads>(gpu, args, batch, partials);
}

template <typename Half, typename Kv>
void RunDim(Gpu& gpu, int dim, const AttentionArgs& args, const DeviceBatch& batch,
            float* partials) {
  switch (dim) {
    case 64:
      return RunHeads<Half, Kv, 64>(gpu, args, batch, partials);
    case 96:
      return RunHeads<Half, Kv, 96>(gpu, args, batch, partials);
    default:
      CHECK_EQ(dim, 128);
      return RunHeads<Half, Kv, 128>(gpu, args, batch, partials);
  }
}

template <typename Half>
void RunKv(Gpu& gpu, DType kv, int dim, const AttentionArgs& args, const DeviceBatch& batch,
           float* partials) {
  kv == DType::kI8 ? RunDim<Half, int8_t>(gpu, dim, args, batch, partials)
                   : RunDim<Half, Half>(gpu, dim, args, batch, partials);
}

}  // namespace

AttentionArgs MakeAttentionArgs(Tensor qkv, const AttentionShape& shape, const Batch& batch,
                                const KvLayer& cache, Tensor out) {
  CHECK_GT(shape.kv_heads, 0);
  CHECK_EQ(shape.heads % shape.kv_heads, 0);
  CHECK_EQ(qkv.shape[0], batch.tokens());
  CHECK_EQ(qkv.shape[1], int64_t{shape.heads + 2 * shape.kv_heads} * shape.head_dim);
  CHECK_EQ(out.shape[0], batch.tokens());
  CHECK_EQ(out.shape[1], int64_t{shape.heads} * shape.head_dim);
  CHECK(cache.keys.type == out.type || cache.keys.type == DType::kI8);
  CHECK_EQ(cache.keys.shape[1], shape.kv_heads);
  CHECK_EQ(cache.keys.shape[3], shape.head_dim);
  CHECK_LT(cache.keys.elements() / shape.head_dim, int64_t{1} << 31);  // rows have 32 bits
  AttentionArgs args;
  args.qkv = qkv.as<float>();
  args.positions = batch.positions.data();
  args.block_tables = batch.block_tables.data();
  args.keys = cache.keys.data;
  args.values = cache.values.data;
  args.key_scales = static_cast<const uint16_t*>(cache.key_scales.data);
  args.value_scales = static_cast<const uint16_t*>(cache.value_scales.data);
  args.out = out.as<uint16_t>();
  args.qkv_stride = static_cast<int>(qkv.shape[1]);
  args.block_table_stride = batch.block_table_stride;
  args.block_tokens = static_cast<int>(cache.keys.shape[2]);
  const auto block_tokens = static_cast<uint32_t>(args.block_tokens);
  if (std::has_single_bit(block_tokens)) args.block_shift = std::countr_zero(block_tokens);
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.window = shape.sliding_window;
  args.scale_log2 = shape.scale * kLog2E;
  return args;
}

void AttendDecode(Gpu& gpu, Tensor qkv, const AttentionShape& shape, const DeviceBatch& batch,
                  const KvLayer& cache, float* partials, Tensor out) {
  if (batch.decode_rows().empty()) return;
  const AttentionArgs args = MakeAttentionArgs(qkv, shape, batch.batch(), cache, out);
  out.type == DType::kF16
      ? RunKv<F16>(gpu, cache.keys.type, shape.head_dim, args, batch, partials)
      : RunKv<Bf16>(gpu, cache.keys.type, shape.head_dim, args, batch, partials);
}

}  // namespace tuppence::TUPPENCE_DEVICE
