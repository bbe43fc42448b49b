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
//           (lanes are channels), once for all queries of the item; one or two queries (decode
//           without GQA) read the pages directly, and ask for the next tile's meanwhile: an eighth
//           less time for 8 sequences of 1,024 keys in bf16 on a Zen 3.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/attention_pages.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "model/check.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

constexpr int kTileVectors = kTile / kLanes;

// A query's state is its sums [padded head_dim], then the maximum, then the sum of weights.
TUPPENCE_INLINE float& MaxOf(float* state, int64_t dim) { return state[dim]; }
TUPPENCE_INLINE float& SumOf(float* state, int64_t dim) { return state[dim + 1]; }

TUPPENCE_INLINE float ExpOne(float x) { return MaxLane(Exp(Set(x))); }

inline void ResetState(float* state, int64_t dim) {
  std::memset(state, 0, static_cast<size_t>(dim + 2) * sizeof(float));
  MaxOf(state, dim) = -std::numeric_limits<float>::infinity();
}

struct Tile {
  float* keys;        // [padded head_dim][64]
  float* values;      // [64][padded head_dim]
  int32_t first_key;  // absolute, a multiple of 64
  int32_t low, high;  // in the pages, relative
  int32_t next_key;   // end of the next tile, absolute; none: at most first_key + 64
};

template <typename T>
inline void LoadTile(const TileRows<T>& rows, const Tile& tile, int64_t dim) {
  const int64_t padded = PaddedHeadDim(dim);
  for (int64_t d = 0; d < padded; d += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, dim - d));
    for (int j = tile.low; j < tile.high; ++j) {
      float scale = 0;
      if constexpr (sizeof(T) == 1) scale = rows.value_scales[j];
      Store(LoadChannels(rows.values[j] + d, n, scale), tile.values + j * padded + d);
    }
    for (int group = 0; group < kTile; group += kLanes) {
      F32 turned[kLanes];
      const bool all = group >= tile.low && group + kLanes <= tile.high;
      LoadKeysTurned(rows, group, d, n, all, turned);
      for (int i = 0; i < kLanes; ++i) Store(turned[i], tile.keys + (d + i) * kTile + group);
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

// One query straight from the pages: for a few queries turning a tile into scratch and reading it
// back costs more than it saves. Same chains, so same bits.
template <typename T>
inline void ScoreFromPages(const TileRows<T>& rows, const float* query, int64_t dim, int low,
                           int high, PagesAhead& ahead, float* scores) {
  for (int group = low / kLanes * kLanes; group < high; group += kLanes) {
    F32 sum = Zero();
    const bool all = group >= low && group + kLanes <= high;
    for (int64_t d = 0; d < dim; d += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, dim - d));
      F32 turned[kLanes];
      LoadKeysTurned(rows, group, d, n, all, turned);
      ahead.Ask(4 * sizeof(T));
      if (n == kLanes) {
        for (int i = 0; i < kLanes; ++i) sum = Fma(Set(query[d + i]), turned[i], sum);
      } else {
        for (int i = 0; i < n; ++i) sum = Fma(Set(query[d + i]), turned[i], sum);
      }
    }
    Store(sum, scores + group);
  }
}

