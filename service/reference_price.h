// ReferencePrice: what a model API would have asked for the same work. Named entries are in
// deploy/reference_prices.json; --reference-price takes a name or a file with one entry of that
// form. The books keep the reference of each request; the invoice sets it against the machine.
//
// The API counts in its own tokens. Ours divided by tokens_ratio are theirs; without a stated ratio
// it is 1.0 and the price is marked "unadjusted".
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tuppence {

struct ReferencePrice {
  std::string name;
  std::string model;
  std::string source;
  std::string date;             // when the price was read, YYYY-MM-DD
  std::string tokenizer;        // "" where none is stated
  int64_t input_micro_usd = 0;  // for each million tokens of the reference
  int64_t cached_input_micro_usd = 0;
  int64_t output_micro_usd = 0;
  int64_t tokens_ratio_ppm = 1'000'000;  // our tokens for each million of the reference's
  bool adjusted = false;                 // the ratio was stated

  // As it stands in the books: "gpt-3.5-turbo@2026-05-31", with ",unadjusted" where it applies.
  std::string id() const;

  // In nano-USD, rounded to nearest, halves up, in integers. What our prefix cache served counts as
  // cached input of the API too. Requires: 0 <= cached_tokens <= prompt_tokens.
  int64_t NanoUsd(int64_t prompt_tokens, int64_t cached_tokens, int64_t completion_tokens) const;
};

// A name of the table, or the path of a file.
absl::StatusOr<ReferencePrice> FindReferencePrice(const std::string& name_or_path);
// One entry.
absl::StatusOr<ReferencePrice> ParseReferencePrice(const std::string& json);

}  // namespace tuppence
