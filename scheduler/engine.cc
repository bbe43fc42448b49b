#include "scheduler/engine.h"

#include <pthread.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "scheduler/refusal.h"
#include "scheduler/warm_up.h"

namespace tuppence {
namespace {

constexpr int64_t kStepsPerQuantile = 128;
// Of the pool's blocks, the part that a tenant's cached prefixes keep whatever others leave behind.
constexpr int32_t kTenantFloorParts = 16;

SchedulerOptions SchedulerOptionsOf(const EngineOptions& options) {
  return {.block_tokens = options.block_tokens,
          .sequences_max = options.sequences_max,
          .step_tokens_max = options.step_tokens_max,
          .prefill_tokens_min = options.prefill_tokens_min,
          .itl_target_ns = options.itl_target_ns,
          .logit_rows_max = options.logit_rows_max,
          .positions_original = options.positions_original,
          .rope_policy = options.rope_policy,
          .preemptions_max = options.preemptions_max,
          .class_wait_max_ns = options.class_wait_max_ns,
          .request_wait_max_ns = options.request_wait_max_ns};
}

BatchLimits BatchLimitsOf(const EngineOptions& options) {
  return {.tokens_max = BatchTokensMax(options),
          .sequences_max = options.sequences_max,
          .logit_rows_max = options.logit_rows_max,
          .context_tokens = options.context_tokens,
          .block_tokens = options.block_tokens};
}

LedgerOptions LedgerOptionsOf(const EngineOptions& options, const Clock& clock) {
  const int64_t now_ns = clock.NowNs();
  const int64_t start_ns = options.process_start_ns >= 0 ? options.process_start_ns : now_ns;
  return {.start_ns = start_ns,
          .utc_start_ns = clock.UtcNs() - (now_ns - start_ns),
          .rate_card = options.rate_card,
          .coefficients = options.cost,
          .players_max = options.sequences_max + 1,
          .period_ns = options.period_ns};
}

absl::Status Unavailable(const char* reason_code, std::string_view message,
                         int64_t retry_after_ms) {
  Refusal refusal;
  refusal.reason = reason_code;
  refusal.retry_after_ms = retry_after_ms;
  return RefusalStatus(absl::StatusCode::kUnavailable, message, refusal);
}

}  // namespace

int32_t BatchTokensMax(const EngineOptions& options) {
  return std::max(options.step_tokens_max, options.sequences_max + options.prefill_tokens_min);
}

Engine::Engine(const EngineOptions& options, StepExecutor* executor, const Tokenizer* tokenizer,
               const Clock* clock)
    : options_(options),
      executor_(executor),
      tokenizer_(tokenizer),
      clock_(clock),
      inbox_(options.inbox_max, options.retry_after_ms),
      notifier_(std::make_shared<StreamNotifier>()),
      rate_card_(options.rate_card),
      pool_(options.blocks, options.blocks / kTenantFloorParts),
      scheduler_(SchedulerOptionsOf(options), &pool_),
      builder_(BatchLimitsOf(options)),
      ledger_(LedgerOptionsOf(options, *clock)),
      fit_(options.cost),
      records_(options.records) {
  CHECK_GT(options.stall_limit_ns, 0);
  CHECK_GT(options.idle_beat_ns, 0);
  arrived_.reserve(options.inbox_max);
  players_.reserve(options.sequences_max + 1);
  participants_.reserve(options.sequences_max);
  sampled_.resize(builder_.sampling_rows_max());
  ready_.reserve(options.sequences_max);
  counts_.blocks_total = options.blocks;
  counts_.prefix_cache = options.prefix_cache;
  counts_.last_progress_ns = clock->NowNs();
  counts_.cost = options.cost;
  scheduler_.SetCosts(options.cost);
  if (records_ != nullptr) records_->SetOnRoom([this] { inbox_.Wake(); });
  MutexLock lock(&snapshot_mutex_);
  snapshot_ = counts_;
}

Engine::~Engine() {
  Stop();
  notifier_->Stop();
}

absl::Status Engine::WarmUp() {
  CHECK(!started_ && !thread_.joinable());
  const absl::StatusOr<std::vector<MeasuredStep>> steps =
      MeasureWarmUp({.tokens_max = BatchTokensMax(options_),
                     .sequences_max = options_.sequences_max,
                     .context_tokens = options_.context_tokens,
                     .block_tokens = options_.block_tokens,
                     .blocks = options_.blocks,
                     .budget_ns = options_.warm_up_ns},
                    *clock_, executor_);
  if (!steps.ok()) return steps.status();
  fit_.Calibrate(*steps);
  SetCosts();
  const StepCostModel model(fit_.coefficients(), 0);
  for (const MeasuredStep& step : *steps) errors_.Add(step.measured_ns, model.StepNs(step.work));
  PublishCounts(clock_->NowNs());
  return absl::OkStatus();
}

void Engine::Start() {
  CHECK(!thread_.joinable());
  notifier_->Start();
  thread_ = std::thread([this] { Run(); });
}

void Engine::Run() {
  pthread_setname_np(pthread_self(), "engine");  // as top -H, perf and gdb show it
  while (!(stopping_.load(std::memory_order_acquire) && settled_ns_ >= 0)) {
    if (Step()) continue;
    const int64_t until_alarm_ns = next_alarm_ns_ - clock_->NowNs();
    inbox_.Wait(std::min(options_.idle_beat_ns, until_alarm_ns));
  }
  CloseBooks();
}

absl::Status Engine::Submit(Request request) {
  CHECK(request.stream != nullptr);
  absl::Status servable = CheckServable(request);
  if (!servable.ok()) return servable;
  if (options_.prefix_cache) {
    const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size());
    request.prefix_keys =
        PrefixKeys(options_.secret, request.tenant,
                   scheduler_.RegimeOf(prompt_tokens, request.sampling.max_tokens), request.prompt,
                   options_.block_tokens);
  }
  const std::shared_ptr<TokenStream> stream = request.stream;
  stream->Attach(&inbox_, notifier_);
  absl::Status accepted = inbox_.Submit(std::move(request));
  if (!accepted.ok()) stream->Attach(nullptr, nullptr);
  return accepted;
}

