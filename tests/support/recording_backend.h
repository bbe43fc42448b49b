// RecordingBackend: keeps the weights that a loader hands over, in their canonical form, and runs
// no op. For tests of loading.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "model/backend.h"
#include "model/quantize.h"

namespace tuppence {

class RecordedMatrix : public Matrix {
 public:
  explicit RecordedMatrix(const MatrixSpec& spec)
      : Matrix(spec), values(spec.rows), scales(spec.rows) {}

  int64_t bytes() const override {
    int64_t bytes = 0;
    for (const std::string& row : values) bytes += static_cast<int64_t>(row.size());
    if (spec().format.type == WeightType::kInt4) bytes /= 2;
    for (const std::vector<uint16_t>& row : scales) bytes += 2 * static_cast<int64_t>(row.size());
    return bytes;
  }

  std::vector<std::string> values;            // bytes of each row; empty: not packed yet
  std::vector<std::vector<uint16_t>> scales;  // of each row
};

class RecordingBackend : public Backend {
 public:
  int64_t bytes_max = INT64_MAX;  // of all matrices; beyond: RESOURCE_EXHAUSTED
  int64_t chunk_bytes_max = 0;    // largest PackRows seen
  int64_t matrices = 0;

  std::string name() const override { return "recording"; }
  std::string arithmetic_id() const override { return "none"; }
  ActivationTypes activation_types() const override { return {}; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    return std::make_unique<HeapBuffer>(bytes);
  }

  absl::StatusOr<std::unique_ptr<Matrix>> NewMatrix(const MatrixSpec& spec) override {
    bytes_taken_ += spec.rows * spec.cols;
    if (bytes_taken_ > bytes_max) return absl::ResourceExhaustedError("no more memory");
    ++matrices;
    return std::make_unique<RecordedMatrix>(spec);
  }

  void PackRows(const MatrixRows& rows, Matrix& matrix) override {
    RecordedMatrix& recorded = static_cast<RecordedMatrix&>(matrix);
    CHECK(rows.format.type == recorded.spec().format.type);
    CHECK_EQ(rows.cols, recorded.spec().cols);
    const int64_t row_bytes = rows.cols * ValueBytes(rows.format.type);
    const int64_t groups = rows.format.quantised() ? GroupsOf(rows.cols, rows.format.group) : 0;
    for (int64_t r = 0; r < rows.rows; ++r) {
      std::string& row = recorded.values.at(rows.first_row + r);
      CHECK(row.empty());  // each row once
      row.assign(static_cast<const char*>(rows.values) + r * row_bytes, row_bytes);
      recorded.scales[rows.first_row + r].assign(rows.scales + r * groups,
                                                 rows.scales + (r + 1) * groups);
    }
    chunk_bytes_max = std::max(chunk_bytes_max, rows.rows * row_bytes);
  }

  void CopyToDevice(const void* host, size_t bytes, void* device) override {
    std::memcpy(device, host, bytes);
  }
  void CopyToHost(const void* device, size_t bytes, void* host) override {
    std::memcpy(host, device, bytes);
  }

  const Batch& Upload(const Batch& batch, const SamplingBatch&) override { return batch; }
  void Embed(const Matrix&, const Batch&, Tensor) override { NoOp(); }
  void RopeAngles(const Batch&, Tensor, std::span<const float, 2>, Tensor) override { NoOp(); }
  void RmsNorm(Tensor, Tensor, float, Tensor) override { NoOp(); }
  void AddNorm(Tensor, Tensor, Tensor, float, Tensor) override { NoOp(); }
  void Matmul(Tensor, const Matrix&, Tensor) override { NoOp(); }
  void GatedMatmul(Tensor, const Matrix&, Tensor) override { NoOp(); }
  void RopeStore(Tensor, Tensor, const AttentionShape&, const Batch&, const KvLayer&) override {
    NoOp();
  }
  void Attention(Tensor, const AttentionShape&, const Batch&, const KvLayer&, Tensor) override {
    NoOp();
  }
  void SelectRows(Tensor, const Batch&, Tensor) override { NoOp(); }
  void CopyBlocks(std::span<const int32_t>, std::span<const int32_t>, const KvLayer&) override {
    NoOp();
  }
  void ZeroBlocks(std::span<const int32_t>, const KvLayer&) override { NoOp(); }
  void Sample(Tensor, std::span<SampledToken>) override { NoOp(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  class HeapBuffer : public Buffer {
   public:
    explicit HeapBuffer(size_t bytes) : Buffer(nullptr, bytes), memory_(bytes) {
      data_ = memory_.data();
    }

   private:
    std::vector<char> memory_;
  };

  static int64_t ValueBytes(WeightType type) {
    if (type == WeightType::kF32) return 4;
    return type == WeightType::kBf16 || type == WeightType::kF16 ? 2 : 1;
  }
  [[noreturn]] static void NoOp() {
    CHECK(false);  // a recording backend runs no op
    std::abort();
  }

  int64_t bytes_taken_ = 0;
};

}  // namespace tuppence
