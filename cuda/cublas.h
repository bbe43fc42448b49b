// Cublas: NVIDIA's matmul library, loaded at run time, for 16-bit weights under
// --deterministic=off: faster than our own kernels on many rows, but the bits of a row change with
// the rows beside it. Two implementations: cublas.cc, and loops in emulation/cublas.cc. Used by
// cuda_backend.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "cuda/gpu.h"
#include "model/tensor.h"

namespace tuppence::TUPPENCE_DEVICE {

class Cublas {
 public:
  // FAILED_PRECONDITION with the reason where the library is not there. `gpu` outlives it.
  static absl::StatusOr<std::unique_ptr<Cublas>> Open(Gpu& gpu);
  virtual ~Cublas() = default;

  // out[t, n] = sum over k of x[t, k] w[n, k], sums in f32.
  //   x [rows, cols], w [outputs, cols] of one 16-bit type, row by row; out f32 [rows, outputs]
  // Enqueued on the device's stream; a failure is latched by it.
  virtual void Multiply(Tensor x, const void* w, Tensor out) = 0;
};

}  // namespace tuppence::TUPPENCE_DEVICE
