// The engine's dealings with single requests: may it come in, what does a drawn token mean for it,
// what did the step cost it, how does it end.
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "scheduler/engine.h"
#include "scheduler/refusal.h"

namespace tuppence {
namespace {

using Metadata = std::vector<std::pair<std::string, std::string>>;

absl::Status StatusWith(absl::StatusCode code, const char* reason_code, std::string_view message,
                        Metadata metadata = {}, int64_t retry_after_ms = -1) {
  Refusal refusal;
  refusal.reason = reason_code;
  refusal.retry_after_ms = retry_after_ms;
  refusal.metadata = std::move(metadata);
  return RefusalStatus(code, message, refusal);
}

std::string HowFar(const ActiveRequest& request) {
  if (request.first_scheduled_ns < 0) return "while it was waiting to start";
  if (request.completion_tokens == 0) return "while its prompt was being read";
  return absl::StrCat("after ", request.completion_tokens, " of at most ",
                      int64_t{request.max_tokens} * request.choices.size(), " output tokens");
}

}  // namespace

absl::Status Engine::CheckServable(const Request& request) const {
  const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const SamplingParams& sampling = request.sampling;
  constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
  if (prompt_tokens == 0 || sampling.max_tokens < 1 || sampling.choices < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", prompt_tokens, " tokens, max_tokens is ", sampling.max_tokens,
        " and n is ", sampling.choices, "; each must be at least 1"));
  }
  if (prompt_tokens + sampling.max_tokens > options_.context_tokens) {
    return StatusWith(
        kInvalid, reason::kContextExceeded,
        absl::StrCat("the prompt has ", prompt_tokens, " tokens and max_tokens is ",
                     sampling.max_tokens, "; together they exceed the context of ",
                     options_.context_tokens, " tokens; shorten the prompt or lower max_tokens"),
        {{"prompt_tokens", absl::StrCat(prompt_tokens)},
         {"max_tokens", absl::StrCat(sampling.max_tokens)},
         {"context_tokens", absl::StrCat(options_.context_tokens)}});
  }
  if (sampling.choices > options_.sequences_max) {
    return StatusWith(kInvalid, reason::kTooManyChoices,
                      absl::StrCat("n is ", sampling.choices, "; this server runs at most ",
                                   options_.sequences_max, " sequences at once; lower n"),
                      {{"n", absl::StrCat(sampling.choices)},
                       {"sequences_max", absl::StrCat(options_.sequences_max)}});
  }
  const int64_t blocks = scheduler_.BlocksMax(prompt_tokens, sampling.max_tokens, sampling.choices);
  if (blocks > options_.blocks) {
    return StatusWith(
        kInvalid, reason::kTooLargeForPool,
        absl::StrCat("the prompt has ", prompt_tokens, " tokens, max_tokens is ",
                     sampling.max_tokens, " and n is ", sampling.choices, "; that needs up to ",
                     blocks * options_.block_tokens, " tokens of KV cache and this server has ",
                     int64_t{options_.blocks} * options_.block_tokens,
                     "; lower max_tokens or n, or shorten the prompt"),
        {{"kv_tokens", absl::StrCat(blocks * options_.block_tokens)},
         {"kv_tokens_max", absl::StrCat(int64_t{options_.blocks} * options_.block_tokens)}});
  }
  if (tokenizer_ == nullptr && !sampling.stop_strings.empty()) {
    return absl::InvalidArgumentError(
        "stop strings need a tokenizer and this checkpoint's is not supported; use stop token ids");
  }
  if (request.max_cost_nanousd.has_value() && !rate_card().known()) {
    return StatusWith(absl::StatusCode::kFailedPrecondition, reason::kNoRateCard,
                      absl::StrCat("max_cost_nanousd is ", *request.max_cost_nanousd,
                                   ", and this server has no rate card, so that nobody knows what "
                                   "an answer costs; leave the limit out, or have the server "
                                   "started with --price-per-hour, --machine or --rate-cards"));
  }
  if (request.deadline_ns <= clock_->NowNs()) {
    return StatusWith(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                      "the deadline passed before the request reached the engine; allow more time");
  }
  return absl::OkStatus();
}

int64_t Engine::AloneNs(int64_t prompt_tokens, const SamplingParams& sampling) const {
  return std::llround(
      std::ceil(tuppence::AloneNs(Snapshot().cost, prompt_tokens, sampling.max_tokens,
                                  sampling.choices, options_.step_tokens_max)));
}

