// minute_limits: a call and its tenant's limits of a minute, whichever door it came through: what
// calls take that ask for no tokens, and how the tenant stands. Completions take theirs in
// generation, where their tokens are known. Any thread.
#pragma once

#include "absl/status/status.h"
#include "service/call_identity.h"
#include "service/service_parts.h"
#include "service/tenant_rates.h"

namespace tuppence {

// Takes one request of the tenant's minute: RESOURCE_EXHAUSTED where none is left.
absl::Status TakeOneRequest(const ServiceParts& parts, const CallIdentity& identity);

// All 0 where the caller is not known, or has no such limits.
RateStands StandsOf(const ServiceParts& parts, const CallIdentity& identity);

}  // namespace tuppence
