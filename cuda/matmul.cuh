// Matmul of 16-bit x with 16-bit, int8 or int4 weights, on tile multiplications.
//
// Formula   out[t, n] = sum over segments, in order, of sum over the segment's columns k of
//           x[t, k] w[n, k]; silu(gate) * up of two outputs for a paired weight.
// Order     K is cut into at most 8 segments of whole 128 columns, by K alone. A segment starts
//           from zero and goes by in tile multiplications of 32 columns. Quantised weights multiply
//           as codes, exact in 16 bits: a group's sum starts from zero and is added to its segment
//           by one FMA with the group's scale. Both kernels do just this for every row, so a row
//           has the same bits at any row count.
// Tiles     16 outputs, two panels, by 8 rows of x: weights are a, x is b. Weights come to their
//           lanes as words of a by nature, x as words of b, and up to 8 rows cost one tile.
// Skinny    up to 64 rows: a block has 32 or 16 outputs and a warp for each segment; warps read
//           weights and x straight to registers, and shared memory adds the segments up.
// Wide      a block has 128 rows and 128 (quantised: 64) outputs; x comes through shared memory in
//           four stages, each warp runs through all segments.
// Traffic   skinny: each weight once, bound by memory; x from the caches. Wide: weights once for
//           each 128 rows; bound by the tensor cores.
// Legend    lane = 4 g + q as in tile.cuh; pair, load: packed_matrix.h; step: 32 columns; tile: 8
//           rows of x.
#pragma once

#include "cuda/packed_matrix.h"
#include "cuda/tile.cuh"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kSegmentsMax = 8;
constexpr int kStepCols = 32;
constexpr int kTileRows = 8;
constexpr int kMatmulThreads = 256;
constexpr int kMatmulWarps = kMatmulThreads / kWarpLanes;

// Columns of a segment; a function of K alone.
__host__ __device__ constexpr int SegmentCols(int cols) {
  return CeilDiv(CeilDiv(cols, kSegmentsMax), 128) * 128;
}

struct MatmulArgs {
  const uint16_t* x = nullptr;  // [rows, cols]
  const std::byte* weights = nullptr;
  const uint32_t* scales = nullptr;  // [pairs, groups, 8], of an even and an odd panel's output
  int rows = 0;
  int cols = 0;
  int pairs = 0;
  int loads = 0;
  int groups = 0;
  int group_shift = 0;  // log2 of a group's columns
  int outputs = 0;      // of out
  bool gated = false;
  float* out = nullptr;           // plain: f32
  uint16_t* gated_out = nullptr;  // gated: as x
};

template <WeightType kType>
struct WeightTraits {
  static constexpr bool kQuantised = kType == WeightType::kInt8 || kType == WeightType::kInt4;
  static constexpr int kSteps = LoadCols(kType) / kStepCols;  // of a load
};

// The four words of one step that a lane has of a panel's load: two for each multiplication.
template <typename Half, WeightType kType>
__device__ inline void UnpackWeights(const uint4& load, int step, uint32_t (&words)[4]) {
  // Chosen rather than indexed: an index that is not known at compile time goes through memory.
  const auto word = [&](int i) {
    return i < 2 ? i == 0 ? load.x : load.y : i == 2 ? load.z : load.w;
  };
  TUPPENCE_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (kType == WeightType::kInt8) {
      words[i] = WidenCodes<Half>(FlipCodes(word(2 * step + i / 2)), i % 2);
    } else if constexpr (kType == WeightType::kInt4) {
      words[i] = WidenNibbles<Half>(word(step) >> (4 * i));
    } else {
      words[i] = word(i);
    }
  }
}

// Sums of a warp: output g and, in the second half, g + 8 of each pair; rows 2 q, 2 q + 1 of each
// tile.
template <int kPairs, int kTiles>
using Sums = float[kPairs][kTiles][4];

template <int kPairs, int kTiles>
__device__ inline void Clear(Sums<kPairs, kTiles>& sums) {
  TUPPENCE_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) sums[p][t][i] = 0;
    }
  }
}

// total += part; part starts anew.
template <int kPairs, int kTiles>
__device__ inline void AddInto(Sums<kPairs, kTiles>& total, Sums<kPairs, kTiles>& part) {
  TUPPENCE_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) total[p][t][i] += part[p][t][i];
    }
  }
  Clear<kPairs, kTiles>(part);
}

