// RopeAngles, RopeStore and the copying of cache blocks: everything that writes the KV cache.
#pragma once

#include <span>

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "model/batch.h"
#include "model/tensor.h"

namespace tuppence {

// As the ops of the same names in Backend.
void RopeAngles(const Batch& batch, Tensor frequencies, std::span<const float, 2> attention_factors,
                Tensor out, ThreadPool& pool);
void RopeStore(Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
               const KvLayer& cache, const Kernels& kernels, ThreadPool& pool);
void CopyBlocks(std::span<const int32_t> from, std::span<const int32_t> to, const KvLayer& cache);
void ZeroBlocks(std::span<const int32_t> blocks, const KvLayer& cache);

}  // namespace tuppence
