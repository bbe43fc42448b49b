// The CUDA backend: every op of model/backend.h on one NVIDIA GPU of compute capability 7.5 to 9.0,
// or on the emulated one. Start-up code makes it; everything else sees a Backend.
//
// What matmuls give and the residual stream are f32; what matmuls take is one 16-bit type for the
// whole model. Weights are of that type, int8 or int4; keys and values of that type or int8.
// head_dim is 64, 96 or 128.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/backend.h"

namespace tuppence {

struct CudaOptions {
  // kBf16, or kF16. sm_75 has f16 only.
  DType half = DType::kBf16;
  // 75 or 80 on a newer device: the paths and limits of that one. 0: the device's own.
  int force_arch = 0;
  // false: 16-bit weights multiply by cuBLAS, where the bits of a row depend on its neighbours.
  bool deterministic = true;
  // What reads the device's energy; tests have one of their own.
  std::string energy_library = "libnvidia-ml.so.1";
};

struct CudaDevice {
  std::string description;  // "NVIDIA L4, sm_89, 22.0 GiB free of 22.5 GiB"
  int arch = 0;
  int64_t memory_free_bytes = 0;
};

// On a GPU; in programs that link tuppence_cuda.
namespace cuda {
// FAILED_PRECONDITION with what was found where there is no device that we run on.
absl::StatusOr<CudaDevice> FindCudaDevice(const CudaOptions& options);
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options);
}  // namespace cuda

// The same kernels on the CPU, for tests; in programs that link tuppence_cuda_emulated.
namespace cuda_emulated {
absl::StatusOr<CudaDevice> FindCudaDevice(const CudaOptions& options);
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options);
}  // namespace cuda_emulated

}  // namespace tuppence
