// SamplingUpload: the rows of a sampling batch in device memory, and the way back of the result.
// One pinned buffer and one copy each way. Used by cuda_backend alone.
#pragma once

#include <cstddef>
#include <span>

#include "cuda/gpu.h"
#include "cuda/kernels.h"

namespace tuppence::TUPPENCE_DEVICE {

class SamplingUpload {
 public:
  explicit SamplingUpload(Gpu& gpu) : gpu_(gpu) {}
  ~SamplingUpload();
  SamplingUpload(const SamplingUpload&) = delete;
  SamplingUpload& operator=(const SamplingUpload&) = delete;

  // Makes room and enqueues the copy. RESOURCE_EXHAUSTED when there is no room.
  absl::Status Upload(const SamplingBatch& batch, int64_t vocab);
  // Enqueues the way back; `out` is filled by Finish, once the device is done.
  void Download(std::span<SampledToken> out);
  void Finish();

  const SamplingArrays& arrays() const { return arrays_; }
  float* adjusted() const { return adjusted_; }
  SampledToken* results() const { return results_; }

 private:
  absl::Status Reserve(size_t bytes, size_t adjusted_bytes);

  Gpu& gpu_;
  std::byte* pinned_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t bytes_ = 0;
  float* adjusted_ = nullptr;
  size_t adjusted_bytes_ = 0;
  SamplingArrays arrays_;
  SampledToken* results_ = nullptr;       // device
  SampledToken* host_results_ = nullptr;  // pinned
  std::span<SampledToken> wanted_;
};

}  // namespace tuppence::TUPPENCE_DEVICE
