#include "scheduler/null_executor.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {
namespace {

// The finaliser of splitmix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

}  // namespace

void NullExecutor::Launch(const BlockWork&, const Batch&, std::span<const SamplingRow> sampling) {
  sampling_ = sampling;
}

absl::Status NullExecutor::Wait(std::span<SampledToken> tokens) {
  CHECK_EQ(tokens.size(), sampling_.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const SamplingRow& row = sampling_[i];
    const uint64_t hash = Mix(Mix(row.key.seed ^ row.key.choice) + row.output_index);
    int32_t token = static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_));
    while (std::find(row.banned_ids.begin(), row.banned_ids.end(), token) != row.banned_ids.end()) {
      token = (token + 1) % vocab_;
    }
    tokens[i].token_id = row.scored_token >= 0 ? row.scored_token : token;
    tokens[i].logprob = -1;
    tokens[i].not_finite = false;
    tokens[i].top_count = 0;
  }
  return absl::OkStatus();
}

}  // namespace tuppence
