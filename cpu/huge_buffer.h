// Memory for weights, KV pages and scratch: anonymous pages, huge ones where the system allows
// them. A matmul that reads 7.6 GB a step would otherwise miss the TLB every 4 KiB.
#pragma once

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"

namespace tuppence {

// Zeroed memory, aligned to 2 MiB from that size on, that gives itself back.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  HugeBuffer(HugeBuffer&& other) noexcept { *this = std::move(other); }
  HugeBuffer& operator=(HugeBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~HugeBuffer();

  // Address space only; pages come when first written.
  static absl::StatusOr<HugeBuffer> Map(size_t bytes);

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }  // what was taken: whole pages

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tuppence
