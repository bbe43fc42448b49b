// Matmul of 16-bit x with 16-bit, int8 or int4 weights, on tile multiplications.
//
// Formula   out[t, n] = sum over segments, in order, of sum over the segment's columns k of
//           x[t, k] w[n, k]; silu(gate) * up of two outputs for a paired weight.
// Order     K is cut into at most 8 segments of whole 128 columns, by K alone. A segment starts
// from
//           zero and goes by in tile multiplications of 32 columns. Quantised weights multiply as
//           codes, exact in 16 bits: a group's sum starts from zero and is added to its segment by
//           one FMA with the group's scale. Both kernels do just this for every row, so a row has
//           the same bits at any row count.
// Skinny    up to 64 rows: a block has 32 or 16 outputs and a warp for each segment; warps read
//           weights and x straight to registers, and shared memory adds the segments up.
// Wide      a block has 128 rows and 128 (quantised: 64) outputs; x comes through shared memory in
//           four stages, each warp runs through all segments.
// Traffic   skinny: each weight once, bound by memory; x from the caches. Wide: weights once for
// each
//           128 rows; bound by the tensor cores.
// Legend    lane = 4 g + q as in tile.cuh; panel, load: packed_matrix.h; step: 32 columns.
#pragma once

#include "cuda/packed_matrix.h"
#include "cuda/tile.cuh"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kSegmentsMax = 8;
constexpr int kStepCols = 32;
constexpr int kMatmulThreads = 256;
constexpr int kMatmulWarps = kMatmulThreads / kWarpLanes;
constexpr int kWarpPanels = 4;  // of a warp; where a grid would be too small, skinny ones have 2
constexpr int kWarpOutputs = kWarpPanels * kPanelOutputs;

// Columns of a segment; a function of K alone.
__host__ __device__ constexpr int SegmentCols(int cols) {
  return CeilDiv(CeilDiv(cols, kSegmentsMax), 128) * 128;
}

struct MatmulArgs {
  const uint16_t* x = nullptr;  // [rows, cols]
  const std::byte* weights = nullptr;
  const uint16_t* scales = nullptr;
  int rows = 0;
  int cols = 0;
  int panels = 0;
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

// The two fragments of b that lane holds for one step of a load.
template <typename Half, WeightType kType>
__device__ inline void UnpackWeights(const uint4& load, int step, uint32_t (&b)[4]) {
  // Chosen rather than indexed: an index that is not known at compile time goes through memory.
  const auto word = [&](int i) {
    return i < 2 ? i == 0 ? load.x : load.y : i == 2 ? load.z : load.w;
  };
  TUPPENCE_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (kType == WeightType::kInt8) {
      b[i] = WidenCodes<Half>(FlipCodes(word(2 * step + i / 2)), i % 2);
    } else if constexpr (kType == WeightType::kInt4) {
      b[i] = WidenNibbles<Half>(word(step) >> (4 * i));
    } else {
      b[i] = word(i);
    }
  }
}

// Sums of a warp: kTiles tiles of 16 rows by kPanels panels.
template <int kTiles, int kPanels>
using Sums = float[kTiles][kPanels][4];

template <int kTiles, int kPanels>
__device__ inline void Clear(Sums<kTiles, kPanels>& sums) {
  TUPPENCE_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    TUPPENCE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) sums[t][p][i] = 0;
    }
  }
}

// total += part, or with scales of the lane's two outputs of each panel total += part * scale; part
// starts anew.
template <int kTiles, int kPanels>
__device__ inline void AddInto(Sums<kTiles, kPanels>& total, Sums<kTiles, kPanels>& part) {
  TUPPENCE_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    TUPPENCE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) total[t][p][i] += part[t][p][i];
    }
  }
  Clear<kTiles, kPanels>(part);
}

__device__ inline int PanelOf(const MatmulArgs& m, int first_panel, int p) {
  return first_panel + p < m.panels ? first_panel + p : m.panels - 1;
}

