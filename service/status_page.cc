#include "service/status_page.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "service/account_money.h"
#include "service/call_registry.h"
#include "service/metrics.h"
#include "service/served_model.h"
#include "service/store_state.h"
#include "service/version.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kRequestsShownMax = 100;
constexpr double kSeconds = 1e-9;  // of a nanosecond
constexpr double kMiB = 1024.0 * 1024.0;

Json ModelOf(const ServedModel& model) {
  return {{"name", model.name},
          {"parameters", model.parameters},
          {"backend", model.backend},
          {"kernels", model.kernels},
          {"arithmetic_id", model.arithmetic_id},
          {"weight_type", model.weight_type},
          {"kv_type", model.kv_type},
          {"context_tokens", model.context_tokens},
          {"sequences_max", model.sequences_max},
          {"step_tokens_max", model.step_tokens_max},
          {"weight_bytes", model.weight_bytes},
          {"kv_bytes", model.kv_bytes}};
}

Json QueueOf(const ServiceParts& parts, const EngineSnapshot& engine) {
  const AdmissionSnapshot admission = parts.admission->snapshot();
  const AdmissionLimits& limits = parts.admission->limits();
  return {{"waiting", engine.waiting},
          {"running", engine.running},
          {"sequences_running", engine.sequences_running},
          {"requests_held", admission.requests},
          {"requests_held_limit", limits.requests_max},
          {"prompt_tokens_held", admission.prompt_tokens},
          {"prompt_tokens_held_limit", limits.prompt_tokens_max},
          {"refused", admission.refused_global + admission.refused_tenant}};
}

Json RequestsOf(const ServiceParts& parts) {
  const int64_t now_ns = parts.clock->NowNs();
  Json requests = Json::array();
  for (const OpenCall& call : parts.calls->Oldest(kRequestsShownMax)) {
    requests.push_back({{"request_id", call.request_id},
                        {"tenant", call.tenant},
                        {"age_seconds", kSeconds * (now_ns - call.received_ns)},
                        {"prompt_tokens", call.prompt_tokens},
                        {"completion_tokens", call.completion_tokens},
                        {"max_tokens", call.max_tokens}});
  }
  return requests;
}

Json RateCardOf(const RateCard& card) {
  if (!card.known()) return nullptr;
  return {{"id", card.id},
          {"usd_per_hour", 1e-6 * static_cast<double>(card.micro_usd_per_hour)},
          {"machine_share", static_cast<double>(card.machine_share_ppm) / kPpm},
          {"source", card.source}};
}

// As fitted to the steps so far; `tuppence plan --status` plans with it.
Json StepCostOf(const StepCostCoefficients& cost) {
  return {{"launch_ns", cost.launch_ns},
          {"weights_ns", cost.weights_ns},
          {"token_ns", cost.token_ns},
          {"attention_ns", cost.attention_ns},
          {"kv_read_ns", cost.kv_read_ns}};
}

Json StoreOf(const ServiceParts& parts) {
  if (parts.store == nullptr) return nullptr;
  const StoreState store = parts.store();
  return {{"path", store.path},
          {"unrecordable", store.unrecordable},
          {"rows_stored", store.rows_stored},
          {"rows_waiting", store.rows_waiting},
          {"commits", store.commits},
          {"commits_failed", store.commits_failed},
          {"last_commit_seconds", kSeconds * store.commit_ns_last},
          {"unrecorded_requests", store.unrecorded_requests},
          {"bytes_free", store.bytes_free}};
}

std::string Duration(double seconds) {
  if (seconds < 0.001) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.1f ms", seconds * 1e3);
  if (seconds < 120) return absl::StrFormat("%.1f s", seconds);
  return absl::StrFormat("%.1f min", seconds / 60);
}

void Line(std::string* text, const char* name, const std::string& value) {
  absl::StrAppendFormat(text, "%-10s %s\n", name, value);
}

std::string RateText(const Json& card) {
  if (card.is_null()) return "none: answers carry machine time alone; --price-per-hour adds money";
  const double share = card["machine_share"];
  return absl::StrFormat(
      "%s, %.6g USD an hour%s", card["id"].get<std::string>(), card["usd_per_hour"].get<double>(),
      share < 1 ? absl::StrFormat(" for the machine, %.4g of it ours", share) : std::string());
}

std::string StoreText(const Json& store) {
  if (store.is_null()) return "none";
  return absl::StrFormat(
      "%s: %d rows, %d waiting, last commit %s%s", store["path"].get<std::string>(),
      store["rows_stored"].get<int64_t>(), store["rows_waiting"].get<int64_t>(),
      Duration(store["last_commit_seconds"]),
      store["unrecordable"].get<bool>() ? "; UNRECORDABLE: it cannot be written" : "");
}

std::string RequestLines(const Json& requests) {
  std::string text;
  for (const Json& request : requests) {
    absl::StrAppendFormat(
        &text, "  %s  %8s  %5d prompt  %5d of %5d tokens  %s\n",
        request["request_id"].get<std::string>(), Duration(request["age_seconds"]),
        request["prompt_tokens"].get<int64_t>(), request["completion_tokens"].get<int64_t>(),
        request["max_tokens"].get<int64_t>(), request["tenant"].get<std::string>());
  }
  return text;
}

}  // namespace

