#include "service/tenant_rates.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "scheduler/refusal.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

constexpr int64_t kMinuteNs = 60'000'000'000;
constexpr int64_t kNsPerMs = 1'000'000;

// How long the budget takes to make up for so many. Rounded up: never more than the limit.
int64_t NsFor(int64_t count, int64_t limit) {
  return static_cast<int64_t>((static_cast<__int128>(count) * kMinuteNs + limit - 1) / limit);
}

RateStand StandOf(int64_t limit, int64_t full_ns, int64_t now_ns) {
  if (limit == 0) return {};
  const int64_t missing_ns = std::clamp<int64_t>(full_ns - now_ns, 0, kMinuteNs);
  return {.limit = limit,
          .remaining = static_cast<int64_t>(static_cast<__int128>(kMinuteNs - missing_ns) * limit /
                                            kMinuteNs),
          .full_in_ms = (missing_ns + kNsPerMs - 1) / kNsPerMs};
}

absl::Status TooMany(const std::string& tenant, const char* what, int64_t count, int64_t limit,
                     int64_t late_ns) {
  Refusal refusal = Because(
      reason::kRateLimit,
      {{absl::StrCat(what, "_per_minute_max"), absl::StrCat(limit)}, {what, absl::StrCat(count)}});
  refusal.tenant = tenant;
  const std::string found =
      absl::StrCat("this tenant may ask for ", limit, " ", what, " in a minute");
  if (count > limit) {
    return RefusalStatus(absl::StatusCode::kResourceExhausted,
                         absl::StrCat(found, ", and this request alone may need ", count,
                                      "; shorten the prompt or lower max_tokens"),
                         refusal);
  }
  refusal.retry_after_ms = (late_ns + kNsPerMs - 1) / kNsPerMs;
  return RefusalStatus(absl::StatusCode::kResourceExhausted,
                       absl::StrCat(found, " and has used them up; retry in ",
                                    refusal.retry_after_ms, " ms, or ask for a higher limit"),
                       refusal);
}

}  // namespace

absl::Status TenantRates::Take(const std::string& tenant, const MinuteLimits& limits,
                               int64_t tokens, int64_t now_ns) {
  if (limits.requests == 0 && limits.tokens == 0) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  if (tenants_.size() >= forget_at_) ForgetTheFull(now_ns);
  Filling& filling = tenants_[tenant];
  Filling after = {std::max(filling.requests_full_ns, now_ns),
                   std::max(filling.tokens_full_ns, now_ns)};
  if (limits.requests > 0) after.requests_full_ns += NsFor(1, limits.requests);
  if (limits.tokens > 0) after.tokens_full_ns += NsFor(tokens, limits.tokens);
  const int64_t requests_late_ns = after.requests_full_ns - now_ns - kMinuteNs;
  const int64_t tokens_late_ns = after.tokens_full_ns - now_ns - kMinuteNs;
  if (limits.requests > 0 && requests_late_ns > 0) {
    return TooMany(tenant, "requests", 1, limits.requests, requests_late_ns);
  }
  if (limits.tokens > 0 && (tokens > limits.tokens || tokens_late_ns > 0)) {
    return TooMany(tenant, "tokens", tokens, limits.tokens, tokens_late_ns);
  }
  filling = after;
  return absl::OkStatus();
}

RateStands TenantRates::Look(const std::string& tenant, const MinuteLimits& limits,
                             int64_t now_ns) const {
  if (limits.requests == 0 && limits.tokens == 0) return {};
  absl::MutexLock lock(&mutex_);
  const auto found = tenants_.find(tenant);
  const Filling filling = found == tenants_.end() ? Filling{} : found->second;
  return {.requests = StandOf(limits.requests, filling.requests_full_ns, now_ns),
          .tokens = StandOf(limits.tokens, filling.tokens_full_ns, now_ns)};
}

void TenantRates::GiveBack(const std::string& tenant, const MinuteLimits& limits, int64_t tokens) {
  if (limits.tokens == 0 || tokens <= 0) return;
  absl::MutexLock lock(&mutex_);
  const auto found = tenants_.find(tenant);
  if (found != tenants_.end()) found->second.tokens_full_ns -= NsFor(tokens, limits.tokens);
}

// A tenant that is not remembered has full budgets: the map is as large as the tenants that used
// theirs in the last minute, whatever names callers make up.
void TenantRates::ForgetTheFull(int64_t now_ns) {
  absl::erase_if(tenants_, [now_ns](const auto& entry) {
    return entry.second.requests_full_ns <= now_ns && entry.second.tokens_full_ns <= now_ns;
  });
  forget_at_ = std::max<size_t>(1024, 2 * tenants_.size());
}

}  // namespace tuppence