// Scales of a load's groups, at most four: lane 4 g + q holds those of group g % 4 and of outputs 2
// q, 2 q + 1 of each panel. They travel with the load's weights, a load ahead of their use.
template <int kPanels>
using LoadScales = uint32_t[kPanels];

template <WeightType kType, int kPanels>
__device__ inline void FetchScales(const MatmulArgs& m, int first_panel, int load,
                                   LoadScales<kPanels>& scales) {
  if constexpr (!WeightTraits<kType>::kQuantised) return;
  int group = ((load * LoadCols(kType)) >> m.group_shift) + Lane() / 4 % 4;
  if (group >= m.groups) group = m.groups - 1;
  TUPPENCE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    const int64_t at = static_cast<int64_t>(PanelOf(m, first_panel, p)) * m.groups + group;
    scales[p] = *reinterpret_cast<const uint32_t*>(m.scales + at * kPanelOutputs + Lane() % 4 * 2);
  }
}

// The group that ends with the step of `load` that starts at `col`.
template <WeightType kType, int kTiles, int kPanels>
__device__ inline void AddGroup(const MatmulArgs& m, const LoadScales<kPanels>& scales, int load,
                                int col, Sums<kTiles, kPanels>& total,
                                Sums<kTiles, kPanels>& part) {
  const int of_load = (col >> m.group_shift) - ((load * LoadCols(kType)) >> m.group_shift);
  TUPPENCE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    const uint32_t pair = Shuffle(scales[p], of_load * 4 + Lane() % 4);
    const float first = Widen(F16{static_cast<uint16_t>(pair)});
    const float second = Widen(F16{static_cast<uint16_t>(pair >> 16)});
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) {
        total[t][p][i] = Fma(part[t][p][i], i % 2 == 0 ? first : second, total[t][p][i]);
      }
    }
  }
  Clear<kTiles, kPanels>(part);
}

// kOnce: no other warp of the multiprocessor wants them, so they need no room in its cache.
template <bool kOnce, int kPanels>
__device__ inline void LoadWeights(const MatmulArgs& m, int first_panel, int load,
                                   uint4 (&loads)[kPanels]) {
  TUPPENCE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    const int64_t at = static_cast<int64_t>(PanelOf(m, first_panel, p)) * m.loads +
                       (load < m.loads ? load : m.loads - 1);
    const std::byte* const source = m.weights + at * kLoadBytes + Lane() * 16;
    loads[p] = kOnce ? LoadStream(source) : *reinterpret_cast<const uint4*>(source);
  }
}

// Rows g and g + 8 of a tile, each 16 bytes of the step: both fragments of a.
__device__ inline void Interleave(const uint4& upper, const uint4& lower, uint32_t (&a)[8]) {
  a[0] = upper.x, a[1] = lower.x, a[2] = upper.y, a[3] = lower.y;
  a[4] = upper.z, a[5] = lower.z, a[6] = upper.w, a[7] = lower.w;
}

// 8 columns of a row of x, zeros beyond its borders.
__device__ inline uint4 LoadRow(const MatmulArgs& m, int row, int col) {
  if (row >= m.rows || col >= m.cols) return uint4{0, 0, 0, 0};
  return *reinterpret_cast<const uint4*>(m.x + static_cast<int64_t>(row) * m.cols + col);
}

template <typename Half, WeightType kType, int kTiles, int kPanels>
__device__ inline void MultiplyStep(const uint4 (&loads)[kPanels], int step,
                                    const uint32_t (&a)[kTiles][8], Sums<kTiles, kPanels>& sums) {
  TUPPENCE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    uint32_t b[4];
    UnpackWeights<Half, kType>(loads[p], step, b);
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) Multiply32<Half>(sums[t][p], a[t], b);
  }
}

// Whether a group ends before column `last`.
__device__ inline bool GroupEnds(const MatmulArgs& m, int last) {
  return (last & ((1 << m.group_shift) - 1)) == 0;
}

__device__ inline float Silu(float x) { return x / (1.0f + Exp2(-1.44269504088896341f * x)); }

