// StepUpload: the arrays of one step on their way to the device: written to one pinned buffer, sent
// by one copy. Used by cuda_backend; device_batch and sampling_batch write to it.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "absl/status/status.h"
#include "cuda/gpu.h"

namespace tuppence::TUPPENCE_DEVICE {

class StepUpload {
 public:
  explicit StepUpload(Gpu& gpu) : gpu_(gpu) {}
  ~StepUpload();
  StepUpload(const StepUpload&) = delete;
  StepUpload& operator=(const StepUpload&) = delete;

  // Starts a step whose arrays have at most `bytes`, borders included. Requires: the last one has
  // landed. Memory grows to the largest step and stays. RESOURCE_EXHAUSTED when it cannot.
  absl::Status Begin(size_t bytes);

  // Room of `count` values; `device` is where they will lie.
  template <typename T>
  T* Take(size_t count, std::span<const T>* device) {
    used_ = Aligned(used_);
    *device = {reinterpret_cast<const T*>(memory_ + used_), count};
    T* const host = reinterpret_cast<T*>(pinned_ + used_);
    used_ += count * sizeof(T);
    return host;
  }
  template <typename T>
  void Add(std::span<const T> from, std::span<const T>* device) {
    T* const host = Take(from.size(), device);
    if (!from.empty()) std::memcpy(host, from.data(), from.size_bytes());
  }

  void Send() { gpu_.CopyIn(pinned_, used_, memory_); }

  // Bytes that an array of so many takes, its border included.
  static constexpr size_t Aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

 private:
  Gpu& gpu_;
  std::byte* pinned_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t bytes_ = 0;
  size_t used_ = 0;
};

}  // namespace tuppence::TUPPENCE_DEVICE
