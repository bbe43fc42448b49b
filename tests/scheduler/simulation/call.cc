#include "tests/scheduler/simulation/call.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/refusal.h"
#include "tests/scheduler/simulation/oracle.h"
#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {
namespace {

// Charges are whole nanoseconds, and what is beyond one is carried to the next step.
constexpr double kCarryNs = 2;

}  // namespace

Call::Call(const Scenario& scenario, const CallPlan& plan, int32_t number)
    : scenario_(scenario), plan_(plan), id_(absl::StrCat("r", number)) {
  tokens_.resize(plan.sampling.choices);
  finish_reasons_.resize(plan.sampling.choices, FinishReason::kNone);
  full_since_ns_.resize(plan.sampling.choices, kNever);
}

Call::~Call() { Detach(); }

bool Call::Submit(Engine* engine, AdmissionControl* admission, bool draining, int64_t now_ns) {
  const std::string tenant = TenantName(plan_.tenant);
  const AdmissionLimits& limits = admission->limits();
  const AdmissionSnapshot before = admission->snapshot();
  const int64_t prompt_tokens = static_cast<int64_t>(plan_.prompt.size());
  const int64_t bound = prompt_tokens + 3;
  absl::StatusOr<std::shared_ptr<AdmissionHold>> hold = admission->Reserve(tenant, bound);
  if (!hold.ok()) {
    const bool full = before.requests + 1 > limits.requests_max ||
                      before.prompt_tokens + bound > limits.prompt_tokens_max;
    const bool global = hold.status().code() == absl::StatusCode::kUnavailable;
    Require(!global || full, "a call was refused although the server was not full");
    Require(RefusalOf(hold.status()).has_value(), "a refusal without its reason");
    return false;
  }
  (*hold)->Shrink(prompt_tokens);
  Request request;
  request.id = id_;
  request.tenant = tenant;
  request.priority_class = plan_.priority_class;
  request.weight_milli = scenario_.weights_milli[plan_.tenant];
  request.prompt = plan_.prompt;
  request.sampling = plan_.sampling;
  request.stop_ids = plan_.stop_ids;
  request.text_output = false;
  request.received_ns = submitted_ns_ = last_take_ns_ = now_ns_ = now_ns;
  if (plan_.deadline_after_ns != kNever) deadline_ns_ = now_ns + plan_.deadline_after_ns;
  request.deadline_ns = deadline_ns_;
  request.max_cost_nanousd = plan_.max_cost_nanousd;
  stream_ = std::make_shared<TokenStream>(
      plan_.sampling.choices, TokenStream::Limits{.tokens_max = plan_.stream_tokens_max});
  stream_->SetReader(this);
  request.stream = stream_;
  request.hold = *hold;
  hold_ = *hold;
  hold->reset();
  const absl::Status status = engine->Submit(std::move(request));
  if (status.ok()) return true;
  Require(released(), "a refused call keeps its reservation");
  const std::optional<Refusal> refusal = RefusalOf(status);
  Require(refusal.has_value(), "a refusal without its reason");
  const int64_t tokens_max = prompt_tokens + plan_.sampling.max_tokens;
  const bool impossible = tokens_max > scenario_.options.context_tokens;
  if (refusal->reason == reason::kContextExceeded) {
    Require(impossible, "refused as too long for the context, and is not");
  } else if (refusal->reason == reason::kTooLargeForPool) {
    const int32_t size = scenario_.options.block_tokens;
    Require((tokens_max + size - 1) / size * plan_.sampling.choices > scenario_.options.blocks,
            "refused as too large for the pool, and is not");
  } else if (refusal->reason == reason::kDeadline) {
    Require(deadline_ns_ <= now_ns, "refused for a deadline that is not over");
  } else if (refusal->reason == reason::kNoRateCard) {
    Require(plan_.max_cost_nanousd.has_value() && !engine->rate_card().known(),
            "refused for a cost that is known, or that it did not limit");
  } else if (refusal->reason == reason::kQueueFull) {
    Require(status.code() == absl::StatusCode::kUnavailable, "a full queue has another code");
  } else {
    Require(refusal->reason == reason::kDraining ? draining : engine->Snapshot().failed,
            absl::StrCat("refused for no reason: ", status.ToString()));
  }
  return false;
}

void Call::OnReady() { ready_ns_ = std::min(ready_ns_, now_ns_); }