// kCount channels of each vector: 16, or 8 at the end of an odd head.
template <typename T, int kVectors, int kCount>
inline void AddValuesFromPages(const float* weights, const TileRows<T>& rows, int low, int high,
                               PagesAhead& ahead, float* state, int64_t channel) {
  F32 sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = Load(state + channel + v * kLanes);
  for (int j = low; j < high; ++j) {
    const F32 weight = Set(weights[j]);
    float scale = 0;
    if constexpr (sizeof(T) == 1) scale = rows.value_scales[j];
    ahead.Ask(2 * sizeof(T));
    for (int v = 0; v < kVectors; ++v) {
      const F32 value = LoadChannels(rows.values[j] + channel + v * kLanes, kCount, scale);
      sums[v] = Fma(weight, value, sums[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) Store(sums[v], state + channel + v * kLanes);
}

template <typename T>
inline void QueryFromPages(const TileRows<T>& rows, const float* query, int64_t dim, int low,
                           int high, PagesAhead& ahead, float* scores, float* state) {
  const int64_t padded = PaddedHeadDim(dim);
  ScoreFromPages(rows, query, dim, low, high, ahead, scores);
  SoftmaxRow(scores, low, high, state, padded);
  int64_t d = 0;
  for (; d + 6 * kLanes <= dim; d += 6 * kLanes) {  // 96 channels at once, where there are
    AddValuesFromPages<T, 6, kLanes>(scores, rows, low, high, ahead, state, d);
  }
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
    AddValuesFromPages<T, 4, kLanes>(scores, rows, low, high, ahead, state, d);
  }
  for (; d + kLanes <= dim; d += kLanes) {
    AddValuesFromPages<T, 1, kLanes>(scores, rows, low, high, ahead, state, d);
  }
  if (d < dim) AddValuesFromPages<T, 1, 8>(scores, rows, low, high, ahead, state, d);
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
  int group;  // heads of one KV head
  int heads;  // of one token in this item
  int queries;
  float *q, *states, *totals, *scores;
  Tile tile;

  ItemScratch(const AttentionCall& call)
      : dim(call.shape.head_dim),
        padded(PaddedHeadDim(dim)),
        state_floats(AttentionPartialFloats(dim)),
        group(call.shape.heads / call.shape.kv_heads),
        heads(call.kv_heads * group),
        queries(call.token_count * heads) {
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
    const int64_t head = call.kv_head * item.group + i % item.heads;
    const float* const source =
        call.qkv + (call.first_token + i / item.heads) * call.qkv_stride + head * item.dim;
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

struct Visible {
  int low, high;  // keys of a tile that a query sees
};

TUPPENCE_INLINE Visible VisibleKeys(const AttentionCall& call, const ItemScratch& item, int query) {
  const int32_t position = call.positions[call.first_token + query / item.heads];
  return {std::max(0, FirstKey(call, position) - item.tile.first_key),
          std::min(kTile, position + 1 - item.tile.first_key)};
}

// Rows that see the whole tile go in register blocks; the others, at the diagonal or the window's
// start, one by one with their own visible keys.
inline void ItemOverTile(const AttentionCall& call, const ItemScratch& item) {
  const float* queries[kAttentionRows];
  float *scores[kAttentionRows], *states[kAttentionRows];
  int filled = 0;
  for (int i = 0; i < item.queries; ++i) {
    const Visible keys = VisibleKeys(call, item, i);
    if (keys.low >= keys.high) continue;
    const float* const q = item.q + i * item.padded;
    float* const score = item.scores + i * kTile;
    float* const state = item.states + i * item.state_floats;
    if (keys.low > 0 || keys.high < kTile) {
      RowsOverTile<1>(&q, &score, &state, item.tile, item.dim, keys.low, keys.high);
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

// All queries of the item, whose keys are turned once for them.
template <typename T>
inline void QueriesTogether(const AttentionCall& call, const ItemScratch& item) {
  TileRows<T> rows;
  FindRows(call, call.kv_head, item.tile.first_key, item.tile.low, item.tile.high, rows);
  LoadTile(rows, item.tile, item.dim);
  ItemOverTile(call, item);
}

// Each query by itself, KV head by KV head.
template <typename T>
inline void QueriesFromPages(const AttentionCall& call, const ItemScratch& item) {
  const int of_head = call.token_count * item.group;
  for (int head = 0; head < call.kv_heads; ++head) {
    TileRows<T> rows;
    FindRows(call, call.kv_head + head, item.tile.first_key, item.tile.low, item.tile.high, rows);
    PagesAhead ahead;
    ahead.Find<T>(call, call.kv_head + head, item.tile.first_key + kTile, item.tile.next_key);
    for (int i = head * of_head; i < (head + 1) * of_head; ++i) {
      const Visible keys = VisibleKeys(call, item, i);
      if (keys.low >= keys.high) continue;
      QueryFromPages(rows, item.q + i * item.padded, item.dim, keys.low, keys.high, ahead,
                     item.scores + i * kTile, item.states + i * item.state_floats);
    }
  }
}

template <typename T>
inline void TileOfType(const AttentionCall& call, const ItemScratch& item) {
  call.token_count* item.group > kAttentionFewQueries ? QueriesTogether<T>(call, item)
                                                      : QueriesFromPages<T>(call, item);
}

inline void WorkOnTile(const AttentionCall& call, const ItemScratch& item) {
  switch (call.cache->keys.type) {
    case DType::kF32:
      return TileOfType<float>(call, item);
    case DType::kI8:
      return TileOfType<int8_t>(call, item);
    default:
      return TileOfType<uint16_t>(call, item);
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
      item.tile.next_key = std::min(high, tile + 2 * kTile);
      WorkOnTile(call, item);
    }
    for (int i = 0; i < item.queries; ++i) {
      MergeAttention(item.totals + i * item.state_floats, item.states + i * item.state_floats,
                     item.dim);
    }
  }
  if (call.partial != nullptr) return;
  for (int i = 0; i < item.queries; ++i) {
    const int64_t head = call.kv_head * item.group + i % item.heads;
    const int64_t token = call.first_token + i / item.heads;
    FinishAttention(item.totals + i * item.state_floats, item.dim,
                    call.out + (token * call.shape.heads + head) * item.dim);
  }
}

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
