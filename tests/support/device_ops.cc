#include "tests/support/device_ops.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/check.h"
#include "model/float16.h"

namespace tuppence::testing {
namespace {

std::unique_ptr<Buffer> Take(Backend& backend, size_t bytes) {
  absl::StatusOr<std::unique_ptr<Buffer>> memory = backend.Allocate(bytes);
  CHECK(memory.ok());
  return *std::move(memory);
}

// A KV layer in the backend's memory; Fetch brings it back.
class DeviceKvLayer {
 public:
  DeviceKvLayer(Backend& backend, HostKvLayer& host) : backend_(backend), host_(host.layer) {
    for (auto member : kMembers) {
      const Tensor& from = host_.*member;
      layer_.*member = from;
      if (from.data == nullptr) continue;
      memory_.push_back(Take(backend, from.bytes()));
      (layer_.*member).data = memory_.back()->data();
      backend.CopyToDevice(from.data, from.bytes(), memory_.back()->data());
    }
  }
  const KvLayer& view() const { return layer_; }
  void Fetch() {
    for (auto member : kMembers) {
      const Tensor& from = layer_.*member;
      if (from.data != nullptr) {
        backend_.CopyToHost(from.data, from.bytes(), (host_.*member).data);
      }
    }
  }

 private:
  static constexpr std::array<Tensor KvLayer::*, 4> kMembers = {
      &KvLayer::keys, &KvLayer::values, &KvLayer::key_scales, &KvLayer::value_scales};
  Backend& backend_;
  KvLayer& host_;
  KvLayer layer_;
  std::vector<std::unique_ptr<Buffer>> memory_;
};

int64_t Count(const std::vector<float>& values) { return static_cast<int64_t>(values.size()); }

DType MatmulInput(const Backend& backend) { return backend.activation_types().matmul_input; }

void Wait(Backend& backend) {
  const absl::Status status = backend.Synchronize();
  if (!status.ok()) std::cerr << status << std::endl;
  CHECK(status.ok());
}

}  // namespace

DeviceTensor::DeviceTensor(Backend& backend, DType type, std::initializer_list<int64_t> shape,
                           std::span<const float> values)
    : backend_(backend) {
  view_ = Tensor(nullptr, type, shape);
  memory_ = Take(backend, view_.bytes());
  view_.data = memory_->data();
  // What nobody writes must not be taken for a result: NaN in every type.
  std::vector<std::byte> bytes(view_.bytes(), std::byte{0xff});
  CHECK(values.empty() || static_cast<int64_t>(values.size()) == view_.elements());
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = type == DType::kF16 ? ToF16(values[i]).bits : ToBf16(values[i]).bits;
    if (type == DType::kF32) {
      std::memcpy(bytes.data() + i * 4, &values[i], 4);
    } else {
      std::memcpy(bytes.data() + i * 2, &bits, 2);
    }
  }
  backend.CopyToDevice(bytes.data(), bytes.size(), view_.data);
}

