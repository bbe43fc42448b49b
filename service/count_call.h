// CountCall: what every call, of either door, leaves behind at its end: its place in the counters
// and its line in the log. Any thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "service/call_identity.h"
#include "service/service_counters.h"
#include "service/service_parts.h"

namespace tuppence {

// received_ns: monotonic. end: null where the engine never had the request, which is then counted
// among the refused by its status.
void CountCall(const ServiceParts& parts, Method method, const CallIdentity& identity,
               const absl::Status& status, int64_t received_ns, const RequestEnd* end = nullptr);

}  // namespace tuppence
