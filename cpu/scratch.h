// Memory that an op needs while it runs, kept from step to step. It grows to the largest size that
// a step has asked for and stays there, so that after the first full step nothing is allocated.
#pragma once

#include <cstddef>
#include <utility>

#include "cpu/huge_buffer.h"
#include "model/check.h"

namespace tuppence {

class Scratch {
 public:
  // At least `bytes`, aligned to a page. What was there before may be gone.
  template <typename T>
  T* Get(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > buffer_.bytes()) {
      buffer_ = HugeBuffer();  // give back first: the peak is the new size alone
      absl::StatusOr<HugeBuffer> grown = HugeBuffer::Map(bytes);
      CHECK(grown.ok());
      buffer_ = *std::move(grown);
    }
    return static_cast<T*>(buffer_.data());
  }

 private:
  HugeBuffer buffer_;
};

}  // namespace tuppence
