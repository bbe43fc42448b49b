// One call for each op on host vectors: what goes in is copied to the backend's memory in the types
// that it takes, what comes out is copied back as f32. So the body of an op test does not know
// which backend it runs on.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "model/backend.h"
#include "tests/support/reference_ops.h"

namespace tuppence::testing {

// A tensor in the backend's memory, rounded to its type; each its own allocation, so that an
// emulated kernel that leaves one is caught.
class DeviceTensor {
 public:
  DeviceTensor(Backend& backend, DType type, std::initializer_list<int64_t> shape,
               std::span<const float> values = {});

  const Tensor& view() const { return view_; }
  std::vector<float> Read() const;

 private:
  Backend& backend_;
  std::unique_ptr<Buffer> memory_;
  Tensor view_;
};

// What the backend makes of a matmul's input, or of K, V and q: rounded to its 16-bit type.
std::vector<float> Seen(const Backend& backend, std::vector<float> values);

// Packed in ranges of uneven size, as a loader may hand them over.
std::unique_ptr<Matrix> Pack(Backend& backend, const HostMatrix& host);

std::vector<float> RunEmbed(Backend& backend, const Matrix& table, const Batch& batch);
// Matmul, or GatedMatmul for a paired weight.
std::vector<float> RunMatmul(Backend& backend, const std::vector<float>& x, const Matrix& w);
std::vector<float> RunNorm(Backend& backend, const std::vector<float>& x,
                           const std::vector<float>& weight, float epsilon);
// residual becomes the sum.
std::vector<float> RunAddNorm(Backend& backend, std::vector<float>& residual,
                              const std::vector<float>& delta, const std::vector<float>& weight,
                              float epsilon);
std::vector<float> RunRopeAngles(Backend& backend, const Batch& batch,
                                 const std::vector<float>& frequencies,
                                 const std::array<float, 2>& factors);
// qkv is turned in place, the cache is written.
void RunRopeStore(Backend& backend, std::vector<float>& qkv, const std::vector<float>& angles,
                  const AttentionShape& shape, const Batch& batch, HostKvLayer& cache);
std::vector<float> RunAttention(Backend& backend, const std::vector<float>& qkv,
                                const AttentionShape& shape, const Batch& batch,
                                HostKvLayer& cache);
std::vector<float> RunSelectRows(Backend& backend, const std::vector<float>& x, const Batch& batch);
void RunCopyBlocks(Backend& backend, const std::vector<int32_t>& from,
                   const std::vector<int32_t>& to, HostKvLayer& cache);
void RunZeroBlocks(Backend& backend, const std::vector<int32_t>& blocks, HostKvLayer& cache);
std::vector<SampledToken> RunSample(Backend& backend, const std::vector<float>& logits,
                                    int64_t logit_rows, const SamplingBatch& batch);

}  // namespace tuppence::testing