// Word i, chosen rather than indexed: see UnpackWeights.
template <int kCount>
__device__ inline uint32_t Choose(const uint32_t (&words)[kCount], int i) {
  uint32_t chosen = words[0];
  TUPPENCE_UNROLL
  for (int n = 1; n < kCount; ++n) chosen = i == n ? words[n] : chosen;
  return chosen;
}

// Where a lane finds its part of a warp's pairs.
template <int kPairs>
struct PairSources {
  const std::byte* panels[kPairs];  // the even one; the odd one follows
  const uint32_t* scales[kPairs];

  // What lies beyond the matrix is fetched from its last pair, and not used.
  __device__ PairSources(const MatmulArgs& m, int first_pair) {
    TUPPENCE_UNROLL
    for (int p = 0; p < kPairs; ++p) {
      const int64_t pair = first_pair + p < m.pairs ? first_pair + p : m.pairs - 1;
      panels[p] = m.weights + 2 * pair * m.loads * kLoadBytes + Lane() * 16;
      scales[p] = m.scales + pair * m.groups * kPanelOutputs + Lane() / 4;
    }
  }
};

// What a lane holds of a load: its 16 bytes of each panel, and for each step the scales of its two
// outputs in the group that the step lies in. They travel together, loads ahead of their use.
template <WeightType kType, int kPairs>
struct HeldLoad {
  static constexpr int kSteps = WeightTraits<kType>::kSteps;
  uint4 panels[2 * kPairs];
  uint32_t scales[kPairs][kSteps];

  // kOnce: no other warp of the multiprocessor wants the weights, so they need no room in its
  // cache. Beyond the last load it is fetched again, and not used.
  template <bool kOnce>
  __device__ void Fetch(const MatmulArgs& m, const PairSources<kPairs>& from, int load) {
    if (load >= m.loads) load = m.loads - 1;
    TUPPENCE_UNROLL
    for (int p = 0; p < kPairs; ++p) {
      const std::byte* const even = from.panels[p] + int64_t{load} * kLoadBytes;
      const std::byte* const odd = even + int64_t{m.loads} * kLoadBytes;
      panels[2 * p] = kOnce ? LoadStream(even) : *reinterpret_cast<const uint4*>(even);
      panels[2 * p + 1] = kOnce ? LoadStream(odd) : *reinterpret_cast<const uint4*>(odd);
      if constexpr (WeightTraits<kType>::kQuantised) {
        TUPPENCE_UNROLL
        for (int step = 0; step < kSteps; ++step) {
          const int group = (load * LoadCols(kType) + step * kStepCols) >> m.group_shift;
          scales[p][step] = from.scales[p][group * kPanelOutputs];
        }
      }
    }
  }

  // One step's weights of a pair, as a.
  template <typename Half>
  __device__ void Unpack(int pair, int step, uint32_t (&a)[8]) const {
    uint32_t even[4], odd[4];
    UnpackWeights<Half, kType>(panels[2 * pair], step, even);
    UnpackWeights<Half, kType>(panels[2 * pair + 1], step, odd);
    TUPPENCE_UNROLL
    for (int i = 0; i < 4; ++i) a[2 * i] = even[i], a[2 * i + 1] = odd[i];
  }

  // total += part * scale, for the group that ends with `step`; part starts anew.
  template <int kTiles>
  __device__ void AddGroup(int step, Sums<kPairs, kTiles>& total,
                           Sums<kPairs, kTiles>& part) const {
    TUPPENCE_UNROLL
    for (int p = 0; p < kPairs; ++p) {
      const uint32_t pair = Choose(scales[p], step);
      const float even = Widen(F16{static_cast<uint16_t>(pair)});
      const float odd = Widen(F16{static_cast<uint16_t>(pair >> 16)});
      TUPPENCE_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        TUPPENCE_UNROLL
        for (int i = 0; i < 4; ++i) {
          total[p][t][i] = Fma(part[p][t][i], i < 2 ? even : odd, total[p][t][i]);
        }
      }
    }
    Clear<kPairs, kTiles>(part);
  }
};

// 8 columns of a row of x, zeros beyond its borders.
__device__ inline uint4 LoadRow(const MatmulArgs& m, int row, int col) {
  if (row >= m.rows || col >= m.cols) return uint4{0, 0, 0, 0};
  return *reinterpret_cast<const uint4*>(m.x + static_cast<int64_t>(row) * m.cols + col);
}

// Whether a group ends before column `last`.
__device__ inline bool GroupEnds(const MatmulArgs& m, int last) {
  return (last & ((1 << m.group_shift) - 1)) == 0;
}

__device__ inline float Silu(float x) { return x / (1.0f + Exp2(-1.44269504088896341f * x)); }

