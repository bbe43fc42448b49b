#include "cuda/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

constexpr int64_t kRowBytes = 64;  // of an output in a load
constexpr int64_t kHalfBytes = 2;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PanelsOf(const MatrixSpec& spec) {
  return 2 * (spec.pairing == RowPairing::kGateUp ? DivideUp(spec.rows / 2, kPanelOutputs)
                                                  : DivideUp(spec.rows, kPairOutputs));
}

int64_t LoadsOf(const MatrixSpec& spec) { return DivideUp(spec.cols, LoadCols(spec.format.type)); }

int64_t PaddedGroupsOf(const MatrixSpec& spec) {
  if (!spec.format.quantised()) return 0;
  return DivideUp(LoadsOf(spec) * LoadCols(spec.format.type), spec.format.group);
}

// Eight codes of a step, as packed_matrix.h says.
uint32_t PackNibbles(const int8_t* codes, int64_t count) {
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    const uint32_t code = static_cast<uint32_t>((i < count ? codes[i] : 0) + 8);
    word |= code << (i / 2 * 4 + i % 2 * 16);
  }
  return word;
}

}  // namespace

PackedMatrix::PackedMatrix(const MatrixSpec& spec, Layout layout, void* memory, Gpu& gpu)
    : Matrix(spec),
      gpu_(gpu),
      layout_(layout),
      memory_(static_cast<std::byte*>(memory)),
      panels_(static_cast<int32_t>(PanelsOf(spec))),
      loads_(static_cast<int32_t>(LoadsOf(spec))),
      groups_(static_cast<int32_t>(PaddedGroupsOf(spec))) {
  CHECK(!gated() || spec.rows % (2 * kPanelOutputs) == 0);
}

PackedMatrix::~PackedMatrix() { gpu_.Free(memory_); }

int64_t PackedMatrix::BytesFor(const MatrixSpec& spec, Layout layout) {
  if (layout == Layout::kRows) return spec.rows * spec.cols * kHalfBytes;
  const int64_t scales = PaddedGroupsOf(spec) * kPanelOutputs * 2;
  return PanelsOf(spec) * (LoadsOf(spec) * kLoadBytes + scales);
}

const uint32_t* PackedMatrix::scales() const {
  return reinterpret_cast<const uint32_t*>(memory_ + panels_ * panel_bytes());
}

PackedMatrix::Place PackedMatrix::PlaceOf(int64_t row) const {
  if (!gated()) return {row / kPanelOutputs, row % kPanelOutputs};
  const int64_t half = spec().rows / 2, of_half = row % half;
  return {of_half / kPanelOutputs * 2 + row / half, of_half % kPanelOutputs};
}

int64_t PackedMatrix::panel_rows(int64_t panel) const {
  return gated() ? kPanelOutputs
                 : std::min<int64_t>(kPanelOutputs, spec().rows - panel * kPanelOutputs);
}

void PackedMatrix::PackRow(const MatrixRows& rows, int64_t index, int64_t place,
                           std::byte* panel) const {
  const WeightType type = spec().format.type;
  const int64_t cols = spec().cols, load_cols = LoadCols(type);
  const int64_t value_bytes = spec().format.quantised() ? 1 : kRowBytes / load_cols;
  const auto* const row = static_cast<const std::byte*>(rows.values) + index * cols * value_bytes;
  for (int64_t load = 0; load < loads_; ++load) {
    std::byte* const out = panel + load * kLoadBytes + place * kRowBytes;
    if (!spec().format.quantised()) {
      const int64_t count = std::min(load_cols, cols - load * load_cols) * value_bytes;
      std::memcpy(out, row + load * kRowBytes, static_cast<size_t>(count));
      continue;
    }
    for (int64_t step = 0; step < load_cols / 32; ++step) {
      for (int64_t q = 0; q < 4; ++q) {
        const int64_t col = load * load_cols + step * 32 + q * 8;
        const int64_t count = std::clamp<int64_t>(cols - col, 0, 8);
        const auto* const codes = reinterpret_cast<const int8_t*>(row) + col;
        if (type == WeightType::kInt8) {
          if (count > 0) std::memcpy(out + q * 16 + step * 8, codes, static_cast<size_t>(count));
        } else {
          const uint32_t word = PackNibbles(codes, count);
          std::memcpy(out + q * 16 + step * 4, &word, sizeof(word));
        }
      }
    }
  }
}

