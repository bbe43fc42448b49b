// Gpu on CUDA's runtime. See gpu.h.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cuda/device.h"
#include "cuda/gpu.h"
#include "cuda/norm.cuh"
#include "cuda/requirements.h"

namespace tuppence::cuda {
namespace {

absl::Status Unavailable(cudaError_t code, const char* what) {
  return absl::UnavailableError(absl::StrCat("CUDA: ", what, ": ", cudaGetErrorString(code), " (",
                                             static_cast<int>(code), ")"));
}

FoundMachine LookAround() {
  FoundMachine found;
  found.built_with = CUDART_VERSION;
  cudaDeviceProp properties;
  cudaFuncAttributes code;
  // Each of these leaves its zero where it cannot answer; the last error is the reason.
  cudaError_t error = cudaRuntimeGetVersion(&found.runtime);
  if (error == cudaSuccess) error = cudaDriverGetVersion(&found.driver);
  if (error == cudaSuccess) error = cudaGetDeviceCount(&found.devices);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) {
    found.devices = 0;
    found.devices_error = cudaGetErrorString(error);
  } else if (found.devices > 0) {
    found.device = properties.name;
    found.arch = properties.major * 10 + properties.minor;
    // One kernel stands for all: they are compiled alike.
    auto* const kernel = &NormKernel<F16, true>;
    if (cudaFuncGetAttributes(&code, kernel) == cudaSuccess) found.code_arch = code.ptxVersion;
  }
  (void)cudaGetLastError();  // what could not be found is told by CheckMachine
  return found;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Gpu>> Gpu::Open(int force_arch) {
  const FoundMachine found = LookAround();
  if (absl::Status status = CheckMachine(found); !status.ok()) return status;
  cudaDeviceProp properties;
  cudaError_t code = cudaGetDeviceProperties(&properties, 0);
  if (code != cudaSuccess) return Unavailable(code, "reading the device's properties");
  std::unique_ptr<Gpu> gpu(new Gpu());
  gpu->facts_.name = properties.name;
  char bus_id[32] = "";
  if (cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), 0) == cudaSuccess) {
    gpu->facts_.pci_bus_id = bus_id;
  }
  // A build for an older architecture runs by that one's paths.
  const int arch = std::min(found.arch, found.code_arch);
  gpu->facts_.arch = force_arch == 0 ? arch : std::min(arch, force_arch);
  gpu->facts_.multiprocessors = properties.multiProcessorCount;
  size_t free_bytes = 0, total_bytes = 0;
  code = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (code != cudaSuccess) return Unavailable(code, "asking for free memory");
  gpu->facts_.memory_bytes = static_cast<int64_t>(total_bytes);
  gpu->facts_.memory_free_bytes = static_cast<int64_t>(free_bytes);
  cudaStream_t stream = nullptr;
  code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (code != cudaSuccess) return Unavailable(code, "making a stream");
  gpu->stream_ = stream;
  return gpu;
}

Gpu::~Gpu() {
  if (stream_ != nullptr) (void)cudaStreamDestroy(static_cast<cudaStream_t>(stream_));
}

int64_t Gpu::FreeBytes() const {
  size_t free_bytes = 0, total_bytes = 0;
  return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess ? static_cast<int64_t>(free_bytes)
                                                                  : 0;
}

void* Gpu::Allocate(size_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, std::max<size_t>(bytes, 16)) == cudaSuccess) return memory;
  (void)cudaGetLastError();  // no room is an answer, not a failure
  return nullptr;
}

void Gpu::Free(void* device) { Check(cudaFree(device), "giving memory back"); }

void* Gpu::AllocatePinned(size_t bytes) {
  void* memory = nullptr;
  if (cudaMallocHost(&memory, std::max<size_t>(bytes, 16)) == cudaSuccess) return memory;
  (void)cudaGetLastError();
  return nullptr;
}

void Gpu::FreePinned(void* host) { Check(cudaFreeHost(host), "giving pinned memory back"); }

void Gpu::CopyIn(const void* host, size_t bytes, void* device) {
  Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice,
                        static_cast<cudaStream_t>(stream_)),
        "copying to the device");
}

void Gpu::CopyOut(const void* device, size_t bytes, void* host) {
  Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost,
                        static_cast<cudaStream_t>(stream_)),
        "copying from the device");
}

void Gpu::Zero(void* device, size_t bytes) {
  Check(cudaMemsetAsync(device, 0, bytes, static_cast<cudaStream_t>(stream_)), "zeroing memory");
}

absl::Status Gpu::Synchronize() {
  Check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)), "waiting for the device");
  return failure_;
}

void Gpu::Check(int code, const char* what) {
  if (code != cudaSuccess) failure_.Update(Unavailable(static_cast<cudaError_t>(code), what));
}

}  // namespace tuppence::cuda
