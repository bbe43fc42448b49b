// RmsNorm and AddNorm over the rows of a step.
#pragma once

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "model/tensor.h"

namespace tuppence {

// As Backend::RmsNorm, and as Backend::AddNorm where there is a delta (x is then the residual).
void Norm(Tensor x, const Tensor* delta, Tensor weight, float epsilon, Tensor out,
          const Kernels& kernels, ThreadPool& pool);

}  // namespace tuppence
