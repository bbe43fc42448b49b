// Engine: one thread that serves all requests, one step after the other. Accepts what has arrived,
// asks the scheduler who runs, builds the batch, runs it, charges the time and delivers the tokens.
// The next step is planned while the device runs this one.
// Made by service/main and used by service/generation; knows no gRPC and no device.
//
// Submit, SetRateCard, BeginDrain, drained and Snapshot are safe on any thread; the rest is the
// engine thread's or, before Start, the owner's (a test that never calls Start calls Step itself).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "model/rope_table.h"
#include "model/tokenizer.h"
#include "scheduler/active_request.h"
#include "scheduler/batch_builder.h"
#include "scheduler/block_pool.h"
#include "scheduler/clock.h"
#include "scheduler/cost_ledger.h"
#include "scheduler/inbox.h"
#include "scheduler/mutex.h"
#include "scheduler/prefix_key.h"
#include "scheduler/rate_card.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "scheduler/start_estimate.h"
#include "scheduler/step_cost_fit.h"
#include "scheduler/step_cost_model.h"
#include "scheduler/step_executor.h"
#include "scheduler/step_records.h"
#include "scheduler/token_stream.h"

namespace tuppence {

struct EngineOptions {
  int32_t context_tokens = 4096;  // prompt + output of one choice
  int32_t blocks = 0;             // in the KV pool; > 0
  int32_t block_tokens = 16;
  int32_t sequences_max = 256;      // running at once, choices counted one by one
  int32_t step_tokens_max = 512;    // decode takes what it needs, prefill what is left ...
  int32_t prefill_tokens_min = 64;  // ... but at least this many, so that it never starves
  // Prefill beside running streams: the modelled step stays within it (scheduler/step_budget); 0:
  // no limit in time.
  int64_t itl_target_ns = 0;
  int32_t logit_rows_max = 256;  // >= sequences_max; prompt log-probabilities use what is left
  int32_t inbox_max = 4096;
  int32_t positions_original = 0;  // LongRoPE: Config::short_rope_tokens_max(); 0: none
  RopePolicy rope_policy = RopePolicy::kExact;
  int32_t preemptions_max = 3;  // then a request is pinned
  // A class in which somebody waits starts somebody at least so often; 0: when its turn comes.
  ClassWaits class_wait_max_ns = kClassWaitMaxNs;
  // Then it comes before its tenant's later ones, however short they are.
  int64_t request_wait_max_ns = kRequestWaitMaxNs;
  bool prefix_cache = true;
  ServerSecret secret = {};                 // serve draws one; see scheduler/prefix_key
  int64_t stall_limit_ns = 30'000'000'000;  // a reader that takes nothing for so long is cancelled
  int64_t idle_beat_ns = 500'000'000;       // an idle engine shows progress at least this often
  int64_t retry_after_ms = 1000;
  int64_t process_start_ns = -1;  // where the books begin; -1: at construction
  RateCard rate_card;
  StepCostCoefficients cost;  // the prior; WarmUp and the steps themselves refine it ...
  bool refine_cost = true;    // ... unless it is the truth, where the device is a model of one
  int64_t warm_up_ns = 4'000'000'000;
  int64_t period_ns = 60'000'000'000;
  // Where each step's record goes. Null: there are no books; the engine ends streams itself.
  StepRecords* records = nullptr;
  // While it is true no row can be stored and service goes on all the same: time goes to the
  // unrecorded account. Null: never. Outlives the engine.
  const std::atomic<bool>* unrecorded = nullptr;
  int64_t books_limit_ns = 10'000'000'000;  // a drain waits so long for room in the records
};

// Tokens that one step's batch may hold: what the executor's buffers must fit.
int32_t BatchTokensMax(const EngineOptions& options);

// For health, status and metrics: each value is right by itself; together they may be a step apart.
struct EngineSnapshot {
  int64_t last_progress_ns = 0;  // monotonic; older than a few seconds: the engine hangs
  int64_t waiting = 0;           // requests accepted and not running
  int64_t running = 0;           // requests that hold a place
  int64_t sequences_running = 0;
  int64_t blocks_used = 0;
  int64_t blocks_cached = 0;  // of those not used, that the prefix cache could give out again
  int64_t blocks_total = 0;
  bool prefix_cache = false;  // there is one
  PrefixCounts prefix;
  int64_t steps = 0;
  int64_t prefill_tokens = 0;  // computed, recomputation included
  int64_t decode_tokens = 0;
  int64_t recomputed_tokens = 0;
  int64_t completion_tokens = 0;  // delivered
  int64_t requests_accepted = 0;
  int64_t requests_ended = 0;
  int64_t preemptions = 0;
  int64_t rows_not_finite = 0;
  int64_t step_ns_last = 0;
  int64_t step_ns_sum = 0;  // over all steps
  int64_t step_ns_max = 0;
  double energy_joules = 0;  // of all steps; 0: the device's power cannot be read
  AccountTotals accounts;
  int64_t elapsed_ns = 0;             // from the books' begin to their last cut
  int64_t conservation_error_ns = 0;  // accounts less that: 0, or the ledger has a fault
  int64_t records_waiting = 0;        // handed to the books and not yet taken down
  bool records_full = false;          // no new requests until the books catch up
  StepCostCoefficients cost;          // as fitted by now
  double step_model_error_p50 = 0;    // |measured - modelled| / measured of the last 512 steps
  double step_model_error_p95 = 0;
  bool draining = false;
  bool failed = false;  // latched: the executor failed; only a new process helps
};

class Engine {
 public:
  // executor, clock and tokenizer outlive the engine. tokenizer may be null: then no request may
  // ask for text or stop strings, and answers are token ids.
  Engine(const EngineOptions& options, StepExecutor* executor, const Tokenizer* tokenizer,
         const Clock* clock);
  ~Engine();  // Stop()

  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Times a few steps of known shape, for the step-cost model. Before Start; the time is startup's.
  absl::Status WarmUp();