void Call::Act(int64_t now_ns, bool faults) {
  now_ns_ = now_ns;
  if (stream_ == nullptr) return;
  if (faults && !cancelled() && plan_.cancel_after_ns != kNever &&
      now_ns >= submitted_ns_ + plan_.cancel_after_ns) {
    Cancel(now_ns);
  }
  if (vanished_ || ready_ns_ == kNever) return;
  int64_t wait_ns = plan_.reader == ReaderKind::kSlow && faults ? plan_.reader_wait_ns : 0;
  const bool changes = taken_tokens_ >= plan_.reader_changes_after;
  if (plan_.reader == ReaderKind::kVanished && changes) {
    vanished_ = true;
    return;
  }
  if (plan_.reader == ReaderKind::kStalled && changes && stalls_until_ns_ < 0) {
    stalls_until_ns_ = now_ns + plan_.reader_wait_ns;
  }
  if (now_ns < ready_ns_ + wait_ns || now_ns < stalls_until_ns_) return;
  Take(now_ns);
  if (faults && plan_.cancel_after_tokens >= 0 && !cancelled() &&
      taken_tokens_ >= plan_.cancel_after_tokens) {
    Cancel(now_ns);
  }
}

int64_t Call::next_ns(int64_t now_ns) const {
  int64_t next = kNever;
  if (stream_ == nullptr) return next;
  if (!cancelled() && plan_.cancel_after_ns != kNever) {
    next = std::min(next, submitted_ns_ + plan_.cancel_after_ns);
  }
  if (ready_ns_ != kNever && !vanished_) {
    next = std::min(next, std::max(ready_ns_ + plan_.reader_wait_ns, stalls_until_ns_));
  }
  return next > now_ns ? next : kNever;
}

void Call::Cancel(int64_t now_ns) {
  cancelled_ns_ = now_ns;
  stream_->Cancel();
}

void Call::Take(int64_t now_ns) {
  ready_ns_ = kNever;
  StreamDelta delta;
  if (!stream_->Take(&delta)) return;
  last_take_ns_ = now_ns;
  std::fill(full_since_ns_.begin(), full_since_ns_.end(), kNever);
  Require(!end_.has_value(), absl::StrCat(id_, " got something after its end"));
  for (size_t c = 0; c < delta.choices.size(); ++c) {
    const ChoiceDelta& choice = delta.choices[c];
    Require(static_cast<int32_t>(choice.token_ids.size()) <= plan_.stream_tokens_max,
            absl::StrCat(id_, "'s stream held more than its limit"));
    Require(choice.token_ids.empty() || finish_reasons_[c] == FinishReason::kNone,
            absl::StrCat(id_, " got tokens for a choice that had finished"));
    taken_tokens_ += static_cast<int32_t>(choice.token_ids.size());
    tokens_[c].insert(tokens_[c].end(), choice.token_ids.begin(), choice.token_ids.end());
    for (const int32_t token : choice.token_ids) {
      trace_ = trace_ * 1'000'003 + static_cast<uint64_t>(token) + c;
    }
    if (choice.finish_reason != FinishReason::kNone) finish_reasons_[c] = choice.finish_reason;
  }
  for (const PositionLogprobs& position : delta.prompt_logprobs) {
    prompt_ids_.push_back(position.chosen.token_id);
  }
  if (!delta.end.has_value()) return;
  end_ = std::move(delta.end);
  end_seen_ns_ = now_ns;
  trace_ = trace_ * 1'000'003 + static_cast<uint64_t>(end_->cost.machine_ns);
}

void Call::Detach() {
  if (stream_ != nullptr) stream_->SetReader(nullptr);
}

void Call::TakeRest(int64_t now_ns) { Take(now_ns); }

bool Call::HasRoom() const {
  for (int32_t choice = 0; choice < plan_.sampling.choices; ++choice) {
    if (!stream_->HasRoom(choice)) return false;
  }
  return true;
}

void Call::NoteRoom(int64_t now_ns) {
  for (int32_t choice = 0; choice < plan_.sampling.choices; ++choice) {
    if (full_since_ns_[choice] == kNever && !stream_->HasRoom(choice)) {
      full_since_ns_[choice] = now_ns;
    }
  }
}

