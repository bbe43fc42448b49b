// Refusal: the machine-readable part of a refused or ended request, carried as a payload of its
// absl::Status. The scheduler knows no gRPC; service/convert turns it into google.rpc details.
// Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace tuppence {

// Reasons, as in ErrorInfo.reason: UPPER_SNAKE, at most 63 characters.
namespace reason {
inline constexpr char kQueueFull[] = "QUEUE_FULL";                // our limit: UNAVAILABLE
inline constexpr char kTenantQueueFull[] = "TENANT_QUEUE_FULL";   // theirs: RESOURCE_EXHAUSTED
inline constexpr char kBudgetSpent[] = "BUDGET_SPENT";            // RESOURCE_EXHAUSTED
inline constexpr char kBudgetHeld[] = "BUDGET_HELD";              // RESOURCE_EXHAUSTED
inline constexpr char kDraining[] = "DRAINING";                   // UNAVAILABLE
inline constexpr char kEngineFailed[] = "ENGINE_FAILED";          // UNAVAILABLE
inline constexpr char kContextExceeded[] = "CONTEXT_EXCEEDED";    // INVALID_ARGUMENT
inline constexpr char kTooLargeForPool[] = "TOO_LARGE_FOR_POOL";  // INVALID_ARGUMENT
inline constexpr char kTooManyChoices[] = "TOO_MANY_CHOICES";     // INVALID_ARGUMENT
inline constexpr char kNoRateCard[] = "NO_RATE_CARD";             // FAILED_PRECONDITION
inline constexpr char kDeadline[] = "DEADLINE";                   // DEADLINE_EXCEEDED
inline constexpr char kDeadlineUnreachable[] = "DEADLINE_UNREACHABLE";  // UNAVAILABLE
inline constexpr char kCancelled[] = "CANCELLED_BY_CALLER";             // CANCELLED
inline constexpr char kSlowReader[] = "SLOW_READER";                    // CANCELLED
inline constexpr char kLogitsNotFinite[] = "LOGITS_NOT_FINITE";         // INTERNAL
}  // namespace reason

struct Refusal {
  std::string reason;
  int64_t retry_after_ms = -1;  // -1: a retry is not what helps
  std::string tenant;           // whose quota it was; "" when it was nobody's
  // Numbers behind the message, unit in the key: {"queued_requests", "512"}, ...
  std::vector<std::pair<std::string, std::string>> metadata;
};

// A status of `code` with the message for people and the refusal for programs.
absl::Status RefusalStatus(absl::StatusCode code, std::string_view message, const Refusal& refusal);

// The refusal that a status carries, if any.
std::optional<Refusal> RefusalOf(const absl::Status& status);

}  // namespace tuppence
