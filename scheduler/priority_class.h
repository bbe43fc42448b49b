// PriorityClass: how urgent a request is, as its caller says and its tenant may. Any thread.
#pragma once

#include <cstdint>

namespace tuppence {

enum class PriorityClass : uint8_t {
  kInteractive,  // somebody waits for it
  kStandard,
  kBatch,  // takes what the others leave, and gives way to them
};
inline constexpr int kPriorityClasses = 3;

}  // namespace tuppence
