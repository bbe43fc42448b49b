// See config_support.h. The tables below are the whole policy; the code only walks them.
#include "model/config_support.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

using nlohmann::json;

constexpr char kWayOut[] =
    "supported are Phi3ForCausalLM checkpoints (Phi-3-mini, Phi-3.5-mini, Phi-3-medium, "
    "Phi-4-mini, "
    "Phi-4) with f32, bf16 or f16 tensors; serve one of those";

struct KnownModel {
  const char* name;  // as in architectures or model_type
  const char* why;
};
constexpr KnownModel kKnownModels[] = {
    {"Phi3SmallForCausalLM", "is Phi-3-small: LayerNorm, GEGELU and blocksparse attention"},
    {"phi3small", "is Phi-3-small: LayerNorm, GEGELU and blocksparse attention"},
    {"PhiMoEForCausalLM", "is Phi-3.5-MoE: LayerNorm, biases and a mixture of experts"},
    {"phimoe", "is Phi-3.5-MoE: LayerNorm, biases and a mixture of experts"},
    {"Phi3VForCausalLM", "reads images"},
    {"phi3_v", "reads images"},
    {"Phi4MMForCausalLM", "reads images and sound and carries LoRA adapters"},
    {"phi4mm", "reads images and sound and carries LoRA adapters"},
    {"Phi4MultimodalForCausalLM", "reads images and sound and carries LoRA adapters"},
    {"phi4_multimodal", "reads images and sound and carries LoRA adapters"},
    {"Phi4FlashForCausalLM", "mixes attention with state-space layers"},
    {"phi4flash", "mixes attention with state-space layers"},
    {"PhiForCausalLM", "is Phi-1 or Phi-2: LayerNorm, biases and parallel blocks"},
    {"phi", "is Phi-1 or Phi-2: LayerNorm, biases and parallel blocks"},
};

// Fields that would change the arithmetic, refused unless they have no effect: absent, null, false,
// 0, 1, empty.
struct RefusedField {
  const char* name;
  const char* why;
};
constexpr RefusedField kRefusedFields[] = {
    {"quantization_config",
     "the tensors are quantised already; download the bf16 or f16 "
     "checkpoint and pass --weights int8 or int4"},
    {"compression_config", "the tensors are compressed; download the bf16 or f16 checkpoint"},
    {"attention_bias", "biases are not supported"},
    {"qkv_bias", "biases are not supported"},
    {"mlp_bias", "biases are not supported"},
    {"lm_head_bias", "biases are not supported"},
    {"use_bias", "biases are not supported"},
    {"bias", "biases are not supported"},
    {"qk_layernorm", "norms on queries and keys are not supported"},
    {"use_qk_norm", "norms on queries and keys are not supported"},
    {"num_local_experts", "mixtures of experts are not supported"},
    {"num_experts", "mixtures of experts are not supported"},
    {"num_experts_per_tok", "mixtures of experts are not supported"},
    {"n_routed_experts", "mixtures of experts are not supported"},
    {"blocksparse_block_size", "blocksparse attention is not supported"},
    {"blocksparse_num_local_blocks", "blocksparse attention is not supported"},
    {"dense_attention_every_n_layers", "blocksparse attention is not supported"},
    {"full_attn_mod", "blocksparse attention is not supported"},
    {"interpolate_factor", "scaled positions are not supported"},
    {"attention_chunk_size", "chunked attention is not supported"},
    {"gegelu_limit", "GEGELU is not supported"},
    {"gegelu_pad_to_256", "GEGELU is not supported"},
    {"layer_norm_eps", "LayerNorm is not supported"},
    {"layer_norm_epsilon", "LayerNorm is not supported"},
    {"mup_use_scaling", "muP multipliers are not supported"},
    {"mup_width_multiplier", "muP multipliers are not supported"},
    {"mup_attn_multiplier", "muP multipliers are not supported"},
    {"mup_embedding_multiplier", "muP multipliers are not supported"},
    {"embedding_multiplier", "scaled embeddings are not supported"},
    {"residual_multiplier", "scaled residuals are not supported"},
    {"attention_multiplier", "another attention scale is not supported"},
    {"query_pre_attn_scalar", "another attention scale is not supported"},
    {"logits_scaling", "scaled logits are not supported"},
    {"logit_scale", "scaled logits are not supported"},
    {"final_logit_softcapping", "capped logits are not supported"},
    {"attn_logit_softcapping", "capped attention is not supported"},
    {"rope_embedding_base", "it is the rope base of Phi-3-small, which is not supported"},
    {"rope_position_scale", "scaled positions are not supported"},
    {"rope_interleaved", "only the rotate-half order is supported"},
    {"rope_pct", "state it as partial_rotary_factor"},
    {"rotary_pct", "state it as partial_rotary_factor"},
    {"img_processor", "images are not supported"},
    {"embd_layer", "images are not supported"},
    {"audio_processor", "sound is not supported"},
    {"vision_config", "images are not supported"},
    {"audio_config", "sound is not supported"},
    {"vision_lora", "LoRA adapters are not supported; merge them into the weights first"},
    {"speech_lora", "LoRA adapters are not supported; merge them into the weights first"},
    {"text_config", "nested configurations are not supported"},
    {"pruned_heads", "pruned heads are not supported"},
    {"is_encoder_decoder", "encoder-decoder models are not supported"},
    {"add_cross_attention", "cross attention is not supported"},
    {"chunk_size_feed_forward", "chunked feed-forward layers are not supported"},
    {"parallel_attn", "parallel blocks are not supported"},
    {"use_parallel_residual", "parallel blocks are not supported"},
};

