// The layer sequence. Source: the published Phi3ForCausalLM (transformers, modeling_phi3.py).
#include "model/phi3.h"

#include <cmath>
#include <utility>

#include "model/rope_table.h"

namespace tuppence {
namespace {

constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Phi3::Scratch Phi3::Shapes(const Config& config, const ActivationTypes& types, int32_t tokens_max,
                           int32_t logit_rows_max) {
  const int64_t qkv_rows = int64_t{config.heads + 2 * config.kv_heads} * config.head_dim;
  const int64_t attended = int64_t{config.heads} * config.head_dim;
  Scratch s;
  s.residual = Tensor(nullptr, types.stream, {tokens_max, config.hidden});
  s.normed = Tensor(nullptr, types.matmul_input, {tokens_max, config.hidden});
  s.delta = Tensor(nullptr, types.stream, {tokens_max, config.hidden});
  s.qkv = Tensor(nullptr, types.stream, {tokens_max, qkv_rows});
  s.attended = Tensor(nullptr, types.matmul_input, {tokens_max, attended});
  s.gated = Tensor(nullptr, types.matmul_input, {tokens_max, config.intermediate});
  s.angles = Tensor(nullptr, DType::kF32, {tokens_max, config.rotary_dim});
  s.last = Tensor(nullptr, types.matmul_input, {logit_rows_max, config.hidden});
  s.logits = Tensor(nullptr, DType::kF32, {logit_rows_max, config.vocab});
  s.frequencies = Tensor(nullptr, DType::kF32, {2, config.rotary_dim / 2});
  return s;
}

int64_t Phi3::ScratchBytes(const Config& config, const ActivationTypes& types, int32_t tokens_max,
                           int32_t logit_rows_max) {
  const Scratch s = Shapes(config, types, tokens_max, logit_rows_max);
  int64_t bytes = 0;
  for (const Tensor* tensor : {&s.residual, &s.normed, &s.delta, &s.qkv, &s.attended, &s.gated,
                               &s.angles, &s.last, &s.logits, &s.frequencies}) {
    bytes += Aligned(static_cast<int64_t>(tensor->bytes()));
  }
  return bytes;
}

absl::StatusOr<Phi3> Phi3::Make(const Config& config, const Weights& weights, Backend& backend,
                                int32_t tokens_max, int32_t logit_rows_max) {
  CHECK_GT(tokens_max, 0);
  CHECK_GT(logit_rows_max, 0);
  const ActivationTypes types = backend.activation_types();
  Phi3 model;
  model.config_ = config;
  model.weights_ = &weights;
  model.backend_ = &backend;
  model.shape_ = {.heads = config.heads,
                  .kv_heads = config.kv_heads,
                  .head_dim = config.head_dim,
                  .scale = static_cast<float>(1.0 / std::sqrt(double(config.head_dim))),
                  .sliding_window = config.sliding_window};

  absl::StatusOr<std::unique_ptr<Buffer>> memory = backend.Allocate(
      static_cast<size_t>(ScratchBytes(config, types, tokens_max, logit_rows_max)));
  if (!memory.ok()) return memory.status();
  model.memory_ = *std::move(memory);
  model.scratch_ = Shapes(config, types, tokens_max, logit_rows_max);
  Scratch& s = model.scratch_;
  char* at = static_cast<char*>(model.memory_->data());
  for (Tensor* tensor : {&s.residual, &s.normed, &s.delta, &s.qkv, &s.attended, &s.gated, &s.angles,
                         &s.last, &s.logits, &s.frequencies}) {
    tensor->data = at;
    at += Aligned(static_cast<int64_t>(tensor->bytes()));
  }

  const RopeTable rope = MakeRopeTable(config);
  model.attention_factors_ = rope.attention_factors;
  CHECK_EQ(rope.frequencies.size() * sizeof(float), s.frequencies.bytes());
  backend.CopyToDevice(rope.frequencies.data(), s.frequencies.bytes(), s.frequencies.data);
  return model;
}

Tensor Phi3::Forward(const Batch& host_batch, const SamplingBatch& sampling, const KvCache& cache) {
  Backend& op = *backend_;
  const Weights& w = *weights_;
  const float epsilon = config_.rms_norm_epsilon;
  const Batch& batch = op.Upload(host_batch, sampling);
  const int64_t tokens = batch.tokens();
  const int64_t rows = batch.logit_rows();

  const Tensor residual = scratch_.residual.First(tokens);
  const Tensor normed = scratch_.normed.First(tokens);
  const Tensor delta = scratch_.delta.First(tokens);
  const Tensor qkv = scratch_.qkv.First(tokens);
  const Tensor attended = scratch_.attended.First(tokens);
  const Tensor gated = scratch_.gated.First(tokens);
  const Tensor angles = scratch_.angles.First(tokens);
  const Tensor last = scratch_.last.First(rows);
  const Tensor logits = scratch_.logits.First(rows);

  op.Embed(*w.embedding, batch, residual);
  op.RopeAngles(batch, scratch_.frequencies, attention_factors_, angles);
  op.RmsNorm(residual, w.layers[0].input_norm, epsilon, normed);
  for (int32_t i = 0; i < config_.layers; ++i) {
    const LayerWeights& layer = w.layers[i];
    const Tensor next_norm = i + 1 < config_.layers ? w.layers[i + 1].input_norm : w.final_norm;
    op.Matmul(normed, *layer.qkv, qkv);
    op.RopeStore(qkv, angles, shape_, batch, cache.layer(i));
    op.Attention(qkv, shape_, batch, cache.layer(i), attended);
    op.Matmul(attended, *layer.o, delta);
    op.AddNorm(residual, delta, layer.post_norm, epsilon, normed);
    op.GatedMatmul(normed, *layer.gate_up, gated);
    op.Matmul(gated, *layer.down, delta);
    op.AddNorm(residual, delta, next_norm, epsilon, normed);
  }
  if (rows > 0) {
    op.SelectRows(normed, batch, last);
    op.Matmul(last, w.head(), logits);
  }
  return logits;
}

}  // namespace tuppence
