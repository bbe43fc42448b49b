// See load_report.h.
#include "bench/load_report.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

struct Rates {
  double requests_per_second = 0;
  double output_tokens_per_second = 0;
  double total_tokens_per_second = 0;
  double usd_per_request = 0;
  double usd_per_million_tokens = 0;  // prompt and output together
};

Rates RatesOf(const LoadResult& result) {
  const double seconds = std::max(result.wall_seconds, 1e-9);
  const double tokens = result.prompt_tokens.load() + result.completion_tokens.load();
  const double usd = result.cost_nanousd.load() * 1e-9;
  Rates rates;
  rates.requests_per_second = result.completed.load() / seconds;
  rates.output_tokens_per_second = result.completion_tokens.load() / seconds;
  rates.total_tokens_per_second = tokens / seconds;
  if (result.priced.load() > 0) rates.usd_per_request = usd / result.priced.load();
  if (tokens > 0) rates.usd_per_million_tokens = usd / tokens * 1e6;
  return rates;
}

std::string RangeText(LengthRange range) {
  return range.min == range.max ? absl::StrCat(range.min) : absl::StrCat(range.min, "-", range.max);
}

std::string LoadText(const TrafficOptions& options) {
  const std::string lengths =
      absl::StrCat(options.text ? "text" : "token ids", ", ", RangeText(options.prompt), " in, ",
                   RangeText(options.output), " out, seed ", options.seed);
  if (options.rate > 0) {
    return absl::StrFormat("open loop, %g requests/s for %g s; %s", options.rate, options.seconds,
                           lengths);
  }
  return absl::StrFormat("closed loop, %d callers, %d requests; %s", options.concurrency,
                         options.requests, lengths);
}

std::string LatencyRow(const char* name, const Histogram& times) {
  return absl::StrFormat("%-24s %10.2f %10.2f %10.2f %10.2f\n", name, times.mean_seconds() * 1e3,
                         times.Quantile(0.5) * 1e3, times.Quantile(0.9) * 1e3,
                         times.Quantile(0.99) * 1e3);
}

Json LatencyJson(const Histogram& times) {
  return {{"count", times.count()},
          {"mean", times.mean_seconds()},
          {"p50", times.Quantile(0.5)},
          {"p90", times.Quantile(0.9)},
          {"p99", times.Quantile(0.99)}};
}

std::string CodeName(int code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

std::string ErrorLines(LoadResult* result) {
  std::string lines = absl::StrFormat("errors                   %d, not sent %d\n",
                                      result->errors_total(), result->not_sent.load());
  for (size_t code = 0; code < result->errors.size(); ++code) {
    const int64_t count = result->errors[code].load();
    if (count > 0) absl::StrAppendFormat(&lines, "  %-22s %d\n", CodeName(code), count);
  }
  absl::MutexLock lock(&result->mutex);
  if (!result->first_error.empty()) absl::StrAppend(&lines, "  first: ", result->first_error, "\n");
  return lines;
}

std::string CostLine(const LoadResult& result, const Rates& rates) {
  if (result.priced.load() == 0) {
    return absl::StrFormat("cost                     no rate card; %.3f s of the machine\n",
                           result.machine_ns.load() * 1e-9);
  }
  return absl::StrFormat(
      "cost                     %.9f USD, %.9f a request, %.4f per million tokens\n",
      result.cost_nanousd.load() * 1e-9, rates.usd_per_request, rates.usd_per_million_tokens);
}

}  // namespace

std::string LoadTable(const TrafficOptions& options, const v1::GetModelResponse& model,
                      LoadResult* result) {
  const Rates rates = RatesOf(*result);
  std::string table =
      absl::StrFormat("%s, weights %s, kv %s, %s\n%s\n\n", model.name(), model.weight_type(),
                      model.kv_type(), model.kernels(), LoadText(options));
  absl::StrAppendFormat(&table, "%-24s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90",
                        "p99");
  table += LatencyRow("time to first token", result->time_to_first_token);
  table += LatencyRow("inter-token latency", result->inter_token);
  table += LatencyRow("per output token", result->per_output_token);
  table += LatencyRow("end to end", result->end_to_end);
  if (result->refusal.count() > 0) table += LatencyRow("refusal", result->refusal);
  absl::StrAppendFormat(&table,
                        "\nrequests                 %d in %.2f s, %.2f/s; %d streams at most\n",
                        result->completed.load(), result->wall_seconds, rates.requests_per_second,
                        result->streams_most.load());
  absl::StrAppendFormat(&table,
                        "tokens                   %d in, %d out; %.1f out/s, %.1f/s in all\n",
                        result->prompt_tokens.load(), result->completion_tokens.load(),
                        rates.output_tokens_per_second, rates.total_tokens_per_second);
  table += CostLine(*result, rates);
  absl::StrAppendFormat(&table, "this client              %.2f s of CPU time\n",
                        result->client_cpu_seconds);
  return table + ErrorLines(result);
}

std::string LoadJson(const TrafficOptions& options, const v1::GetModelResponse& model,
                     LoadResult* result) {
  const Rates rates = RatesOf(*result);
  Json errors = Json::object();
  for (size_t code = 0; code < result->errors.size(); ++code) {
    if (const int64_t count = result->errors[code].load()) errors[CodeName(code)] = count;
  }
  const Json document = {{"load", LoadText(options)},
                         {"model",
                          {{"name", model.name()},
                           {"weight_type", model.weight_type()},
                           {"kv_type", model.kv_type()},
                           {"kernels", model.kernels()},
                           {"arithmetic_id", model.arithmetic_id()},
                           {"version", model.version()}}},
                         {"time_to_first_token_seconds", LatencyJson(result->time_to_first_token)},
                         {"inter_token_seconds", LatencyJson(result->inter_token)},
                         {"per_output_token_seconds", LatencyJson(result->per_output_token)},
                         {"end_to_end_seconds", LatencyJson(result->end_to_end)},
                         {"refusal_seconds", LatencyJson(result->refusal)},
                         {"requests", result->completed.load()},
                         {"errors", errors},
                         {"not_sent", result->not_sent.load()},
                         {"streams_most", result->streams_most.load()},
                         {"wall_seconds", result->wall_seconds},
                         {"client_cpu_seconds", result->client_cpu_seconds},
                         {"requests_per_second", rates.requests_per_second},
                         {"prompt_tokens", result->prompt_tokens.load()},
                         {"completion_tokens", result->completion_tokens.load()},
                         {"output_tokens_per_second", rates.output_tokens_per_second},
                         {"preemptions", result->preemptions.load()},
                         {"machine_ns", result->machine_ns.load()},
                         {"priced_requests", result->priced.load()},
                         {"cost_nanousd", result->cost_nanousd.load()},
                         {"usd_per_request", rates.usd_per_request},
                         {"usd_per_million_tokens", rates.usd_per_million_tokens}};
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace tuppence
