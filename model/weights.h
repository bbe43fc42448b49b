// Weights: every tensor of a Phi-3 model in the layout that its backend's kernels read. Loaded once
// at start-up, then read only; owned by model/phi3.
//
// Loading checks names and shapes against the config before it reads anything. Each tensor is then
// read once, in row chunks through a bounded staging buffer, searched for NaN and infinity,
// converted or quantised by model/quantize and handed to the backend, so that the peak is the
// weights themselves plus the staging buffers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/backend.h"
#include "model/config.h"
#include "model/weight_format.h"
#include "model/weight_source.h"

namespace tuppence {

struct LayerWeights {
  Tensor input_norm;                // f32 [hidden]
  std::unique_ptr<Matrix> qkv;      // [(heads + 2 * kv_heads) * head_dim, hidden]
  std::unique_ptr<Matrix> o;        // [hidden, heads * head_dim]
  Tensor post_norm;                 // f32 [hidden]
  std::unique_ptr<Matrix> gate_up;  // [2 * intermediate, hidden], RowPairing::kGateUp
  std::unique_ptr<Matrix> down;     // [hidden, intermediate]
};

struct Weights {
  std::unique_ptr<Matrix> embedding;  // [vocab, hidden], as stored: f32, bf16 or f16
  std::vector<LayerWeights> layers;
  Tensor final_norm;  // f32 [hidden]

  // The output head, [vocab, hidden]: the embedding itself where they are tied and of one format.
  const Matrix& head() const { return own_head ? *own_head : *embedding; }

  int64_t bytes = 0;  // of all matrices and norms, as the backend keeps them

  std::string cache_note;  // what came of WeightOptions::cache_path, for the log

  std::unique_ptr<Matrix> own_head;  // null: shared with the embedding
  std::unique_ptr<Buffer> norms;     // f32 [2 * layers + 1, hidden]; the norm tensors view it
};

struct WeightOptions {
  // Of the layers' matrices. The head is of HeadFormat(format); the embedding and the norms stay as
  // stored.
  WeightFormat format;
  // Of one row chunk as stored; at least one row is read.
  int64_t staging_bytes = int64_t{16} << 20;
  // A weight cache (model/weight_cache.h) to read where it fits these weights, and to write where
  // not; "": none. What goes wrong with it is noted and costs time only.
  std::string cache_path = {};
  // Called after each tensor with the bytes read so far and in all; may be empty.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress = {};
};

absl::StatusOr<Weights> LoadWeights(const Config& config, WeightSource& source,
                                    const WeightOptions& options, Backend& backend);

// What the weights of a config take, without loading them. A backend may pad its layout.
struct WeightPlan {
  int64_t embedding_bytes = 0;
  int64_t layers_bytes = 0;  // qkv, o, gate_up, down of all layers
  int64_t norms_bytes = 0;
  int64_t head_bytes = 0;     // 0: shared with the embedding
  int64_t staging_bytes = 0;  // while loading only
  int64_t total_bytes() const { return embedding_bytes + layers_bytes + norms_bytes + head_bytes; }
};
WeightPlan PlanWeights(const Config& config, const WeightOptions& options);

}  // namespace tuppence
