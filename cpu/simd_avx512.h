// simd_plain.h's sixteen lanes in one AVX-512 register; same operations, same bits. With
// TUPPENCE_SIMD_VNNI defined also the integer dot products of AVX-512 VNNI, in a namespace of
// their own, for machines since Cascade Lake and Zen 4 have them and Skylake-X does not.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/intrinsics.h"
#include "cpu/target.h"

#ifdef TUPPENCE_SIMD_VNNI
#define TUPPENCE_SIMD_NAMESPACE avx512vnni
#define TUPPENCE_SIMD_BEGIN \
  TUPPENCE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#else
#define TUPPENCE_SIMD_NAMESPACE avx512
#define TUPPENCE_SIMD_BEGIN \
  TUPPENCE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define TUPPENCE_SIMD_END TUPPENCE_TARGET_END

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

constexpr int kLanes = 16;
constexpr int kMatmulRows = 8;
constexpr int kAttentionRows = 4;
constexpr bool kTurnsNarrow = true;  // LoadI8Turned, LoadBf16Turned

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};

TUPPENCE_INLINE __mmask16 FirstLanes(int n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffffu : (1u << n) - 1u);
}
TUPPENCE_INLINE F32 Set(float a) { return {_mm512_set1_ps(a)}; }
TUPPENCE_INLINE F32 Zero() { return {_mm512_setzero_ps()}; }
TUPPENCE_INLINE F32 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
TUPPENCE_INLINE F32 LoadFirst(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(FirstLanes(n), p)};
}
TUPPENCE_INLINE void Store(F32 a, float* p) { _mm512_storeu_ps(p, a.v); }
TUPPENCE_INLINE void StoreFirst(F32 a, float* p, int n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), a.v);
}
TUPPENCE_INLINE F32 Add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
TUPPENCE_INLINE F32 Sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
TUPPENCE_INLINE F32 Mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
TUPPENCE_INLINE F32 Div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
TUPPENCE_INLINE F32 Fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
TUPPENCE_INLINE F32 Max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
TUPPENCE_INLINE F32 Min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
TUPPENCE_INLINE F32 RoundToEven(F32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
TUPPENCE_INLINE F32 MulPow2(F32 a, F32 n) {
  const __m512i whole =
      _mm512_cvttps_epi32(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(n.v, n.v, _CMP_ORD_Q), n.v));
  const __m512i half = _mm512_srai_epi32(whole, 1);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512i first = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
  const __m512i second =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(whole, half), bias), 23);
  return {
      _mm512_mul_ps(_mm512_mul_ps(a.v, _mm512_castsi512_ps(first)), _mm512_castsi512_ps(second))};
}
TUPPENCE_INLINE float Sum(F32 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
TUPPENCE_INLINE float MaxLane(F32 a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
TUPPENCE_INLINE F32 KeepRange(F32 a, int low, int high) {
  const int first = low < 0 ? 0 : low;
  const int last = high < 0 ? 0 : high;
  const __mmask16 keep =
      static_cast<__mmask16>(FirstLanes(last) & ~(first >= kLanes ? 0xffffu : (1u << first) - 1u));
  return {_mm512_mask_mov_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()), keep, a.v)};
}
TUPPENCE_INLINE F32 LoadBf16(const uint16_t* p) {
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
TUPPENCE_INLINE F32 LoadF16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
TUPPENCE_INLINE F32 LoadI8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
TUPPENCE_INLINE void LoadBf16Pairs(const uint16_t* p, F32& first, F32& second) {
  const __m512i line = _mm512_loadu_si512(p);
  first.v = _mm512_castsi512_ps(_mm512_slli_epi32(line, 16));
  second.v = _mm512_castsi512_ps(
      _mm512_and_si512(line, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}
// Four rounds of 16 shuffles: pairs of rows, pairs of pairs, then whole 128-bit lanes twice.
TUPPENCE_INLINE void Transpose(F32 (&rows)[kLanes]) {
  __m512 a[kLanes], b[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < kLanes; i += 4) {
    b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i].v = _mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
    rows[i + 8].v = _mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
  }
}
// Sixteen bytes of each of rows[4 i + first], one row a 128-bit lane.
TUPPENCE_INLINE __m512i LoadEveryFourth(const void* const* rows, int first, int64_t byte) {
  const auto row = [&](int i) {
    return _mm_loadu_si128(
        reinterpret_cast<const __m128i*>(static_cast<const char*>(rows[4 * i + first]) + byte));
  };
  const __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(row(0)), row(1), 1);
  return _mm512_inserti32x4(_mm512_inserti32x4(two, row(2), 2), row(3), 3);
}
// Sixteen codes of sixteen rows, turned while they are bytes: lane j of out[i] is 2^24 times code i
// of row j. A third of the shuffles of turning them as floats.
TUPPENCE_INLINE void LoadI8Turned(const int8_t* const* rows, int64_t at, F32 (&out)[kLanes]) {
  const auto* const places = reinterpret_cast<const void* const*>(rows);
  const __m512i a = LoadEveryFourth(places, 0, at), b = LoadEveryFourth(places, 1, at);
  const __m512i c = LoadEveryFourth(places, 2, at), d = LoadEveryFourth(places, 3, at);
  const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
  const __m512i cd[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
  for (int half = 0; half < 2; ++half) {
    // Word i of lane j: code i of rows 4 j to 4 j + 3.
    const __m512i fours[2] = {_mm512_unpacklo_epi16(ab[half], cd[half]),
                              _mm512_unpackhi_epi16(ab[half], cd[half])};
    for (int i = 0; i < 8; ++i) {
      const char word = static_cast<char>(4 * (i % 4));
      const char none = static_cast<char>(0x80);
      const __m128i upper = _mm_setr_epi8(none, none, none, word, none, none, none, word + 1, none,
                                          none, none, word + 2, none, none, none, word + 3);
      const __m512i codes = _mm512_shuffle_epi8(fours[i / 4], _mm512_broadcast_i32x4(upper));
      out[8 * half + i].v = _mm512_cvtepi32_ps(codes);
    }
  }
}
// The same of bf16 values, as they are.
TUPPENCE_INLINE void LoadBf16Turned(const uint16_t* const* rows, int64_t at, F32 (&out)[kLanes]) {
  const auto* const places = reinterpret_cast<const void* const*>(rows);
  for (int half = 0; half < 2; ++half) {
    const int64_t byte = 2 * at + 16 * half;
    const __m512i a = LoadEveryFourth(places, 0, byte), b = LoadEveryFourth(places, 1, byte);
    const __m512i c = LoadEveryFourth(places, 2, byte), d = LoadEveryFourth(places, 3, byte);
    const __m512i ab[2] = {_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)};
    const __m512i cd[2] = {_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)};
    for (int i = 0; i < 4; ++i) {
      const __m512i pairs = i % 2 == 0 ? _mm512_unpacklo_epi64(ab[i / 2], cd[i / 2])
                                       : _mm512_unpackhi_epi64(ab[i / 2], cd[i / 2]);
      out[8 * half + 2 * i].v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
      out[8 * half + 2 * i + 1].v = _mm512_castsi512_ps(
          _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
    }
  }
}
TUPPENCE_INLINE void Prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
// Into the second cache: what is wanted in some microseconds.
TUPPENCE_INLINE void PrefetchFar(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}
struct Words {
  __m512i low, high;
};
TUPPENCE_INLINE Words SetWords(uint32_t a) {
  const __m512i word = _mm512_set1_epi64(a);
  return {word, word};
}
TUPPENCE_INLINE Words CountWords(uint32_t first) {
  const __m512i count = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i low = _mm512_add_epi64(_mm512_set1_epi64(first), count);
  return {low, _mm512_add_epi64(low, _mm512_set1_epi64(8))};
}
TUPPENCE_INLINE Words Xor(Words a, Words b) {
  return {_mm512_xor_si512(a.low, b.low), _mm512_xor_si512(a.high, b.high)};
}
TUPPENCE_INLINE Words MulWords(Words a, uint32_t b) {
  const __m512i factor = _mm512_set1_epi64(b);
  return {_mm512_mul_epu32(a.low, factor), _mm512_mul_epu32(a.high, factor)};
}
TUPPENCE_INLINE Words HighHalf(Words a) {
  return {_mm512_srli_epi64(a.low, 32), _mm512_srli_epi64(a.high, 32)};
}
TUPPENCE_INLINE F32 UpperBits(Words a) {
  const __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(a.low)),
                                           _mm512_cvtepi64_epi32(a.high), 1);
  return {_mm512_cvtepi32_ps(_mm512_srli_epi32(words, 9))};
}
TUPPENCE_INLINE uint32_t Greater(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
TUPPENCE_INLINE I32 SetI32(int32_t a) { return {_mm512_set1_epi32(a)}; }
TUPPENCE_INLINE F32 ToF32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }

#ifdef TUPPENCE_SIMD_VNNI
// vpdpbusd multiplies unsigned weight bytes as they are: code + 128 needs 128 times the sum of the
// codes taken off, which the accumulator starts with.
TUPPENCE_INLINE I32 StartInt8(int32_t sum) { return SetI32(-128 * sum); }
TUPPENCE_INLINE __m512i FourCodes(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return _mm512_set1_epi32(four);
}
TUPPENCE_INLINE I32 DotInt8(I32 sum, const uint8_t* line, const int8_t* codes) {
  return {_mm512_dpbusd_epi32(sum.v, _mm512_loadu_si512(line), FourCodes(codes))};
}
TUPPENCE_INLINE I32 DotInt4(I32 sum, const uint8_t* line, const int8_t* codes) {
  const __m512i both = _mm512_loadu_si512(line);
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i low = _mm512_and_si512(both, nibble);
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
  const __m512i first = _mm512_dpbusd_epi32(sum.v, low, FourCodes(codes));
  return {_mm512_dpbusd_epi32(first, high, FourCodes(codes + 4))};
}
#endif

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
