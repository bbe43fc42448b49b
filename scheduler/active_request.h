// ActiveRequest: a request from its arrival at the engine to its end: its sequences, the decoders
// and penalty counts of its choices, its times and its charges. Owned by Engine; the batch builder
// reads it. Thread: engine only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/stream_decoder.h"
#include "scheduler/cost_ledger.h"
#include "scheduler/request.h"
#include "scheduler/sequence.h"

namespace tuppence {

// Which tokens occurred and how often, for the penalties of one choice. Empty when none is on. It
// belongs to the tokens, not to the pages, so that a preemption leaves it alone.
class PenaltyCounts {
 public:
  void Start(const std::vector<int32_t>& prompt, int32_t max_tokens);
  void Add(int32_t token_id);  // an output token
  const std::vector<TokenCount>& counts() const { return counts_; }

 private:
  TokenCount& Find(int32_t token_id);

  bool on_ = false;
  std::vector<TokenCount> counts_;
  absl::flat_hash_map<int32_t, int32_t> index_;  // token id -> place in counts_
};

struct Choice {
  std::optional<StreamDecoder> decoder;
  PenaltyCounts counts;
  FinishReason finish_reason = FinishReason::kNone;
  int64_t stalled_since_ns = 0;
  int64_t last_token_ns = -1;
};

struct ActiveRequest : SequenceGroup {
  // tokenizer may be null. Moves the prompt over to the group.
  ActiveRequest(Request request_in, int64_t arrival_in, int64_t tenant_in,
                const Tokenizer* tokenizer);

  // Takes a drawn token: adds it to the choice's tokens and what can be shown of it to *text. The
  // reason why the choice is finished with it, or kNone.
  FinishReason AddToken(int32_t choice, int32_t token_id, std::string* text);
  // What the decoder held back, added to *text.
  void FlushText(int32_t choice, std::string* text);

  bool wants_logprobs() const {
    return request.sampling.logprobs || request.sampling.top_logprobs > 0;
  }
  // What it does next at its own cost: a position for each choice that decodes, all that is left of
  // the prompt for one that reads.
  StepWork NextWork() const;
  // Notes how many blocks it holds from now on, and for how long it held what it had.
  void CountBlocks(int64_t now_ns, int32_t block_tokens);
  // Counts and times up to now.
  Usage UsageAt(int64_t now_ns) const;

  Request request;
  std::vector<Choice> choices;
  bool ended = false;

  Charges charges;
  int64_t completion_tokens = 0;
  int64_t first_scheduled_ns = -1;
  int64_t first_token_ns = -1;
  int64_t steps = 0;
  int64_t requests_in_steps = 0;  // summed over its steps, itself included
  double energy_joules = 0;       // of its charges, where the device's power is known
  int64_t last_step = -1;         // number of the last step it was in
  int32_t player = -1;            // its place among that step's players; -1: recomputes only
  int64_t kv_blocks = 0;          // held since kv_since_ns; a shared block counts once
  int64_t kv_since_ns = 0;
  int64_t kv_block_ns = 0;  // blocks x time until then

 private:
  bool IsStopId(int32_t token_id) const;
};

}  // namespace tuppence
