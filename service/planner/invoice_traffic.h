// What a model API's invoice shows, made into traffic: requests, tokens and amount of each day
// (CSV) or of a month (flags), spread over a day by its usual shape. An invoice knows neither when
// a request came nor how long it was: within an hour requests come at random, and lengths lie
// anywhere between half and one and a half times the day's mean. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "service/planner/traffic.h"

namespace tuppence {

struct InvoiceDay {
  int64_t requests = 0;
  int64_t input_tokens = 0;  // the API's
  int64_t output_tokens = 0;
};

struct ApiInvoice {
  double days = 0;          // that it covers
  InvoiceDay total;         // of all of them
  InvoiceDay busiest;       // by tokens; what machines must be able to serve
  std::string busiest_day;  // "2026-11-03", or "a day of the month"
  std::optional<int64_t> amount_nanousd;
};

// CSV: day,requests,input_tokens,output_tokens and, if known, amount (USD). Lines of one day, as of
// several models, are added up. INVALID_ARGUMENT names the line.
absl::StatusOr<ApiInvoice> ParseApiInvoice(const std::string& csv);
absl::StatusOr<ApiInvoice> ReadApiInvoice(const std::string& path);
// A month of 730 hours, each day like the other.
absl::StatusOr<ApiInvoice> MonthInvoice(const InvoiceDay& month,
                                        std::optional<int64_t> amount_nanousd);

constexpr double kMonthDays = 730.0 / 24;

// How much of a day falls into each of its hours.
using DayShape = std::array<double, 24>;
// "flat", "day" (people who are awake: the busiest hour has 1.7 times the mean) or 24 numbers with
// commas between.
absl::StatusOr<DayShape> ParseDayShape(const std::string& text);

// The busiest day. tokens_ratio: our tokens for each of the API's.
absl::StatusOr<Traffic> BusiestDayTraffic(const ApiInvoice& invoice, const DayShape& shape,
                                          double tokens_ratio, uint64_t seed);

}  // namespace tuppence
