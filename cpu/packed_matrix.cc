#include "cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/check.h"
#include "model/float16.h"

namespace tuppence {

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PanelsOf(const MatrixSpec& spec) {
  return spec.pairing == RowPairing::kGateUp ? CeilDiv(spec.rows / 2, kHalfOutputs)
                                             : CeilDiv(spec.rows, kPanelOutputs);
}

int64_t GroupsOf(const MatrixSpec& spec) { return CeilDiv(spec.cols, spec.format.group); }

int64_t PanelBytes(const MatrixSpec& spec) {
  switch (spec.format.type) {
    case WeightType::kBf16:
      return CeilDiv(spec.cols, kBf16BlockCols) * kBf16BlockCols * kPanelOutputs * 2;
    case WeightType::kF16:
      return spec.cols * kPanelOutputs * 2;
    case WeightType::kF32:
      return spec.cols * kPanelOutputs * 4;
    case WeightType::kInt8:
      return GroupsOf(spec) * kLineBytes + spec.cols * kPanelOutputs;
    case WeightType::kInt4:
      return GroupsOf(spec) * kLineBytes + spec.cols * kPanelOutputs / 2;
  }
  return 0;
}

}  // namespace

PackedMatrix::PackedMatrix(const MatrixSpec& spec, HugeBuffer memory)
    : Matrix(spec),
      memory_(std::move(memory)),
      panels_(PanelsOf(spec)),
      panel_bytes_(PanelBytes(spec)) {
  CHECK_EQ(spec.cols % 8, 0);
  CHECK_EQ(spec.rows % (gated() ? 16 : 8), 0);
  if (spec.format.quantised()) {
    CHECK_GT(spec.format.group, 0);
    CHECK_EQ(spec.format.group % 32, 0);
    CHECK_LE(spec.format.group, 128);  // exact in f32: 128 * 127 * 127 < 2^24
  }
}

int64_t PackedMatrix::BytesFor(const MatrixSpec& spec) { return PanelsOf(spec) * PanelBytes(spec); }

int64_t PackedMatrix::groups() const { return spec().format.quantised() ? GroupsOf(spec()) : 0; }

PackedMatrix::Place PackedMatrix::PlaceOf(int64_t row) const {
  if (!gated()) {
    const int in_panel = static_cast<int>(row % kPanelOutputs);
    return {row / kPanelOutputs, in_panel / 16, in_panel % 16};
  }
  const int64_t half_rows = spec().rows / 2;
  const int half = row < half_rows ? 0 : 1;
  const int64_t index = row - half * half_rows;
  return {index / kHalfOutputs, half, static_cast<int>(index % kHalfOutputs)};
}

// Runs are rows of one half of one panel: they share lines, so one thread takes a run whole.
void PackedMatrix::PackRows(const MatrixRows& rows, ThreadPool& pool) {
  CHECK_EQ(rows.cols, spec().cols);
  CHECK(rows.format.type == spec().format.type);
  CHECK_EQ(rows.format.group, spec().format.group);
  CHECK_GE(rows.first_row, 0);
  CHECK_LE(rows.first_row + rows.rows, spec().rows);
  const int64_t end = rows.first_row + rows.rows;
  // With paired rows the lanes start again where the up rows begin.
  const int64_t border = gated() ? spec().rows / 2 : 0;
  const auto pack_from = [&](int64_t first, int64_t last, int64_t base) {
    if (first >= last) return;
    const int64_t first_run = (first - base) / kHalfOutputs;
    const int64_t runs = (last - 1 - base) / kHalfOutputs - first_run + 1;
    pool.ParallelFor(runs, [&](int64_t run, int) {
      const int64_t start = base + (first_run + run) * kHalfOutputs;
      const int64_t from = std::max(first, start);
      const int64_t count = std::min(last, start + kHalfOutputs) - from;
      if (spec().format.quantised()) {
        PackRunGrouped(rows, from, count);
      } else {
        PackRun(rows, from, count);
      }
    });
  };
  pack_from(rows.first_row, std::min(end, border), 0);
  pack_from(std::max(rows.first_row, border), end, border);
}

