// Every op once more, in double precision and as plainly as possible: the truth for all backends.
// Also the host-side shapes that op tests need: a weight in canonical form, a batch, a KV layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/backend.h"

namespace tuppence::testing {

// A weight in the canonical form of its format, and what it stands for.
struct HostMatrix {
  MatrixSpec spec;
  std::vector<std::byte> values;
  std::vector<uint16_t> scales;    // f16
  std::vector<float> dequantized;  // [rows, cols]

  int64_t groups() const {
    return spec.format.quantised() ? (spec.cols + spec.format.group - 1) / spec.format.group : 0;
  }
  MatrixRows Rows(int64_t first, int64_t count) const;
};
// Rounds or quantises [rows, cols] as model/quantize does.
HostMatrix MakeHostMatrix(const MatrixSpec& spec, std::span<const float> values);

// A result and the sum of its terms' magnitudes, which tolerances are relative to.
struct Reference {
  double value = 0;
  double magnitude = 0;
};

// [rows, w.rows] of x [rows, cols]. With `quantise_x` and a quantised weight x is first quantised
// as the CPU backend states: int8, one scale for each row and group.
std::vector<Reference> ReferenceMatmul(std::span<const float> x, const HostMatrix& w,
                                       bool quantise_x);

std::vector<double> ReferenceRmsNorm(std::span<const float> x, std::span<const float> weight,
                                     double epsilon);

// Sequences in pages, in the arrays of a step.
struct EntrySpec {
  int32_t first_position = 0;
  int32_t tokens = 0;
  Phase phase = Phase::kPrefill;
  std::vector<int32_t> blocks;  // of the sequence, in order
};
struct HostBatch {
  std::vector<int32_t> token_ids, positions, slots, entry_starts, block_tables, logit_tokens;
  std::vector<RopeRegime> regimes;
  std::vector<Phase> phases;
  int32_t stride = 0;
  Batch batch;  // views of the above
};
std::unique_ptr<HostBatch> MakeHostBatch(const std::vector<EntrySpec>& entries,
                                         int32_t block_tokens);

struct HostKvLayer {
  std::vector<std::byte> keys, values;
  std::vector<uint16_t> key_scales, value_scales;
  KvLayer layer;
};
std::unique_ptr<HostKvLayer> MakeHostKvLayer(DType type, int64_t blocks, int64_t kv_heads,
                                             int64_t block_tokens, int64_t head_dim);
// One stored value, dequantised.
double PageValue(Tensor pages, Tensor scales, int64_t block, int64_t kv_head, int64_t offset,
                 int64_t channel);

struct AttentionReference {
  std::vector<double> values;            // [tokens, heads * head_dim]
  std::vector<double> value_magnitudes;  // same shape: sum of weight * |v|
  std::vector<double> score_magnitudes;  // [tokens, heads]
  std::vector<int64_t> keys;             // [tokens]  visible
};
AttentionReference ReferenceAttention(std::span<const float> qkv, const AttentionShape& shape,
                                      const Batch& batch, const KvLayer& cache);

}  // namespace tuppence::testing
