#include "service/planner/plan_machines.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/strict_json.h"
#include "service/memory_plan.h"
#include "service/model_loader.h"
#include "service/planner/flag_file.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr double kGiB = 1024.0 * 1024 * 1024;

// The type that keys and values have there, as service/device_choice settles it.
absl::StatusOr<DType> KvOn(const MachineSpeed& speed, const std::string& kv, DType half) {
  if (kv == "int8") return DType::kI8;
  if (kv == "f32" && !speed.gpu) return DType::kF32;
  if (kv == "f32") return absl::InvalidArgumentError("a GPU keeps no f32 keys and values");
  if (kv == "f16" && !speed.gpu) return absl::InvalidArgumentError("a CPU keeps no f16 keys");
  return half;
}

absl::Status PutModelOn(const MachineSpeed& speed, const PlanModel& model, Assume assume,
                        PlanMachine* machine) {
  const ModelOptions& options = model.options;
  if (speed.gpu && options.weights == "f32") {
    return absl::InvalidArgumentError(
        "a GPU keeps no f32 weights; bf16, f16, int8 and int4 it does");
  }
  const absl::StatusOr<WeightFormat> format = ParseWeightFormat(options.weights);
  if (!format.ok()) return format.status();
  const bool f16 = speed.gpu && (!speed.bf16 || options.weights == "f16");
  const DType half = f16 ? DType::kF16 : DType::kBf16;
  const absl::StatusOr<DType> kv = KvOn(speed, options.kv, half);
  if (!kv.ok()) return kv.status();
  EngineOptions& engine = machine->engine;
  const absl::StatusOr<MemoryPlan> memory =
      PlanMemory({.config = model.config,
                  .weights = *format,
                  .kv = *kv,
                  .activations = speed.gpu ? ActivationTypes{DType::kF32, half} : ActivationTypes{},
                  .kv_memory_bytes = options.kv_memory_bytes,
                  .sequences_max = options.sequences_max,
                  .batch_tokens_max = BatchTokensMax(engine),
                  .logit_rows_max = engine.logit_rows_max,
                  .available_bytes = static_cast<int64_t>(speed.memory_gib * kGiB)});
  if (!memory.ok()) return memory.status();
  engine.blocks = memory->kv_blocks;
  engine.block_tokens = memory->kv_layout.block_tokens;
  const Config& config = model.config;
  // A step looks up rows of the embedding and reads everything else.
  WeightOptions weights;
  weights.format = *format;
  const WeightPlan plan = PlanWeights(config, weights);
  const int64_t head_bytes = plan.head_bytes > 0 ? plan.head_bytes : plan.embedding_bytes;
  const int64_t looked_up = config.tied_embeddings ? 0 : int64_t{config.vocab} * config.hidden;
  const absl::StatusOr<StepCostCoefficients> costs =
      StepCostsOn(speed,
                  {.weight_bytes = plan.layers_bytes + plan.norms_bytes + head_bytes,
                   .parameters = config.parameters() - looked_up,
                   .attention_cols = int64_t{config.layers} * config.attention_cols(),
                   .kv_bytes_per_token = memory->kv_layout.bytes_per_token()},
                  options.weights, options.kv, assume);
  if (!costs.ok()) return costs.status();
  engine.cost = *costs;
  return absl::OkStatus();
}

int64_t ItlTargetNs(double itl_target_ms) { return std::llround(itl_target_ms * 1e6); }

// Throws where the page lacks something.
PlanMachine FromStatus(const Json& status, double itl_target_ms) {
  const Json& model = status.at("model");
  const Json& cost = status.at("step_cost");
  PlanMachine machine;
  machine.name = model.at("name").get<std::string>();
  machine.what = absl::StrCat(model.at("backend").get<std::string>(), ", ",
                              model.at("kernels").get<std::string>());
  machine.basis =
      absl::StrFormat("calibrated: %d steps of a service, model off by %.1f %% (median)",
                      status.at("last_step").at("steps").get<int64_t>(),
                      100 * status.at("last_step").at("model_error_p50").get<double>());
  EngineOptions& engine = machine.engine;
  engine.context_tokens = model.at("context_tokens");
  engine.sequences_max = model.at("sequences_max");
  engine.step_tokens_max = model.at("step_tokens_max");
  engine.logit_rows_max = std::max(engine.sequences_max, 64);
  engine.blocks = status.at("kv").at("blocks");
  engine.block_tokens = status.at("kv").at("block_tokens");
  engine.itl_target_ns = ItlTargetNs(itl_target_ms);
  engine.cost = {.launch_ns = cost.at("launch_ns"),
                 .weights_ns = cost.at("weights_ns"),
                 .token_ns = cost.at("token_ns"),
                 .attention_ns = cost.at("attention_ns"),
                 .kv_read_ns = cost.at("kv_read_ns")};
  if (const Json& card = status.at("rate_card"); !card.is_null()) {
    machine.price = {
        .id = card.at("id").get<std::string>(),
        .micro_usd_per_hour = std::llround(1e6 * card.at("usd_per_hour").get<double>()),
        .machine_share_ppm = std::llround(kPpm * card.at("machine_share").get<double>())};
  }
  return machine;
}

absl::StatusOr<PlanMachine> ParseStatus(const std::string& text, double itl_target_ms) {
  try {
    PlanMachine machine = FromStatus(Json::parse(text), itl_target_ms);
    const EngineOptions& engine = machine.engine;
    const int32_t least =
        std::min({engine.blocks, engine.block_tokens, engine.sequences_max, engine.context_tokens,
                  engine.step_tokens_max - engine.prefill_tokens_min + 1});
    if (least >= 1) return machine;
    return absl::InvalidArgumentError("has sizes that no service runs with; save the page again");
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("is no /status page of a tuppence service that is ready (", error.what(),
                     "); save one with: curl -s http://127.0.0.1:8034/status > status.json"));
  }
}

}  // namespace

PlanMachine MachineFor(const MachineSpeed& speed, const PlanModel& model, Assume assume) {
  PlanMachine machine;
  machine.name = speed.name;
  machine.what = speed.what;
  machine.assumed = !speed.measured;
  machine.basis = absl::StrCat(speed.measured ? "measured: " : "ASSUMED, not measured: ",
                               speed.fractions_source);
  machine.price = speed.price;
  machine.engine = EngineOptionsOf(model.options, model.config);
  machine.engine.itl_target_ns = ItlTargetNs(model.itl_target_ms);
  machine.fits = PutModelOn(speed, model, assume, &machine);
  return machine;
}

absl::StatusOr<PlanMachine> MachineOfStatus(const std::string& path, double itl_target_ms) {
  return ReadFlagFile("--status", path, [itl_target_ms](const std::string& text) {
    return ParseStatus(text, itl_target_ms);
  });
}

}  // namespace tuppence