// Output g of a pair's even panel and that of its odd one.
template <typename Half>
__device__ inline void StoreOutputs(const MatmulArgs& m, int row, int pair, int g, float even,
                                    float odd) {
  if (row >= m.rows) return;
  const int64_t at = static_cast<int64_t>(row) * m.outputs;
  if (m.gated) {
    const int output = pair * kPanelOutputs + g;
    if (output < m.outputs) m.gated_out[at + output] = Narrow<Half>(Silu(even) * odd).bits;
    return;
  }
  const int output = pair * kPairOutputs + g;
  if (output < m.outputs) m.out[at + output] = even;
  if (output + kPanelOutputs < m.outputs) m.out[at + output + kPanelOutputs] = odd;
}

// Of a skinny block: two tiles at a time. Rows are padded so that the lanes of a store meet in no
// bank.
template <int kPairs>
struct SkinnyShared {
  float sums[kSegmentsMax][2 * kTileRows][kPairs * kPairOutputs + 4];
};

// Loads that a warp holds, one in use and the others on their way: with few rows all time goes to
// waiting for memory.
template <WeightType kType, int kTiles>
constexpr int kLoadsHeld = kTiles > 2                        ? 2
                           : WeightTraits<kType>::kQuantised ? 3
                                                             : 4;

// A step's x of a lane, as b of each tile.
template <int kTiles>
struct StepRows {
  uint4 rows[kTiles];

  __device__ void Fetch(const MatmulArgs& m, int step) {
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      rows[t] = LoadRow(m, t * kTileRows + Lane() / 4, step * kStepCols + Lane() % 4 * 8);
    }
  }
};

template <typename Half>
__device__ inline void MultiplyRow(float (&sum)[4], const uint32_t (&a)[8], const uint4& row) {
  const uint32_t b[4] = {row.x, row.y, row.z, row.w};
  Multiply32<Half>(sum, a, b);
}

// One segment of the block's outputs. Weights, scales and x are on their way while others multiply.
template <typename Half, WeightType kType, int kPairs, int kTiles>
__device__ inline void SumSegment(const MatmulArgs& m, int first_pair, int segment,
                                  Sums<kPairs, kTiles>& sums) {
  using Traits = WeightTraits<kType>;
  constexpr int kCols = LoadCols(kType), kHeld = kLoadsHeld<kType, kTiles>;
  // With more rows there is enough to do, and no register to spare.
  constexpr bool kRowsAhead = kTiles <= 4;
  const int segment_cols = SegmentCols(m.cols);
  const int first = segment * segment_cols / kCols;
  const int end = first + segment_cols / kCols, last = end < m.loads ? end : m.loads;
  Sums<kPairs, kTiles> group_sums;
  if constexpr (Traits::kQuantised) Clear<kPairs, kTiles>(group_sums);
  const PairSources<kPairs> from(m, first_pair);
  HeldLoad<kType, kPairs> held[kHeld];
  StepRows<kTiles> now, next;
  TUPPENCE_UNROLL
  for (int h = 0; h < kHeld; ++h) held[h].template Fetch<true>(m, from, first + h);
  if constexpr (kRowsAhead) next.Fetch(m, first * Traits::kSteps);
  TUPPENCE_UNROLL_BY(1)
  for (int base = first; base < last; base += kHeld) {
    TUPPENCE_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      const int load = base + h;
      if (load >= last) break;
      TUPPENCE_UNROLL_BY((kTiles <= 2 ? Traits::kSteps : 1))
      for (int of_load = 0; of_load < Traits::kSteps; ++of_load) {
        const int step = load * Traits::kSteps + of_load;
        if constexpr (kRowsAhead) {
          now = next;
          next.Fetch(m, step + 1);
        } else {
          now.Fetch(m, step);
        }
        auto& part = Traits::kQuantised ? group_sums : sums;
        TUPPENCE_UNROLL
        for (int p = 0; p < kPairs; ++p) {
          uint32_t a[8];
          held[h].template Unpack<Half>(p, of_load, a);
          TUPPENCE_UNROLL
          for (int t = 0; t < kTiles; ++t) MultiplyRow<Half>(part[p][t], a, now.rows[t]);
        }
        if constexpr (Traits::kQuantised) {
          // Where K ends, the last group may be cut short.
          if (GroupEnds(m, (step + 1) * kStepCols) || step + 1 == last * Traits::kSteps) {
            held[h].template AddGroup<kTiles>(of_load, sums, group_sums);
          }
        }
      }
      if (load + kHeld < last) held[h].template Fetch<true>(m, from, load + kHeld);
    }
  }
}