void Call::CheckEnd(SimulatedDevice* device, int64_t drained_from_ns) const {
  const auto require = [&](bool holds, const std::string& what) {
    if (!holds) Violation(absl::StrCat(Describe(), ": ", what));
  };
  require(end_.has_value(), "it never ended");
  const absl::StatusCode code = end_->status.code();
  const std::string reason = RefusalOf(end_->status).value_or(Refusal()).reason;
  const bool unreachable = reason == reason::kDeadlineUnreachable;
  require(!late_.has_value() || *late_ || !unreachable, "called late, and could come in time");
  require(!late_.has_value() || !*late_ || unreachable, "would come too late, and was not told");
  if (reason == reason::kSlowReader) {
    require(
        submitted_ns_ + end_->usage.total_ns - last_take_ns_ >= scenario_.options.stall_limit_ns ||
            plan_.reader == ReaderKind::kVanished || plan_.reader == ReaderKind::kStalled,
        "ended as a slow reader although it had read in time");
    require(plan_.reader != ReaderKind::kPrompt, "a reader that takes at once is called slow");
  } else if (code == absl::StatusCode::kCancelled) {
    require(cancelled(), "ended as cancelled and nobody cancelled it");
  } else if (code == absl::StatusCode::kDeadlineExceeded) {
    require(submitted_ns_ + end_->usage.total_ns >= deadline_ns_, "ended before its deadline");
  } else if (code == absl::StatusCode::kInternal) {
    require(plan_.poisoned, "ended for NaN and had none");
  } else if (code != absl::StatusCode::kOk) {
    const int64_t end_ns = submitted_ns_ + end_->usage.total_ns;
    require(!unreachable || (deadline_ns_ != kNever && taken_tokens_ == 0),
            "called late, and had no deadline or had begun");
    require(
        unreachable || (reason == reason::kDraining ? end_ns >= drained_from_ns : device->failed()),
        "ended for no reason");
  }
  require(end_->usage.cached_tokens < std::max<int64_t>(1, end_->usage.prompt_tokens),
          "nothing of its prompt was computed");
  require(!plan_.sampling.prompt_logprobs || end_->usage.cached_tokens == 0,
          "its prompt was to be scored and came from the cache");
  require(end_->usage.prompt_tokens == static_cast<int64_t>(plan_.prompt.size()),
          "its usage has another prompt");
  const double due_ns = device->step_watch().DueNs(id_);
  require(std::abs(static_cast<double>(end_->cost.machine_ns) - due_ns) <= kCarryNs,
          absl::StrCat("it was charged ", end_->cost.machine_ns, " ns and is due ",
                       std::llround(due_ns)));
  int64_t completion_tokens = 0;
  for (int32_t choice = 0; choice < plan_.sampling.choices; ++choice) {
    const std::vector<int32_t>& got = tokens_[choice];
    completion_tokens += static_cast<int64_t>(got.size());
    const Answer expected = ExpectedAnswer(plan_, choice, scenario_.options);
    require(got.size() <= expected.tokens.size() &&
                std::equal(got.begin(), got.end(), expected.tokens.begin()),
            "its tokens are not those it gets alone");
    const std::vector<int32_t>& drawn = device->Drawn(plan_.key, choice);
    const bool dropped = code == absl::StatusCode::kInternal || device->failed();
    require(dropped ? got.size() <= drawn.size() : got.size() == drawn.size(),
            "the tokens it got are not those that were drawn");
    const bool whole = got.size() == expected.tokens.size();
    require(finish_reasons_[choice] != FinishReason::kNone, "a choice without a finish reason");
    require(finish_reasons_[choice] == end_->finish_reasons[choice], "two finish reasons");
    const bool complete = finish_reasons_[choice] == FinishReason::kStop ||
                          finish_reasons_[choice] == FinishReason::kLength;
    require(complete == whole || (whole && plan_.poisoned),
            "an answer's end and its reason differ");
    require(!complete || finish_reasons_[choice] == expected.finish_reason, "a wrong reason");
    const bool limited = finish_reasons_[choice] == FinishReason::kCostLimit;
    require(!limited || plan_.max_cost_nanousd.has_value(), "a limit of cost that nobody set");
    require(complete || limited || code != absl::StatusCode::kOk,
            "OK with an answer that is not complete");
  }
  require(end_->usage.completion_tokens == completion_tokens, "delivered is not what was counted");
  if (!plan_.sampling.prompt_logprobs) return;
  require(code != absl::StatusCode::kOk || completion_tokens == 0 ||
              prompt_ids_.size() + 1 == plan_.prompt.size(),
          "prompt log-probabilities are missing");
  require(prompt_ids_.size() < plan_.prompt.size() &&
              std::equal(prompt_ids_.begin(), prompt_ids_.end(), plan_.prompt.begin() + 1),
          "prompt log-probabilities of other tokens");
}

std::string Call::Describe() const {
  return absl::StrCat(id_, " (tenant ", plan_.tenant, ", prompt ", plan_.prompt.size(), ", max ",
                      plan_.sampling.max_tokens, ", n ", plan_.sampling.choices, ", reader ",
                      static_cast<int>(plan_.reader), end_ ? ", " : "",
                      end_ ? end_->status.ToString() : "", ")");
}

}  // namespace tuppence::simulation
