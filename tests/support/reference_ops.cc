#include "tests/support/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/check.h"
#include "model/float16.h"

namespace tuppence::testing {

namespace {

template <typename T>
void Append(std::vector<std::byte>& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

// One row's codes and scales, group by group.
void QuantizeInto(HostMatrix& matrix, std::span<const float> row) {
  const float most = matrix.spec.format.type == WeightType::kInt4 ? 7 : 127;
  const int64_t group = matrix.spec.format.group;
  for (int64_t start = 0; start < matrix.spec.cols; start += group) {
    const int64_t last = std::min(matrix.spec.cols, start + group);
    float amax = 0;
    for (int64_t k = start; k < last; ++k) amax = std::max(amax, std::abs(row[k]));
    const F16 scale = ToF16(amax / most);
    matrix.scales.push_back(scale.bits);
    const float step = ToFloat(scale);
    for (int64_t k = start; k < last; ++k) {
      const float code = step > 0 ? std::clamp(std::nearbyint(row[k] / step), -most, most) : 0.0f;
      Append(matrix.values, static_cast<int8_t>(code));
      matrix.dequantized.push_back(code * step);
    }
  }
}

// A row of x as int8 codes times a scale for each group.
std::vector<double> QuantizedRow(std::span<const float> row, int64_t group) {
  std::vector<double> values;
  const int64_t cols = static_cast<int64_t>(row.size());
  for (int64_t start = 0; start < cols; start += group) {
    const int64_t last = std::min(cols, start + group);
    float amax = 0;
    for (int64_t k = start; k < last; ++k) amax = std::max(amax, std::abs(row[k]));
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    for (int64_t k = start; k < last; ++k) {
      const float code = std::nearbyint(row[k] * inverse);
      values.push_back(static_cast<double>(code) * static_cast<double>(amax) / 127);
    }
  }
  return values;
}

}  // namespace

MatrixRows HostMatrix::Rows(int64_t first, int64_t count) const {
  const int64_t size = spec.format.type == WeightType::kF32 ? 4 : spec.format.quantised() ? 1 : 2;
  return {spec.format,
          first,
          count,
          spec.cols,
          values.data() + first * spec.cols * size,
          spec.format.quantised() ? scales.data() + first * groups() : nullptr};
}

HostMatrix MakeHostMatrix(const MatrixSpec& spec, std::span<const float> values) {
  HostMatrix matrix;
  matrix.spec = spec;
  if (spec.format.quantised()) {
    for (int64_t row = 0; row < spec.rows; ++row) {
      QuantizeInto(matrix, values.subspan(static_cast<size_t>(row * spec.cols),
                                          static_cast<size_t>(spec.cols)));
    }
    return matrix;
  }
  for (const float value : values) {
    float kept = value;
    if (spec.format.type == WeightType::kBf16) {
      const Bf16 rounded = ToBf16(value);
      Append(matrix.values, rounded.bits);
      kept = ToFloat(rounded);
    } else if (spec.format.type == WeightType::kF16) {
      const F16 rounded = ToF16(value);
      Append(matrix.values, rounded.bits);
      kept = ToFloat(rounded);
    } else {
      Append(matrix.values, value);
    }
    matrix.dequantized.push_back(kept);
  }
  return matrix;
}

std::vector<Reference> ReferenceMatmul(std::span<const float> x, const HostMatrix& w,
                                       bool quantise_x) {
  const int64_t cols = w.spec.cols;
  const int64_t rows = static_cast<int64_t>(x.size()) / cols;
  std::vector<Reference> out;
  for (int64_t row = 0; row < rows; ++row) {
    const std::span<const float> source =
        x.subspan(static_cast<size_t>(row * cols), static_cast<size_t>(cols));
    const std::vector<double> values = quantise_x && w.spec.format.quantised()
                                           ? QuantizedRow(source, w.spec.format.group)
                                           : std::vector<double>(source.begin(), source.end());
    for (int64_t n = 0; n < w.spec.rows; ++n) {
      Reference sum;
      for (int64_t k = 0; k < cols; ++k) {
        const double term = values[k] * static_cast<double>(w.dequantized[n * cols + k]);
        sum.value += term;
        sum.magnitude += std::abs(term);
      }
      out.push_back(sum);
    }
  }
  return out;
}

std::vector<double> ReferenceRmsNorm(std::span<const float> x, std::span<const float> weight,
                                     double epsilon) {
  const size_t hidden = weight.size();
  std::vector<double> out;
  for (size_t row = 0; row < x.size() / hidden; ++row) {
    double sum = 0;
    for (size_t i = 0; i < hidden; ++i) {
      sum += static_cast<double>(x[row * hidden + i]) * static_cast<double>(x[row * hidden + i]);
    }
    const double root = std::sqrt(sum / static_cast<double>(hidden) + epsilon);
    for (size_t i = 0; i < hidden; ++i) {
      out.push_back(static_cast<double>(x[row * hidden + i]) / root *
                    static_cast<double>(weight[i]));
    }
  }
  return out;
}

std::unique_ptr<HostBatch> MakeHostBatch(const std::vector<EntrySpec>& entries,
                                         int32_t block_tokens) {
  auto host = std::make_unique<HostBatch>();
  for (const EntrySpec& entry : entries) {
    host->stride = std::max(host->stride, static_cast<int32_t>(entry.blocks.size()));
  }
  for (const EntrySpec& entry : entries) {
    host->entry_starts.push_back(static_cast<int32_t>(host->positions.size()));
    host->phases.push_back(entry.phase);
    std::vector<int32_t> row = entry.blocks;
    row.resize(static_cast<size_t>(host->stride), -1);
    host->block_tables.insert(host->block_tables.end(), row.begin(), row.end());
    for (int32_t i = 0; i < entry.tokens; ++i) {
      const int32_t position = entry.first_position + i;
      host->token_ids.push_back(0);
      host->positions.push_back(position);
      host->regimes.push_back(RopeRegime::kShort);
      host->slots.push_back(entry.blocks[position / block_tokens] * block_tokens +
                            position % block_tokens);
    }
    host->logit_tokens.push_back(static_cast<int32_t>(host->positions.size()) - 1);
  }
  host->entry_starts.push_back(static_cast<int32_t>(host->positions.size()));
  host->batch = {host->token_ids,    host->positions,    host->regimes,
                 host->slots,        host->entry_starts, host->phases,
                 host->block_tables, host->stride,       host->logit_tokens};
  return host;
}

std::unique_ptr<HostKvLayer> MakeHostKvLayer(DType type, int64_t blocks, int64_t kv_heads,
                                             int64_t block_tokens, int64_t head_dim) {
  auto host = std::make_unique<HostKvLayer>();
  const int64_t rows = blocks * kv_heads * block_tokens;
  const size_t bytes = static_cast<size_t>(rows * head_dim) * BytesOf(type);
  // What nobody has written must never be read: as bf16 and f32 these bytes are NaN.
  host->keys.assign(bytes, std::byte{0xff});
  host->values.assign(bytes, std::byte{0xff});
  host->layer.keys = Tensor(host->keys.data(), type, {blocks, kv_heads, block_tokens, head_dim});
  host->layer.values =
      Tensor(host->values.data(), type, {blocks, kv_heads, block_tokens, head_dim});
  if (type == DType::kI8) {
    host->key_scales.assign(static_cast<size_t>(rows), 0x7e00);  // NaN
    host->value_scales.assign(static_cast<size_t>(rows), 0x7e00);
    host->layer.key_scales =
        Tensor(host->key_scales.data(), DType::kF16, {blocks, kv_heads, block_tokens});
    host->layer.value_scales =
        Tensor(host->value_scales.data(), DType::kF16, {blocks, kv_heads, block_tokens});
  }
  return host;
}

double PageValue(Tensor pages, Tensor scales, int64_t block, int64_t kv_head, int64_t offset,
                 int64_t channel) {
  const int64_t row = (block * pages.shape[1] + kv_head) * pages.shape[2] + offset;
  const int64_t at = row * pages.shape[3] + channel;
  switch (pages.type) {
    case DType::kF32:
      return static_cast<double>(pages.as<float>()[at]);
    case DType::kBf16:
      return static_cast<double>(ToFloat(Bf16{pages.as<uint16_t>()[at]}));
    case DType::kF16:
      return static_cast<double>(ToFloat(F16{pages.as<uint16_t>()[at]}));
    case DType::kI8:
      return static_cast<double>(pages.as<int8_t>()[at]) *
             static_cast<double>(ToFloat(F16{scales.as<uint16_t>()[row]}));
    default:
      CHECK(false);
  }
  return 0;
}

namespace {

// One query over its visible keys; k and v of key j through the block table.
void ReferenceQuery(std::span<const float> q, const AttentionShape& shape, const KvLayer& cache,
                    const int32_t* blocks, int64_t kv_head, int32_t position,
                    AttentionReference& out) {
  const int64_t tokens = cache.keys.shape[2], dim = shape.head_dim;
  const int32_t first =
      shape.sliding_window > 0 ? std::max(0, position - shape.sliding_window + 1) : 0;
  std::vector<double> scores;
  double most = -std::numeric_limits<double>::infinity(), score_magnitude = 0;
  for (int32_t j = first; j <= position; ++j) {
    double score = 0, magnitude = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double term =
          static_cast<double>(q[d]) * static_cast<double>(shape.scale) *
          PageValue(cache.keys, cache.key_scales, blocks[j / tokens], kv_head, j % tokens, d);
      score += term;
      magnitude += std::abs(term);
    }
    scores.push_back(score);
    most = std::max(most, score);
    score_magnitude = std::max(score_magnitude, magnitude);
  }
  double sum = 0;
  for (double& score : scores) sum += (score = std::exp(score - most));
  for (int64_t d = 0; d < dim; ++d) {
    double value = 0, magnitude = 0;
    for (int32_t j = first; j <= position; ++j) {
      const double v =
          PageValue(cache.values, cache.value_scales, blocks[j / tokens], kv_head, j % tokens, d);
      value += scores[j - first] / sum * v;
      magnitude += scores[j - first] / sum * std::abs(v);
    }
    out.values.push_back(value);
    out.value_magnitudes.push_back(magnitude);
  }
  out.score_magnitudes.push_back(score_magnitude);
}

}  // namespace

AttentionReference ReferenceAttention(std::span<const float> qkv, const AttentionShape& shape,
                                      const Batch& batch, const KvLayer& cache) {
  AttentionReference out;
  const int64_t stride = int64_t{shape.heads + 2 * shape.kv_heads} * shape.head_dim;
  const int32_t group = shape.heads / shape.kv_heads;
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int32_t* const blocks =
        batch.block_tables.data() + int64_t{entry} * batch.block_table_stride;
    for (int32_t t = batch.entry_starts[entry]; t < batch.entry_starts[entry + 1]; ++t) {
      const int32_t position = batch.positions[t];
      for (int32_t head = 0; head < shape.heads; ++head) {
        ReferenceQuery(qkv.subspan(static_cast<size_t>(t * stride + head * shape.head_dim),
                                   static_cast<size_t>(shape.head_dim)),
                       shape, cache, blocks, head / group, position, out);
      }
      const int32_t window = shape.sliding_window;
      out.keys.push_back(window > 0 ? std::min(window, position + 1) : position + 1);
    }
  }
  return out;
}

}  // namespace tuppence::testing