// Its first token would come after its deadline: it hears so now. Where there is nothing ahead it
// may try.
void Engine::RefuseIfLate(ActiveRequest* request) {
  if (request->request.deadline_ns == kNever) return;
  const int64_t left_ns = request->request.deadline_ns - step_begin_ns_;
  const int64_t places_free =
      scheduler_.places_free() - static_cast<int64_t>(request->sequences.size()) + 1;
  const auto first_token_ns = [&](const QueueAhead& ahead) {
    return start_estimate_.FirstTokenNs(ahead, request->prompt_tokens(), places_free,
                                        ledger_.model().coefficients());
  };
  // As a rule even the whole queue is no obstacle, which is known without a look at its lanes.
  if (first_token_ns(scheduler_.queue().all()) <= left_ns) return;
  const QueueAhead ahead = scheduler_.queue().AheadOf(*request, step_begin_ns_);
  const int64_t estimate_ns = first_token_ns(ahead);
  const int64_t late_ns = estimate_ns - left_ns;
  if (late_ns <= 0 || (ahead.requests == 0 && places_free > 0)) return;
  constexpr int64_t kNsPerMs = 1'000'000;
  EndRequest(request, FinishReason::kDeadline,
             StatusWith(absl::StatusCode::kUnavailable, reason::kDeadlineUnreachable,
                        absl::StrCat("the first token would come in about ", estimate_ns / kNsPerMs,
                                     " ms, ", ahead.requests, " requests being ahead, and the ",
                                     "deadline is ", late_ns / kNsPerMs, " ms before that; allow ",
                                     "more time, retry later or send to another replica"),
                        {{"first_token_ms", absl::StrCat(estimate_ns / kNsPerMs)},
                         {"requests_ahead", absl::StrCat(ahead.requests)}},
                        std::max(options_.retry_after_ms, late_ns / kNsPerMs)),
             /*tainted=*/false);
}

// The step's time, divided among those who were in it.
void Engine::Charge(const StepPlan& plan, int64_t now_ns) {
  players_.clear();
  participants_.clear();
  overhead_ = StepPlayer();
  overhead_.order = -1;
  for (const PlanEntry& entry : plan.entries) AddWork(entry);
  if (overhead_.prefill.tokens + overhead_.decode.tokens > 0) players_.push_back(overhead_);
  ledger_.SetUnrecorded(Unrecorded());
  const StepCharge charge = ledger_.ChargeStep(players_, now_ns);
  // Energy is divided as the time is.
  const double joules_per_ns = 1e-9 * executor_->watts().value_or(0);
  counts_.energy_joules += joules_per_ns * static_cast<double>(charge.step_ns);
  for (ActiveRequest* request : participants_) {
    if (request->player >= 0) {
      const int64_t charge_ns = ledger_.step_charges()[request->player];
      scheduler_.Charge(request, charge_ns);
      request->energy_joules += joules_per_ns * static_cast<double>(charge_ns);
    }
    ++request->steps;
    request->requests_in_steps += static_cast<int64_t>(participants_.size());
  }
  CountStep(plan, charge);
}

void Engine::AddWork(const PlanEntry& entry) {
  ActiveRequest* request = static_cast<ActiveRequest*>(entry.group);
  if (request->last_step != counts_.steps) {
    request->last_step = counts_.steps;
    request->player = -1;
    participants_.push_back(request);
  }
  const int32_t recomputed_end = entry.first + entry.recomputed_tokens();
  if (recomputed_end > entry.first) {
    (entry.phase == Phase::kPrefill ? overhead_.prefill : overhead_.decode)
        .Add(WorkOf(entry.first, recomputed_end, entry.phase));
  }
  if (recomputed_end == entry.end()) return;
  if (request->player < 0) {
    request->player = static_cast<int32_t>(players_.size());
    players_.push_back({&request->charges, request->arrival, {}, {}});
  }
  StepPlayer& player = players_[request->player];
  (entry.phase == Phase::kPrefill ? player.prefill : player.decode)
      .Add(WorkOf(recomputed_end, entry.end(), entry.phase));
}

