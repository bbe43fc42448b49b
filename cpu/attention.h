// Attention: cuts the step into items (queries of one entry, and one KV head or some) and runs them
// on the threads. The arithmetic is in attention_kernel.h and does not depend on how items are cut.
#pragma once

#include <vector>

#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "model/batch.h"
#include "model/tensor.h"

namespace tuppence {

class AttentionOp {
 public:
  AttentionOp(const Kernels& kernels, ThreadPool& pool);

  // As Backend::Attention.
  void Run(Tensor qkv, const AttentionShape& shape, const Batch& batch, const KvLayer& cache,
           Tensor out);

 private:
  struct Item {
    int32_t entry;
    int32_t first_token;
    int32_t token_count;
    int32_t kv_head, kv_heads;
  };

  void CutItems(const AttentionShape& shape, const Batch& batch);
  AttentionCall CallFor(const Item& item, const AttentionCall& common, const Batch& batch) const;
  void RunWhole(const AttentionCall& common, const Batch& batch);
  // Few items and long sequences: the splits of an item run side by side and are merged in order.
  void RunSplits(const AttentionCall& common, const Batch& batch, int32_t splits);

  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<Item> items_;
  int32_t item_queries_max_ = 0;  // of the current items
  Scratch partials_;
  std::vector<Scratch> thread_scratch_;
};

}  // namespace tuppence
