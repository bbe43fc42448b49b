// How a simulation that found something ends: one line that says what, and one that replays it.
#pragma once

#include <string_view>

namespace tuppence::simulation {

// Which seed is at work; the lines below and the ones for a failed CHECK or a hanging seed name it.
void NoteSeed(unsigned long long seed);
[[noreturn]] void Violation(std::string_view what);
// Aborts (failed CHECKs) and seeds that take longer than seconds_max replay as well.
void WatchForAborts(int seconds_max);
// A violation where it does not hold.
void Require(bool holds, std::string_view what);

}  // namespace tuppence::simulation