std::vector<float> DeviceTensor::Read() const {
  std::vector<std::byte> bytes(view_.bytes());
  backend_.CopyToHost(view_.data, bytes.size(), bytes.data());
  std::vector<float> values(static_cast<size_t>(view_.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    if (view_.type == DType::kF32) {
      std::memcpy(&values[i], bytes.data() + i * 4, 4);
      continue;
    }
    std::memcpy(&bits, bytes.data() + i * 2, 2);
    values[i] = view_.type == DType::kF16 ? ToFloat(F16{bits}) : ToFloat(Bf16{bits});
  }
  return values;
}

std::vector<float> Seen(const Backend& backend, std::vector<float> values) {
  const DType type = MatmulInput(backend);
  for (float& value : values) {
    if (type == DType::kF16) value = ToFloat(ToF16(value));
    if (type == DType::kBf16) value = ToFloat(ToBf16(value));
  }
  return values;
}

std::unique_ptr<Matrix> Pack(Backend& backend, const HostMatrix& host) {
  absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend.NewMatrix(host.spec);
  CHECK(matrix.ok());
  int64_t count = 3;
  for (int64_t row = 0; row < host.spec.rows; row += count, count = count * 2 + 5) {
    backend.PackRows(host.Rows(row, std::min(count, host.spec.rows - row)), **matrix);
  }
  return *std::move(matrix);
}

std::vector<float> RunEmbed(Backend& backend, const Matrix& table, const Batch& batch) {
  const DeviceTensor out(backend, backend.activation_types().stream,
                         {batch.tokens(), table.spec().cols});
  backend.Embed(table, backend.Upload(batch, {}), out.view());
  return out.Read();
}

std::vector<float> RunMatmul(Backend& backend, const std::vector<float>& x, const Matrix& w) {
  const int64_t cols = w.spec().cols, rows = Count(x) / cols;
  const bool gated = w.spec().pairing == RowPairing::kGateUp;
  const DeviceTensor in(backend, MatmulInput(backend), {rows, cols}, x);
  const DeviceTensor out(backend, gated ? MatmulInput(backend) : DType::kF32,
                         {rows, w.spec().rows / (gated ? 2 : 1)});
  if (gated) {
    backend.GatedMatmul(in.view(), w, out.view());
  } else {
    backend.Matmul(in.view(), w, out.view());
  }
  Wait(backend);
  return out.Read();
}

std::vector<float> RunNorm(Backend& backend, const std::vector<float>& x,
                           const std::vector<float>& weight, float epsilon) {
  const int64_t hidden = Count(weight), rows = Count(x) / hidden;
  const DeviceTensor in(backend, backend.activation_types().stream, {rows, hidden}, x);
  const DeviceTensor scale(backend, DType::kF32, {hidden}, weight);
  const DeviceTensor out(backend, MatmulInput(backend), {rows, hidden});
  backend.RmsNorm(in.view(), scale.view(), epsilon, out.view());
  Wait(backend);
  return out.Read();
}

std::vector<float> RunAddNorm(Backend& backend, std::vector<float>& residual,
                              const std::vector<float>& delta, const std::vector<float>& weight,
                              float epsilon) {
  const int64_t hidden = Count(weight), rows = Count(residual) / hidden;
  const DType stream = backend.activation_types().stream;
  const DeviceTensor in(backend, stream, {rows, hidden}, residual);
  const DeviceTensor added(backend, stream, {rows, hidden}, delta);
  const DeviceTensor scale(backend, DType::kF32, {hidden}, weight);
  const DeviceTensor out(backend, MatmulInput(backend), {rows, hidden});
  backend.AddNorm(in.view(), added.view(), scale.view(), epsilon, out.view());
  Wait(backend);
  residual = in.Read();
  return out.Read();
}

std::vector<float> RunRopeAngles(Backend& backend, const Batch& batch,
                                 const std::vector<float>& frequencies,
                                 const std::array<float, 2>& factors) {
  const int64_t half = Count(frequencies) / 2;
  const DeviceTensor in(backend, DType::kF32, {2, half}, frequencies);
  const DeviceTensor out(backend, DType::kF32, {batch.tokens(), 2 * half});
  backend.RopeAngles(backend.Upload(batch, {}), in.view(), factors, out.view());
  Wait(backend);
  return out.Read();
}

void RunRopeStore(Backend& backend, std::vector<float>& qkv, const std::vector<float>& angles,
                  const AttentionShape& shape, const Batch& batch, HostKvLayer& cache) {
  const int64_t tokens = batch.tokens();
  const DeviceTensor rows(backend, backend.activation_types().stream, {tokens, Count(qkv) / tokens},
                          qkv);
  const DeviceTensor turns(backend, DType::kF32, {tokens, Count(angles) / tokens}, angles);
  DeviceKvLayer layer(backend, cache);
  backend.RopeStore(rows.view(), turns.view(), shape, backend.Upload(batch, {}), layer.view());
  Wait(backend);
  layer.Fetch();
  qkv = rows.Read();
}

std::vector<float> RunAttention(Backend& backend, const std::vector<float>& qkv,
                                const AttentionShape& shape, const Batch& batch,
                                HostKvLayer& cache) {
  const int64_t tokens = batch.tokens();
  const DeviceTensor rows(backend, backend.activation_types().stream, {tokens, Count(qkv) / tokens},
                          qkv);
  const DeviceTensor out(backend, MatmulInput(backend),
                         {tokens, int64_t{shape.heads} * shape.head_dim});
  const DeviceKvLayer layer(backend, cache);
  backend.Attention(rows.view(), shape, backend.Upload(batch, {}), layer.view(), out.view());
  Wait(backend);
  return out.Read();
}

std::vector<float> RunSelectRows(Backend& backend, const std::vector<float>& x,
                                 const Batch& batch) {
  const int64_t cols = Count(x) / batch.tokens();
  const DeviceTensor in(backend, MatmulInput(backend), {batch.tokens(), cols}, x);
  const DeviceTensor out(backend, MatmulInput(backend), {batch.logit_rows(), cols});
  backend.SelectRows(in.view(), backend.Upload(batch, {}), out.view());
  Wait(backend);
  return out.Read();
}

void RunCopyBlocks(Backend& backend, const std::vector<int32_t>& from,
                   const std::vector<int32_t>& to, HostKvLayer& cache) {
  DeviceKvLayer layer(backend, cache);
  backend.CopyBlocks(from, to, layer.view());
  Wait(backend);
  layer.Fetch();
}

void RunZeroBlocks(Backend& backend, const std::vector<int32_t>& blocks, HostKvLayer& cache) {
  DeviceKvLayer layer(backend, cache);
  backend.ZeroBlocks(blocks, layer.view());
  Wait(backend);
  layer.Fetch();
}

std::vector<SampledToken> RunSample(Backend& backend, const std::vector<float>& logits,
                                    int64_t logit_rows, const SamplingBatch& batch) {
  const DeviceTensor in(backend, DType::kF32, {logit_rows, Count(logits) / logit_rows}, logits);
  std::vector<SampledToken> out(batch.rows.size());
  backend.Upload({}, batch);
  backend.Sample(in.view(), out);
  Wait(backend);
  return out;
}

}  // namespace tuppence::testing