  // Starts the engine's thread and the notifier's; startup time ends here.
  void Start();

  // From the end of the step at hand on, machine time costs what this card says. Any thread.
  void SetRateCard(const RateCard& rate_card);
  // The card in force, or about to be.
  RateCard rate_card() const;

  // Takes the request on; its stream then carries everything, RequestEnd last and exactly once.
  // Refuses at once, and leaves the stream untouched, when the request can never be served
  // (INVALID_ARGUMENT with the numbers), it has a limit of cost and no rate is known
  // (FAILED_PRECONDITION), its deadline has passed (DEADLINE_EXCEEDED), the inbox is full, the
  // server drains or the engine has failed (UNAVAILABLE with a Refusal). One that could not start
  // before its deadline, by the queue as it is, ends within a step: UNAVAILABLE with a retry time,
  // kDeadline. One whose prompt alone would cost more than its limit does too: OK, kCostLimit.
  absl::Status Submit(Request request);

  // Stops taking new work. What is in flight may finish until deadline_ns (monotonic); the rest
  // then ends UNAVAILABLE / kDrained with its usage booked. Returns at once; a second call may move
  // the deadline.
  void BeginDrain(int64_t deadline_ns);
  // Nothing is in flight and nothing will be, and the books have been handed everybody's end.
  bool drained() const;
  // BeginDrain, and waits until drained. Requires: Start was called.
  void Drain(int64_t deadline_ns);

  // Ends whatever is in flight as a drain whose time is up, closes the last period and the records,
  // then ends the threads. With records the notifier's lives as long as the engine: the books'
  // thread may still have ends to send, and must be done before the engine is destroyed.
  // Idempotent.
  void Stop();

  EngineSnapshot Snapshot() const;
  // What such a request would take if it were served alone, by the step-cost model as fitted by
  // now. Any thread.
  int64_t AloneNs(int64_t prompt_tokens, const SamplingParams& sampling) const;

  // One step, for tests and benchmarks that did not call Start. True when it did device work.
  bool Step();
  // When the next Step has something to do even if nothing arrives: a deadline, a stall limit.
  int64_t next_alarm_ns() const { return next_alarm_ns_; }
  // So that such a test can make the posted calls and look at blocks, queue, books and estimate.
  StreamNotifier* notifier() { return notifier_.get(); }
  const BlockPool& pool() const { return pool_; }
  const Scheduler& scheduler() const { return scheduler_; }
  const CostLedger& ledger() const { return ledger_; }
  const StartEstimate& start_estimate() const { return start_estimate_; }

