// Paged attention of prompts: the queries of one head at 64 consecutive positions over tiles of 64
// keys, both at absolute multiples of 64, with tile multiplications.
//
// Formula   out = sum over keys j of 2^(s_j - m) v_j / sum over j of 2^(s_j - m),
//           s_j = scale log2(e) q . k_j; tile by tile, m moving with the largest score so far.
// Mapping   4 warps of 16 queries. q stays in registers; K and V of a tile come through shared
//           memory, each while the other is worked on: by asynchronous copies, or, where there are
//           none (sm_75, and codes, which are widened on the way), through registers. A row of a
//           tile multiplication is its own, so a query's bits depend on its position and its
//           pages, not on its chunk.
// Types     q, weights and 16-bit K and V multiply as they are; codes of int8 pages multiply
//           exactly: K's scale goes to the score, V's to the weight.
// Traffic   K and V once for each 64 queries of a head; bound by the tensor cores.
// Masked    A key past a query's own has weight 0 in its tile, and 0 * NaN is NaN: a NaN reaches
//           earlier queries of its sequence in the same 64 positions. Slots past the last query's
//           position load as zeros.
// Legend    lane = 4 g + q as in tile.cuh; rows g and g + 8 of the warp's 16 are the lane's.
// Source: Dao 2023, arXiv:2307.08691.
#pragma once

#include "cuda/attention.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kKeyTile = 64;
constexpr int kPrefillThreads = 128;
// Rows of shared memory in pieces of 16 bytes, padded so that no two lanes of a read meet in a
// bank: K is read by 4 lanes a row, V by 8 rows at a time.
template <int kDim>
struct PrefillShared {
  static constexpr int kPieces = kDim / 8;
  static constexpr int kKeyPieces = kPieces % 8 == 0 ? kPieces + 4 : kPieces;
  static constexpr int kValuePieces = kPieces + 1;
  uint4 keys[kKeyTile][kKeyPieces];
  uint4 values[kKeyTile][kValuePieces];
  float key_scales[kKeyTile];
  float value_scales[kKeyTile];
};

struct PrefillWork {
  int entry;
  int kv_head;
  int first_key;  // that any query sees
  int last_key;   // one beyond
};

// A tile of K or V on its way to shared memory: Fetch before other work, Place after it and after a
// barrier since when nobody reads the old tile. kHold: what no asynchronous copy brings waits in
// registers between the two; else, where there are none to spare, Fetch does it all, after that
// barrier.
template <typename Half, typename Kv, int kDim, bool kHold>
class TileOnItsWay {
 public:
  template <int kRowPieces>
  __device__ void Fetch(const AttentionArgs& args, const PrefillWork& work, int tile,
                        const void* pages, const uint16_t* scales,
                        uint4 (&rows)[kKeyTile][kRowPieces]) {
    TUPPENCE_UNROLL_BY((kHold ? kCount : 1))
    for (int n = 0; n < kCount; ++n) {
      const int row = RowOf(args, work, tile * kKeyTile + At(n) / kPieces);
      const Kv* const source =
          static_cast<const Kv*>(pages) + (row < 0 ? 0 : int64_t{row} * kDim) + At(n) % kPieces * 8;
      uint4& target = rows[At(n) / kPieces][At(n) % kPieces];
      if (!kIsCoded<Kv> && HasAsyncCopies()) {
        CopyAsync16(&target, source, row >= 0);
      } else if constexpr (kHold) {
        held_[n] = LoadPiece(source, row >= 0);
      } else {
        target = HalvesOf<Half, Kv>(LoadPiece(source, row >= 0));
      }
    }
    if constexpr (kIsCoded<Kv>) {
      if (Thread() < kKeyTile) {
        scale_ = ScaleOf<Kv>(scales, RowOf(args, work, tile * kKeyTile + Thread()));
      }
    }
    CommitCopies();
  }

  template <int kRowPieces>
  __device__ void Place(uint4 (&rows)[kKeyTile][kRowPieces], float* scales) const {
    if constexpr (kHold) {
      if (kIsCoded<Kv> || !HasAsyncCopies()) {
        TUPPENCE_UNROLL
        for (int n = 0; n < kCount; ++n) {
          rows[At(n) / kPieces][At(n) % kPieces] = HalvesOf<Half, Kv>(held_[n]);
        }
      }
    }
    if constexpr (kIsCoded<Kv>) {
      if (Thread() < kKeyTile) scales[Thread()] = scale_;
    }
  }

 private:
  static constexpr int kPieces = kDim / 8;
  static constexpr int kCount = kKeyTile * kPieces / kPrefillThreads;  // of a thread
  static_assert(kKeyTile * kPieces % kPrefillThreads == 0);

