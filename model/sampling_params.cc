// The one validator of sampling parameters. Written so that NaN fails every range: a value passes
// only if it is shown to lie inside.
#include "model/sampling_params.h"

#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "model/utf8.h"

namespace tuppence {
namespace {

constexpr size_t kLogitBiasesMax = 1024;
constexpr float kLogitBiasMax = 100;
constexpr size_t kStopStringsMax = 4;
constexpr size_t kStopStringBytesMax = 128;
constexpr size_t kStopIdsMax = 16;

class Violations {
 public:
  explicit Violations(std::vector<FieldViolation>* out) : out_(out) {}

  void Add(std::string field, std::string description) {
    out_->push_back({std::move(field), std::move(description)});
  }
  // [lowest, highest], or (lowest, highest] where `open`.
  void Range(const char* field, float value, float lowest, float highest, const char* off,
             bool open = false) {
    const bool inside = (open ? value > lowest : value >= lowest) && value <= highest;
    if (inside) return;
    Add(field, absl::StrCat("is ", value, "; allowed is ", open ? "above " : "", lowest, " to ",
                            highest, "; ", off));
  }
  void Range(std::string field, int64_t value, int64_t lowest, int64_t highest,
             const std::string& way_out) {
    if (value >= lowest && value <= highest) return;
    Add(std::move(field),
        absl::StrCat("is ", value, "; allowed is ", lowest, " to ", highest, "; ", way_out));
  }

 private:
  std::vector<FieldViolation>* out_;
};

void CheckPenaltiesAndCuts(const SamplingParams& params, const SamplingLimits& limits,
                           Violations* found) {
  found->Range("sampling.temperature", params.temperature, 0, 2, "0 is greedy, 1 is the default");
  found->Range("sampling.top_k", params.top_k, 0, limits.vocab,
               "0 turns it off; more than the vocabulary has no meaning");
  found->Range("sampling.top_p", params.top_p, 0, 1, "1 turns it off", /*open=*/true);
  found->Range("sampling.min_p", params.min_p, 0, 1, "0 turns it off");
  found->Range("sampling.repetition_penalty", params.repetition_penalty, 0, 10, "1 turns it off",
               /*open=*/true);
  found->Range("sampling.presence_penalty", params.presence_penalty, -2, 2, "0 turns it off");
  found->Range("sampling.frequency_penalty", params.frequency_penalty, -2, 2, "0 turns it off");
}

void CheckBiases(const SamplingParams& params, const SamplingLimits& limits, Violations* found) {
  if (params.logit_bias.size() > kLogitBiasesMax) {
    found->Add("sampling.logit_bias",
               absl::StrCat("has ", params.logit_bias.size(), " entries; at most ", kLogitBiasesMax,
                            " are allowed; keep those that matter most"));
    return;  // not one violation for each of a hundred thousand entries
  }
  for (const TokenBias& bias : params.logit_bias) {
    if (bias.token_id < 0 || bias.token_id >= limits.vocab) {
      found->Add(absl::StrCat("sampling.logit_bias[", bias.token_id, "]"),
                 absl::StrCat("is not a token id; allowed is 0 to ", limits.vocab - 1,
                              "; Tokenize gives the ids of a text"));
    } else if (!(std::fabs(bias.bias) <= kLogitBiasMax)) {
      found->Add(absl::StrCat("sampling.logit_bias[", bias.token_id, "]"),
                 absl::StrCat("is ", bias.bias, "; allowed is -", kLogitBiasMax, " to ",
                              kLogitBiasMax, ", of which the ends all but ban or force the token"));
    }
  }
}

void CheckLengths(const SamplingParams& params, int64_t prompt_tokens, const SamplingLimits& limits,
                  Violations* found) {
  found->Range("sampling.n", params.choices, 1, limits.choices_max,
               "send several requests for more choices");
  if (params.max_tokens < 1) {
    found->Add("sampling.max_tokens", absl::StrCat("is ", params.max_tokens,
                                                   "; at least 1 is allowed; leave it out for "
                                                   "the default"));
  } else if (prompt_tokens + params.max_tokens > limits.context_tokens) {
    found->Add(
        "sampling.max_tokens",
        absl::StrCat("the prompt has ", prompt_tokens, " tokens and max_tokens is ",
                     params.max_tokens, "; together they exceed the model's context of ",
                     limits.context_tokens, " tokens; shorten the prompt or lower max_tokens"));
  }
  if (params.max_tokens >= 1) {
    found->Range("sampling.min_tokens", params.min_tokens, 0, params.max_tokens,
                 "at most max_tokens can be generated");
  }
}

void CheckStops(const SamplingParams& params, const SamplingLimits& limits, Violations* found) {
  if (params.stop_strings.size() > kStopStringsMax) {
    found->Add("sampling.stop",
               absl::StrCat("has ", params.stop_strings.size(), " strings; at most ",
                            kStopStringsMax, " are allowed; stop_token_ids may help"));
  } else if (!params.stop_strings.empty() && !limits.has_tokenizer) {
    found->Add("sampling.stop",
               "needs text, and this checkpoint has no supported tokenizer; use stop_token_ids");
  } else {
    for (size_t i = 0; i < params.stop_strings.size(); ++i) {
      const std::string& stop = params.stop_strings[i];
      if (stop.empty() || stop.size() > kStopStringBytesMax) {
        found->Add(absl::StrCat("sampling.stop[", i, "]"),
                   absl::StrCat("has ", stop.size(), " bytes; allowed is 1 to ",
                                kStopStringBytesMax, "; shorten it or leave it out"));
      } else if (!IsValidUtf8(stop)) {
        found->Add(absl::StrCat("sampling.stop[", i, "]"),
                   "is not valid UTF-8; answers are, so it could never match");
      }
    }
  }
  if (params.stop_ids.size() > kStopIdsMax) {
    found->Add("sampling.stop_token_ids",
               absl::StrCat("has ", params.stop_ids.size(), " ids; at most ", kStopIdsMax,
                            " are allowed; the model's own stop ids need not be given"));
    return;
  }
  for (size_t i = 0; i < params.stop_ids.size(); ++i) {
    found->Range(absl::StrCat("sampling.stop_token_ids[", i, "]"), params.stop_ids[i], 0,
                 limits.vocab - 1, "Tokenize gives the ids of a text");
  }
}

void CheckLogprobs(const SamplingParams& params, Violations* found) {
  found->Range("output.top_logprobs", params.top_logprobs, 0, kTopLogprobsMax,
               "0 gives the chosen token's alone");
  found->Range("output.prompt_top_logprobs", params.prompt_top_logprobs, 0, kTopLogprobsMax,
               "0 gives the prompt tokens' alone");
}

}  // namespace

std::vector<FieldViolation> CheckSamplingParams(const SamplingParams& params, int64_t prompt_tokens,
                                                const SamplingLimits& limits) {
  std::vector<FieldViolation> out;
  Violations found(&out);
  CheckPenaltiesAndCuts(params, limits, &found);
  CheckBiases(params, limits, &found);
  CheckLengths(params, prompt_tokens, limits, &found);
  CheckStops(params, limits, &found);
  CheckLogprobs(params, &found);
  return out;
}

}  // namespace tuppence