// Pairs of a skinny block at most. Quantised weights up to 32 rows have registers for one, so that
// two or three blocks share a multiprocessor: more loads on their way, and one block's sums are
// added up while the others read.
template <WeightType kType, int kTiles>
constexpr int kSkinnyPairsMax = WeightTraits<kType>::kQuantised&& kTiles <= 4 ? 1 : 2;
template <int kPairs, int kTiles>
constexpr int kSkinnyBlocks = kTiles > 4                   ? 1
                              : kTiles == 1 && kPairs == 1 ? 3
                                                           : 2;

template <typename Half, WeightType kType, int kPairs, int kTiles>
__global__ void __launch_bounds__(kMatmulThreads, kSkinnyBlocks<kPairs, kTiles>)
    MatmulSkinnyKernel(MatmulArgs m) {
  auto& shared = Shared<SkinnyShared<kPairs>>();
  const int first_pair = BlockX() * kPairs;
  const int segments = CeilDiv(m.cols, SegmentCols(m.cols));
  const int g = Lane() / 4, q = Lane() % 4;
  Sums<kPairs, kTiles> sums;
  Clear<kPairs, kTiles>(sums);
  if (Warp() < segments) SumSegment<Half, kType, kPairs, kTiles>(m, first_pair, Warp(), sums);
  TUPPENCE_UNROLL
  for (int first = 0; first < kTiles; first += 2) {
    if (first > 0) Barrier();
    TUPPENCE_UNROLL
    for (int t = first; t < kTiles && t < first + 2; ++t) {
      TUPPENCE_UNROLL
      for (int p = 0; p < kPairs; ++p) {
        TUPPENCE_UNROLL
        for (int i = 0; i < 4; ++i) {
          shared.sums[Warp()][(t - first) * kTileRows + 2 * q + i % 2]
                     [p * kPairOutputs + g + i / 2 * kPanelOutputs] = sums[p][t][i];
        }
      }
    }
    Barrier();
    const int rows = kTiles - first < 2 ? kTileRows : 2 * kTileRows;
    for (int i = Thread(); i < rows * kPairs * kPanelOutputs; i += kMatmulThreads) {
      const int row = i / (kPairs * kPanelOutputs), of_row = i % (kPairs * kPanelOutputs);
      const int pair = of_row / kPanelOutputs, output = of_row % kPanelOutputs;
      const auto total = [&](int at) {
        float sum = 0;
        for (int s = 0; s < segments; ++s) sum += shared.sums[s][row][at];
        return sum;
      };
      StoreOutputs<Half>(m, first * kTileRows + row, first_pair + pair, output,
                         total(pair * kPairOutputs + output),
                         total(pair * kPairOutputs + output + kPanelOutputs));
    }
  }
}

// The wide kernel's shape. Quantised weights keep three sums for each output (group, segment,
// total) where 16-bit ones keep two, so their tile is half as large: both stay in registers.
template <WeightType kType>
struct WideShape {
  static constexpr int kPairs = WeightTraits<kType>::kQuantised ? 1 : 2;  // for each warp
  static constexpr int kTiles = 8;                                        // for each warp
  static constexpr int kRows = 128;
  static constexpr int kWarpsDown = kRows / (kTileRows * kTiles);
  static constexpr int kBlockPairs = kMatmulWarps / kWarpsDown * kPairs;
};
constexpr int kWideRows = 128;
constexpr int kWideStages = 4;

struct WideShared {
  uint4 x[kWideStages][kWideRows][4];  // 32 columns of each row
};

// One step's x on its way to its stage: by asynchronous copies, or, on sm_75, through registers
// while the tiles of another step multiply. Beyond K there is nothing to fetch.
class StepOnItsWay {
 public:
  __device__ void Fetch(const MatmulArgs& m, int first_row, int step, int steps,
                        WideShared& shared) {
    TUPPENCE_UNROLL
    for (int n = 0; n < kCount; ++n) {
      const int row = first_row + At(n) / 4, col = step * kStepCols + At(n) % 4 * 8;
      if (!HasAsyncCopies()) {
        held_[n] = LoadRow(m, row, col);
      } else if (step < steps) {
        const bool valid = row < m.rows && col < m.cols;
        CopyAsync16(&shared.x[step % kWideStages][At(n) / 4][At(n) % 4],
                    valid ? m.x + static_cast<int64_t>(row) * m.cols + col : m.x, valid);
      }
    }
    CommitCopies();
  }

