#include "service/minute_limits.h"

#include "scheduler/clock.h"
#include "service/tenants.h"

namespace tuppence {

absl::Status TakeOneRequest(const ServiceParts& parts, const CallIdentity& identity) {
  if (parts.rates == nullptr || parts.tenants == nullptr) return absl::OkStatus();
  return parts.rates->Take(identity.tenant, parts.tenants->MinuteOf(identity.tenant), /*tokens=*/0,
                           parts.clock->NowNs());
}

RateStands StandsOf(const ServiceParts& parts, const CallIdentity& identity) {
  if (!identity.known || parts.rates == nullptr || parts.tenants == nullptr) return {};
  return parts.rates->Look(identity.tenant, parts.tenants->MinuteOf(identity.tenant),
                           parts.clock->NowNs());
}

}  // namespace tuppence
