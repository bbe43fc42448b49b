// The engine's dealings with the books: what a step's record says, rate cards that change while it
// runs, and the last period when it stops.
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "model/check.h"
#include "scheduler/engine.h"

namespace tuppence {

void Engine::SummariseStep(const StepPlan& plan, const StepCharge& charge) {
  StepSummary& step = record()->steps.emplace_back();
  step.step_ns = charge.step_ns;
  step.modelled_ns = std::llround(charge.modelled_ns);
  step.launch_and_weights_ns = charge.shared_ns;
  for (const PlanEntry& entry : plan.entries) {
    const int32_t recomputed = entry.recomputed_tokens();
    (entry.phase == Phase::kPrefill ? step.prefill_tokens : step.decode_tokens) +=
        entry.tokens - recomputed;
    step.recomputed_tokens += recomputed;
  }
  step.requests = static_cast<int32_t>(participants_.size());
  step.sequences = static_cast<int32_t>(plan.entries.size());
  step.coefficients = ledger_.model().coefficients();
}

// The row of a request that ends now, and its stream for the closing message.
void Engine::Record(const ActiveRequest& request, RequestEnd end, FinishReason reason,
                    Closing closing) {
  EndedRequest& ended = record()->ended.emplace_back();
  RequestRow& row = ended.row;
  row.id = request.request.id;
  row.caller_id = request.request.caller_id;
  row.tenant = request.request.tenant;
  row.priority_class = request.priority_class;
  row.ended_ns = request.request.received_ns + end.usage.total_ns;
  const int64_t utc_offset_ns = clock_->UtcNs() - clock_->NowNs();
  row.received_utc_ns = request.request.received_ns + utc_offset_ns;
  row.ended_utc_ns = row.ended_ns + utc_offset_ns;
  row.reason = reason;
  row.code = end.status.code();
  row.usage = end.usage;
  row.max_tokens = request.request.sampling.max_tokens;
  row.cost = end.cost;
  row.written_off = closing.written_off;
  row.unrecorded = closing.lost;
  row.unrecorded_ns = request.charges.unrecorded_ns;
  row.kv_block_seconds = static_cast<double>(request.kv_block_ns) * 1e-9;
  row.key = request.request.key;
  ended.end = std::move(end);
  ended.stream = request.request.stream;
  ended.deadline_ns = request.request.deadline_ns;
}

void Engine::SetRateCard(const RateCard& rate_card) {
  {
    MutexLock lock(&rate_card_mutex_);
    rate_card_ = rate_card;
    rate_card_changed_.store(true, std::memory_order_release);
  }
  inbox_.Wake();
}

RateCard Engine::rate_card() const {
  MutexLock lock(&rate_card_mutex_);
  return rate_card_;
}

void Engine::TakeRateCard() {
  // A reader that holds the lock just now, as a scrape may, and be preempted: the next step asks.
  if (!rate_card_mutex_.TryLock()) return;
  const RateCard rate_card = rate_card_;
  rate_card_changed_.store(false, std::memory_order_relaxed);
  rate_card_mutex_.Unlock();
  if (rate_card == ledger_.rate_card()) return;
  for (const auto& [arrival, request] : active_) ledger_.Settle(&request->charges);
  ledger_.SetRateCard(rate_card, clock_->UtcNs());
}

void Engine::PublishRecord() {
  const bool published = record()->empty() || records_->Publish();
  records_full_ = !published || !records_->HasRoom();
}

// Drained once everybody's end is with the books; or after a while without them, so that a disk
// that hangs does not keep the process for ever.
void Engine::NoteDrained(bool drain_begins) {
  if (!drain_begins || !active_.empty() || drained()) return;
  if (settled_ns_ < 0) settled_ns_ = step_begin_ns_;
  const bool told = records_ == nullptr || record()->empty();
  if (!told && step_begin_ns_ - settled_ns_ < options_.books_limit_ns) return;
  drained_.store(true, std::memory_order_release);
  drained_.notify_all();
}

// The last period, up to the last moment this engine knows.
void Engine::CloseBooks() {
  const int64_t now_ns = clock_->NowNs();
  const int64_t utc_now_ns = clock_->UtcNs();
  ledger_.Cut(CostLedger::Account::kDrain, now_ns, utc_now_ns);
  ledger_.ClosePeriod(utc_now_ns);
  ledger_.TakePeriods(records_ != nullptr ? &record()->periods : nullptr);
  if (records_ != nullptr) {
    constexpr int64_t kLookNs = 1'000'000;
    PublishRecord();
    for (int64_t left_ns = options_.books_limit_ns; !record()->empty() && left_ns > 0;
         left_ns -= kLookNs) {
      std::this_thread::sleep_for(std::chrono::nanoseconds(kLookNs));
      PublishRecord();
    }
    // The books never took them. Their callers hear the end all the same.
    for (EndedRequest& ended : record()->ended) {
      ended.stream->End(std::move(ended.end));
      if (ended.stream->ClaimNotice()) ready_.push_back(std::move(ended.stream));
    }
    record()->ended.clear();
    notifier_->Post(&ready_);
    records_->Close();
  }
  PublishCounts(now_ns);
  drained_.store(true, std::memory_order_release);
  drained_.notify_all();
}

}  // namespace tuppence
