// Backend: the ops that a Phi-3 layer is made of, behind virtual functions. cpu/ and cuda/
// implement it; model/phi3 is its only caller during a step.
//
// Ops enqueue work and return at once where the device allows it. A wrong shape is our own mistake
// and is CHECKed; a device's failure comes out of Synchronize() once per step.
// Thread: the engine's, except NewMatrix, PackRows and Allocate, which loading calls before it
// starts.
//
// The arithmetic contract: a row's result depends on that row, the weights and the sequence's own
// pages; never on the other rows, the number of rows, the chunking or the number of threads.
//
// Dimension names: tokens, hidden, heads, kv_heads, head_dim, rotary_dim, intermediate, vocab,
// rows (logit rows), blocks, block_tokens. Activations are of the types that activation_types()
// says.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/batch.h"
#include "model/kv_layout.h"
#include "model/tensor.h"

namespace tuppence {

enum class WeightType : uint8_t { kF32, kBf16, kF16, kInt8, kInt4 };

// How a weight is kept. Quantised types carry one f16 scale for each group of `group` values along
// K (the last group of a row may be short).
struct WeightFormat {
  WeightType type = WeightType::kBf16;
  int32_t group = 0;  // quantised types only: 32 to 128; 0 otherwise

  bool quantised() const { return type == WeightType::kInt8 || type == WeightType::kInt4; }
};

// Rows of a weight in the canonical form of its format, on the host, made by model/quantize.
//   values  f32, bf16 or f16 [rows, cols]; int8 codes, one byte each, [rows, cols] for int8 and
//   int4 scales  f16 bits [rows, ceil(cols / group)]; quantised types only
struct MatrixRows {
  WeightFormat format;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* values = nullptr;
  const uint16_t* scales = nullptr;
};

// Whether the rows of a weight belong together two by two: gate_up_proj has its gate rows first and
// its up rows second, and GatedMatmul wants row i of each side by side.
enum class RowPairing : uint8_t { kNone, kGateUp };

struct MatrixSpec {
  int64_t rows = 0;  // N, outputs
  int64_t cols = 0;  // K, inputs
  WeightFormat format;
  RowPairing pairing = RowPairing::kNone;
};

// A weight in the layout that its backend's kernels read. Made by Backend::NewMatrix, filled row
// range by row range, then read only.
class Matrix {
 public:
  virtual ~Matrix() = default;
  const MatrixSpec& spec() const { return spec_; }
  virtual int64_t bytes() const = 0;
  // The layout itself, where it lies in the host's memory and Backend::layout_id() names it: what a
  // weight cache keeps.
  virtual std::span<std::byte> host_bytes() { return {}; }

 protected:
  explicit Matrix(const MatrixSpec& spec) : spec_(spec) {}

 private:
  MatrixSpec spec_;
};

// Device memory that gives itself back.
class Buffer {
 public:
  virtual ~Buffer() = default;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 protected:
  Buffer(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  void* data_;
  size_t bytes_;
};

struct AttentionShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0;             // on q.k; 1 / sqrt(head_dim) for the published models
  int32_t sliding_window = 0;  // keys a query sees, itself included; 0: all
};

// Types of a step's activations. `stream`: the residual, and what Matmul gives (the logits are f32
// always). `matmul_input`: what matmuls take, so also what norms, Attention and GatedMatmul give.
struct ActivationTypes {
  DType stream = DType::kF32;
  DType matmul_input = DType::kF32;
};

// Tensors of one sampled step, over the whole vocabulary.
struct SamplingBatch {
  std::span<const SamplingRow> rows;
  // One bit each: ids that the tokenizer maps. Others are never drawn. [ceil(vocab / 64)]
  std::span<const uint64_t> mapped_ids;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu", "cuda"; and the arithmetic id: what must be equal for equal bits (kernel path, types).
  virtual std::string name() const = 0;
  virtual std::string arithmetic_id() const = 0;
  virtual ActivationTypes activation_types() const = 0;
  // Names how weights lie in memory; equal ids read one another's. "": not to be kept in files.
  virtual std::string layout_id() const { return ""; }

  // Electrical power that the device takes now, where that can be read. Thread: any.
  virtual std::optional<double> watts() const { return std::nullopt; }

