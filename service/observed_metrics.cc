#include "service/observed_metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "service/outcome.h"

namespace tuppence {
namespace {

constexpr double kSeconds = 1e-9;  // of a nanosecond
constexpr double kUsd = 1e-9;      // of a nano-dollar

constexpr std::array<const char*, 4> kStepPhases = {"prefill", "decode", "mixed", "recompute"};
constexpr std::array<const char*, 4> kVllmReasons = {"stop", "length", "abort", "error"};

size_t PhaseOf(const StepSummary& step) {
  if (step.prefill_tokens > 0) return step.decode_tokens > 0 ? 2 : 0;
  return step.decode_tokens > 0 ? 1 : 3;
}

int VllmReasonOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return 0;
    case FinishReason::kLength:
    case FinishReason::kCostLimit:  // likewise as much as the caller allowed
      return 1;
    case FinishReason::kError:
      return 3;
    default:
      return 2;
  }
}

struct SumFamilies {
  MetricId machine_seconds;
  MetricId cost_usd;
  MetricId tokens;
};
constexpr SumFamilies kRequestFamilies = {MetricId::kRequestMachineSeconds,
                                          MetricId::kRequestCostUsd, MetricId::kRequestTokens};
constexpr SumFamilies kTenantFamilies = {MetricId::kTenantMachineSeconds, MetricId::kTenantCostUsd,
                                         MetricId::kTenantTokens};

void AddSums(const SumFamilies& families, const TenantSums& sums,
             const std::vector<std::string>& labels, bool money, MetricPage* page) {
  const auto add = [&](MetricId id, const char* label, double value) {
    std::vector<std::string> values = labels;
    values.emplace_back(label);
    page->Add(id, value, values);
  };
  add(families.machine_seconds, "prefill", kSeconds * sums.prefill_ns);
  add(families.machine_seconds, "decode", kSeconds * sums.decode_ns);
  if (money) add(families.cost_usd, "prefill", kUsd * sums.prefill_nanousd);
  if (money) add(families.cost_usd, "decode", kUsd * sums.decode_nanousd);
  add(families.tokens, "prompt", static_cast<double>(sums.prompt_tokens));
  add(families.tokens, "cached", static_cast<double>(sums.cached_tokens));
  add(families.tokens, "completion", static_cast<double>(sums.completion_tokens));
}

bool IsComplete(const RequestRow& row) {
  return row.reason == FinishReason::kStop || row.reason == FinishReason::kLength ||
         row.reason == FinishReason::kCostLimit;
}

}  // namespace

ObservedMetrics::ObservedMetrics(const std::vector<MetricSpec>& table, size_t tenants_max)
    : tenants_(tenants_max, /*watched_max=*/4096) {
  for (const MetricSpec& spec : table) {
    if (spec.kind != MetricKind::kHistogram) continue;
    const size_t series = spec.id == MetricId::kStepSeconds ? kStepPhases.size() : 1;
    for (size_t i = 0; i < series; ++i) {
      histograms_[spec.id].push_back(std::make_unique<prometheus::Histogram>(spec.buckets));
    }
  }
}

void ObservedMetrics::See(MetricId id, double value, size_t series) {
  histograms_.at(id)[series]->Observe(value);
}

void ObservedMetrics::Observe(const StepRecord& record) {
  ObserveSteps(record);
  for (const int64_t ns : record.time_to_first_token_ns) {
    See(MetricId::kTimeToFirstToken, kSeconds * ns);
    See(MetricId::kVllmTimeToFirstToken, kSeconds * ns);
  }
  for (const int64_t ns : record.inter_token_ns) {
    See(MetricId::kInterToken, kSeconds * ns);
    See(MetricId::kVllmInterToken, kSeconds * ns);
  }
  for (const EndedRequest& ended : record.ended) ObserveEnded(ended);
}

