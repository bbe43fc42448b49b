// The oracle: what a call must get, from that call alone. A slot of the simulated KV cache holds
// what a device would have computed from: token, position, rope regime, tenant, role, and a hash of
// the slots before it as they were read back when it was written. The next token is a hash of all
// of a sequence's slots, so that a wrong block, position or regime, a stale prefix, a crossed
// tenant, a bad resume or a neighbour's influence changes the output.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "scheduler/request.h"
#include "tests/scheduler/simulation/scenario.h"

namespace tuppence::simulation {

constexpr int32_t kNoToken = -1;      // zeroed, or never written
constexpr int32_t kPoisonToken = -2;  // given back to the pool

struct Slot {
  int32_t token_id = kNoToken;
  int32_t position = -1;
  int32_t tenant = -1;  // stays when the slot is poisoned: whose data it was
  RopeRegime regime = RopeRegime::kShort;
  Phase role = Phase::kPrefill;
  bool not_finite = false;
  uint64_t before = 0;  // hash of the slots before it
};

// A running hash over slots in the order of their positions.
uint64_t Attend(uint64_t hash, const Slot& slot);
// The token that logits with this hash give to this row.
int32_t NextToken(uint64_t hash, const SamplingRow& row);

struct Answer {
  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kNone;
};

// The whole answer of one choice, if nothing ends it early.
Answer ExpectedAnswer(const CallPlan& call, int32_t choice, const EngineOptions& options);

}  // namespace tuppence::simulation
