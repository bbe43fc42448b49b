// AdmissionControl: the caps on what the server holds at once, counted before any work is done for
// a request: before its prompt is tokenised, one slot and an upper bound of its prompt tokens are
// reserved, globally and for its tenant. A refusal takes constant time.
// Used by the service (Reserve) and, through the hold in each Request, by the engine, which drops
// it when the request ends. Safe on any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "scheduler/mutex.h"

namespace tuppence {

struct AdmissionLimits {
  int64_t requests_max = 4096;
  int64_t prompt_tokens_max = int64_t{4} << 20;
  int64_t tenant_requests_max = 4096;
  int64_t tenant_prompt_tokens_max = int64_t{4} << 20;
  int64_t retry_after_ms = 1000;
};

// One tenant's part of them.
struct TenantLimits {
  int64_t requests_max = 0;
  int64_t prompt_tokens_max = 0;
};

// What is held right now and what was refused since the start.
struct AdmissionSnapshot {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t tenants = 0;
  int64_t refused_global = 0;
  int64_t refused_tenant = 0;
};

// One request's reservation; gives itself back when destroyed. Outlives the AdmissionControl
// safely.
class AdmissionHold {
 public:
  ~AdmissionHold();
  AdmissionHold(const AdmissionHold&) = delete;
  AdmissionHold& operator=(const AdmissionHold&) = delete;

  // Gives the excess back once the prompt is tokenised. Requires: prompt_tokens is not more than
  // what is held (the reservation was an upper bound).
  void Shrink(int64_t prompt_tokens);

 private:
  friend class AdmissionControl;
  struct Books;
  AdmissionHold(std::shared_ptr<Books> books, std::string tenant, int64_t prompt_tokens);

  std::shared_ptr<Books> books_;
  std::string tenant_;
  int64_t prompt_tokens_;
};

class AdmissionControl {
 public:
  explicit AdmissionControl(const AdmissionLimits& limits);

  // Reserves a slot and `prompt_tokens_bound` prompt tokens, or refuses: UNAVAILABLE with reason
  // QUEUE_FULL and a retry time where the server is full, RESOURCE_EXHAUSTED with TENANT_QUEUE_FULL
  // and the tenant where its own share is.
  absl::StatusOr<std::shared_ptr<AdmissionHold>> Reserve(const std::string& tenant,
                                                         int64_t prompt_tokens_bound);

  // Refuses as Reserve does where no slot is free, whatever the request is: so a caller can be told
  // before anybody reads what it asks. Counts as a refusal; takes no lock where there is a slot.
  absl::Status RefuseWhenFull(const std::string& tenant);

  // From now on these tenants have limits of their own, and all others these.
  void SetTenantLimits(absl::flat_hash_map<std::string, TenantLimits> tenants,
                       const TenantLimits& others);

  // Takes no lock: callers and the engine never wait for whoever watches.
  AdmissionSnapshot snapshot() const;
  const AdmissionLimits& limits() const { return limits_; }

 private:
  AdmissionLimits limits_;
  std::shared_ptr<AdmissionHold::Books> books_;
};

}  // namespace tuppence
