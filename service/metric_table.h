// metric_table: every family that /metrics shows, in one table: name, type, unit, help, labels and
// buckets. Values come from elsewhere: readings from engine_readings, what is gathered over time
// from observed_metrics and tenant_totals; metric_page writes them out. Any thread.
//
// tuppence_* are our own names and pass `promtool check metrics`. vllm:* are the families that
// endpoint pickers, OpenCost, KEDA examples and vLLM's dashboards read, with vLLM's buckets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tuppence {

enum class MetricId : int {
  // The process and the model.
  kBuildInfo,
  kModelMemory,
  kEngineFailed,
  kDraining,
  kEngineSilent,
  // Requests: now, at the door, ended.
  kRequestsRunning,
  kRequestsWaiting,
  kSequencesRunning,
  kRequestsHeld,
  kRequestsHeldLimit,
  kPromptTokensHeld,
  kPromptTokensHeldLimit,
  kAdmissionRefused,
  kRefusals,
  kCallsEnded,
  kStalledCalls,
  kRequestsEnded,
  // Times of requests.
  kTimeToFirstToken,
  kInterToken,
  kTimePerOutputToken,
  kRequestSeconds,
  kQueueSeconds,
  // Tokens and steps.
  kTokens,
  kCompletionTokens,
  kRequestTokens,
  kTenantTokens,
  kRequestPromptTokens,
  kRequestCompletionTokens,
  kSteps,
  kStepSeconds,
  kStepLastSeconds,
  kStepLongestSeconds,
  kStepSequences,
  kStepTokens,
  kRowsNotFinite,
  // Memory for keys and values.
  kKvBlocksUsed,
  kKvBlocksFree,
  kKvBlocksCached,
  kPrefixPromptTokens,
  kPrefixHitTokens,
  kPreemptions,
  // The books.
  kMachineSeconds,
  kStepEnergy,
  kCostUsd,
  kRequestMachineSeconds,
  kTenantMachineSeconds,
  kRequestCostUsd,
  kTenantCostUsd,
  kCostPerRequest,
  kWrittenOffSeconds,
  kRate,
  kRateCardMissing,
  kConservationError,
  kStepModelError,
  kStepModelRelativeError,
  kCapacityUsed,
  kRecordsWaiting,
  kRecordsFull,
  kClosingDelay,
  // The usage store, where there is one.
  kStoreUnrecordable,
  kStoreRows,
  kStoreRowsWaiting,
  kStoreCommits,
  kStoreCommitsFailed,
  kStoreCommitSeconds,
  kStoreUnrecordedRequests,
  kStoreFreeBytes,
  // Budgets, where there are any.
  kBudgetLimit,
  kBudgetSpent,
  kBudgetHeld,
  kBudgetExhausted,
  // vLLM's names.
  kVllmRunning,
  kVllmWaiting,
  kVllmKvUsage,
  kVllmSleepState,
  kVllmCacheConfig,
  kVllmPrefixQueries,
  kVllmPrefixHits,
  kVllmPreemptions,
  kVllmPromptTokens,
  kVllmPromptTokensBySource,
  kVllmPromptTokensCached,
  kVllmPromptTokensRecomputed,
  kVllmGenerationTokens,
  kVllmRequestSuccess,
  kVllmAdmissionRejections,
  kVllmTimeToFirstToken,
  kVllmInterToken,
  kVllmTimePerOutputToken,
  kVllmEndToEnd,
  kVllmQueue,
  kVllmInference,
  kVllmPrefill,
  kVllmDecode,
  kVllmRequestPromptTokens,
  kVllmRequestGenerationTokens,
  kVllmRequestMaxGenerationTokens,
  kVllmRequestPrefillKvTokens,
  kVllmRequestN,
  kVllmRequestMaxTokens,
  kVllmIterationTokens,
  kCount,
};

enum class MetricKind : uint8_t { kGauge, kCounter, kHistogram };

struct MetricSpec {
  MetricId id;
  const char* name;
  MetricKind kind;
  const char* unit;  // of the value; "" for a count of what the name says
  const char* help;
  std::vector<const char*> labels = {};  // beside model_name, which every sample has
  std::vector<double> buckets = {};      // of a histogram: upper bounds, the last is +Inf

  bool is_vllm() const { return id >= MetricId::kVllmRunning; }
};

// Those of vLLM's names, by id, at the table's end.
void AddVllmMetrics(int32_t context_tokens, std::vector<MetricSpec>* table);

// By id. context_tokens: vLLM's buckets of token counts end there.
std::vector<MetricSpec> MakeMetricTable(int32_t context_tokens);

}  // namespace tuppence
