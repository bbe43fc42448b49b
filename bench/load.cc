// See load.h.
#include "bench/load.h"

#include <algorithm>
#include <array>

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

RequestMaker::RequestMaker(const TrafficOptions& options, int32_t vocab)
    : options_(options),
      vocab_(std::max(vocab, 2 * kFirstOrdinaryId)),
      draw_({options.rate, options.prompt, options.output, options.seed}),
      contents_(options.seed + 1),
      next_seed_(options.seed) {}

v1::GenerateRequest RequestMaker::Next() {
  v1::GenerateRequest request;
  const int32_t prompt_tokens = draw_.PromptTokens();
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
  sampling->set_max_tokens(draw_.CompletionTokens());
  sampling->set_ignore_eos(!options_.stop_early);
  sampling->set_seed(next_seed_++);
  return request;
}

}  // namespace tuppence
