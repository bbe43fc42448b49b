// SamplingUpload: the rows of a sampling batch in device memory, and the way back of the result by
// one copy. Used by cuda_backend alone.
#pragma once

#include <cstddef>
#include <span>

#include "cuda/gpu.h"
#include "cuda/kernels.h"
#include "cuda/step_upload.h"

namespace tuppence::TUPPENCE_DEVICE {

class SamplingUpload {
 public:
  explicit SamplingUpload(Gpu& gpu) : gpu_(gpu) {}
  ~SamplingUpload();
  SamplingUpload(const SamplingUpload&) = delete;
  SamplingUpload& operator=(const SamplingUpload&) = delete;

  // At most, of the arrays of a step.
  static size_t BytesOf(const SamplingBatch& host);
  void Write(const SamplingBatch& host, StepUpload& upload);
  // Room for a copy of each row's logits. RESOURCE_EXHAUSTED when there is none.
  absl::Status Reserve(int64_t vocab);
  // Enqueues the way back; `out` is filled by Finish, once the device is done.
  void Download(std::span<SampledToken> out);
  void Finish();

  size_t rows() const { return jobs_.size(); }
  SamplingArrays arrays() const;
  float* adjusted() const { return adjusted_; }
  SampledToken* results() const { return const_cast<SampledToken*>(results_.data()); }

 private:
  Gpu& gpu_;
  float* adjusted_ = nullptr;
  size_t adjusted_bytes_ = 0;
  std::span<const SamplingJob> jobs_;  // these are on the device
  std::span<const TokenBias> biases_;
  std::span<const TokenCount> counts_;
  std::span<const int32_t> banned_ids_;
  std::span<const uint64_t> mapped_ids_;
  std::span<const SampledToken> results_;
  SampledToken* host_results_ = nullptr;  // pinned
  std::span<SampledToken> wanted_;
};

}  // namespace tuppence::TUPPENCE_DEVICE