  __device__ static int At(int n) { return Thread() + n * kPrefillThreads; }
  __device__ static int RowOf(const AttentionArgs& args, const PrefillWork& work, int key) {
    const bool there = key >= work.first_key && key < work.last_key;
    return there ? PageRow(args, work.entry, work.kv_head, key) : -1;
  }

  Piece<Kv> held_[kHold ? kCount : 1] = {};
  float scale_ = 0;
};

using Scores = float[kKeyTile / 8][4];

template <typename Half, int kDim>
__device__ inline void ScoreTile(const PrefillShared<kDim>& shared,
                                 const uint32_t (&a)[kDim / 32][8], Scores& scores) {
  const int g = Lane() / 4, q = Lane() % 4;
  TUPPENCE_UNROLL
  for (int keys = 0; keys < kKeyTile / 8; ++keys) {
    TUPPENCE_UNROLL
    for (int i = 0; i < 4; ++i) scores[keys][i] = 0;
    TUPPENCE_UNROLL
    for (int step = 0; step < kDim / 32; ++step) {
      const uint4 words = shared.keys[keys * 8 + g][step * 4 + q];
      const uint32_t b[4] = {words.x, words.y, words.z, words.w};
      Multiply32<Half>(scores[keys], a[step], b);
    }
  }
}

// What a lane keeps of its two rows.
template <int kDim>
struct RowState {
  float largest[2] = {-HUGE_VALF, -HUGE_VALF};
  float sums[2] = {0, 0};  // of this lane's keys
  float values[kDim / 8][4] = {};
};

// Largest scores so far, of this tile's too: in units of the weights' exponents where pages are
// coded, else before `unit`. kMasked: some query of the tile does not see some key.
template <typename Kv, bool kMasked, int kDim>
__device__ inline void MaskTile(const AttentionArgs& args, const PrefillShared<kDim>& shared,
                                int tile, const int (&positions)[2], Scores& scores,
                                float (&largest)[2]) {
  const int first_keys[2] = {FirstKey(args, positions[0]), FirstKey(args, positions[1])};
  TUPPENCE_UNROLL
  for (int keys = 0; keys < kKeyTile / 8; ++keys) {
    TUPPENCE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int of_tile = keys * 8 + Lane() % 4 * 2 + i % 2, key = tile * kKeyTile + of_tile;
      float& score = scores[keys][i];
      if constexpr (kIsCoded<Kv>) score *= args.scale_log2 * shared.key_scales[of_tile];
      if constexpr (kMasked) {
        if (key > positions[i / 2] || key < first_keys[i / 2]) score = -HUGE_VALF;
      }
      if (score > largest[i / 2]) largest[i / 2] = score;
    }
  }
}

// Scores to weights, after the mask; sums and values so far are scaled to the new largest score.
template <typename Kv, int kDim>
__device__ inline void WeighTile(const AttentionArgs& args, const PrefillShared<kDim>& shared,
                                 int tile, const int (&positions)[2], bool masked, Scores& scores,
                                 RowState<kDim>& state) {
  const float unit = kIsCoded<Kv> ? 1.0f : args.scale_log2;
  float largest[2] = {-HUGE_VALF, -HUGE_VALF};
  masked ? MaskTile<Kv, true>(args, shared, tile, positions, scores, largest)
         : MaskTile<Kv, false>(args, shared, tile, positions, scores, largest);
  float shift[2];
  TUPPENCE_UNROLL
  for (int row = 0; row < 2; ++row) {
    TUPPENCE_UNROLL
    for (int mask = 1; mask < 4; mask *= 2) {
      const float other = ShuffleXor(largest[row], mask);
      if (other > largest[row]) largest[row] = other;
    }
    const float seen = largest[row] * unit;
    largest[row] = seen > state.largest[row] ? seen : state.largest[row];
    // Before the window of a row begins it has seen no key: any finite number does.
    const float most = largest[row] == -HUGE_VALF ? 0.0f : largest[row];
    shift[row] = most - kWeightBits;
    const float factor = Exp2(state.largest[row] - most);
    state.largest[row] = largest[row];
    state.sums[row] *= factor;
    TUPPENCE_UNROLL
    for (int c = 0; c < kDim / 8; ++c) {
      state.values[c][2 * row] *= factor;
      state.values[c][2 * row + 1] *= factor;
    }
  }
  TUPPENCE_UNROLL
  for (int keys = 0; keys < kKeyTile / 8; ++keys) {
    TUPPENCE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float weight = Exp2(Fma(scores[keys][i], unit, -shift[i / 2]));
      state.sums[i / 2] += weight;
      scores[keys][i] = weight;
    }
  }
}

