#include "cuda/embed.cuh"
#include "cuda/kernels.h"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {

void Embed(Gpu& gpu, const PackedMatrix& table, const Batch& batch, Tensor out) {
  const int hidden = static_cast<int>(table.spec().cols);
  CHECK(!table.spec().format.quantised());
  CHECK(!table.gated());
  CHECK_EQ(out.shape[0], batch.tokens());
  CHECK_EQ(out.shape[1], hidden);
  EmbedTable rows{table.data(), kPanelOutputs, int64_t{table.loads()} * kLoadBytes};
  if (table.layout() == PackedMatrix::Layout::kRows) rows = {table.data(), 1, int64_t{hidden} * 2};
  const auto launch = [&](auto kernel) {
    Launch(gpu, kernel, {.name = "embed", .blocks_x = batch.tokens(), .threads = kRowThreads}, rows,
           batch.token_ids.data(), hidden, out.as<float>());
  };
  switch (table.spec().format.type) {
    case WeightType::kF32:
      return launch(&EmbedKernel<float>);
    case WeightType::kF16:
      return launch(&EmbedKernel<F16>);
    default:
      return launch(&EmbedKernel<Bf16>);
  }
}

void SelectRows(Gpu& gpu, Tensor x, const Batch& batch, Tensor out) {
  CHECK(x.type == out.type);
  CHECK_EQ(out.shape[0], batch.logit_rows());
  CHECK_EQ(out.shape[1], x.shape[1]);
  const int64_t row_bytes = x.shape[1] * static_cast<int64_t>(BytesOf(x.type));
  CHECK_EQ(row_bytes % 16, 0);
  Launch(gpu, &SelectRowsKernel,
         {.name = "select_rows", .blocks_x = batch.logit_rows(), .threads = kRowThreads},
         static_cast<const uint4*>(x.data), batch.logit_tokens.data(),
         static_cast<int>(row_bytes / 16), static_cast<uint4*>(out.data));
}

}  // namespace tuppence::TUPPENCE_DEVICE
