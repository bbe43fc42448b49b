#include "cuda/attention_prefill.cuh"
#include "cuda/kernels.h"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

template <typename Half, typename Kv, int kDim>
void Run(Gpu& gpu, const AttentionArgs& args, std::span<const PrefillItem> items) {
  Launch(gpu, &PrefillKernel<Half, Kv, kDim>,
         {.name = "attention_prefill",
          .blocks_x = static_cast<int>(items.size()),
          .blocks_y = args.heads,
          .threads = kPrefillThreads,
          .shared_bytes = sizeof(PrefillShared<kDim>)},
         args, items.data());
}

template <typename Half, typename Kv>
void RunDim(Gpu& gpu, int dim, const AttentionArgs& args, std::span<const PrefillItem> items) {
  switch (dim) {
    case 64:
      return Run<Half, Kv, 64>(gpu, args, items);
    case 96:
      return Run<Half, Kv, 96>(gpu, args, items);
    default:
      CHECK_EQ(dim, 128);
      return Run<Half, Kv, 128>(gpu, args, items);
  }
}

template <typename Half>
void RunKv(Gpu& gpu, DType kv, int dim, const AttentionArgs& args,
           std::span<const PrefillItem> items) {
  kv == DType::kI8 ? RunDim<Half, int8_t>(gpu, dim, args, items)
                   : RunDim<Half, Half>(gpu, dim, args, items);
}

}  // namespace

void AttendPrefill(Gpu& gpu, Tensor qkv, const AttentionShape& shape, const DeviceBatch& batch,
                   const KvLayer& cache, Tensor out) {
  const std::span<const PrefillItem> items = batch.prefill_items();
  if (items.empty()) return;
  const AttentionArgs args = MakeAttentionArgs(qkv, shape, batch.batch(), cache, out);
  out.type == DType::kF16 ? RunKv<F16>(gpu, cache.keys.type, shape.head_dim, args, items)
                          : RunKv<Bf16>(gpu, cache.keys.type, shape.head_dim, args, items);
}

}  // namespace tuppence::TUPPENCE_DEVICE
