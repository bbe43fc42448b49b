#include <algorithm>

#include "cuda/sampling.cuh"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {

void Sample(Gpu& gpu, Tensor logits, const SamplingArrays& arrays, int32_t jobs, float* adjusted,
            SampledToken* out) {
  CHECK(logits.type == DType::kF32);
  // Some 32 ids for each thread; the result does not depend on it.
  const int warps = static_cast<int>(CeilDiv<int64_t>(logits.shape[1], 32 * kWarpLanes));
  Launch(gpu, &SampleKernel,
         {.name = "sampling",
          .blocks_x = jobs,
          .threads = std::min(warps * kWarpLanes, kSamplingThreadsMax),
          .shared_bytes = sizeof(SamplingShared)},
         logits.as<float>(), static_cast<int>(logits.shape[1]), arrays, adjusted, out);
}

}  // namespace tuppence::TUPPENCE_DEVICE