void Engine::CountStep(const StepPlan& plan, const StepCharge& charge) {
  ++counts_.steps;
  counts_.step_ns_last = charge.step_ns;
  counts_.step_ns_sum += charge.step_ns;
  counts_.step_ns_max = std::max(counts_.step_ns_max, charge.step_ns);
  for (const PlanEntry& entry : plan.entries) {
    (entry.phase == Phase::kPrefill ? counts_.prefill_tokens : counts_.decode_tokens) +=
        entry.tokens;
    counts_.recomputed_tokens += entry.recomputed_tokens();
  }
  const double step_ns = static_cast<double>(charge.step_ns);
  errors_.Add(step_ns, charge.modelled_ns);
  if (options_.refine_cost) fit_.Add(charge.work, step_ns);
  if (records_ != nullptr) SummariseStep(plan, charge);
}

// Drawn tokens to their streams; a request whose logits are not finite ends, and no other.
void Engine::Deliver(int64_t now_ns) {
  const std::span<const RowTarget> targets = builder_.targets();
  for (size_t i = 0; i < targets.size(); ++i) {
    ActiveRequest* request = targets[i].request;
    if (request->ended) continue;  // by an earlier row
    if (sampled_[i].not_finite) {
      ++counts_.rows_not_finite;
      EndRequest(request, FinishReason::kError,
                 StatusWith(absl::StatusCode::kInternal, reason::kLogitsNotFinite,
                            absl::StrCat("the model's output held a value that is not a number ",
                                         HowFar(*request),
                                         "; other requests are not affected; try again, and if it "
                                         "stays, check the weights")),
                 /*tainted=*/true);
    } else if (targets[i].scored) {
      TokenStream& stream = *request->request.stream;
      stream.AppendPromptLogprobs(builder_.sampling()[i].scored_token, sampled_[i]);
      if (stream.ClaimNotice()) ready_.push_back(request->request.stream);
    } else {
      DeliverToken(request, targets[i].choice, sampled_[i], now_ns);
    }
  }
}

void Engine::DeliverToken(ActiveRequest* request, int32_t choice, const SampledToken& sampled,
                          int64_t now_ns) {
  Sequence& sequence = request->sequences[choice];
  if (request->first_token_ns < 0) scheduler_.KeepPrompt(*request, sequence);
  CountToken(request, choice, now_ns);
  text_.clear();
  const FinishReason reason = request->AddToken(choice, sampled.token_id, &text_);
  const TokenStream::Appended appended = request->request.stream->Append(
      choice, sampled.token_id, text_, request->wants_logprobs() ? &sampled : nullptr);
  if (appended.notice) ready_.push_back(request->request.stream);
  if (reason == FinishReason::kNone) {
    scheduler_.Continue(&sequence, request);
    if (appended.has_room) return;
    scheduler_.SetStalled(&sequence, true);
    ++stalled_choices_;
    request->choices[choice].stalled_since_ns = now_ns;
    NoteAlarm(now_ns + options_.stall_limit_ns);
    return;
  }
  text_.clear();
  request->FlushText(choice, &text_);
  request->choices[choice].finish_reason = reason;
  request->request.stream->FinishChoice(choice, text_, reason);
  scheduler_.Finish(&sequence, request);
  if (request->live_sequences() == 0) {
    EndRequest(request, reason, absl::OkStatus(), /*tainted=*/false);
  }
}

void Engine::CountToken(ActiveRequest* request, int32_t choice, int64_t now_ns) {
  ++counts_.completion_tokens;
  const bool is_first = request->first_token_ns < 0;
  if (is_first) request->first_token_ns = now_ns;
  const int64_t before_ns = std::exchange(request->choices[choice].last_token_ns, now_ns);
  if (records_ == nullptr) return;
  if (is_first) {
    record()->time_to_first_token_ns.push_back(now_ns - request->request.received_ns);
  } else if (before_ns >= 0) {
    record()->inter_token_ns.push_back(now_ns - before_ns);
  }
}

// Who could not pay for what it would do next ends with what it has.
void Engine::KeepCostLimits() {
  for (ActiveRequest* request : participants_) {
    if (request->ended || !request->request.max_cost_nanousd.has_value()) continue;
    EndIfTooDear(request, request->NextWork(), static_cast<int64_t>(players_.size()));
  }
}

