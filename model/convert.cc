// See convert.h.
#include "model/convert.h"

#include <bit>
#include <cstring>

#include "model/check.h"

namespace tuppence {
namespace {

// Values of one block are or-ed into one verdict, so that the loop has no branch; the slow search
// for the index runs only in a block that has one.
constexpr int64_t kBlock = 4096;

template <typename Word, Word kExponent>
int64_t FindExponent(const void* values, int64_t count) {
  const Word* words = static_cast<const Word*>(values);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Word any = 0;
    for (int64_t i = begin; i < end; ++i) any |= (words[i] & kExponent) == kExponent ? 1 : 0;
    for (int64_t i = begin; any != 0 && i < end; ++i) {
      if ((words[i] & kExponent) == kExponent) return i;
    }
  }
  return -1;
}

// Exact, subnormals included: the exponent's bias is corrected by a multiplication with 2^112.
inline float FiniteToFloat(F16 value) {
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  return std::bit_cast<float>(sign |
                              std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f));
}

inline Bf16 FiniteToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return Bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace

int64_t FindNotFinite(DType type, const void* values, int64_t count) {
  if (type == DType::kF32) return FindExponent<uint32_t, 0x7f800000u>(values, count);
  if (type == DType::kBf16) return FindExponent<uint16_t, 0x7f80u>(values, count);
  CHECK(type == DType::kF16);
  return FindExponent<uint16_t, 0x7c00u>(values, count);
}

void ConvertToF32(DType type, const void* values, int64_t count, float* out) {
  if (type == DType::kF32) {
    std::memcpy(out, values, count * sizeof(float));
  } else if (type == DType::kBf16) {
    const Bf16* from = static_cast<const Bf16*>(values);
    for (int64_t i = 0; i < count; ++i) out[i] = ToFloat(from[i]);
  } else {
    CHECK(type == DType::kF16);
    const F16* from = static_cast<const F16*>(values);
    for (int64_t i = 0; i < count; ++i) out[i] = FiniteToFloat(from[i]);
  }
}

void ConvertToBf16(DType type, const void* values, int64_t count, Bf16* out) {
  if (type == DType::kBf16) {
    std::memcpy(out, values, count * sizeof(Bf16));
  } else if (type == DType::kF32) {
    const float* from = static_cast<const float*>(values);
    for (int64_t i = 0; i < count; ++i) out[i] = FiniteToBf16(from[i]);
  } else {
    CHECK(type == DType::kF16);
    const F16* from = static_cast<const F16*>(values);
    for (int64_t i = 0; i < count; ++i) out[i] = FiniteToBf16(FiniteToFloat(from[i]));
  }
}

int64_t ConvertToF16(DType type, const void* values, int64_t count, F16* out) {
  if (type == DType::kF16) {
    std::memcpy(out, values, count * sizeof(F16));
    return -1;
  }
  CHECK(type == DType::kF32 || type == DType::kBf16);
  int64_t too_large = -1;
  for (int64_t i = count - 1; i >= 0; --i) {
    out[i] = ToF16(type == DType::kF32 ? static_cast<const float*>(values)[i]
                                       : ToFloat(static_cast<const Bf16*>(values)[i]));
    if ((out[i].bits & 0x7fffu) == 0x7c00u) too_large = i;
  }
  return too_large;
}

}  // namespace tuppence
