// Reads keys and values of one KV head from the pages, whatever their type. Included by
// attention_kernel.h; compiled once per kernel path.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "model/float16.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

constexpr int kTile = kAttentionTileKeys;

// Sixteen channels of one key or value as f32, with its scale for int8; n is 8 or 16.
TUPPENCE_INLINE F32 LoadChannels(const float* p, int n, float) { return LoadFirst(p, n); }
TUPPENCE_INLINE F32 LoadChannels(const uint16_t* p, int n, float) {
  if (n == kLanes) return LoadBf16(p);
  uint16_t padded[kLanes] = {};
  std::memcpy(padded, p, 8 * sizeof(*p));
  return LoadBf16(padded);
}
// Exact: 7 bits of code times 11 of scale.
TUPPENCE_INLINE F32 LoadChannels(const int8_t* p, int n, float scale) {
  if (n == kLanes) return Mul(LoadI8(p), Set(scale));
  int8_t padded[kLanes] = {};
  std::memcpy(padded, p, 8);
  return Mul(LoadI8(padded), Set(scale));
}

// Where the keys and values of a tile lie; nullptr for those outside [low, high).
template <typename T>
struct TileRows {
  const T* keys[kTile];
  const T* values[kTile];
  float key_scales[kTile];  // int8 only
  float value_scales[kTile];
};

// Scales of consecutive slots, as f32.
TUPPENCE_INLINE void LoadScales(const uint16_t* scales, int count, float* out) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(LoadF16(scales + i), out + i);
  for (; i < count; ++i) out[i] = ToFloat(F16{scales[i]});
}

// Walks keys [first_key, last_key) of one sequence, block by block: visit(first key, keys, row of
// the first), where rows count a pool's heads' slots.
template <typename Visit>
TUPPENCE_INLINE void ForBlocks(const AttentionCall& call, int32_t kv_head, int32_t first_key,
                               int32_t last_key, const Visit& visit) {
  const int32_t block_tokens = static_cast<int32_t>(call.cache->keys.shape[2]);
  for (int32_t key = first_key; key < last_key;) {
    const int32_t block = key / block_tokens, offset = key % block_tokens;
    const int32_t count = std::min(last_key - key, block_tokens - offset);
    const int64_t page = call.block_table[block];
    visit(key, count, (page * call.shape.kv_heads + kv_head) * block_tokens + offset);
    key += count;
  }
}

template <typename T>
inline void FindRows(const AttentionCall& call, int32_t kv_head, int32_t first_key, int low,
                     int high, TileRows<T>& rows) {
  const int64_t dim = call.shape.head_dim;
  const KvLayer& cache = *call.cache;
  std::fill_n(rows.keys, kTile, nullptr);
  ForBlocks(call, kv_head, first_key + low, first_key + high,
            [&](int32_t key, int32_t count, int64_t row) {
              const int32_t j = key - first_key;
              const T* const keys = static_cast<const T*>(cache.keys.data) + row * dim;
              const T* const values = static_cast<const T*>(cache.values.data) + row * dim;
              for (int i = 0; i < count; ++i) {
                rows.keys[j + i] = keys + i * dim;
                rows.values[j + i] = values + i * dim;
              }
              if constexpr (sizeof(T) == 1) {
                LoadScales(static_cast<const uint16_t*>(cache.key_scales.data) + row, count,
                           rows.key_scales + j);
                LoadScales(static_cast<const uint16_t*>(cache.value_scales.data) + row, count,
                           rows.value_scales + j);
              }
            });
}

// What a later tile will read, asked for a few lines at a time between the arithmetic of this one:
// all at once they fill the processor's list of open requests and everything waits for them. Pages
// lie spread over memory: within one the processor sees the stream, where the next begins it
// cannot.
class PagesAhead {
 public:
  // Of keys [first_key, last_key), at most a tile.
  template <typename T>
  void Find(const AttentionCall& call, int32_t kv_head, int32_t first_key, int32_t last_key) {
    const KvLayer& cache = *call.cache;
    const auto row_bytes = call.shape.head_dim * static_cast<int64_t>(sizeof(T));
    ForBlocks(call, kv_head, first_key, last_key, [&](int32_t, int32_t count, int64_t row) {
      Add(cache.keys, row * row_bytes, count * row_bytes);
      Add(cache.values, row * row_bytes, count * row_bytes);
      if constexpr (sizeof(T) == 1) {
        Add(cache.key_scales, row * 2, count * 2);
        Add(cache.value_scales, row * 2, count * 2);
      }
    });
  }

  TUPPENCE_INLINE void Ask(int lines) {
    for (; lines > 0 && run_ < runs_; --lines) {
      PrefetchFar(next_[run_]);
      next_[run_] += 64;
      if (next_[run_] >= end_[run_]) ++run_;
    }
  }

 private:
  void Add(const Tensor& pool, int64_t byte, int64_t bytes) {
    next_[runs_] = static_cast<const char*>(pool.data) + byte;
    end_[runs_++] = static_cast<const char*>(pool.data) + byte + bytes;
  }

  const char* next_[4 * kTile];
  const char* end_[4 * kTile];
  int run_ = 0, runs_ = 0;
};

// LoadKeysTurned where all are there, turned while they are narrow.
template <typename T>
TUPPENCE_INLINE void LoadNarrowTurned(const T* const* keys, int64_t d, const float* scales,
                                      F32 (&turned)[kLanes]) {
  if constexpr (sizeof(T) == 1) {
    constexpr float kCodeUnit = 1.0f / (1 << 24);  // codes come as multiples of 2^24: exact
    LoadI8Turned(keys, d, turned);
    const F32 scale = Mul(Load(scales), Set(kCodeUnit));
    for (int i = 0; i < kLanes; ++i) turned[i] = Mul(turned[i], scale);
  } else {
    LoadBf16Turned(keys, d, turned);
  }
}

// Sixteen channels, from d on, of sixteen keys, turned so that lanes are keys. Nearly always all
// are there; then no load waits for a branch.
template <typename T>
TUPPENCE_INLINE void LoadKeysTurned(const TileRows<T>& rows, int group, int64_t d, int n, bool all,
                                    F32 (&turned)[kLanes]) {
  const T* const* const keys = rows.keys + group;
  const float* const scales = rows.key_scales + group;
  if constexpr (kTurnsNarrow && sizeof(T) < 4) {
    if (all && n == kLanes) return LoadNarrowTurned(keys, d, scales, turned);
  }
  if (all && n == kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      turned[j] = LoadChannels(keys[j] + d, kLanes, sizeof(T) == 1 ? scales[j] : 0.0f);
    }
  } else {
    for (int j = 0; j < kLanes; ++j) {
      if (keys[j] == nullptr) {
        turned[j] = Zero();
      } else {
        turned[j] = LoadChannels(keys[j] + d, n, sizeof(T) == 1 ? scales[j] : 0.0f);
      }
    }
  }
  Transpose(turned);
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
