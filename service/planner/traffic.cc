#include "service/planner/traffic.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tuppence {
namespace {

std::string RangeText(LengthRange range) {
  return range.min == range.max ? absl::StrCat(range.min) : absl::StrCat(range.min, "-", range.max);
}

std::string LengthsText(const LoadShape& shape) {
  return absl::StrCat(RangeText(shape.prompt), " tokens in, ", RangeText(shape.completion),
                      " out, seed ", shape.seed);
}

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

void Traffic::Add(const Arrival& arrival) {
  prompt_tokens += arrival.prompt_tokens;
  completion_tokens += arrival.completion_tokens;
  arrivals.push_back(arrival);
}

absl::StatusOr<Traffic> DrawTraffic(const LoadShape& shape, double seconds) {
  if (shape.rate * seconds > kArrivalsMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%g requests a second for %g s are more than the %d that are planned with; take a shorter "
        "time",
        shape.rate, seconds, kArrivalsMax));
  }
  Traffic traffic;
  LoadDraw draw(shape);
  for (double at = draw.GapSeconds(); at < seconds; at += draw.GapSeconds()) {
    const int32_t prompt_tokens = draw.PromptTokens();
    traffic.Add({.at_ns = static_cast<int64_t>(at * 1e9),
                 .prompt_tokens = prompt_tokens,
                 .completion_tokens = draw.CompletionTokens()});
  }
  if (traffic.arrivals.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "at %g requests a second none comes within %g s; take a longer time", shape.rate, seconds));
  }
  traffic.duration_ns = static_cast<int64_t>(seconds * 1e9);
  traffic.source =
      absl::StrFormat("%g requests a second for %g s, %s", shape.rate, seconds, LengthsText(shape));
  return traffic;
}

Traffic DrawClosedLoop(const LoadShape& shape, int32_t callers, int64_t requests) {
  Traffic traffic;
  LoadDraw draw(shape);
  for (int64_t i = 0; i < requests; ++i) {
    const int32_t prompt_tokens = draw.PromptTokens();
    traffic.Add({.prompt_tokens = prompt_tokens, .completion_tokens = draw.CompletionTokens()});
  }
  traffic.callers = callers;
  traffic.source = absl::StrFormat("%d callers who ask again at once, %d requests, %s", callers,
                                   requests, LengthsText(shape));
  return traffic;
}

}  // namespace tuppence
