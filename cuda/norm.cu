#include "cuda/kernels.h"
#include "cuda/norm.cuh"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {

void Norm(Gpu& gpu, Tensor x, const Tensor* delta, Tensor weight, float epsilon, Tensor out) {
  const int64_t tokens = x.shape[0], hidden = x.shape[1];
  CHECK_EQ(hidden % 4, 0);
  CHECK_EQ(weight.elements(), hidden);
  CHECK_EQ(out.shape[0], tokens);
  CHECK_EQ(out.shape[1], hidden);
  if (delta != nullptr) {
    CHECK_EQ(delta->shape[0], tokens);
    CHECK_EQ(delta->shape[1], hidden);
  }
  const auto launch = [&](auto kernel, auto* target) {
    Launch(gpu, kernel,
           {.name = "norm",
            .blocks_x = static_cast<int>(tokens),
            .threads = kNormThreads,
            .shared_bytes = sizeof(NormShared)},
           x.as<float>(), delta != nullptr ? delta->as<float>() : nullptr, weight.as<float>(),
           epsilon, static_cast<int>(hidden), target);
  };
  const auto launch_half = [&](auto* target) {
    using Half = std::remove_pointer_t<decltype(target)>;
    delta != nullptr ? launch(&NormKernel<Half, true>, target)
                     : launch(&NormKernel<Half, false>, target);
  };
  out.type == DType::kF16 ? launch_half(out.as<F16>()) : launch_half(out.as<Bf16>());
}

}  // namespace tuppence::TUPPENCE_DEVICE
