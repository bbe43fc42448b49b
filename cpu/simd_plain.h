// Sixteen f32 lanes in plain C++: the truth that simd_avx2.h and simd_avx512.h repeat operation by
// operation. Every operation is exactly rounded (or moves bits), and sums over lanes have one
// order, so code written on these lanes gives the same bits on every path. Included through simd.h
// by the kernel headers, which stand in TUPPENCE_SIMD_NAMESPACE.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/target.h"
#include "model/float16.h"

#define TUPPENCE_SIMD_NAMESPACE plain
#define TUPPENCE_SIMD_BEGIN
#define TUPPENCE_SIMD_END

namespace tuppence::plain {

constexpr int kLanes = 16;
// How many rows a register block holds: of x in a matmul, of queries in attention.
constexpr int kMatmulRows = 2;
constexpr int kAttentionRows = 1;
constexpr bool kTurnsNarrow = false;

struct F32 {
  float v[kLanes];
};
struct I32 {
  int32_t v[kLanes];
};

#define TUPPENCE_LANES for (int i = 0; i < kLanes; ++i)

TUPPENCE_INLINE F32 Set(float a) {
  F32 r;
  TUPPENCE_LANES r.v[i] = a;
  return r;
}
TUPPENCE_INLINE F32 Zero() { return Set(0); }
TUPPENCE_INLINE F32 Load(const float* p) {
  F32 r;
  TUPPENCE_LANES r.v[i] = p[i];
  return r;
}
// The first n lanes; the others are zero and their memory is not touched.
TUPPENCE_INLINE F32 LoadFirst(const float* p, int n) {
  F32 r;
  TUPPENCE_LANES r.v[i] = i < n ? p[i] : 0.0f;
  return r;
}
TUPPENCE_INLINE void Store(F32 a, float* p) { TUPPENCE_LANES p[i] = a.v[i]; }
TUPPENCE_INLINE void StoreFirst(F32 a, float* p, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
TUPPENCE_INLINE F32 Add(F32 a, F32 b) {
  TUPPENCE_LANES a.v[i] = a.v[i] + b.v[i];
  return a;
}
TUPPENCE_INLINE F32 Sub(F32 a, F32 b) {
  TUPPENCE_LANES a.v[i] = a.v[i] - b.v[i];
  return a;
}
TUPPENCE_INLINE F32 Mul(F32 a, F32 b) {
  TUPPENCE_LANES a.v[i] = a.v[i] * b.v[i];
  return a;
}
TUPPENCE_INLINE F32 Div(F32 a, F32 b) {
  TUPPENCE_LANES a.v[i] = a.v[i] / b.v[i];
  return a;
}
// a * b + c, rounded once.
TUPPENCE_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  TUPPENCE_LANES c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
// As maxps and minps: b where either is NaN.
TUPPENCE_INLINE F32 Max(F32 a, F32 b) {
  TUPPENCE_LANES b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return b;
}
TUPPENCE_INLINE F32 Min(F32 a, F32 b) {
  TUPPENCE_LANES b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return b;
}
TUPPENCE_INLINE F32 RoundToEven(F32 a) {
  TUPPENCE_LANES a.v[i] = std::nearbyint(a.v[i]);
  return a;
}
// a * 2^n for whole n in [-252, 254], in two factors so that a subnormal result is rounded once.
TUPPENCE_INLINE F32 MulPow2(F32 a, F32 n) {
  TUPPENCE_LANES {
    const int32_t whole = n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) : 0;
    const int32_t half = whole >> 1;
    a.v[i] = a.v[i] * std::bit_cast<float>((half + 127) << 23) *
             std::bit_cast<float>((whole - half + 127) << 23);
  }
  return a;
}
// Lanes i and i + 8, then + 4, + 2, + 1.
TUPPENCE_INLINE float Sum(F32 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
  }
  return a.v[0];
}
TUPPENCE_INLINE float MaxLane(F32 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  }
  return a.v[0];
}
// Lanes outside [low, high) become -infinity, whatever they held.
TUPPENCE_INLINE F32 KeepRange(F32 a, int low, int high) {
  TUPPENCE_LANES {
    if (i < low || i >= high) a.v[i] = -std::numeric_limits<float>::infinity();
  }
  return a;
}
TUPPENCE_INLINE F32 LoadBf16(const uint16_t* p) {
  F32 r;
  TUPPENCE_LANES r.v[i] = ToFloat(Bf16{p[i]});
  return r;
}
TUPPENCE_INLINE F32 LoadF16(const uint16_t* p) {
  F32 r;
  TUPPENCE_LANES r.v[i] = ToFloat(F16{p[i]});
  return r;
}
TUPPENCE_INLINE F32 LoadI8(const int8_t* p) {
  F32 r;
  TUPPENCE_LANES r.v[i] = p[i];
  return r;
}
// A line of 16 pairs of bf16: the first and the second of each pair.
TUPPENCE_INLINE void LoadBf16Pairs(const uint16_t* p, F32& first, F32& second) {
  TUPPENCE_LANES {
    first.v[i] = ToFloat(Bf16{p[2 * i]});
    second.v[i] = ToFloat(Bf16{p[2 * i + 1]});
  }
}
// rows[r][i] and rows[i][r] change places.
TUPPENCE_INLINE void Transpose(F32 (&rows)[kLanes]) {
  for (int r = 0; r < kLanes; ++r) {
    for (int i = r + 1; i < kLanes; ++i) {
      const float kept = rows[r].v[i];
      rows[r].v[i] = rows[i].v[r];
      rows[i].v[r] = kept;
    }
  }
}

