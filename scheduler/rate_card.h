// RateCard: what the machine costs. Read from the options or a file by the service, applied by the
// ledger, kept with each period.
#pragma once

#include <cstdint>
#include <string>

namespace tuppence {

constexpr int64_t kPpm = 1'000'000;

struct RateCard {
  std::string id = {};               // "" when no rate is known
  int64_t micro_usd_per_hour = -1;   // of the whole machine; -1: no rate; 0: it costs nothing
  int64_t machine_share_ppm = kPpm;  // the part of the machine that is this process's
  std::string source = {};           // list, effective, spot, flag
  int64_t valid_from_utc_ns = 0;

  bool known() const { return micro_usd_per_hour >= 0; }
  bool operator==(const RateCard&) const = default;
};

// Money before it is rounded: ns x micro-USD an hour x ppm. Sums of it are exact, so that time at
// several rates is rounded once.
using ExactMoney = __int128;

// Requires: card.known(), machine_ns >= 0.
constexpr ExactMoney ExactMoneyOf(const RateCard& card, int64_t machine_ns) {
  return ExactMoney{machine_ns} * card.micro_usd_per_hour * card.machine_share_ppm;
}

// In nano-USD, rounded to nearest, halves up.
constexpr int64_t NanoUsd(ExactMoney money) {
  // nano-USD = ns * (micro-USD / hour) * 1000 / 3.6e12 ns
  constexpr ExactMoney kDivisor = ExactMoney{3'600'000'000} * kPpm;
  return static_cast<int64_t>((money + kDivisor / 2) / kDivisor);
}

// machine_ns at the card's rate and share.
constexpr int64_t NanoUsd(const RateCard& card, int64_t machine_ns) {
  return NanoUsd(ExactMoneyOf(card, machine_ns));
}

}  // namespace tuppence
