// Config: what a Phi3ForCausalLM checkpoint says about its own shape and arithmetic, with every
// field checked. Read from config.json and generation_config.json; read by the loaders, the layer
// sequence, the KV cache, the scheduler's limits and `serve --check`.
//
// The Phi-3 family differs in data only: grouped KV heads, LongRoPE, partial rotary dimensions, a
// sliding window, tied embeddings. What would need other arithmetic (Phi-3-small, Phi-3.5-MoE, the
// multimodal models, biases, a quantised checkpoint) is refused by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tensor.h"

namespace tuppence {

// LongRoPE (Ding et al. 2024, arXiv:2402.13753): each rotary frequency is divided by its own
// factor; one list serves lengths up to positions_original, the other those above.
struct LongRope {
  std::vector<float> short_factor;  // [rotary_dim / 2]
  std::vector<float> long_factor;   // [rotary_dim / 2]
  // Where the checkpoint states them, they replace the formula for the attention factor.
  std::optional<double> attention_factor;  // both regimes
  std::optional<double> short_mscale;      // one regime each
  std::optional<double> long_mscale;
};

struct Config {
  int32_t layers = 0;
  int32_t hidden = 0;  // multiple of 8
  int32_t heads = 0;
  int32_t kv_heads = 0;      // divides heads
  int32_t head_dim = 0;      // multiple of 8, at most 256
  int32_t intermediate = 0;  // of the gate, and of the up half; multiple of 8
  int32_t vocab = 0;         // rows of the embedding, padding included; any number
  int32_t positions_max = 0;
  int32_t positions_original = 0;  // lengths above take LongRoPE's long factors; <= positions_max
  int32_t sliding_window = 0;      // keys a query sees, itself included; 0: all
  int32_t rotary_dim = 0;          // even, <= head_dim; the other dimensions of a head pass through
  float rms_norm_epsilon = 0;
  double rope_base = 0;
  std::optional<LongRope> long_rope;
  bool tied_embeddings = false;

  int32_t bos_id = -1;            // -1: none
  int32_t pad_id = -1;            // -1: none
  std::vector<int32_t> stop_ids;  // eos of both files, sorted; the chat template adds its end token
  DType dtype = DType::kBf16;  // of the tensors, by which memory is planned; the files must agree
  std::vector<std::string> unknown_fields;  // of config.json: nothing here knows what they are for

  int32_t qkv_rows() const { return (heads + 2 * kv_heads) * head_dim; }
  int32_t attention_cols() const { return heads * head_dim; }
  // The longest length that uses the short factors; without LongRoPE every length does.
  int32_t short_rope_tokens_max() const {
    return long_rope.has_value() ? positions_original : positions_max;
  }
  // Numbers in the checkpoint; tied embeddings are counted once.
  int64_t parameters() const;
};

// Reads FOLDER/config.json and, where it exists, FOLDER/generation_config.json.
// Errors name the file, the field, the value found, what is allowed and the way out.
absl::StatusOr<Config> ReadConfig(const std::string& folder);

// The same from text. An empty generation_text means that there is no such file.
absl::StatusOr<Config> ParseConfig(std::string_view config_text, std::string_view generation_text);

}  // namespace tuppence