template <typename Half, typename Kv, int kDim>
__device__ inline void AddTile(const PrefillShared<kDim>& shared, const Scores& weights,
                               RowState<kDim>& state) {
  const int q = Lane() % 4;
  TUPPENCE_UNROLL
  for (int half = 0; half < kKeyTile / 32; ++half) {
    uint32_t a[8];
    TUPPENCE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int keys = half * 4 + i / 2, row = i % 2;
      float first = weights[keys][2 * row], second = weights[keys][2 * row + 1];
      if constexpr (kIsCoded<Kv>) {
        first *= shared.value_scales[keys * 8 + 2 * q];
        second *= shared.value_scales[keys * 8 + 2 * q + 1];
      }
      a[i] = NarrowPair<Half>(first, second);
    }
    TUPPENCE_UNROLL
    for (int c = 0; c < kDim / 8; ++c) {
      uint32_t b[4];
      LoadTilesTurned(&shared.values[half * 32 + Lane()][c], b);
      Multiply32<Half>(state.values[c], a, b);
    }
  }
}

template <typename Half, int kDim>
__device__ inline void StoreRows(const AttentionArgs& args, int head, const int (&tokens)[2],
                                 RowState<kDim>& state) {
  TUPPENCE_UNROLL
  for (int row = 0; row < 2; ++row) {
    float sum = state.sums[row];
    sum += ShuffleXor(sum, 1);
    sum += ShuffleXor(sum, 2);
    if (tokens[row] < 0) continue;
    uint16_t* const out =
        args.out + (static_cast<int64_t>(tokens[row]) * args.heads + head) * kDim + Lane() % 4 * 2;
    TUPPENCE_UNROLL
    for (int c = 0; c < kDim / 8; ++c) {
      *reinterpret_cast<uint32_t*>(out + c * 8) =
          NarrowPair<Half>(state.values[c][2 * row] / sum, state.values[c][2 * row + 1] / sum);
    }
  }
}

template <typename Half, typename Kv, int kDim>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    PrefillKernel(AttentionArgs args, const PrefillItem* items) {
  auto& shared = Shared<PrefillShared<kDim>>();
  const PrefillItem item = items[BlockX()];
  const int head = BlockY(), first_position = args.positions[item.first_token];
  const int tile_position = first_position / kQueryTile * kQueryTile;
  int positions[2], tokens[2];
  TUPPENCE_UNROLL
  for (int row = 0; row < 2; ++row) {
    positions[row] = tile_position + Warp() * 16 + Lane() / 4 + row * 8;
    const int of_item = positions[row] - first_position;
    tokens[row] = of_item >= 0 && of_item < item.count ? item.first_token + of_item : -1;
  }
  PrefillWork work;
  work.entry = item.entry;
  work.kv_head = head / (args.heads / args.kv_heads);
  work.first_key = FirstKey(args, first_position);
  work.last_key = first_position + item.count;
  const auto query = [&](int token) {
    return token < 0 ? nullptr
                     : args.qkv + static_cast<int64_t>(token) * args.qkv_stride + head * kDim;
  };
  uint32_t a[kDim / 32][8];
  LoadQueries<Half, kDim>(query(tokens[0]), query(tokens[1]), a);
  RowState<kDim> state;
  // Beside the sums of 128 channels registers have no room for a tile, beside those of 96 only for
  // codes while V is worked on.
  TileOnItsWay<Half, Kv, kDim, (kDim < 96 || (kDim < 128 && kIsCoded<Kv>))> keys;
  TileOnItsWay<Half, Kv, kDim, (kDim < 128)> values;
  const int first = work.first_key / kKeyTile, last = (work.last_key - 1) / kKeyTile;
  keys.Fetch(args, work, first, args.keys, args.key_scales, shared.keys);
  keys.Place(shared.keys, shared.key_scales);
  for (int tile = first; tile <= last; ++tile) {
    values.Fetch(args, work, tile, args.values, args.value_scales, shared.values);
    WaitCopies<1>();
    Barrier();  // K is there
    Scores scores;
    ScoreTile<Half, kDim>(shared, a, scores);
    // A tile that every query of the block sees whole needs no mask.
    const bool masked = (tile + 1) * kKeyTile > tile_position + 1 ||
                        tile * kKeyTile < FirstKey(args, tile_position + kQueryTile - 1);
    WeighTile<Kv, kDim>(args, shared, tile, positions, masked, scores, state);
    values.Place(shared.values, shared.value_scales);
    Barrier();  // nobody reads K any more
    if (tile < last) {
      keys.Fetch(args, work, tile + 1, args.keys, args.key_scales, shared.keys);
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    Barrier();  // V is there
    AddTile<Half, Kv, kDim>(shared, scores, state);
    if (tile < last) keys.Place(shared.keys, shared.key_scales);
    Barrier();  // nobody reads V any more
  }
  StoreRows<Half, kDim>(args, head, tokens, state);
}

}  // namespace tuppence::TUPPENCE_DEVICE