  // Memory, zeroed. RESOURCE_EXHAUSTED with the numbers when there is not enough.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<Matrix>> NewMatrix(const MatrixSpec& spec) = 0;
  // Puts rows [first_row, first_row + rows) where the kernels want them. Row numbers are the
  // checkpoint's; the backend alone interleaves paired rows.
  virtual void PackRows(const MatrixRows& rows, Matrix& matrix) = 0;
  // Copies host bytes to device memory at load (norm weights).
  virtual void CopyToDevice(const void* host, size_t bytes, void* device) = 0;
  // The other way, after all that is enqueued; for tests and tools.
  virtual void CopyToHost(const void* device, size_t bytes, void* host) = 0;

  // Makes the step's arrays readable by the ops, and those of `sampling` by Sample; the caller's
  // stay as they are until Synchronize. Steps of equal shape find theirs at equal addresses.
  virtual const Batch& Upload(const Batch& batch, const SamplingBatch& sampling) = 0;

  // out[t] = table row token_ids[t].      table [vocab, hidden] unquantised, out [tokens, hidden]
  virtual void Embed(const Matrix& table, const Batch& batch, Tensor out) = 0;

  // out[t, i] = cos(angle) * factor, out[t, half + i] = sin(angle) * factor, where
  // angle = position[t] * frequencies[regime[t], i] in f32, and i < half = rotary_dim / 2.
  //   frequencies  f32 [2, half]    attention_factors  one for each regime
  //   out          f32 [tokens, rotary_dim]
  virtual void RopeAngles(const Batch& batch, Tensor frequencies,
                          std::span<const float, 2> attention_factors, Tensor out) = 0;

  // out[t] = x[t] / sqrt(mean(x[t]^2) + epsilon) * weight; sums in f32.
  //   x, out [tokens, hidden], may be the same; weight f32 [hidden]
  // Source: Zhang & Sennrich 2019, arXiv:1910.07467.
  virtual void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor out) = 0;

  // residual[t] += delta[t]; out[t] = RmsNorm(residual[t]).   all [tokens, hidden]
  virtual void AddNorm(Tensor residual, Tensor delta, Tensor weight, float epsilon, Tensor out) = 0;

  // out[t, n] = sum over k of x[t, k] * w[n, k].   x [tokens, K], out [tokens, N] (f32 for the
  // head)
  virtual void Matmul(Tensor x, const Matrix& w, Tensor out) = 0;

  // out[t, i] = silu(x[t] . gate[i]) * (x[t] . up[i]);  silu(g) = g / (1 + exp(-g)).
  //   w [2 * intermediate, K] with RowPairing::kGateUp, out [tokens, intermediate]
  virtual void GatedMatmul(Tensor x, const Matrix& w, Tensor out) = 0;

  // Rotates the first rotary_dim values of each q and k head in place (pairs i and i + half), then
  // writes k and v of each token to its slot, rounded or quantised to the cache's type.
  //   qkv     [tokens, (heads + 2 * kv_heads) * head_dim]
  //   angles  f32 [tokens, rotary_dim], from RopeAngles
  virtual void RopeStore(Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
                         const KvLayer& cache) = 0;

  // out[t, h] = sum over keys j of softmax(scale * q[t, h] . k[j]) v[j], where j runs over
  // positions max(0, p - sliding_window + 1) .. p of the token's sequence. K and V are read from
  // the pages alone, the step's own included, so RopeStore comes first.
  //   qkv  as above; only q is read      out  [tokens, heads * head_dim]
  virtual void Attention(Tensor qkv, const AttentionShape& shape, const Batch& batch,
                         const KvLayer& cache, Tensor out) = 0;

  // out[r] = x[logit_tokens[r]].    out [rows, hidden]
  virtual void SelectRows(Tensor x, const Batch& batch, Tensor out) = 0;

  // Copies whole blocks, K and V and scales, of one layer: block from[i] to block to[i].
  virtual void CopyBlocks(std::span<const int32_t> from, std::span<const int32_t> to,
                          const KvLayer& cache) = 0;
  // Zeroes whole blocks of one layer (a block that changes tenant is never readable).
  virtual void ZeroBlocks(std::span<const int32_t> blocks, const KvLayer& cache) = 0;

  // Draws one token for each sampling row of the last Upload, or scores one. Order of a draw:
  // mapped ids, banned ids and bias; repetition, presence, frequency penalty; temperature; top-k;
  // top-p; min-p; then Gumbel-max over the survivors with PhiloxUniform. Results are valid after
  // Synchronize().
  //   logits  f32 [rows, vocab], not changed      out  one for each sampling row
  virtual void Sample(Tensor logits, std::span<SampledToken> out) = 0;

  // Waits for everything enqueued; a device's failure comes out here.
  virtual absl::Status Synchronize() = 0;
};

}  // namespace tuppence
