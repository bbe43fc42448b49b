// Every launcher of cuda/, one line of purpose each; shapes and formulas are those of
// model/backend.h. Each is in the file of its op: <op>.cu checks shapes and chooses the grid,
// <op>.cuh holds the kernels. Called by cuda_backend alone; enqueues and returns.
#pragma once

#include <span>

#include "cuda/device_batch.h"
#include "cuda/gpu.h"
#include "cuda/packed_matrix.h"
#include "model/backend.h"

namespace tuppence::TUPPENCE_DEVICE {

void Embed(Gpu& gpu, const PackedMatrix& table, const Batch& batch, Tensor out);
void SelectRows(Gpu& gpu, Tensor x, const Batch& batch, Tensor out);

// With `delta`, x += delta first.
void Norm(Gpu& gpu, Tensor x, const Tensor* delta, Tensor weight, float epsilon, Tensor out);

void RopeAngles(Gpu& gpu, const Batch& batch, Tensor frequencies,
                std::span<const float, 2> attention_factors, Tensor out);
void RopeStore(Gpu& gpu, Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
               const KvLayer& cache);
void CopyBlocks(Gpu& gpu, std::span<const int32_t> from, std::span<const int32_t> to,
                const KvLayer& cache);
void ZeroBlocks(Gpu& gpu, std::span<const int32_t> blocks, const KvLayer& cache);

// Also the gated form, for a paired weight.
void Matmul(Gpu& gpu, Tensor x, const PackedMatrix& w, Tensor out);
// out[t, i] = silu(gate_up[t, i]) * gate_up[t, columns + i].   f32 [rows, 2 columns]
void SiluMultiply(Gpu& gpu, Tensor gate_up, Tensor out);

// Rows of prefill entries and rows of decode entries; each takes its own and leaves the others'.
void AttendPrefill(Gpu& gpu, Tensor qkv, const AttentionShape& shape, const DeviceBatch& batch,
                   const KvLayer& cache, Tensor out);
// `partials`: kPartialFloatsMax floats for the states of splits.
void AttendDecode(Gpu& gpu, Tensor qkv, const AttentionShape& shape, const DeviceBatch& batch,
                  const KvLayer& cache, float* partials, Tensor out);
constexpr int64_t kPartialFloatsMax = int64_t{4} << 20;

// The device's form of a SamplingRow: ranges of the flat arrays of SamplingArrays.
struct SamplingJob {
  SamplingRow row;  // its spans are the host's, and empty
  int32_t bias_first = 0, bias_count = 0;
  int32_t count_first = 0, count_count = 0;
  int32_t banned_first = 0, banned_count = 0;
};
struct SamplingArrays {
  const SamplingJob* jobs = nullptr;
  const TokenBias* biases = nullptr;
  const TokenCount* counts = nullptr;
  const int32_t* banned_ids = nullptr;
  const uint64_t* mapped_ids = nullptr;
};
// `adjusted`: f32 [jobs, vocab] to work in.
void Sample(Gpu& gpu, Tensor logits, const SamplingArrays& arrays, int32_t jobs, float* adjusted,
            SampledToken* out);

}  // namespace tuppence::TUPPENCE_DEVICE
