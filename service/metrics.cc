#include "service/metrics.h"

#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "service/budgets.h"
#include "service/served_model.h"
#include "service/service_counters.h"
#include "service/store_state.h"
#include "service/version.h"

namespace tuppence {
namespace {

constexpr double kSeconds = 1e-9;  // of a nanosecond

void AddProcess(const ServiceParts& parts, const EngineSnapshot& engine, MetricPage* page) {
  const ServedModel& model = *parts.model;
  page->Add(MetricId::kBuildInfo, 1,
            {kVersion, model.backend, model.kernels.substr(0, model.kernels.find(':')),
             model.arithmetic_id, model.weight_type, model.kv_type});
  page->Add(MetricId::kModelMemory, static_cast<double>(model.weight_bytes), {"weights"});
  page->Add(MetricId::kModelMemory, static_cast<double>(model.kv_bytes), {"kv_cache"});
  page->Add(MetricId::kEngineFailed, engine.failed);
  page->Add(MetricId::kDraining, engine.draining);
  page->Add(MetricId::kEngineSilent, kSeconds * (parts.clock->NowNs() - engine.last_progress_ns));
}

void AddDoor(const ServiceParts& parts, MetricPage* page) {
  const AdmissionSnapshot admission = parts.admission->snapshot();
  const AdmissionLimits& limits = parts.admission->limits();
  page->Add(MetricId::kRequestsHeld, admission.requests);
  page->Add(MetricId::kRequestsHeldLimit, limits.requests_max);
  page->Add(MetricId::kPromptTokensHeld, admission.prompt_tokens);
  page->Add(MetricId::kPromptTokensHeldLimit, limits.prompt_tokens_max);
  page->Add(MetricId::kAdmissionRefused, admission.refused_global, {"global"});
  page->Add(MetricId::kAdmissionRefused, admission.refused_tenant, {"tenant"});
  page->Add(MetricId::kVllmAdmissionRejections,
            admission.refused_global + admission.refused_tenant);
  for (const auto& [reason, count] : parts.counters->refused()) {
    page->Add(MetricId::kRefusals, count, {reason});
  }
  for (int method = 0; method < kMethods; ++method) {
    for (int code = 0; code < kCodes; ++code) {
      const int64_t count = parts.counters->ended(static_cast<Method>(method), code);
      if (count == 0 && code != 0) continue;  // outcomes appear once they have occurred
      page->Add(
          MetricId::kCallsEnded, count,
          {kMethodNames[method], absl::StatusCodeToString(static_cast<absl::StatusCode>(code))});
    }
  }
  page->Add(MetricId::kStalledCalls, parts.counters->stalled_calls.load());
}

void AddEngine(const EngineSnapshot& engine, MetricPage* page) {
  page->Add(MetricId::kRequestsRunning, engine.running);
  page->Add(MetricId::kRequestsWaiting, engine.waiting);
  page->Add(MetricId::kSequencesRunning, engine.sequences_running);
  page->Add(MetricId::kTokens, engine.prefill_tokens, {"prefill"});
  page->Add(MetricId::kTokens, engine.decode_tokens, {"decode"});
  page->Add(MetricId::kTokens, engine.recomputed_tokens, {"recomputed"});
  page->Add(MetricId::kCompletionTokens, engine.completion_tokens);
  page->Add(MetricId::kSteps, engine.steps);
  page->Add(MetricId::kStepLastSeconds, kSeconds * engine.step_ns_last);
  page->Add(MetricId::kStepLongestSeconds, kSeconds * engine.step_ns_max);
  page->Add(MetricId::kRowsNotFinite, engine.rows_not_finite);
  page->Add(MetricId::kKvBlocksUsed, engine.blocks_used);
  page->Add(MetricId::kKvBlocksFree, engine.blocks_total - engine.blocks_used);
  page->Add(MetricId::kKvBlocksCached, engine.blocks_cached);
  page->Add(MetricId::kPrefixPromptTokens, engine.prefix.prompt_tokens);
  page->Add(MetricId::kPrefixHitTokens, engine.prefix.hit_tokens);
  page->Add(MetricId::kPreemptions, engine.preemptions);
  page->Add(MetricId::kStepModelError, engine.step_model_error_p50, {"50"});
  page->Add(MetricId::kStepModelError, engine.step_model_error_p95, {"95"});
  page->Add(MetricId::kRecordsWaiting, engine.records_waiting);
  page->Add(MetricId::kRecordsFull, engine.records_full);
}

void AddVllm(const ServiceParts& parts, const EngineSnapshot& engine, MetricPage* page) {
  page->Add(MetricId::kVllmRunning, engine.running);
  page->Add(MetricId::kVllmWaiting, engine.waiting);
  page->Add(
      MetricId::kVllmKvUsage,
      engine.blocks_total > 0 ? static_cast<double>(engine.blocks_used) / engine.blocks_total : 0);
  page->Add(MetricId::kVllmSleepState, 1, {"awake"});
  page->Add(MetricId::kVllmSleepState, 0, {"weights_offloaded"});
  page->Add(MetricId::kVllmSleepState, 0, {"discard_all"});
  page->Add(MetricId::kVllmCacheConfig, 1,
            {absl::StrCat(parts.model->kv_block_tokens), absl::StrCat(engine.blocks_total),
             parts.model->kv_type, engine.prefix_cache ? "True" : "False"});
  page->Add(MetricId::kVllmPrefixQueries, engine.prefix.prompt_tokens);
  page->Add(MetricId::kVllmPrefixHits, engine.prefix.hit_tokens);
  page->Add(MetricId::kVllmPreemptions, engine.preemptions);
}

void AddStore(const StoreState& store, MetricPage* page) {
  page->Add(MetricId::kStoreUnrecordable, store.unrecordable);
  page->Add(MetricId::kStoreRows, store.rows_stored);
  page->Add(MetricId::kStoreRowsWaiting, store.rows_waiting);
  page->Add(MetricId::kStoreCommits, store.commits);
  page->Add(MetricId::kStoreCommitsFailed, store.commits_failed);
  page->Add(MetricId::kStoreUnrecordedRequests, store.unrecorded_requests);
  if (store.bytes_free >= 0) page->Add(MetricId::kStoreFreeBytes, store.bytes_free);
}

void AddBudgets(const Budgets& budgets, int64_t utc_ns, size_t tenants_max, MetricPage* page) {
  constexpr double kUsd = 1e-9;  // of a nano-dollar
  for (const BudgetState& state : budgets.States(utc_ns, tenants_max)) {
    const std::vector<std::string> labels = {state.tenant, NameOf(state.budget.per)};
    page->Add(MetricId::kBudgetLimit, kUsd * state.budget.nanousd, labels);
    page->Add(MetricId::kBudgetSpent, kUsd * state.spent_nanousd, labels);
    page->Add(MetricId::kBudgetHeld, kUsd * state.held_nanousd, labels);
    page->Add(MetricId::kBudgetExhausted, state.exhausted, labels);
  }
}

}  // namespace

Metrics::Metrics(const MetricsOptions& options, const Clock* clock)
    : options_(options),
      clock_(clock),
      table_(MakeMetricTable(options.context_tokens)),
      frame_(table_, options.model_name),
      observed_(table_, options.tenants_max),
      capacity_(clock->NowNs()) {}

void Metrics::Observe(const StepRecord& record) {
  observed_.Observe(record);
  const int64_t now_ns = clock_->NowNs();
  absl::MutexLock lock(&mutex_);
  for (const StepSummary& step : record.steps) {
    capacity_.AddStep(now_ns, step.prefill_tokens, step.decode_tokens);
  }
  for (const EndedRequest& ended : record.ended) {
    const Usage& usage = ended.row.usage;
    if (usage.completion_tokens == 0) continue;
    capacity_.AddRequest(now_ns, usage.prompt_tokens, usage.completion_tokens);
  }
  for (const Period& period : record.periods) {
    CheckPeriod(period);
    money_.AddPeriod(period);
  }
}

// A period's own sums: its accounts cover it, its tenants make up the request account, and it
// begins where the one before ended.
void Metrics::CheckPeriod(const Period& period) {
  int64_t tenants_ns = 0;
  for (const TenantCharges& tenant : period.tenants) tenants_ns += tenant.request_ns;
  periods_error_ns_ += std::abs(period.accounts.sum_ns() - (period.end_ns - period.start_ns));
  periods_error_ns_ += std::abs(tenants_ns - period.accounts.request_ns);
  if (periods_end_ns_ >= 0) periods_error_ns_ += std::abs(period.start_ns - periods_end_ns_);
  periods_end_ns_ = period.end_ns;
}

void Metrics::ObserveCommit(int64_t commit_ns, int64_t) { observed_.ObserveCommit(commit_ns); }

void Metrics::ObserveClosing(int64_t delay_ns) { observed_.ObserveClosing(delay_ns); }

int64_t Metrics::ConservationErrorNs(const EngineSnapshot& engine) const {
  absl::MutexLock lock(&mutex_);
  return std::abs(engine.conservation_error_ns) + periods_error_ns_ +
         options_.conservation_drill_ns;
}

double Metrics::CapacityUsedRatio(const EngineSnapshot& engine) {
  // Tokens that the running sequences' blocks hold, as a mean.
  const double context_tokens = engine.sequences_running > 0 && engine.blocks_total > 0
                                    ? static_cast<double>(options_.capacity.pool_tokens) /
                                          engine.blocks_total * engine.blocks_used /
                                          engine.sequences_running
                                    : 0;
  absl::MutexLock lock(&mutex_);
  return capacity_.UsedRatio(clock_->NowNs(), engine.cost, options_.capacity, context_tokens);
}

bool Metrics::AddBooks(const ServiceParts& parts, const EngineSnapshot& engine, MetricPage* page) {
  const auto ns = NsOf(engine.accounts);
  for (int i = 0; i < kAccounts; ++i) {
    page->Add(MetricId::kMachineSeconds, kSeconds * ns[i], {kAccountNames[i]});
  }
  if (engine.energy_joules > 0) page->Add(MetricId::kStepEnergy, engine.energy_joules);
  const RateCard card = parts.engine->rate_card();
  page->Add(MetricId::kRateCardMissing, !card.known());
  if (card.known()) {
    page->Add(MetricId::kRate,
              1e-6 * static_cast<double>(card.micro_usd_per_hour) *
                  (static_cast<double>(card.machine_share_ppm) / static_cast<double>(kPpm)),
              {card.id});
  }
  page->Add(MetricId::kConservationError, kSeconds * ConservationErrorNs(engine));
  page->Add(MetricId::kCapacityUsed, CapacityUsedRatio(engine));
  absl::MutexLock lock(&mutex_);
  const auto usd = money_.UpTo(engine.accounts, card);
  if (!usd.has_value()) return false;
  for (int i = 0; i < kAccounts; ++i) page->Add(MetricId::kCostUsd, (*usd)[i], {kAccountNames[i]});
  return true;
}

std::string Metrics::Format(const ServiceParts& parts) {
  const EngineSnapshot engine = parts.engine->Snapshot();
  MetricPage page(frame_);
  AddProcess(parts, engine, &page);
  AddDoor(parts, &page);
  AddEngine(engine, &page);
  const bool has_money = AddBooks(parts, engine, &page);
  AddVllm(parts, engine, &page);
  const bool has_store = parts.store != nullptr;
  if (has_store) AddStore(parts.store(), &page);
  if (parts.budgets != nullptr) {
    AddBudgets(*parts.budgets, clock_->UtcNs(), options_.tenants_max, &page);
  }
  observed_.AddTo(&page, {.store = has_store, .money = has_money});
  return page.Text();
}

std::string FormatMetrics(const ServiceParts& parts) {
  CHECK(parts.metrics != nullptr);
  return parts.metrics->Format(parts);
}

}  // namespace tuppence
