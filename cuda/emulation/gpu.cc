// The emulated GPU: device memory is guarded host memory, copies are done at once. It breaks, as a
// GPU does after a bad access, once there is a file of the name TUPPENCE_EMULATED_FAILURE: tests
// make one to see what becomes of a service then.
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "cuda/device.h"
#include "cuda/emulation/memory.h"

namespace tuppence::cuda_emulated {

absl::StatusOr<std::unique_ptr<Gpu>> Gpu::Open(int force_arch) {
  std::unique_ptr<Gpu> gpu(new Gpu());
  gpu->facts_.arch = force_arch == 0 ? 80 : force_arch;
  gpu->facts_.name = absl::StrCat("emulated sm_", gpu->facts_.arch);
  gpu->facts_.pci_bus_id = "emulated";
  gpu->facts_.multiprocessors = 2;  // small, so that small tests fill it
  gpu->facts_.memory_bytes = gpu->facts_.memory_free_bytes = int64_t{8} << 30;
  return gpu;
}

Gpu::~Gpu() = default;

int64_t Gpu::FreeBytes() const { return facts_.memory_free_bytes; }
void* Gpu::Allocate(size_t bytes) {
  return static_cast<int64_t>(bytes) > facts_.memory_free_bytes ? nullptr
                                                                : emulation::AllocateGuarded(bytes);
}
void Gpu::Free(void* device) { emulation::FreeGuarded(device); }
void* Gpu::AllocatePinned(size_t bytes) { return emulation::AllocateGuarded(bytes); }
void Gpu::FreePinned(void* host) { emulation::FreeGuarded(host); }

void Gpu::CopyIn(const void* host, size_t bytes, void* device) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}
void Gpu::CopyOut(const void* device, size_t bytes, void* host) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}
void Gpu::Zero(void* device, size_t bytes) { std::memset(device, 0, bytes); }

absl::Status Gpu::Synchronize() { return failure_; }
void Gpu::Check(int code, const char* what) {
  if (code == 0) return;
  failure_.Update(absl::UnavailableError(
      absl::StrCat("CUDA: ", what, ": an illegal memory access was encountered (", code, ")")));
}

}  // namespace tuppence::cuda_emulated

int tuppence::emulation::LaunchError() {
  constexpr int kIllegalAddress = 700;  // cudaErrorIllegalAddress
  static const char* const file = std::getenv("TUPPENCE_EMULATED_FAILURE");
  return file != nullptr && access(file, F_OK) == 0 ? kIllegalAddress : 0;
}
