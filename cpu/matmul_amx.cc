// The bf16 matmul of AMX: tdpbf16ps multiplies 16 rows of x by 16 outputs over 32 k.
//
// Arithmetic: x is rounded to bf16. For each block of 32 k, from zero: the even k in order and the
// odd k in order, then their sum; block sums are added in order (subnormals count as zero). That
// is the instruction's own definition, and a tile with fewer rows computes the same, so one row
// and 512 agree.
// Mapping: up to 16 rows, one tile of x meets both halves of a panel, which streams from memory.
// More rows: two tiles of x by two halves, so each tile loaded is used twice. Where x fits in L2
// beside a panel, all of K at once. Otherwise 256 k at a time, whose part of the panel (16 KiB) and
// of two tiles of x (16 KiB) share L1 while all rows pass; sums wait in scratch (L2). 512 rows by
// 3,072 k from L2, one core: 1.65 TFLOPS with 256 k, 1.32 with 512, 0.84 with all; peak 3.1.
#if defined(__x86_64__)

#define TUPPENCE_SIMD_AVX512
#include "cpu/amx_tile_config.h"
#include "cpu/kernels.h"
#include "cpu/matmul_kernel.h"

TUPPENCE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,amx-tile,amx-bf16")

namespace tuppence {

namespace {

constexpr int64_t kTileFloats = 16 * 16;
constexpr int64_t kTileBf16 = 16 * 32;
constexpr int64_t kBlockBytes = 2 * 16 * kLineBytes;  // of a panel: 32 k, both halves
constexpr int64_t kBlocksAtOnce = 8;                  // 256 k
constexpr int64_t kRowBytesMax = int64_t{1} << 20;    // of x, for all of K at once
constexpr int64_t kAheadBytes = 8192;                 // prefetched within a panel

// Tiles 0 to 3 sums, 4 and 5 rows of x, 6 and 7 the panel's halves.
void Configure(int first_rows) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  for (int tile : {0, 1, 4}) config.rows[tile] = static_cast<uint8_t>(first_rows);
  LoadTileConfig(config);
}

// Rows of two tiles of sums, one for each half, go through the epilogue.
void StoreTiles(const MatmulCall& call, int64_t first_row, int64_t rows, int64_t panel,
                const float* tiles) {
  for (int64_t r = 0; r < rows; ++r) {
    avx512::StorePanelRow(call, first_row + r, panel, avx512::Load(tiles + r * 16),
                          avx512::Load(tiles + kTileFloats + r * 16));
  }
}

// Up to 16 rows. Bound by reading the panel: 2 KiB a block against 32 cycles of multiplying.
void FewRows(const MatmulCall& call, int64_t panel, int64_t blocks) {
  const std::byte* w = call.panels + panel * call.panel_bytes;
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t block = 0; block < blocks; ++block, w += kBlockBytes) {
    for (int64_t line = 0; line < kBlockBytes; line += kLineBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(w) + kAheadBytes + line, _MM_HINT_T0);
    }
    _tile_loadd(4, call.x_tiles + block * kTileBf16, 64);
    _tile_stream_loadd(6, w, 2 * kLineBytes);
    _tile_stream_loadd(7, w + kLineBytes, 2 * kLineBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
  }
  alignas(64) float tiles[2 * kTileFloats];
  _tile_stored(0, tiles, 64);
  _tile_stored(1, tiles + kTileFloats, 64);
  StoreTiles(call, 0, call.rows, panel, tiles);
}

struct BlockRange {
  int64_t first, last;  // of K blocks
  bool starts;          // sums begin at zero
};

// What TwoByTwo asks for while it multiplies: `lines` a block, `step` bytes apart; `soon` into L1,
// later into L2.
struct PrefetchPlan {
  const std::byte* next;
  int64_t lines;
  int64_t step;
  bool soon;
};

