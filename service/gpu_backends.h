// The GPU backends that a program holds. `tuppence` has "cuda" where it was built with CUDA;
// `tuppence_emulated`, a program for tests, adds "emulated". Each program links its own list
// (service/gpu_backends.cc, tests/cuda_emulated/gpu_backends.cc).
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "cuda/cuda_backend.h"

namespace tuppence {

struct GpuBackend {
  const char* name = "";   // as --backend
  bool automatic = false;  // whether --backend auto may take it
  absl::StatusOr<CudaDevice> (*find)(const CudaOptions& options) = nullptr;
  absl::StatusOr<std::unique_ptr<Backend>> (*make)(const CudaOptions& options) = nullptr;
};

std::vector<GpuBackend> GpuBackends();

}  // namespace tuppence
