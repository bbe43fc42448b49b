#include "cpu/cpu_backend.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cpu/attention.h"
#include "cpu/cpu_resources.h"
#include "cpu/embed.h"
#include "cpu/huge_buffer.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/norm.h"
#include "cpu/packed_matrix.h"
#include "cpu/rope.h"
#include "cpu/sampling.h"
#include "cpu/thread_pool.h"
#include "model/check.h"

namespace tuppence {

namespace {

class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(HugeBuffer memory, size_t bytes)
      : Buffer(memory.data(), bytes), memory_(std::move(memory)) {}

 private:
  HugeBuffer memory_;
};

const PackedMatrix& Packed(const Matrix& matrix) {
  return static_cast<const PackedMatrix&>(matrix);
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads)
      : kernels_(kernels),
        pool_(threads),
        matmul_(kernels_, pool_),
        attention_(kernels_, pool_),
        sampling_(kernels_, pool_) {}

  std::string name() const override { return "cpu"; }

  // plain, avx2 and avx512 agree to the bit and share an id. The number rises whenever the bits of
  // any op change.
  std::string arithmetic_id() const override {
    switch (kernels_.path) {
      case KernelPath::kAmx:
        return "cpu-amxbf16-1";
      case KernelPath::kAvx512Bf16:
        return "cpu-vdpbf16-1";
      default:
        return "cpu-f32-1";
    }
  }

  ActivationTypes activation_types() const override { return {}; }
  std::string layout_id() const override { return kPackedLayoutId; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    absl::StatusOr<HugeBuffer> memory = TakeMemory(bytes);
    if (!memory.ok()) return memory.status();
    return std::make_unique<CpuBuffer>(*std::move(memory), bytes);
  }

  absl::StatusOr<std::unique_ptr<Matrix>> NewMatrix(const MatrixSpec& spec) override {
    const size_t bytes = static_cast<size_t>(PackedMatrix::BytesFor(spec));
    absl::StatusOr<HugeBuffer> memory = TakeMemory(bytes);
    if (!memory.ok()) return memory.status();
    return std::make_unique<PackedMatrix>(spec, *std::move(memory));
  }

  void PackRows(const MatrixRows& rows, Matrix& matrix) override {
    static_cast<PackedMatrix&>(matrix).PackRows(rows, pool_);
  }

  void CopyToDevice(const void* host, size_t bytes, void* device) override {
    std::memcpy(device, host, bytes);
  }

  void CopyToHost(const void* device, size_t bytes, void* host) override {
    std::memcpy(host, device, bytes);
  }

  const Batch& Upload(const Batch& batch, const SamplingBatch& sampling) override {
    sampling_batch_ = sampling;
    return batch;
  }

  void Embed(const Matrix& table, const Batch& batch, Tensor out) override {
    tuppence::Embed(Packed(table), batch, out, pool_);
  }

  void RopeAngles(const Batch& batch, Tensor frequencies,
                  std::span<const float, 2> attention_factors, Tensor out) override {
    tuppence::RopeAngles(batch, frequencies, attention_factors, out, pool_);
  }

  void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor out) override {
    Norm(x, nullptr, weight, epsilon, out, kernels_, pool_);
  }

  void AddNorm(Tensor residual, Tensor delta, Tensor weight, float epsilon, Tensor out) override {
    Norm(residual, &delta, weight, epsilon, out, kernels_, pool_);
  }

  void Matmul(Tensor x, const Matrix& w, Tensor out) override {
    CHECK(!Packed(w).gated());
    matmul_.Run(x, Packed(w), out);
  }

  void GatedMatmul(Tensor x, const Matrix& w, Tensor out) override {
    CHECK(Packed(w).gated());
    matmul_.Run(x, Packed(w), out);
  }

  void RopeStore(Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
                 const KvLayer& cache) override {
    tuppence::RopeStore(qkv, angles, shape, batch, cache, kernels_, pool_);
  }

  void Attention(Tensor qkv, const AttentionShape& shape, const Batch& batch, const KvLayer& cache,
                 Tensor out) override {
    attention_.Run(qkv, shape, batch, cache, out);
  }

  void SelectRows(Tensor x, const Batch& batch, Tensor out) override {
    tuppence::SelectRows(x, batch, out);
  }

  void CopyBlocks(std::span<const int32_t> from, std::span<const int32_t> to,
                  const KvLayer& cache) override {
    tuppence::CopyBlocks(from, to, cache);
  }

  void ZeroBlocks(std::span<const int32_t> blocks, const KvLayer& cache) override {
    tuppence::ZeroBlocks(blocks, cache);
  }

  void Sample(Tensor logits, std::span<SampledToken> out) override {
    sampling_.Run(logits, sampling_batch_, out);
  }

  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  // Pages are taken here and now: a system that promises more than it has would otherwise stop us
  // in the middle of a step.
  absl::StatusOr<HugeBuffer> TakeMemory(size_t bytes) {
    const CpuResources found = FindCpuResources();
    if (bytes > static_cast<size_t>(found.memory_available_bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("need ", bytes, " bytes of memory; ", found.memory_available_bytes,
                       " are available of a limit of ", found.memory_limit_bytes,
                       "; free memory, or take smaller --weights or --kv-memory"));
    }
    absl::StatusOr<HugeBuffer> memory = HugeBuffer::Map(bytes);
    if (!memory.ok()) return memory;
    constexpr size_t kPage = 4096, kPiece = size_t{32} << 20;
    auto* const first = static_cast<volatile char*>(memory->data());
    const size_t size = memory->bytes();
    pool_.ParallelFor(static_cast<int64_t>((size + kPiece - 1) / kPiece), [&](int64_t piece, int) {
      const size_t last = std::min(size, (static_cast<size_t>(piece) + 1) * kPiece);
      for (size_t at = static_cast<size_t>(piece) * kPiece; at < last; at += kPage) first[at] = 0;
    });
    return memory;
  }

  const Kernels kernels_;
  ThreadPool pool_;
  MatmulOp matmul_;
  AttentionOp attention_;
  SamplingOp sampling_;
  SamplingBatch sampling_batch_;  // of the last Upload
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuOptions& options) {
  constexpr int kThreadsMax = 1024;
  if (options.threads < 0 || options.threads > kThreadsMax) {
    return absl::InvalidArgumentError(absl::StrCat("threads is ", options.threads,
                                                   "; allowed are 0 (as many as this process may "
                                                   "use) to ",
                                                   kThreadsMax));
  }
  const CpuFeatures features = DetectCpuFeatures();
  const absl::StatusOr<KernelChoice> choice = ChooseKernelPath(options.path, features);
  if (!choice.ok()) return choice.status();
  const int threads = options.threads > 0 ? options.threads : FindCpuResources().threads;
  return std::make_unique<CpuBackend>(KernelsOf(choice->path, features), threads);
}

}  // namespace tuppence
