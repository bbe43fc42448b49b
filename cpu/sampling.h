// Sampling: from a row of logits to one token, or to log-probabilities, as batch.h describes.
#pragma once

#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "model/backend.h"

namespace tuppence {

class SamplingOp {
 public:
  SamplingOp(const Kernels& kernels, ThreadPool& pool);

  // As Backend::Sample. A row with nothing left to draw (every mapped id at -infinity) is reported
  // as not_finite too.
  void Run(Tensor logits, const SamplingBatch& batch, std::span<SampledToken> out);

 private:
  // Memory of one thread; the vectors keep their capacity.
  struct Workspace {
    Scratch adjusted;
    Scratch weights;
    std::vector<int32_t> border;  // ids of the bucket that a limit falls into
  };

  SampledToken SampleRow(std::span<const float> logits, const SamplingRow& row,
                         std::span<const uint64_t> mapped_ids, Workspace& workspace) const;
  int32_t DrawToken(std::span<const float> adjusted, float max, const SamplingRow& row,
                    Workspace& workspace) const;

  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<Workspace> workspaces_;
};

}  // namespace tuppence