void ObservedMetrics::ObserveSteps(const StepRecord& record) {
  Counts counts;
  counts.generated_tokens =
      static_cast<int64_t>(record.time_to_first_token_ns.size() + record.inter_token_ns.size());
  for (const StepSummary& step : record.steps) {
    counts.prefill_tokens += step.prefill_tokens;
    counts.recomputed_tokens += step.recomputed_tokens;
  }
  // Which of a record's steps a token came from is not told; where there are several, those that
  // decoded have had one for each position, and the rest were first tokens.
  int64_t first_tokens = counts.generated_tokens;
  for (const StepSummary& step : record.steps) first_tokens -= step.decode_tokens;
  first_tokens = std::max<int64_t>(0, first_tokens);
  int64_t generated_left = counts.generated_tokens;
  for (size_t i = 0; i < record.steps.size(); ++i) {
    const StepSummary& step = record.steps[i];
    const bool last = i + 1 == record.steps.size();
    const int64_t firsts = step.prefill_tokens > 0 || last ? std::exchange(first_tokens, 0) : 0;
    const int64_t generated =
        last ? generated_left : std::min<int64_t>(generated_left, step.decode_tokens + firsts);
    generated_left -= generated;
    See(MetricId::kStepSeconds, kSeconds * step.step_ns, PhaseOf(step));
    See(MetricId::kStepSequences, step.sequences);
    See(MetricId::kStepTokens, step.prefill_tokens + step.decode_tokens + step.recomputed_tokens);
    See(MetricId::kVllmIterationTokens, static_cast<double>(step.prefill_tokens + generated));
    if (step.step_ns > 0) {
      See(MetricId::kStepModelRelativeError,
          static_cast<double>(std::abs(step.step_ns - step.modelled_ns)) / step.step_ns);
    }
  }
  absl::MutexLock lock(&mutex_);
  counts_.prefill_tokens += counts.prefill_tokens;
  counts_.recomputed_tokens += counts.recomputed_tokens;
  counts_.generated_tokens += counts.generated_tokens;
}

void ObservedMetrics::ObserveEnded(const EndedRequest& ended) {
  const RequestRow& row = ended.row;
  See(MetricId::kQueueSeconds, kSeconds * row.usage.queue_ns);
  See(MetricId::kRequestPromptTokens, static_cast<double>(row.usage.prompt_tokens));
  See(MetricId::kRequestCompletionTokens, static_cast<double>(row.usage.completion_tokens));
  if (row.cost.has_rate && !row.written_off) {
    See(MetricId::kCostPerRequest, kUsd * row.cost.cost_nanousd);
  }
  if (IsComplete(row)) ObserveTimes(ended);
  CountRow(ended);
}

void ObservedMetrics::ObserveTimes(const EndedRequest& ended) {
  const Usage& usage = ended.row.usage;
  const auto choices = static_cast<double>(std::max<size_t>(1, ended.end.finish_reasons.size()));
  const auto completion_tokens = static_cast<double>(usage.completion_tokens);
  // Choices grow side by side, so a choice's tokens take the whole time.
  const double longest = std::ceil(completion_tokens / choices);
  const double per_token =
      longest > 1 ? kSeconds * static_cast<double>(usage.decode_ns) / (longest - 1) : 0;
  if (longest > 1) See(MetricId::kTimePerOutputToken, per_token);
  See(MetricId::kRequestSeconds, kSeconds * usage.total_ns);
  See(MetricId::kVllmTimePerOutputToken, per_token);
  See(MetricId::kVllmEndToEnd, kSeconds * usage.total_ns);
  See(MetricId::kVllmQueue, kSeconds * usage.queue_ns);
  See(MetricId::kVllmInference, kSeconds * (usage.prefill_ns + usage.decode_ns));
  See(MetricId::kVllmPrefill, kSeconds * usage.prefill_ns);
  See(MetricId::kVllmDecode, kSeconds * usage.decode_ns);
  See(MetricId::kVllmRequestPromptTokens, static_cast<double>(usage.prompt_tokens));
  See(MetricId::kVllmRequestGenerationTokens, completion_tokens);
  See(MetricId::kVllmRequestMaxGenerationTokens, longest);
  See(MetricId::kVllmRequestPrefillKvTokens,
      static_cast<double>(usage.prompt_tokens - usage.cached_tokens));
  See(MetricId::kVllmRequestN, choices);
  See(MetricId::kVllmRequestMaxTokens, static_cast<double>(ended.row.max_tokens));
}

