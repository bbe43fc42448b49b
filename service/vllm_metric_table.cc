// The families under vLLM's names, with vLLM's buckets, for metric_table. Two of vLLM's are not
// here, as they are not on a vLLM that was started without asking for them: lora_requests_info,
// for adapters, of which there are none, and the residency of KV blocks.
#include <utility>

#include "service/metric_table.h"

namespace tuppence {
namespace {

using Buckets = std::vector<double>;
using Id = MetricId;
constexpr MetricKind kGauge = MetricKind::kGauge;
constexpr MetricKind kCounter = MetricKind::kCounter;
constexpr MetricKind kHistogram = MetricKind::kHistogram;

Buckets VllmTimeToFirstToken() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
          1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
}
Buckets VllmTokenSeconds() {
  return {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
          0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
}
Buckets VllmRequestSeconds() {
  return {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
          30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
}
Buckets OneTwoFive(int32_t last) {
  Buckets buckets;
  for (double decade = 1;; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (step * decade > last) return buckets;
      buckets.push_back(step * decade);
    }
  }
}

void AddVllmReadings(std::vector<MetricSpec>& table) {
  table.insert(
      table.end(),
      {{Id::kVllmRunning, "vllm:num_requests_running", kGauge, "", "Requests that run", {"engine"}},
       {Id::kVllmWaiting,
        "vllm:num_requests_waiting",
        kGauge,
        "",
        "Requests that wait",
        {"engine"}},
       {Id::kVllmKvUsage,
        "vllm:kv_cache_usage_perc",
        kGauge,
        "",
        "Used part of the KV pool, 0 to 1",
        {"engine"}},
       {Id::kVllmSleepState,
        "vllm:engine_sleep_state",
        kGauge,
        "",
        "This engine never sleeps",
        {"engine", "sleep_state"}},
       {Id::kVllmCacheConfig,
        "vllm:cache_config_info",
        kGauge,
        "",
        "The KV pool; always 1",
        {"engine", "block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching"}},
       {Id::kVllmPrefixQueries,
        "vllm:prefix_cache_queries_total",
        kCounter,
        "tokens",
        "Prompt tokens looked up in the prefix cache",
        {"engine"}},
       {Id::kVllmPrefixHits,
        "vllm:prefix_cache_hits_total",
        kCounter,
        "tokens",
        "Prompt tokens found there",
        {"engine"}},
       {Id::kVllmPreemptions,
        "vllm:num_preemptions_total",
        kCounter,
        "",
        "Preemptions",
        {"engine"}},
       {Id::kVllmPromptTokens,
        "vllm:prompt_tokens_total",
        kCounter,
        "tokens",
        "Prompt tokens",
        {"engine"}},
       {Id::kVllmPromptTokensBySource,
        "vllm:prompt_tokens_by_source_total",
        kCounter,
        "tokens",
        "Prompt tokens by where they came from",
        {"engine", "source"}},
       {Id::kVllmPromptTokensCached,
        "vllm:prompt_tokens_cached_total",
        kCounter,
        "tokens",
        "Prompt tokens from the prefix cache",
        {"engine"}},
       {Id::kVllmPromptTokensRecomputed,
        "vllm:prompt_tokens_recomputed_total",
        kCounter,
        "tokens",
        "Tokens computed again after a preemption",
        {"engine"}},
       {Id::kVllmGenerationTokens,
        "vllm:generation_tokens_total",
        kCounter,
        "tokens",
        "Tokens generated",
        {"engine"}},
       {Id::kVllmRequestSuccess,
        "vllm:request_success_total",
        kCounter,
        "",
        "Requests ended",
        {"engine", "finished_reason"}},
       {Id::kVllmAdmissionRejections,
        "vllm:admission_rejections_total",
        kCounter,
        "",
        "Requests refused because a queue was full",
        {"engine"}}});
}

void AddVllmHistograms(std::vector<MetricSpec>& table, int32_t context_tokens) {
  const auto add = [&](Id id, const char* name, const char* unit, const char* help,
                       Buckets buckets) {
    table.push_back({id, name, kHistogram, unit, help, {"engine"}, std::move(buckets)});
  };
  add(Id::kVllmTimeToFirstToken, "vllm:time_to_first_token_seconds", "seconds",
      "Time to first token", VllmTimeToFirstToken());
  add(Id::kVllmInterToken, "vllm:inter_token_latency_seconds", "seconds", "Between two tokens",
      VllmTokenSeconds());
  add(Id::kVllmTimePerOutputToken, "vllm:request_time_per_output_token_seconds", "seconds",
      "Mean between the tokens of a request", VllmTokenSeconds());
  add(Id::kVllmEndToEnd, "vllm:e2e_request_latency_seconds", "seconds", "Arrival to end",
      VllmRequestSeconds());
  add(Id::kVllmQueue, "vllm:request_queue_time_seconds", "seconds", "Arrival to first step",
      VllmRequestSeconds());
  add(Id::kVllmInference, "vllm:request_inference_time_seconds", "seconds", "First step to end",
      VllmRequestSeconds());
  add(Id::kVllmPrefill, "vllm:request_prefill_time_seconds", "seconds", "First step to first token",
      VllmRequestSeconds());
  add(Id::kVllmDecode, "vllm:request_decode_time_seconds", "seconds", "First token to end",
      VllmRequestSeconds());
  add(Id::kVllmRequestPromptTokens, "vllm:request_prompt_tokens", "tokens", "Prompt tokens",
      OneTwoFive(context_tokens));
  add(Id::kVllmRequestGenerationTokens, "vllm:request_generation_tokens", "tokens",
      "Tokens generated", OneTwoFive(context_tokens));
  add(Id::kVllmRequestMaxGenerationTokens, "vllm:request_max_num_generation_tokens", "tokens",
      "Tokens of a request's longest choice", OneTwoFive(context_tokens));
  add(Id::kVllmRequestPrefillKvTokens, "vllm:request_prefill_kv_computed_tokens", "tokens",
      "Prompt tokens computed, cached ones excluded", OneTwoFive(context_tokens));
  add(Id::kVllmRequestN, "vllm:request_params_n", "", "Choices asked for", {1, 2, 5, 10, 20});
  add(Id::kVllmRequestMaxTokens, "vllm:request_params_max_tokens", "tokens",
      "Tokens asked for at most, of each choice", OneTwoFive(context_tokens));
  add(Id::kVllmIterationTokens, "vllm:iteration_tokens_total", "tokens",
      "Prompt tokens computed and tokens generated in a step",
      {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384});
}

}  // namespace

void AddVllmMetrics(int32_t context_tokens, std::vector<MetricSpec>* table) {
  AddVllmReadings(*table);
  AddVllmHistograms(*table, context_tokens);
}

}  // namespace tuppence