template <typename Half>
__device__ inline void StoreOutput(const MatmulArgs& m, int row, int output, float value) {
  if (row < m.rows && output < m.outputs) {
    m.out[static_cast<int64_t>(row) * m.outputs + output] = value;
  }
}
template <typename Half>
__device__ inline void StoreGated(const MatmulArgs& m, int row, int output, float gate, float up) {
  if (row < m.rows && output < m.outputs) {
    m.gated_out[static_cast<int64_t>(row) * m.outputs + output] =
        Narrow<Half>(Silu(gate) * up).bits;
  }
}

template <int kPanels>
struct SkinnyShared {
  float sums[kSegmentsMax][16][kPanels * kPanelOutputs];
};

// Loads of weights that a warp holds, one in use and the others on their way: with one tile of rows
// all time goes to waiting for memory.
template <WeightType kType, int kTiles>
constexpr int kLoadsHeld = kTiles > 1                        ? 2
                           : WeightTraits<kType>::kQuantised ? 3
                                                             : 4;

// A step's x of a lane: rows g and g + 8 of each tile.
template <int kTiles>
struct StepRows {
  uint4 upper[kTiles];
  uint4 lower[kTiles];

  __device__ void Fetch(const MatmulArgs& m, int step) {
    const int g = Lane() / 4, col = step * kStepCols + Lane() % 4 * 8;
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      upper[t] = LoadRow(m, 16 * t + g, col);
      lower[t] = LoadRow(m, 16 * t + g + 8, col);
    }
  }
  __device__ void Interleaved(uint32_t (&a)[kTiles][8]) const {
    TUPPENCE_UNROLL
    for (int t = 0; t < kTiles; ++t) Interleave(upper[t], lower[t], a[t]);
  }
};

// One segment of the block's outputs. Weights, scales and x are on their way while others multiply.
template <typename Half, WeightType kType, int kTiles, int kPanels>
__device__ inline void SumSegment(const MatmulArgs& m, int first_panel, int segment,
                                  Sums<kTiles, kPanels>& sums) {
  using Traits = WeightTraits<kType>;
  constexpr int kCols = LoadCols(kType), kHeld = kLoadsHeld<kType, kTiles>;
  constexpr bool kRowsAhead = kTiles < 4;  // with four tiles registers have no room
  const int segment_cols = SegmentCols(m.cols);
  const int first = segment * segment_cols / kCols;
  const int end = first + segment_cols / kCols, last = end < m.loads ? end : m.loads;
  Sums<kTiles, kPanels> group_sums;
  if constexpr (Traits::kQuantised) Clear<kTiles, kPanels>(group_sums);
  uint4 held[kHeld][kPanels];
  LoadScales<kPanels> scales[kHeld];
  StepRows<kTiles> rows;
  TUPPENCE_UNROLL
  for (int h = 0; h < kHeld; ++h) {
    LoadWeights<true>(m, first_panel, first + h, held[h]);
    FetchScales<kType>(m, first_panel, first + h, scales[h]);
  }
  if constexpr (kRowsAhead) rows.Fetch(m, first * Traits::kSteps);
  TUPPENCE_UNROLL_BY(1)
  for (int base = first; base < last; base += kHeld) {
    TUPPENCE_UNROLL
    for (int h = 0; h < kHeld; ++h) {
      const int load = base + h;
      if (load >= last) break;
      TUPPENCE_UNROLL_BY((kRowsAhead ? Traits::kSteps : 1))
      for (int of_load = 0; of_load < Traits::kSteps; ++of_load) {
        const int step = load * Traits::kSteps + of_load;
        uint32_t a[kTiles][8];
        if constexpr (!kRowsAhead) rows.Fetch(m, step);
        rows.Interleaved(a);
        if constexpr (kRowsAhead) rows.Fetch(m, step + 1);
        if constexpr (Traits::kQuantised) {
          MultiplyStep<Half, kType, kTiles, kPanels>(held[h], of_load, a, group_sums);
          // Where K ends, the last group may be cut short.
          if (GroupEnds(m, (step + 1) * kStepCols) || step + 1 == last * Traits::kSteps) {
            AddGroup<kType, kTiles, kPanels>(m, scales[h], load, step * kStepCols, sums,
                                             group_sums);
          }
        } else {
          MultiplyStep<Half, kType, kTiles, kPanels>(held[h], of_load, a, sums);
        }
      }
      if (load + kHeld < last) {
        LoadWeights<true>(m, first_panel, load + kHeld, held[h]);
        FetchScales<kType>(m, first_panel, load + kHeld, scales[h]);
      }
    }
  }
}

