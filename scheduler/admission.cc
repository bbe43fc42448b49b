#include "scheduler/admission.h"

#include <atomic>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "scheduler/refusal.h"

namespace tuppence {

struct Held {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
};

// Shared by the control and its holds, so that a hold may be the last to go. A tenant without holds
// leaves the map: it is as large as the tenants being served, whatever names callers make up.
struct AdmissionHold::Books {
  mutable Mutex mutex;
  Held all ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string, Held> tenants ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<std::string, TenantLimits> tenant_limits ABSL_GUARDED_BY(mutex);
  TenantLimits other_limits ABSL_GUARDED_BY(mutex);

  // Copies for snapshot(), set under the mutex and read without it.
  struct Shown {
    std::atomic<int64_t> requests = 0;
    std::atomic<int64_t> prompt_tokens = 0;
    std::atomic<int64_t> tenants = 0;
    std::atomic<int64_t> refused_global = 0;
    std::atomic<int64_t> refused_tenant = 0;
  } shown;

  // Whether so much would fit, and if not, the refusal, which is counted.
  absl::Status Judge(const AdmissionLimits& limits, const std::string& tenant,
                     int64_t prompt_tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Show() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    shown.requests.store(all.requests, std::memory_order_relaxed);
    shown.prompt_tokens.store(all.prompt_tokens, std::memory_order_relaxed);
    shown.tenants.store(static_cast<int64_t>(tenants.size()), std::memory_order_relaxed);
  }
};

namespace {

// What was found, what is allowed: which of the two caps a reservation would pass.
std::string Overrun(const Held& held, int64_t prompt_tokens, int64_t requests_max,
                    int64_t prompt_tokens_max) {
  if (held.requests + 1 > requests_max) {
    return absl::StrCat(held.requests, " requests are in progress and at most ", requests_max,
                        " are allowed");
  }
  return absl::StrCat(held.prompt_tokens, " prompt tokens are in progress, this request may have ",
                      prompt_tokens, ", and at most ", prompt_tokens_max, " are allowed");
}

Refusal MakeRefusal(const char* reason, const Held& held, int64_t requests_max,
                    int64_t prompt_tokens_max, int64_t retry_after_ms) {
  Refusal refusal;
  refusal.reason = reason;
  refusal.retry_after_ms = retry_after_ms;
  refusal.metadata = {{"requests", absl::StrCat(held.requests)},
                      {"requests_max", absl::StrCat(requests_max)},
                      {"prompt_tokens", absl::StrCat(held.prompt_tokens)},
                      {"prompt_tokens_max", absl::StrCat(prompt_tokens_max)}};
  return refusal;
}

bool Fits(const Held& held, int64_t prompt_tokens, int64_t requests_max,
          int64_t prompt_tokens_max) {
  return held.requests < requests_max && prompt_tokens <= prompt_tokens_max - held.prompt_tokens;
}

}  // namespace

AdmissionHold::AdmissionHold(std::shared_ptr<Books> books, std::string tenant,
                             int64_t prompt_tokens)
    : books_(std::move(books)), tenant_(std::move(tenant)), prompt_tokens_(prompt_tokens) {}

absl::Status AdmissionHold::Books::Judge(const AdmissionLimits& limits, const std::string& tenant,
                                         int64_t prompt_tokens) {
  const auto found = tenants.find(tenant);
  const Held own = found == tenants.end() ? Held{} : found->second;
  const auto named = tenant_limits.find(tenant);
  const TenantLimits& its = named == tenant_limits.end() ? other_limits : named->second;
  // The tenant's own cap first: a caller over its share should hear of that, not of the server's.
  if (!Fits(own, prompt_tokens, its.requests_max, its.prompt_tokens_max)) {
    shown.refused_tenant.fetch_add(1, std::memory_order_relaxed);
    Refusal refusal = MakeRefusal(reason::kTenantQueueFull, own, its.requests_max,
                                  its.prompt_tokens_max, limits.retry_after_ms);
    refusal.tenant = tenant;
    return RefusalStatus(
        absl::StatusCode::kResourceExhausted,
        absl::StrCat("this tenant's queue is full: ",
                     Overrun(own, prompt_tokens, its.requests_max, its.prompt_tokens_max),
                     " for one tenant; wait for some of them to end, or ask for a larger share"),
        refusal);
  }
  if (!Fits(all, prompt_tokens, limits.requests_max, limits.prompt_tokens_max)) {
    shown.refused_global.fetch_add(1, std::memory_order_relaxed);
    return RefusalStatus(
        absl::StatusCode::kUnavailable,
        absl::StrCat("the server's queue is full: ",
                     Overrun(all, prompt_tokens, limits.requests_max, limits.prompt_tokens_max),
                     "; retry in ", limits.retry_after_ms, " ms or send to another replica"),
        MakeRefusal(reason::kQueueFull, all, limits.requests_max, limits.prompt_tokens_max,
                    limits.retry_after_ms));
  }
  return absl::OkStatus();
}

AdmissionHold::~AdmissionHold() {
  MutexLock lock(&books_->mutex);
  books_->all.requests -= 1;
  books_->all.prompt_tokens -= prompt_tokens_;
  const auto tenant = books_->tenants.find(tenant_);
  CHECK(tenant != books_->tenants.end());
  tenant->second.requests -= 1;
  tenant->second.prompt_tokens -= prompt_tokens_;
  if (tenant->second.requests == 0) books_->tenants.erase(tenant);
  books_->Show();
}

void AdmissionHold::Shrink(int64_t prompt_tokens) {
  MutexLock lock(&books_->mutex);
  CHECK_LE(prompt_tokens, prompt_tokens_);
  const int64_t excess = prompt_tokens_ - prompt_tokens;
  books_->all.prompt_tokens -= excess;
  books_->tenants.at(tenant_).prompt_tokens -= excess;
  prompt_tokens_ = prompt_tokens;
  books_->Show();
}

AdmissionControl::AdmissionControl(const AdmissionLimits& limits)
    : limits_(limits), books_(std::make_shared<AdmissionHold::Books>()) {
  SetTenantLimits({}, {limits.tenant_requests_max, limits.tenant_prompt_tokens_max});
}

void AdmissionControl::SetTenantLimits(absl::flat_hash_map<std::string, TenantLimits> tenants,
                                       const TenantLimits& others) {
  MutexLock lock(&books_->mutex);
  books_->tenant_limits = std::move(tenants);
  books_->other_limits = others;
}

absl::StatusOr<std::shared_ptr<AdmissionHold>> AdmissionControl::Reserve(
    const std::string& tenant, int64_t prompt_tokens_bound) {
  CHECK_GE(prompt_tokens_bound, 0);
  MutexLock lock(&books_->mutex);
  if (absl::Status judged = books_->Judge(limits_, tenant, prompt_tokens_bound); !judged.ok())
    return judged;
  for (Held* held : {&books_->all, &books_->tenants[tenant]}) {
    held->requests += 1;
    held->prompt_tokens += prompt_tokens_bound;
  }
  books_->Show();
  return std::shared_ptr<AdmissionHold>(new AdmissionHold(books_, tenant, prompt_tokens_bound));
}

absl::Status AdmissionControl::RefuseWhenFull(const std::string& tenant) {
  if (books_->shown.requests.load(std::memory_order_relaxed) < limits_.requests_max) {
    return absl::OkStatus();
  }
  MutexLock lock(&books_->mutex);
  if (books_->all.requests < limits_.requests_max) return absl::OkStatus();
  return books_->Judge(limits_, tenant, /*prompt_tokens=*/0);
}

AdmissionSnapshot AdmissionControl::snapshot() const {
  const AdmissionHold::Books::Shown& shown = books_->shown;
  return {.requests = shown.requests.load(std::memory_order_relaxed),
          .prompt_tokens = shown.prompt_tokens.load(std::memory_order_relaxed),
          .tenants = shown.tenants.load(std::memory_order_relaxed),
          .refused_global = shown.refused_global.load(std::memory_order_relaxed),
          .refused_tenant = shown.refused_tenant.load(std::memory_order_relaxed)};
}

}  // namespace tuppence
