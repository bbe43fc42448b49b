// outcome: how a request ended, in the one word that rows, metrics and invoices use for it.
#pragma once

#include <array>
#include <cstddef>

#include "scheduler/request.h"

namespace tuppence {

// By FinishReason; "" for kNone, which no ended request has.
inline constexpr std::array<const char*, 8> kOutcomeNames = {
    "", "ok", "length", "cancelled", "deadline", "error", "drained", "cost_limit"};

inline const char* OutcomeOf(FinishReason reason) {
  return kOutcomeNames[static_cast<size_t>(reason)];
}

}  // namespace tuppence
