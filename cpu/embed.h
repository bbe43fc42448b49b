// Embed and SelectRows: rows by index.
#pragma once

#include "cpu/packed_matrix.h"
#include "cpu/thread_pool.h"
#include "model/batch.h"
#include "model/tensor.h"

namespace tuppence {

// As Backend::Embed. The table is packed like any weight, so a tied embedding is the lm_head's own
// matrix; a row's values then lie 128 bytes apart: some 15 us a token from memory, against 100 ms
// for a step of the smallest published model.
void Embed(const PackedMatrix& table, const Batch& batch, Tensor out, ThreadPool& pool);

// As Backend::SelectRows.
void SelectRows(Tensor x, const Batch& batch, Tensor out);

}  // namespace tuppence
