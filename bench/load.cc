// See load.h.
#include "bench/load.h"

#include <algorithm>
#include <array>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

// Ids below are the special tokens and byte pieces of a Llama vocabulary; those in its last part
// may be special or unmapped.
constexpr int32_t kFirstOrdinaryId = 259;

constexpr std::array<const char*, 24> kWords = {
    "where", "is",     "my",    "order", "the",  "parcel", "has",    "not",
    "come",  "please", "tell",  "me",    "when", "it",     "will",   "be",
    "here",  "and",    "money", "back",  "want", "to",     "return", "thanks"};

}  // namespace

absl::StatusOr<LengthRange> ParseLengthRange(const std::string& text) {
  LengthRange range;
  const size_t dash = text.find('-');
  const bool parsed =
      absl::SimpleAtoi(text.substr(0, dash), &range.min) &&
      (dash == std::string::npos || absl::SimpleAtoi(text.substr(dash + 1), &range.max));
  if (dash == std::string::npos) range.max = range.min;
  if (!parsed || range.min < 1 || range.max < range.min) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a length; give a number of tokens, or a range: 100-500"));
  }
  return range;
}

RequestMaker::RequestMaker(const LoadOptions& options, int32_t vocab)
    : options_(options),
      vocab_(std::max(vocab, 2 * kFirstOrdinaryId)),
      lengths_(options.seed),
      contents_(options.seed + 1),
      arrivals_(options.seed + 2),
      next_seed_(options.seed) {}

v1::GenerateRequest RequestMaker::Next() {
  v1::GenerateRequest request;
  const int32_t prompt_tokens = Draw(options_.prompt);
  if (options_.text) {
    // Common words are a token each in any vocabulary of this family.
    std::uniform_int_distribution<size_t> word(0, kWords.size() - 1);
    std::string* text = request.mutable_text();
    for (int32_t i = 0; i < prompt_tokens; ++i)
      absl::StrAppend(text, i ? " " : "", kWords[word(contents_)]);
  } else {
    std::uniform_int_distribution<int32_t> id(kFirstOrdinaryId, vocab_ - vocab_ / 16 - 1);
    auto* ids = request.mutable_token_ids()->mutable_ids();
    for (int32_t i = 0; i < prompt_tokens; ++i) ids->Add(id(contents_));
    request.mutable_output()->set_no_text(true);
  }
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_temperature(static_cast<float>(options_.temperature));
  sampling->set_max_tokens(Draw(options_.output));
  sampling->set_ignore_eos(!options_.stop_early);
  sampling->set_seed(next_seed_++);
  return request;
}

double RequestMaker::NextGapSeconds() {
  return std::exponential_distribution<double>(options_.rate)(arrivals_);
}

int32_t RequestMaker::Draw(LengthRange range) {
  return std::uniform_int_distribution<int32_t>(range.min, range.max)(lengths_);
}

}  // namespace tuppence