// Whole panels travel at once; a range that starts or ends inside one, which loaders avoid, goes
// row by row. A copy may still read its source when it returns, so each panel has a place of its
// own until all have arrived.
void PackedMatrix::PackRows(const MatrixRows& rows) {
  CHECK(rows.format.type == spec().format.type);
  CHECK_EQ(rows.cols, spec().cols);
  CHECK_LE(rows.first_row + rows.rows, spec().rows);
  if (layout_ == Layout::kRows) {
    const int64_t row_bytes = spec().cols * kHalfBytes;
    gpu_.CopyIn(rows.values, static_cast<size_t>(rows.rows * row_bytes),
                memory_ + rows.first_row * row_bytes);
    (void)gpu_.Synchronize();
    return;
  }
  const int64_t places = rows.rows / kPanelOutputs + 3;  // a range may begin and end inside panels
  std::vector<std::byte> staging(static_cast<size_t>(places * panel_bytes()));
  std::byte* place = staging.data();
  for (int64_t index = 0; index < rows.rows; place += panel_bytes()) {
    CHECK(place + panel_bytes() <= staging.data() + staging.size());
    index += SendPanel(rows, index, place);
  }
  rows_packed_ += rows.rows;
  CHECK_LE(rows_packed_, spec().rows);
  if (groups_ > 0) SendScales(rows);
  (void)gpu_.Synchronize();  // a failure stays, and comes out later
  if (rows_packed_ == spec().rows) scales_ = {};
}

// Packs the rows from `index` on that lie in one panel into `place` and sends them. Returns how
// many they are.
int64_t PackedMatrix::SendPanel(const MatrixRows& rows, int64_t index, std::byte* place) {
  const Place first = PlaceOf(rows.first_row + index);
  const int64_t all = panel_rows(first.panel);
  const int64_t count = std::min(rows.rows - index, all - first.row);
  for (int64_t i = 0; i < count; ++i) PackRow(rows, index + i, first.row + i, place);
  std::byte* const target = memory_ + first.panel * panel_bytes();
  if (count == all) {
    gpu_.CopyIn(place, static_cast<size_t>(panel_bytes()), target);
    return count;
  }
  for (int64_t load = 0; load < loads_; ++load) {
    const int64_t at = load * kLoadBytes + first.row * kRowBytes;
    gpu_.CopyIn(place + at, static_cast<size_t>(count * kRowBytes), target + at);
  }
  return count;
}

// Sets the rows' scales among those that wait, and sends them when no row is missing.
void PackedMatrix::SendScales(const MatrixRows& rows) {
  const int64_t pair_scales = int64_t{groups_} * kPairOutputs;
  scales_.resize(static_cast<size_t>(panels_ / 2 * pair_scales));
  const int64_t true_groups = DivideUp(spec().cols, spec().format.group);
  for (int64_t i = 0; i < rows.rows; ++i) {
    const Place place = PlaceOf(rows.first_row + i);
    uint16_t* const to =
        scales_.data() + place.panel / 2 * pair_scales + place.row * 2 + place.panel % 2;
    for (int64_t group = 0; group < true_groups; ++group) {
      to[group * kPairOutputs] = rows.scales[i * true_groups + group];
    }
  }
  if (rows_packed_ < spec().rows) return;
  gpu_.CopyIn(scales_.data(), scales_.size() * sizeof(uint16_t), memory_ + panels_ * panel_bytes());
}

}  // namespace tuppence::TUPPENCE_DEVICE
