// Phi3: the layer sequence, once, for every backend and every variant of the family. What differs
// between variants is data in Config; what differs between devices is behind Backend.
// Used by scheduler/phi3_executor. Thread: the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/backend.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/weights.h"

namespace tuppence {

class Phi3 {
 public:
  // Takes the memory that a step of up to `tokens_max` tokens and `logit_rows_max` logit rows
  // needs; steps allocate nothing. `weights` and `backend` outlive the model.
  static absl::StatusOr<Phi3> Make(const Config& config, const Weights& weights, Backend& backend,
                                   int32_t tokens_max, int32_t logit_rows_max);

  // Bytes that Make takes, for the memory plan.
  static int64_t ScratchBytes(const Config& config, const ActivationTypes& types,
                              int32_t tokens_max, int32_t logit_rows_max);

  // Runs the step's tokens through the layers, writes their K and V to the cache, and leaves the
  // wanted logits in the result: f32 [batch.logit_rows(), vocab], valid until the next Forward.
  // `sampling` is what the backend's Sample will draw from them.
  Tensor Forward(const Batch& batch, const SamplingBatch& sampling, const KvCache& cache);

 private:
  // Activations of one step, each with its most rows; Forward takes the first `tokens` of them.
  // (in): of the type that matmuls take; the others of the stream's, or f32 where it says so.
  struct Scratch {
    Tensor residual;     // [tokens, hidden]
    Tensor normed;       // (in) [tokens, hidden]
    Tensor delta;        // [tokens, hidden]
    Tensor qkv;          // [tokens, (heads + 2 * kv_heads) * head_dim]
    Tensor attended;     // (in) [tokens, heads * head_dim]
    Tensor gated;        // (in) [tokens, intermediate]
    Tensor angles;       // f32 [tokens, rotary_dim]
    Tensor last;         // (in) [rows, hidden]
    Tensor logits;       // f32 [rows, vocab]
    Tensor frequencies;  // f32 [2, rotary_dim / 2]
  };
  static Scratch Shapes(const Config& config, const ActivationTypes& types, int32_t tokens_max,
                        int32_t logit_rows_max);

  Config config_;
  const Weights* weights_ = nullptr;
  Backend* backend_ = nullptr;
  AttentionShape shape_;
  std::array<float, 2> attention_factors_ = {1, 1};
  Scratch scratch_;
  std::unique_ptr<Buffer> memory_;
};

}  // namespace tuppence
