// Paged attention of single tokens: one query of up to 4 heads that share a KV head, over the keys
// of splits of 256 that start at absolute multiples of 256.
//
// Formula   out = sum over keys j of 2^(s_j - m) v_j / sum over j of 2^(s_j - m),
//           s_j = scale log2(e) q . k_j, m the largest; per split, then splits in order of index.
// Mapping   scores: 4 lanes for each key, 8 keys for each step of a warp; weights: a warp for each
//           head; values: a thread for 8 channels of every n-th key, added up in order. The splits
//           of a query are one block's, one after the other, or a block's each, where a batch is
//           too small to fill the device; a second kernel then merges them. Bits are the same.
// Why       CUDA cores, for grouped heads too: 4 heads cost 4 FMAs and one conversion for 2 bytes,
//           less than every one of our devices can do while it reads them.
// Traffic   K and V once for each group of heads; bound by memory.
#pragma once

#include "cuda/attention.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kSplitKeys = 256;
constexpr int kDecodeThreads = 128;
constexpr int kDecodeWarps = kDecodeThreads / kWarpLanes;

template <int kDim, int kHeads>
struct DecodeShape {
  static constexpr int kPieces = kDim / 8;
  static constexpr int kKeyGroups = kDecodeThreads / kPieces;  // keys at once, in the value pass
};

// A split's result or the merged ones': weights' sum and largest score, then sums of values.
template <int kDim>
struct SplitState {
  float largest;
  float sum;
  float values[kDim];
};

template <int kDim, int kHeads>
struct DecodeShared {
  float weights[kHeads][kSplitKeys];
  float largest[kHeads];
  float sums[kHeads];
  float values[DecodeShape<kDim, kHeads>::kKeyGroups][kHeads][kDim];
};

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

template <int kDim, int kHeads, typename Kv>
__device__ inline void ScoreKeys(const AttentionArgs& args, const DecodeWork& work, int split,
                                 DecodeShared<kDim, kHeads>& shared) {
  constexpr int kSteps = kDim / 32;
  const int g = Lane() / 4, q = Lane() % 4;
  float query[kHeads][kSteps][8];
  TUPPENCE_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    const int head = work.first_head + (h < work.head_count ? h : 0);
    const float* const row =
        args.qkv + static_cast<int64_t>(work.token) * args.qkv_stride + head * kDim;
    TUPPENCE_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 8; ++i) query[h][step][i] = row[step * 32 + q * 8 + i];
    }
  }
  for (int first = Warp() * 8; first < kSplitKeys; first += kDecodeWarps * 8) {
    const int key = split * kSplitKeys + first + g;
    const bool visible = key >= work.first_key && key < work.last_key;
    float dots[kHeads] = {};
    float scale = args.scale_log2;
    if (visible) {
      const int64_t row = PageRow(args, work.entry, work.kv_head, key);
      const Kv* const page = static_cast<const Kv*>(args.keys) + row * kDim;
      if constexpr (kIsCoded<Kv>) scale *= Widen(F16{args.key_scales[row]});
      TUPPENCE_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        float channels[8];
        LoadPiece(page + step * 32 + q * 8, channels);
        TUPPENCE_UNROLL
        for (int h = 0; h < kHeads; ++h) {
          TUPPENCE_UNROLL
          for (int i = 0; i < 8; ++i) dots[h] = Fma(query[h][step][i], channels[i], dots[h]);
        }
      }
    }
    TUPPENCE_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      float dot = dots[h];
      dot += ShuffleXor(dot, 1);
      dot += ShuffleXor(dot, 2);
      if (q == 0) shared.weights[h][first + g] = visible ? dot * scale : -HUGE_VALF;
    }
  }
}

// Scores become weights in place. At least one key is visible; a NaN stays out of the maximum, and
// comes back as its weight.
template <int kDim, int kHeads>
__device__ inline void WeighKeys(DecodeShared<kDim, kHeads>& shared) {
  for (int h = Warp(); h < kHeads; h += kDecodeWarps) {
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

template <int kDim, int kHeads, typename Kv>
__device__ inline void AddValues(const AttentionArgs& args, const DecodeWork& work, int split,
                                 DecodeShared<kDim, kHeads>& shared) {
  using Shape = DecodeShape<kDim, kHeads>;
  const int piece = Thread() % Shape::kPieces, of_group = Thread() / Shape::kPieces;
  if (of_group >= Shape::kKeyGroups) return;
  float sums[kHeads][8] = {};
  for (int i = of_group; i < kSplitKeys; i += Shape::kKeyGroups) {
    const int key = split * kSplitKeys + i;
    if (key < work.first_key || key >= work.last_key) continue;
    const int64_t row = PageRow(args, work.entry, work.kv_head, key);
    float channels[8];
    LoadPiece(static_cast<const Kv*>(args.values) + row * kDim + piece * 8, channels);
    float scale = 1;
    if constexpr (kIsCoded<Kv>) scale = Widen(F16{args.value_scales[row]});
    TUPPENCE_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const float weight = shared.weights[h][i] * scale;
      TUPPENCE_UNROLL
      for (int c = 0; c < 8; ++c) sums[h][c] = Fma(weight, channels[c], sums[h][c]);
    }
  }
  TUPPENCE_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    TUPPENCE_UNROLL
    for (int c = 0; c < 8; ++c) shared.values[of_group][h][piece * 8 + c] = sums[h][c];
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

// splits 0: the block runs through all of them. Otherwise BlockZ() is its split, and the state goes
// to partials[row][head][split].
template <typename Half, typename Kv, int kDim, int kHeads>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    DecodeKernel(AttentionArgs args, const DecodeRow* rows, int splits,
                 SplitState<kDim>* partials) {
  auto& shared = Shared<DecodeShared<kDim, kHeads>>();
  const int group = args.heads / args.kv_heads, per_kv = CeilDiv(group, kHeads);
  DecodeWork work;
  work.entry = rows[BlockX()].entry;
  work.token = rows[BlockX()].token;
  work.kv_head = BlockY() / per_kv;
  work.first_head = work.kv_head * group + BlockY() % per_kv * kHeads;
  const int left = (work.kv_head + 1) * group - work.first_head;
  work.head_count = left < kHeads ? left : kHeads;
  work.last_key = args.positions[work.token] + 1;
  work.first_key = FirstKey(args, work.last_key - 1);
  int first = work.first_key / kSplitKeys, last = (work.last_key - 1) / kSplitKeys + 1;
  if (splits > 0) {
    if (BlockZ() < first || BlockZ() >= last) return;
    first = BlockZ(), last = first + 1;
  }
  ChannelState states[kHeads];
  for (int split = first; split < last; ++split) {
    ScoreKeys<kDim, kHeads, Kv>(args, work, split, shared);
    Barrier();
    WeighKeys(shared);
    Barrier();
    AddValues<kDim, kHeads, Kv>(args, work, split, shared);
    Barrier();
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
