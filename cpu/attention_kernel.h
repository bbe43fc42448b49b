// Paged attention of one item: up to 32 queries (tokens of one entry times the heads of one KV
// head's group) over the keys of one or more splits. Compiled once per kernel path.
//
// Formula   out = sum over keys j of exp(scale q.k_j - m) v_j / sum over j of exp(scale q.k_j - m)
// Order     Keys go by in tiles of 64 that start at absolute multiples of 64; splits of 1,024 keys
//           each start from nothing and are merged in order. In a tile: q.k_j is one chain of FMAs
//           over head_dim; the tile's maximum moves m; weights are summed as four vectors
//           (0 + 1) + (2 + 3), then over lanes; v_j are added in order of j, visible keys only.
// So a query's result depends on its position and its pages, not on the tokens beside it: prefill
// and decode have one arithmetic on the CPU, and Phase is not looked at.
// Mapping   K of a tile is turned to f32 [head_dim][64] (lanes are keys), V to f32 [64][head_dim]
//           (lanes are channels), once for all queries of the item.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "model/check.h"
#include "model/float16.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

constexpr int kTile = kAttentionTileKeys;
constexpr int kTileVectors = kTile / kLanes;

// A query's state is its sums [padded head_dim], then the maximum, then the sum of weights.
TUPPENCE_INLINE float& MaxOf(float* state, int64_t dim) { return state[dim]; }
TUPPENCE_INLINE float& SumOf(float* state, int64_t dim) { return state[dim + 1]; }

TUPPENCE_INLINE float ExpOne(float x) { return MaxLane(Exp(Set(x))); }

inline void ResetState(float* state, int64_t dim) {
  std::memset(state, 0, static_cast<size_t>(dim + 2) * sizeof(float));
  MaxOf(state, dim) = -std::numeric_limits<float>::infinity();
}

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

// Walks the slots of consecutive keys of one sequence.
struct PageCursor {
  const AttentionCall& call;
  int32_t block_tokens;
  int32_t block;
  int32_t offset;

  PageCursor(const AttentionCall& c, int32_t key)
      : call(c), block_tokens(static_cast<int32_t>(c.cache->keys.shape[2])) {
    block = key / block_tokens;
    offset = key % block_tokens;
  }
  // Index of the key's row among [blocks, kv_heads, block_tokens].
  int64_t Row() const {
    const int64_t page = call.block_table[block];
    return (page * call.shape.kv_heads + call.kv_head) * block_tokens + offset;
  }
  void Next() {
    if (++offset == block_tokens) offset = 0, ++block;
  }
};

struct Tile {
  float* keys;        // [padded head_dim][64]
  float* values;      // [64][padded head_dim]
  int32_t first_key;  // absolute, a multiple of 64
  int32_t low, high;  // loaded, relative; other keys are zero
};

template <typename T>
inline void LoadTile(const AttentionCall& call, const Tile& tile) {
  const int64_t dim = call.shape.head_dim, padded = PaddedHeadDim(dim);
  const auto* const keys = static_cast<const T*>(call.cache->keys.data);
  const auto* const values = static_cast<const T*>(call.cache->values.data);
  const T* key_rows[kTile] = {};
  float key_scales[kTile] = {};
  PageCursor cursor(call, tile.first_key + tile.low);
  for (int j = tile.low; j < tile.high; ++j, cursor.Next()) {
    const int64_t row = cursor.Row();
    key_rows[j] = keys + row * dim;
    float value_scale = 0;
    if constexpr (sizeof(T) == 1) {
      key_scales[j] = ToFloat(F16{static_cast<const uint16_t*>(call.cache->key_scales.data)[row]});
      value_scale = ToFloat(F16{static_cast<const uint16_t*>(call.cache->value_scales.data)[row]});
    }
    for (int64_t d = 0; d < padded; d += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, dim - d));
      Store(LoadChannels(values + row * dim + d, n, value_scale), tile.values + j * padded + d);
    }
  }
  for (int group = 0; group < kTile; group += kLanes) {
    for (int64_t d = 0; d < padded; d += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, dim - d));
      F32 rows[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        const T* const row = key_rows[group + j];
        rows[j] = row == nullptr ? Zero() : LoadChannels(row + d, n, key_scales[group + j]);
      }
      StoreTransposed(rows, tile.keys + d * kTile + group, kTile);
    }
  }
}

// Brings the next tile's pages into the cache while this one is worked on.
inline void PrefetchTile(const AttentionCall& call, int32_t first_key, int32_t last_key) {
  const int64_t row_bytes =
      call.shape.head_dim * static_cast<int64_t>(BytesOf(call.cache->keys.type));
  PageCursor cursor(call, first_key);
  for (int32_t key = first_key; key < last_key; ++key, cursor.Next()) {
    const int64_t at = cursor.Row() * row_bytes;
    for (int64_t byte = 0; byte < row_bytes; byte += 64) {
      Prefetch(static_cast<const char*>(call.cache->keys.data) + at + byte);
      Prefetch(static_cast<const char*>(call.cache->values.data) + at + byte);
    }
  }
}

