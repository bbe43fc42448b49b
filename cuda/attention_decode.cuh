// Paged attention of single tokens: one head, or the up to 8 heads that share a KV head, over the
// keys of splits of 256 that start at absolute multiples of 256.
//
// Formula   out = sum over keys j of 2^(s_j - m) v_j / sum over j of 2^(s_j - m),
//           s_j = scale log2(e) q . k_j, m the largest; per split, then splits in order of index.
// Mapping   a head of its own, on CUDA cores: 4 lanes for each key, 8 keys for each step of a warp;
//           then a thread for 8 channels of every n-th key. Heads of a group are the rows of tile
//           multiplications: K goes from the pages to fragments as it lies, V is turned in
//           registers, so neither passes through shared memory. Each part of a sum is one warp's or
//           thread's, and they are added up in order. The splits of a query are one block's, one
//           after the other, or a block's each, where a batch is too small to fill the device
//           evenly; a second kernel then merges them. Bits are the same.
// Types     q, weights and 16-bit K and V multiply as they are; codes of int8 pages are widened in
//           registers, exactly: K's scale goes to the score, V's to the weight.
// Traffic   K and V once for each group of heads; bound by memory.
// Legend    lane = 4 g + q as in tile.cuh.
#pragma once

#include "cuda/attention.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kSplitKeys = 256;
constexpr int kDecodeThreads = 128;
constexpr int kDecodeWarps = kDecodeThreads / kWarpLanes;
constexpr int kGroupHeads = 8;  // of a block, where heads share a KV head

// A split's result or the merged ones': weights' sum and largest score, then sums of values.
template <int kDim>
struct SplitState {
  float largest;
  float sum;
  float values[kDim];
};

// Rows are padded so that the lanes of a fragment meet in no bank.
template <int kDim, int kHeads>
struct DecodeShared {
  static constexpr int kParts = kHeads > 1 ? kDecodeWarps : kDecodeThreads / (kDim / 8);
  int rows[kSplitKeys];  // of the pages; -1: a key that the query does not see
  float weights[kHeads][kSplitKeys + 8];
  float largest[kHeads];
  float sums[kHeads];
  float values[kParts][kHeads][kDim + 8];
};

// How many times the loads that 16-bit pages have on their way: codes are half as many bytes.
template <typename Kv>
constexpr int kLoadsFor = kIsCoded<Kv> ? 2 : 1;

// What a block works on.
struct DecodeWork {
  int entry;
  int token;
  int kv_head;
  int first_head;
  int head_count;
  int first_key;  // that the query sees
  int last_key;   // one beyond
};

__device__ inline const float* QueryOf(const AttentionArgs& args, const DecodeWork& work, int head,
                                       int dim) {
  return args.qkv + static_cast<int64_t>(work.token) * args.qkv_stride +
         (work.first_head + head) * dim;
}

template <typename Kv>
__device__ inline const Kv* ChannelsOf(const void* pages, int row, int dim, int channel) {
  return static_cast<const Kv*>(pages) + static_cast<int64_t>(row) * dim + channel;
}

__device__ inline void FindRows(const AttentionArgs& args, const DecodeWork& work, int split,
                                int (&rows)[kSplitKeys]) {
  TUPPENCE_UNROLL
  for (int i = Thread(); i < kSplitKeys; i += kDecodeThreads) {
    const int key = split * kSplitKeys + i;
    const bool visible = key >= work.first_key && key < work.last_key;
    rows[i] = visible ? PageRow(args, work.entry, work.kv_head, key) : -1;
  }
}

// One head's scores, on CUDA cores.
template <typename Kv, int kDim, int kHeads>
__device__ inline void ScoreHead(const AttentionArgs& args, const DecodeWork& work,
                                 DecodeShared<kDim, kHeads>& shared) {
  constexpr int kSteps = kDim / 32;
  const int g = Lane() / 4, q = Lane() % 4;
  const float* const head = QueryOf(args, work, 0, kDim);
  float query[kSteps][8];
  TUPPENCE_UNROLL
  for (int i = 0; i < kSteps * 8; ++i) query[i / 8][i % 8] = head[i / 8 * 32 + q * 8 + i % 8];
  TUPPENCE_UNROLL_BY((2 * kLoadsFor<Kv>))
  for (int first = Warp() * 8; first < kSplitKeys; first += kDecodeWarps * 8) {
    const int row = shared.rows[first + g];
    Piece<Kv> pieces[kSteps];
    TUPPENCE_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      pieces[step] = LoadPiece(ChannelsOf<Kv>(args.keys, row, kDim, step * 32 + q * 8), row >= 0);
    }
    float dot = 0;
    TUPPENCE_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      float channels[8];
      WidenPiece<Kv>(pieces[step], channels);
      TUPPENCE_UNROLL
      for (int i = 0; i < 8; ++i) dot = Fma(query[step][i], channels[i], dot);
    }
    dot += ShuffleXor(dot, 1);
    dot += ShuffleXor(dot, 2);
    const float scale = args.scale_log2 * ScaleOf<Kv>(args.key_scales, row);
    if (q == 0) shared.weights[0][first + g] = row >= 0 ? dot * scale : -HUGE_VALF;
  }
}

