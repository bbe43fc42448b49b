// FakeClock: the simulator's clock by the name that the tests know it by; and its units.
#pragma once

#include <cstdint>

#include "scheduler/simulation/virtual_clock.h"

namespace tuppence {

using FakeClock = VirtualClock;

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kHourNs = 3600 * kSecondNs;

}  // namespace tuppence