// scores[r][j] = q_r . k_j for the whole tile.
template <int kRows>
inline void ScoreRows(const float* const* queries, const float* keys, int64_t dim,
                      float* const* scores) {
  F32 sums[kRows][kTileVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVectors; ++v) sums[r][v] = Zero();
  }
  for (int64_t d = 0; d < dim; ++d) {
    F32 k[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) k[v] = Load(keys + d * kTile + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const F32 q = Set(queries[r][d]);
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = Fma(q, k[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVectors; ++v) Store(sums[r][v], scores[r] + v * kLanes);
  }
}

// Scores become weights; the state moves to the new maximum. Keys outside [low, high) are hidden.
inline void SoftmaxRow(float* scores, int low, int high, float* state, int64_t padded) {
  F32 s[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) {
    s[v] = KeepRange(Load(scores + v * kLanes), low - v * kLanes, high - v * kLanes);
  }
  const float tile_max = MaxLane(Max(Max(s[0], s[1]), Max(s[2], s[3])));
  const float old_max = MaxOf(state, padded);
  const float new_max = old_max > tile_max ? old_max : tile_max;
  for (int v = 0; v < kTileVectors; ++v) {
    s[v] = Exp(Sub(s[v], Set(new_max)));
    Store(s[v], scores + v * kLanes);
  }
  const float sum = Sum(Add(Add(s[0], s[1]), Add(s[2], s[3])));
  MaxOf(state, padded) = new_max;
  if (old_max == new_max) {  // the factor would be exp(0), exactly 1
    SumOf(state, padded) = SumOf(state, padded) + sum;
    return;
  }
  const float factor = ExpOne(old_max - new_max);
  SumOf(state, padded) = SumOf(state, padded) * factor + sum;
  for (int64_t d = 0; d < padded; d += kLanes) Store(Mul(Load(state + d), Set(factor)), state + d);
}

// state[r] += sum over keys j in [low, high) of weight[r][j] * v_j, kVectors * 16 channels.
template <int kRows, int kVectors>
inline void AddValues(const float* const* weights, const float* values, int64_t padded, int low,
                      int high, float* const* states, int64_t channel) {
  F32 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Load(states[r] + channel + v * kLanes);
  }
  for (int j = low; j < high; ++j) {
    F32 value[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      value[v] = Load(values + j * padded + channel + v * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const F32 weight = Set(weights[r][j]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Fma(weight, value[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) Store(sums[r][v], states[r] + channel + v * kLanes);
  }
}

template <int kRows>
inline void RowsOverTile(const float* const* queries, float* const* scores, float* const* states,
                         const Tile& tile, int64_t dim, int low, int high) {
  const int64_t padded = PaddedHeadDim(dim);
  ScoreRows<kRows>(queries, tile.keys, dim, scores);
  for (int r = 0; r < kRows; ++r) SoftmaxRow(scores[r], low, high, states[r], padded);
  int64_t d = 0;
  for (; d + 4 * kLanes <= padded; d += 4 * kLanes) {
    AddValues<kRows, 4>(scores, tile.values, padded, low, high, states, d);
  }
  for (; d + 2 * kLanes <= padded; d += 2 * kLanes) {
    AddValues<kRows, 2>(scores, tile.values, padded, low, high, states, d);
  }
  if (d < padded) AddValues<kRows, 1>(scores, tile.values, padded, low, high, states, d);
}

// total and next become total. The first state is taken as it is.
inline void MergeAttention(float* total, const float* next, int64_t head_dim) {
  const int64_t padded = PaddedHeadDim(head_dim);
  if (next[padded + 1] == 0) return;  // saw no key
  if (SumOf(total, padded) == 0) {
    std::memcpy(total, next, static_cast<size_t>(padded + 2) * sizeof(float));
    return;
  }
  const float a = MaxOf(total, padded), b = next[padded];
  const float most = a > b ? a : b;
  const float factor = ExpOne(a - most), next_factor = ExpOne(b - most);
  for (int64_t d = 0; d < padded; d += kLanes) {
    const F32 scaled = Mul(Load(total + d), Set(factor));
    Store(Fma(Load(next + d), Set(next_factor), scaled), total + d);
  }
  SumOf(total, padded) = SumOf(total, padded) * factor + next[padded + 1] * next_factor;
  MaxOf(total, padded) = most;
}

inline void FinishAttention(const float* total, int64_t head_dim, float* out) {
  const int64_t padded = PaddedHeadDim(head_dim);
  const F32 sum = Set(total[padded + 1]);
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, head_dim - d));
    StoreFirst(Div(Load(total + d), sum), out + d, n);
  }
}

// An item's scratch, laid out once; queries are token-major, heads of the group inside.
struct ItemScratch {
  int64_t dim, padded, state_floats;
  int group, queries;
  float *q, *states, *totals, *scores;
  Tile tile;

  ItemScratch(const AttentionCall& call)
      : dim(call.shape.head_dim),
        padded(PaddedHeadDim(dim)),
        state_floats(AttentionPartialFloats(dim)),
        group(call.shape.heads / call.shape.kv_heads),
        queries(call.token_count * group) {
    float* next = call.scratch;
    tile.keys = next, next += padded * kTile;
    tile.values = next, next += padded * kTile;
    q = next, next += queries * padded;
    states = next, next += queries * state_floats;
    totals = call.partial != nullptr ? call.partial : next, next += queries * state_floats;
    scores = next;
  }
};

// Queries times the scale, rounded once.
inline void LoadQueries(const AttentionCall& call, const ItemScratch& item) {
  for (int i = 0; i < item.queries; ++i) {
    const int64_t head = call.kv_head * item.group + i % item.group;
    const float* const source =
        call.qkv + (call.first_token + i / item.group) * call.qkv_stride + head * item.dim;
    for (int64_t d = 0; d < item.dim; d += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, item.dim - d));
      StoreFirst(Mul(LoadFirst(source + d, n), Set(call.shape.scale)), item.q + i * item.padded + d,
                 n);
    }
    ResetState(item.totals + i * item.state_floats, item.padded);
  }
}