// Two row tiles by both halves, over some blocks; sums in and out of `sums` (4 tiles).
void TwoByTwo(const uint16_t* x, int64_t tile_stride, const std::byte* w, const BlockRange& range,
              float* sums, PrefetchPlan prefetch) {
  if (range.starts) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + kTileFloats, 64);
    _tile_loadd(2, sums + 2 * kTileFloats, 64);
    _tile_loadd(3, sums + 3 * kTileFloats, 64);
  }
  for (int64_t block = range.first; block < range.last; ++block) {
    const uint16_t* const a = x + block * kTileBf16;
    const std::byte* const b = w + block * kBlockBytes;
    _tile_loadd(6, b, 2 * kLineBytes);
    _tile_loadd(4, a, 64);
    _tile_loadd(7, b + kLineBytes, 2 * kLineBytes);
    _tile_loadd(5, a + tile_stride, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    for (int64_t line = 0; line < prefetch.lines; ++line, prefetch.next += prefetch.step) {
      const char* const line_start = reinterpret_cast<const char*>(prefetch.next);
      prefetch.soon ? _mm_prefetch(line_start, _MM_HINT_T0) : _mm_prefetch(line_start, _MM_HINT_T1);
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kTileFloats, 64);
  _tile_stored(2, sums + 2 * kTileFloats, 64);
  _tile_stored(3, sums + 3 * kTileFloats, 64);
}

// The first pair of rows that meets a panel whole waits for memory, so it asks ahead; the others
// find the panel in L2.
PrefetchPlan AheadInPanel(const std::byte* w, int64_t pair) {
  return {w + kAheadBytes, pair == 0 ? kBlockBytes / kLineBytes : 0, kLineBytes, true};
}

// The same part of the next panel, spread over the pairs of this one. Every second line: the
// processor fetches its neighbour too, and requests that wait for memory hold up those to L2.
PrefetchPlan NextPanel(const std::byte* part, int64_t panel_bytes, int64_t pair, int64_t pairs,
                       int64_t part_blocks) {
  constexpr int64_t kStep = 2 * kLineBytes;
  const int64_t lines = (kBlockBytes / kStep + pairs - 1) / pairs;
  return {part + panel_bytes + pair * part_blocks * lines * kStep, lines, kStep, false};
}

// All row pairs of the call over one part of one panel.
void ManyRows(const MatmulCall& call, int64_t panel, int64_t blocks, const BlockRange& range,
              float* sums) {
  const int64_t tiles = (call.rows + 15) / 16;
  const int64_t pairs = (tiles + 1) / 2;
  const std::byte* const w = call.panels + panel * call.panel_bytes;
  const int64_t part_blocks = range.last - range.first;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const PrefetchPlan prefetch =
        part_blocks == blocks
            ? AheadInPanel(w, pair)
            : NextPanel(w + range.first * kBlockBytes, call.panel_bytes, pair, pairs, part_blocks);
    const uint16_t* const x = call.x_tiles + 2 * pair * blocks * kTileBf16;
    // An odd last tile meets itself; the second result is not stored.
    const int64_t stride = 2 * pair + 1 < tiles ? blocks * kTileBf16 : 0;
    float* const pair_sums = sums + pair * 4 * kTileFloats;
    TwoByTwo(x, stride, w, range, pair_sums, prefetch);
    if (range.last < blocks) continue;
    const int64_t row = 32 * pair;
    StoreTiles(call, row, std::min<int64_t>(16, call.rows - row), panel, pair_sums);
    if (stride == 0) continue;
    StoreTiles(call, row + 16, std::min<int64_t>(16, call.rows - row - 16), panel,
               pair_sums + 2 * kTileFloats);
  }
}

}  // namespace

void MatmulAmx(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  const int64_t blocks = (call.cols + kBf16BlockCols - 1) / kBf16BlockCols;
  if (call.rows <= 16) {
    Configure(static_cast<int>(call.rows));
    for (int64_t panel = first_panel; panel < last_panel; ++panel) FewRows(call, panel, blocks);
    _tile_release();
    return;
  }
  Configure(16);
  const bool whole = call.rows * blocks * 64 <= kRowBytesMax;
  const int64_t at_once = whole ? blocks : kBlocksAtOnce;
  const int64_t panel_sums = (call.rows + 31) / 32 * 4 * kTileFloats;
  for (int64_t first = 0; first < blocks; first += at_once) {
    const BlockRange range = {first, std::min(blocks, first + at_once), first == 0};
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      ManyRows(call, panel, blocks, range, call.scratch + (panel - first_panel) * panel_sums);
    }
  }
  _tile_release();
}

}  // namespace tuppence

TUPPENCE_TARGET_END

#endif
