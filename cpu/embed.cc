#include "cpu/embed.h"

#include <cstring>

#include "model/check.h"

namespace tuppence {

void Embed(const PackedMatrix& table, const Batch& batch, Tensor out, ThreadPool& pool) {
  const int64_t hidden = table.spec().cols;
  CHECK(!table.spec().format.quantised());
  CHECK(!table.gated());
  CHECK_EQ(out.shape[0], batch.tokens());
  CHECK_EQ(out.shape[1], hidden);
  float* const rows = out.as<float>();
  pool.ParallelFor(batch.tokens(), [&](int64_t token, int) {
    table.UnpackRow(batch.token_ids[token], rows + token * hidden);
  });
}

void SelectRows(Tensor x, const Batch& batch, Tensor out) {
  const int64_t hidden = x.shape[1];
  CHECK_EQ(out.shape[0], batch.logit_rows());
  CHECK_EQ(out.shape[1], hidden);
  for (int64_t row = 0; row < batch.logit_rows(); ++row) {
    const int64_t token = batch.logit_tokens[row];
    CHECK_LT(token, x.shape[0]);
    std::memcpy(out.as<float>() + row * hidden, x.as<float>() + token * hidden,
                static_cast<size_t>(hidden) * sizeof(float));
  }
}

}  // namespace tuppence