TUPPENCE_INLINE int32_t FirstKey(const AttentionCall& call, int32_t position) {
  const int32_t window = call.shape.sliding_window;
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Rows that see the whole tile go in register blocks; the others, at the diagonal or the window's
// start, one by one with their own visible keys.
inline void ItemOverTile(const AttentionCall& call, const ItemScratch& item) {
  const float* queries[kAttentionRows];
  float *scores[kAttentionRows], *states[kAttentionRows];
  int filled = 0;
  for (int i = 0; i < item.queries; ++i) {
    const int32_t position = call.positions[call.first_token + i / item.group];
    const int low = std::max(0, FirstKey(call, position) - item.tile.first_key);
    const int high = std::min(kTile, position + 1 - item.tile.first_key);
    if (low >= high) continue;
    const float* const q = item.q + i * item.padded;
    float* const score = item.scores + i * kTile;
    float* const state = item.states + i * item.state_floats;
    if (low > 0 || high < kTile) {
      RowsOverTile<1>(&q, &score, &state, item.tile, item.dim, low, high);
      continue;
    }
    queries[filled] = q, scores[filled] = score, states[filled] = state;
    if (++filled == kAttentionRows) {
      RowsOverTile<kAttentionRows>(queries, scores, states, item.tile, item.dim, 0, kTile);
      filled = 0;
    }
  }
  for (int i = 0; i < filled; ++i) {
    RowsOverTile<1>(queries + i, scores + i, states + i, item.tile, item.dim, 0, kTile);
  }
}

inline void LoadTileOfType(const AttentionCall& call, const Tile& tile) {
  switch (call.cache->keys.type) {
    case DType::kF32:
      return LoadTile<float>(call, tile);
    case DType::kI8:
      return LoadTile<int8_t>(call, tile);
    default:
      return LoadTile<uint16_t>(call, tile);
  }
}

inline void AttentionItem(const AttentionCall& call) {
  ItemScratch item(call);
  LoadQueries(call, item);
  int32_t first_key = std::numeric_limits<int32_t>::max(), last_key = 0;
  for (int32_t t = call.first_token; t < call.first_token + call.token_count; ++t) {
    first_key = std::min(first_key, FirstKey(call, call.positions[t]));
    last_key = std::max(last_key, call.positions[t] + 1);
  }
  for (int32_t split = call.first_split; split < call.last_split; ++split) {
    const int32_t low = std::max(first_key, split * kAttentionSplitKeys);
    const int32_t high = std::min(last_key, (split + 1) * kAttentionSplitKeys);
    for (int i = 0; i < item.queries; ++i) {
      ResetState(item.states + i * item.state_floats, item.padded);
    }
    for (int32_t tile = low / kTile * kTile; tile < high; tile += kTile) {
      item.tile.first_key = tile;
      item.tile.low = std::max(low - tile, 0);
      item.tile.high = std::min(high - tile, kTile);
      PrefetchTile(call, std::min(tile + kTile, high), std::min(tile + 2 * kTile, high));
      LoadTileOfType(call, item.tile);
      ItemOverTile(call, item);
    }
    for (int i = 0; i < item.queries; ++i) {
      MergeAttention(item.totals + i * item.state_floats, item.states + i * item.state_floats,
                     item.dim);
    }
  }
  if (call.partial != nullptr) return;
  for (int i = 0; i < item.queries; ++i) {
    const int64_t head = call.kv_head * item.group + i % item.group;
    const int64_t token = call.first_token + i / item.group;
    FinishAttention(item.totals + i * item.state_floats, item.dim,
                    call.out + (token * call.shape.heads + head) * item.dim);
  }
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