  __device__ void Place(int step, WideShared& shared) const {
    TUPPENCE_UNROLL
    for (int n = 0; n < kCount && !HasAsyncCopies(); ++n) {
      shared.x[step % kWideStages][At(n) / 4][At(n) % 4] = held_[n];
    }
  }

 private:
  static constexpr int kCount = kWideRows * 4 / kMatmulThreads;  // of a thread
  __device__ static int At(int n) { return Thread() + n * kMatmulThreads; }

  uint4 held_[kCount] = {};
};

template <typename Half, WeightType kType>
__global__ void __launch_bounds__(kMatmulThreads) MatmulWideKernel(MatmulArgs m) {
  using Traits = WeightTraits<kType>;
  using Shape = WideShape<kType>;
  constexpr int kPairs = Shape::kPairs, kTiles = Shape::kTiles;
  auto& shared = Shared<WideShared>();
  const int first_row = BlockY() * kWideRows;
  const int warp_row = Warp() % Shape::kWarpsDown * kTileRows * kTiles;
  const int first_pair = BlockX() * Shape::kBlockPairs + Warp() / Shape::kWarpsDown * kPairs;
  const int g = Lane() / 4, q = Lane() % 4;
  const int steps = m.loads * Traits::kSteps, segment_cols = SegmentCols(m.cols);
  int segment_end = segment_cols;
  Sums<kPairs, kTiles> total, sums, group_sums;
  Clear<kPairs, kTiles>(total);
  Clear<kPairs, kTiles>(sums);
  if constexpr (Traits::kQuantised) Clear<kPairs, kTiles>(group_sums);
  StepOnItsWay x;
  for (int step = 0; step < kWideStages - 1; ++step) {
    x.Fetch(m, first_row, step, steps, shared);
    x.Place(step, shared);
  }
  const PairSources<kPairs> from(m, first_pair);
  HeldLoad<kType, kPairs> now, next;
  next.template Fetch<false>(m, from, 0);
  TUPPENCE_UNROLL_BY(1)
  for (int load = 0; load < m.loads; ++load) {
    now = next;
    next.template Fetch<false>(m, from, load + 1);
    TUPPENCE_UNROLL
    for (int of_load = 0; of_load < Traits::kSteps; ++of_load) {
      const int step = load * Traits::kSteps + of_load, last = (step + 1) * kStepCols;
      WaitCopies<kWideStages - 2>();
      Barrier();  // the step's x is there, and nobody reads the stage that is filled next
      x.Fetch(m, first_row, step + kWideStages - 1, steps, shared);
      uint32_t a[kPairs][8];
      TUPPENCE_UNROLL
      for (int p = 0; p < kPairs; ++p) now.template Unpack<Half>(p, of_load, a[p]);
      auto& part = Traits::kQuantised ? group_sums : sums;
      const auto& stage = shared.x[step % kWideStages];
      TUPPENCE_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const uint4 row = stage[warp_row + t * kTileRows + g][q];
        TUPPENCE_UNROLL
        for (int p = 0; p < kPairs; ++p) MultiplyRow<Half>(part[p][t], a[p], row);
      }
      const bool segment_ends = last == segment_end || step + 1 == steps;
      if constexpr (Traits::kQuantised) {
        if (GroupEnds(m, last) || segment_ends) {
          now.template AddGroup<kTiles>(of_load, sums, group_sums);
        }
      }
      if (segment_ends) {
        AddInto<kPairs, kTiles>(total, sums);
        segment_end += segment_cols;
      }
      x.Place(step + kWideStages - 1, shared);
    }
  }
  WaitCopies<0>();
  TUPPENCE_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 2; ++i) {
        StoreOutputs<Half>(m, first_row + warp_row + t * kTileRows + 2 * q + i, first_pair + p, g,
                           total[p][t][i], total[p][t][i + 2]);
      }
    }
  }
}

// What a paired weight's matmul does in passing, where cuBLAS made its sums: a thread for each
// output; gate and up in, one 16-bit value out.
template <typename Half>
__global__ void __launch_bounds__(kMatmulThreads)
    SiluMultiplyKernel(const float* gate_up, int columns, uint16_t* out) {
  const int column = BlockX() * kMatmulThreads + Thread();
  if (column >= columns) return;
  const float* const row = gate_up + int64_t{BlockY()} * 2 * columns;
  out[int64_t{BlockY()} * columns + column] =
      Narrow<Half>(Silu(row[column]) * row[columns + column]).bits;
}

}  // namespace tuppence::TUPPENCE_DEVICE
