// Cublas without cuBLAS: loops, so that what is around it is executed where there is no GPU.
#include "cuda/cublas.h"

#include "cuda/tile.cuh"

namespace tuppence::cuda_emulated {
namespace {

template <typename Half>
void MultiplyRows(Tensor x, const Half* w, Tensor out) {
  const int64_t cols = x.shape[1], outputs = out.shape[1];
  for (int64_t t = 0; t < x.shape[0]; ++t) {
    const Half* const row = static_cast<const Half*>(x.data) + t * cols;
    for (int64_t n = 0; n < outputs; ++n) {
      float sum = 0;
      for (int64_t k = 0; k < cols; ++k) sum += Widen(row[k]) * Widen(w[n * cols + k]);
      out.as<float>()[t * outputs + n] = sum;
    }
  }
}

class LoopCublas final : public Cublas {
 public:
  void Multiply(Tensor x, const void* w, Tensor out) override {
    x.type == DType::kF16 ? MultiplyRows(x, static_cast<const F16*>(w), out)
                          : MultiplyRows(x, static_cast<const Bf16*>(w), out);
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Cublas>> Cublas::Open(Gpu&) {
  return std::make_unique<LoopCublas>();
}

}  // namespace tuppence::cuda_emulated
