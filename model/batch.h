// Batch: the flat arrays of one step. Prefill and decode tokens lie side by side; only attention
// cares which is which. Built by scheduler/batch_builder, read by model/phi3 and the backends.
//
// Entries, tokens and logit rows:
//   token t      one position of one sequence; rows of every activation tensor
//   entry e      a run of consecutive tokens [entry_starts[e], entry_starts[e + 1]) of one sequence
//   logit row r  a token whose logits are wanted: token logit_tokens[r]
#pragma once

#include <cstdint>
#include <span>

#include "model/philox.h"

namespace tuppence {

enum class RopeRegime : uint8_t { kShort = 0, kLong = 1 };

// Prefill and decode may be different kernels; which one a position takes follows from its request
// alone (positions below prompt_tokens, or below a LongRoPE crossing, are prefill), never from the
// step it happens to run in.
enum class Phase : uint8_t { kPrefill = 0, kDecode = 1 };

struct Batch {
  std::span<const int32_t> token_ids;     // [tokens]
  std::span<const int32_t> positions;     // [tokens]       0-based position in the sequence
  std::span<const RopeRegime> regimes;    // [tokens]
  std::span<const int32_t> slots;         // [tokens]       where this token's K and V go
  std::span<const int32_t> entry_starts;  // [entries + 1]  first token of each entry; last = tokens
  std::span<const Phase> entry_phases;    // [entries]
  std::span<const int32_t> block_tables;  // [entries, block_table_stride]  blocks in order
  int32_t block_table_stride = 0;
  std::span<const int32_t> logit_tokens;  // [logit_rows]

  int32_t tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t entries() const { return static_cast<int32_t>(entry_phases.size()); }
  int32_t logit_rows() const { return static_cast<int32_t>(logit_tokens.size()); }
};

// A token that occurred, for the penalties: repetition looks at prompt and output, presence and
// frequency at the output only.
struct TokenCount {
  int32_t token_id = 0;
  int32_t output_count = 0;
  bool in_prompt = false;
};

struct TokenBias {
  int32_t token_id = 0;
  float bias = 0;
};

constexpr int32_t kTopLogprobsMax = 20;

// One draw (or one scored token). Several rows may read the same logit row: the n choices of a
// request share the last prompt position.
struct SamplingRow {
  int32_t logit_row = 0;
  float temperature = 0;         // 0: greedy, ties to the lower id
  int32_t top_k = 0;             // 0: off
  float top_p = 1;               // 1: off
  float min_p = 0;               // 0: off
  float repetition_penalty = 1;  // 1: off
  float presence_penalty = 0;
  float frequency_penalty = 0;
  PhiloxKey key;                        // (seed, choice index)
  int32_t output_index = 0;             // index of the generated token; counter word of the draw
  std::span<const TokenBias> biases;    // added to the logits
  std::span<const TokenCount> counts;   // distinct ids; empty when no penalty is on
  std::span<const int32_t> banned_ids;  // masked for this row: stop ids below min_tokens
  int32_t top_logprobs = 0;             // 0 to kTopLogprobsMax
  // >= 0: nothing is drawn; the log-probability of this id is wanted (prompt log-probabilities).
  int32_t scored_token = -1;
  bool logprob = false;  // whether log-probabilities are wanted at all
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;
};

// What came of a SamplingRow. Log-probabilities are of the raw logits (after no mask or penalty).
struct SampledToken {
  int32_t token_id = 0;
  float logprob = 0;
  bool not_finite = false;  // the logits held a NaN or +Inf; token_id means nothing
  int32_t top_count = 0;
  TokenLogprob top[kTopLogprobsMax];  // by falling log-probability, ties by id
};

}  // namespace tuppence
