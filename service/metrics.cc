#include "service/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <functional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "service/served_model.h"
#include "service/service_counters.h"
#include "service/version.h"

namespace tuppence {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr double kSecondsPerNs = 1e-9;
constexpr double kUsdPerNanousd = 1e-9;

struct Reading {
  const ServiceParts& parts;
  EngineSnapshot engine;
  AdmissionSnapshot admission;
};

struct Sample {
  std::vector<ClientMetric::Label> labels;
  double value = 0;
};

struct Metric {
  const char* name;
  MetricType type;
  const char* help;
  std::function<std::vector<Sample>(const Reading&)> read;
};

template <typename Value>
std::function<std::vector<Sample>(const Reading&)> One(Value value) {
  return [value](const Reading& reading) {
    return std::vector<Sample>{{{}, static_cast<double>(value(reading))}};
  };
}

std::vector<Sample> BuildInfo(const Reading& reading) {
  const ServedModel& model = *reading.parts.model;
  return {{{{"version", kVersion},
            {"model_name", model.name},
            {"weight_type", model.weight_type},
            {"kv_type", model.kv_type},
            {"backend", model.backend},
            {"arithmetic_id", model.arithmetic_id}},
           1}};
}

std::vector<Sample> MachineSeconds(const Reading& reading) {
  const AccountTotals& accounts = reading.engine.accounts;
  const auto sample = [](const char* account, int64_t ns) {
    return Sample{{{"account", account}}, kSecondsPerNs * ns};
  };
  return {sample("startup", accounts.startup_ns), sample("idle", accounts.idle_ns),
          sample("request", accounts.request_ns), sample("overhead", accounts.overhead_ns),
          sample("drain", accounts.drain_ns)};
}

std::vector<Sample> CallsEnded(const Reading& reading) {
  std::vector<Sample> samples;
  for (int method = 0; method < kMethods; ++method) {
    for (int code = 0; code < kCodes; ++code) {
      const int64_t count = reading.parts.counters->ended(static_cast<Method>(method), code);
      if (count == 0 && code != 0) continue;  // outcomes appear once they have occurred
      samples.push_back(
          {{{"method", kMethodNames[method]},
            {"outcome", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}},
           static_cast<double>(count)});
    }
  }
  return samples;
}

std::vector<Sample> Refused(const Reading& reading) {
  return {{{{"scope", "global"}}, static_cast<double>(reading.admission.refused_global)},
          {{{"scope", "tenant"}}, static_cast<double>(reading.admission.refused_tenant)}};
}

std::vector<Sample> Tokens(const Reading& reading) {
  return {{{{"phase", "prefill"}}, static_cast<double>(reading.engine.prefill_tokens)},
          {{{"phase", "decode"}}, static_cast<double>(reading.engine.decode_tokens)},
          {{{"phase", "recomputed"}}, static_cast<double>(reading.engine.recomputed_tokens)}};
}

const std::vector<Metric>& Table() {
  static const auto& table = *new std::vector<Metric>{
      {"tuppence_build_info", MetricType::Gauge, "What runs; always 1", BuildInfo},
      {"tuppence_requests_running", MetricType::Gauge, "Requests that hold a place in the engine",
       One([](const Reading& r) { return r.engine.running; })},
      {"tuppence_requests_waiting", MetricType::Gauge, "Requests accepted and not yet running",
       One([](const Reading& r) { return r.engine.waiting; })},
      {"tuppence_sequences_running", MetricType::Gauge, "Answers that grow, choices one by one",
       One([](const Reading& r) { return r.engine.sequences_running; })},
      {"tuppence_requests_held", MetricType::Gauge, "Requests that admission counts",
       One([](const Reading& r) { return r.admission.requests; })},
      {"tuppence_prompt_tokens_held", MetricType::Gauge, "Prompt tokens that admission counts",
       One([](const Reading& r) { return r.admission.prompt_tokens; })},
      {"tuppence_admission_refused_total", MetricType::Counter, "Requests refused before any work",
       Refused},
      {"tuppence_calls_ended_total", MetricType::Counter, "Calls by method and status code",
       CallsEnded},
      {"tuppence_stalled_calls_total", MetricType::Counter,
       "Calls cut off because the caller took nothing",
       One([](const Reading& r) { return r.parts.counters->stalled_calls.load(); })},
      {"tuppence_kv_blocks_used", MetricType::Gauge, "KV blocks in use",
       One([](const Reading& r) { return r.engine.blocks_used; })},
      {"tuppence_kv_blocks_total", MetricType::Gauge, "KV blocks in the pool",
       One([](const Reading& r) { return r.engine.blocks_total; })},
      {"tuppence_tokens_total", MetricType::Counter, "Tokens computed, by phase", Tokens},
      {"tuppence_completion_tokens_total", MetricType::Counter, "Tokens delivered to callers",
       One([](const Reading& r) { return r.engine.completion_tokens; })},
      {"tuppence_preemptions_total", MetricType::Counter, "Sequences that gave their blocks back",
       One([](const Reading& r) { return r.engine.preemptions; })},
      {"tuppence_rows_not_finite_total", MetricType::Counter, "Logit rows with NaN or infinity",
       One([](const Reading& r) { return r.engine.rows_not_finite; })},
      {"tuppence_steps_total", MetricType::Counter, "Steps of the engine",
       One([](const Reading& r) { return r.engine.steps; })},
      {"tuppence_step_seconds_total", MetricType::Counter, "Time in steps",
       One([](const Reading& r) { return kSecondsPerNs * r.engine.step_ns_sum; })},
      {"tuppence_step_seconds_last", MetricType::Gauge, "The last step's time",
       One([](const Reading& r) { return kSecondsPerNs * r.engine.step_ns_last; })},
      {"tuppence_step_seconds_max", MetricType::Gauge, "The longest step's time",
       One([](const Reading& r) { return kSecondsPerNs * r.engine.step_ns_max; })},
      {"tuppence_machine_seconds_total", MetricType::Counter,
       "Time since process start, by who it is booked to", MachineSeconds},
      {"tuppence_request_machine_seconds_total", MetricType::Counter,
       "Machine time of finished requests",
       One([](const Reading& r) { return kSecondsPerNs * r.parts.counters->machine_ns.load(); })},
      {"tuppence_request_cost_usd_total", MetricType::Counter, "Price of finished requests",
       One([](const Reading& r) {
         return kUsdPerNanousd * r.parts.counters->cost_nanousd.load();
       })},
      {"tuppence_engine_failed", MetricType::Gauge, "1 once the engine has failed for good",
       One([](const Reading& r) { return r.engine.failed ? 1 : 0; })},
      {"tuppence_draining", MetricType::Gauge, "1 while no new requests are taken",
       One([](const Reading& r) { return r.engine.draining ? 1 : 0; })},
  };
  return table;
}

MetricFamily FamilyOf(const Metric& metric, const Reading& reading) {
  MetricFamily family{metric.name, metric.help, metric.type, {}};
  for (Sample& sample : metric.read(reading)) {
    ClientMetric client;
    client.label = std::move(sample.labels);
    if (metric.type == MetricType::Counter) {
      client.counter.value = sample.value;
    } else {
      client.gauge.value = sample.value;
    }
    family.metric.push_back(std::move(client));
  }
  return family;
}

}  // namespace

std::string FormatMetrics(const ServiceParts& parts) {
  const Reading reading{parts, parts.engine->Snapshot(), parts.admission->snapshot()};
  std::vector<MetricFamily> families;
  for (const Metric& metric : Table()) families.push_back(FamilyOf(metric, reading));
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace tuppence
