// How a weight lies in device memory. Made by NewMatrix, filled by PackRows, read by the matmul
// kernels and Embed.
//
// A panel holds 8 outputs. Its columns go by in loads: 16 bytes for each lane of a warp, 4 lanes
// for each output, so that a warp reads 512 bytes in a row and holds them as fragments:
//   [panels][loads]{ [8 outputs][4 lanes q][16 bytes] }
//   f16, bf16  a load is 32 columns: lane q has columns 8 q to 8 q + 7
//   int8       64 columns in two steps of 32: lane q has codes 8 q to 8 q + 7 of each step
//   int4       128 columns in four steps: word s of lane q has the codes 8 q to 8 q + 7 of step s,
//              code + 8 in four bits: even ones at bits 0, 4, 8, 12, odd ones 16 bits above
//   f32        16 columns: lane q has columns 4 q to 4 q + 3; Embed alone reads it
// A tile multiplication takes 16 columns in an order of its own; as x is read in the same way, any
// order does: lane q feeds its first four columns to the first multiplication, the next to the
// second (matmul.cuh).
// An even panel and the next are a pair: the 16 outputs of a tile multiplication. Scales follow all
// panels: f16 [pairs][groups][8 outputs][even and odd panel], a word for each lane.
// A kGateUp weight has gate rows in even panels and the same up rows in odd ones, so that a lane
// that holds a gate's sum holds the up's as well.
// Outputs are padded to whole pairs and columns to whole loads, with zeros.
// For cuBLAS a 16-bit weight lies row by row instead, as in the checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/gpu.h"
#include "model/backend.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kPanelOutputs = 8;
constexpr int kPairOutputs = 2 * kPanelOutputs;
constexpr int kLoadBytes = 512;  // of a panel

constexpr int LoadCols(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return 16;
    case WeightType::kBf16:
    case WeightType::kF16:
      return 32;
    case WeightType::kInt8:
      return 64;
    case WeightType::kInt4:
      return 128;
  }
  return 0;
}

class PackedMatrix final : public Matrix {
 public:
  enum class Layout : uint8_t { kPanels, kRows };

  // `memory` holds BytesFor(spec, layout) bytes of zeros, and is given back to `gpu`, which
  // outlives this. Requires: a weight of kRows is f16 or bf16.
  PackedMatrix(const MatrixSpec& spec, Layout layout, void* memory, Gpu& gpu);
  ~PackedMatrix() override;

  static int64_t BytesFor(const MatrixSpec& spec, Layout layout);

  int64_t bytes() const override { return BytesFor(spec(), layout_); }
  Layout layout() const { return layout_; }
  bool gated() const { return spec().pairing == RowPairing::kGateUp; }
  // Columns of the matmul's result.
  int64_t outputs() const { return gated() ? spec().rows / 2 : spec().rows; }
  int32_t panels() const { return panels_; }         // an even number
  int32_t loads() const { return loads_; }           // of a panel
  int32_t groups() const { return groups_; }         // of an output, padded columns included
  const std::byte* data() const { return memory_; }  // the first panel, or row
  const uint32_t* scales() const;

  // Each row once. Scales wait on the host until all rows have come, since a pair's rows need not
  // come together.
  void PackRows(const MatrixRows& rows);

 private:
  struct Place {
    int64_t panel;
    int64_t row;  // in the panel
  };
  Place PlaceOf(int64_t row) const;
  int64_t panel_bytes() const { return int64_t{loads_} * kLoadBytes; }
  int64_t panel_rows(int64_t panel) const;
  int64_t SendPanel(const MatrixRows& rows, int64_t index, std::byte* place);
  void SendScales(const MatrixRows& rows);
  void PackRow(const MatrixRows& rows, int64_t index, int64_t place, std::byte* panel) const;

  Gpu& gpu_;
  const Layout layout_;
  std::byte* memory_;
  int32_t panels_;
  int32_t loads_;
  int32_t groups_;
  std::vector<uint16_t> scales_;  // of all rows, while some are missing
  int64_t rows_packed_ = 0;
};

}  // namespace tuppence::TUPPENCE_DEVICE
