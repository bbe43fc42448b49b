// See config.h. Absent fields take the defaults of the published Phi3Config where it has them; the
// sizes must be stated.
#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/config_support.h"
#include "model/file.h"
#include "model/json_fields.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

using nlohmann::json;

// Far above every published model, and low enough that no product of two overflows 32 bits and no
// product of all overflows 64.
constexpr int32_t kLayersMax = 1024;
constexpr int32_t kHiddenMax = 1 << 16;
constexpr int32_t kHeadsMax = 1024;
constexpr int32_t kHeadDimMax = 256;  // the attention kernels keep a head in registers
constexpr int32_t kIntermediateMax = 1 << 20;
constexpr int32_t kVocabMax = 1 << 20;
constexpr int32_t kPositionsMax = 1 << 24;  // an f32 angle needs the position to be exact
constexpr double kRopeFactorMax = 1e6;
constexpr int64_t kConfigBytesMax = int64_t{4} << 20;

void CheckMultipleOf8(JsonFields& fields, const std::string& name, int32_t value) {
  if (value % 8 == 0) return;
  fields.Refuse(absl::StrCat(
      name, " is ", value, "; supported are multiples of 8, which all published Phi-3 models are"));
}

void ReadSizes(JsonFields& fields, Config& config) {
  config.layers = fields.Int("num_hidden_layers", 1, kLayersMax);
  config.hidden = fields.Int("hidden_size", 8, kHiddenMax);
  config.intermediate = fields.Int("intermediate_size", 8, kIntermediateMax);
  config.vocab = fields.Int("vocab_size", 2, kVocabMax);
  config.positions_max = fields.Int("max_position_embeddings", 1, kPositionsMax);
  CheckMultipleOf8(fields, "hidden_size", config.hidden);
  CheckMultipleOf8(fields, "intermediate_size", config.intermediate);
}

void ReadHeads(JsonFields& fields, Config& config) {
  config.heads = fields.Int("num_attention_heads", 1, kHeadsMax);
  config.kv_heads = fields.Int("num_key_value_heads", 1, kHeadsMax, config.heads);
  if (config.heads % config.kv_heads != 0) {
    fields.Refuse(absl::StrCat("num_key_value_heads is ", config.kv_heads,
                               " and num_attention_heads is ", config.heads,
                               "; each KV head serves the same number of heads, so the first must "
                               "divide the second; download config.json again"));
  }
  const bool stated = fields.Find("head_dim") != nullptr;
  if (!stated && config.hidden % config.heads != 0) {
    fields.Refuse(absl::StrCat("hidden_size is ", config.hidden, " and num_attention_heads is ",
                               config.heads,
                               "; without a head_dim the second must divide the "
                               "first; download config.json again"));
  }
  config.head_dim = stated ? fields.Int("head_dim", 8, kHeadDimMax) : config.hidden / config.heads;
  if (config.head_dim % 8 != 0 || config.head_dim < 8 || config.head_dim > kHeadDimMax) {
    fields.Refuse(absl::StrCat(stated ? "head_dim" : "head_dim (hidden_size / num_attention_heads)",
                               " is ", config.head_dim, "; supported are multiples of 8 from 8 to ",
                               kHeadDimMax));
  }
}

void ReadSlidingWindow(JsonFields& fields, const json& object, Config& config) {
  config.sliding_window = fields.Int("sliding_window", 0, kPositionsMax, 0);
  // A window that no position reaches is none, and costs nothing then.
  if (config.sliding_window >= config.positions_max) config.sliding_window = 0;
  const json types = object.value("layer_types", json());
  if (types.is_null()) return;
  const char* expected = config.sliding_window > 0 ? "sliding_attention" : "full_attention";
  const bool same =
      types.is_array() && std::all_of(types.begin(), types.end(), [&](const json& t) {
        return t == expected || (config.sliding_window == 0 && t == "sliding_attention");
      });
  if (!same) {
    fields.Refuse(absl::StrCat("layer_types is ", ShowJson(types), "; supported is \"", expected,
                               "\" for every layer, as sliding_window says"));
  }
}

