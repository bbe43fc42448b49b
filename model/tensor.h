// Tensor: a view of memory with a type and a shape, rows contiguous. Owns nothing.
// Used by the layer sequence, the op interface and every backend.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "model/check.h"

namespace tuppence {

enum class DType : uint8_t { kF32, kBf16, kF16, kI8, kI32 };

constexpr size_t BytesOf(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBf16:
    case DType::kF16:
      return 2;
    case DType::kI8:
      return 1;
  }
  return 0;
}

constexpr const char* NameOf(DType type) {
  switch (type) {
    case DType::kF32:
      return "f32";
    case DType::kBf16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI8:
      return "int8";
    case DType::kI32:
      return "i32";
  }
  return "?";
}

struct Tensor {
  void* data = nullptr;
  DType type = DType::kF32;
  int32_t rank = 0;
  std::array<int64_t, 4> shape = {0, 0, 0, 0};

  Tensor() = default;
  Tensor(void* memory, DType dtype, std::initializer_list<int64_t> dimensions)
      : data(memory), type(dtype), rank(static_cast<int32_t>(dimensions.size())) {
    CHECK_LE(dimensions.size(), shape.size());
    int i = 0;
    for (int64_t dimension : dimensions) shape[i++] = dimension;
  }

  int64_t elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    return count;
  }
  size_t bytes() const { return static_cast<size_t>(elements()) * BytesOf(type); }
  bool empty() const { return elements() == 0; }

  template <typename T>
  T* as() const {
    CHECK_EQ(sizeof(T), BytesOf(type));
    return static_cast<T*>(data);
  }

  // The first `rows` rows; the other dimensions stay.
  Tensor First(int64_t rows) const {
    CHECK_LE(rows, shape[0]);
    Tensor view = *this;
    view.shape[0] = rows;
    return view;
  }
};

}  // namespace tuppence