void Engine::BeginDrain(int64_t deadline_ns) {
  inbox_.Close(Unavailable(reason::kDraining,
                           "the server is shutting down and takes no new requests; send to another "
                           "replica, or retry once it is back",
                           options_.retry_after_ms));
  // kNever would mean that nobody drains.
  drain_deadline_ns_.store(std::min(deadline_ns, kNever - 1), std::memory_order_release);
  inbox_.Wake();
}

bool Engine::drained() const { return drained_.load(std::memory_order_acquire); }

void Engine::Drain(int64_t deadline_ns) {
  CHECK(thread_.joinable());
  BeginDrain(deadline_ns);
  drained_.wait(false, std::memory_order_acquire);
}

void Engine::Stop() {
  if (stopping_.exchange(true, std::memory_order_acq_rel)) return;
  BeginDrain(/*deadline_ns=*/0);
  if (thread_.joinable()) {
    thread_.join();
  } else {
    while (settled_ns_ < 0) Step();
    CloseBooks();
  }
  if (records_ != nullptr) return;
  notifier_->Stop();
}

EngineSnapshot Engine::Snapshot() const {
  MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

bool Engine::Step() {
  step_begin_ns_ = clock_->NowNs();
  if (!std::exchange(started_, true)) {
    // A period of its own: from now on the books know this process, its startup and its card,
    // should it be killed within a minute.
    const int64_t utc_now_ns = clock_->UtcNs();
    ledger_.Cut(CostLedger::Account::kStartup, step_begin_ns_, utc_now_ns);
    ledger_.ClosePeriod(utc_now_ns);
  }
  if (records_full_) PublishRecord();
  // Read before the inbox: once it is set nothing more goes in, so that what is taken now is all.
  const bool drain_begins = drain_deadline_ns_.load(std::memory_order_acquire) != kNever;
  AcceptArrivals(/*all=*/drain_begins);
  EndWhoMust();
  const StepPlan& plan = scheduler_.PlanStep(step_begin_ns_);
  counts_.preemptions += plan.preemptions;
  if (plan.empty()) {
    Idle();
    NoteDrained(drain_begins);
    return false;
  }
  StartPlanned(plan);
  const Batch& batch = builder_.Build(plan);
  const std::span<SampledToken> sampled = std::span(sampled_).first(builder_.sampling().size());
  executor_->Launch({plan.zero_blocks, plan.copy_from, plan.copy_to}, batch, builder_.sampling());
  scheduler_.NoteLaunched();
  scheduler_.PlanAhead();  // while the device works
  const absl::Status status = executor_->Wait(sampled);
  const int64_t now_ns = clock_->NowNs();
  if (!status.ok()) {
    Fail(status, now_ns);
    return true;
  }
  Charge(plan, now_ns);
  Deliver(now_ns);
  KeepCostLimits();
  CloseStep(now_ns);
  return true;
}

// From the inbox to the scheduler's queue. While the books are behind nobody comes in, unless these
// are the last, who must be answered in time.
void Engine::AcceptArrivals(bool all) {
  if (records_full_ && !all && failure_.ok()) return;
  inbox_.Take(&arrived_);
  for (Request& request : arrived_) {
    const int64_t arrival = arrivals_++;
    const int64_t tenant = TenantId(options_.secret, request.tenant);
    auto active = std::make_unique<ActiveRequest>(std::move(request), arrival, tenant, tokenizer_);
    scheduler_.Add(active.get(), active->request.sampling.choices, step_begin_ns_);
    ledger_.Open(active->request.tenant, &active->charges);
    // A stream that was cancelled before it came here has sent its wake-up already.
    NoteAlarm(active->request.stream->cancelled() ? step_begin_ns_ : active->request.deadline_ns);
    ++counts_.requests_accepted;
    ActiveRequest* newcomer = active.get();
    active_.emplace(arrival, std::move(active));
    RefuseIfLate(newcomer);
    if (newcomer->ended || !newcomer->request.max_cost_nanousd.has_value()) continue;
    EndIfTooDear(
        newcomer,
        WorkOf(scheduler_.CachedTokens(*newcomer), newcomer->prompt_tokens(), Phase::kPrefill),
        scheduler_.running() + 1);
  }
  arrived_.clear();
}

// Whoever was cancelled, ran out of time, was not read for too long; or everybody. The scan over
// all requests happens only when there is a reason for it.
void Engine::EndWhoMust() {
  const int64_t drain_deadline_ns = drain_deadline_ns_.load(std::memory_order_acquire);
  if (drain_deadline_ns != kNever && !std::exchange(draining_, true)) {
    if (idle_) ledger_.Cut(CostLedger::Account::kIdle, step_begin_ns_, clock_->UtcNs());
    counts_.draining = true;
  }
  if (step_begin_ns_ < drain_deadline_ns) NoteAlarm(drain_deadline_ns);
  if (inbox_.TakeRoom() && stalled_choices_ > 0) LetStalledGoOn();
  const bool everybody = step_begin_ns_ >= drain_deadline_ns || !failure_.ok();
  const bool someone = inbox_.TakeCancelled() || step_begin_ns_ >= next_alarm_ns_;
  if (!everybody && !someone) return;
  next_alarm_ns_ = kNever;
  if (step_begin_ns_ < drain_deadline_ns) NoteAlarm(drain_deadline_ns);
  for (auto next = active_.begin(); next != active_.end();) {
    ActiveRequest* request = next->second.get();
    ++next;  // ending takes the request out of the map
    if (EndIfItMust(request, step_begin_ns_)) continue;
    NoteAlarm(request->request.deadline_ns);
    for (const Sequence& sequence : request->sequences) {
      if (!sequence.stalled || sequence.finished) continue;
      NoteAlarm(request->choices[sequence.choice].stalled_since_ns + options_.stall_limit_ns);
    }
  }
}

void Engine::LetStalledGoOn() {
  for (const auto& [arrival, request] : active_) {
    for (Sequence& sequence : request->sequences) {
      if (!sequence.stalled || sequence.finished) continue;
      if (!request->request.stream->HasRoom(sequence.choice)) continue;
      scheduler_.SetStalled(&sequence, false);
      --stalled_choices_;
    }
  }
}

// Nobody runs: the time since the last cut was nobody's.
void Engine::Idle() {
  ledger_.Cut(draining_ ? CostLedger::Account::kDrain : CostLedger::Account::kIdle, step_begin_ns_,
              clock_->UtcNs());
  idle_ = true;
  start_estimate_.Pause();
  CloseStep(step_begin_ns_);
}

void Engine::StartPlanned(const StepPlan& plan) {
  if (std::exchange(idle_, false)) {
    ledger_.Cut(draining_ ? CostLedger::Account::kDrain : CostLedger::Account::kIdle,
                step_begin_ns_, clock_->UtcNs());
  }
  for (const PlanEntry& entry : plan.entries) {
    ActiveRequest* request = static_cast<ActiveRequest*>(entry.group);
    if (request->first_scheduled_ns < 0) request->first_scheduled_ns = step_begin_ns_;
    request->CountBlocks(step_begin_ns_, options_.block_tokens);
  }
  if (plan.preemptions == 0) return;
  for (const auto& [arrival, request] : active_) {
    if (!request->running && request->kv_blocks > 0) {
      request->CountBlocks(step_begin_ns_, options_.block_tokens);
    }
  }
}

void Engine::Fail(const absl::Status& status, int64_t now_ns) {
  ledger_.Cut(CostLedger::Account::kOverhead, now_ns, clock_->UtcNs());
  failure_ = Unavailable(
      reason::kEngineFailed,
      absl::StrCat("the model's device failed and the server takes no more requests until it is "
                   "restarted; send to another replica. The device said: ",
                   status.ToString()),
      -1);
  inbox_.Close(failure_);
  counts_.failed = true;
  step_begin_ns_ = now_ns;
  EndWhoMust();
  CloseStep(now_ns);
}

// The model as fitted by now is what steps are divided and planned by.
void Engine::SetCosts() {
  ledger_.SetCoefficients(fit_.coefficients());
  scheduler_.SetCosts(fit_.coefficients());
}

// Tells readers and books, publishes the counters, lets go of who ended.
void Engine::CloseStep(int64_t now_ns) {
  ended_.clear();
  notifier_->Post(&ready_);
  if (rate_card_changed_.load(std::memory_order_acquire)) TakeRateCard();
  ledger_.ClosePeriodIfDue(clock_->UtcNs());
  if (records_ == nullptr) {
    ledger_.TakePeriods(nullptr);
  } else {
    ledger_.TakePeriods(&record()->periods);
    PublishRecord();
  }
  if (fit_.Refine()) SetCosts();
  PublishCounts(now_ns);
}

void Engine::PublishCounts(int64_t now_ns) {
  counts_.last_progress_ns = now_ns;
  counts_.waiting = scheduler_.waiting() + (records_full_ ? inbox_.size() : 0);
  counts_.running = scheduler_.running();
  counts_.sequences_running = scheduler_.sequences_running();
  counts_.blocks_used = pool_.blocks_used();
  counts_.blocks_cached = pool_.blocks_cached();
  counts_.prefix = scheduler_.prefix_counts();
  counts_.accounts = ledger_.totals();
  counts_.elapsed_ns = ledger_.last_cut_ns() - ledger_.start_ns();
  counts_.conservation_error_ns = counts_.accounts.sum_ns() - counts_.elapsed_ns;
  counts_.records_full = records_full_;
  counts_.records_waiting = records_ != nullptr ? records_->waiting() : 0;
  counts_.cost = ledger_.model().coefficients();
  // Sorting is for when nothing else is to be done, or at times.
  const int64_t steps_since = counts_.steps - errors_steps_;
  if (steps_since >= kStepsPerQuantile || (idle_ && steps_since != 0) || !started_) {
    errors_steps_ = counts_.steps;
    counts_.step_model_error_p50 = errors_.Quantile(0.5);
    counts_.step_model_error_p95 = errors_.Quantile(0.95);
  }
  // A reader that holds the lock just now sees this step's figures with the next.
  if (snapshot_mutex_.TryLock()) {
    snapshot_ = counts_;
    snapshot_mutex_.Unlock();
  }
}

}  // namespace tuppence
