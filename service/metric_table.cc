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
       {Id::kStepEnergy, "tuppence_step_energy_joules_total", kCounter, "joules",
        "Energy that the GPU took for steps; absent where its power cannot be read"},
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
        "Machine time of requests ended by our own fault and of answers made again, priced at "
        "nothing"},
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

void AddBudgets(std::vector<MetricSpec>& table) {
  const auto add = [&](Id id, const char* name, const char* unit, const char* help) {
    table.push_back({id, name, kGauge, unit, help, {"tenant", "per"}});
  };
  add(Id::kBudgetLimit, "tuppence_budget_limit_usd", "USD",
      "What a tenant may spend in a day or month of UTC; of the 50 who have spent the largest "
      "part");
  add(Id::kBudgetSpent, "tuppence_budget_spent_usd", "USD",
      "What its requests received since the day or month began have cost");
  add(Id::kBudgetHeld, "tuppence_budget_held_usd", "USD",
      "What its requests in progress may cost at most");
  add(Id::kBudgetExhausted, "tuppence_budget_exhausted", "",
      "1 once a request of the day or month was refused because what is left could not hold it");
}

}  // namespace

std::vector<MetricSpec> MakeMetricTable(int32_t context_tokens) {
  std::vector<MetricSpec> table;
  table.reserve(static_cast<size_t>(Id::kCount));
  AddProcess(table);
  AddRequests(table);
  AddTokensAndSteps(table);
  AddBooks(table);
  AddBudgets(table);
  AddVllmMetrics(context_tokens, &table);
  CHECK_EQ(table.size(), static_cast<size_t>(Id::kCount));
  for (size_t i = 0; i < table.size(); ++i) CHECK_EQ(static_cast<size_t>(table[i].id), i);
  return table;
}

}  // namespace tuppence