// The object that describes the rope: `rope_scaling`, or `rope_parameters` in newer files.
const json* FindRope(JsonFields& fields) {
  const json* scaling = fields.Find("rope_scaling");
  const json* parameters = fields.Find("rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    fields.Refuse("rope_scaling and rope_parameters say different things; keep one of them");
  }
  const json* rope = parameters != nullptr ? parameters : scaling;
  if (rope != nullptr && !rope->is_object()) {
    fields.Refuse(absl::StrCat(parameters != nullptr ? "rope_parameters" : "rope_scaling", " is ",
                               ShowJson(*rope), "; allowed is an object or null"));
    return nullptr;
  }
  return rope;
}

// A number that may stand at the top, in the rope object, or, if they agree, in both.
double NumberOfEither(JsonFields& fields, JsonFields& rope, const std::string& name, double max,
                      double absent) {
  const std::optional<double> top = fields.Number(name, 0, max);
  const std::optional<double> inner = rope.Number(name, 0, max);
  if (top.has_value() && inner.has_value() && *top != *inner) {
    fields.Refuse(absl::StrCat(name, " is ", *top, " and in the rope object ", *inner,
                               "; they must agree; keep one of them"));
  }
  return inner.value_or(top.value_or(absent));
}

void ReadRotaryDim(JsonFields& fields, JsonFields& rope, Config& config) {
  const double part = NumberOfEither(fields, rope, "partial_rotary_factor", 1.0, 1.0);
  config.rotary_dim = static_cast<int32_t>(config.head_dim * part);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0) {
    fields.Refuse(absl::StrCat("partial_rotary_factor is ", part, ", which rotates ",
                               config.rotary_dim, " of ", config.head_dim,
                               " dimensions; supported is an even number from 2 on"));
    config.rotary_dim = 2;
  }
}

void ReadPositionsOriginal(JsonFields& fields, JsonFields& rope, Config& config) {
  constexpr char kName[] = "original_max_position_embeddings";
  constexpr int32_t kPublishedDefault = 4096;
  const bool in_rope = rope.Find(kName) != nullptr;
  const int32_t top = fields.Int(kName, 2, kPositionsMax, kPublishedDefault);
  const int32_t inner = in_rope ? rope.Int(kName, 2, kPositionsMax) : top;
  if (fields.Find(kName) != nullptr && inner != top && rope.status().ok()) {
    fields.Refuse(absl::StrCat(kName, " is ", top, " and in the rope object ", inner,
                               "; they must agree; keep one of them"));
  }
  // The default is larger than a small model's positions_max; the regimes are the same either way.
  config.positions_original = std::min(inner, config.positions_max);
}

bool IsLongRope(JsonFields& rope, bool may_lack_type) {
  const std::optional<std::string> old_name = rope.String("type");
  const std::optional<std::string> new_name = rope.String("rope_type");
  const bool has_lists =
      rope.Find("short_factor") != nullptr || rope.Find("long_factor") != nullptr;
  if (old_name.has_value() && new_name.has_value() && *old_name != *new_name) {
    const auto same = [](const std::string& type) {
      return type == "su" || type == "yarn" || type == "longrope";
    };
    if (!same(*old_name) || !same(*new_name)) {
      rope.Refuse(absl::StrCat("type is ", ShowJson(*old_name), " and rope_type is ",
                               ShowJson(*new_name), "; they must agree; keep one of them"));
    }
  }
  if (!old_name.has_value() && !new_name.has_value()) {
    if (may_lack_type && !has_lists) return false;
    rope.Refuse("neither type nor rope_type is stated; supported are \"longrope\" and null");
    return has_lists;
  }
  const std::string type = new_name.has_value() ? *new_name : *old_name;
  if (type == "default") {
    if (has_lists) rope.Refuse("the type is \"default\", but there are LongRoPE's factor lists");
    return false;
  }
  // "su" and "yarn" are the names of LongRoPE in older Phi-3 files. Real YaRN has no factor lists.
  if (type == "longrope" || ((type == "su" || type == "yarn") && has_lists)) return true;
  rope.Refuse(absl::StrCat("the type is ", ShowJson(type),
                           "; supported are \"longrope\" (older name: \"su\"), with short_factor "
                           "and long_factor, and null"));
  return false;
}

