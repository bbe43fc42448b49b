#include "scheduler/simulation/replica.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/check.h"

namespace tuppence {
namespace {

constexpr int32_t kRecords = 4;  // taken down after every step

EngineOptions OptionsWithRecords(const ReplicaOptions& options, StepRecords* records) {
  EngineOptions engine = options.engine;
  engine.refine_cost = false;
  engine.prefix_cache = false;  // there is no text that could be the same
  engine.process_start_ns = 0;
  engine.records = records;
  return engine;
}

double Seconds(int64_t ns) { return 1e-9 * static_cast<double>(ns); }

}  // namespace

void ReplicaResult::Add(const ReplicaResult& other) {
  time_to_first_token.Add(other.time_to_first_token);
  inter_token.Add(other.inter_token);
  end_to_end.Add(other.end_to_end);
  requests += other.requests;
  refused += other.refused;
  prompt_tokens += other.prompt_tokens;
  completion_tokens += other.completion_tokens;
  preemptions += other.preemptions;
  steps += other.steps;
  steps_leapt += other.steps_leapt;
  blocks_used_max = std::max(blocks_used_max, other.blocks_used_max);
  elapsed_ns += other.elapsed_ns;
  accounts.startup_ns += other.accounts.startup_ns;
  accounts.idle_ns += other.accounts.idle_ns;
  accounts.request_ns += other.accounts.request_ns;
  accounts.overhead_ns += other.accounts.overhead_ns;
  accounts.drain_ns += other.accounts.drain_ns;
}

Replica::Replica(const ReplicaOptions& options, OnEnd on_end)
    : options_(options),
      on_end_(std::move(on_end)),
      device_(options.engine.cost, &clock_),
      records_(kRecords, options.engine.sequences_max),
      admission_(options.admission),
      engine_(OptionsWithRecords(options, &records_), &device_, /*tokenizer=*/nullptr, &clock_),
      leap_(&engine_, &device_, &clock_) {}

void Replica::Run(std::span<const Arrival> arrivals, size_t first, size_t stride, int64_t until_ns,
                  ReplicaResult* result) {
  CHECK(result_ == nullptr);
  arrivals_ = arrivals;
  next_ = first;
  stride_ = stride;
  result_ = result;
  for (int64_t i = 0; i < options_.callers; ++i) calls_ns_.push(i * options_.call_ns);
  while (true) {
    SubmitDue();
    if (engine_.Step()) {
      Take();
      if (!options_.leap) continue;
      result_->steps_leapt += leap_.Run(next_arrival_ns());
      Take();
    } else if (next_ < arrivals_.size()) {
      clock_.AdvanceTo(next_arrival_ns());
    } else {
      break;
    }
  }
  CHECK_EQ(open_, 0);
  clock_.AdvanceTo(until_ns);
  engine_.Step();  // books the idle rest
  const EngineSnapshot snapshot = engine_.Snapshot();
  CHECK_EQ(snapshot.conservation_error_ns, 0);
  result_->accounts = snapshot.accounts;
  result_->elapsed_ns = snapshot.elapsed_ns;
  result_->steps = snapshot.steps;
  result_->preemptions = snapshot.preemptions;
  engine_.Stop();
  engine_.notifier()->NotifyAll();
}

int64_t Replica::next_arrival_ns() const {
  if (next_ >= arrivals_.size()) return kNever;
  if (options_.callers == 0) return arrivals_[next_].at_ns;
  return calls_ns_.empty() ? kNever : calls_ns_.top();
}

void Replica::SubmitDue() {
  while (next_arrival_ns() <= clock_.NowNs()) {
    Submit(arrivals_[next_], next_arrival_ns());
    next_ += stride_;
  }
}

void Replica::Submit(const Arrival& arrival, int64_t at_ns) {
  if (options_.callers > 0) calls_ns_.pop();
  Request request;
  request.tenant = absl::StrCat(arrival.tenant);
  request.priority_class = arrival.priority_class;
  request.prompt.assign(arrival.prompt_tokens, RooflineExecutor::kToken);
  request.sampling.max_tokens = arrival.completion_tokens;
  request.sampling.seed = 0;
  request.text_output = false;
  request.received_ns = at_ns;
  // Nobody reads it: it has room for the whole answer.
  request.stream = std::make_shared<TokenStream>(
      1, TokenStream::Limits{.tokens_max = arrival.completion_tokens + 1});
  auto hold = admission_.Reserve(request.tenant, arrival.prompt_tokens);
  if (hold.ok()) {
    request.hold = *std::move(hold);
    if (engine_.Submit(std::move(request)).ok()) {
      ++open_;
      return;
    }
  }
  ++result_->refused;
  CallAgain();
}

// In a closed loop whoever has its answer, or was refused, asks again.
void Replica::CallAgain() {
  if (options_.callers > 0) calls_ns_.push(clock_.NowNs() + options_.call_ns);
}

void Replica::Take() {
  result_->blocks_used_max =
      std::max<int64_t>(result_->blocks_used_max, engine_.pool().blocks_used());
  while (const StepRecord* record = records_.Front()) {
    TakeRecord(*record);
    records_.Release();
  }
}

void Replica::TakeRecord(const StepRecord& record) {
  for (const int64_t ns : record.time_to_first_token_ns) {
    result_->time_to_first_token.Add(Seconds(ns));
  }
  // Those of one step are alike, as a rule.
  const std::vector<int64_t>& times = record.inter_token_ns;
  for (size_t i = 0; i < times.size();) {
    size_t same = i + 1;
    while (same < times.size() && times[same] == times[i]) ++same;
    result_->inter_token.Add(Seconds(times[i]), static_cast<int64_t>(same - i));
    i = same;
  }
  for (const EndedRequest& ended : record.ended) {
    const RequestRow& row = ended.row;
    --open_;
    CallAgain();
    ++result_->requests;
    result_->prompt_tokens += row.usage.prompt_tokens;
    result_->completion_tokens += row.usage.completion_tokens;
    result_->end_to_end.Add(Seconds(row.usage.total_ns));
    if (on_end_) on_end_(row);
  }
  if (!record.ended.empty()) engine_.notifier()->NotifyAll();
}

}  // namespace tuppence
