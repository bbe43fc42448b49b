// Money in whole nano-dollars, and how whole amounts are divided without losing one of them.
// Used wherever the books are read: invoice, bill, rate cards, reference prices.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/rate_card.h"

namespace tuppence {

constexpr int64_t kNanoUsdPerUsd = 1'000'000'000;

// "12.345678901", all nine decimals, "-0.000000001".
std::string FormatUsd(int64_t nanousd);
// The same with the zeros at the end left out, two decimals kept: "0.526", "1.00".
std::string FormatUsdShort(int64_t nanousd);

// A decimal number as people write amounts, "-12.30", with at most `decimals` of them, as a whole
// number of 10^-decimals. Exact: no floating point is involved. INVALID_ARGUMENT otherwise, with
// what was found; the caller adds where.
absl::StatusOr<int64_t> ParseDecimal(const std::string& text, int decimals);

// Rounds amounts so that the whole is right: the result adds up to NanoUsd(sum of exact), and each
// part is its exact amount rounded down or up; those with the largest remainders are rounded up, of
// equals the first. Requires: no amount is negative.
std::vector<int64_t> RoundTogether(std::span<const ExactMoney> exact);

// Divides `total` in proportion to the weights, equally where all are zero, by largest remainder,
// so that the parts add up to it. Requires: total >= 0, weights not negative, at least one.
std::vector<int64_t> Apportion(int64_t total, std::span<const int64_t> weights);

}  // namespace tuppence