void ObservedMetrics::CountRow(const EndedRequest& ended) {
  const RequestRow& row = ended.row;
  TenantSums sums;
  sums.prefill_ns = row.cost.prefill_ns;
  sums.decode_ns = row.cost.machine_ns - row.cost.prefill_ns;
  if (row.cost.has_rate && !row.written_off && row.cost.machine_ns > 0) {
    sums.prefill_nanousd = static_cast<int64_t>(
        static_cast<double>(row.cost.cost_nanousd) *
        (static_cast<double>(row.cost.prefill_ns) / static_cast<double>(row.cost.machine_ns)));
    sums.decode_nanousd = row.cost.cost_nanousd - sums.prefill_nanousd;
  }
  sums.prompt_tokens = row.usage.prompt_tokens;
  sums.cached_tokens = row.usage.cached_tokens;
  sums.completion_tokens = row.usage.completion_tokens;
  absl::MutexLock lock(&mutex_);
  ++counts_.ended[static_cast<size_t>(row.reason)];
  ++counts_.finished[static_cast<size_t>(VllmReasonOf(row.reason))];
  counts_.cached_tokens += row.usage.cached_tokens;
  if (row.written_off) counts_.written_off_ns += row.cost.machine_ns;
  tenants_.Add(row.tenant, sums);
}

void ObservedMetrics::ObserveCommit(int64_t commit_ns) {
  See(MetricId::kStoreCommitSeconds, kSeconds * commit_ns);
}

void ObservedMetrics::ObserveClosing(int64_t delay_ns) {
  See(MetricId::kClosingDelay, kSeconds * delay_ns);
}

void ObservedMetrics::AddHistograms(Shown shown, MetricPage* page) const {
  for (const auto& [id, series] : histograms_) {
    if (id == MetricId::kStoreCommitSeconds && !shown.store) continue;
    if (id == MetricId::kCostPerRequest && !shown.money) continue;
    for (size_t i = 0; i < series.size(); ++i) {
      const prometheus::ClientMetric::Histogram histogram = series[i]->Collect().histogram;
      if (id == MetricId::kStepSeconds) {
        page->Add(id, histogram, {kStepPhases[i]});
      } else {
        page->Add(id, histogram);
      }
    }
  }
}

void ObservedMetrics::AddTo(MetricPage* page, Shown shown) const {
  AddHistograms(shown, page);
  Counts counts;
  std::vector<std::pair<std::string, TenantSums>> tenants;
  {
    absl::MutexLock lock(&mutex_);
    counts = counts_;
    tenants = tenants_.Labelled();
  }
  for (int i = 1; i < kOutcomes; ++i) {
    page->Add(MetricId::kRequestsEnded, static_cast<double>(counts.ended[i]), {kOutcomeNames[i]});
  }
  page->Add(MetricId::kWrittenOffSeconds, kSeconds * counts.written_off_ns);
  // The sums have families of their own: a tenant's series begins with its first request, and what
  // it begins with is lost to rate() and increase().
  TenantSums all;
  for (const auto& [tenant, sums] : tenants) {
    all.Add(sums);
    AddSums(kTenantFamilies, sums, {tenant}, shown.money, page);
  }
  AddSums(kRequestFamilies, all, {}, shown.money, page);
  AddVllm(counts, page);
}

void ObservedMetrics::AddVllm(const Counts& counts, MetricPage* page) const {
  const auto computed = static_cast<double>(counts.prefill_tokens);
  const auto cached = static_cast<double>(counts.cached_tokens);
  page->Add(MetricId::kVllmPromptTokens, computed + cached);
  page->Add(MetricId::kVllmPromptTokensBySource, computed, {"local_compute"});
  page->Add(MetricId::kVllmPromptTokensBySource, cached, {"local_cache_hit"});
  page->Add(MetricId::kVllmPromptTokensBySource, 0, {"external_kv_transfer"});
  page->Add(MetricId::kVllmPromptTokensCached, cached);
  page->Add(MetricId::kVllmPromptTokensRecomputed, static_cast<double>(counts.recomputed_tokens));
  page->Add(MetricId::kVllmGenerationTokens, static_cast<double>(counts.generated_tokens));
  for (size_t i = 0; i < kVllmReasons.size(); ++i) {
    page->Add(MetricId::kVllmRequestSuccess, static_cast<double>(counts.finished[i]),
              {kVllmReasons[i]});
  }
}

}  // namespace tuppence