// Up to 32 rows two blocks share a multiprocessor: twice the loads on their way, and one block's
// sums are added up while the other reads. Quantised weights have registers for two panels then.
template <WeightType kType, int kTiles>
constexpr int kSkinnyPanelsMax = WeightTraits<kType>::kQuantised&& kTiles <= 2 ? 2 : kWarpPanels;
template <int kTiles>
constexpr int kSkinnyBlocks = kTiles <= 2 ? 2 : 1;

template <typename Half, WeightType kType, int kTiles, int kPanels>
__global__ void __launch_bounds__(kMatmulThreads, kSkinnyBlocks<kTiles>)
    MatmulSkinnyKernel(MatmulArgs m) {
  constexpr int kOutputs = kPanels * kPanelOutputs;
  auto& shared = Shared<SkinnyShared<kPanels>>();
  const int first_panel = BlockX() * kPanels;
  const int segments = CeilDiv(m.cols, SegmentCols(m.cols));
  const int g = Lane() / 4, q = Lane() % 4;
  Sums<kTiles, kPanels> sums;
  Clear<kTiles, kPanels>(sums);
  if (Warp() < segments) {
    SumSegment<Half, kType, kTiles, kPanels>(m, first_panel, Warp(), sums);
  }
  TUPPENCE_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    if (t > 0) Barrier();
    TUPPENCE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) {
        shared.sums[Warp()][g + i / 2 * 8][p * kPanelOutputs + 2 * q + i % 2] = sums[t][p][i];
      }
    }
    Barrier();
    const auto total = [&](int row, int output) {
      float sum = 0;
      for (int s = 0; s < segments; ++s) sum += shared.sums[s][row][output];
      return sum;
    };
    for (int i = Thread(); i < 16 * kOutputs; i += kMatmulThreads) {
      const int row = i / kOutputs, output = i % kOutputs;
      if (!m.gated) {
        StoreOutput<Half>(m, 16 * t + row, first_panel * kPanelOutputs + output,
                          total(row, output));
      } else if (output / kPanelOutputs % 2 == 0) {
        const int of_pair = output / (2 * kPanelOutputs) * kPanelOutputs + output % kPanelOutputs;
        StoreGated<Half>(m, 16 * t + row, first_panel / 2 * kPanelOutputs + of_pair,
                         total(row, output), total(row, output + kPanelOutputs));
      }
    }
  }
}

// The wide kernel's shape. Quantised weights keep three sums for each output (group, segment,
// total) where 16-bit ones keep two, so their tile is half as large: both stay in registers.
template <WeightType kType>
struct WideShape {
  static constexpr bool kQuantised = WeightTraits<kType>::kQuantised;
  static constexpr int kTiles = kQuantised ? 2 : 4;  // of 16 rows, for each warp
  static constexpr int kRows = 128;
  static constexpr int kWarpsDown = kRows / (16 * kTiles);
  static constexpr int kOutputs = kMatmulWarps / kWarpsDown * kWarpOutputs;
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

template <typename Half, int kTiles>
__device__ inline void StoreWarp(const MatmulArgs& m, int first_row, int first_panel,
                                 const Sums<kTiles, kWarpPanels>& total) {
  const int g = Lane() / 4, q = Lane() % 4;
  TUPPENCE_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    TUPPENCE_UNROLL
    for (int p = 0; p < kWarpPanels; ++p) {
      TUPPENCE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + 16 * t + g + i / 2 * 8, in_panel = 2 * q + i % 2;
        if (!m.gated) {
          StoreOutput<Half>(m, row, (first_panel + p) * kPanelOutputs + in_panel, total[t][p][i]);
        } else if (p % 2 == 0) {
          StoreGated<Half>(m, row, (first_panel + p) / 2 * kPanelOutputs + in_panel, total[t][p][i],
                           total[t][p + 1][i]);
        }
      }
    }
  }
}

