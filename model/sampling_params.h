// SamplingParams: how the next token is chosen, as a caller states it, and the one validator that
// every door uses. The draw itself is Backend::Sample.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/batch.h"

namespace tuppence {

struct SamplingParams {
  float temperature = 1;                  // 0 to 2; 0 is greedy
  int32_t top_k = 0;                      // 0: off; otherwise 1 to vocab
  float top_p = 1;                        // (0, 1]
  float min_p = 0;                        // [0, 1]
  float repetition_penalty = 1;           // (0, 10]
  float presence_penalty = 0;             // -2 to 2
  float frequency_penalty = 0;            // -2 to 2
  std::vector<TokenBias> logit_bias;      // at most 1,024 entries, each -100 to 100, on mapped ids
  std::optional<uint64_t> seed;           // none: the service draws one and returns it
  int32_t choices = 1;                    // n: 1 to 8
  int32_t max_tokens = 0;                 // >= 1; prompt + max_tokens within the context
  int32_t min_tokens = 0;                 // 0 to max_tokens; stop ids are masked before
  bool ignore_eos = false;                // the model's own stop ids do not end the answer
  std::vector<std::string> stop_strings;  // at most 4, each 1 to 128 bytes of valid UTF-8
  std::vector<int32_t> stop_ids;          // at most 16, beside the model's own
  bool include_stop_string = false;
  bool logprobs = false;            // log-probability of each chosen token
  int32_t top_logprobs = 0;         // 0 to 20
  bool prompt_logprobs = false;     // of each prompt token but the first
  int32_t prompt_top_logprobs = 0;  // 0 to 20
};

// One field that cannot be served: its name as in the proto, and a sentence that says what was
// found, what is allowed and the way out.
struct FieldViolation {
  std::string field;
  std::string description;
};

struct SamplingLimits {
  int32_t vocab = 0;
  int32_t context_tokens = 0;
  int32_t choices_max = 8;
  bool has_tokenizer = true;  // stop strings need one
};

// All violations, in field order; empty when the parameters can be served with this prompt.
std::vector<FieldViolation> CheckSamplingParams(const SamplingParams& params, int64_t prompt_tokens,
                                                const SamplingLimits& limits);

}  // namespace tuppence
