#include "service/metric_table.h"

#include "model/check.h"

namespace tuppence {
namespace {

using Buckets = std::vector<double>;
using Id = MetricId;
constexpr MetricKind kGauge = MetricKind::kGauge;
constexpr MetricKind kCounter = MetricKind::kCounter;
constexpr MetricKind kHistogram = MetricKind::kHistogram;

// Ours are finer than vLLM's: a small model's tokens come every few milliseconds, and vLLM's first
// bucket ends at ten.
Buckets TokenSeconds() {
  return {0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04,
          0.05,   0.075,  0.1,   0.15,  0.2,   0.3,   0.5,    0.75, 1,     2,    5,    10};
}
Buckets RequestSeconds() {
  return {0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2,
          0.3,   0.4,   0.5,   0.75, 1,    1.5,  2,    3,     5,   7.5,  10,
          15,    20,    30,    60,   120,  300,  600,  1800,  3600};
}
Buckets CommitSeconds() {
  return {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5};
}
// 1, 2, 5 of each decade: half a decade is what one sees on a logarithmic axis.
Buckets CostUsd() {
  return {1e-7, 2e-7, 5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4,
          2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1};
}
Buckets Doubling(double first, double last) {
  Buckets buckets;
  for (double bound = first; bound <= last; bound *= 2) buckets.push_back(bound);
  return buckets;
}
Buckets RelativeErrors() { return {0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5}; }

// vLLM's.
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

void AddProcess(std::vector<MetricSpec>& table) {
  table.insert(
      table.end(),
      {{Id::kBuildInfo,
        "tuppence_build_info",
        kGauge,
        "",
        "What runs; always 1",
        {"version", "backend", "kernels", "arithmetic_id", "weight_type", "kv_type"}},
       {Id::kModelMemory,
        "tuppence_model_memory_bytes",
        kGauge,
        "bytes",
        "Memory the model takes, by part",
        {"part"}},
       {Id::kEngineFailed, "tuppence_engine_failed", kGauge, "",
        "1 once the engine has failed for good"},
       {Id::kDraining, "tuppence_draining", kGauge, "", "1 while no new requests are taken"},
       {Id::kEngineSilent, "tuppence_engine_silent_seconds", kGauge, "seconds",
        "Since the engine last showed progress; an idle one shows it twice a second"}});
}

void AddRequests(std::vector<MetricSpec>& table) {
  table.insert(
      table.end(),
      {{Id::kRequestsRunning, "tuppence_requests_running", kGauge, "",
        "Requests that hold a place in the engine"},
       {Id::kRequestsWaiting, "tuppence_requests_waiting", kGauge, "",
        "Requests accepted and not yet running"},
       {Id::kSequencesRunning, "tuppence_sequences_running", kGauge, "",
        "Answers that grow, choices one by one"},
       {Id::kRequestsHeld, "tuppence_requests_held", kGauge, "", "Requests that admission counts"},
       {Id::kRequestsHeldLimit, "tuppence_requests_held_limit", kGauge, "",
        "How many of them there may be; more are refused"},
       {Id::kPromptTokensHeld, "tuppence_prompt_tokens_held", kGauge, "tokens",
        "Prompt tokens that admission counts"},
       {Id::kPromptTokensHeldLimit, "tuppence_prompt_tokens_held_limit", kGauge, "tokens",
        "How many of them there may be; more are refused"},
       {Id::kAdmissionRefused,
        "tuppence_admission_refused_total",
        kCounter,
        "",
        "Requests refused because a queue was full, by whose",
        {"scope"}},
       {Id::kRefusals,
        "tuppence_refusals_total",
        kCounter,
        "",
        "Calls that were refused and cost nothing, by reason",
        {"reason"}},
       {Id::kCallsEnded,
        "tuppence_calls_ended_total",
        kCounter,
        "",
        "Calls by method and status code",
        {"method", "outcome"}},
       {Id::kStalledCalls, "tuppence_stalled_calls_total", kCounter, "",
        "Calls cut off because the caller took nothing"},
       {Id::kRequestsEnded,
        "tuppence_requests_ended_total",
        kCounter,
        "",
        "Requests that the engine served, by how they ended",
        {"outcome"}},
       {Id::kTimeToFirstToken,
        "tuppence_time_to_first_token_seconds",
        kHistogram,
        "seconds",
        "From the request's arrival to its first token on the host",
        {},
        RequestSeconds()},
       {Id::kInterToken,
        "tuppence_inter_token_seconds",
        kHistogram,
        "seconds",
        "Between two tokens of one answer",
        {},
        TokenSeconds()},
       {Id::kTimePerOutputToken,
        "tuppence_time_per_output_token_seconds",
        kHistogram,
        "seconds",
        "Mean time between the tokens of an answer, one value for each complete answer",
        {},
        TokenSeconds()},
       {Id::kRequestSeconds,
        "tuppence_request_seconds",
        kHistogram,
        "seconds",
        "From arrival to the last token, of complete answers",
        {},
        RequestSeconds()},
       {Id::kQueueSeconds,
        "tuppence_queue_seconds",
        kHistogram,
        "seconds",
        "From arrival to the first step, of all that ended",
        {},
        RequestSeconds()}});
}

void AddTokensAndSteps(std::vector<MetricSpec>& table) {
  table.insert(
      table.end(),
      {{Id::kTokens,
        "tuppence_tokens_total",
        kCounter,
        "tokens",
        "Tokens computed, by phase",
        {"phase"}},
       {Id::kCompletionTokens, "tuppence_completion_tokens_total", kCounter, "tokens",
        "Tokens delivered to callers"},
       {Id::kRequestTokens,
        "tuppence_request_tokens_total",
        kCounter,
        "tokens",
        "Tokens of ended requests; cached ones are part of prompt",
        {"kind"}},
       {Id::kTenantTokens,
        "tuppence_tenant_tokens_total",
        kCounter,
        "tokens",
        "The same, by tenant",
        {"tenant", "kind"}},
       {Id::kRequestPromptTokens,
        "tuppence_request_prompt_tokens",
        kHistogram,
        "tokens",
        "Prompt tokens of a request",
        {},
        Doubling(8, 131072)},
       {Id::kRequestCompletionTokens,
        "tuppence_request_completion_tokens",
        kHistogram,
        "tokens",
        "Output tokens of a request, its choices together",
        {},
        Doubling(1, 131072)},
       {Id::kSteps, "tuppence_steps_total", kCounter, "", "Steps of the engine"},
       {Id::kStepSeconds,
        "tuppence_step_seconds",
        kHistogram,
        "seconds",
        "Time of a step, by what was in it: prefill, decode, mixed or recompute",
        {"phase"},
        TokenSeconds()},
       {Id::kStepLastSeconds, "tuppence_step_last_seconds", kGauge, "seconds",
        "The last step's time"},
       {Id::kStepLongestSeconds, "tuppence_step_longest_seconds", kGauge, "seconds",
        "The longest step's time since the start"},
       {Id::kStepSequences,
        "tuppence_step_sequences",
        kHistogram,
        "",
        "Batch size: sequences in a step",
        {},
        Doubling(1, 1024)},
       {Id::kStepTokens,
        "tuppence_step_tokens",
        kHistogram,
        "tokens",
        "Tokens computed in a step, recomputed ones included",
        {},
        Doubling(1, 16384)},
       {Id::kRowsNotFinite, "tuppence_rows_not_finite_total", kCounter, "",
        "Logit rows with NaN or infinity"},
       {Id::kKvBlocksUsed, "tuppence_kv_blocks_used", kGauge, "", "KV blocks in use"},
       {Id::kKvBlocksFree, "tuppence_kv_blocks_free", kGauge, "", "KV blocks that are free"},
       {Id::kKvBlocksCached, "tuppence_kv_blocks_cached", kGauge, "",
        "Those of the free ones that hold a prompt's beginning, to be used again"},
       {Id::kPrefixPromptTokens, "tuppence_prefix_cache_prompt_tokens_total", kCounter, "tokens",
        "Prompt tokens of started requests that could have used the prefix cache"},
       {Id::kPrefixHitTokens, "tuppence_prefix_cache_hit_tokens_total", kCounter, "tokens",
        "Those of them that were found there, and neither computed nor billed"},
       {Id::kPreemptions, "tuppence_preemptions_total", kCounter, "",
        "Sequences that gave their blocks back and were computed again"}});
}

void AddBooks(std::vector<MetricSpec>& table) {
  table.insert(
      table.end(),
      {{Id::kMachineSeconds,
        "tuppence_machine_seconds_total",
        kCounter,
        "seconds",
        "Time since process start, by the account it is booked to",
        {"account"}},
       {Id::kCostUsd,
        "tuppence_cost_usd_total",
        kCounter,
        "USD",
        "What that time cost, while a rate was known",
        {"account"}},
       {Id::kRequestMachineSeconds,
        "tuppence_request_machine_seconds_total",
        kCounter,
        "seconds",
        "Machine time of ended requests",
        {"phase"}},
       {Id::kTenantMachineSeconds,
        "tuppence_tenant_machine_seconds_total",
        kCounter,
        "seconds",
        "The same, by tenant",
        {"tenant", "phase"}},
       {Id::kRequestCostUsd,
        "tuppence_request_cost_usd_total",
        kCounter,
        "USD",
        "What ended requests were charged",
        {"phase"}},
       {Id::kTenantCostUsd,
        "tuppence_tenant_cost_usd_total",
        kCounter,
        "USD",
        "The same, by tenant",
        {"tenant", "phase"}},
       {Id::kCostPerRequest,
        "tuppence_request_cost_usd",
        kHistogram,
        "USD",
        "What a request was charged",
        {},
        CostUsd()},
       {Id::kWrittenOffSeconds, "tuppence_written_off_seconds_total", kCounter, "seconds",
        "Machine time of requests ended by our own fault, priced at nothing"},
       {Id::kRate,
        "tuppence_rate_usd_per_hour",
        kGauge,
        "USD",
        "What this process's part of the machine costs an hour, where it is known",
        {"rate_card_id"}},
       {Id::kRateCardMissing, "tuppence_rate_card_missing", kGauge, "",
        "1 while no rate is known and answers carry machine time alone"},
       {Id::kConservationError, "tuppence_conservation_error_seconds", kGauge, "seconds",
        "Accounts against the clock, to the nanosecond; anything but 0 is a fault of the ledger"},
       {Id::kStepModelError,
        "tuppence_step_model_error_ratio",
        kGauge,
        "",
        "|measured - modelled| / measured of the last 512 steps",
        {"percentile"}},
       {Id::kStepModelRelativeError,
        "tuppence_step_model_relative_error",
        kHistogram,
        "",
        "The same, of each step",
        {},
        RelativeErrors()},
       {Id::kCapacityUsed, "tuppence_capacity_used_ratio", kGauge, "",
        "Tokens a second over the last minute, as part of what the step-cost model gives for the "
        "same mix with a full pool within the inter-token target"},
       {Id::kRecordsWaiting, "tuppence_records_waiting", kGauge, "",
        "Steps whose records the books have not taken down yet"},
       {Id::kRecordsFull, "tuppence_records_full", kGauge, "",
        "1 while no new requests start because the books are behind"},
       {Id::kClosingDelay,
        "tuppence_closing_delay_seconds",
        kHistogram,
        "seconds",
        "From a request's end to its closing message; its row becomes durable in between",
        {},
        CommitSeconds()},
       {Id::kStoreUnrecordable, "tuppence_store_unrecordable", kGauge, "",
        "1 while the usage store cannot be written"},
       {Id::kStoreRows, "tuppence_store_rows_total", kCounter, "", "Rows made durable"},
       {Id::kStoreRowsWaiting, "tuppence_store_rows_waiting", kGauge, "",
        "Ended requests whose rows are not durable yet"},
       {Id::kStoreCommits, "tuppence_store_commits_total", kCounter, "", "Group commits"},
       {Id::kStoreCommitsFailed, "tuppence_store_commits_failed_total", kCounter, "",
        "Commits that failed"},
       {Id::kStoreCommitSeconds,
        "tuppence_store_commit_seconds",
        kHistogram,
        "seconds",
        "Time of a group commit, fsync included",
        {},
        CommitSeconds()},
       {Id::kStoreUnrecordedRequests, "tuppence_store_unrecorded_requests_total", kCounter, "",
        "Requests served while the store could not be written"},
       {Id::kStoreFreeBytes, "tuppence_store_free_bytes", kGauge, "bytes",
        "Free space of the store's file system"}});
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
  add(Id::kVllmIterationTokens, "vllm:iteration_tokens_total", "tokens",
      "Prompt tokens computed and tokens generated in a step",
      {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384});
}

}  // namespace

std::vector<MetricSpec> MakeMetricTable(int32_t context_tokens) {
  std::vector<MetricSpec> table;
  table.reserve(static_cast<size_t>(Id::kCount));
  AddProcess(table);
  AddRequests(table);
  AddTokensAndSteps(table);
  AddBooks(table);
  AddVllmReadings(table);
  AddVllmHistograms(table, context_tokens);
  CHECK_EQ(table.size(), static_cast<size_t>(Id::kCount));
  for (size_t i = 0; i < table.size(); ++i) CHECK_EQ(static_cast<size_t>(table[i].id), i);
  return table;
}

}  // namespace tuppence