 private:
  friend class DecodeLeap;  // scheduler/simulation: many steps at once

  // Step's parts, in order.
  void AcceptArrivals(bool all);
  void EndWhoMust();
  void LetStalledGoOn();
  void Idle();
  void SetCosts();
  void StartPlanned(const StepPlan& plan);
  void Charge(const StepPlan& plan, int64_t now_ns);
  void Deliver(int64_t now_ns);
  void KeepCostLimits();
  void CountStep(const StepPlan& plan, const StepCharge& charge);
  void CountToken(ActiveRequest* request, int32_t choice, int64_t now_ns);
  void Fail(const absl::Status& status, int64_t now_ns);
  void CloseStep(int64_t now_ns);
  void PublishCounts(int64_t now_ns);

  // The books.
  StepRecord* record() { return records_ != nullptr ? records_->current() : nullptr; }
  bool Unrecorded() const {
    return options_.unrecorded != nullptr && options_.unrecorded->load(std::memory_order_relaxed);
  }
  void SummariseStep(const StepPlan& plan, const StepCharge& charge);
  void Record(const ActiveRequest& request, RequestEnd end, FinishReason reason, Closing closing);
  void TakeRateCard();
  void PublishRecord();
  void NoteDrained(bool drain_begins);
  void CloseBooks();

  absl::Status CheckServable(const Request& request) const;
  void RefuseIfLate(ActiveRequest* request);
  void EndIfTooDear(ActiveRequest* request, const StepWork& next, int64_t players);
  void AddWork(const PlanEntry& entry);
  void DeliverToken(ActiveRequest* request, int32_t choice, const SampledToken& sampled,
                    int64_t now_ns);
  bool EndIfItMust(ActiveRequest* request, int64_t now_ns);
  void EndRequest(ActiveRequest* request, FinishReason reason, absl::Status status, bool tainted);
  void NoteAlarm(int64_t at_ns) { next_alarm_ns_ = std::min(next_alarm_ns_, at_ns); }
  void Run();

  const EngineOptions options_;
  StepExecutor* const executor_;
  const Tokenizer* const tokenizer_;
  const Clock* const clock_;

  // Shared with other threads; each guards itself.
  Inbox inbox_;
  std::shared_ptr<StreamNotifier> notifier_;
  std::atomic<int64_t> drain_deadline_ns_ = kNever;  // kNever: not draining
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> drained_ = false;
  mutable Mutex snapshot_mutex_;
  EngineSnapshot snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);
  mutable Mutex rate_card_mutex_;
  RateCard rate_card_ ABSL_GUARDED_BY(rate_card_mutex_);
  std::atomic<bool> rate_card_changed_ = false;

  // The engine thread's.
  BlockPool pool_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  CostLedger ledger_;
  StepCostFit fit_;
  StartEstimate start_estimate_;
  RecentErrors errors_;
  int64_t errors_steps_ = 0;  // when their quantiles were taken
  StepRecords* const records_;
  bool records_full_ = false;
  EngineSnapshot counts_;                                     // published at the end of each step
  absl::Status failure_;                                      // not OK: latched
  std::map<int64_t, std::unique_ptr<ActiveRequest>> active_;  // by arrival
  std::vector<std::unique_ptr<ActiveRequest>>
      ended_;  // kept until the step that ended them is over
  int64_t arrivals_ = 0;
  int32_t stalled_choices_ = 0;
  int64_t next_alarm_ns_ = kNever;  // not after the next deadline or stall limit
  int64_t step_begin_ns_ = 0;
  bool started_ = false;  // startup time is over
  bool idle_ = true;
  bool draining_ = false;
  int64_t settled_ns_ = -1;  // since when nothing is in flight and nothing will be

  // Scratch of a step; capacity stays.
  std::vector<Request> arrived_;
  std::vector<StepPlayer> players_;
  std::vector<ActiveRequest*> participants_;
  StepPlayer overhead_;
  std::vector<SampledToken> sampled_;
  std::vector<std::shared_ptr<TokenStream>> ready_;
  std::string text_;

  std::thread thread_;
};

}  // namespace tuppence
