// Sequence: one choice of a request as it moves through the engine: its tokens, how many of them
// lie in the KV pages, and in which blocks. SequenceGroup: the choices of one request, which start
// and are preempted together. Owned by the engine's ActiveRequest; only the scheduler changes what
// concerns positions and blocks. Thread: engine only.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "scheduler/block_pool.h"
#include "scheduler/prefix_key.h"
#include "scheduler/priority_class.h"

namespace tuppence {

struct FairLane;

struct Sequence {
  int32_t choice = 0;
  std::vector<int32_t> tokens;  // prompt, then output; empty until the group first starts
  int32_t prompt_tokens = 0;
  // Positions below it take the prefill kernel, now and whenever they are computed again: the
  // prompt, or after a LongRoPE crossing everything below the crossing.
  int32_t prefill_end = 0;
  int32_t computed = 0;       // positions whose K and V lie in the blocks
  int32_t recompute_end = 0;  // positions below it were computed before a preemption
  RopeRegime regime = RopeRegime::kShort;
  BlockLease blocks;
  bool follows = false;   // waits for the group's leader to prefill the prompt they share
  bool stalled = false;   // its reader has no room
  bool drawing = false;   // the step that draws its next token is with the device
  bool finished = false;  // holds nothing any more

  // Before its first write into a block it shares it gets its own, copied in the next step.
  int32_t copy_from = -1;
  int32_t copy_to = -1;

  // The token being drawn included.
  int32_t length() const { return static_cast<int32_t>(tokens.size()) + drawing; }
  int32_t output_tokens() const { return length() == 0 ? 0 : length() - prompt_tokens; }
  bool crossed() const { return prefill_end > prompt_tokens; }
  // Only its newest token is missing in the pages: it takes one token a step.
  bool decodes() const { return computed >= prefill_end && computed == length() - 1; }
  bool ready_to_decode() const { return !finished && !follows && !stalled && decodes(); }

  // The token that was drawn.
  void TakeToken(int32_t token_id) {
    tokens.push_back(token_id);
    drawing = false;
  }
};

struct SequenceGroup {
  int64_t arrival = 0;  // unique, in order of arrival
  int64_t tenant = 0;
  PriorityClass priority_class = PriorityClass::kStandard;
  int64_t weight_milli = 1000;  // the tenant's, in thousandths
  std::vector<int32_t> prompt;
  std::vector<PrefixKey> prefix_keys;  // of the prompt's full blocks; empty: no prefix cache
  int32_t max_tokens = 0;
  std::vector<Sequence> sequences;  // one for each choice; set up by Scheduler::Add

  bool wants_prompt_logprobs = false;
  int32_t prompt_scored = 0;  // positions whose logits have been scored; never twice

  // Scheduler's own.
  FairLane* lane = nullptr;
  int64_t waits_since_ns = 0;
  bool running = false;
  bool pinned = false;       // never preempted again: everything it may need is set aside
  bool keeps_place = false;  // started when its class was overdue: gives way to nobody
  int32_t preemptions = 0;
  int32_t cached_tokens = 0;  // of the prompt: found in the prefix cache, never computed
  int32_t leader = -1;        // which sequence prefills for those that follow; -1: nobody follows

  int32_t prompt_tokens() const { return static_cast<int32_t>(prompt.size()); }
  int32_t tokens_max() const { return prompt_tokens() + max_tokens; }
  int32_t live_sequences() const;
  bool all_stalled() const;
  bool holds_blocks() const;
  // Positions to compute before each choice can go on.
  int64_t tokens_left() const;
  // Positions that would have to be computed again: the shared prompt once, the rest for each
  // choice.
  int64_t recompute_tokens() const;

  bool Leads(const Sequence& sequence) const { return leader == sequence.choice; }
  // Has more than its newest token to compute. A leader prefills even while its own reader is slow:
  // the others wait for it, and it draws nothing that its reader has no room for.
  bool MustCatchUp(const Sequence& sequence) const {
    if (sequence.finished || sequence.follows || sequence.decodes()) return false;
    return !sequence.stalled || Leads(sequence);
  }
  // Prompt positions are scored for one choice only.
  bool IsFirstLive(const Sequence& sequence) const;
};

}  // namespace tuppence
