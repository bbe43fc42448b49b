#include "cpu/rope.h"

#include <cmath>
#include <cstring>

#include "model/check.h"

namespace tuppence {

namespace {

// One token's K or V of one KV head goes to its row of the pages.
void StoreHead(const float* x, Tensor pages, Tensor scales, int64_t row, const Kernels& kernels) {
  const int64_t dim = pages.shape[3];
  switch (pages.type) {
    case DType::kF32:
      std::memcpy(pages.as<float>() + row * dim, x, static_cast<size_t>(dim) * sizeof(float));
      return;
    case DType::kBf16:
      kernels.store_bf16(x, dim, pages.as<uint16_t>() + row * dim);
      return;
    case DType::kI8:
      kernels.store_int8(x, dim, pages.as<int8_t>() + row * dim, scales.as<uint16_t>() + row);
      return;
    default:
      CHECK(false);
  }
}

size_t BlockBytes(Tensor pages) {
  return pages.shape[0] == 0 ? 0 : pages.bytes() / static_cast<size_t>(pages.shape[0]);
}

template <typename Body>
void ForEachPages(const KvLayer& cache, const Body& body) {
  for (const Tensor& pages : {cache.keys, cache.values, cache.key_scales, cache.value_scales}) {
    if (pages.data != nullptr) body(static_cast<std::byte*>(pages.data), BlockBytes(pages));
  }
}

}  // namespace

// The angle is rounded to f32, as published; its sine and cosine are taken in double, so that they
// are the nearest f32 on every machine. Once a step, for all layers.
void RopeAngles(const Batch& batch, Tensor frequencies, std::span<const float, 2> attention_factors,
                Tensor out, ThreadPool& pool) {
  const int64_t half = frequencies.shape[1];
  CHECK_EQ(frequencies.shape[0], 2);
  CHECK_EQ(out.shape[0], batch.tokens());
  CHECK_EQ(out.shape[1], 2 * half);
  pool.ParallelFor(batch.tokens(), [&](int64_t token, int) {
    const int regime = static_cast<int>(batch.regimes[token]);
    const float position = static_cast<float>(batch.positions[token]);
    const float* const frequency = frequencies.as<float>() + regime * half;
    float* const angles = out.as<float>() + token * 2 * half;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position * frequency[i]);
      angles[i] = static_cast<float>(std::cos(angle)) * attention_factors[regime];
      angles[half + i] = static_cast<float>(std::sin(angle)) * attention_factors[regime];
    }
  });
}

void RopeStore(Tensor qkv, Tensor angles, const AttentionShape& shape, const Batch& batch,
               const KvLayer& cache, const Kernels& kernels, ThreadPool& pool) {
  const int64_t dim = shape.head_dim, rotary = angles.shape[1];
  const int64_t stride = qkv.shape[1];
  const int64_t block_tokens = cache.keys.shape[2];
  CHECK_EQ(stride, (shape.heads + 2 * shape.kv_heads) * dim);
  CHECK_EQ(qkv.shape[0], batch.tokens());
  CHECK_EQ(angles.shape[0], batch.tokens());
  CHECK_LE(rotary, dim);
  CHECK_EQ(cache.keys.shape[1], shape.kv_heads);
  CHECK_EQ(cache.keys.shape[3], dim);
  pool.ParallelFor(batch.tokens(), [&](int64_t token, int) {
    float* const row = qkv.as<float>() + token * stride;
    const float* const angle = angles.as<float>() + token * rotary;
    for (int64_t head = 0; head < shape.heads + shape.kv_heads; ++head) {
      kernels.rotate_head(row + head * dim, angle, rotary / 2);
    }
    const int64_t block = batch.slots[token] / block_tokens;
    const int64_t offset = batch.slots[token] % block_tokens;
    CHECK_LT(block, cache.keys.shape[0]);
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      const int64_t page_row = (block * shape.kv_heads + head) * block_tokens + offset;
      const float* const key = row + (shape.heads + head) * dim;
      StoreHead(key, cache.keys, cache.key_scales, page_row, kernels);
      StoreHead(key + shape.kv_heads * dim, cache.values, cache.value_scales, page_row, kernels);
    }
  });
}

void CopyBlocks(std::span<const int32_t> from, std::span<const int32_t> to, const KvLayer& cache) {
  CHECK_EQ(from.size(), to.size());
  ForEachPages(cache, [&](std::byte* pages, size_t bytes) {
    for (size_t i = 0; i < from.size(); ++i) {
      std::memcpy(pages + to[i] * bytes, pages + from[i] * bytes, bytes);
    }
  });
}

void ZeroBlocks(std::span<const int32_t> blocks, const KvLayer& cache) {
  ForEachPages(cache, [&](std::byte* pages, size_t bytes) {
    for (const int32_t block : blocks) std::memset(pages + block * bytes, 0, bytes);
  });
}

}  // namespace tuppence
