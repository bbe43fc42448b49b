// BackendCase: a backend that a test body runs on: each kernel path of this machine's CPU, the CUDA
// kernels on the emulated GPU as sm_75 (f16) and as sm_80 (bf16), and the GPU where there is one.
// TUPPENCE_TEST_BACKENDS=cpu, emulated or cuda leaves the others out; TUPPENCE_TEST_ARCH=75 takes a
// real GPU by the paths and limits of that architecture.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "cpu/kernel_paths.h"
#include "model/backend.h"

namespace tuppence {

struct BackendCase {
  enum class Device : uint8_t { kCpu, kEmulated, kCuda };

  Device device = Device::kCpu;
  KernelPath path = KernelPath::kAuto;  // CPU only
  int arch = 0;                         // the others; 0: the device's own
  DType half = DType::kF32;             // the type that matmuls take
  bool cublas = false;                  // --deterministic=off

  bool cpu() const { return device == Device::kCpu; }
  bool plain() const { return cpu() && path == KernelPath::kPlain; }
  bool emulated() const { return device == Device::kEmulated; }
  std::string name() const;
};

std::vector<BackendCase> AllBackendCases();
// One on the CPU, on the path that is best here; and the emulated and real GPUs.
std::vector<BackendCase> BestBackendCases();

// --deterministic=off, on the emulated GPU and on the GPU where there is one.
std::vector<BackendCase> CublasBackendCases();

// Dies with the reason where it cannot be made. `threads` is for the CPU.
std::unique_ptr<Backend> MakeBackend(const BackendCase& which, int threads = 2);

inline std::ostream& operator<<(std::ostream& out, const BackendCase& which) {
  return out << which.name();
}

}  // namespace tuppence