// `next` is its next step, or what is left of its prompt: half a prompt is worth nothing to anyone.
// `players`: who shares the weights with it.
void Engine::EndIfTooDear(ActiveRequest* request, const StepWork& next, int64_t players) {
  const Cost cost = ledger_.CostOf(request->charges);
  const int64_t next_ns = std::llround(std::ceil(ledger_.model().ShareBoundNs(next, players)));
  // Rounded up; and while no rate is known the limit cannot be kept.
  if (cost.has_rate && cost.cost_nanousd + NanoUsd(ledger_.rate_card(), next_ns) + 1 <=
                           *request->request.max_cost_nanousd) {
    return;
  }
  EndRequest(request, FinishReason::kCostLimit, absl::OkStatus(), /*tainted=*/false);
}

bool Engine::EndIfItMust(ActiveRequest* request, int64_t now_ns) {
  const auto end = [&](FinishReason reason, absl::Status status) {
    EndRequest(request, reason, std::move(status), /*tainted=*/false);
    return true;
  };
  if (!failure_.ok()) return end(FinishReason::kError, failure_);
  if (request->request.stream->cancelled()) {
    return end(FinishReason::kCancelled,
               StatusWith(absl::StatusCode::kCancelled, reason::kCancelled,
                          absl::StrCat("the caller cancelled the request ", HowFar(*request))));
  }
  if (now_ns >= request->request.deadline_ns) {
    return end(FinishReason::kDeadline,
               StatusWith(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                          absl::StrCat("the deadline passed ", HowFar(*request),
                                       "; allow more time or lower max_tokens")));
  }
  if (now_ns >= drain_deadline_ns_.load(std::memory_order_acquire)) {
    return end(FinishReason::kDrained,
               StatusWith(absl::StatusCode::kUnavailable, reason::kDraining,
                          absl::StrCat("the server shut down ", HowFar(*request),
                                       "; send the request to another replica"),
                          {}, options_.retry_after_ms));
  }
  for (const Sequence& sequence : request->sequences) {
    if (!sequence.stalled || sequence.finished) continue;
    const int64_t since_ns = request->choices[sequence.choice].stalled_since_ns;
    if (now_ns - since_ns < options_.stall_limit_ns) continue;
    return end(FinishReason::kCancelled,
               StatusWith(absl::StatusCode::kCancelled, reason::kSlowReader,
                          absl::StrCat("the caller took nothing for ",
                                       (now_ns - since_ns) / 1'000'000, " ms ", HowFar(*request),
                                       "; the limit is ", options_.stall_limit_ns / 1'000'000,
                                       " ms; read the stream faster")));
  }
  return false;
}

// The one way out for every request. Its stream carries the end exactly once: from here on, or once
// the books have taken it down.
void Engine::EndRequest(ActiveRequest* request, FinishReason reason, absl::Status status,
                        bool tainted) {
  CHECK(!request->ended);
  request->ended = true;
  TokenStream& stream = *request->request.stream;
  RequestEnd end;
  for (size_t choice = 0; choice < request->choices.size(); ++choice) {
    const Sequence& sequence = request->sequences[choice];
    FinishReason& finish_reason = request->choices[choice].finish_reason;
    if (sequence.stalled) --stalled_choices_;
    if (finish_reason == FinishReason::kNone) {
      finish_reason = reason;
      text_.clear();
      request->FlushText(static_cast<int32_t>(choice), &text_);
      stream.FinishChoice(static_cast<int32_t>(choice), text_, reason);
    }
    end.finish_reasons.push_back(finish_reason);
  }
  // The time of its last token, or of the decision to end it.
  const int64_t end_ns = std::max(step_begin_ns_, ledger_.last_cut_ns());
  scheduler_.Remove(request, tainted);
  request->CountBlocks(end_ns, options_.block_tokens);
  const Closing closing = {
      .written_off = reason == FinishReason::kError || !request->request.replay_of.empty(),
      .lost = records_ != nullptr && Unrecorded()};
  ledger_.Close(request->charges, closing);
  end.status = std::move(status);
  end.usage = request->UsageAt(end_ns);
  end.cost = ledger_.CostOf(request->charges, closing.written_off);
  end.cost.replay_of = request->request.replay_of;
  if (records_ != nullptr) {
    Record(*request, std::move(end), reason, closing);
  } else {
    stream.End(std::move(end));
  }
  if (stream.ClaimNotice()) ready_.push_back(request->request.stream);
  if (request->first_scheduled_ns >= 0) start_estimate_.AddEnd(end_ns);
  request->request.hold.reset();
  ++counts_.requests_ended;
  const auto found = active_.find(request->arrival);
  ended_.push_back(std::move(found->second));
  active_.erase(found);
}

}  // namespace tuppence
