// How a weight lies in memory for every kernel path. Made by NewMatrix, filled by PackRows, read by
// the matmul kernels and Embed.
//
// A panel holds 32 outputs, as two halves of 16, for the whole of K; panels follow one another, so
// a thread that works through panels reads one stream. Lines are 64 bytes; the lines of the two
// halves alternate.
//   bf16       [panels][K / 2, padded to 16][half][16 outputs][2 k]     AMX's and vdpbf16ps's order
//   f32, f16   [panels][K][half][16 outputs]          (f16: a line holds both halves)
//   int8       [panels][groups]{ f16 scales [half][16]; codes + 128, [K / 4][half][16][4 k] }
//   int4       [panels][groups]{ f16 scales [half][16]; codes + 8,   [K / 8][half][16][4 bytes] },
//              where byte j of an output holds k = j in its low nibble and k = 4 + j in its high
//              one
// A plain weight has rows 32 p to 32 p + 31 in panel p. A kGateUp weight has gate rows 16 p to
// 16 p + 15 in the first half and the same up rows in the second, so the epilogue has both at hand.
// Rows and (bf16) columns are padded with zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpu/huge_buffer.h"
#include "cpu/thread_pool.h"
#include "model/backend.h"

namespace tuppence {

// Another name whenever the layout above changes: weight caches go by it.
constexpr char kPackedLayoutId[] = "cpu-panels-1";

constexpr int64_t kPanelOutputs = 32;
constexpr int64_t kHalfOutputs = 16;
constexpr int64_t kLineBytes = 64;
constexpr int64_t kBf16BlockCols = 32;  // K of one AMX tile

class PackedMatrix final : public Matrix {
 public:
  PackedMatrix(const MatrixSpec& spec, HugeBuffer memory);

  static int64_t BytesFor(const MatrixSpec& spec);  // what the layout needs

  int64_t bytes() const override { return static_cast<int64_t>(memory_.bytes()); }
  std::span<std::byte> host_bytes() override {
    return {data(), static_cast<size_t>(panels_ * panel_bytes_)};
  }
  const std::byte* panel(int64_t index) const { return data() + index * panel_bytes_; }
  int64_t panels() const { return panels_; }
  int64_t panel_bytes() const { return panel_bytes_; }
  bool gated() const { return spec().pairing == RowPairing::kGateUp; }
  // Columns of the matmul's result.
  int64_t outputs() const { return gated() ? spec().rows / 2 : spec().rows; }
  int64_t groups() const;

  void PackRows(const MatrixRows& rows, ThreadPool& pool);
  // The row's values as f32. Requires: not quantised.
  void UnpackRow(int64_t row, float* out) const;

 private:
  // Where a row lives: its panel, its half (0 or 1) and its lane (0 to 15).
  struct Place {
    int64_t panel;
    int half;
    int lane;
  };
  Place PlaceOf(int64_t row) const;
  std::byte* data() const { return static_cast<std::byte*>(memory_.data()); }
  void PackRun(const MatrixRows& rows, int64_t first, int64_t count);
  void PackRunGrouped(const MatrixRows& rows, int64_t first, int64_t count);

  HugeBuffer memory_;
  int64_t panels_;
  int64_t panel_bytes_;
};

}  // namespace tuppence