// What model/config reads, and what CheckArchitecture and CheckSupported look at.
constexpr std::string_view kReadFields[] = {
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "vocab_size",
};

// For training, for other software, or how something is generated where a request says nothing:
// none of it changes what this service computes.
constexpr std::string_view kFieldsWithoutEffect[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
};

bool HasNoEffect(const json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0 || value.get<double>() == 1;
  return value.empty();
}

absl::Status RefuseModel(const std::string& field, const std::string& name) {
  for (const KnownModel& known : kKnownModels) {
    if (name == known.name) {
      return absl::InvalidArgumentError(absl::StrCat("config.json: ", field, " ", name, " ",
                                                     known.why, ", not supported; ", kWayOut));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: ", field, " is ", ShowJson(name), "; ", kWayOut));
}

absl::Status CheckArchitecture(const json& config) {
  const json architectures = config.value("architectures", json());
  const json model_type = config.value("model_type", json());
  if (architectures.is_null() && model_type.is_null()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: neither architectures nor model_type says what model this is; ", kWayOut));
  }
  if (!architectures.is_null()) {
    if (!architectures.is_array() || architectures.size() != 1 || !architectures[0].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("config.json: architectures is ",
                                                     ShowJson(architectures),
                                                     "; allowed is a list of one name; ", kWayOut));
    }
    const std::string name = architectures[0].get<std::string>();
    if (name != "Phi3ForCausalLM") return RefuseModel("architecture", name);
  }
  if (!model_type.is_null()) {
    const std::string name =
        model_type.is_string() ? model_type.get<std::string>() : ShowJson(model_type);
    if (name != "phi3") return RefuseModel("model_type", name);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSupported(const json& config) {
  absl::Status architecture = CheckArchitecture(config);
  if (!architecture.ok()) return architecture;

  const json activation = config.value("hidden_act", json("silu"));
  if (activation != "silu") {
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: hidden_act is ", ShowJson(activation), "; supported is \"silu\"; ", kWayOut));
  }
  for (const RefusedField& field : kRefusedFields) {
    const auto found = config.find(field.name);
    if (found == config.end() || HasNoEffect(*found)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: ", field.name, " is ", ShowJson(*found), "; ", field.why));
  }
  return absl::OkStatus();
}

std::vector<std::string> UnknownFields(const json& config) {
  const auto is_one_of = [](std::string_view name, const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  std::vector<std::string> unknown;
  for (const auto& [name, value] : config.items()) {
    const bool refused = std::any_of(std::begin(kRefusedFields), std::end(kRefusedFields),
                                     [&](const RefusedField& field) { return field.name == name; });
    if (refused || is_one_of(name, kReadFields) || is_one_of(name, kFieldsWithoutEffect)) continue;
    unknown.push_back(name);
  }
  return unknown;
}

}  // namespace tuppence