void PackedMatrix::PackRun(const MatrixRows& rows, int64_t first, int64_t count) {
  const Place place = PlaceOf(first);
  std::byte* const panel = data() + place.panel * panel_bytes_;
  const int64_t cols = rows.cols;
  const int64_t offset = (first - rows.first_row) * cols;
  if (spec().format.type == WeightType::kBf16) {
    // Pairs of k move as one word. Blocks of 16 pairs keep the source's 16 streams in L1.
    const auto* const source = static_cast<const uint16_t*>(rows.values) + offset;
    for (int64_t block = 0; block < cols; block += kBf16BlockCols) {
      const int64_t last = std::min(cols, block + kBf16BlockCols);
      for (int64_t row = 0; row < count; ++row) {
        std::byte* out =
            panel + (block * kPanelOutputs * 2) + place.half * kLineBytes + (place.lane + row) * 4;
        for (int64_t k = block; k < last; k += 2, out += 2 * kLineBytes) {
          std::memcpy(out, source + row * cols + k, 4);
        }
      }
    }
    return;
  }
  const int64_t size = spec().format.type == WeightType::kF32 ? 4 : 2;
  const auto* const source = static_cast<const std::byte*>(rows.values) + offset * size;
  for (int64_t k = 0; k < cols; ++k) {
    std::byte* const out =
        panel + (k * kPanelOutputs + place.half * kHalfOutputs + place.lane) * size;
    for (int64_t row = 0; row < count; ++row) {
      std::memcpy(out + row * size, source + (row * cols + k) * size, size);
    }
  }
}

void PackedMatrix::PackRunGrouped(const MatrixRows& rows, int64_t first, int64_t count) {
  const Place place = PlaceOf(first);
  const bool int4 = spec().format.type == WeightType::kInt4;
  const int64_t cols = rows.cols, group = spec().format.group;
  const int64_t group_count = groups();
  const auto* const codes = static_cast<const int8_t*>(rows.values);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t source_row = first + row - rows.first_row;
    const int lane = place.lane + static_cast<int>(row);
    std::byte* out = data() + place.panel * panel_bytes_;
    for (int64_t g = 0; g < group_count; ++g) {
      std::memcpy(out + place.half * 32 + lane * 2, rows.scales + source_row * group_count + g, 2);
      out += kLineBytes;
      const int64_t last = std::min(cols, (g + 1) * group);
      const int8_t* const source = codes + source_row * cols;
      for (int64_t k = g * group; k < last; k += int4 ? 8 : 4, out += 2 * kLineBytes) {
        uint8_t bytes[4];
        for (int j = 0; j < 4; ++j) {
          bytes[j] = int4 ? static_cast<uint8_t>((source[k + j] + 8) | (source[k + 4 + j] + 8) << 4)
                          : static_cast<uint8_t>(source[k + j] + 128);
        }
        std::memcpy(out + place.half * kLineBytes + lane * 4, bytes, 4);
      }
    }
  }
}

void PackedMatrix::UnpackRow(int64_t row, float* out) const {
  CHECK_GE(row, 0);
  CHECK_LT(row, spec().rows);
  const Place place = PlaceOf(row);
  const std::byte* const base = panel(place.panel);
  const int64_t cols = spec().cols;
  const int64_t column = place.half * kHalfOutputs + place.lane;
  if (spec().format.type == WeightType::kBf16) {
    const std::byte* source = base + place.half * kLineBytes + place.lane * 4;
    for (int64_t k = 0; k < cols; k += 2, source += 2 * kLineBytes) {
      uint16_t pair[2];
      std::memcpy(pair, source, 4);
      out[k] = ToFloat(Bf16{pair[0]});
      out[k + 1] = ToFloat(Bf16{pair[1]});
    }
  } else if (spec().format.type == WeightType::kF16) {
    const auto* const source = reinterpret_cast<const uint16_t*>(base) + column;
    for (int64_t k = 0; k < cols; ++k) out[k] = ToFloat(F16{source[k * kPanelOutputs]});
  } else {
    CHECK(spec().format.type == WeightType::kF32);
    const auto* const source = reinterpret_cast<const float*>(base) + column;
    for (int64_t k = 0; k < cols; ++k) out[k] = source[k * kPanelOutputs];
  }
}

}  // namespace tuppence
