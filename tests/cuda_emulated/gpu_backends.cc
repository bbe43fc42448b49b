// The GPUs of tuppence_emulated: as sm_80, and as sm_75, which has f16 alone.
#include "service/gpu_backends.h"

namespace tuppence {
namespace {

CudaOptions As(int arch, CudaOptions options) {
  options.force_arch = arch;
  return options;
}

template <int kArch>
GpuBackend Emulated(const char* name) {
  return {
      name, false,
      [](const CudaOptions& options) { return cuda_emulated::FindCudaDevice(As(kArch, options)); },
      [](const CudaOptions& options) {
        return cuda_emulated::MakeCudaBackend(As(kArch, options));
      }};
}

}  // namespace

std::vector<GpuBackend> GpuBackends() {
  return {Emulated<80>("emulated"), Emulated<75>("emulated-sm75")};
}

}  // namespace tuppence