// Integer dot products: 16 lanes, each of 4 unsigned weight bytes times the same 4 signed codes.
TUPPENCE_INLINE I32 SetI32(int32_t a) {
  I32 r;
  TUPPENCE_LANES r.v[i] = a;
  return r;
}
TUPPENCE_INLINE F32 ToF32(I32 a) {
  F32 r;
  TUPPENCE_LANES r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
// What an accumulator of DotInt8 starts from, given the sum of the codes: weights are kept as
// code + 128, which only some paths multiply as they are.
TUPPENCE_INLINE I32 StartInt8(int32_t) { return SetI32(0); }
TUPPENCE_INLINE I32 DotInt8(I32 sum, const uint8_t* line, const int8_t* codes) {
  TUPPENCE_LANES {
    for (int j = 0; j < 4; ++j) sum.v[i] += (line[4 * i + j] - 128) * codes[j];
  }
  return sum;
}
// A line of nibbles, each code + 8: the low ones meet codes[0..3], the high ones codes[4..7].
TUPPENCE_INLINE I32 DotInt4(I32 sum, const uint8_t* line, const int8_t* codes) {
  TUPPENCE_LANES {
    for (int j = 0; j < 4; ++j) {
      sum.v[i] += (line[4 * i + j] & 15) * codes[j] + (line[4 * i + j] >> 4) * codes[4 + j];
    }
  }
  return sum;
}
TUPPENCE_INLINE void Prefetch(const void*) {}
// Into the second cache: what is wanted in some microseconds.
TUPPENCE_INLINE void PrefetchFar(const void*) {}

// Sixteen 32-bit words in 64-bit lanes, for Philox. What lies above 32 bits is never looked at,
// so nothing needs to clear it.
struct Words {
  uint64_t v[kLanes];
};
TUPPENCE_INLINE Words SetWords(uint32_t a) {
  Words r;
  TUPPENCE_LANES r.v[i] = a;
  return r;
}
// first, first + 1, ...
TUPPENCE_INLINE Words CountWords(uint32_t first) {
  Words r;
  TUPPENCE_LANES r.v[i] = first + static_cast<uint32_t>(i);
  return r;
}
TUPPENCE_INLINE Words Xor(Words a, Words b) {
  TUPPENCE_LANES a.v[i] ^= b.v[i];
  return a;
}
// The product of two words, whole.
TUPPENCE_INLINE Words MulWords(Words a, uint32_t b) {
  TUPPENCE_LANES a.v[i] = (a.v[i] & 0xffffffffu) * b;
  return a;
}
TUPPENCE_INLINE Words HighHalf(Words a) {
  TUPPENCE_LANES a.v[i] >>= 32;
  return a;
}
// The upper 23 of a word's 32 bits as a number.
TUPPENCE_INLINE F32 UpperBits(Words a) {
  F32 r;
  TUPPENCE_LANES r.v[i] = static_cast<float>(static_cast<uint32_t>(a.v[i]) >> 9);
  return r;
}
// Bit i says whether a > b in lane i.
TUPPENCE_INLINE uint32_t Greater(F32 a, F32 b) {
  uint32_t bits = 0;
  TUPPENCE_LANES bits |= static_cast<uint32_t>(a.v[i] > b.v[i]) << i;
  return bits;
}

#undef TUPPENCE_LANES

}  // namespace tuppence::plain
