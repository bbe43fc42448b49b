#include "bench/gpu_device.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#if defined(TUPPENCE_WITH_CUDA)
#include <cuda_runtime.h>

#include "cuda/packed_matrix.h"
#endif

namespace tuppence {
namespace {

std::vector<uint16_t> RandomHalves(size_t count) {
  std::mt19937 random(1);
  std::vector<uint16_t> halves(count);
  for (uint16_t& half : halves) half = static_cast<uint16_t>((random() & 0x83ffu) | 0x3c00u);
  return halves;
}

}  // namespace

#if defined(TUPPENCE_WITH_CUDA)
namespace {

absl::Status Copy(void* to, const void* from, size_t bytes) {
  const cudaError_t code = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice);
  return code == cudaSuccess ? absl::OkStatus() : absl::UnavailableError(cudaGetErrorString(code));
}

// Each copy doubles what there is.
absl::Status Repeat(std::byte* data, size_t filled, size_t total) {
  absl::Status status;
  while (status.ok() && filled < total) {
    const size_t next = std::min(filled, total - filled);
    status = Copy(data + filled, data, next);
    filled += next;
  }
  return status;
}

}  // namespace

absl::Status CopyOnDevice(const Backend& backend, void* to, const void* from, size_t bytes) {
  if (backend.name() == cuda::kBackendName) return Copy(to, from, bytes);
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

absl::Status FillOnDevice(const Backend& backend, void* data, size_t bytes) {
  const std::vector<uint16_t> halves = RandomHalves(size_t{1} << 19);
  const size_t first = std::min(bytes, halves.size() * sizeof(uint16_t));
  if (backend.name() != cuda::kBackendName) {
    std::memcpy(data, halves.data(), first);
    return absl::OkStatus();
  }
  const cudaError_t code = cudaMemcpy(data, halves.data(), first, cudaMemcpyHostToDevice);
  if (code != cudaSuccess) return absl::UnavailableError(cudaGetErrorString(code));
  absl::Status status = Repeat(static_cast<std::byte*>(data), first, bytes);
  status.Update(WaitForDevice(backend));
  return status;
}

absl::Status FillOnDevice(const Backend& backend, const Matrix& matrix) {
  if (backend.name() != cuda::kBackendName) return absl::OkStatus();
  const auto& packed = static_cast<const cuda::PackedMatrix&>(matrix);
  return FillOnDevice(backend, const_cast<std::byte*>(packed.data()),
                      static_cast<size_t>(packed.bytes()));
}

absl::Status WaitForDevice(const Backend& backend) {
  if (backend.name() != cuda::kBackendName) return absl::OkStatus();
  const cudaError_t code = cudaDeviceSynchronize();
  return code == cudaSuccess ? absl::OkStatus() : absl::UnavailableError(cudaGetErrorString(code));
}

absl::Status RepeatRows(const Backend& backend, const Matrix& matrix, int64_t rows) {
  if (backend.name() != cuda::kBackendName) return absl::OkStatus();
  const auto& packed = static_cast<const cuda::PackedMatrix&>(matrix);
  const size_t panel = size_t(packed.loads()) * cuda::kLoadBytes;
  const size_t scales = size_t(packed.groups()) * cuda::kPanelOutputs * sizeof(uint16_t);
  const size_t panels = size_t(rows) * (packed.gated() ? 2 : 1) / cuda::kPanelOutputs;
  const auto all = size_t(packed.panels()), some = std::min(panels, all);
  auto* const data = const_cast<std::byte*>(packed.data());
  absl::Status status = Repeat(data, some * panel, all * panel);
  status.Update(Repeat(data + all * panel, some * scales, all * scales));
  status.Update(WaitForDevice(backend));
  return status;
}

#else

absl::Status CopyOnDevice(const Backend&, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

absl::Status FillOnDevice(const Backend&, void* data, size_t bytes) {
  const std::vector<uint16_t> halves = RandomHalves(bytes / sizeof(uint16_t));
  std::memcpy(data, halves.data(), halves.size() * sizeof(uint16_t));
  return absl::OkStatus();
}

absl::Status FillOnDevice(const Backend&, const Matrix&) { return absl::OkStatus(); }

absl::Status WaitForDevice(const Backend&) { return absl::OkStatus(); }

absl::Status RepeatRows(const Backend&, const Matrix&, int64_t) { return absl::OkStatus(); }

#endif

}  // namespace tuppence
