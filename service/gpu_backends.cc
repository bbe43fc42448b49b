#include "service/gpu_backends.h"

namespace tuppence {

std::vector<GpuBackend> GpuBackends() {
#if defined(TUPPENCE_WITH_CUDA)
  return {{"cuda", true, &cuda::FindCudaDevice, &cuda::MakeCudaBackend}};
#else
  return {};
#endif
}

}  // namespace tuppence