// A group's scores: its queries are rows 0 to 7 of the tile, the other rows are zeros.
template <typename Half, typename Kv, int kDim, int kHeads>
__device__ inline void ScoreGroup(const AttentionArgs& args, const uint32_t (&a)[kDim / 32][8],
                                  DecodeShared<kDim, kHeads>& shared) {
  const int g = Lane() / 4, q = Lane() % 4;
  TUPPENCE_UNROLL_BY(2)
  for (int first = Warp() * 8; first < kSplitKeys; first += kDecodeWarps * 8) {
    const int row = shared.rows[first + g];
    float dots[4] = {};
    TUPPENCE_UNROLL
    for (int step = 0; step < kDim / 32; ++step) {
      const uint4 words = HalvesOf<Half, Kv>(
          LoadPiece(ChannelsOf<Kv>(args.keys, row, kDim, step * 32 + q * 8), row >= 0));
      const uint32_t b[4] = {words.x, words.y, words.z, words.w};
      Multiply32<Half>(dots, a[step], b);
    }
    TUPPENCE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int key = first + 2 * q + i, key_row = shared.rows[key];
      const float scale = args.scale_log2 * ScaleOf<Kv>(args.key_scales, key_row);
      shared.weights[g][key] = key_row >= 0 ? dots[i] * scale : -HUGE_VALF;
    }
  }
}

// Scores become weights in place. At least one key is visible; a NaN stays out of the maximum, and
// comes back as its weight.
template <int kDim, int kHeads>
__device__ inline void WeighKeys(int head_count, DecodeShared<kDim, kHeads>& shared) {
  for (int h = Warp(); h < head_count; h += kDecodeWarps) {
    float largest = -HUGE_VALF, sum = 0;
    for (int i = Lane(); i < kSplitKeys; i += kWarpLanes) {
      const float score = shared.weights[h][i];
      if (score > largest) largest = score;
    }
    for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      const float other = ShuffleXor(largest, mask);
      if (other > largest) largest = other;
    }
    for (int i = Lane(); i < kSplitKeys; i += kWarpLanes) {
      const float weight = Exp2(shared.weights[h][i] - largest);
      shared.weights[h][i] = weight;
      sum += weight;
    }
    sum = WarpSum(sum);
    if (Lane() == 0) {
      shared.largest[h] = largest;
      shared.sums[h] = sum;
    }
  }
}

// One head's values, on CUDA cores: a thread for 8 channels of every kParts-th key.
template <typename Kv, int kDim, int kHeads>
__device__ inline void AddHead(const AttentionArgs& args, DecodeShared<kDim, kHeads>& shared) {
  constexpr int kPieces = kDim / 8, kParts = DecodeShared<kDim, kHeads>::kParts;
  const int channel = Thread() % kPieces * 8, part = Thread() / kPieces;
  if (part >= kParts) return;
  float sums[8] = {};
  TUPPENCE_UNROLL_BY((4 * kLoadsFor<Kv>))
  for (int i = part; i < kSplitKeys; i += kParts) {
    const int row = shared.rows[i];
    float channels[8];
    WidenPiece<Kv>(LoadPiece(ChannelsOf<Kv>(args.values, row, kDim, channel), row >= 0), channels);
    const float weight = shared.weights[0][i] * ScaleOf<Kv>(args.value_scales, row);
    TUPPENCE_UNROLL
    for (int c = 0; c < 8; ++c) sums[c] = Fma(weight, channels[c], sums[c]);
  }
  TUPPENCE_UNROLL
  for (int c = 0; c < 8; ++c) shared.values[part][0][channel + c] = sums[c];
}

