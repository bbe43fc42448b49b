#include "service/model_loader.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/checkpoint.h"
#include "model/kv_cache.h"
#include "model/phi3.h"
#include "model/rope_table.h"
#include "model/weights.h"
#include "scheduler/null_executor.h"
#include "scheduler/phi3_executor.h"
#include "scheduler/step_cost_fit.h"
#include "service/device_choice.h"

namespace tuppence {
namespace {

constexpr char kNullModel[] = "null";
constexpr char kSynthetic[] = "synthetic:";

// Members are in order of need and go in reverse; the executor points into those before it.
class Phi3Model final : public LoadedModel {
 public:
  StepExecutor* executor() override { return &*executor_; }

  std::unique_ptr<Backend> backend;
  std::optional<Weights> weights;
  std::optional<KvCache> cache;
  std::optional<Phi3> phi3;
  std::optional<Phi3Executor> executor_;
};

class NullModel final : public LoadedModel {
 public:
  explicit NullModel(int32_t vocab) : executor_(vocab) {}
  StepExecutor* executor() override { return &executor_; }

 private:
  NullExecutor executor_;
};

std::vector<uint64_t> AllIds(int32_t vocab) {
  std::vector<uint64_t> bits((vocab + 63) / 64, ~uint64_t{0});
  if (vocab % 64 != 0) bits.back() >>= 64 - vocab % 64;
  return bits;
}

std::unique_ptr<LoadedModel> MakeNullModel(const ModelOptions& options) {
  constexpr int32_t kVocab = 32064;
  auto loaded = std::make_unique<NullModel>(kVocab);
  ServedModel& served = loaded->served;
  served.name = options.model_name.empty() ? kNullModel : options.model_name;
  served.context_tokens = 4096;
  served.vocab = kVocab;
  served.mapped_ids = AllIds(kVocab);
  served.tokenizer_missing_why = "the null model has none";
  served.template_missing_why = "the null model has none";
  served.weight_type = served.kv_type = served.backend = served.arithmetic_id = kNullModel;
  served.kernels = "none: every step is answered at once";
  EngineOptions& engine = loaded->engine;
  engine.context_tokens = served.context_tokens;
  engine.sequences_max = options.sequences_max;
  engine.step_tokens_max = options.step_tokens_max;
  engine.prefill_tokens_min = std::min(engine.prefill_tokens_min, options.step_tokens_max);
  engine.logit_rows_max = options.sequences_max;
  engine.blocks = options.sequences_max * served.context_tokens / engine.block_tokens;
  loaded->notes.push_back("model: null; no arithmetic is done, tokens mean nothing");
  return loaded;
}

std::string NameOf(const ModelOptions& options) {
  if (!options.model_name.empty()) return options.model_name;
  if (absl::StartsWith(options.model, kSynthetic))
    return options.model.substr(sizeof(kSynthetic) - 1);
  std::filesystem::path path = std::filesystem::absolute(options.model).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  // Folders are often called after what they hold and not after the model.
  if (path.filename() == "checkpoint") path = path.parent_path();
  return path.filename().string();
}

// Without a tokenizer the model still serves token ids; `serve` says so at start.
absl::Status LoadTokenizer(const ModelOptions& options, const Config& config, LoadedModel* loaded) {
  ServedModel& served = loaded->served;
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer =
      absl::StartsWith(options.model, kSynthetic)
          ? absl::NotFoundError("synthetic weights have no tokenizer")
          : Tokenizer::Load(options.model, config.vocab);
  if (tokenizer.ok()) {
    served.tokenizer = *std::move(tokenizer);
    const std::span<const uint64_t> mapped = served.tokenizer->mapped_ids();
    served.mapped_ids.assign(mapped.begin(), mapped.end());
    return absl::OkStatus();
  }
  if (!absl::IsNotFound(tokenizer.status()) && !absl::IsUnimplemented(tokenizer.status())) {
    return tokenizer.status();
  }
  // The whole message, which names files, is for the log; callers get a clause.
  served.tokenizer_missing_why = absl::IsNotFound(tokenizer.status())
                                     ? "its checkpoint has no tokenizer"
                                     : "its checkpoint's tokenizer is not supported yet";
  served.mapped_ids = AllIds(config.vocab);
  loaded->notes.push_back(
      absl::StrCat("tokenizer: none, so token ids in and out only; text, chat, stop strings and "
                   "Tokenize are refused (",
                   tokenizer.status().message(), ")"));
  return absl::OkStatus();
}

absl::Status ChooseTemplate(const ModelOptions& options, LoadedModel* loaded) {
  ServedModel& served = loaded->served;
  if (served.tokenizer == nullptr) {
    served.template_missing_why = served.tokenizer_missing_why;
    return absl::OkStatus();
  }
  if (options.chat_template == "none") {
    served.template_missing_why = "it was started with --chat-template none";
    loaded->notes.push_back("chat template: none, as asked; text and token ids only");
    return absl::OkStatus();
  }
  const bool automatic = options.chat_template == "auto";
  const absl::StatusOr<ChatTemplate> chosen =
      automatic ? ChatTemplate::Recognise(*served.tokenizer)
                : ChatTemplate::Named(options.chat_template, *served.tokenizer);
  if (!chosen.ok()) {
    return absl::Status(
        chosen.status().code(),
        absl::StrCat(chosen.status().message(),
                     automatic ? "; --chat-template none serves without chat" : ""));
  }
  served.chat_template = *chosen;
  loaded->notes.push_back(absl::StrCat("chat template: ", std::string(chosen->name()).c_str(),
                                       automatic ? ", recognised" : ", as asked"));
  return absl::OkStatus();
}

std::vector<int32_t> StopIds(const Config& config, const ServedModel& served) {
  std::vector<int32_t> ids = config.stop_ids;
  if (served.chat_template.has_value()) ids.push_back(served.chat_template->end_id());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// Everything of ours that a token's bits depend on: "cpu-f32-1/int4g32/bf16".
std::string ArithmeticId(const Backend& backend, const WeightFormat& weights, DType kv,
                         const std::string& rope_policy) {
  std::string id = absl::StrCat(backend.arithmetic_id(), "/", IdOf(weights), "/", NameOfKv(kv));
  if (!rope_policy.empty()) absl::StrAppend(&id, "/", rope_policy);
  return id;
}

// "" where none is wanted. A folder may hold those of several checkpoints and types.
std::string WeightCachePath(const ModelOptions& options, const WeightFormat& format) {
  if (options.weights_cache == "off") return "";
  const std::filesystem::path folder =
      options.weights_cache == "on" ? options.model : options.weights_cache;
  return folder / absl::StrCat(NameOf(options), ".", IdOf(format), ".weights");
}

// What GetModel tells and the log says, once everything stands.
void Describe(const ModelOptions& options, const Config& config, const MemoryPlan& plan,
              const DeviceChoice& device, Phi3Model* loaded) {
  ServedModel& served = loaded->served;
  served.name = NameOf(options);
  served.context_tokens = config.positions_max;
  served.vocab = config.vocab;
  served.stop_ids = StopIds(config, served);
  served.parameters = config.parameters();
  served.weight_type = NameOf(device.weights.type);
  served.kv_type = NameOfKv(plan.kv_layout.type);
  served.backend = loaded->backend->name();
  served.kernels = device.kernels;
  served.rope_policy = config.long_rope.has_value() ? options.rope_policy : "";
  served.arithmetic_id =
      ArithmeticId(*loaded->backend, device.weights, plan.kv_layout.type, served.rope_policy);
  served.repeatable = options.deterministic == "on";
  served.weight_bytes = loaded->weights->bytes;
  served.kv_bytes = loaded->cache->bytes();
  loaded->memory_plan = plan.Describe();
  const int64_t pool_tokens = int64_t{plan.kv_blocks} * plan.kv_layout.block_tokens;
  if (pool_tokens < config.positions_max) {
    loaded->notes.push_back(absl::StrCat(
        "keys and values: room for ", pool_tokens, " tokens, less than the context of ",
        config.positions_max, "; longer requests are refused; raise --kv-memory to serve them"));
  }
}

absl::Status Load(const LoadOptions& options, Phi3Model* loaded) {
  const ModelOptions& model = options.model;
  absl::StatusOr<ModelFiles> files = OpenModel(model.model);
  if (!files.ok()) return files.status();
  if (files->files_compared > 0) {
    loaded->notes.push_back(
        absl::StrCat("files: ", files->files_compared, " agree with the folder's SHA256SUMS"));
  }
  const Config& config = files->config;
  if (!config.unknown_fields.empty()) {
    loaded->notes.push_back(absl::StrCat(
        "config.json: not known and not used: ", absl::StrJoin(config.unknown_fields, ", "),
        "; compare an answer with the published implementation before you rely on it"));
  }
  if (absl::Status status = LoadTokenizer(model, config, loaded); !status.ok()) return status;
  if (absl::Status status = ChooseTemplate(model, loaded); !status.ok()) return status;

  absl::StatusOr<DeviceChoice> device = ChooseDevice(model, config);
  if (!device.ok()) return device.status();
  loaded->backend = std::move(device->backend);
  loaded->notes.insert(loaded->notes.end(), device->notes.begin(), device->notes.end());

  loaded->engine = EngineOptionsOf(model, config);
  const absl::StatusOr<MemoryPlan> plan =
      PlanMemory({.config = config,
                  .weights = device->weights,
                  .kv = device->kv,
                  .activations = loaded->backend->activation_types(),
                  .kv_memory_bytes = model.kv_memory_bytes,
                  .sequences_max = model.sequences_max,
                  .batch_tokens_max = BatchTokensMax(loaded->engine),
                  .logit_rows_max = loaded->engine.logit_rows_max,
                  .available_bytes = device->memory_available_bytes});
  if (!plan.ok()) return plan.status();
  loaded->engine.blocks = plan->kv_blocks;
  loaded->engine.block_tokens = plan->kv_layout.block_tokens;

  WeightOptions weight_options;
  weight_options.format = device->weights;
  weight_options.cache_path = WeightCachePath(model, device->weights);
  weight_options.progress = options.progress;
  absl::StatusOr<Weights> weights =
      LoadWeights(config, *files->source, weight_options, *loaded->backend);
  if (!weights.ok()) return weights.status();
  loaded->weights = *std::move(weights);
  if (!loaded->weights->cache_note.empty()) loaded->notes.push_back(loaded->weights->cache_note);
  absl::StatusOr<KvCache> cache = KvCache::Make(plan->kv_layout, plan->kv_blocks, *loaded->backend);
  if (!cache.ok()) return cache.status();
  loaded->cache = *std::move(cache);
  absl::StatusOr<Phi3> phi3 =
      Phi3::Make(config, *loaded->weights, *loaded->backend, BatchTokensMax(loaded->engine),
                 loaded->engine.logit_rows_max);
  if (!phi3.ok()) return phi3.status();
  loaded->phi3 = *std::move(phi3);
  loaded->engine.cost =
      StepCostPrior({.weight_bytes = loaded->weights->bytes,
                     .parameters = config.parameters(),
                     .attention_cols = int64_t{config.layers} * config.attention_cols(),
                     .kv_bytes_per_token = plan->kv_layout.bytes_per_token()});
  Describe(model, config, *plan, *device, loaded);
  loaded->executor_.emplace(&*loaded->phi3, &*loaded->cache, loaded->backend.get(),
                            loaded->served.mapped_ids);
  return absl::OkStatus();
}

}  // namespace

EngineOptions EngineOptionsOf(const ModelOptions& options, const Config& config) {
  EngineOptions engine;
  engine.context_tokens = config.positions_max;
  engine.sequences_max = options.sequences_max;
  engine.step_tokens_max = options.step_tokens_max;
  engine.prefill_tokens_min = std::min(engine.prefill_tokens_min, options.step_tokens_max);
  engine.logit_rows_max = std::max(options.sequences_max, 64);
  engine.positions_original = config.long_rope.has_value() ? config.short_rope_tokens_max() : 0;
  engine.rope_policy =
      options.rope_policy == "admission" ? RopePolicy::kAdmission : RopePolicy::kExact;
  return engine;
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const LoadOptions& options) {
  std::unique_ptr<LoadedModel> loaded;
  if (options.model.model.empty()) {
    return absl::InvalidArgumentError(
        "no model was named; give --model a checkpoint folder (or synthetic:phi-3-mini-4k to try "
        "a shape without a download)");
  }
  if (options.model.model == kNullModel) {
    loaded = MakeNullModel(options.model);
  } else {
    auto phi3 = std::make_unique<Phi3Model>();
    if (absl::Status status = Load(options, phi3.get()); !status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("loading ", options.model.model, ": ", status.message()));
    }
    loaded = std::move(phi3);
  }
  loaded->served.kv_blocks = loaded->engine.blocks;
  loaded->served.kv_block_tokens = loaded->engine.block_tokens;
  loaded->served.sequences_max = loaded->engine.sequences_max;
  loaded->served.step_tokens_max = loaded->engine.step_tokens_max;
  return loaded;
}

}  // namespace tuppence