template <typename Half, WeightType kType>
__global__ void __launch_bounds__(kMatmulThreads) MatmulWideKernel(MatmulArgs m) {
  using Traits = WeightTraits<kType>;
  using Shape = WideShape<kType>;
  constexpr int kTiles = Shape::kTiles;
  auto& shared = Shared<WideShared>();
  const int first_row = BlockY() * kWideRows;
  const int warp_row = Warp() % Shape::kWarpsDown * 16 * kTiles;
  const int first_panel =
      BlockX() * Shape::kOutputs / kPanelOutputs + Warp() / Shape::kWarpsDown * kWarpPanels;
  const int g = Lane() / 4, q = Lane() % 4;
  const int steps = m.loads * Traits::kSteps, segment_cols = SegmentCols(m.cols);
  int segment_end = segment_cols;
  Sums<kTiles, kWarpPanels> total, sums, group_sums;
  Clear<kTiles, kWarpPanels>(total);
  Clear<kTiles, kWarpPanels>(sums);
  LoadScales<kWarpPanels> scales, next_scales;
  if constexpr (Traits::kQuantised) Clear<kTiles, kWarpPanels>(group_sums);
  StepOnItsWay x;
  for (int step = 0; step < kWideStages - 1; ++step) {
    x.Fetch(m, first_row, step, steps, shared);
    x.Place(step, shared);
  }
  uint4 loads[kWarpPanels], next[kWarpPanels];
  LoadWeights<false>(m, first_panel, 0, next);
  FetchScales<kType>(m, first_panel, 0, next_scales);
  for (int load = 0; load < m.loads; ++load) {
    TUPPENCE_UNROLL
    for (int p = 0; p < kWarpPanels; ++p) loads[p] = next[p];
    LoadWeights<false>(m, first_panel, load + 1, next);
    TUPPENCE_UNROLL
    for (int p = 0; p < kWarpPanels && Traits::kQuantised; ++p) scales[p] = next_scales[p];
    FetchScales<kType>(m, first_panel, load + 1, next_scales);
    TUPPENCE_UNROLL
    for (int of_load = 0; of_load < Traits::kSteps; ++of_load) {
      const int step = load * Traits::kSteps + of_load, last = (step + 1) * kStepCols;
      WaitCopies<kWideStages - 2>();
      Barrier();  // the step's x is there, and nobody reads the stage that is filled next
      x.Fetch(m, first_row, step + kWideStages - 1, steps, shared);
      uint32_t a[kTiles][8];
      TUPPENCE_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const auto& stage = shared.x[step % kWideStages];
        const int row = warp_row + 16 * t + g;
        Interleave(stage[row][q], stage[row + 8][q], a[t]);
      }
      const bool segment_ends = last == segment_end || step + 1 == steps;
      if constexpr (Traits::kQuantised) {
        MultiplyStep<Half, kType, kTiles, kWarpPanels>(loads, of_load, a, group_sums);
        if (GroupEnds(m, last) || segment_ends) {
          AddGroup<kType, kTiles, kWarpPanels>(m, scales, load, last - kStepCols, sums, group_sums);
        }
      } else {
        MultiplyStep<Half, kType, kTiles, kWarpPanels>(loads, of_load, a, sums);
      }
      if (segment_ends) {
        AddInto<kTiles, kWarpPanels>(total, sums);
        segment_end += segment_cols;
      }
      x.Place(step + kWideStages - 1, shared);
    }
  }
  WaitCopies<0>();
  StoreWarp<Half, kTiles>(m, first_row + warp_row, first_panel, total);
}

}  // namespace tuppence::TUPPENCE_DEVICE