// Weights of 32 keys from `first` on, of head g, as both fragments of a.
template <typename Half, typename Kv, int kDim, int kHeads>
__device__ inline void LoadWeightRows(const AttentionArgs& args, int head_count, int first,
                                      const DecodeShared<kDim, kHeads>& shared, uint32_t (&a)[8]) {
  const int g = Lane() / 4, q = Lane() % 4;
  constexpr float kRaise = 1 << static_cast<int>(kWeightBits);
  TUPPENCE_UNROLL
  for (int n = 0; n < 4; ++n) {
    const int key = first + n * 8 + 2 * q;
    const float upper = ScaleOf<Kv>(args.value_scales, shared.rows[key]) * kRaise;
    const float lower = ScaleOf<Kv>(args.value_scales, shared.rows[key + 1]) * kRaise;
    const float* const weights = &shared.weights[g][key];
    a[2 * n] = g < head_count ? NarrowPair<Half>(weights[0] * upper, weights[1] * lower) : 0;
    a[2 * n + 1] = 0;
  }
}

// A group's values: each warp has 64 keys. Lane 4 g + q reads 8 channels of key g; word i of them
// is, over the warp, a tile of 8 keys whose columns 2 q + j are channels 8 q + 2 i + j: turned, it
// is a fragment of b, and the sums keep that order of channels.
template <typename Half, typename Kv, int kDim, int kHeads>
__device__ inline void AddGroup(const AttentionArgs& args, int head_count,
                                DecodeShared<kDim, kHeads>& shared) {
  constexpr int kWarpKeys = kSplitKeys / kDecodeWarps;
  const int g = Lane() / 4, q = Lane() % 4;
  float sums[kDim / 8][4] = {};
  TUPPENCE_UNROLL_BY(1)
  for (int of_warp = 0; of_warp < kWarpKeys; of_warp += 32) {
    const int first = Warp() * kWarpKeys + of_warp;
    uint32_t a[8];
    LoadWeightRows<Half, Kv>(args, head_count, first, shared, a);
    TUPPENCE_UNROLL
    for (int step = 0; step < kDim / 32; ++step) {
      uint32_t b[4][4];
      TUPPENCE_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int row = shared.rows[first + n * 8 + g];
        const uint4 words = HalvesOf<Half, Kv>(
            LoadPiece(ChannelsOf<Kv>(args.values, row, kDim, step * 32 + q * 8), row >= 0));
        b[0][n] = TurnTile(words.x), b[1][n] = TurnTile(words.y);
        b[2][n] = TurnTile(words.z), b[3][n] = TurnTile(words.w);
      }
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) Multiply32<Half>(sums[step * 4 + i], a, b[i]);
    }
  }
  constexpr float kLower = 1.0f / (1 << static_cast<int>(kWeightBits));
  TUPPENCE_UNROLL
  for (int i = 0; i < kDim / 8; ++i) {
    float* const out = &shared.values[Warp()][g][i / 4 * 32 + q * 8 + i % 4 * 2];
    out[0] = sums[i][0] * kLower;
    out[1] = sums[i][1] * kLower;
  }
}

// One channel of a state while splits are merged; every thread keeps its channel's own copy.
struct ChannelState {
  float largest = -HUGE_VALF;
  float sum = 0;
  float value = 0;

  __device__ void Merge(float other_largest, float other_sum, float other_value) {
    const float most = other_largest > largest ? other_largest : largest;
    const float factor = Exp2(largest - most), other_factor = Exp2(other_largest - most);
    sum = Fma(sum, factor, other_sum * other_factor);
    value = Fma(value, factor, other_value * other_factor);
    largest = most;
  }
};

template <typename Half>
__device__ inline void StoreChannel(const AttentionArgs& args, int token, int head, int dim,
                                    int channel, const ChannelState& state) {
  args.out[(static_cast<int64_t>(token) * args.heads + head) * dim + channel] =
      Narrow<Half>(state.value / state.sum).bits;
}

template <int kHeads>
__device__ inline DecodeWork WorkOf(const AttentionArgs& args, const DecodeRow& row, int group) {
  const int of_kv = args.heads / args.kv_heads, per_kv = CeilDiv(of_kv, kHeads);
  DecodeWork work;
  work.entry = row.entry;
  work.token = row.token;
  work.kv_head = group / per_kv;
  work.first_head = work.kv_head * of_kv + group % per_kv * kHeads;
  const int left = (work.kv_head + 1) * of_kv - work.first_head;
  work.head_count = left < kHeads ? left : kHeads;
  work.last_key = args.positions[work.token] + 1;
  work.first_key = FirstKey(args, work.last_key - 1);
  return work;
}

