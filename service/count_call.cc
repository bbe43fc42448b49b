#include "service/count_call.h"

#include "scheduler/clock.h"
#include "service/request_log.h"

namespace tuppence {

void CountCall(const ServiceParts& parts, Method method, const CallIdentity& identity,
               const absl::Status& status, int64_t received_ns, const RequestEnd* end) {
  parts.counters->CountEnded(method, static_cast<int>(status.code()));
  if (end == nullptr) parts.counters->CountRefused(status);
  parts.log->Write({.method = kMethodNames[static_cast<int>(method)],
                    .identity = &identity,
                    .status = &status,
                    .ended_utc_ns = parts.clock->UtcNs(),
                    .total_ns = parts.clock->NowNs() - received_ns,
                    .end = end});
}

}  // namespace tuppence
