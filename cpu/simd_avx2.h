// simd_plain.h's sixteen lanes in two AVX2 registers; same operations, same bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/intrinsics.h"
#include "cpu/target.h"

#define TUPPENCE_SIMD_NAMESPACE avx2
#define TUPPENCE_SIMD_BEGIN TUPPENCE_TARGET_BEGIN("avx2,fma,f16c")
#define TUPPENCE_SIMD_END TUPPENCE_TARGET_END

TUPPENCE_SIMD_BEGIN

namespace tuppence::avx2 {

constexpr int kLanes = 16;
constexpr int kMatmulRows = 2;
constexpr int kAttentionRows = 1;
constexpr bool kTurnsNarrow = false;

struct F32 {
  __m256 low, high;
};
struct I32 {
  __m256i low, high;
};

// All ones in the first n of 8 lanes.
TUPPENCE_INLINE __m256i FirstEight(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TUPPENCE_INLINE F32 Set(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
TUPPENCE_INLINE F32 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
TUPPENCE_INLINE F32 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TUPPENCE_INLINE F32 LoadFirst(const float* p, int n) {
  if (n >= kLanes) return Load(p);
  if (n <= 8) return {_mm256_maskload_ps(p, FirstEight(n)), _mm256_setzero_ps()};
  return {_mm256_loadu_ps(p), _mm256_maskload_ps(p + 8, FirstEight(n - 8))};
}
TUPPENCE_INLINE void Store(F32 a, float* p) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
TUPPENCE_INLINE void StoreFirst(F32 a, float* p, int n) {
  if (n >= kLanes) {
    Store(a, p);
  } else if (n <= 8) {
    _mm256_maskstore_ps(p, FirstEight(n), a.low);
  } else {
    _mm256_storeu_ps(p, a.low);
    _mm256_maskstore_ps(p + 8, FirstEight(n - 8), a.high);
  }
}
TUPPENCE_INLINE F32 Add(F32 a, F32 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
TUPPENCE_INLINE F32 Sub(F32 a, F32 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
TUPPENCE_INLINE F32 Mul(F32 a, F32 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
TUPPENCE_INLINE F32 Div(F32 a, F32 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
TUPPENCE_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
TUPPENCE_INLINE F32 Max(F32 a, F32 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
TUPPENCE_INLINE F32 Min(F32 a, F32 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
TUPPENCE_INLINE F32 RoundToEven(F32 a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, kNearest), _mm256_round_ps(a.high, kNearest)};
}
TUPPENCE_INLINE __m256 MulPow2Eight(__m256 a, __m256 n) {
  const __m256i whole = _mm256_cvttps_epi32(_mm256_and_ps(n, _mm256_cmp_ps(n, n, _CMP_ORD_Q)));
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
TUPPENCE_INLINE F32 MulPow2(F32 a, F32 n) {
  return {MulPow2Eight(a.low, n.low), MulPow2Eight(a.high, n.high)};
}
TUPPENCE_INLINE float Sum(F32 a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
TUPPENCE_INLINE float MaxLane(F32 a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
TUPPENCE_INLINE F32 KeepRange(F32 a, int low, int high) {
  const __m256 hidden = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
  const __m256 keep_low =
      _mm256_castsi256_ps(_mm256_andnot_si256(FirstEight(low), FirstEight(high)));
  const __m256 keep_high =
      _mm256_castsi256_ps(_mm256_andnot_si256(FirstEight(low - 8), FirstEight(high - 8)));
  return {_mm256_blendv_ps(hidden, a.low, keep_low), _mm256_blendv_ps(hidden, a.high, keep_high)};
}
TUPPENCE_INLINE __m128i LoadHalf(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
TUPPENCE_INLINE F32 LoadBf16(const uint16_t* p) {
  const __m256i low = _mm256_slli_epi32(_mm256_cvtepu16_epi32(LoadHalf(p)), 16);
  const __m256i high = _mm256_slli_epi32(_mm256_cvtepu16_epi32(LoadHalf(p + 8)), 16);
  return {_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)};
}
TUPPENCE_INLINE F32 LoadF16(const uint16_t* p) {
  return {_mm256_cvtph_ps(LoadHalf(p)), _mm256_cvtph_ps(LoadHalf(p + 8))};
}
TUPPENCE_INLINE F32 LoadI8(const int8_t* p) {
  const __m128i codes = LoadHalf(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)))};
}
TUPPENCE_INLINE __m256i LoadLine(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
TUPPENCE_INLINE void LoadBf16Pairs(const uint16_t* p, F32& first, F32& second) {
  const __m256i low = LoadLine(p), high = LoadLine(p + 16);
  const __m256i upper = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  first = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
           _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
  second = {_mm256_castsi256_ps(_mm256_and_si256(low, upper)),
            _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
}
TUPPENCE_INLINE void TransposeEight(__m256 (&r)[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}
// Four quarters: those off the diagonal change places.
TUPPENCE_INLINE void Transpose(F32 (&rows)[kLanes]) {
  __m256 quarter[2][2][8];
  for (int i = 0; i < kLanes; ++i) {
    quarter[i / 8][0][i % 8] = rows[i].low;
    quarter[i / 8][1][i % 8] = rows[i].high;
  }
  for (int i = 0; i < 4; ++i) TransposeEight(quarter[i / 2][i % 2]);
  for (int i = 0; i < kLanes; ++i) {
    rows[i] = {quarter[0][i / 8][i % 8], quarter[1][i / 8][i % 8]};
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
  __m256i v[4];
};
TUPPENCE_INLINE Words SetWords(uint32_t a) {
  const __m256i word = _mm256_set1_epi64x(a);
  return {{word, word, word, word}};
}
TUPPENCE_INLINE Words CountWords(uint32_t first) {
  Words r;
  for (int i = 0; i < 4; ++i) {
    r.v[i] = _mm256_add_epi64(_mm256_set1_epi64x(int64_t{first} + 4 * i),
                              _mm256_setr_epi64x(0, 1, 2, 3));
  }
  return r;
}
TUPPENCE_INLINE Words Xor(Words a, Words b) {
  for (int i = 0; i < 4; ++i) a.v[i] = _mm256_xor_si256(a.v[i], b.v[i]);
  return a;
}
TUPPENCE_INLINE Words MulWords(Words a, uint32_t b) {
  for (int i = 0; i < 4; ++i) a.v[i] = _mm256_mul_epu32(a.v[i], _mm256_set1_epi64x(b));
  return a;
}
TUPPENCE_INLINE Words HighHalf(Words a) {
  for (int i = 0; i < 4; ++i) a.v[i] = _mm256_srli_epi64(a.v[i], 32);
  return a;
}
// The low words of two registers side by side, in order, then shifted to 23 bits.
TUPPENCE_INLINE __m256 UpperBitsEight(__m256i first, __m256i second) {
  const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  const __m256i words = _mm256_blend_epi32(_mm256_permutevar8x32_epi32(first, even),
                                           _mm256_permutevar8x32_epi32(second, even), 0xf0);
  return _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 9));
}
TUPPENCE_INLINE F32 UpperBits(Words a) {
  return {UpperBitsEight(a.v[0], a.v[1]), UpperBitsEight(a.v[2], a.v[3])};
}
TUPPENCE_INLINE uint32_t Greater(F32 a, F32 b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ));
  return static_cast<uint32_t>(low | high << 8);
}
TUPPENCE_INLINE I32 SetI32(int32_t a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
TUPPENCE_INLINE F32 ToF32(I32 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
TUPPENCE_INLINE I32 StartInt8(int32_t) { return SetI32(0); }
TUPPENCE_INLINE __m256i FourCodes(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return _mm256_set1_epi32(four);
}
TUPPENCE_INLINE __m256i AddPairs(__m256i sum, __m256i sixteen_bit) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(sixteen_bit, _mm256_set1_epi16(1)));
}
// vpmaddubsw saturates at 16 bits, so the unsigned side is |code|: 2 * 127 * 127 fits.
TUPPENCE_INLINE __m256i DotInt8Eight(__m256i sum, const uint8_t* line, __m256i codes) {
  const __m256i weights = _mm256_xor_si256(LoadLine(line), _mm256_set1_epi8(-128));
  return AddPairs(sum,
                  _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(weights, codes)));
}
TUPPENCE_INLINE I32 DotInt8(I32 sum, const uint8_t* line, const int8_t* codes) {
  const __m256i four = FourCodes(codes);
  return {DotInt8Eight(sum.low, line, four), DotInt8Eight(sum.high, line + 32, four)};
}
TUPPENCE_INLINE __m256i DotInt4Eight(__m256i sum, const uint8_t* line, __m256i first,
                                     __m256i second) {
  const __m256i both = LoadLine(line);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(both, nibble);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
  return AddPairs(AddPairs(sum, _mm256_maddubs_epi16(low, first)),
                  _mm256_maddubs_epi16(high, second));
}
TUPPENCE_INLINE I32 DotInt4(I32 sum, const uint8_t* line, const int8_t* codes) {
  const __m256i first = FourCodes(codes), second = FourCodes(codes + 4);
  return {DotInt4Eight(sum.low, line, first, second),
          DotInt4Eight(sum.high, line + 32, first, second)};
}

}  // namespace tuppence::avx2

TUPPENCE_SIMD_END
