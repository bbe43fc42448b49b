#include "service/answer_from_proto.h"

#include <algorithm>
#include <cmath>

namespace tuppence {
namespace {

constexpr int32_t kChoicesMax = 64;  // a message that names more is not of our service

int64_t NsOfSeconds(double seconds) { return std::llround(seconds * 1e9); }

FinishReason ReasonFromProto(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return FinishReason::kStop;
    case v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    case v1::FINISH_REASON_CANCELLED:
      return FinishReason::kCancelled;
    case v1::FINISH_REASON_DEADLINE:
      return FinishReason::kDeadline;
    case v1::FINISH_REASON_ERROR:
      return FinishReason::kError;
    case v1::FINISH_REASON_DRAINED:
      return FinishReason::kDrained;
    case v1::FINISH_REASON_COST_LIMIT:
      return FinishReason::kCostLimit;
    default:
      return FinishReason::kNone;
  }
}

TokenLogprob TokenFromProto(const v1::TokenLogprob& token,
                            absl::flat_hash_map<int32_t, std::string>* token_bytes) {
  token_bytes->try_emplace(token.token_id(), token.token_bytes());
  TokenLogprob read;
  read.token_id = token.token_id();
  read.logprob = token.logprob();
  return read;
}

}  // namespace

StreamDelta DeltaFromProto(const v1::GenerateResponse& message,
                           absl::flat_hash_map<int32_t, std::string>* token_bytes) {
  StreamDelta delta;
  for (const v1::Choice& from : message.choices()) {
    if (from.index() < 0 || from.index() >= kChoicesMax) continue;
    const size_t index = static_cast<size_t>(from.index());
    delta.choices.resize(std::max(delta.choices.size(), index + 1));
    ChoiceDelta& to = delta.choices[index];
    to.text += from.text();
    to.token_ids.insert(to.token_ids.end(), from.token_ids().begin(), from.token_ids().end());
    for (const v1::PositionLogprobs& position : from.logprobs()) {
      PositionLogprobs& read = to.logprobs.emplace_back();
      read.chosen = TokenFromProto(position.chosen(), token_bytes);
      for (const v1::TokenLogprob& other : position.top()) {
        read.top.push_back(TokenFromProto(other, token_bytes));
      }
    }
    to.finish_reason = ReasonFromProto(from.finish_reason());
  }
  if (!message.has_cost()) return delta;
  RequestEnd& end = delta.end.emplace();
  end.usage = UsageFromProto(message.usage());
  end.cost = CostFromProto(message.cost());
  return delta;
}

Usage UsageFromProto(const v1::Usage& from) {
  Usage usage;
  usage.prompt_tokens = from.prompt_tokens();
  usage.cached_tokens = from.cached_tokens();
  usage.completion_tokens = from.completion_tokens();
  usage.queue_ns = NsOfSeconds(from.queue_seconds());
  usage.prefill_ns = NsOfSeconds(from.prefill_seconds());
  usage.decode_ns = NsOfSeconds(from.decode_seconds());
  usage.total_ns = NsOfSeconds(from.total_seconds());
  usage.time_to_first_token_ns = NsOfSeconds(from.time_to_first_token_seconds());
  usage.steps = from.steps();
  usage.preemptions = from.preemptions();
  usage.mean_requests_per_step = from.mean_requests_per_step();
  usage.energy_joules = from.energy_joules();
  return usage;
}

Cost CostFromProto(const v1::Cost& from) {
  Cost cost;
  cost.machine_ns = from.machine_ns();
  cost.shared_ns = from.shared_ns();
  cost.own_ns = from.own_ns();
  cost.prefill_ns = from.prefill_ns();
  cost.decode_ns = from.decode_ns();
  cost.has_rate = from.has_cost_nanousd();
  cost.cost_nanousd = from.cost_nanousd();
  cost.rate_card_id = from.rate_card_id();
  cost.unrecorded = from.unrecorded();
  cost.written_off = from.written_off();
  cost.has_reference = from.has_reference_nanousd();
  cost.reference_nanousd = from.reference_nanousd();
  cost.reference_id = from.reference_id();
  cost.replay_of = from.replay_of();
  return cost;
}

}  // namespace tuppence
