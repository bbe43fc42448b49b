#include "service/money.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/check.h"

namespace tuppence {
namespace {

constexpr ExactMoney kExactPerNanoUsd = ExactMoney{3'600'000'000} * kPpm;

// Adds one to the `count` parts with the largest remainders.
void RaiseLargest(std::span<const ExactMoney> remainders, int64_t count,
                  std::vector<int64_t>* parts) {
  std::vector<size_t> order(parts->size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  CHECK_LE(count, static_cast<int64_t>(order.size()));
  for (int64_t i = 0; i < count; ++i) ++(*parts)[order[i]];
}

}  // namespace

std::string FormatUsd(int64_t nanousd) {
  const uint64_t size =
      nanousd < 0 ? uint64_t{0} - static_cast<uint64_t>(nanousd) : static_cast<uint64_t>(nanousd);
  return absl::StrFormat("%s%d.%09d", nanousd < 0 ? "-" : "", size / kNanoUsdPerUsd,
                         size % kNanoUsdPerUsd);
}

std::string FormatUsdShort(int64_t nanousd) {
  std::string text = FormatUsd(nanousd);
  const size_t shortest = text.find('.') + 3;
  while (text.size() > shortest && text.back() == '0') text.pop_back();
  return text;
}

absl::StatusOr<int64_t> ParseDecimal(const std::string& text, int decimals) {
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text.substr(0, 40), "\" ", why));
  };
  const bool negative = !text.empty() && text.front() == '-';
  __int128 value = 0;
  int places = -1;  // behind the point; -1: no point yet
  int digits = 0;
  for (const char c : negative ? text.substr(1) : text) {
    if (c == '.' && places < 0) {
      places = 0;
      continue;
    }
    if (c < '0' || c > '9') return refuse("is not a decimal number such as 0.526");
    ++digits;
    if (places >= decimals) {
      if (c == '0') continue;
      return refuse(absl::StrCat("has more than ", decimals, " decimals"));
    }
    if (places >= 0) ++places;
    value = value * 10 + (c - '0');
    if (value > std::numeric_limits<int64_t>::max()) return refuse("is too large");
  }
  if (digits == 0) return refuse("is not a decimal number such as 0.526");
  for (int i = std::max(places, 0); i < decimals; ++i) value *= 10;
  if (value > std::numeric_limits<int64_t>::max()) return refuse("is too large");
  return static_cast<int64_t>(negative ? -value : value);
}

std::vector<int64_t> RoundTogether(std::span<const ExactMoney> exact) {
  std::vector<int64_t> parts(exact.size());
  std::vector<ExactMoney> remainders(exact.size());
  ExactMoney sum = 0;
  int64_t rounded_down = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    CHECK(exact[i] >= 0);
    sum += exact[i];
    parts[i] = static_cast<int64_t>(exact[i] / kExactPerNanoUsd);
    remainders[i] = exact[i] % kExactPerNanoUsd;
    rounded_down += parts[i];
  }
  RaiseLargest(remainders, NanoUsd(sum) - rounded_down, &parts);
  return parts;
}

std::vector<int64_t> Apportion(int64_t total, std::span<const int64_t> weights) {
  CHECK(!weights.empty());
  CHECK_GE(total, 0);
  ExactMoney sum = 0;
  for (const int64_t weight : weights) {
    CHECK_GE(weight, 0);
    sum += weight;
  }
  const bool equally = sum == 0;
  if (equally) sum = static_cast<ExactMoney>(weights.size());
  std::vector<int64_t> parts(weights.size());
  std::vector<ExactMoney> remainders(weights.size());
  int64_t left = total;
  for (size_t i = 0; i < weights.size(); ++i) {
    const ExactMoney product = ExactMoney{total} * (equally ? 1 : weights[i]);
    parts[i] = static_cast<int64_t>(product / sum);
    remainders[i] = product % sum;
    left -= parts[i];
  }
  RaiseLargest(remainders, left, &parts);
  return parts;
}

}  // namespace tuppence
