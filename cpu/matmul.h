// Matmul: brings the rows into the form that the path's kernel reads and splits the panels of the
// weight among the threads.
#pragma once

#include <vector>

#include "cpu/kernels.h"
#include "cpu/packed_matrix.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "model/tensor.h"

namespace tuppence {

class MatmulOp {
 public:
  MatmulOp(const Kernels& kernels, ThreadPool& pool);

  // Both ops of Backend: which one is meant follows from the weight's pairing.
  //   x f32 [tokens, K], out f32 [tokens, w.outputs()]
  void Run(Tensor x, const PackedMatrix& w, Tensor out);

 private:
  void RunRows(const float* x, int64_t rows, const PackedMatrix& w, float* out);
  void PrepareRows(MatmulCall& call, const PackedMatrix& w);

  const Kernels& kernels_;
  ThreadPool& pool_;
  Scratch rows_;  // bf16 tiles, or int8 codes with scales and sums
  std::vector<Scratch> thread_scratch_;
};

}  // namespace tuppence
