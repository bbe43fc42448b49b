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

// Walks the slots of consecutive keys of one sequence.
template <typename T>
inline void FindRows(const AttentionCall& call, int32_t first_key, int low, int high,
                     TileRows<T>& rows) {
  const int64_t dim = call.shape.head_dim;
  const int32_t block_tokens = static_cast<int32_t>(call.cache->keys.shape[2]);
  std::fill_n(rows.keys, kTile, nullptr);
  int32_t block = (first_key + low) / block_tokens, offset = (first_key + low) % block_tokens;
  for (int j = low; j < high; ++j) {
    const int64_t page = call.block_table[block];
    const int64_t row = (page * call.shape.kv_heads + call.kv_head) * block_tokens + offset;
    rows.keys[j] = static_cast<const T*>(call.cache->keys.data) + row * dim;
    rows.values[j] = static_cast<const T*>(call.cache->values.data) + row * dim;
    if constexpr (sizeof(T) == 1) {
      const auto* const keys = static_cast<const uint16_t*>(call.cache->key_scales.data);
      const auto* const values = static_cast<const uint16_t*>(call.cache->value_scales.data);
      rows.key_scales[j] = ToFloat(F16{keys[row]});
      rows.value_scales[j] = ToFloat(F16{values[row]});
    }
    if (++offset == block_tokens) offset = 0, ++block;
  }
}

// Asks for what a later tile will read of keys [first_key, last_key), some microseconds ahead.
// Pages lie spread over memory: within one the processor sees the stream, where the next begins it
// cannot.
template <typename T>
inline void PrefetchPages(const AttentionCall& call, int32_t first_key, int32_t last_key) {
  const auto row_bytes = call.shape.head_dim * static_cast<int64_t>(sizeof(T));
  const int32_t block_tokens = static_cast<int32_t>(call.cache->keys.shape[2]);
  for (int32_t key = first_key; key < last_key;) {
    const int32_t block = key / block_tokens, offset = key % block_tokens;
    const int32_t count = std::min(last_key - key, block_tokens - offset);
    const int64_t page = call.block_table[block];
    const int64_t row = (page * call.shape.kv_heads + call.kv_head) * block_tokens + offset;
    const auto* const keys = static_cast<const char*>(call.cache->keys.data) + row * row_bytes;
    const auto* const values = static_cast<const char*>(call.cache->values.data) + row * row_bytes;
    for (int64_t byte = 0; byte < count * row_bytes; byte += 64) {
      PrefetchFar(keys + byte);
      PrefetchFar(values + byte);
    }
    if constexpr (sizeof(T) == 1) {
      PrefetchFar(static_cast<const uint16_t*>(call.cache->key_scales.data) + row);
      PrefetchFar(static_cast<const uint16_t*>(call.cache->value_scales.data) + row);
    }
    key += count;
  }
}

// Sixteen channels, from d on, of sixteen keys, turned so that lanes are keys. Nearly always all
// are there; then no load waits for a branch.
template <typename T>
TUPPENCE_INLINE void LoadKeysTurned(const TileRows<T>& rows, int group, int64_t d, int n, bool all,
                                    F32 (&turned)[kLanes]) {
  const T* const* const keys = rows.keys + group;
  const float* const scales = rows.key_scales + group;
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
