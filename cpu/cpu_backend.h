// The CPU backend: every op of model/backend.h on this machine's cores. Start-up code makes it;
// everything else sees a Backend.
//
// Activations are f32. A matmul with bf16 weights rounds its input rows to bf16 on the amx and
// avx512bf16 paths and keeps them f32 on the others; int8 and int4 weights meet rows quantised to
// int8, one scale for each token and weight group. Prefill and decode have one arithmetic here, so
// Phase is not looked at.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "cpu/kernel_paths.h"
#include "model/backend.h"

namespace tuppence {

struct CpuOptions {
  int threads = 0;  // 0: as cpu_resources finds
  KernelPath path = KernelPath::kAuto;
};

// FAILED_PRECONDITION if the machine lacks the path; INVALID_ARGUMENT for a thread count below 0 or
// above 1,024.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuOptions& options);

}  // namespace tuppence
