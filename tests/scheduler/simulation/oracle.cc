#include "tests/scheduler/simulation/oracle.h"

#include <algorithm>
#include <span>

namespace tuppence::simulation {
namespace {

uint64_t Mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

bool Contains(std::span<const int32_t> ids, int32_t token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

}  // namespace

uint64_t Attend(uint64_t hash, const Slot& slot) {
  const uint64_t what = (static_cast<uint64_t>(static_cast<uint32_t>(slot.token_id)) << 32) ^
                        (static_cast<uint64_t>(static_cast<uint32_t>(slot.position)) << 10) ^
                        (static_cast<uint64_t>(static_cast<uint32_t>(slot.tenant)) << 2) ^
                        (static_cast<uint64_t>(slot.regime) << 1) ^
                        static_cast<uint64_t>(slot.role);
  return Mix(hash * 31 + Mix(what ^ slot.before));
}

int32_t NextToken(uint64_t hash, const SamplingRow& row) {
  hash = Mix(hash ^ row.key.seed);
  hash = Mix(hash ^ (uint64_t{row.key.choice} << 32) ^ static_cast<uint64_t>(row.output_index));
  int32_t token = static_cast<int32_t>(hash % static_cast<uint64_t>(kVocab));
  while (Contains(row.banned_ids, token)) token = (token + 1) % kVocab;
  return token;
}

Answer ExpectedAnswer(const CallPlan& call, int32_t choice, const EngineOptions& options) {
  const int32_t border = options.positions_original;
  const bool exact = options.rope_policy == RopePolicy::kExact;
  const int32_t prompt_tokens = static_cast<int32_t>(call.prompt.size());
  const int32_t settled = prompt_tokens + (exact ? 0 : call.sampling.max_tokens);
  RopeRegime regime = border > 0 && settled > border ? RopeRegime::kLong : RopeRegime::kShort;
  int32_t prefill_end = prompt_tokens;
  std::vector<int32_t> tokens = call.prompt;
  Answer answer;
  uint64_t hash = 0;
  int32_t attended = 0;
  while (answer.finish_reason == FinishReason::kNone) {
    if (border > 0 && exact && regime == RopeRegime::kShort &&
        static_cast<int32_t>(tokens.size()) > border) {
      regime = RopeRegime::kLong;  // everything is computed anew
      prefill_end = border + 1;
      hash = 0;
      attended = 0;
    }
    for (; attended < static_cast<int32_t>(tokens.size()); ++attended) {
      hash = Attend(hash, {.token_id = tokens[attended],
                           .position = attended,
                           .tenant = call.tenant,
                           .regime = regime,
                           .role = attended < prefill_end ? Phase::kPrefill : Phase::kDecode,
                           .not_finite = false,
                           .before = hash});
    }
    SamplingRow row;
    row.key = {.seed = call.key, .choice = static_cast<uint32_t>(choice)};
    row.output_index = static_cast<int32_t>(answer.tokens.size());
    if (row.output_index < call.sampling.min_tokens) row.banned_ids = call.stop_ids;
    const int32_t token = NextToken(hash, row);
    tokens.push_back(token);
    answer.tokens.push_back(token);
    if (Contains(call.stop_ids, token)) {
      answer.finish_reason = FinishReason::kStop;
    } else if (static_cast<int32_t>(answer.tokens.size()) == call.sampling.max_tokens) {
      answer.finish_reason = FinishReason::kLength;
    }
  }
  return answer;
}

}  // namespace tuppence::simulation
