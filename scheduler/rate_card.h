// RateCard: what the machine costs. Read from the options by the service, applied by the ledger.
#pragma once

#include <cstdint>
#include <string>

namespace tuppence {

struct RateCard {
  std::string id;                   // "" when no rate is known
  int64_t micro_usd_per_hour = -1;  // -1: no rate; 0 is a machine that costs nothing

  bool known() const { return micro_usd_per_hour >= 0; }
};

// machine_ns at the card's rate in nano-USD, rounded to nearest, halves up. Exact in integers.
// Requires: card.known(), machine_ns >= 0.
constexpr int64_t NanoUsd(const RateCard& card, int64_t machine_ns) {
  // nano-USD = ns * (micro-USD / hour) * 1000 / 3.6e12 ns
  constexpr __int128 kDivisor = 3'600'000'000;
  const __int128 product = __int128{machine_ns} * card.micro_usd_per_hour;
  return static_cast<int64_t>((product + kDivisor / 2) / kDivisor);
}

}  // namespace tuppence
