// GpuCublas: NVIDIA's matmul beside ours, in the same run. Its library is looked for at run time,
// so that nothing else needs it: cuBLAS and what it brings are 600 MB. Used by gpu_bench alone.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tensor.h"

namespace tuppence {

class GpuCublas {
 public:
  virtual ~GpuCublas() = default;

  // FAILED_PRECONDITION where the library is not there, or the program was built without CUDA.
  static absl::StatusOr<std::unique_ptr<GpuCublas>> Open();

  // out[t, n] = sum over k of x[t, k] w[n, k]; enqueued.   x [rows, cols], w [outputs, cols] of
  // `half`, out f32 [rows, outputs]; device memory.
  virtual void Multiply(DType half, const void* x, const void* w, int64_t rows, int64_t outputs,
                        int64_t cols, void* out) = 0;
  // The first failure of all that was enqueued.
  virtual absl::Status Wait() = 0;
};

}  // namespace tuppence
