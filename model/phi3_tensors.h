// The tensors of a Phi3ForCausalLM checkpoint: names and shapes, as the config demands them. Used
// by the weight loader, synthetic weights and the tests' tiny checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace tuppence {

struct Phi3Tensor {
  std::string name;
  std::vector<int64_t> shape;  // [rows, cols]; [hidden] for a norm
};

constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
constexpr char kFinalNormName[] = "model.norm.weight";
constexpr char kHeadName[] = "lm_head.weight";  // absent where embeddings are tied

// "model.layers.LAYER.PART.weight"
std::string LayerTensorName(int32_t layer, const std::string& part);
constexpr char kInputNormPart[] = "input_layernorm";
constexpr char kQkvPart[] = "self_attn.qkv_proj";  // rows: all Q heads, all K heads, all V heads
constexpr char kOutputPart[] = "self_attn.o_proj";
constexpr char kPostNormPart[] = "post_attention_layernorm";
constexpr char kGateUpPart[] = "mlp.gate_up_proj";  // rows: gate first, up second
constexpr char kDownPart[] = "mlp.down_proj";

// All of them, in the order in which the layers use them.
std::vector<Phi3Tensor> Phi3Tensors(const Config& config);

}  // namespace tuppence
