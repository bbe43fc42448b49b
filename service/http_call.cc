#include "service/http_call.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "scheduler/clock.h"
#include "scheduler/refusal.h"
#include "service/minute_limits.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

constexpr char kTimeoutKey[] = "x-request-timeout-ms";
constexpr int64_t kNsPerMs = 1'000'000;

void AddRates(const RateStands& stands, HttpHeaders* headers) {
  const auto add = [headers](const char* what, const RateStand& stand) {
    if (stand.limit == 0) return;
    headers->emplace_back(absl::StrCat("x-ratelimit-limit-", what), absl::StrCat(stand.limit));
    headers->emplace_back(absl::StrCat("x-ratelimit-remaining-", what),
                          absl::StrCat(stand.remaining));
    headers->emplace_back(absl::StrCat("x-ratelimit-reset-", what),
                          absl::StrCat(stand.full_in_ms, "ms"));
  };
  add("requests", stands.requests);
  add("tokens", stands.tokens);
}

}  // namespace

MetadataValue HeaderOf(const HttpHeader& header, const std::string& name) {
  MetadataValue found;
  const auto [first, last] = header.equal_range(name);
  for (auto it = first; it != last; ++it) {
    if (found.count++ == 0) found.value.assign(it->value().data(), it->value().size());
  }
  return found;
}

absl::Status ReadIdentity(const HttpHeader& header, const ServiceParts& parts,
                          CallIdentity* identity) {
  IdentityFields fields;
  fields.authorization = HeaderOf(header, kAuthorizationKey);
  fields.caller_request_id = HeaderOf(header, kCallerRequestIdKey);
  fields.traceparent = HeaderOf(header, kTraceparentKey);
  fields.idempotency_key = HeaderOf(header, kIdempotencyKey);
  const std::string& tenant_header = parts.limits.tenant_header;
  if (!tenant_header.empty()) fields.tenant = HeaderOf(header, tenant_header);
  return ReadIdentity(fields, parts, identity);
}

absl::StatusOr<int64_t> ReadDeadline(const HttpHeader& header, const CallLimits& limits,
                                     const Clock& clock) {
  const MetadataValue timeout = HeaderOf(header, kTimeoutKey);
  if (timeout.count == 0) return clock.NowNs() + limits.deadline_max_ns;
  uint64_t ms = 0;
  if (timeout.count > 1 || !absl::SimpleAtoi(timeout.value, &ms)) {
    return InvalidFields(
        {{kTimeoutKey, "is not one whole number of milliseconds; give one, or leave it out"}});
  }
  if (ms == 0) {
    return RefusalStatus(absl::StatusCode::kDeadlineExceeded,
                         "the call's deadline had passed before it was read; allow more time",
                         Because(reason::kDeadline));
  }
  const uint64_t ms_max = static_cast<uint64_t>(limits.deadline_max_ns / kNsPerMs);
  return clock.NowNs() +
         (ms >= ms_max ? limits.deadline_max_ns : static_cast<int64_t>(ms) * kNsPerMs);
}

void AddIds(const CallIdentity& identity, HttpHeaders* headers) {
  headers->emplace_back(kRequestIdKey, identity.request_id);
  headers->emplace_back(kCallerRequestIdKey, identity.caller_request_id.empty()
                                                 ? identity.request_id
                                                 : identity.caller_request_id);
}

void AddOwnHeaders(const ServiceParts& parts, const CallIdentity& identity, HttpHeaders* headers) {
  AddIds(identity, headers);
  AddRates(StandsOf(parts, identity), headers);
}

}  // namespace tuppence