// Weights and sums of values of one split, in shared memory.
template <typename Half, typename Kv, int kDim, int kHeads>
__device__ inline void AttendSplit(const AttentionArgs& args, const DecodeWork& work,
                                   const uint32_t (&a)[kDim / 32][8], int split,
                                   DecodeShared<kDim, kHeads>& shared) {
  FindRows(args, work, split, shared.rows);
  Barrier();
  if constexpr (kHeads == 1) {
    ScoreHead<Kv>(args, work, shared);
  } else {
    ScoreGroup<Half, Kv>(args, a, shared);
  }
  Barrier();
  WeighKeys(work.head_count, shared);
  Barrier();
  if constexpr (kHeads == 1) {
    AddHead<Kv>(args, shared);
  } else {
    AddGroup<Half, Kv>(args, work.head_count, shared);
  }
  Barrier();
}

// Blocks of a multiprocessor at least. What hides memory's latency is loads on their way, of as
// many blocks as have room; a group's tiles have none to give.
template <int kHeads>
constexpr int kDecodeBlocks = kHeads == 1 ? 5 : 1;

// splits 0: the block runs through all of them. Otherwise BlockZ() is its split, and the state goes
// to partials[row][head][split].
template <typename Half, typename Kv, int kDim, int kHeads>
__global__ void __launch_bounds__(kDecodeThreads, kDecodeBlocks<kHeads>)
    DecodeKernel(AttentionArgs args, const DecodeRow* rows, int splits,
                 SplitState<kDim>* partials) {
  auto& shared = Shared<DecodeShared<kDim, kHeads>>();
  const DecodeWork work = WorkOf<kHeads>(args, rows[BlockX()], BlockY());
  int first = work.first_key / kSplitKeys, last = (work.last_key - 1) / kSplitKeys + 1;
  if (splits > 0) {
    if (BlockZ() < first || BlockZ() >= last) return;
    first = BlockZ(), last = first + 1;
  }
  uint32_t a[kDim / 32][8];
  if constexpr (kHeads > 1) {
    const int g = Lane() / 4;
    LoadQueries<Half, kDim>(g < work.head_count ? QueryOf(args, work, g, kDim) : nullptr, nullptr,
                            a);
  }
  ChannelState states[kHeads];
  for (int split = first; split < last; ++split) {
    AttendSplit<Half, Kv>(args, work, a, split, shared);
    if (Thread() >= kDim) continue;
    TUPPENCE_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      if (h >= work.head_count) continue;
      float value = 0;
      for (const auto& part : shared.values) value += part[h][Thread()];
      if (splits == 0) {
        states[h].Merge(shared.largest[h], shared.sums[h], value);
        continue;
      }
      SplitState<kDim>& state =
          partials[(static_cast<int64_t>(BlockX()) * args.heads + work.first_head + h) * splits +
                   split];
      state.values[Thread()] = value;
      if (Thread() == 0) state.largest = shared.largest[h], state.sum = shared.sums[h];
    }
  }
  if (splits > 0 || Thread() >= kDim) return;
  TUPPENCE_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (h < work.head_count) {
      StoreChannel<Half>(args, work.token, work.first_head + h, kDim, Thread(), states[h]);
    }
  }
}

// Merges the splits of one row and head, in order: a thread for each channel.
template <typename Half, int kDim>
__global__ void __launch_bounds__(kDim)
    CombineKernel(AttentionArgs args, const DecodeRow* rows, int splits,
                  const SplitState<kDim>* partials) {
  const int token = rows[BlockX()].token, head = BlockY(), position = args.positions[token];
  const SplitState<kDim>* const row =
      partials + (static_cast<int64_t>(BlockX()) * args.heads + head) * splits;
  ChannelState state;
  for (int i = FirstKey(args, position) / kSplitKeys; i <= position / kSplitKeys; ++i) {
    state.Merge(row[i].largest, row[i].sum, row[i].values[Thread()]);
  }
  StoreChannel<Half>(args, token, head, kDim, Thread(), state);
}

}  // namespace tuppence::TUPPENCE_DEVICE
