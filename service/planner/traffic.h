// Traffic: who calls when and for how much, as a plan looks at it: drawn from distributions, read
// from a trace (trace_file) or made of what an invoice shows (invoice_traffic). Pure.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/simulation/replica.h"

namespace tuppence {

// A length in tokens: "300", or "100-500" for any in between with equal chance.
struct LengthRange {
  int32_t min = 0;
  int32_t max = 0;
};
absl::StatusOr<LengthRange> ParseLengthRange(const std::string& text);

struct Traffic {
  std::string source;             // where it comes from, for people
  std::vector<Arrival> arrivals;  // by time
  int64_t duration_ns = 0;        // machines are held for so long; 0: until the last answer
  int32_t callers = 0;            // above 0: a closed loop, times of arrival do not count
  int64_t prompt_tokens = 0;      // of all arrivals
  int64_t completion_tokens = 0;

  void Add(const Arrival& arrival);
};

struct LoadShape {
  double rate = 0;  // arrivals a second, at random (Poisson)
  LengthRange prompt = {300, 300};
  LengthRange completion = {60, 60};
  uint64_t seed = 1;
};

// Draws lengths and times of arrival. serve_bench draws its load with it too, so that the same
// shape and seed are the same requests, planned or measured.
class LoadDraw {
 public:
  explicit LoadDraw(const LoadShape& shape)
      : shape_(shape), lengths_(shape.seed), arrivals_(shape.seed + 2) {}

  // The next request's lengths.
  int32_t PromptTokens() { return Draw(shape_.prompt); }
  int32_t CompletionTokens() { return Draw(shape_.completion); }
  // Seconds between two arrivals.
  double GapSeconds() { return std::exponential_distribution<double>(shape_.rate)(arrivals_); }

 private:
  int32_t Draw(LengthRange range) {
    return std::uniform_int_distribution<int32_t>(range.min, range.max)(lengths_);
  }

  const LoadShape shape_;
  std::mt19937_64 lengths_;
  std::mt19937_64 arrivals_;
};

// Open loop, for so long. INVALID_ARGUMENT where no request or too many would come.
absl::StatusOr<Traffic> DrawTraffic(const LoadShape& shape, double seconds);
// Closed loop: so many callers, so many requests.
Traffic DrawClosedLoop(const LoadShape& shape, int32_t callers, int64_t requests);

constexpr int64_t kArrivalsMax = 20'000'000;

}  // namespace tuppence