void RefuseUnknownRopeKeys(JsonFields& rope, const json& object) {
  static constexpr const char* kKnown[] = {"type",
                                           "rope_type",
                                           "short_factor",
                                           "long_factor",
                                           "factor",
                                           "attention_factor",
                                           "short_mscale",
                                           "long_mscale",
                                           "rope_theta",
                                           "partial_rotary_factor",
                                           "original_max_position_embeddings"};
  for (const auto& [key, value] : object.items()) {
    if (std::find(std::begin(kKnown), std::end(kKnown), key) != std::end(kKnown)) continue;
    if (value.is_null()) continue;
    rope.Refuse(absl::StrCat("field ", ShowJson(key),
                             " is not known; every field here changes the arithmetic, so it cannot "
                             "be ignored"));
  }
}

void ReadLongRope(JsonFields& rope, Config& config) {
  LongRope scaling;
  const size_t half = static_cast<size_t>(config.rotary_dim / 2);
  scaling.short_factor = rope.Numbers("short_factor", half, kRopeFactorMax);
  scaling.long_factor = rope.Numbers("long_factor", half, kRopeFactorMax);
  scaling.attention_factor = rope.Number("attention_factor", 0, 100);
  scaling.short_mscale = rope.Number("short_mscale", 0, 100);
  scaling.long_mscale = rope.Number("long_mscale", 0, 100);
  if (scaling.short_mscale.has_value() != scaling.long_mscale.has_value()) {
    rope.Refuse("one of short_mscale and long_mscale is stated; expected are both or neither");
  }
  if (scaling.short_mscale.has_value() && scaling.attention_factor.has_value()) {
    rope.Refuse("attention_factor and short_mscale are both stated; expected is one of them");
  }
  // The published implementation derives the ratio from the positions and ignores `factor`; where
  // they disagree, one of them is wrong, and which one cannot be told.
  const double ratio = static_cast<double>(config.positions_max) / config.positions_original;
  const std::optional<double> factor = rope.Number("factor", 0, kPositionsMax);
  if (factor.has_value() && std::abs(*factor - ratio) > 1e-6 * ratio) {
    rope.Refuse(absl::StrCat("factor is ", *factor,
                             ", but max_position_embeddings / "
                             "original_max_position_embeddings is ",
                             ratio, "; they must agree; remove factor"));
  }
  config.long_rope = std::move(scaling);
}

void ReadRope(JsonFields& fields, Config& config) {
  const json* object = FindRope(fields);
  const json none = json::object();
  const bool newer = fields.Find("rope_parameters") != nullptr;
  JsonFields rope(object != nullptr ? *object : none,
                  absl::StrCat("config.json: ", newer ? "rope_parameters" : "rope_scaling"));
  config.rope_base = NumberOfEither(fields, rope, "rope_theta", 1e12, 10000.0);
  if (config.rope_base <= 1) {
    fields.Refuse(
        absl::StrCat("rope_theta is ", config.rope_base, "; allowed is a number above 1"));
  }
  ReadRotaryDim(fields, rope, config);
  ReadPositionsOriginal(fields, rope, config);
  if (object != nullptr) {
    RefuseUnknownRopeKeys(rope, *object);
    if (IsLongRope(rope, /*may_lack_type=*/newer)) ReadLongRope(rope, config);
  }
  if (!config.long_rope) config.positions_original = config.positions_max;
  fields.Adopt(rope.status());
}

DType ReadDtype(JsonFields& fields) {
  const std::optional<std::string> older = fields.String("torch_dtype");
  const std::optional<std::string> newer = fields.String("dtype");
  if (older.has_value() && newer.has_value() && *older != *newer) {
    fields.Refuse(absl::StrCat("torch_dtype is ", ShowJson(*older), " and dtype is ",
                               ShowJson(*newer), "; they must agree; keep one of them"));
  }
  const std::string name = newer.value_or(older.value_or("bfloat16"));
  if (name == "bfloat16") return DType::kBf16;
  if (name == "float16") return DType::kF16;
  if (name == "float32") return DType::kF32;
  fields.Refuse(absl::StrCat(newer.has_value() ? "dtype" : "torch_dtype", " is ", ShowJson(name),
                             "; supported are \"bfloat16\", \"float16\" and \"float32\"; download "
                             "the checkpoint in one of these"));
  return DType::kBf16;
}

