// FakeClock: the simulator's clock by the name that the tests know it by.
#pragma once

#include "scheduler/simulation/virtual_clock.h"

namespace tuppence {

using FakeClock = VirtualClock;

}  // namespace tuppence
