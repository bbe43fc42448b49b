// A matmul's input rows in the form that its kernel reads: rounded to bf16 in AMX's tile order, or
// quantised to int8 with one scale for each group of the weight. Compiled once per kernel path.
// The loops are elementwise on bits and exactly rounded values, so the compiler may vectorise them
// as it likes and all paths agree.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/packed_matrix.h"
#include "cpu/simd.h"
#include "model/float16.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

// As ToBf16, without a branch: round to nearest even, NaN stays a quiet NaN.
TUPPENCE_INLINE uint16_t RoundBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

inline void StoreBf16(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = RoundBf16(x[i]);
}

// Only the tile rows that exist are read by a kernel with one row tile; with more than one tile
// the last is padded, so that wide kernels never ask.
inline void PackRowTile(const float* x, int64_t rows, int64_t cols, uint16_t* tiles) {
  const int64_t blocks = (cols + kBf16BlockCols - 1) / kBf16BlockCols;
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t block = 0; block < blocks; ++block) {
      uint16_t* const out = tiles + block * 512 + row * kBf16BlockCols;
      const int64_t count =
          row < rows ? std::min(kBf16BlockCols, cols - block * kBf16BlockCols) : 0;
      StoreBf16(x + row * cols + block * kBf16BlockCols, count, out);
      std::memset(out + count, 0, static_cast<size_t>(kBf16BlockCols - count) * sizeof(*out));
    }
  }
}

// The largest magnitude as bits: NaN above infinity above all numbers.
TUPPENCE_INLINE int32_t MaxMagnitudeBits(const float* x, int64_t count) {
  int32_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    most = std::max(most, static_cast<int32_t>(std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu));
  }
  return most;
}

// Round to nearest even for |value| < 2^22: the sum has no bits left below 1.
TUPPENCE_INLINE int32_t RoundToCode(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return static_cast<int32_t>((value + kMagic) - kMagic);
}

// scale = amax / 127, code = round(x * (127 / amax)). A group of zeros (or of less than 2^-100,
// whose reciprocal could overflow) has scale 0; one with NaN or infinity has scale NaN, so that it
// shows in the result.
inline void QuantizeRow(const float* x, int64_t cols, int64_t group, int8_t* codes, float* scales,
                        int32_t* sums) {
  for (int64_t start = 0; start < cols; start += group, ++scales, ++sums) {
    const int64_t count = std::min(group, cols - start);
    const int32_t most = MaxMagnitudeBits(x + start, count);
    const float amax = std::bit_cast<float>(most);
    const bool usable = most < 0x7f800000 && amax >= 0x1p-100f;
    const float inverse = usable ? 127.0f / amax : 0.0f;
    int32_t sum = 0;
    if (usable) {
      for (int64_t i = 0; i < count; ++i) {
        const int32_t code = RoundToCode(x[start + i] * inverse);
        codes[start + i] = static_cast<int8_t>(code);
        sum += code;
      }
    } else {
      std::fill_n(codes + start, count, int8_t{0});
    }
    *scales =
        usable ? amax / 127.0f : (most >= 0x7f800000 ? std::bit_cast<float>(0x7fc00000u) : 0.0f);
    *sums = sum;
  }
}

// As model/quantize states for KV: scale = f16(amax / 127), codes with that rounded scale, nearest
// even, clipped to +-127. A scale beyond f16 is its largest number.
inline void StoreInt8(const float* x, int64_t count, int8_t* codes, uint16_t* scale) {
  const int32_t most = MaxMagnitudeBits(x, count);
  const float amax = std::bit_cast<float>(most);
  const F16 rounded = most >= 0x7f800000 ? F16{0x7e00} : ToF16(std::min(amax / 127.0f, 65504.0f));
  *scale = rounded.bits;
  const float step = ToFloat(rounded);
  if (!(step > 0)) {
    std::fill_n(codes, count, int8_t{0});
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float ratio = std::clamp(x[i] / step, -127.0f, 127.0f);
    codes[i] = static_cast<int8_t>(RoundToCode(ratio));
  }
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