void ReadTokenIds(JsonFields& fields, Config& config) {
  config.stop_ids = fields.TokenIds("eos_token_id", config.vocab);
  // -1 is how some files say "none".
  config.bos_id = fields.Int("bos_token_id", -1, config.vocab - 1, -1);
  config.pad_id = fields.Int("pad_token_id", -1, config.vocab - 1, -1);
}

absl::StatusOr<json> ParseObject(std::string_view text, const std::string& file) {
  absl::StatusOr<json> object = ParseStrictJson(text);
  if (!object.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", std::string(object.status().message()), "; download it again"));
  }
  if (!object->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, " holds ", ShowJson(*object), "; expected is a JSON object"));
  }
  return object;
}

absl::Status AddGenerationStops(std::string_view text, Config& config) {
  const absl::StatusOr<json> object = ParseObject(text, "generation_config.json");
  if (!object.ok()) return object.status();
  JsonFields fields(*object, "generation_config.json");
  const std::vector<int32_t> ids = fields.TokenIds("eos_token_id", config.vocab);
  config.stop_ids.insert(config.stop_ids.end(), ids.begin(), ids.end());
  return fields.status();
}

}  // namespace

int64_t Config::parameters() const {
  const int64_t layer = int64_t{qkv_rows()} * hidden + int64_t{hidden} * attention_cols() +
                        int64_t{3} * intermediate * hidden + int64_t{2} * hidden;
  const int64_t embeddings = int64_t{vocab} * hidden * (tied_embeddings ? 1 : 2);
  return layers * layer + embeddings + hidden;
}

absl::StatusOr<Config> ParseConfig(std::string_view config_text, std::string_view generation_text) {
  const absl::StatusOr<json> object = ParseObject(config_text, "config.json");
  if (!object.ok()) return object.status();
  const absl::Status supported = CheckSupported(*object);
  if (!supported.ok()) return supported;

  Config config;
  JsonFields fields(*object, "config.json");
  ReadSizes(fields, config);
  ReadHeads(fields, config);
  if (!fields.status().ok()) return fields.status();  // what follows computes with the sizes
  ReadSlidingWindow(fields, *object, config);
  ReadRope(fields, config);
  config.rms_norm_epsilon = static_cast<float>(fields.Number("rms_norm_eps", 0, 1).value_or(1e-5));
  config.tied_embeddings = fields.Bool("tie_word_embeddings", false);
  config.dtype = ReadDtype(fields);
  ReadTokenIds(fields, config);
  if (!fields.status().ok()) return fields.status();
  config.unknown_fields = UnknownFields(*object);

  if (!generation_text.empty()) {
    const absl::Status added = AddGenerationStops(generation_text, config);
    if (!added.ok()) return added;
  }
  std::sort(config.stop_ids.begin(), config.stop_ids.end());
  config.stop_ids.erase(std::unique(config.stop_ids.begin(), config.stop_ids.end()),
                        config.stop_ids.end());
  return config;
}

absl::StatusOr<Config> ReadConfig(const std::string& folder) {
  const absl::StatusOr<std::string> text =
      ReadSmallFile(absl::StrCat(folder, "/config.json"), kConfigBytesMax);
  if (!text.ok()) {
    return absl::Status(
        text.status().code(),
        absl::StrCat(std::string(text.status().message()),
                     "; a model folder holds config.json, the tokenizer's files and "
                     "safetensors files, as downloaded"));
  }
  absl::StatusOr<std::string> generation =
      ReadSmallFile(absl::StrCat(folder, "/generation_config.json"), kConfigBytesMax);
  if (!generation.ok()) {
    if (!absl::IsNotFound(generation.status())) return generation.status();
    generation = std::string();
  }
  absl::StatusOr<Config> config = ParseConfig(*text, *generation);
  if (config.ok()) return config;
  return absl::Status(config.status().code(),
                      absl::StrCat(folder, "/", std::string(config.status().message())));
}

}  // namespace tuppence
