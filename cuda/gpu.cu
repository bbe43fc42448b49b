// Gpu on CUDA's runtime. See gpu.h.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cuda/device.h"
#include "cuda/gpu.h"

namespace tuppence::cuda {
namespace {

constexpr int kArchMin = 75;
constexpr int kArchMax = 90;  // that this build has been compiled for

absl::Status Unavailable(cudaError_t code, const char* what) {
  return absl::UnavailableError(absl::StrCat("CUDA: ", what, ": ", cudaGetErrorString(code), " (",
                                             static_cast<int>(code), ")"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Gpu>> Gpu::Open(int force_arch) {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    return absl::FailedPreconditionError("no NVIDIA driver was found; install one or take the CPU");
  }
  if (driver / 1000 < runtime / 1000) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the NVIDIA driver knows CUDA up to ", driver / 1000, ".", driver % 1000 / 10,
        "; this build needs ", runtime / 1000, ".0; install a newer driver or take the CPU"));
  }
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA device was found (", cudaGetErrorString(counted), ")"));
  }
  cudaDeviceProp properties;
  cudaError_t code = cudaGetDeviceProperties(&properties, 0);
  if (code != cudaSuccess) return Unavailable(code, "reading the device's properties");
  const int arch = properties.major * 10 + properties.minor;
  if (arch < kArchMin || arch > kArchMax) {
    return absl::FailedPreconditionError(absl::StrCat(
        properties.name, " has compute capability ", properties.major, ".", properties.minor,
        "; this build runs on 7.5 to 9.0; take the CPU or another machine"));
  }
  std::unique_ptr<Gpu> gpu(new Gpu());
  gpu->facts_.name = properties.name;
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

void Gpu::Free(void* device) { cudaFree(device); }

void* Gpu::AllocatePinned(size_t bytes) {
  void* memory = nullptr;
  if (cudaMallocHost(&memory, std::max<size_t>(bytes, 16)) == cudaSuccess) return memory;
  (void)cudaGetLastError();
  return nullptr;
}

void Gpu::FreePinned(void* host) { cudaFreeHost(host); }

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
