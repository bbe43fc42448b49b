// TenantRates: what a tenant may ask for in a minute, in requests and in tokens. A budget of one
// minute that fills up evenly: as much may come at once as in a minute, and no window's edge lets
// twice as much through. Tokens are taken by what a request may need (its prompt and max_tokens of
// each choice) and what it did not need goes back when it ends.
// Used by generation and minute_limits. Safe on any thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

// Of one tenant; 0: without limit.
struct MinuteLimits {
  int64_t requests = 0;
  int64_t tokens = 0;
};

// How a tenant stands, as the x-ratelimit headers say it.
struct RateStand {
  int64_t limit = 0;  // 0: there is none, and the others mean nothing
  int64_t remaining = 0;
  int64_t full_in_ms = 0;
};
struct RateStands {
  RateStand requests;
  RateStand tokens;
};

class TenantRates {
 public:
  // Takes one request and so many tokens, or nothing: RESOURCE_EXHAUSTED with the tenant and when
  // there will be room.
  absl::Status Take(const std::string& tenant, const MinuteLimits& limits, int64_t tokens,
                    int64_t now_ns);
  RateStands Look(const std::string& tenant, const MinuteLimits& limits, int64_t now_ns) const;
  // Tokens that were taken and not needed.
  void GiveBack(const std::string& tenant, const MinuteLimits& limits, int64_t tokens);

 private:
  // When each of the two budgets is full again; a moment that has passed: it is.
  struct Filling {
    int64_t requests_full_ns = 0;
    int64_t tokens_full_ns = 0;
  };
  void ForgetTheFull(int64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Filling> tenants_ ABSL_GUARDED_BY(mutex_);
  size_t forget_at_ ABSL_GUARDED_BY(mutex_) = 1024;
};

}  // namespace tuppence
