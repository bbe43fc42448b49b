#include "bench/int8_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "cpu/amx_tile_config.h"
#include "cpu/kernel_paths.h"
#include "cpu/thread_pool.h"

namespace tuppence {

namespace {

constexpr int64_t kTurns = 1 << 20;
constexpr int kWindows = 12;

#if defined(__x86_64__)

// Ten sums that do not wait for one another cover four cycles of latency at two instructions a
// cycle.
constexpr int kSums = 10;

__attribute__((target("avx512f,avx512vnni"))) void Vnni() {
  __m512i sums[kSums] = {};
#pragma GCC unroll 10
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));  // or they were one sum
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 10
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
#pragma GCC unroll 10
  for (__m512i& sum : sums) asm volatile("" ::"v"(sum));
}

__attribute__((target("avx2"))) void Avx2() {
  __m256i sums[kSums] = {};
#pragma GCC unroll 10
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 10
    for (__m256i& sum : sums) {
      asm volatile("" : "+x"(a), "+x"(b));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
#pragma GCC unroll 10
  for (__m256i& sum : sums) asm volatile("" ::"x"(sum));
}

__attribute__((target("amx-tile,amx-int8"))) void Amx() {
  TileConfig config;
  for (int tile = 0; tile < 6; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = 16;
  LoadTileConfig(config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t turn = 0; turn < kTurns / 16; ++turn) {
    _tile_dpbusd(0, 4, 5);
    _tile_dpbusd(1, 4, 5);
    _tile_dpbusd(2, 4, 5);
    _tile_dpbusd(3, 4, 5);
  }
  _tile_release();
}

struct Loop {
  void (*run)() = nullptr;
  double operations = 0;  // of one run
  const char* instruction = "";
};

Loop WidestLoop() {
  const CpuFeatures features = DetectCpuFeatures();
  // amx_int8 came with amx_bf16 on every processor so far.
  if (features.amx_bf16) return {&Amx, kTurns / 16 * 4 * 2.0 * 16 * 16 * 64, "AMX tdpbusd"};
  if (features.avx512_vnni) return {&Vnni, kTurns * kSums * 2.0 * 64, "AVX-512 VNNI vpdpbusd"};
  if (features.avx2) return {&Avx2, kTurns * kSums * 2.0 * 32, "AVX2 vpmaddubsw, vpmaddwd"};
  return {};
}

#endif

}  // namespace

Int8Peak MeasureInt8Peak(int threads) {
  Int8Peak peak;
#if defined(__x86_64__)
  const Loop loop = WidestLoop();
  if (loop.run == nullptr) return peak;
  peak.instruction = loop.instruction;
  ThreadPool pool(threads);
  for (int window = 0; window < kWindows; ++window) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(threads * 4, [&](int64_t, int) { loop.run(); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    peak.operations_per_second =
        std::max(peak.operations_per_second, threads * 4 * loop.operations / seconds.count());
  }
#else
  (void)threads;
#endif
  return peak;
}

}  // namespace tuppence
