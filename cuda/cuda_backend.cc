#include "cuda/cuda_backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cuda/cublas.h"
#include "cuda/energy.h"
#include "cuda/kernels.h"
#include "cuda/sampling_batch.h"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

class DeviceBuffer final : public Buffer {
 public:
  DeviceBuffer(void* data, size_t bytes, Gpu& gpu) : Buffer(data, bytes), gpu_(gpu) {}
  ~DeviceBuffer() override { gpu_.Free(data_); }

 private:
  Gpu& gpu_;
};

const PackedMatrix& Packed(const Matrix& matrix) {
  return static_cast<const PackedMatrix&>(matrix);
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<Gpu> gpu, const CudaOptions& options, float* partials,
              std::unique_ptr<Cublas> cublas)
      : gpu_(std::move(gpu)),
        half_(options.half),
        partials_(partials),
        upload_(*gpu_),
        sampling_(*gpu_),
        cublas_(std::move(cublas)),
        energy_(EnergyMeter::Open(options.energy_library, gpu_->facts().pci_bus_id)) {}
  ~CudaBackend() override { gpu_->Free(partials_); }

  std::string name() const override { return kBackendName; }

  // Tile multiplications round as the architecture does, so it is part of the id. The number rises
  // whenever the bits of any op change.
  std::string arithmetic_id() const override {
    return absl::StrCat(kBackendName, "-sm", gpu_->arch(), "-", NameOf(half_), "-3",
                        cublas_ == nullptr ? "" : "-cublas");
  }

  ActivationTypes activation_types() const override { return {DType::kF32, half_}; }

  std::optional<double> watts() const override {
    return energy_ == nullptr ? std::nullopt : energy_->watts();
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    absl::StatusOr<void*> memory = Take(bytes);
    if (!memory.ok()) return memory.status();
    return std::make_unique<DeviceBuffer>(*memory, bytes, *gpu_);
  }

  absl::StatusOr<std::unique_ptr<Matrix>> NewMatrix(const MatrixSpec& spec) override {
    const WeightType type = spec.format.type;
    const bool rows = cublas_ != nullptr && (type == WeightType::kF16 || type == WeightType::kBf16);
    const auto layout = rows ? PackedMatrix::Layout::kRows : PackedMatrix::Layout::kPanels;
    absl::StatusOr<void*> memory = Take(static_cast<size_t>(PackedMatrix::BytesFor(spec, layout)));
    if (!memory.ok()) return memory.status();
    return std::make_unique<PackedMatrix>(spec, layout, *memory, *gpu_);
  }

  void PackRows(const MatrixRows& rows, Matrix& matrix) override {
    static_cast<PackedMatrix&>(matrix).PackRows(rows);
  }

  void CopyToDevice(const void* host, size_t bytes, void* device) override {
    gpu_->CopyIn(host, bytes, device);
    Latch(gpu_->Synchronize());
  }

  void CopyToHost(const void* device, size_t bytes, void* host) override {
    gpu_->CopyOut(device, bytes, host);
    Latch(gpu_->Synchronize());
  }

  const Batch& Upload(const Batch& batch, const SamplingBatch& sampling) override {
    Latch(upload_.Begin(DeviceBatch::BytesOf(batch) + SamplingUpload::BytesOf(sampling)));
    if (!failure_.ok()) return batch_.batch();
    batch_.Write(batch, upload_);
    sampling_.Write(sampling, upload_);
    upload_.Send();
    return batch_.batch();
  }

  void Embed(const Matrix& table, const Batch& batch, Tensor out) override {
    if (Ready(batch)) TUPPENCE_DEVICE::Embed(*gpu_, Packed(table), batch, out);
  }

  void RopeAngles(const Batch& batch, Tensor frequencies,
                  std::span<const float, 2> attention_factors, Tensor out) override {
    if (Ready(batch)) {
      TUPPENCE_DEVICE::RopeAngles(*gpu_, batch, frequencies, attention_factors, out);
    }
  }

  void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor out) override {
    Norm(*gpu_, x, nullptr, weight, epsilon, out);
  }

  void AddNorm(Tensor residual, Tensor delta, Tensor weight, float epsilon, Tensor out) override {
    Norm(*gpu_, residual, &delta, weight, epsilon, out);
  }

  void Matmul(Tensor x, const Matrix& w, Tensor out) override {
    CHECK(!Packed(w).gated());
    if (Packed(w).layout() == PackedMatrix::Layout::kRows) {
      return cublas_->Multiply(x, Packed(w).data(), out);
    }
    TUPPENCE_DEVICE::Matmul(*gpu_, x, Packed(w), out);
  }

  void GatedMatmul(Tensor x, const Matrix& w, Tensor out) override {
    CHECK(Packed(w).gated());
    if (Packed(w).layout() == PackedMatrix::Layout::kPanels) {
      return TUPPENCE_DEVICE::Matmul(*gpu_, x, Packed(w), out);
    }
    const int64_t columns = 2 * out.shape[1];
    if (!ReserveSums(x.shape[0] * columns)) return;
    const Tensor sums(sums_->data(), DType::kF32, {x.shape[0], columns});
    cublas_->Multiply(x, Packed(w).data(), sums);
    SiluMultiply(*gpu_, sums, out);
  }

  void RopeStore(Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
                 const KvLayer& cache) override {
    if (Ready(batch)) TUPPENCE_DEVICE::RopeStore(*gpu_, qkv, angles, shape, batch, cache);
  }

  void Attention(Tensor qkv, const AttentionShape& shape, const Batch& batch, const KvLayer& cache,
                 Tensor out) override {
    if (!Ready(batch)) return;
    AttendPrefill(*gpu_, qkv, shape, batch_, cache, out);
    AttendDecode(*gpu_, qkv, shape, batch_, cache, partials_, out);
  }

  void SelectRows(Tensor x, const Batch& batch, Tensor out) override {
    if (Ready(batch)) TUPPENCE_DEVICE::SelectRows(*gpu_, x, batch, out);
  }

  void CopyBlocks(std::span<const int32_t> from, std::span<const int32_t> to,
                  const KvLayer& cache) override {
    TUPPENCE_DEVICE::CopyBlocks(*gpu_, from, to, cache);
  }

  void ZeroBlocks(std::span<const int32_t> blocks, const KvLayer& cache) override {
    TUPPENCE_DEVICE::ZeroBlocks(*gpu_, blocks, cache);
  }

  void Sample(Tensor logits, std::span<SampledToken> out) override {
    if (!failure_.ok()) return;
    CHECK_EQ(out.size(), sampling_.rows());
    Latch(sampling_.Reserve(logits.shape[1]));
    if (!failure_.ok()) return;
    TUPPENCE_DEVICE::Sample(*gpu_, logits, sampling_.arrays(), static_cast<int32_t>(out.size()),
                            sampling_.adjusted(), sampling_.results());
    sampling_.Download(out);
  }

  absl::Status Synchronize() override {
    Latch(gpu_->Synchronize());
    if (failure_.ok()) sampling_.Finish();
    return failure_;
  }

 private:
  // Zeroed device memory.
  absl::StatusOr<void*> Take(size_t bytes) {
    void* const memory = gpu_->Allocate(bytes);
    if (memory == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("need ", bytes, " bytes of device memory; ",
                                                       gpu_->FreeBytes(), " are free on ",
                                                       gpu_->facts().name));
    }
    gpu_->Zero(memory, bytes);
    return memory;
  }

  // Room for what cuBLAS gives of a paired weight; it grows to the largest step and stays.
  bool ReserveSums(int64_t floats) {
    const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
    if (sums_ != nullptr && sums_->bytes() >= bytes) return true;
    Latch(gpu_->Synchronize());
    sums_.reset();
    absl::StatusOr<std::unique_ptr<Buffer>> memory = Allocate(bytes);
    Latch(memory.status());
    if (memory.ok()) sums_ = *std::move(memory);
    return memory.ok();
  }

  // The first failure stays, and what comes after it is not even tried.
  void Latch(const absl::Status& status) {
    if (failure_.ok()) failure_ = status;
  }

  // Ops take the batch that Upload gave, whose arrays are on the device.
  bool Ready(const Batch& batch) const {
    CHECK(&batch == &batch_.batch());
    return failure_.ok();
  }

  std::unique_ptr<Gpu> gpu_;
  DType half_;
  float* partials_;  // of attention's splits
  StepUpload upload_;
  DeviceBatch batch_;
  SamplingUpload sampling_;
  std::unique_ptr<Cublas> cublas_;  // nullptr: --deterministic=on
  std::unique_ptr<Buffer> sums_;
  std::unique_ptr<EnergyMeter> energy_;  // nullptr: cannot be read
  absl::Status failure_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options) {
  CHECK(options.half == DType::kF16 || options.half == DType::kBf16);
  absl::StatusOr<std::unique_ptr<Gpu>> gpu = Gpu::Open(options.force_arch);
  if (!gpu.ok()) return gpu.status();
  if ((*gpu)->arch() < 80 && options.half == DType::kBf16) {
    return absl::FailedPreconditionError(
        absl::StrCat((*gpu)->facts().name, " (sm_", (*gpu)->arch(),
                     ") has no bf16 arithmetic; take f16 weights and keys"));
  }
  std::unique_ptr<Cublas> cublas;
  if (!options.deterministic) {
    absl::StatusOr<std::unique_ptr<Cublas>> opened = Cublas::Open(**gpu);
    if (!opened.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("--deterministic=off multiplies by cuBLAS, and it cannot be used: ",
                       opened.status().message(), "; install it, or leave the flag out"));
    }
    cublas = *std::move(opened);
  }
  auto* const partials = static_cast<float*>((*gpu)->Allocate(kPartialFloatsMax * sizeof(float)));
  if (partials == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("need ", kPartialFloatsMax * sizeof(float), " bytes of device memory; ",
                     (*gpu)->FreeBytes(), " are free on ", (*gpu)->facts().name));
  }
  return std::make_unique<CudaBackend>(*std::move(gpu), options, partials, std::move(cublas));
}

absl::StatusOr<CudaDevice> FindCudaDevice(const CudaOptions& options) {
  absl::StatusOr<std::unique_ptr<Gpu>> gpu = Gpu::Open(options.force_arch);
  if (!gpu.ok()) return gpu.status();
  const Gpu::Facts& facts = (*gpu)->facts();
  constexpr double kGiB = double{1 << 30};
  return CudaDevice{absl::StrFormat("%s, sm_%d, %.1f GiB free of %.1f GiB", facts.name, facts.arch,
                                    static_cast<double>(facts.memory_free_bytes) / kGiB,
                                    static_cast<double>(facts.memory_bytes) / kGiB),
                    facts.arch, facts.memory_free_bytes};
}

}  // namespace tuppence::TUPPENCE_DEVICE