std::string StatusJson(const ServiceParts& parts, const Readiness& readiness) {
  const EngineSnapshot engine = parts.engine->Snapshot();
  Json status;
  status["version"] = kVersion;
  status["ready"] = readiness.ready;
  status["live"] = readiness.live;
  status["reason"] = readiness.reason;
  status["uptime_seconds"] = kSeconds * engine.accounts.sum_ns();
  status["model"] = ModelOf(*parts.model);
  status["queue"] = QueueOf(parts, engine);
  status["requests"] = RequestsOf(parts);
  status["requests_open"] = parts.calls->size();
  status["kv"] = {{"blocks_used", engine.blocks_used},
                  {"blocks", engine.blocks_total},
                  {"block_tokens", parts.model->kv_block_tokens},
                  {"preemptions", engine.preemptions}};
  status["rate_card"] = RateCardOf(parts.engine->rate_card());
  status["last_step"] = {
      {"seconds", kSeconds * engine.step_ns_last},
      {"progress_seconds_ago", kSeconds * (parts.clock->NowNs() - engine.last_progress_ns)},
      {"steps", engine.steps},
      {"model_error_p50", engine.step_model_error_p50},
      {"model_error_p95", engine.step_model_error_p95}};
  status["step_cost"] = StepCostOf(engine.cost);
  Json& accounts = status["machine_seconds"];
  const auto ns = NsOf(engine.accounts);
  for (int i = 0; i < kAccounts; ++i) accounts[kAccountNames[i]] = kSeconds * ns[i];
  status["conservation_error_ns"] = parts.metrics->ConservationErrorNs(engine);
  status["capacity_used_ratio"] = parts.metrics->CapacityUsedRatio(engine);
  status["store"] = StoreOf(parts);
  return status.dump(2, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace) + "\n";
}

std::string FormatStatus(const std::string& json) {
  const Json status = Json::parse(json);
  const Json& model = status.at("model");
  const Json& queue = status.at("queue");
  const Json& kv = status.at("kv");
  const Json& step = status.at("last_step");
  const Json& seconds = status.at("machine_seconds");
  std::string text;
  Line(&text, "build",
       absl::StrFormat("tuppence %s, %s, up %s", status["version"].get<std::string>(),
                       status["ready"].get<bool>() ? "ready" : "NOT READY",
                       Duration(status["uptime_seconds"])));
  if (!status["ready"].get<bool>()) Line(&text, "reason", status["reason"]);
  Line(
      &text, "model",
      absl::StrFormat("%s: weights %s, %.0f MiB; keys and values %s, %.0f MiB",
                      model["name"].get<std::string>(), model["weight_type"].get<std::string>(),
                      model["weight_bytes"].get<double>() / kMiB,
                      model["kv_type"].get<std::string>(), model["kv_bytes"].get<double>() / kMiB));
  Line(&text, "kernels",
       absl::StrFormat("%s (%s)", model["kernels"].get<std::string>(),
                       model["backend"].get<std::string>()));
  Line(&text, "queue",
       absl::StrFormat(
           "%d waiting, %d running in %d sequences; %d of %d places taken, %d refused",
           queue["waiting"].get<int64_t>(), queue["running"].get<int64_t>(),
           queue["sequences_running"].get<int64_t>(), queue["requests_held"].get<int64_t>(),
           queue["requests_held_limit"].get<int64_t>(), queue["refused"].get<int64_t>()));
  Line(&text, "kv",
       absl::StrFormat("%d of %d blocks of %d tokens used; %d preemptions",
                       kv["blocks_used"].get<int64_t>(), kv["blocks"].get<int64_t>(),
                       kv["block_tokens"].get<int64_t>(), kv["preemptions"].get<int64_t>()));
  Line(&text, "rate card", RateText(status.at("rate_card")));
  Line(&text, "last step",
       absl::StrFormat("%s; progress %s ago; %d steps; model off by %.1f %% (median)",
                       Duration(step["seconds"]), Duration(step["progress_seconds_ago"]),
                       step["steps"].get<int64_t>(), 100 * step["model_error_p50"].get<double>()));
  Line(&text, "books",
       absl::StrFormat("requests %s, idle %s, overhead %s, startup %s; error %d ns",
                       Duration(seconds["request"]), Duration(seconds["idle"]),
                       Duration(seconds["overhead"]), Duration(seconds["startup"]),
                       status["conservation_error_ns"].get<int64_t>()));
  Line(&text, "capacity",
       absl::StrFormat("%.1f %% used over the last minute",
                       100 * status["capacity_used_ratio"].get<double>()));
  Line(&text, "store", StoreText(status.at("store")));
  const Json& requests = status.at("requests");
  Line(&text, "requests",
       requests.empty()
           ? std::string("none open")
           : absl::StrFormat("%d open, the oldest first", status["requests_open"].get<int64_t>()));
  return text + RequestLines(requests);
}

}  // namespace tuppence
