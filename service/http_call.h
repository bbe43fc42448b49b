// http_call: what every call over HTTP does with its header: who calls and by when; and the ids
// that go back. The HTTP counterpart of rpc_call. Any thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "service/call_identity.h"
#include "service/http_exchange.h"
#include "service/service_parts.h"

namespace tuppence {

// The value of a header field, and how often it came.
MetadataValue HeaderOf(const HttpHeader& header, const std::string& name);

absl::Status ReadIdentity(const HttpHeader& header, const ServiceParts& parts,
                          CallIdentity* identity);

// Until when, on the clock's monotonic axis: `x-request-timeout-ms` from now, at most
// deadline_max_ns. DEADLINE_EXCEEDED where it is 0, INVALID_ARGUMENT where it is no such number.
absl::StatusOr<int64_t> ReadDeadline(const HttpHeader& header, const CallLimits& limits,
                                     const Clock& clock);

// tuppence-request-id is ours; x-request-id the caller's, or ours where it sent none.
void AddIds(const CallIdentity& identity, HttpHeaders* headers);

// What goes back with every answer: the ids, and where the caller is known how its tenant stands
// with its limits of a minute: x-ratelimit-{limit,remaining,reset}-{requests,tokens}, of those that
// there are.
void AddOwnHeaders(const ServiceParts& parts, const CallIdentity& identity, HttpHeaders* headers);

}  // namespace tuppence
