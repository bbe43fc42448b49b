#include "cpu/norm.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {

void Norm(Tensor x, const Tensor* delta, Tensor weight, float epsilon, Tensor out,
          const Kernels& kernels, ThreadPool& pool) {
  const int64_t tokens = x.shape[0], hidden = x.shape[1];
  CHECK_EQ(weight.elements(), hidden);
  CHECK_EQ(out.shape[0], tokens);
  CHECK_EQ(out.shape[1], hidden);
  if (delta != nullptr) {
    CHECK_EQ(delta->shape[0], tokens);
    CHECK_EQ(delta->shape[1], hidden);
  }
  constexpr int64_t kRowsAtOnce = 8;  // a row takes about a microsecond; waking a thread takes more
  pool.ParallelFor((tokens + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t chunk, int) {
    const int64_t last = std::min(tokens, (chunk + 1) * kRowsAtOnce);
    for (int64_t row = chunk * kRowsAtOnce; row < last; ++row) {
      const float* const added = delta != nullptr ? delta->as<float>() + row * hidden : nullptr;
      kernels.norm_row(x.as<float>() + row * hidden, added, weight.as<float>(), epsilon, hidden,
                       out.as<float>() + row * hidden);
    }
  });
}

}  // namespace tuppence
